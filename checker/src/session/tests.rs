use super::*;
use crate::ledger::Ledger;
use crate::testing::ledger;
use shoal_model::PointId;

fn first_point(ledger: &Ledger) -> Key {
    ledger.ids.iter().position(|id| *id == PointId::Number(1)).expect("it is in every history here")
}

#[test]
fn a_read_looks_back_as_far_as_its_level_says() {
    for (name, text, want) in [
        ("linearizable", "get 1=- @20-25", 20),
        ("eventual", "get 1=- @20-25 ~7", 13),
        ("eventual, before the start", "get 1=- @20-25 ~70", 0),
        ("session without a past", "get 1=- @20-25 own", 0),
        ("own write", "put 1=1 @3-5 c1; get 1=- @20-25 c1 own", 3),
        ("own linearizable read", "put 1=1 @3-5 c1; get 1=1 @7-8 c1; get 1=- @20-25 c1 own", 7),
        ("own eventual read", "put 1=1 @3-5; get 1=1 @9-9 c1 ~4; get 1=- @20-25 c1 own", 5),
        ("own read of a session", "put 1=1 @3-5 c1; get 1=1 @7-8 c1 own; get 1=- @20-25 c1 own", 3),
        ("another point", "put 2=1 @3-5 c1; get 1=- @20-25 c1 own", 0),
        ("a count goes everywhere", "count 0 @3-5 c1; get 1=- @20-25 c1 own", 3),
        ("not yet completed", "put 1=1 @3-21 c1; get 1=- @20-25 c1 own", 0),
        ("by another's token", "put 1=1 @3-5; get 1=- @20-25 after=1", 3),
        ("a failed write has no token", "put 1=1 @3-5! c1; get 1=- @20-25 c1 own", 0),
    ] {
        let ledger = ledger(text);
        let (read, key) = (ledger.operations.len() - 1, first_point(&ledger));
        assert_eq!(ledger.sessions.earliest_ns(&ledger.operations, key, read), want, "{name}");
    }
}

#[test]
fn the_last_of_the_own_operations_stands_for_those_before() {
    for (name, text, want) in [
        ("nothing", "get 1=- @20-25 c1 own", &[][..]),
        ("the last write", "put 1=1 @0-1 c1; put 1=2 @2-3 c1; get 1=- @20-25 c1 own", &[1]),
        ("through a read that looked back", "put 1=1 @0-1 c1; get 1=1 @2-3 c1 ~9; get 1=- @20-25 c1 own", &[0, 1]),
        ("a scroll besides", "put 1=1 @0-1 c1; scroll none @2-3 c1; get 1=- @20-25 c1 own", &[0, 1]),
        ("what is listed", "put 1=1 @0-1; put 2=2 @0-1; get 1=- @20-25 after=1+2", &[0]),
    ] {
        let ledger = ledger(text);
        let (read, key) = (ledger.operations.len() - 1, first_point(&ledger));
        let covered = ledger.sessions.covered(&ledger.operations, &ledger.touches[key], key, read);
        assert_eq!(covered, want, "{name}");
    }
}
