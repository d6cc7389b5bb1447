use super::*;
use proptest::prelude::*;

const W: fn(u64) -> Action = |write| Action::Write(Write(write));
const R: fn(u64) -> Action = |write| Action::Read(Some(Write(write)));
const MISSING: Action = Action::Read(None);
const D: Action = Action::Delete;

/// Events with their times, numbered in order; an end of 0 stands for an unknown outcome.
fn events(list: &[(Action, u64, u64)]) -> Vec<Event> {
    let event = |(place, (action, start, end)): (usize, &(Action, u64, u64))| Event {
        place,
        action: *action,
        start: *start,
        end: if *end == 0 { FOREVER } else { *end },
        after: Vec::new(),
    };
    list.iter().enumerate().map(event).collect()
}

#[test]
fn registers_right_and_wrong() {
    let no_order = Err(Broken::NoOrder);
    let holds = |write| Ok(Some(Write(write)));
    for (name, list, want) in [
        ("nothing", &[][..], Ok(None)),
        ("missing at first", &[(MISSING, 0, 5)], Ok(None)),
        ("read what was written", &[(W(1), 0, 5), (R(1), 6, 9)], holds(1)),
        ("missing after a write", &[(W(1), 0, 5), (MISSING, 6, 9)], no_order),
        ("missing during a write", &[(W(1), 0, 5), (MISSING, 5, 9)], holds(1)),
        ("stale", &[(W(1), 0, 5), (W(2), 6, 9), (R(1), 10, 12)], no_order),
        ("both orders of concurrent writes", &[(W(1), 0, 9), (W(2), 0, 9), (R(1), 10, 12)], holds(1)),
        ("but not both", &[(W(1), 0, 9), (W(2), 0, 9), (R(1), 10, 12), (R(2), 10, 12)], no_order),
        ("back and forth", &[(W(1), 0, 30), (W(2), 0, 30), (R(1), 1, 2), (R(2), 3, 4), (R(1), 5, 6)], no_order),
        ("deleted", &[(W(1), 0, 5), (D, 6, 9), (MISSING, 10, 12)], Ok(None)),
        ("resurrected", &[(W(1), 0, 5), (D, 6, 9), (R(1), 10, 12)], no_order),
        ("an unknown write never seen", &[(W(1), 0, 0), (MISSING, 9, 12)], Ok(None)),
        ("an unknown write seen late", &[(W(1), 0, 0), (MISSING, 9, 12), (R(1), 50, 60)], holds(1)),
        ("and not again", &[(W(1), 0, 0), (R(1), 5, 6), (MISSING, 9, 12)], no_order),
        ("an unknown delete", &[(W(1), 0, 2), (D, 3, 0), (R(1), 9, 12), (MISSING, 20, 21)], Ok(None)),
        ("used once", &[(W(1), 0, 2), (D, 3, 0), (MISSING, 9, 12), (W(2), 13, 14), (MISSING, 20, 21)], no_order),
        (
            "two of them",
            &[(D, 0, 0), (W(1), 0, 2), (D, 3, 0), (MISSING, 9, 12), (W(2), 13, 14), (MISSING, 20, 21)],
            Ok(None),
        ),
        ("a delete saved for later", &[(D, 0, 9), (W(1), 0, 3), (MISSING, 4, 6)], Ok(None)),
        ("never written", &[(R(7), 0, 3)], Err(Broken::NeverWritten { read: 0 })),
        ("too early", &[(R(7), 0, 3), (W(7), 4, 5)], Err(Broken::ReadBeforeWrite { read: 0, write: 1 })),
        ("a block cut by a missing-read", &[(W(1), 0, 3), (MISSING, 4, 5), (R(1), 6, 7)], no_order),
    ] {
        assert_eq!(check(&events(list)), want, "{name}");
    }
}

#[test]
fn tokens_order_what_time_does_not() {
    // The read may look back to 0; the token decides whether it may overlook the write.
    let mut list = events(&[(W(1), 0, 5), (W(2), 6, 8), (R(1), 0, 20)]);
    assert_eq!(check(&list), Ok(Some(Write(2))));
    list[2].after = vec![1];
    assert_eq!(check(&list), Err(Broken::NoOrder));
    let mut list = events(&[(W(1), 0, 5), (D, 6, 8), (R(1), 0, 20), (D, 6, 9), (W(2), 10, 11), (MISSING, 0, 30)]);
    list[5].after = vec![4];
    assert_eq!(check(&list), Err(Broken::NoOrder), "no delete is left for after the second write");
}

/// The delete that ended first would be spent too early here: the other one is what a token asks for first.
#[test]
fn deletes_that_do_not_compare_are_both_tried() {
    let mut list = events(&[(W(1), 0, 9), (D, 0, 10), (D, 0, 12), (MISSING, 11, 12), (MISSING, 0, 14), (R(1), 0, 16)]);
    list[4].after = vec![2];
    list[5].after = vec![4];
    assert_eq!(check(&list), Ok(None));
    assert!(has_order(&list));
}

/// Every order, one after the other: slow, and too simple to be wrong.
fn has_order(events: &[Event]) -> bool {
    fn extend(events: &[Event], done: &mut Vec<bool>, holds: Option<Write>) -> bool {
        if (0..events.len()).all(|i| done[i] || events[i].end == FOREVER) {
            return true;
        }
        (0..events.len()).any(|i| {
            let is_next = !done[i] && !(0..events.len()).any(|j| !done[j] && j != i && comes_before(events, j, i));
            let after = match events[i].action {
                Action::Write(write) => Some(Some(write)),
                Action::Delete => Some(None),
                Action::Read(found) => (found == holds).then_some(holds),
            };
            let Some(after) = after.filter(|_| is_next) else { return false };
            done[i] = true;
            let found = extend(events, done, after);
            done[i] = false;
            found
        })
    }
    extend(events, &mut vec![false; events.len()], None)
}

fn comes_before(events: &[Event], a: usize, b: usize) -> bool {
    events[a].end < events[b].start || events[b].after.contains(&events[a].place)
}

/// A small history: actions and times at random; of `relaxed` in 6 reads look back and have tokens.
fn small_history(ops: usize, times: u64, relaxed: u8) -> impl Strategy<Value = Vec<Event>> {
    let event = (0..8_u8, 0..times, 0..7_u64, any::<prop::sample::Index>(), 0..6_u8, any::<u8>());
    prop::collection::vec(event, 1..=ops).prop_map(move |mut list| {
        list.sort_by_key(|(_, start, len, ..)| start + len);
        let writes = |kind: &u8| *kind < 2;
        let written: Vec<usize> = (0..list.len()).filter(|place| writes(&list[*place].0)).collect();
        let mut events: Vec<Event> = Vec::new();
        for (place, (kind, start, len, pick, relax, token)) in list.iter().enumerate() {
            let action = match kind {
                0 | 1 => Action::Write(Write(place as u64)),
                2 | 3 => Action::Delete,
                4 | 5 => Action::Read(None),
                // Reads of what nobody wrote are found at once; they would drown the rest.
                _ => Action::Read((!written.is_empty()).then(|| Write(*pick.get(&written) as u64))),
            };
            let is_relaxed = *kind >= 4 && *relax < relaxed;
            let covers = |earlier: &&Event| is_relaxed && earlier.end <= *start && token >> earlier.place & 1 == 1;
            let after = events.iter().filter(covers).map(|earlier| earlier.place).collect();
            let end = if *kind < 4 && *relax == 0 { FOREVER } else { start + len };
            let start = if is_relaxed { start.saturating_sub(u64::from(*token)) } else { *start };
            events.push(Event { place, action, start, end, after });
        }
        events
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    #[test]
    fn verdict_is_that_of_trying_every_order(events in small_history(7, 12, 2)) {
        prop_assert_eq!(check(&events).is_ok(), has_order(&events), "{:#?}", events);
    }

    #[test]
    fn sessions_are_judged_as_by_trying_every_order(events in small_history(8, 12, 6)) {
        prop_assert_eq!(check(&events).is_ok(), has_order(&events), "{:#?}", events);
    }

    #[test]
    fn crowds_are_judged_as_by_trying_every_order(events in small_history(8, 5, 2)) {
        prop_assert_eq!(check(&events).is_ok(), has_order(&events), "{:#?}", events);
    }
}

#[test]
fn both_verdicts_are_common_among_small_histories() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut ok = 0;
    for _ in 0..2_000 {
        let events = small_history(7, 12, 2).new_tree(&mut runner).expect("a history").current();
        ok += usize::from(check(&events).is_ok());
    }
    assert!((200..1_800).contains(&ok), "{ok} of 2000 have an order");
}

/// What made the general search explode: many writes and deletes under way at once, most never answered.
#[test]
fn crowds_of_writes_and_deletes_take_no_time() {
    let mut list: Vec<(Action, u64, u64)> = Vec::new();
    for round in 0..200 {
        let at = round * 1_000;
        list.extend((0..24).map(|i| (W(round * 100 + i), at + i, at + 800)));
        list.extend((24..48).map(|i| (W(round * 100 + i), at + i, 0)));
        list.extend((0..12).map(|i| (D, at + i, if i % 2 == 0 { 0 } else { at + 850 })));
        list.extend((0..10).map(|i| (R(round * 100 + i), at + 100 + 60 * i, at + 130 + 60 * i)));
        list.extend((0..6).map(|i| (MISSING, at + 130 + 100 * i, at + 170 + 100 * i)));
    }
    assert!(check(&events(&list)).is_ok());
    // A value read again after another one was: every order of the whole crowd would have to be tried.
    list.push((R(100), 200_000, 200_001));
    assert_eq!(check(&events(&list)), Err(Broken::NoOrder));
}
