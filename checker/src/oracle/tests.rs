use super::*;
use crate::testing::{self, ledger};

/// Scores are a write's number over 8, near is low; filter 1 passes odd writes.
fn problems(text: &str) -> String {
    problems_with(text, Tolerance::default(), |_| {})
}

fn problems_with(text: &str, tolerance: Tolerance, change: impl Fn(&mut Search)) -> String {
    let mut operations = testing::history(text);
    for operation in &mut operations {
        if let Call::Search(search) = &mut operation.call {
            change(search);
        }
    }
    let score = |_: u64, _: &PointId, write| testing::score(write);
    let passes = |_: u64, _: &PointId, write: Write| write.0 % 2 == 1;
    let rules = SearchRules { metric: Metric::Euclidean, score: &score, passes: &passes, tolerance };
    let report = check(&Ledger::new(operations, None).expect(text), &rules);
    assert_eq!(report.is_pass(), report.wrong.shown.is_empty());
    // Only what is wrong, without the lines that name the search.
    report.wrong.shown.iter().flat_map(|shown| shown.lines().skip(2)).map(str::trim).collect::<Vec<_>>().join("; ")
}

#[test]
fn hits_right_and_wrong() {
    for (name, text, want) in [
        ("right", "put 1=1,2=2,3=3 @0-5; find 1=1,2=2 @6-9", ""),
        ("any hits are right if not exact", "put 1=1,2=2,3=3 @0-5; find 2=2,3=3 @6-9", ""),
        ("out of order", "put 1=1,2=2 @0-5; find 2=2,1=1 @6-9", "point 2 (0.25) comes before point 1 (0.125)"),
        ("ties by id", "put 1=1,2=1 @0-5; find 1=1,2=1 @6-9", ""),
        ("ties not by id", "put 1=1,2=1 @0-5; find 2=1,1=1 @6-9", "point 2 (0.125) comes before point 1 (0.125)"),
        ("twice", "put 1=1 @0-5; find 1=1,1=1 @6-9", "point 1 is a hit twice"),
        ("too many", "put 1=1,2=2 @0-5; find 1=1,2=2 @6-9 k=1", "2 hits, 1 were asked for"),
        (
            "deleted",
            "put 1=1 @0-3; del 1 @4-5; find 1=1 @6-9",
            "point 1 with write 1 was not there between 0.000000006 s and 0.000000009 s",
        ),
        ("deleted meanwhile", "put 1=1 @0-3; del 1 @4-7; find 1=1 @6-9", ""),
        (
            "replaced",
            "put 1=1 @0-3; put 1=2 @4-5; find 1=1 @6-9",
            "point 1 with write 1 was not there between 0.000000006 s and 0.000000009 s",
        ),
        ("replaced, eventual", "put 1=1 @0-3; put 1=2 @4-5; find 1=1 @6-9 ~1", ""),
        ("phantom", "find 1=1 @6-9", "point 1 with write 1 is a phantom: nobody wrote it, or its write failed"),
        (
            "not yet",
            "find 1=1 @6-9; put 1=1 @10-11",
            "point 1 with write 1 was not there between 0.000000006 s and 0.000000009 s",
        ),
        ("filtered", "put 1=1,2=3 @0-5; find 1=1,2=3 @6-9 filter=1", ""),
        (
            "not filtered",
            "put 1=1,2=2 @0-5; find 1=1,2=2 @6-9 filter=1",
            "point 2 with write 2 does not pass the filter",
        ),
        ("unanswered", "find 1=1 @6-9!", ""),
    ] {
        assert_eq!(problems(text), want, "{name}");
    }
}

#[test]
fn exact_answers_lack_nothing() {
    let missing = "point 1 with write 1 and a score of 0.125 is missing";
    for (name, text, want) in [
        ("right", "put 1=1,2=2,3=3 @0-5; find 1=1,2=2 @6-9 exact", ""),
        ("the nearest is missing", "put 1=1,2=2,3=3 @0-5; find 2=2,3=3 @6-9 exact", missing),
        ("it may have been written later", "put 1=1 @0-7; put 2=2 @0-5; find 2=2 @6-9 exact", ""),
        ("it may be deleted", "put 1=1 @0-3; put 2=2 @0-5; del 1 @7-?; find 2=2 @6-9 exact", ""),
        ("it was farther before", "put 1=7 @0-3; put 2=2 @0-5; put 1=1 @7-8; find 2=2 @6-9 exact", ""),
        ("it may be farther meanwhile", "put 1=1 @0-3; put 2=2 @0-5; put 1=7 @7-?; find 2=2 @6-9 exact", ""),
        ("it is nearer now", "put 1=7 @0-1; put 1=1 @2-3; put 2=2 @0-5; find 2=2 @6-9 exact", missing),
        ("a tie that should come first", "put 1=1,2=1 @0-5; find 2=1 @6-9 exact", missing),
        ("a tie that comes later", "put 1=1,2=1 @0-5; find 1=1 @6-9 exact", ""),
        ("fewer than k", "put 1=1,2=2 @0-5; find 2=2 @6-9 k=2 exact", missing),
        ("fewer than k, and no more there", "put 1=1,2=2 @0-5; find 1=1,2=2 @6-9 k=9 exact", ""),
        ("fewer than k, the other filtered", "put 2=1,1=2 @0-5; find 2=1 @6-9 k=9 exact filter=1", ""),
        ("none of one", "put 1=1 @0-5; find none @6-9 k=1 exact", missing),
        ("none asked for", "put 1=1 @0-5; find none @6-9 k=0 exact", ""),
        ("own write", "put 1=1 @0-5 c1; put 2=2 @0-5; find 2=2 @6-9 exact c1 own", missing),
        ("another's write", "put 1=1 @0-5 c1; put 2=2 @0-5; find 2=2 @6-9 exact c2 own", ""),
    ] {
        assert_eq!(problems(text), want, "{name}");
    }
}

#[test]
fn scores_are_compared_bit_by_bit_unless_told_otherwise() {
    let text = "put 1=8 @0-5; put 2=9 @0-5; find 1=8 @6-9 exact";
    let nudge = |search: &mut Search| search.hits[0].score = f32::from_bits(search.hits[0].score.to_bits() + 1);
    assert_eq!(
        problems_with(text, Tolerance::default(), nudge),
        "point 1 with write 8 has a score of 1.0000001, and should have 1"
    );
    let near = Tolerance { absolute: 0.0, relative: 1e-6 };
    assert_eq!(problems_with(text, near, nudge), "");
    let far = |search: &mut Search| search.hits[0].score = 1.1;
    assert!(!problems_with(text, near, far).is_empty());
    let negative_zero = |search: &mut Search| search.hits[0].score = -0.0;
    assert!(!problems_with("put 1=0 @0-5; find 1=0 @6-9", Tolerance::default(), negative_zero).is_empty());
}

#[test]
fn higher_is_nearer_where_the_metric_says_so() {
    let ledger = ledger("put 1=1,2=2 @0-5; find 2=2 @6-9 exact; find 1=1 @6-9 exact");
    let score = |_: u64, _: &PointId, write| testing::score(write);
    let passes = |_: u64, _: &PointId, _: Write| true;
    let rules = SearchRules { metric: Metric::Dot, score: &score, passes: &passes, tolerance: Tolerance::default() };
    let report = check(&ledger, &rules);
    assert_eq!((report.searches, report.exact, report.hits, report.wrong.total), (2, 2, 2, 1));
    assert!(report.wrong.shown[0].starts_with("exact search of query 0 for 1 is wrong"));
}
