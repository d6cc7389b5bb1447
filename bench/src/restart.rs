//! `bench restart`: how soon a node that was killed answers again, with a whole set in it.
//!
//! One node holds everything, so that nobody else can answer. It is killed straight after the set was written, while all
//! of it is in deltas and logs, and once all is built; the time is from its start to the first whole answer through the
//! router.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use shoal_client::{Client, NewCollection, SearchOptions};
use shoal_model::{Point, PointId};
use shoal_tests::{Role, Shape};

use crate::error::BenchError;
use crate::machine::{Machine, warn_if_busy};
use crate::processes::{Processes, file_system_of, threads};
use crate::report::{self, Better, Report, Row, columns};
use crate::set::Set;
use crate::settle::settle;
use crate::spread::Spread;

/// The node that everything is on.
const NODE: Role = Role::Node(0);
const SHAPE: Shape = Shape { coordinators: 1, nodes: 1, routers: 1 };
const COLLECTION: &str = "restart";
/// Points of a write.
const BATCH: usize = 256;
/// Answers wanted of a search.
const K: u32 = 10;
/// How long an attempt may take before the next is made.
const ATTEMPT: Duration = Duration::from_millis(500);
/// What a node may take before the bench gives up.
const WITHIN: Duration = Duration::from_secs(60);
/// Seconds until the first answer.
const GATE: f64 = 2.0;

/// Time from the start of a node with a set in it to its first answer.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the data set
    #[arg(long, value_name = "DIR")]
    set: PathBuf,
    /// Restarts in each state
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer restarts; the same gates
    #[arg(long)]
    quick: bool,
}

/// Runs it, prints the tables, writes what was asked for.
pub(crate) fn run(args: &Args) -> Result<Report, BenchError> {
    args.json.iter().try_for_each(|path| report::check_writable(path))?;
    let set = Set::open(&args.set)?;
    let (machine, about) = (Machine::read(), set.about(args.quick));
    println!("{}\n{}, data on {}\n", about.line(), machine.line(), file_system_of(&std::env::temp_dir()));
    warn_if_busy();
    let runs = if args.quick { args.runs.min(2) } else { args.runs };
    let measured = threads()?.block_on(measure(&set, runs))?;
    let lines = measured.iter().map(|(state, times)| [vec![(*state).to_owned()], times.cells().to_vec()].concat());
    println!("{}", columns(&["s to the first answer", "median", "min", "max"], lines.collect(), &[1, 2, 3]));
    let row = |(state, times): &(&str, Spread)| {
        Row::new(format!("restart_seconds_{state}"), times.median(), "s", Better::Lower).expect(Some(GATE), None)
    };
    let rows = measured.iter().map(row).collect();
    let commit = report::commit();
    let report = Report { bench: "restart", commit, machine, data: vec![about], rows, contenders: vec![] };
    println!("{}", report.rows_table());
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    Ok(report)
}

/// The times of both states.
async fn measure(set: &Set, runs: usize) -> Result<Vec<(&'static str, Spread)>, BenchError> {
    let mut processes = Processes::start(SHAPE)?;
    let client = processes.client()?;
    let dim = u32::try_from(set.base.columns()).expect("a dimension is no larger than a file's header says");
    client.create_collection(NewCollection { shards: 1, ..NewCollection::new(COLLECTION, dim, set.metric) }).await?;
    let mut written = Vec::new();
    for _ in 0..runs {
        write_all(&client, set).await?;
        written.push(restart(&mut processes, set).await?);
        eprintln!("restarted after writing: {:.2} s", written.last().copied().unwrap_or_default());
    }
    settle(&client, COLLECTION).await?;
    let mut built = Vec::new();
    for _ in 0..runs {
        built.push(restart(&mut processes, set).await?);
        eprintln!("restarted when built: {:.2} s", built.last().copied().unwrap_or_default());
    }
    processes.cluster.stop();
    Ok(vec![("written", written.into_iter().collect()), ("built", built.into_iter().collect())])
}

/// Writes every point, replacing what is there.
async fn write_all(client: &Client, set: &Set) -> Result<(), BenchError> {
    let rows: Vec<(usize, &[f32])> = set.base.rows().enumerate().collect();
    for batch in rows.chunks(BATCH) {
        let point = |(row, vector): &(usize, &[f32])| Point {
            id: PointId::Number(*row as u64),
            vector: vector.to_vec(),
            payload: BTreeMap::new(),
        };
        client.upsert(COLLECTION, batch.iter().map(point).collect()).await?;
    }
    Ok(())
}

/// Kills the node, starts it again, and asks until it answers. Returns the seconds from its start.
async fn restart(processes: &mut Processes, set: &Set) -> Result<f64, BenchError> {
    processes.cluster.kill(NODE);
    let began = Instant::now();
    processes.cluster.launch(NODE);
    // One that has lost no connection yet, as any new caller.
    let client = processes.client()?.with_timeout(ATTEMPT);
    let options = SearchOptions { k: K, ..SearchOptions::default() };
    loop {
        match client.search(COLLECTION, set.queries.row(0), &options).await {
            Ok(answer) if answer.hits.len() == K as usize => return Ok(began.elapsed().as_secs_f64()),
            Err(error) if began.elapsed() > WITHIN => return Err(error.into()),
            _ => {}
        }
    }
}
