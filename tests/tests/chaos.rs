//! A short run of chaos: kills, stops and, where this machine can make them, partitions.

use std::time::Duration;

use shoal_tests::chaos::{Ending, Nemesis, Options, run};

#[test]
fn what_was_acknowledged_holds_under_chaos() {
    let seed: u64 = std::env::var("SHOAL_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed}; replay with SHOAL_SEED={seed}");
    let options = Options {
        seed,
        length: Duration::from_secs(40),
        keep: None,
        nemeses: [Nemesis::Kill, Nemesis::Stop, Nemesis::Partition].into(),
        rate: 240,
        witness: true,
        json: None,
    };
    let ending = run(&options).expect("the cluster starts");
    // A machine that is busy with other tests may be too slow to prove anything; what was found it tells all the same.
    assert_ne!(ending, Ending::Fail, "seed {seed}: the lines above tell what did not hold");
}
