//! `bench cluster`: recall and latency through a whole cluster, at the settings that a user gets who sets none.
//!
//! A search through the cluster is held against the same search in this process plus what the wire costs: the same
//! call to a collection of one point. Then every point is written again, at the rate of a service and then all at once,
//! and searches go on while nodes build and merge.

mod load;
mod probe;
mod up;

use std::path::PathBuf;

use shoal_client::{Client, ClientError, NewCollection};
use shoal_model::RECALL_TARGET_DEFAULT;

use crate::error::BenchError;
use crate::machine::{Machine, other_load};
use crate::report::{self, Better, Report, Row, columns};
use crate::segment::{Frozen, Tier};
use crate::set::Set;
use load::{Jobs, Loader};
use probe::{Latencies, Probe};
use up::Up;

/// Answers wanted of each query.
const K: usize = 10;

/// Queries of a set that `--quick` asks at most.
const QUICK_QUERIES: usize = 200;

/// Passes over all queries, taking turns.
const PASSES: usize = 10;
const QUICK_PASSES: usize = 3;

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
    if let Some(load) = other_load() {
        eprintln!("warning: the load of this machine is {load}; figures of a busy machine say little");
    }
    let mut frozen = Frozen::build(&set, K, 1, Tier::None)?;
    let up = Up::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(BenchError::io("start threads"))?;
    let passes = if args.quick { QUICK_PASSES } else { PASSES };
    let measured = runtime.block_on(measure(&set, &mut frozen, up.router(), passes))?;
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

/// All that was found out.
struct Measured {
    in_process: Latencies,
    wire: Latencies,
    shards: Vec<OfShards>,
    /// While all is written again, as fast as that goes, and until it is built.
    reloading: Latencies,
    /// While points are written at a steady rate: searches beside no job, and beside one.
    writing: Latencies,
    building: Latencies,
}

/// Of a collection with so many shards.
struct OfShards {
    shards: u32,
    recall: f64,
    idle: Latencies,
}

async fn measure(set: &Set, frozen: &mut Frozen, router: &str, passes: usize) -> Result<Measured, BenchError> {
    let client = Client::connect(&[router])?;
    create(&client, set, "wire", 1).await?;
    let loader = Loader { client: &client, set };
    loader.first_point("wire").await?;
    let mut shards = Vec::new();
    for count in SHARDS {
        let name = name_of(count);
        create(&client, set, &name, count).await?;
        loader.all(&name).await?;
        loader.settle(&name).await?;
        shards.push(OfShards { shards: count, recall: 0.0, idle: Latencies::default() });
    }
    let probe = Probe { client: &client, set, k: K };
    let (mut in_process, mut wire) = (Latencies::default(), Latencies::default());
    for _ in 0..passes {
        probe.in_process(frozen, RECALL_TARGET_DEFAULT, &mut in_process)?;
        probe.pass("wire", &mut wire).await?;
        for of in &mut shards {
            of.recall = probe.pass(&name_of(of.shards), &mut of.idle).await?;
        }
        eprint!(".");
    }
    eprintln!(" idle measured");
    let (mut jobs, mut steady) = (Jobs::default(), Vec::new());
    let one = name_of(1);
    let work = async {
        loader.steadily(&one).await?;
        loader.settle(&one).await
    };
    let watched = async {
        tokio::select! {
            done = work => done,
            failed = loader.watch(&one, &mut jobs) => failed,
        }
    };
    probe.during(&one, watched, &mut steady).await?;
    eprintln!("written again at a steady rate");
    let beside = |busy: bool| {
        let those = steady.iter().filter(|(due, _)| jobs.under_way_at(*due) == busy);
        those.map(|(_, time)| *time).collect::<Latencies>()
    };
    let (writing, building) = (beside(false), beside(true));
    let mut reloading = Vec::new();
    let work = async {
        loader.all(&one).await?;
        loader.settle(&one).await
    };
    probe.during(&one, work, &mut reloading).await?;
    eprintln!("written again at once");
    let reloading = reloading.into_iter().map(|(_, time)| time).collect();
    Ok(Measured { in_process, wire, shards, reloading, writing, building })
}

fn name_of(shards: u32) -> String {
    format!("shards-{shards}")
}

async fn create(client: &Client, set: &Set, name: &str, shards: u32) -> Result<(), ClientError> {
    let dim = u32::try_from(set.base.columns()).expect("a dimension is no larger than a file's header says");
    client.create_collection(NewCollection { shards, ..NewCollection::new(name, dim, set.metric) }).await?;
    Ok(())
}

impl Measured {
    fn rows(&self) -> Vec<Row> {
        let millis = |name: String, latencies: &Latencies, share| {
            Row::new(name, latencies.millis_at(share), "ms", Better::Lower)
        };
        let mut rows = vec![
            millis("p99_ms_in_process".to_owned(), &self.in_process, 0.99),
            millis("p99_ms_wire".to_owned(), &self.wire, 0.99),
        ];
        let best = self.in_process.millis_at(0.99).zip(self.wire.millis_at(0.99)).map(|(a, b)| a + b);
        for OfShards { shards, recall, idle } in &self.shards {
            let recall = Row::new(format!("recall_{shards}_shards"), Some(*recall), "share", Better::Higher);
            rows.push(recall.expect(Some(0.97), None));
            rows.push(millis(format!("p50_ms_{shards}_shards"), idle, 0.5));
            rows.push(millis(format!("p99_ms_{shards}_shards"), idle, 0.99));
            let ratio = idle.millis_at(0.99).zip(best).map(|(ms, best)| ms / best);
            let name = format!("p99_ratio_{shards}_shards_to_in_process_and_wire");
            rows.push(Row::new(name, ratio, "ratio", Better::Lower).expect(None, Some(1.5)));
        }
        let idle = self.shards.first().and_then(|of| of.idle.millis_at(0.99));
        for (name, latencies, gate, goal) in [
            ("writing", &self.writing, None, None),
            ("building", &self.building, Some(2.0), Some(1.5)),
            ("reloading", &self.reloading, None, None),
        ] {
            rows.push(millis(format!("p99_ms_while_{name}"), latencies, 0.99));
            let ratio = latencies.millis_at(0.99).zip(idle).map(|(ms, idle)| ms / idle);
            let row = Row::new(format!("p99_ratio_while_{name}_to_idle"), ratio, "ratio", Better::Lower);
            rows.push(row.expect(gate, goal));
        }
        rows
    }

    fn table(&self) -> String {
        let line = |name: String, recall: Option<f64>, latencies: &Latencies| {
            let ms = |share| latencies.millis_at(share).map_or_else(|| "–".to_owned(), |ms| format!("{ms:.2}"));
            let recall = recall.map_or_else(String::new, |recall| format!("{recall:.4}"));
            vec![name, recall, latencies.len().to_string(), ms(0.5), ms(0.95), ms(0.99)]
        };
        let mut lines =
            vec![line("in process".to_owned(), None, &self.in_process), line("the wire".to_owned(), None, &self.wire)];
        lines.extend(self.shards.iter().map(|of| line(format!("{} shards", of.shards), Some(of.recall), &of.idle)));
        lines.push(line("1 shard, steady writes".to_owned(), None, &self.writing));
        lines.push(line("1 shard, beside a job".to_owned(), None, &self.building));
        lines.push(line("1 shard, a reload".to_owned(), None, &self.reloading));
        columns(&["search", "recall", "searches", "p50 ms", "p95 ms", "p99 ms"], lines, &[1, 2, 3, 4, 5])
    }
}
