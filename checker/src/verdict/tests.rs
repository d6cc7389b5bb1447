use super::*;
use crate::oracle::Tolerance;
use crate::simulated::{METRIC, Plant, Shape, passes, plant, run, score, shard_of};
use crate::testing::ledger;
use proptest::prelude::*;

const SHAPE: Shape = Shape { clients: 5, operations: 120, keys: 5, unknown: 0.08, sweeps: true };

fn rules() -> SearchRules<'static> {
    SearchRules { metric: METRIC, score: &score, passes: &passes, tolerance: Tolerance::default() }
}

fn judged(operations: Vec<Operation>) -> Verdict {
    judge(&Ledger::new(operations, Some(&shard_of)).expect("a good history"), Some(&rules()), &[])
}

fn shape() -> impl Strategy<Value = Shape> {
    (1..8_u64, 1..200_u64, 1..9_u64, 0.0..0.4, any::<bool>())
        .prop_map(|(clients, operations, keys, unknown, sweeps)| Shape { clients, operations, keys, unknown, sweeps })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    #[test]
    fn a_cluster_that_keeps_its_promises_passes(shape in shape(), seed in any::<u64>()) {
        let verdict = judged(run(shape, seed));
        let is_empty = verdict.operations.values().all(|counts| counts.ok == 0);
        prop_assert!(verdict.is_pass() || is_empty, "{}", verdict);
    }
}

#[test]
fn one_broken_promise_fails() {
    for what in [
        Plant::StaleRead,
        Plant::OverlookedOwnWrite,
        Plant::LostWrite,
        Plant::Resurrected,
        Plant::Phantom,
        Plant::FromTheFuture,
    ] {
        let mut planted = 0;
        for seed in 0..400 {
            let mut operations = run(SHAPE, seed);
            if plant(&mut operations, what, seed).is_none() {
                continue;
            }
            planted += 1;
            let verdict = judged(operations);
            let Verdict { linear, set, .. } = &verdict;
            let found = match what {
                Plant::StaleRead => linear.non_linearizable.total,
                Plant::OverlookedOwnWrite => linear.stale.total,
                Plant::LostWrite => set.lost.total,
                Plant::Resurrected => set.resurrected.total,
                Plant::Phantom | Plant::FromTheFuture => linear.phantom.total,
            };
            assert!(found > 0 && !verdict.is_pass(), "{what:?} {seed}: {verdict}");
        }
        assert!(planted > 100, "{what:?} was planted {planted} times only");
    }
}

#[test]
fn the_last_line_is_the_verdict() {
    for (name, text, want) in [
        ("nothing", "", "FAIL no operation succeeded, so nothing was checked"),
        ("nothing succeeded", "put 1=1 @0-?; get 1=1 @0-9!", "FAIL no operation succeeded, so nothing was checked"),
        (
            "right",
            "put 1=1 @0-5; scroll 1=1 @6-9; get 1=1 @6-9!",
            "PASS 2 operations checked, 0 lost, 0 resurrected, 0 phantom, 0 non-linearizable, 0 digest differences",
        ),
        (
            "lost",
            "put 1=1 @0-5; scroll none @6-9",
            "FAIL 2 operations checked, 1 lost, 0 resurrected, 0 phantom, 1 non-linearizable, 0 digest differences",
        ),
        (
            "overlooked",
            "put 1=1 @0-5 c1; get 1=- @6-9 c1 own",
            "FAIL 2 operations checked, 0 lost, 0 resurrected, 0 phantom, 0 non-linearizable, 1 stale, 0 digest differences",
        ),
        (
            "miscounted",
            "put 1=1 @0-5; count 3 @6-9",
            "FAIL 2 operations checked, 0 lost, 0 resurrected, 0 phantom, 0 non-linearizable, 1 miscounted, 0 digest differences",
        ),
    ] {
        let verdict = judge(&ledger(text), None, &[]);
        assert_eq!(verdict.to_string().lines().last(), Some(want), "{name}");
        assert_eq!(verdict.is_pass(), want.starts_with("PASS"), "{name}");
    }
}

#[test]
fn numbers_are_grouped_by_thousands() {
    for (number, want) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
        assert_eq!(grouped(number), want);
    }
}

#[test]
fn a_replica_that_differs_fails_the_run() {
    use shoal_model::{LogIndex, ReplicaId, ShardId};
    let observation = |replica, digest| Observation {
        shard: ShardId(1),
        applied: LogIndex(5),
        replica: ReplicaId(replica),
        digest: vec![digest],
    };
    let ledger = ledger("put 1=1 @0-5");
    assert!(judge(&ledger, None, &[observation(1, 7), observation(2, 7)]).is_pass());
    assert!(!judge(&ledger, None, &[observation(1, 7), observation(2, 8)]).is_pass());
}

/// Figures for commit messages: `cargo test --release -p shoal-checker figures -- --ignored --nocapture`.
#[test]
#[ignore = "takes a minute, and prints instead of checking"]
fn figures() {
    use crate::file::{HistoryWriter, read_history};
    use std::time::Instant;
    for (name, clients, operations, keys, unknown, sweeps) in [
        ("a million operations, 10,000 points", 64, 1_000_000, 10_000, 0.02, false),
        ("one hot point", 48, 10_000, 1, 0.02, false),
        ("one hot point, every third outcome unknown", 48, 10_000, 1, 0.33, false),
        ("searches and scrolls, 1,000 points", 32, 50_000, 1_000, 0.02, true),
    ] {
        let history = run(Shape { clients, operations, keys, unknown, sweeps }, 1);
        let mut writer = HistoryWriter::new(Vec::new()).expect("writing to memory");
        history.iter().for_each(|operation| writer.append(operation).expect("writing to memory"));
        let bytes = writer.finish().expect("writing to memory");
        let start = Instant::now();
        let history = read_history(&bytes[..]).expect("a history");
        let read = start.elapsed();
        let start = Instant::now();
        let ledger = Ledger::new(history, Some(&shard_of)).expect("a good history");
        let sorted = start.elapsed();
        let start = Instant::now();
        let linear = linear::check(&ledger);
        let searched = start.elapsed();
        let start = Instant::now();
        let verdict = judge(&ledger, Some(&rules()), &[]);
        println!(
            "{name}: {} MB read in {read:.2?}, sorted in {sorted:.2?}, {} events searched in {searched:.2?}, all in {:.2?}",
            bytes.len() >> 20,
            linear.events,
            start.elapsed()
        );
        println!("{verdict}\n");
        assert!(verdict.is_pass());
    }
    for what in [Plant::StaleRead, Plant::OverlookedOwnWrite] {
        for unknown in [0.02, 0.33] {
            let mut history = run(Shape { clients: 48, operations: 3_000, keys: 1, unknown, sweeps: false }, 2);
            plant(&mut history, what, 3).expect("a place for it");
            let ledger = Ledger::new(history, Some(&shard_of)).expect("a good history");
            let start = Instant::now();
            let linear = linear::check(&ledger);
            println!("{what:?} on a hot point, {unknown} unknown: found and told in {:.2?}", start.elapsed());
            println!("{}{}{}", linear.non_linearizable, linear.stale, linear.undecided);
            assert!(!linear.is_pass());
        }
    }
}
