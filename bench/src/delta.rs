//! `bench delta`: what a search of fresh points costs on one core, by codes and by comparing every vector.

pub(crate) mod clustered;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use shoal_index::{Certainty, Delta, DeltaView, Query, SearchStats};
use shoal_model::PointId;

use crate::curve::{median, recall};
use crate::error::BenchError;
use crate::machine::{Machine, Pinned, measuring_core, warn_if_busy};
use crate::npy::Matrix;
use crate::report;
use crate::report::{Better, Report, Row, number};
use crate::set::Set;

/// Answers wanted of each query.
const K: usize = 10;

/// Points of a delta.
const POINTS: usize = 20_000;

/// Queries asked of it at most, and with `--quick`.
const QUERIES: usize = 500;
const QUICK_QUERIES: usize = 100;

/// How often each query is asked each way; the median counts.
const ROUNDS: usize = 5;

/// How each query is asked.
const WAYS: [Certainty; 3] = [Certainty::Sure, Certainty::Likely, Certainty::Exact];

/// Queries for which the middle one of all points is looked for.
const MIDDLES: usize = 20;

/// Decides the synthetic points.
const SEED: u64 = 20_768;

/// Decides which rows of a data set are taken, and their order.
const SHUFFLE_SEED: u64 = 1;

/// Search of 20,000 fresh points on one core: by codes, and of every vector.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of a data set to search too: 20,000 rows of it
    #[arg(long, value_name = "DIR")]
    set: Vec<PathBuf>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer queries; the same gates
    #[arg(long)]
    quick: bool,
}

/// Runs it, prints the table, writes what was asked for.
pub(crate) fn run(args: &Args) -> Result<Report, BenchError> {
    args.json.iter().try_for_each(|path| report::check_writable(path))?;
    let queries = if args.quick { QUICK_QUERIES } else { QUERIES };
    let machine = Machine::read();
    println!("{}\nseeds: points {SEED}, rows of data sets {SHUFFLE_SEED}", machine.line());
    warn_if_busy();
    let core = measuring_core()?;
    let (mut data, mut rows) = (Vec::new(), Vec::new());
    for (label, gate, set) in sets(args, queries) {
        let set = set?;
        let about = set.about(args.quick);
        let measured = Measured::new(&set, core)?;
        println!("{}\n  {}", about.line(), measured.scene());
        rows.extend(measured.rows(&label, gate));
        data.push(about);
    }
    let report = Report { bench: "delta", commit: report::commit(), machine, data, rows, contenders: Vec::new() };
    println!("\n{}", report.rows_table());
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    Ok(report)
}

/// What is measured, one after the other: how rows of the report call it, what its median must not exceed, the points.
fn sets(args: &Args, queries: usize) -> impl Iterator<Item = (String, Option<f64>, Result<Set, BenchError>)> {
    let synthetic = [(384, None), (768, Some(1.0))]
        .map(|(dim, gate)| (dim.to_string(), gate, Ok(clustered::set(dim, POINTS, queries, SEED))));
    let real = args.set.iter().map(move |folder| {
        let set = Set::open(folder).map(|mut set| {
            set.base = clustered::sample(&set.base, POINTS, SHUFFLE_SEED);
            set.limit_queries(queries);
            set
        });
        (set.as_ref().map_or_else(|_| String::new(), |set| set.name.clone()), None, set)
    });
    synthetic.into_iter().chain(real)
}

/// What was found out about one set.
struct Measured {
    /// Milliseconds of each query.
    codes_ms: Vec<f64>,
    likely_ms: Vec<f64>,
    exact_ms: Vec<f64>,
    recall: f64,
    likely_recall: f64,
    /// Rows whose vector was compared, of each query.
    refined: Vec<f64>,
    upsert_us: f64,
    bytes_per_vector: f64,
    /// Scores of the `K`-th nearest of each query, and of the middle one of all points of some.
    kth: Vec<f64>,
    middle: Vec<f64>,
}

impl Measured {
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn new(set: &Set, core: usize) -> Result<Self, BenchError> {
        let _pinned = Pinned::to(core)?;
        let (mut delta, upsert_us) = fill(set);
        let view = delta.publish();
        let (mut codes_ms, mut likely_ms, mut exact_ms) = (Vec::new(), Vec::new(), Vec::new());
        let (mut found, mut likely_found, mut truth, mut refined) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut kth, mut middle) = (Vec::new(), Vec::new());
        for vector in set.queries.rows().take(MIDDLES) {
            middle.extend(last_score(&view, vector, view.len() / 2)?);
        }
        for vector in set.queries.rows() {
            kth.extend(last_score(&view, vector, K)?);
            let mut answers = WAYS.map(|_| Answer::default());
            for round in 0..ROUNDS {
                // In turns, each way first as often as the others.
                for turn in 0..WAYS.len() {
                    let way = (round + turn) % WAYS.len();
                    answers[way].ask(&view, vector, WAYS[way])?;
                }
            }
            let [codes, likely, exact] = answers;
            codes_ms.push(codes.median_ms());
            likely_ms.push(likely.median_ms());
            exact_ms.push(exact.median_ms());
            refined.push(codes.stats.scanned as f64);
            found.extend(codes.ids);
            likely_found.extend(likely.ids);
            truth.extend(exact.ids);
        }
        let truth = Matrix::new(K, truth);
        let of = |found| recall(&truth, &Matrix::new(K, found), K);
        let (recall, likely_recall) = (of(found), of(likely_found));
        let bytes_per_vector = delta.memory_bytes() as f64 / delta.len() as f64;
        Ok(Self {
            codes_ms,
            likely_ms,
            exact_ms,
            recall,
            likely_recall,
            refined,
            upsert_us,
            bytes_per_vector,
            kth,
            middle,
        })
    }

    /// How far the nearest stand out, which decides how much codes spare.
    fn scene(&self) -> String {
        let middle = |scores: &[f64]| median(scores).map_or_else(String::new, number);
        format!("median score of the {K}th nearest {}, of all points {}", middle(&self.kth), middle(&self.middle))
    }

    fn rows(&self, label: &str, gate_ms: Option<f64>) -> Vec<Row> {
        let row = |name: &str, value, unit, better| Row::new(format!("delta_{name}_{label}"), value, unit, better);
        let ratio = median(&self.exact_ms).zip(median(&self.codes_ms)).map(|(exact, codes)| exact / codes);
        vec![
            row("scan_ms", median(&self.codes_ms), "ms", Better::Lower).expect(gate_ms, None),
            row("scan_p99_ms", percentile(&self.codes_ms, 0.99), "ms", Better::Lower).expect(None, gate_ms),
            row("likely_ms", median(&self.likely_ms), "ms", Better::Lower),
            row("likely_p99_ms", percentile(&self.likely_ms, 0.99), "ms", Better::Lower),
            row("exact_ms", median(&self.exact_ms), "ms", Better::Lower),
            row("exact_p99_ms", percentile(&self.exact_ms, 0.99), "ms", Better::Lower),
            row("speedup", ratio, "ratio", Better::Higher),
            row("recall", Some(self.recall), "share", Better::Higher).expect(Some(0.9999), None),
            row("likely_recall", Some(self.likely_recall), "share", Better::Higher).expect(Some(0.998), None),
            row("refined", median(&self.refined), "rows", Better::Lower),
            row("refined_p99", percentile(&self.refined, 0.99), "rows", Better::Lower),
            row("upsert_us", Some(self.upsert_us), "µs", Better::Lower),
            row("bytes_per_vector", Some(self.bytes_per_vector), "B", Better::Lower),
        ]
    }
}

/// What a query was answered one way, and in what times.
#[derive(Default)]
struct Answer {
    ms: Vec<f64>,
    ids: Vec<i64>,
    stats: SearchStats,
}

impl Answer {
    fn ask(&mut self, view: &DeltaView, vector: &[f32], certainty: Certainty) -> Result<(), BenchError> {
        let query = Query { vector, k: K, filter: None, score_limit: None, certainty, stop: &|| false };
        let started = Instant::now();
        let (found, stats) = view.search(&query)?;
        self.ms.push(started.elapsed().as_secs_f64() * 1e3);
        self.ids = found.iter().map(|found| row(&found.id)).collect();
        self.stats = stats;
        Ok(())
    }

    fn median_ms(&self) -> f64 {
        median(&self.ms).unwrap_or(f64::NAN)
    }
}

/// A delta of every vector of a set, published now and then as it fills, and the microseconds that each took. Its codes are
/// around the centre of one before it, as where points keep coming.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn fill(set: &Set) -> (Delta, f64) {
    let dim = u32::try_from(set.base.columns()).expect("a dimension is no larger than a file's header says");
    let mut before = Delta::new(dim, set.metric);
    for (row, vector) in (0_u64..).zip(set.base.rows()) {
        before.upsert(PointId::Number(row), row, vector, Bytes::new());
    }
    let mut delta = Delta::around(dim, set.metric, before.center());
    drop(before);
    let mut view: Option<Arc<DeltaView>> = None;
    let started = Instant::now();
    for (row, vector) in (0_u64..).zip(set.base.rows()) {
        delta.upsert(PointId::Number(row), row, vector, Bytes::new());
        if row % 16 == 0 {
            view = Some(delta.publish());
        }
    }
    drop(view);
    let us = started.elapsed().as_secs_f64() * 1e6 / set.base.len() as f64;
    (delta, us)
}

/// The score of the `k`-th nearest.
fn last_score(view: &DeltaView, vector: &[f32], k: usize) -> Result<Option<f64>, BenchError> {
    let query = Query { vector, k, filter: None, score_limit: None, certainty: Certainty::Exact, stop: &|| false };
    Ok(view.search(&query)?.0.last().map(|found| f64::from(found.score)))
}

/// The row that a point came from.
fn row(id: &PointId) -> i64 {
    match id {
        PointId::Number(number) => i64::try_from(*number).unwrap_or(-1),
        _ => -1,
    }
}

/// The value that a share of the values do not exceed.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small counts")]
fn percentile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_find_what_is_there_and_synthetic_points_are_those_of_their_seed() {
        let set = || clustered::set(32, 500, 20, 3);
        assert_eq!(set().base, set().base);
        let measured = Measured::new(&set(), measuring_core().expect("some core is allowed")).expect("nothing fails");
        assert!((measured.recall - 1.0).abs() < 1e-12, "{}", measured.recall);
        assert_eq!((measured.codes_ms.len(), measured.refined.len()), (20, 20));
        let rows = measured.rows("32", Some(1e9));
        assert!(rows.iter().all(|row| row.value.is_some() && row.met_gate != Some(false)), "{rows:?}");
    }

    #[test]
    fn a_sample_is_of_the_rows_there_are() {
        let base = Matrix::new(1, (0..9).map(|i| i as f32).collect());
        let mut sample: Vec<f32> = clustered::sample(&base, 20, 1).rows().map(|row| row[0]).collect();
        sample.sort_by(f32::total_cmp);
        assert_eq!(sample, (0..9).map(|i| i as f32).collect::<Vec<_>>());
        assert_eq!(clustered::sample(&base, 4, 1).len(), 4);
    }

    #[test]
    fn percentiles_are_values() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 0.99), Some(198.0));
        assert_eq!(percentile(&values, 1.0), Some(200.0));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
