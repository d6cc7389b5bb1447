//! `bench churn`: what a set of points finds after a fifth of it was replaced, many times over.

mod wheel;

use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use shoal_index::segment::{Effort, Scratch};
use shoal_index::set::{Found, Look, PartKind, SetQuery, View};
use shoal_model::PointId;

use crate::curve::median;
use crate::error::BenchError;
use crate::machine::{Machine, Pinned, measuring_core, warn_if_busy};
use crate::npy::Matrix;
use crate::report::{self, Better, Report, Row};
use crate::segment::Tier;
use crate::set::Set;
use crate::stopwatch::Stopwatch;
use wheel::Wheel;

/// Answers wanted of each query.
const K: usize = 10;

/// Beam of the walks whose recall and throughput are compared.
const BEAM: usize = 64;

/// How often a fifth of the points is replaced, and with `--quick`.
const ROUNDS: usize = 25;
const QUICK_ROUNDS: usize = 5;

/// Queries of a set that are asked at most.
const QUERIES: usize = 500;

/// Samples of throughput, in turns, and passes over the queries of each.
const SAMPLES: usize = 7;
const PASSES: usize = 4;

/// Recall and throughput after a fifth of the points was replaced 25 times.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the data set
    #[arg(long, value_name = "DIR")]
    set: PathBuf,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Replace points five times only; the same gates
    #[arg(long)]
    quick: bool,
    /// How segments keep vectors
    #[arg(long, value_enum, default_value_t = Tier::None)]
    tier: Tier,
    /// Threads that build and merge; searches have one
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    threads: u16,
}

/// Runs it, prints the table, writes what was asked for.
pub(crate) fn run(args: &Args) -> Result<Report, BenchError> {
    args.json.iter().try_for_each(|path| report::check_writable(path))?;
    let mut set = Set::open(&args.set)?;
    set.limit_queries(QUERIES);
    let machine = Machine::read();
    let about = set.about(args.quick);
    println!("{}, recall@{K}, beam {BEAM}\n{}\nseed: {}\n", about.line(), machine.line(), wheel::SEED);
    warn_if_busy();
    let pool = ThreadPoolBuilder::new().num_threads(usize::from(args.threads)).build()?;
    let measured = Measured::new(&set, args.tier, &pool, if args.quick { QUICK_ROUNDS } else { ROUNDS })?;
    let report = Report {
        bench: "churn",
        commit: report::commit(),
        machine,
        data: vec![about],
        rows: measured.rows(),
        contenders: vec![],
    };
    println!("{}", report.rows_table());
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    Ok(report)
}

/// What was found out: before and after.
struct Measured {
    recall: [f64; 2],
    qps: [Option<f64>; 2],
    segments: [usize; 2],
    /// Points that no walk finds, the most of all rounds.
    unreachable: u64,
    round_seconds: Vec<f64>,
}

impl Measured {
    fn new(set: &Set, tier: Tier, pool: &ThreadPool, rounds: usize) -> Result<Self, BenchError> {
        let mut wheel = Wheel::new(set, tier);
        wheel.fill(pool)?;
        let before = wheel.view();
        let (mut unreachable, mut round_seconds) = (before.unreachable(), Vec::new());
        for round in 1..=rounds {
            let watch = Stopwatch::start();
            wheel.turn(pool)?;
            round_seconds.push(watch.elapsed().seconds);
            unreachable = unreachable.max(wheel.view().unreachable());
            eprintln!("round {round} of {rounds} done, {}", wheel.done());
        }
        let views = [before, wheel.view()];
        let recall = |view: &View| pool.install(|| recall(view, &set.queries));
        Ok(Self {
            recall: [recall(&views[0])?, recall(&views[1])?],
            qps: throughput(&views, &set.queries)?,
            segments: views.each_ref().map(|view| segments(view)),
            unreachable,
            round_seconds,
        })
    }

    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn rows(&self) -> Vec<Row> {
        let (lost, ratio) = (self.recall[1] - self.recall[0], self.qps[1].zip(self.qps[0]));
        let ratio = ratio.map(|(after, before)| after / before);
        let (points, unreachable) = (Some(100.0 * lost), Some(self.unreachable as f64));
        let mut rows = Vec::new();
        for (at, when) in ["before", "after"].into_iter().enumerate() {
            rows.push(Row::new(format!("churn_recall_{when}"), Some(self.recall[at]), "share", Better::Higher));
            rows.push(Row::new(format!("churn_qps_{when}"), self.qps[at], "1/s", Better::Higher));
            let segments = Some(self.segments[at] as f64);
            rows.push(Row::new(format!("churn_segments_{when}"), segments, "segments", Better::Lower));
        }
        rows.extend([
            Row::new("churn_recall_points", points, "points", Better::Higher).expect(Some(-1.0), Some(-0.3)),
            Row::new("churn_qps_ratio", ratio, "ratio", Better::Higher).expect(None, Some(0.9)),
            Row::new("churn_unreachable", unreachable, "points", Better::Lower).expect(Some(0.0), None),
            Row::new("churn_round_seconds", median(&self.round_seconds), "s", Better::Lower),
        ]);
        rows
    }
}

/// Share of the exactly nearest of a view that walks find in it.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn recall(view: &View, queries: &Matrix<f32>) -> Result<f64, BenchError> {
    let rows: Vec<&[f32]> = queries.rows().collect();
    let found = |scratch: &mut Scratch, vector: &&[f32]| {
        let mut ids = |look| -> Result<Vec<PointId>, BenchError> {
            Ok(search(view, scratch, vector, look)?.into_iter().map(|found| found.id).collect())
        };
        let (truth, walked) = (ids(Look::Exact)?, ids(Look::Walk(Effort::Beam(BEAM)))?);
        Ok(truth.iter().filter(|id| walked.contains(id)).count())
    };
    let found = rows.par_iter().map_init(Scratch::new, found).collect::<Result<Vec<usize>, BenchError>>()?;
    Ok(found.iter().sum::<usize>() as f64 / (K * queries.len()) as f64)
}

/// Queries that each view answers in a second, in turns on one core.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn throughput(views: &[Arc<View>; 2], queries: &Matrix<f32>) -> Result<[Option<f64>; 2], BenchError> {
    let _pinned = Pinned::to(measuring_core()?)?;
    let (mut scratch, mut qps) = (Scratch::new(), [Vec::new(), Vec::new()]);
    for sample in 0..=SAMPLES {
        for turn in 0..views.len() {
            let at = (sample + turn) % views.len();
            let watch = Stopwatch::start();
            for vector in (0..PASSES).flat_map(|_| queries.rows()) {
                search(&views[at], &mut scratch, vector, Look::Walk(Effort::Beam(BEAM)))?;
            }
            qps[at].push((PASSES * queries.len()) as f64 / watch.elapsed().core_seconds);
        }
    }
    // The first of each warmed up.
    Ok(qps.each_ref().map(|qps| median(&qps[1..])))
}

fn search(view: &View, scratch: &mut Scratch, vector: &[f32], look: Look) -> Result<Vec<Found>, BenchError> {
    let query = SetQuery { vector, k: K, look, filter: None, score_limit: None, stop: &|| false };
    Ok(view.search(scratch, &query)?.0)
}

fn segments(view: &View) -> usize {
    view.parts().iter().filter(|part| part.kind == PartKind::Segment).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::clustered;

    #[test]
    fn a_small_set_keeps_its_points_in_reach() {
        let set = clustered::set(24, 1_200, 20, 3);
        let pool = ThreadPoolBuilder::new().num_threads(2).build().expect("threads start");
        let measured = Measured::new(&set, Tier::None, &pool, 2).expect("nothing fails");
        assert_eq!((measured.unreachable, measured.round_seconds.len()), (0, 2));
        assert!(measured.recall.iter().all(|recall| (0.8..=1.0).contains(recall)), "{:?}", measured.recall);
        let rows = measured.rows();
        assert!(rows.iter().all(|row| row.value.is_some_and(f64::is_finite)), "{rows:?}");
    }
}
