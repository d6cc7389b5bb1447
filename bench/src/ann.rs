//! `bench ann`: throughput by recall, build time and size, of ours and of peers on the same vectors in the same run.

mod gates;
mod plot;
mod sweep;

use std::path::PathBuf;
use std::{fs, iter};

use shoal_model::RECALL_TARGET_DEFAULT;

use crate::contender::Contender;
use crate::error::BenchError;
use crate::machine::{Machine, measuring_core, warn_if_busy};
use crate::report::{Report, Standing, columns, number};
use crate::segment::Tier;
use crate::set::{Set, Shared};
use crate::{hnsw_rs, peer, report};
use gates::{Measured, TARGETS};
use sweep::Pace;

/// Answers wanted of each query.
const K: usize = 10;

/// Beam at which one thread and two are compared.
const SCALING_BEAM: usize = 60;

/// Recalls that searches want of ours, which finds out by itself what they take: the default, and around it.
const WANTED: [f64; 3] = [0.95, RECALL_TARGET_DEFAULT, 0.995];

/// Queries of a set that `--quick` asks at most.
const QUICK_QUERIES: usize = 1000;

/// Approximate search on one thread: throughput by recall, build time, bytes per vector.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the data set
    #[arg(long, value_name = "DIR")]
    set: PathBuf,
    /// Libraries to run beside: hnswlib, faiss, symqg, usearch, hnsw_rs
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    peers: Vec<String>,
    /// How ours keep vectors, a segment each; the gates are about the first
    #[arg(long, value_enum, value_delimiter = ',', default_value = "none", value_name = "TIERS")]
    tiers: Vec<Tier>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw recall against throughput as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Fewer beam widths, fewer queries, shorter samples; the same gates
    #[arg(long)]
    quick: bool,
    /// Threads that build; searches have one
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    threads: u16,
    /// Python that has bench/peers/requirements.txt
    #[arg(long, env = "SHOAL_BENCH_PYTHON", hide_env_values = true, value_name = "FILE")]
    python: Option<PathBuf>,
}

/// Runs it, prints the tables, writes what was asked for.
pub(crate) fn run(args: &Args) -> Result<Report, BenchError> {
    let peers = peer::contenders(&args.peers)?;
    if peers.iter().any(|name| *name != hnsw_rs::NAME) && args.python.is_none() {
        return Err(BenchError::NoPython);
    }
    args.json.iter().chain(&args.plot).try_for_each(|path| report::check_writable(path))?;
    let mut set = Set::open(&args.set)?;
    set.check_k(K, &args.set)?;
    if args.quick {
        set.limit_queries(QUICK_QUERIES);
    }
    let machine = Machine::read();
    let about = set.about(args.quick);
    println!("{}, recall@{K}\n{}\n", about.line(), machine.line());
    warn_if_busy();

    let shared = Shared::write(&set)?;
    let mut contenders = build(args, &peers, &set, &shared)?;
    let pace = if args.quick { Pace::QUICK } else { Pace::FULL };
    let sweeps = sweep::run(&mut contenders, &set, K, measuring_core()?, &pace)?;
    drop(shared);

    let measured: Vec<Measured> = iter::zip(&contenders, sweeps)
        .map(|(contender, sweep)| Measured::new(contender, sweep, about.vectors))
        .collect();
    let mut rows = gates::rows(&measured);
    if machine.cores > 1 {
        rows.push(gates::thread_scaling(contenders[0].thread_scaling(&set, SCALING_BEAM)?));
    }
    for wanted in WANTED {
        rows.push(gates::recall_where_wanted(wanted, contenders[0].recall_where_wanted(&set, wanted)?));
    }
    let report = Report {
        bench: "ann",
        commit: report::commit(),
        machine,
        data: vec![about],
        rows,
        contenders: measured.iter().map(Measured::standing).collect(),
    };
    println!("\n{}\n{}", table(&measured), report.rows_table());
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    if let Some(path) = &args.plot {
        fs::write(path, plot::svg(&report)).map_err(BenchError::io(format!("write {}", path.display())))?;
    }
    Ok(report)
}

/// Ours first, then the peers; one builds at a time and has the machine to itself.
fn build(args: &Args, peers: &[&'static str], set: &Set, shared: &Shared) -> Result<Vec<Contender>, BenchError> {
    let built = |contender: Contender| {
        eprintln!("built {} in {:.1} s", contender.name, contender.built.seconds);
        contender
    };
    let ours = args.tiers.iter().map(|tier| Contender::shoal(set, K, usize::from(args.threads), *tier).map(built));
    let mut contenders = ours.collect::<Result<Vec<_>, _>>()?;
    contenders.push(built(Contender::shoal_exact(set, K)));
    for name in peers {
        if *name == hnsw_rs::NAME {
            contenders.push(built(Contender::hnsw_rs(set, K, usize::from(args.threads))?));
            continue;
        }
        let python = args.python.as_deref().ok_or(BenchError::NoPython)?;
        contenders.push(built(Contender::peer(name, python, set, shared, K, usize::from(args.threads))?));
    }
    Ok(contenders)
}

/// How each contender did, for people; the ratios say how many times faster ours is.
fn table(measured: &[Measured]) -> String {
    let header: Vec<String> = ["contender", "build s", "bytes/vector"]
        .map(str::to_owned)
        .into_iter()
        .chain(TARGETS.map(|(label, _)| format!("qps @{label}")))
        .chain(TARGETS[1..].iter().map(|(label, _)| format!("shoal/it @{label}")))
        .chain(["spread", "core share"].map(str::to_owned))
        .collect();
    let ours = gates::ours(measured);
    let cells = |it: &Measured| {
        let Standing { name, build_seconds, bytes_per_vector, .. } = it.standing();
        let qps = TARGETS.map(|(_, recall)| it.curve().qps_at(recall).map_or_else(|| "–".to_owned(), number));
        let ratio = |recall| Some(ours?.curve().qps_at(recall)? / it.curve().qps_at(recall)?);
        let ratios = TARGETS[1..].iter().map(|(_, recall)| ratio(*recall).map_or_else(|| "–".to_owned(), number));
        iter::empty()
            .chain([name, number(build_seconds), number(bytes_per_vector)])
            .chain(qps)
            .chain(ratios)
            .chain([it.sweep().spread, it.sweep().core_share].map(|share| format!("{:.0} %", 100.0 * share)))
            .collect()
    };
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    columns(&header, measured.iter().map(cells).collect(), &(1..header.len()).collect::<Vec<_>>())
}
