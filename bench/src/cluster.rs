//! `bench cluster`: recall and latency through a whole cluster, at the settings that a user gets who sets none.
//!
//! A search through the cluster is held against the same search in this process plus what the wire costs: the same
//! call to a collection of one point. Then every point is written again, at the rate of a service and then all at once,
//! and searches go on while nodes build and merge.

mod load;
mod measured;
mod probe;
mod up;

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use shoal_client::Client;
use shoal_model::RECALL_TARGET_DEFAULT;

use crate::error::BenchError;
use crate::machine::{Machine, warn_if_busy};
use crate::report::{self, Report};
use crate::segment::{Frozen, Tier};
use crate::set::Set;
use load::{Jobs, Loader};
use measured::Measured;
use probe::Probe;
use up::Up;

/// Answers wanted of each query.
const K: usize = 10;

/// Queries of a set that `--quick` asks at most.
const QUICK_QUERIES: usize = 200;

/// Passes over all queries, taking turns.
const PASSES: usize = 10;
const QUICK_PASSES: usize = 3;

/// The collection of one point.
const WIRE: &str = "wire";

/// Rounds of rest and steady writes, so that both see the same machine.
const ROUNDS: usize = 3;

/// How long searches are asked at their pace beside nothing, in each.
const REST: Duration = Duration::from_secs(20);

/// Shards of the collections that are compared.
const SHARDS: [u32; 2] = [1, 4];

/// Recall and latency through a cluster of one node, at default settings, idle and while it builds.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the data set
    #[arg(long, value_name = "DIR")]
    set: PathBuf,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer queries and passes; the same gates
    #[arg(long)]
    quick: bool,
}

/// Runs it, prints the tables, writes what was asked for.
pub(crate) fn run(args: &Args) -> Result<Report, BenchError> {
    args.json.iter().try_for_each(|path| report::check_writable(path))?;
    let mut set = Set::open(&args.set)?;
    set.check_k(K, &args.set)?;
    set.limit_queries(if args.quick { QUICK_QUERIES } else { 1_000 });
    let machine = Machine::read();
    let about = set.about(args.quick);
    println!("{}, recall@{K}\n{}\n", about.line(), machine.line());
    warn_if_busy();
    let mut frozen = Frozen::build(&set, K, 1, Tier::None)?;
    let up = Up::start()?;
    let passes = if args.quick { QUICK_PASSES } else { PASSES };
    let measured = measure(&set, &mut frozen, up.router(), passes)?;
    up.stop()?;
    println!("{}", measured.table());
    let rows = measured.rows();
    let report =
        Report { bench: "cluster", commit: report::commit(), machine, data: vec![about], rows, contenders: vec![] };
    println!("{}", report.rows_table());
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    Ok(report)
}

/// Loads the set, asks, writes it again.
fn measure(set: &Set, frozen: &mut Frozen, router: &str, passes: usize) -> Result<Measured, BenchError> {
    let runtime = probe::threads()?;
    let client = runtime.block_on(async { Client::connect(&[router]) })?;
    let loader = Loader { client: &client, set };
    let probe = Probe { client: &client, set, k: K };
    runtime.block_on(load(&loader))?;
    let mut measured = runtime.block_on(ask(&probe, frozen, passes))?;
    let one = name_of(1);
    let (mut resting, mut steady, mut jobs) = (Vec::new(), Vec::new(), Jobs::default());
    for round in 0..ROUNDS {
        let rest = || {
            thread::sleep(REST);
            Ok(())
        };
        probe.during(router, &one, &mut resting, rest)?;
        let write = || runtime.block_on(loader.watched(&one, &mut jobs, loader.steadily(&one, round, ROUNDS)));
        probe.during(router, &one, &mut steady, write)?;
        eprintln!("written again at a steady rate, {} of {ROUNDS}", round + 1);
    }
    let beside = |busy: bool| steady.iter().filter(|asked| jobs.under_way_at(asked.due) == busy).collect();
    (measured.writing, measured.building) = (beside(false), beside(true));
    let mut reloading = Vec::new();
    probe.during(router, &one, &mut reloading, || runtime.block_on(loader.all_and_settle(&one)))?;
    eprintln!("written again at once");
    (measured.resting, measured.reloading) = (resting.iter().collect(), reloading.iter().collect());
    Ok(measured)
}

/// Makes all collections and fills them.
async fn load(loader: &Loader<'_>) -> Result<(), BenchError> {
    loader.create(WIRE, 1).await?;
    loader.first_point(WIRE).await?;
    for shards in SHARDS {
        loader.create(&name_of(shards), shards).await?;
        loader.all_and_settle(&name_of(shards)).await?;
    }
    Ok(())
}

/// Asks the segment in this process and all collections in turns, one search after the other.
async fn ask(probe: &Probe<'_>, frozen: &mut Frozen, passes: usize) -> Result<Measured, BenchError> {
    let mut measured = Measured::of(&SHARDS);
    for _ in 0..passes {
        probe.in_process(frozen, RECALL_TARGET_DEFAULT, &mut measured.in_process)?;
        probe.pass(WIRE, &mut measured.wire).await?;
        for of in &mut measured.shards {
            of.recall = probe.pass(&name_of(of.shards), &mut of.idle).await?;
        }
        eprint!(".");
    }
    eprintln!(" idle measured");
    Ok(measured)
}

fn name_of(shards: u32) -> String {
    format!("shards-{shards}")
}
