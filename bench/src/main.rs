//! `shoal-bench`: measures Shoal, beside the best libraries there are, and holds the figures against their gates.
//!
//! `cargo xtask bench` prepares what it needs and starts it. One file for each bench; they share the reading of data
//! sets, the contenders, the rules for recall and throughput, and the form of the report.
//!
//! `cluster`, `ingest`, `restart` and `idle` start clusters; the others know nothing of clusters and the wire: what they
//! measure runs in this process or in a peer's.

mod ann;
mod churn;
mod cluster;
mod contender;
mod curve;
mod delta;
mod error;
mod exact;
mod filter;
mod hnsw_rs;
mod idle;
mod ingest;
mod machine;
mod merge;
mod npy;
mod peer;
mod processes;
mod report;
mod restart;
mod segment;
mod set;
mod settle;
mod spread;
mod stopwatch;
mod usage;

use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Shoal against its gates; ends with 0 if all are met, 1 if one is not, 2 if it could not run.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    Ann(ann::Args),
    Churn(churn::Args),
    Cluster(cluster::Args),
    Delta(delta::Args),
    Filter(filter::Args),
    Idle(idle::Args),
    Ingest(ingest::Args),
    Merge(merge::Args),
    Restart(restart::Args),
}

fn main() -> ExitCode {
    let bench = Cli::parse().bench;
    // What panics has proved nothing: a process that did not start, or a bug of a bench.
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| run(&bench)));
    outcome.unwrap_or_else(|_| ExitCode::from(2))
}

fn run(bench: &Bench) -> ExitCode {
    let outcome = match bench {
        Bench::Ann(args) => ann::run(args),
        Bench::Churn(args) => churn::run(args),
        Bench::Cluster(args) => cluster::run(args),
        Bench::Delta(args) => delta::run(args),
        Bench::Filter(args) => filter::run(args),
        Bench::Idle(args) => idle::run(args),
        Bench::Ingest(args) => ingest::run(args),
        Bench::Merge(args) => merge::run(args),
        Bench::Restart(args) => restart::run(args),
    };
    match outcome {
        Ok(report) if report.gates_met() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            eprint!("error: {error}");
            let mut cause = error.source();
            while let Some(source) = cause {
                eprint!(": {source}");
                cause = source.source();
            }
            eprintln!();
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
