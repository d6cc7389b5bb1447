use super::*;
use crate::testing::{history, ledger};

#[test]
fn histories_that_break_the_rules_are_refused() {
    for (name, text, want) in [
        ("time", "put 1=1 @9-3", "operation 1: returns before it is invoked"),
        ("twice in a batch", "put 1=1,1=2 @0-3", "operation 1: names point 1 twice"),
        ("a write twice", "put 1=1 @0-3; put 1=1 @5-6", "operation 2: writes 1 to point 1, as another operation does"),
        (
            "a failed write, too",
            "put 1=1 @0-3!; put 1=1 @5-6",
            "operation 2: writes 1 to point 1, as another operation does",
        ),
        (
            "a token of what is not done",
            "put 1=1 @0-9; get 1=1 @5-9 after=1",
            "operation 2: its token covers operation 1, which had not completed before",
        ),
        (
            "a token of what failed",
            "put 1=1 @0-3!; get 1=- @5-9 after=1",
            "operation 2: its token covers operation 1, which had not completed before",
        ),
        (
            "a token of nothing",
            "get 1=- @5-9 after=7",
            "operation 1: its token covers operation 7, which had not completed before",
        ),
    ] {
        let error = Ledger::new(history(text), None).expect_err(name);
        assert_eq!(error.to_string(), want, "{name}");
    }
    let mut operations = history("put 1=1 @0-3; put 1=2 @0-3");
    operations[1].number = operations[0].number;
    assert!(Ledger::new(operations, None).is_err(), "a number twice");
    let mut operations = history("put 1=1 @0-3");
    operations[0].return_ns = None;
    assert!(Ledger::new(operations, None).is_err(), "acknowledged without a time");
}

#[test]
fn equal_writes_of_different_points_are_fine() {
    assert!(Ledger::new(history("put 1=1,2=1 @0-3; del 1,2 @5-6"), None).is_ok());
}

#[test]
fn touches_are_sorted_by_point() {
    let ledger = ledger("put 1=1,2=2 @0-3; get 1=1 @5-6; get 2=2 @5-?; scroll 2=2,2=2 @7-8; scroll 1=1 @7-9");
    let touch = |place, what| Touch { place, what };
    let one = Some(Write(1));
    assert_eq!(ledger.touches[0], [touch(0, What::Wrote(one)), touch(1, What::Saw(one)), touch(4, What::Saw(one))]);
    // An unanswered read says nothing; a scroll that shows a point twice saw it once.
    assert_eq!(ledger.touches[1], [touch(0, What::Wrote(Some(Write(2)))), touch(3, What::Saw(Some(Write(2))))]);
    assert_eq!(ledger.scrolls_without(0).collect::<Vec<_>>(), [3]);
}
