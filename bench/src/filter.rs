//! `bench filter`: throughput under each filter of a set, against that without one, in the same run.

mod payload;

use std::path::PathBuf;

use bytes::Bytes;
use rayon::ThreadPoolBuilder;
use shoal_index::payload_index::Matches;
use shoal_index::segment::{Effort, Packed, Parameters, Rows, Scratch, Segment, SegmentQuery, Target};
use shoal_model::{Filter, PointId};

use crate::curve::{Curve, Point, median, recall};
use crate::error::BenchError;
use crate::machine::{Machine, Pinned, measuring_core, warn_if_busy};
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
const EFFORTS: [f32; 11] = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998];

/// Samples of each filter at each effort, in turns.
const ROUNDS: usize = 5;

/// Of the rotation and the order of points; a constant, so that figures compare.
const SEED: u64 = 1;

/// Search under filters on one thread, with filters that are kept and with new ones.
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
    warn_if_busy();
    let mut looks = vec![Look { name: "(none)".to_owned(), filter: None, share: 1.0, truth: set.truth.clone() }];
    looks.extend(filtered(&args.set, &set)?);
    let segment = build(&set, payloads(&args.set)?)?;
    let sweeps = sweep(&segment, &set, &looks)?;
    let rows = rows(&looks, &sweeps);
    println!("{}\n{COLUMNS}", table(&looks, &sweeps));
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

/// What a look came to, effort by effort.
#[derive(Clone, Default)]
struct Sweep {
    /// With the filter evaluated and packed before, as a replica has those that many queries have.
    kept: Curve,
    /// Evaluating the filter for each query anew.
    new: Curve,
    /// Points estimated by a query with a filter that is kept, and points compared; the median over all queries.
    work: Vec<[u64; 2]>,
}

/// Every look at every effort, taking turns on one core.
fn sweep(segment: &Segment, set: &Set, looks: &[Look]) -> Result<Vec<Sweep>, BenchError> {
    let _pinned = Pinned::to(measuring_core()?)?;
    let mut scratch = Scratch::new();
    let mut sweeps = vec![Sweep::default(); looks.len()];
    let kept = looks.iter().map(|look| Kept::new(segment, look)).collect::<Result<Vec<_>, _>>()?;
    for effort in EFFORTS {
        let mut seconds = vec![[vec![], vec![]]; looks.len()];
        let mut recalls = Vec::new();
        for ((look, kept), sweep) in looks.iter().zip(&kept).zip(&mut sweeps) {
            let (ids, work) = ask(segment, &mut scratch, set, look, kept.as_ref(), effort)?;
            let (new_ids, _) = ask(segment, &mut scratch, set, look, None, effort)?;
            recalls.push([ids, new_ids].map(|ids| recall(&look.truth, &ids, K)));
            sweep.work.push(work);
        }
        for round in 0..ROUNDS {
            for place in 0..looks.len() {
                let at = (place + round) % looks.len();
                for (kept, seconds) in [kept[at].as_ref(), None].into_iter().zip(&mut seconds[at]) {
                    let watch = Stopwatch::start();
                    ask(segment, &mut scratch, set, &looks[at], kept, effort)?;
                    seconds.push(watch.elapsed().core_seconds);
                }
            }
        }
        for ((sweep, recalls), seconds) in sweeps.iter_mut().zip(recalls).zip(&seconds) {
            for ((curve, recall), seconds) in [&mut sweep.kept, &mut sweep.new].into_iter().zip(recalls).zip(seconds) {
                #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
                let qps = set.queries.len() as f64 / median(seconds).unwrap_or(f64::NAN);
                curve.0.push(Point { recall, qps });
            }
        }
        eprintln!("effort {effort} measured");
    }
    Ok(sweeps)
}

/// What passes a filter, as a replica keeps it.
struct Kept {
    matches: Matches,
    packed: Option<Packed>,
}

impl Kept {
    fn new(segment: &Segment, look: &Look) -> Result<Option<Self>, BenchError> {
        let keep = |matches| Self { packed: segment.pack(&matches), matches };
        Ok(evaluate(segment, look)?.map(keep))
    }
}

fn evaluate(segment: &Segment, look: &Look) -> Result<Option<Matches>, BenchError> {
    let evaluate = |filter| segment.payload_index().evaluate(filter, &|id| segment.find(id));
    Ok(look.filter.as_ref().map(evaluate).transpose().map_err(shoal_index::IndexError::PayloadIndex)?)
}

/// Answers all queries: queries × k, and the median of what each estimated and compared.
fn ask(
    segment: &Segment,
    scratch: &mut Scratch,
    set: &Set,
    look: &Look,
    kept: Option<&Kept>,
    effort: f32,
) -> Result<(Matrix<i64>, [u64; 2]), BenchError> {
    let mut ids = Vec::with_capacity(set.queries.len() * K);
    let mut work = [vec![], vec![]];
    for vector in set.queries.rows() {
        let new = if kept.is_none() { evaluate(segment, look)? } else { None };
        let (filter, packed) = match kept {
            Some(Kept { matches, packed }) => (Some(matches), packed.as_ref()),
            None => (new.as_ref(), None),
        };
        let effort = Effort::Recall(effort);
        let query =
            SegmentQuery { vector, k: K, effort, live: None, filter, packed, score_limit: None, stop: &|| false };
        let (hits, stats) = segment.search(scratch, &query)?;
        ids.extend(hits.iter().map(|hit| i64::try_from(segment.versions()[hit.offset as usize]).unwrap_or(-1)));
        ids.extend(std::iter::repeat_n(-1, K - hits.len()));
        work[0].push(stats.estimated);
        work[1].push(stats.hops);
    }
    let middle = work.map(|mut counts| {
        counts.sort_unstable();
        counts.get(counts.len() / 2).copied().unwrap_or(0)
    });
    Ok((Matrix::new(K, ids), middle))
}

fn rows(looks: &[Look], sweeps: &[Sweep]) -> Vec<Row> {
    let plain = sweeps[0].kept.qps_at(RECALL);
    let ratio = |curve: &Curve| Some(curve.qps_at(RECALL)? / plain?);
    let worst = |ratios: &[Option<f64>]| ratios.iter().copied().reduce(|a, b| Some(a?.min(b?))).flatten();
    let curves: [fn(&Sweep) -> &Curve; 2] = [|sweep| &sweep.kept, |sweep| &sweep.new];
    let [kept, new] = curves.map(|of| sweeps[1..].iter().map(|sweep| ratio(of(sweep))).collect::<Vec<_>>());
    let row = |name: String, value| Row::new(name, value, "ratio", Better::Higher);
    let mut rows = vec![Row::new("qps_unfiltered_at_95", plain, "1/s", Better::Higher)];
    for ((look, kept), new) in looks[1..].iter().zip(&kept).zip(&new) {
        rows.push(row(format!("qps_ratio_{}_at_95", look.name), *kept));
        rows.push(row(format!("qps_ratio_{}_new_at_95", look.name), *new));
    }
    rows.push(row("qps_ratio_worst_filter_new_at_95".to_owned(), worst(&new)));
    rows.push(row("qps_ratio_worst_filter_at_95".to_owned(), worst(&kept)).expect(Some(0.5), Some(0.8)));
    rows
}

/// What the columns of [`table`] say.
const COLUMNS: &str = "qps @0.95: where .95 is found; ratio: to that without a filter, new: where the filter is evaluated \
                       for each query;\nasked: the recall asked for that first found .95, found: what it found; estimated, \
                       compared: points in a median query\n";

fn table(looks: &[Look], sweeps: &[Sweep]) -> String {
    let plain = sweeps[0].kept.qps_at(RECALL);
    let line = |(look, sweep): (&Look, &Sweep)| {
        let points = &sweep.kept.0;
        let at = points.iter().position(|point| point.recall >= RECALL).unwrap_or(points.len() - 1);
        let shown = |value: Option<f64>, show: fn(f64) -> String| value.map_or_else(|| "–".to_owned(), show);
        let ratio = |curve: &Curve| {
            shown(curve.qps_at(RECALL).zip(plain).map(|(own, plain)| own / plain), |ratio| format!("{ratio:.2}"))
        };
        vec![
            look.name.clone(),
            format!("{:.2} %", 100.0 * look.share),
            shown(sweep.kept.qps_at(RECALL), number),
            ratio(&sweep.kept),
            ratio(&sweep.new),
            format!("{}", EFFORTS[at]),
            format!("{:.4}", points[at].recall),
            sweep.work[at][0].to_string(),
            sweep.work[at][1].to_string(),
        ]
    };
    let header = ["filter", "passing", "qps @0.95", "ratio", "new", "asked", "found", "estimated", "compared"];
    columns(&header, looks.iter().zip(sweeps).map(line).collect(), &[1, 2, 3, 4, 5, 6, 7, 8])
}
