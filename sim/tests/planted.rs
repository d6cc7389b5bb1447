//! Bugs that are planted must be caught: `cargo test -p shoal-sim --features planted-bugs --test planted`. Without the
//! feature there is nothing to plant, and this says that there cannot be. `SHOAL_BUG=StaleLease SHOAL_SEED=6` plants one in
//! one run, with `SHOAL_TRACE=1` event by event.

use shoal_model::planted::{Bug, CAN_PLANT, is_planted};

#[test]
fn without_the_feature_there_are_no_bugs() {
    assert_eq!(CAN_PLANT, cfg!(feature = "planted-bugs"));
    assert!(Bug::ALL.into_iter().all(|bug| !is_planted(bug)), "a thread has none that it did not plant");
}

#[cfg(feature = "planted-bugs")]
mod each {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;
    use std::time::Instant;

    use shoal_model::planted::{Bug, plant};
    use shoal_sim::{Report, run};

    /// Seeds that a bug may escape. Not a time: a busy machine must not come to another verdict.
    const SEEDS_MAX: u64 = 100;

    /// The bugs named in `SHOAL_BUG`, or all.
    fn wanted() -> Vec<Bug> {
        let name = std::env::var("SHOAL_BUG").ok();
        Bug::ALL.into_iter().filter(|bug| name.as_ref().is_none_or(|name| format!("{bug:?}") == *name)).collect()
    }

    /// The first seed that catches a bug, tried by all cores.
    fn caught(bug: Bug) -> Option<Report> {
        let (next, end) = (AtomicU64::new(0), AtomicU64::new(SEEDS_MAX));
        let search = || {
            plant(Some(bug));
            let mut seeds = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)));
            while let Some(seed) = seeds.next().filter(|seed| *seed < end.load(Ordering::Relaxed)) {
                let report = run(seed, None, false);
                if !report.is_pass() {
                    end.fetch_min(seed, Ordering::Relaxed);
                    return Some(report);
                }
            }
            None
        };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let found = thread::scope(|scope| {
            let searches: Vec<_> = (0..cores).map(|_| scope.spawn(search)).collect();
            searches.into_iter().filter_map(|search| search.join().expect("a simulation reports its panics")).collect()
        });
        let found: Vec<Report> = found;
        found.into_iter().min_by_key(|report| report.seed)
    }

    /// The seed to replay, if one is given.
    fn seed() -> Option<u64> {
        std::env::var("SHOAL_SEED").ok().map(|text| text.parse().expect("a number"))
    }

    #[test]
    fn is_caught() {
        if let Some(seed) = seed() {
            for bug in wanted() {
                plant(Some(bug));
                println!("{bug:?}: {}", run(seed, None, std::env::var("SHOAL_TRACE").is_ok()));
            }
            plant(None);
            return;
        }
        // Panics are findings here, and not to be told at length.
        std::panic::set_hook(Box::new(|_| ()));
        let mut escaped = Vec::new();
        for bug in wanted() {
            let started = Instant::now();
            let caught = caught(bug);
            let seconds = started.elapsed().as_secs_f64();
            match caught {
                Some(report) => {
                    let finding = report.findings.first().cloned().unwrap_or_default();
                    println!("{bug:?}: caught by seed {} after {seconds:.1} s: {finding}", report.seed);
                }
                None => {
                    println!("{bug:?}: escaped {SEEDS_MAX} seeds in {seconds:.0} s");
                    escaped.push(bug);
                }
            }
        }
        drop(std::panic::take_hook());
        assert!(escaped.is_empty(), "not caught: {escaped:?}");
    }
}
