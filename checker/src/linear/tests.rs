use super::*;
use crate::testing::{history, ledger};

/// How many points are not linearizable, stale, phantom.
fn totals(report: &LinearReport) -> (u64, u64, u64) {
    (report.non_linearizable.total, report.stale.total, report.phantom.total)
}

#[test]
fn histories_right_and_wrong() {
    for (name, text, want) in [
        ("nothing", "", (0, 0, 0)),
        ("two points", "put 1=1 @0-5; put 2=2 @0-5; get 1=1,2=2 @6-9", (0, 0, 0)),
        ("a batch is not atomic", "put 1=1,2=2 @0-9; get 1=1,2=- @1-2; get 1=1,2=2 @20-21", (0, 0, 0)),
        ("both points wrong", "put 1=1,2=2 @0-9; get 1=-,2=- @10-12", (2, 0, 0)),
        ("a failed write", "put 1=1 @0-9!; get 1=- @10-12", (0, 0, 0)),
        ("a failed write seen", "put 1=1 @0-9!; get 1=1 @10-12", (0, 0, 1)),
        ("a lost answer", "put 1=1 @0-?; get 1=- @10-12; get 1=1 @90-95", (0, 0, 0)),
        ("a failed read says nothing", "put 1=1 @0-5; get 1=- @6-9!", (0, 0, 0)),
        ("an unknown read says nothing", "put 1=1 @0-5; get 1=- @6-?", (0, 0, 0)),
        ("a scroll sees", "put 1=1 @0-5; put 1=2 @6-8; scroll 1=1 @9-12", (1, 0, 0)),
        ("a scroll misses", "put 1=1 @0-5; scroll none @9-12", (1, 0, 0)),
        ("a scroll is not one moment", "put 1=1,2=2 @10-20; scroll 2=2 @5-30", (0, 0, 0)),
        ("a hit sees", "put 1=1 @0-5; del 1 @6-8; find 1=1 @9-12", (1, 0, 0)),
        ("phantom", "get 1=1 @0-5", (0, 0, 1)),
        ("too early", "get 1=1 @0-5; put 1=1 @6-9", (0, 0, 1)),
    ] {
        assert_eq!(totals(&check(&ledger(text))), want, "{name}");
    }
}

#[test]
fn levels_and_tokens() {
    let stale = (0, 1, 0);
    for (name, text, want) in [
        ("eventual, within the bound", "put 1=1 @0-5; put 1=2 @10-12; get 1=1 @20-25 ~9", (0, 0, 0)),
        ("eventual, beyond it", "put 1=1 @0-5; put 1=2 @10-12; get 1=1 @20-25 ~7", stale),
        ("own write", "put 1=1 @0-5 c1; get 1=- @6-9 c1 own", stale),
        ("another's write", "put 1=1 @0-5 c1; get 1=- @6-9 c2 own", (0, 0, 0)),
        ("another's token", "put 1=1 @0-5 c1; get 1=- @6-9 c2 after=1", stale),
        ("no token", "put 1=1 @0-5 c1; get 1=- @6-9 c1 after=", (0, 0, 0)),
        ("own delete", "put 1=1 @0-3; del 1 @4-5 c1; get 1=1 @6-9 c1 own", stale),
        ("later than the token", "put 1=1 @0-3 c1; put 1=2 @4-5; get 1=2 @6-9 c1 own", (0, 0, 0)),
        ("monotonic", "put 1=1 @0-3; put 1=2 @4-5; get 1=2 @6-7 c1 own; get 1=1 @8-9 c1 own", stale),
        ("after a scroll", "put 1=1 @0-3; scroll 1=1 @4-7 c1; get 1=- @8-9 c1 own", stale),
        ("a scroll that missed it", "put 1=1 @0-3; del 1 @4-5; scroll none @6-7 c1; get 1=1 @8-9 c1 own", stale),
        ("after a hit", "put 1=1 @0-3; find 1=1 @4-7 c1; get 1=- @8-9 c1 own", stale),
        (
            "beyond a read that looked back",
            "put 1=1 @0-3 c1; get 1=1 @4-5 c1 ~9; get 1=- @6-7 c1 ~9; get 1=- @8-9 c1 own",
            stale,
        ),
        ("in the same nanosecond", "put 1=1 @0-5 c1; get 1=- @5-5 c1 own", stale),
        (
            "one order for all",
            "put 1=1 @0-9; put 1=2 @0-9; get 1=1 @10-11 c1; get 1=2 @12-13 c1 own; get 1=1 @14-15",
            stale,
        ),
    ] {
        assert_eq!(totals(&check(&ledger(text))), want, "{name}");
    }
}

#[test]
fn tokens_reach_other_points_of_the_shard() {
    let text = "put 1=1 @0-5; put 2=2 @10-15 c1; get 1=- @20-25 c1 own";
    assert!(check(&ledger(text)).is_pass(), "another shard");
    let together = |text| check(&Ledger::new(history(text), Some(&|_| 0)).expect(text));
    assert_eq!(totals(&together(text)), (0, 1, 0), "the same shard");
    let through = "put 1=1 @0-5; put 2=2 @10-15; get 1=- @20-25 after=2";
    assert_eq!(totals(&together(through)), (0, 1, 0), "by another's token");
    let concurrent = "put 1=1 @0-12; put 2=2 @10-15 c1; get 1=- @20-25 c1 own";
    assert!(together(concurrent).is_pass(), "the write may be later in the log than the token");
    let looked_back = "put 1=1 @0-5; put 2=2 @10-15; get 2=2 @20-21 c1 ~30; get 1=- @22-25 c1 own";
    assert!(together(looked_back).is_pass(), "what was seen may be older than what was written first");
}

#[test]
fn a_contradiction_is_cut_down_and_told() {
    let noise = "put 1=5 @100-110; get 1=5 @120-130; del 1 @140-150; get 1=- @160-170; put 2=9 @0-1000;";
    let wrong =
        "put 1=17 @200-300 c3; put 1=18 @400-500 c4; get 1=18 @510-520; put 1=19 @600-?; get 1=17 @1000-1100 c5";
    let report = check(&ledger(&format!("{noise}{wrong}")));
    assert_eq!(totals(&report), (1, 0, 0));
    assert_eq!(
        report.non_linearizable.shown[0],
        "\
point 1: no order of these 3 operations explains what was read (of 9 on it, these are enough):
    operation 6: client 3 upserted write 17; invoked at 0.000000200 s, answered at 0.000000300 s
    operation 7: client 4 upserted write 18; invoked at 0.000000400 s, answered at 0.000000500 s
    operation 10: client 5 read write 17; invoked at 0.000001000 s, answered at 0.000001100 s
                           0.000000200 s ... 0.000001100 s
    6 upsert 17            |-----|
    7 upsert 18                         |-----|
    10 read 17                                                                 |------|
    without operation 10 they have an order, at whose end the point holds write 18"
    );
}

#[test]
fn every_finding_is_counted_and_the_first_are_told() {
    let lost: String = (0..30).map(|id| format!("put {id}=1 @0-1; get {id}=- @5-6;")).collect();
    let report = check(&ledger(&lost));
    assert_eq!((report.non_linearizable.total, report.non_linearizable.shown.len()), (30, 10));
    assert!(report.non_linearizable.to_string().ends_with("and 20 more\n"));
}
