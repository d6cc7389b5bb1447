//! `bench idle`: what groups cost that nobody uses.
//!
//! A collection of a thousand shards, on one node and then with three replicas on three nodes, so that each node holds a
//! thousand replicas either way. Nothing is asked of them; what counts is the time on cores of the busiest node.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use shoal_client::{Client, NewCollection};
use shoal_model::Metric;
use shoal_tests::{Role, Shape};
use tokio::time::sleep;

use crate::error::BenchError;
use crate::machine::{Machine, warn_if_busy};
use crate::processes::{Processes, threads};
use crate::report::{self, Better, Report, Row, columns};
use crate::spread::Spread;

const COLLECTION: &str = "idle";
/// Groups on each node.
const GROUPS: u32 = 1_000;
const DIM: u32 = 384;
/// After the last group has a leader: they fall asleep after a second.
const REST: Duration = Duration::from_secs(10);
/// How long time on cores is counted, each time.
const WINDOW: Duration = Duration::from_secs(20);
const QUICK_WINDOW: Duration = Duration::from_secs(5);
/// Most of it, as a share of one core.
const GATE: f64 = 0.05;
/// What a thousand groups may take to be there.
const READY_WITHIN: Duration = Duration::from_secs(180);

/// Time on cores of nodes with a thousand idle groups each.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Windows in which time on cores is counted
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: usize,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Shorter windows; the same gates
    #[arg(long)]
    quick: bool,
}

/// A cluster whose groups are idle.
struct Idle {
    what: &'static str,
    nodes: u16,
    replicas: u32,
}

const CLUSTERS: [Idle; 2] =
    [Idle { what: "1_node", nodes: 1, replicas: 1 }, Idle { what: "3_nodes_rf3", nodes: 3, replicas: 3 }];

/// What each kind of process took, as a share of one core; the busiest of each kind in each window.
struct Shares {
    what: &'static str,
    node: Spread,
    router: Spread,
    coordinator: Spread,
}

/// Runs it, prints the tables, writes what was asked for.
pub(crate) fn run(args: &Args) -> Result<Report, BenchError> {
    args.json.iter().try_for_each(|path| report::check_writable(path))?;
    let machine = Machine::read();
    println!("{GROUPS} groups on each node\n{}\n", machine.line());
    warn_if_busy();
    let window = if args.quick { QUICK_WINDOW } else { WINDOW };
    let runtime = threads()?;
    let mut all = Vec::new();
    for idle in &CLUSTERS {
        all.push(runtime.block_on(idle.measure(args.runs, window))?);
    }
    println!("{}", table(&all));
    let row = |shares: &Shares| {
        let name = format!("idle_core_share_{}", shares.what);
        Row::new(name, shares.node.median(), "cores", Better::Lower).expect(Some(GATE), None)
    };
    let rows = all.iter().map(row).collect();
    let report = Report { bench: "idle", commit: report::commit(), machine, data: vec![], rows, contenders: vec![] };
    println!("{}", report.rows_table());
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    Ok(report)
}

fn table(all: &[Shares]) -> String {
    let mut lines = Vec::new();
    for shares in all {
        for (kind, share) in [("node", &shares.node), ("router", &shares.router), ("coordinator", &shares.coordinator)]
        {
            lines.push([vec![format!("{}: {kind}", shares.what)], share.cells().to_vec()].concat());
        }
    }
    columns(&["cores, of the busiest", "median", "min", "max"], lines, &[1, 2, 3])
}

impl Idle {
    async fn measure(&self, runs: usize, window: Duration) -> Result<Shares, BenchError> {
        let mut processes = Processes::start(Shape { coordinators: 3, nodes: self.nodes, routers: 1 })?;
        let client = processes.client()?.with_timeout(READY_WITHIN);
        let began = Instant::now();
        self.make_groups(&client).await?;
        eprintln!("{}: {GROUPS} shards lead after {:.1} s", self.what, began.elapsed().as_secs_f64());
        sleep(REST).await;
        let mut shares: Vec<[f64; 3]> = Vec::new();
        for _ in 0..runs {
            shares.push(busiest(&processes, window).await);
        }
        processes.cluster.stop();
        let of = |kind: usize| shares.iter().map(|shares| shares[kind]).collect();
        Ok(Shares { what: self.what, node: of(0), router: of(1), coordinator: of(2) })
    }

    /// Makes the collection, and waits until every shard has a leader.
    async fn make_groups(&self, client: &Client) -> Result<(), BenchError> {
        let new = NewCollection::new(COLLECTION, DIM, Metric::Cosine);
        client.create_collection(NewCollection { shards: GROUPS, replicas: self.replicas, ..new }).await?;
        let began = Instant::now();
        while began.elapsed() < READY_WITHIN {
            let shards = client.describe_collection(COLLECTION).await?.shards;
            let is_whole = |shard: &shoal_client::Shard| {
                shard.leader().is_some() && shard.replicas_alive() == self.replicas as usize
            };
            if shards.iter().all(is_whole) {
                return Ok(());
            }
            sleep(Duration::from_secs(1)).await;
        }
        Err(BenchError::Unsettled { collection: COLLECTION.to_owned(), seconds: READY_WITHIN.as_secs() })
    }
}

/// Shares of a core that the busiest node, router and coordinator take.
async fn busiest(processes: &Processes, window: Duration) -> [f64; 3] {
    let roles = processes.cluster.roles();
    let before: Vec<_> = roles.iter().map(|role| processes.usage(*role)).collect();
    let began = Instant::now();
    sleep(window).await;
    let seconds = began.elapsed().as_secs_f64();
    let mut most = [0.0_f64; 3];
    for (role, before) in roles.iter().zip(&before) {
        let kind = match role {
            Role::Node(_) => 0,
            Role::Router(_) => 1,
            Role::Coordinator(_) => 2,
        };
        most[kind] = most[kind].max((&processes.usage(*role) - before).core_seconds / seconds);
    }
    most
}
