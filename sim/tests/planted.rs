//! Bugs that are planted must be caught: `cargo test -p shoal-sim --features planted-bugs --test planted`. Without the
//! feature there is nothing to plant, and this says that there cannot be.

use shoal_model::planted::{Bug, CAN_PLANT, is_planted};

#[test]
fn without_the_feature_there_are_no_bugs() {
    assert_eq!(CAN_PLANT, cfg!(feature = "planted-bugs"));
    assert!(Bug::ALL.into_iter().all(|bug| !is_planted(bug)), "a thread has none that it did not plant");
}

#[cfg(feature = "planted-bugs")]
mod each {
    use std::time::Instant;

    use shoal_model::planted::{Bug, plant};
    use shoal_sim::run;

    /// Seeds until a bug has escaped: some minutes.
    const SEEDS_MAX: u64 = 300;

    /// The bugs named in `SHOAL_BUG`, or all.
    fn wanted() -> Vec<Bug> {
        let name = std::env::var("SHOAL_BUG").ok();
        Bug::ALL.into_iter().filter(|bug| name.as_ref().is_none_or(|name| format!("{bug:?}") == *name)).collect()
    }

    #[test]
    fn is_caught() {
        // Panics are findings here, and not to be told at length.
        std::panic::set_hook(Box::new(|_| ()));
        let mut escaped = Vec::new();
        for bug in wanted() {
            let started = Instant::now();
            plant(Some(bug));
            let caught = (0..SEEDS_MAX).map(|seed| run(seed, None, false)).find(|report| !report.is_pass());
            plant(None);
            let seconds = started.elapsed().as_secs_f64();
            match caught {
                Some(report) => {
                    let finding = report.findings.first().cloned().unwrap_or_default();
                    println!("{bug:?}: caught by seed {} after {seconds:.1} s: {finding}", report.seed);
                }
                None => {
                    println!("{bug:?}: escaped for {seconds:.0} s");
                    escaped.push(bug);
                }
            }
        }
        drop(std::panic::take_hook());
        assert!(escaped.is_empty(), "not caught: {escaped:?}");
    }
}
