use super::*;
use crate::testing::ledger;

/// Lost, resurrected, stale, phantom, duplicated, miscounted.
fn totals(text: &str) -> [u64; 6] {
    let report = check(&ledger(text));
    let SetReport { comparisons: _, lost, resurrected, stale, phantom, duplicated, miscounted } = &report;
    let totals = [lost, resurrected, stale, phantom, duplicated, miscounted].map(|found| found.total);
    assert_eq!(report.is_pass(), totals == [0; 6]);
    totals
}

#[test]
fn scrolls_right_and_wrong() {
    const FINE: [u64; 6] = [0; 6];
    const LOST: [u64; 6] = [1, 0, 0, 0, 0, 0];
    const RESURRECTED: [u64; 6] = [0, 1, 0, 0, 0, 0];
    const STALE: [u64; 6] = [0, 0, 1, 0, 0, 0];
    const PHANTOM: [u64; 6] = [0, 0, 0, 1, 0, 0];
    for (name, text, want) in [
        ("there", "put 1=1,2=2 @0-5; scroll 1=1,2=2 @6-9", FINE),
        ("one lost", "put 1=1,2=2 @0-5; scroll 1=1 @6-9", LOST),
        ("written during the scroll", "put 1=1 @0-7; scroll none @6-9", FINE),
        ("unknown write", "put 1=1 @0-?; scroll none @6-9", FINE),
        ("unknown write that was seen", "put 1=1 @0-?; get 1=1 @3-5; scroll none @6-9", LOST),
        ("failed write", "put 1=1 @0-3!; scroll none @6-9", FINE),
        ("deleted", "put 1=1 @0-2; del 1 @3-5; scroll none @6-9", FINE),
        ("deleted during the scroll", "put 1=1 @0-2; del 1 @8-20; scroll none @6-9", FINE),
        ("deleted after it", "put 1=1 @0-2; del 1 @10-20; scroll none @6-9", LOST),
        ("unknown delete", "put 1=1 @0-2; del 1 @3-?; scroll none @6-9", FINE),
        ("unknown delete long before", "del 1 @0-?; put 1=1 @2-3; scroll none @6-9", FINE),
        ("failed delete", "put 1=1 @0-2; del 1 @3-5!; scroll none @6-9", LOST),
        ("delete before the write", "del 1 @0-1; put 1=1 @2-3; scroll none @6-9", LOST),
        ("delete beside the write", "del 1 @0-4; put 1=1 @2-3; scroll none @6-9", FINE),
        ("replaced and then lost", "put 1=1 @0-1; put 1=2 @2-3; scroll none @6-9", LOST),
        ("resurrected", "put 1=1 @0-1; del 1 @2-3; scroll 1=1 @6-9", RESURRECTED),
        ("delete beside the write, there", "put 1=1 @0-3; del 1 @2-3; scroll 1=1 @6-9", FINE),
        ("delete during the scroll, there", "put 1=1 @0-1; del 1 @2-7; scroll 1=1 @6-9", FINE),
        ("unknown delete, there", "put 1=1 @0-1; del 1 @2-?; scroll 1=1 @6-9", FINE),
        ("unknown write, there", "put 1=1 @0-?; del 1 @2-3; scroll 1=1 @6-9", FINE),
        (
            "unknown write seen before the delete",
            "put 1=1 @0-?; get 1=1 @1-1; del 1 @2-3; scroll 1=1 @6-9",
            RESURRECTED,
        ),
        ("another write may be there", "put 1=1 @0-1; del 1 @2-3; put 1=2 @4-?; scroll 1=1 @6-9", STALE),
        ("stale", "put 1=1 @0-1; put 1=2 @2-3; scroll 1=1 @6-9", STALE),
        ("replaced during the scroll", "put 1=1 @0-1; put 1=2 @2-7; scroll 1=1 @6-9", FINE),
        ("phantom", "scroll 1=1 @6-9", PHANTOM),
        ("phantom value", "put 1=1 @0-1; scroll 1=7 @6-9", PHANTOM),
        ("failed and there", "put 1=1 @0-1!; scroll 1=1 @6-9", PHANTOM),
        ("not yet written", "scroll 1=1 @6-9; put 1=1 @10-11", PHANTOM),
        ("twice", "put 1=1,2=2 @0-1; scroll 1=1,2=2,1=1 @6-9", [0, 0, 0, 0, 1, 0]),
        ("unanswered", "put 1=1 @0-1; scroll none @6-?", FINE),
        ("eventual", "put 1=1 @0-3; scroll none @6-9 ~3", FINE),
        ("eventual, out of bound", "put 1=1 @0-3; scroll none @6-9 ~2", LOST),
        ("own write", "put 1=1 @0-3 c1; scroll none @6-9 c1 own", LOST),
        ("another's", "put 1=1 @0-3 c1; scroll none @6-9 c2 own", FINE),
        ("what was seen before", "put 1=1 @0-3; get 1=1 @4-5 c1 own; scroll none @6-9 c1 own", LOST),
        ("own delete", "put 1=1 @0-1; del 1 @2-3 c1; scroll 1=1 @6-9 c1 own", RESURRECTED),
    ] {
        assert_eq!(totals(text), want, "{name}");
    }
}

#[test]
fn counts_right_and_wrong() {
    for (name, text, is_right) in [
        ("none", "count 0 @6-9", true),
        ("all", "put 1=1,2=2 @0-5; count 2 @6-9", true),
        ("too few", "put 1=1,2=2 @0-5; count 1 @6-9", false),
        ("too many", "put 1=1,2=2 @0-5; count 3 @6-9", false),
        ("one unknown, without", "put 1=1 @0-5; put 2=2 @0-?; count 1 @6-9", true),
        ("one unknown, with", "put 1=1 @0-5; put 2=2 @0-?; count 2 @6-9", true),
        ("one being deleted", "put 1=1 @0-5; del 1 @6-7; count 0 @6-9", true),
        ("written later", "count 1 @6-9; put 1=1 @10-11", false),
        ("replaced", "put 1=1 @0-1; put 1=2 @2-3; count 2 @6-9", false),
        ("eventual", "put 1=1 @0-3; count 0 @6-9 ~3", true),
        ("unanswered", "put 1=1 @0-3; count 7 @6-9!", true),
    ] {
        assert_eq!(totals(text)[5] == 0, is_right, "{name}");
    }
}

#[test]
fn a_finding_names_point_scroll_and_reason() {
    let report = check(&ledger("put 1=1,2=2 @0-5 c1; scroll 1=1 @6-9 c2"));
    assert_eq!(
        report.lost.shown,
        ["point 2 is lost: written, not deleted since, and not in the scroll
    operation 2: client 2 called scroll; invoked at 0.000000006 s, answered at 0.000000009 s
    before it: operation 1: client 1 called upsert; invoked at 0.000000000 s, answered at 0.000000005 s"]
    );
}
