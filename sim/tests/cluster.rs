//! A cluster under trouble, seed after seed. `SHOAL_SEED=7 cargo test -p shoal-sim` replays one run, with `SHOAL_TRACE=1`
//! event by event; `SHOAL_SEEDS=1000` makes that many.

use std::time::Instant;

use shoal_sim::{FaultKind, Report, Tally, run};

const SEEDS: u64 = 110;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn checked(seed: u64) -> Report {
    println!("seed {seed}");
    run(seed, None, std::env::var("SHOAL_TRACE").is_ok())
}

#[test]
fn what_was_acknowledged_is_there_and_nobody_differs() {
    if let Some(seed) = number("SHOAL_SEED") {
        let report = checked(seed);
        println!("{report}");
        assert!(report.is_pass(), "seed {seed} fails");
        return;
    }
    let (started, mut sum, mut operations) = (Instant::now(), Tally::default(), 0);
    let mut failed = Vec::new();
    for seed in 0..number("SHOAL_SEEDS").unwrap_or(SEEDS) {
        let report = checked(seed);
        sum.add(&report.tally);
        operations += report.operations;
        if !report.is_pass() {
            println!("{report}");
            failed.push(seed);
        }
    }
    let (hours, seconds) = (sum.simulated_ns as f64 / 3.6e12, started.elapsed().as_secs_f64());
    println!("{hours:.1} simulated hours in {seconds:.0} s, {:.0} times real time", hours * 3_600.0 / seconds);
    println!("{operations} operations checked, {sum:#?}");
    assert!(failed.is_empty(), "seeds {failed:?} fail");
    for kind in FaultKind::ALL {
        assert!(sum.faults.get(&kind).is_some_and(|count| *count >= 10), "hardly any {kind}");
    }
    let met = [
        sum.restores,
        sum.jobs,
        sum.fetches,
        sum.broken_fetches,
        sum.found_damaged,
        sum.member_changes,
        sum.coordinator_changes,
        sum.witnesses,
        sum.asleep,
    ];
    assert!(met.into_iter().all(|count| count > 20) && sum.repeated_writes > 20, "the runs met too little: {sum:?}");
    assert!(hours >= 10.0, "{hours:.1} hours are too few");
}

#[test]
fn a_seed_replays_its_run() {
    let brief = Some(60_000_000_000);
    for seed in [3, 42] {
        assert_eq!(run(seed, brief, false), run(seed, brief, false), "one seed, one run");
    }
}
