//! `bench ingest`: durable, replicated writes into a cluster of three nodes, each a process of its own on a real disk.
//!
//! Eight clients write a set in batches of 64 and wait for each acknowledgement; with one replica and with three, in
//! turns, each time into a new cluster. It tells what that costs by stage, how soon each replica finds what was
//! acknowledged, and what building the index costs once and three times replicated.

mod fresh;
mod load;
mod measured;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use shoal_client::{Client, Consistency, NewCollection};
use shoal_model::{Filter, Metric};
use shoal_tests::{Role, Shape};
use tokio::runtime::Runtime;

use crate::error::BenchError;
use crate::machine::{Machine, warn_if_busy};
use crate::processes::{Processes, file_system_of, threads};
use crate::report::{self, Report};
use crate::set::Set;
use crate::settle::settle;
use crate::usage::Usage;
use fresh::Prober;
use load::{BATCH, CLIENTS, Loaded, Source, load};
use measured::{Cost, Measured, Run};

/// Replicas of each shard, in the order of a round.
const REPLICAS: [u32; 2] = [1, 3];
/// The processes of each cluster.
const SHAPE: Shape = Shape { coordinators: 3, nodes: 3, routers: 1 };
/// What is written to.
const COLLECTION: &str = "ingest";
/// How often each row is written, as another point each time.
const PASSES: usize = 3;
const QUICK_PASSES: usize = 1;
/// Points written one by one at first.
const WARM_UP: usize = 20;
/// Points looked for beside nothing, in each run.
const PROBES: usize = 200;
const QUICK_PROBES: usize = 50;
/// Of all points, those that are written while others are looked for: one in so many at a pace, and as many at once.
const BESIDE: usize = 6;
/// That pace, in vectors a second: what is asked of three replicas.
const PACE: usize = 8_000;

/// Writes a second, and what they cost, with one replica and with three.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the data set
    #[arg(long, value_name = "DIR")]
    set: PathBuf,
    /// Rounds of one run each with one replica and with three
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: usize,
    /// Decides order and copies of the points; drawn if absent
    #[arg(long)]
    seed: Option<u64>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer points; the same gates
    #[arg(long)]
    quick: bool,
}

/// Runs it, prints the tables, writes what was asked for.
pub(crate) fn run(args: &Args) -> Result<Report, BenchError> {
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("seed {seed}");
    args.json.iter().try_for_each(|path| report::check_writable(path))?;
    let set = Set::open(&args.set)?;
    let machine = Machine::read();
    let about = set.about(args.quick);
    let disk = file_system_of(&std::env::temp_dir());
    println!("{}, {CLIENTS} clients, batches of {BATCH}\n{}, data on {disk}\n", about.line(), machine.line());
    warn_if_busy();
    let passes = if args.quick { QUICK_PASSES } else { PASSES };
    let probes = if args.quick { QUICK_PROBES } else { PROBES };
    let bench = Bench {
        metric: set.metric,
        dim: u32::try_from(set.base.columns()).expect("a dimension is no larger than a file's header says"),
        source: Arc::new(Source::new(set.base, passes, seed)),
        probes,
        runtime: threads()?,
    };
    let mut runs = Vec::new();
    for round in 1..=args.runs {
        for replicas in REPLICAS {
            let run = bench.run(replicas, round)?;
            eprintln!("round {round} of {}, {replicas} replicas: {}", args.runs, run.line());
            runs.push(run);
        }
    }
    let measured = Measured(runs);
    println!("{}\n{}\n{}", measured.table(), measured.stages_table(), measured.fresh_table());
    let rows = measured.rows();
    let commit = report::commit();
    let report = Report { bench: "ingest", commit, machine, data: vec![about], rows, contenders: vec![] };
    println!("{}", report.rows_table());
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    Ok(report)
}

/// What all runs share.
struct Bench {
    metric: Metric,
    dim: u32,
    source: Arc<Source>,
    probes: usize,
    runtime: Runtime,
}

impl Bench {
    /// A run in a cluster of its own, which ends with it.
    fn run(&self, replicas: u32, round: usize) -> Result<Run, BenchError> {
        let mut processes = Processes::start(SHAPE)?;
        let run = self.runtime.block_on(self.measure(&processes, replicas, round))?;
        processes.cluster.stop();
        Ok(run)
    }

    async fn measure(&self, processes: &Processes, replicas: u32, round: usize) -> Result<Run, BenchError> {
        let (client, router) = (processes.client()?, processes.router());
        let new = NewCollection { replicas, ..NewCollection::new(COLLECTION, self.dim, self.metric) };
        client.create_collection(new).await?;
        let mut prober = Prober::new(&router, COLLECTION, self.source.clone()).await?;
        // Before anything is counted: leaders are known and processes connected by then.
        prober.probe(WARM_UP).await?;
        let fresh_idle = prober.probe(self.probes).await?;
        let len = self.source.len();
        let (alone, paced) = (len - 2 * (len / BESIDE), len - len / BESIDE);
        let (loaded, cost) = self.load(processes, (0, alone), &format!("round {round}, {replicas} replicas")).await?;
        let steadily = load(&router, COLLECTION, &self.source, (alone, paced), Some(PACE), |_| {});
        let (_, fresh_loaded) = prober.probe_during(steadily).await?;
        let at_once = load(&router, COLLECTION, &self.source, (paced, len), None, |_| {});
        let (_, fresh_full) = prober.probe_during(at_once).await?;
        let written = Instant::now();
        settle(&client, COLLECTION).await?;
        let settled_seconds = written.elapsed().as_secs_f64();
        let points_built = len as u64 + prober.written();
        check_count(&client, points_built).await?;
        let build_cpu_seconds = processes.metric("shoal_node_build_cpu_seconds_total");
        Ok(Run {
            replicas,
            nodes: usize::from(SHAPE.nodes),
            points: alone,
            loaded,
            cost,
            build_cpu_seconds,
            settled_seconds,
            points_built,
            fresh_idle,
            fresh_loaded,
            fresh_full,
        })
    }

    /// Writes points, and tells what that cost.
    async fn load(
        &self,
        processes: &Processes,
        points: (usize, usize),
        what: &str,
    ) -> Result<(Loaded, Cost), BenchError> {
        let bar = bar(what, points.1 - points.0);
        let before = cost(processes);
        let shown = bar.clone();
        let done = move |count: usize| shown.inc(count as u64);
        let loaded = load(&processes.router(), COLLECTION, &self.source, points, None, done).await?;
        let after = cost(processes);
        bar.finish_and_clear();
        Ok((loaded, after.since(&before)))
    }
}

/// What everybody has used so far.
fn cost(processes: &Processes) -> Cost {
    Cost {
        clients: Usage::of(std::process::id()),
        router: processes.usage_of(|role| matches!(role, Role::Router(_))),
        nodes: processes.usage_of(|role| matches!(role, Role::Node(_))),
        coordinators: processes.usage_of(|role| matches!(role, Role::Coordinator(_))),
        syncs: processes.metric("shoal_node_sync_seconds_count"),
        sync_seconds: processes.metric("shoal_node_sync_seconds_sum"),
    }
}

impl Cost {
    fn since(&self, before: &Self) -> Self {
        Self {
            clients: &self.clients - &before.clients,
            router: &self.router - &before.router,
            nodes: &self.nodes - &before.nodes,
            coordinators: &self.coordinators - &before.coordinators,
            syncs: self.syncs - before.syncs,
            sync_seconds: self.sync_seconds - before.sync_seconds,
        }
    }
}

/// Fails unless everything that was acknowledged is there.
async fn check_count(client: &Client, want: u64) -> Result<(), BenchError> {
    let got = client.count(COLLECTION, &Filter::default(), &Consistency::Linearizable).await?;
    if got == want {
        return Ok(());
    }
    Err(BenchError::Lost { collection: COLLECTION.to_owned(), want, got })
}

/// Progress on standard error, where that is a terminal.
fn bar(what: &str, points: usize) -> ProgressBar {
    let template = "{msg}  {wide_bar} {human_pos}/{human_len} vectors, {per_sec}, {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(points as u64).with_style(style).with_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
