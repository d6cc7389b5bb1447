//! `shoal-chaos`: chaos on a cluster of real processes; `cargo xtask chaos` builds and runs it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use shoal_tests::chaos::{Ending, Nemesis, Options, failover, run};

/// Chaos on a cluster of real processes: a mixed load whose answers are all checked, while processes are killed, stopped,
/// cut off and starved. Exit code 0: everything held; 1: something did not; 2: too little was done to tell.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask chaos")]
struct Arguments {
    /// Decides faults and load; drawn if absent
    #[arg(long)]
    seed: Option<u64>,
    /// How long faults come
    #[arg(long, default_value_t = 5.0, conflicts_with = "seconds")]
    minutes: f64,
    /// The same in seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// Keep histories and logs in this folder, whatever the verdict
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// What to do to the cluster, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Nemesis::DEFAULT)]
    nemeses: Vec<Nemesis>,
    /// Operations a second
    #[arg(long, default_value_t = 240)]
    rate: u32,
    /// Leave out the collection whose shards have witnesses
    #[arg(long)]
    no_witness: bool,
    /// Write figures and verdict to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Instead: kill the node that leads most shards so many times, and measure how soon they take writes again
    #[arg(long, value_name = "N")]
    failover: Option<u32>,
}

fn main() -> ExitCode {
    let Arguments { seed, minutes, seconds, keep, nemeses, rate, no_witness, json, failover } = Arguments::parse();
    let witness = !no_witness;
    let seed = seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let length = seconds.map_or_else(|| Duration::from_secs_f64(minutes * 60.0), Duration::from_secs);
    let ended = match failover {
        Some(kills) => failover::run(&failover::Options { kills, seed, rate, witness, keep, json }),
        None => {
            let nemeses = nemeses.into_iter().collect::<BTreeSet<_>>();
            run(&Options { seed, length, keep, nemeses, rate, witness, json })
        }
    };
    match ended {
        Ok(ending) => ExitCode::from(ending.code()),
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::from(Ending::Void.code())
        }
    }
}
