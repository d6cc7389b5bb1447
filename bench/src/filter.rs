//! `bench filter`: throughput under each filter of a set, against that without one, in the same run.

mod payload;

use std::path::PathBuf;

use bytes::Bytes;
use rayon::ThreadPoolBuilder;
use shoal_index::segment::{Effort, Parameters, Rows, Scratch, Segment, SegmentQuery, Target};
use shoal_model::{Filter, PointId};

use crate::curve::{Curve, Point, median, recall};
use crate::error::BenchError;
use crate::machine::{Machine, Pinned, measuring_core, other_load};
use crate::npy::{self, Matrix};
use crate::report::{self, Better, Report, Row, columns, number};
use crate::set::Set;
use crate::stopwatch::Stopwatch;
use payload::{Case, cases, payloads};

/// Answers wanted of each query.
const K: usize = 10;

/// Recall at which throughput is compared.
const RECALL: f64 = 0.95;

/// Efforts asked for: shares of the nearest that the segment's own calibration promises.
const EFFORTS: [f32; 9] = [0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998];

/// Samples of each filter at each effort, in turns.
const ROUNDS: usize = 5;

/// Of the rotation and the order of points; a constant, so that figures compare.
const SEED: u64 = 1;

/// Search under filters on one thread, evaluating the filter included.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of a data set with docs.jsonl.gz, filters.json and filtered_ids.npy
    #[arg(long, value_name = "DIR")]
    set: PathBuf,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs it, prints the table, writes what was asked for.
pub(crate) fn run(args: &Args) -> Result<Report, BenchError> {
    args.json.iter().try_for_each(|path| report::check_writable(path))?;
    let set = Set::open(&args.set)?;
    set.check_k(K, &args.set)?;
    let machine = Machine::read();
    let about = set.about(false);
    println!("{}, recall@{K}\n{}\n", about.line(), machine.line());
    if let Some(load) = other_load() {
        eprintln!("warning: the load of this machine is {load}; figures of a busy machine say little");
    }
    let mut looks = vec![Look { name: "(none)".to_owned(), filter: None, share: 1.0, truth: set.truth.clone() }];
    looks.extend(filtered(&args.set, &set)?);
    let segment = build(&set, payloads(&args.set)?)?;
    let curves = sweep(&segment, &set, &looks)?;
    let rows = rows(&looks, &curves);
    println!("{}", table(&looks, &curves));
    let report =
        Report { bench: "filter", commit: report::commit(), machine, data: vec![about], rows, contenders: vec![] };
    println!("{}", report.rows_table());
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    Ok(report)
}

/// A way to ask all queries.
struct Look {
    name: String,
    filter: Option<Filter>,
    share: f64,
    truth: Matrix<i64>,
}

fn filtered(folder: &std::path::Path, set: &Set) -> Result<Vec<Look>, BenchError> {
    let path = folder.join("filtered_ids.npy");
    let truths = npy::read_ids_of_cases(&path).map_err(|problem| BenchError::Set {
        path: folder.to_owned(),
        problem: format!("filtered_ids.npy {problem}"),
    })?;
    let cases = cases(folder)?;
    if cases.len() != truths.len() || truths.iter().any(|truth| truth.len() != set.queries.len()) {
        let problem = "filtered_ids.npy is not of all filters and queries".to_owned();
        return Err(BenchError::Set { path: folder.to_owned(), problem });
    }
    let look = |(Case { name, filter, share }, truth)| Look { name, filter: Some(filter), share, truth };
    Ok(cases.into_iter().zip(truths).map(look).collect())
}

fn build(set: &Set, payloads: Vec<Vec<u8>>) -> Result<Segment, BenchError> {
    let dim = u32::try_from(set.base.columns()).expect("a dimension is no larger than a file's header says");
    let mut rows = Rows::with_capacity(dim, set.base.len());
    for ((number, vector), payload) in (0..).zip(set.base.rows()).zip(payloads) {
        rows.push(PointId::Number(number), number, vector, Bytes::from(payload));
    }
    let parameters = Parameters { metric: set.metric, precision: None, ef_construction: 100, seed: SEED };
    let pool = ThreadPoolBuilder::new().build()?;
    Ok(pool.install(|| Segment::build(&rows, &parameters, &Target::Memory, &|| false))?)
}

/// Every look at every effort, taking turns on one core.
fn sweep(segment: &Segment, set: &Set, looks: &[Look]) -> Result<Vec<Curve>, BenchError> {
    let _pinned = Pinned::to(measuring_core()?)?;
    let mut scratch = Scratch::new();
    let mut curves = vec![Curve::default(); looks.len()];
    for effort in EFFORTS {
        let mut recalls = Vec::new();
        let mut seconds = vec![Vec::new(); looks.len()];
        for look in looks {
            recalls.push(recall(&look.truth, &ask(segment, &mut scratch, set, look, effort)?, K));
        }
        for round in 0..ROUNDS {
            for place in 0..looks.len() {
                let at = (place + round) % looks.len();
                let watch = Stopwatch::start();
                ask(segment, &mut scratch, set, &looks[at], effort)?;
                seconds[at].push(watch.elapsed().core_seconds);
            }
        }
        for ((curve, recall), seconds) in curves.iter_mut().zip(recalls).zip(&seconds) {
            #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
            let qps = set.queries.len() as f64 / median(seconds).unwrap_or(f64::NAN);
            curve.0.push(Point { recall, qps });
        }
        eprintln!("effort {effort} measured");
    }
    Ok(curves)
}

/// Answers all queries: queries × k.
fn ask(
    segment: &Segment,
    scratch: &mut Scratch,
    set: &Set,
    look: &Look,
    effort: f32,
) -> Result<Matrix<i64>, BenchError> {
    let mut ids = Vec::with_capacity(set.queries.len() * K);
    for vector in set.queries.rows() {
        let evaluate = |filter| segment.payload_index().evaluate(filter, &|id| segment.find(id));
        let matches = look.filter.as_ref().map(evaluate).transpose().map_err(shoal_index::IndexError::PayloadIndex)?;
        let (effort, filter) = (Effort::Recall(effort), matches.as_ref());
        let query = SegmentQuery { vector, k: K, effort, live: None, filter, score_limit: None, stop: &|| false };
        let (hits, _) = segment.search(scratch, &query)?;
        ids.extend(hits.iter().map(|hit| i64::try_from(segment.versions()[hit.offset as usize]).unwrap_or(-1)));
        ids.extend(std::iter::repeat_n(-1, K - hits.len()));
    }
    Ok(Matrix::new(K, ids))
}

fn rows(looks: &[Look], curves: &[Curve]) -> Vec<Row> {
    let plain = curves[0].qps_at(RECALL);
    let ratios: Vec<Option<f64>> = curves[1..].iter().map(|curve| Some(curve.qps_at(RECALL)? / plain?)).collect();
    let worst = ratios.iter().copied().reduce(|a, b| Some(a?.min(b?))).flatten();
    let each = looks[1..]
        .iter()
        .zip(&ratios)
        .map(|(look, ratio)| Row::new(format!("qps_ratio_{}_at_95", look.name), *ratio, "ratio", Better::Higher));
    let worst = Row::new("qps_ratio_worst_filter_at_95", worst, "ratio", Better::Higher).expect(Some(0.5), Some(0.8));
    [Row::new("qps_unfiltered_at_95", plain, "1/s", Better::Higher)].into_iter().chain(each).chain([worst]).collect()
}

fn table(looks: &[Look], curves: &[Curve]) -> String {
    let cells = |(look, curve): (&Look, &Curve)| {
        let qps = curve.qps_at(RECALL).map_or_else(|| "–".to_owned(), number);
        let ends = [curve.0.first(), curve.0.last()];
        let ends = ends.map(|point| point.map_or_else(String::new, |point| format!("{:.4}", point.recall)));
        let fastest = curve.0.iter().map(|point| point.qps).fold(0.0, f64::max);
        let [first, last] = ends;
        vec![look.name.clone(), format!("{:.2} %", 100.0 * look.share), qps, number(fastest), first, last]
    };
    let header = ["filter", "passing", "qps @0.95", "fastest", "least recall", "best recall"];
    columns(&header, looks.iter().zip(curves).map(cells).collect(), &[1, 2, 3, 4, 5])
}
