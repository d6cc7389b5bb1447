//! Seeded simulation of five processes with several groups: lost and late messages, partitions, power cuts, changing
//! members and leaders. `SHOAL_SEED=7 cargo test -p shoal-consensus --test simulation` replays one run;
//! `SHOAL_SEEDS=10000` makes that many.

mod machine;
mod process;
mod world;

use world::{Tally, World};

fn run(seed: u64) -> Tally {
    println!("seed {seed}");
    World::new(seed).run(15_000)
}

#[test]
fn acknowledged_proposals_survive_and_reads_are_never_stale() {
    if let Ok(seed) = std::env::var("SHOAL_SEED") {
        println!("{:?}", run(seed.parse().expect("a number")));
        return;
    }
    let runs = std::env::var("SHOAL_SEEDS").map_or(200, |runs| runs.parse().expect("a number"));
    let mut sum = Tally::default();
    for seed in 0..runs {
        let tally = run(seed);
        sum.acknowledged += tally.acknowledged;
        sum.reads += tally.reads;
        sum.unknown += tally.unknown;
        sum.superseded += tally.superseded;
        sum.crashes += tally.crashes;
        sum.restores += tally.restores;
        sum.changes += tally.changes;
        sum.damages += tally.damages;
        sum.leaders += tally.leaders;
        sum.leading_witnesses += tally.leading_witnesses;
        sum.sleepers_crashed += tally.sleepers_crashed;
        sum.sleeping_leaders_crashed += tally.sleeping_leaders_crashed;
    }
    println!("{sum:?}");
    let met_all =
        [sum.unknown, sum.crashes, sum.restores, sum.changes, sum.damages, sum.leading_witnesses, sum.sleepers_crashed]
            .into_iter()
            .all(|count| count > 100);
    assert!(met_all && sum.acknowledged > 10_000 && sum.reads > 10_000, "the runs met too little: {sum:?}");
}

#[test]
fn a_seed_replays_its_run() {
    assert_eq!(run(42), run(42), "one seed, one run");
}
