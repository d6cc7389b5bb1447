//! `bench merge`: merging two halves of a set against building all of it from scratch, in the same run.

use std::path::PathBuf;

use rayon::{ThreadPool, ThreadPoolBuilder};
use shoal_index::segment::{Effort, MergePart, Rows, Scratch, Segment, Target};

use crate::curve::{median, recall};
use crate::error::BenchError;
use crate::machine::{Machine, warn_if_busy};
use crate::report::{self, Better, Report, Row, columns, number};
use crate::segment::{Answers, Tier, answer, parameters, rows};
use crate::set::Set;
use crate::stopwatch::{Elapsed, Stopwatch};

/// Answers wanted of each query.
const K: usize = 10;

/// Recalls that are wanted of the graph that was built, as names of rows have them and as numbers.
const WANTED: [(&str, f32); 3] = [("90", 0.90), ("95", 0.95), ("99", 0.99)];

/// How often each way is timed, in turns, and with `--quick`; the median counts.
const ROUNDS: usize = 3;
const QUICK_ROUNDS: usize = 1;

/// Merging two halves of a set: its cost and its recall against those of a build from scratch.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the data set
    #[arg(long, value_name = "DIR")]
    set: PathBuf,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Time each way once; the same gates
    #[arg(long)]
    quick: bool,
    /// Parts that are merged, of one size; the gates are those of two
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "N")]
    parts: u16,
    /// How segments keep vectors
    #[arg(long, value_enum, default_value_t = Tier::None)]
    tier: Tier,
    /// Threads that build and merge
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    threads: u16,
}

/// Runs it, prints the tables, writes what was asked for.
pub(crate) fn run(args: &Args) -> Result<Report, BenchError> {
    args.json.iter().try_for_each(|path| report::check_writable(path))?;
    let set = Set::open(&args.set)?;
    set.check_k(K, &args.set)?;
    let machine = Machine::read();
    let about = set.about(args.quick);
    println!("{}, recall@{K}\n{}\n", about.line(), machine.line());
    warn_if_busy();
    let pool = ThreadPoolBuilder::new().num_threads(usize::from(args.threads)).build()?;
    let measured =
        Measured::new(&set, args.tier, usize::from(args.parts), &pool, if args.quick { QUICK_ROUNDS } else { ROUNDS })?;
    println!("{}", measured.table());
    let rows = measured.rows();
    let report =
        Report { bench: "merge", commit: report::commit(), machine, data: vec![about], rows, contenders: vec![] };
    println!("{}", report.rows_table());
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    Ok(report)
}

/// What was found out.
struct Measured {
    /// Each time a build of all took, and a merge.
    builds: Vec<Elapsed>,
    merges: Vec<Elapsed>,
    /// For each of [`WANTED`].
    asked: Vec<Pair>,
    unreachable: u64,
}

/// What both graphs answer where a recall is wanted.
struct Pair {
    built: Asked,
    /// At as many hops.
    merged: Asked,
    /// Where the same recall is wanted.
    merged_where_wanted: Asked,
}

/// What a graph answers at one effort.
struct Asked {
    recall: f64,
    /// Points visited for a query, on average.
    hops: f64,
}

impl Measured {
    fn new(set: &Set, tier: Tier, parts: usize, pool: &ThreadPool, rounds: usize) -> Result<Self, BenchError> {
        let whole = rows(set, 0..set.base.len());
        let build =
            |rows: &Rows| pool.install(|| Segment::build(rows, &parameters(set, tier), &Target::Memory, &|| false));
        // Every other row: each part has points in all regions, so that every list of neighbours must change.
        let part = |first| build(&rows(set, (first..set.base.len()).step_by(parts)));
        let segments = (0..parts).map(part).collect::<Result<Vec<Segment>, _>>()?;
        let parts: Vec<MergePart<'_>> = segments.iter().map(|segment| MergePart { segment, live: None }).collect();
        let merge = || pool.install(|| Segment::merge(&parts, &parameters(set, tier), &Target::Memory, &|| false));
        let (mut built, mut merged) = (build(&whole)?, merge()?);
        let (mut builds, mut merges) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            for turn in 0..2 {
                let watch = Stopwatch::start();
                if (round + turn) % 2 == 0 {
                    built = build(&whole)?;
                    builds.push(watch.elapsed());
                } else {
                    merged = merge()?;
                    merges.push(watch.elapsed());
                }
            }
            eprintln!("round {} of {rounds} measured", round + 1);
        }
        let asked = WANTED.iter().map(|(_, wanted)| Pair::new(set, &built, &merged, *wanted));
        let asked = asked.collect::<Result<_, BenchError>>()?;
        Ok(Self { builds, merges, asked, unreachable: merged.unreachable() })
    }

    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn rows(&self) -> Vec<Row> {
        let seconds = |times: &[Elapsed]| median(&times.iter().map(|time| time.seconds).collect::<Vec<_>>());
        let core_seconds = |times: &[Elapsed]| median(&times.iter().map(|time| time.core_seconds).collect::<Vec<_>>());
        let ratio = |of: &dyn Fn(&[Elapsed]) -> Option<f64>| Some(of(&self.merges)? / of(&self.builds)?);
        let unreachable = Some(self.unreachable as f64);
        let mut rows = vec![
            Row::new("build_seconds", seconds(&self.builds), "s", Better::Lower),
            Row::new("merge_seconds", seconds(&self.merges), "s", Better::Lower),
            Row::new("merge_ratio", ratio(&seconds), "ratio", Better::Lower).expect(Some(0.5), Some(0.3)),
            Row::new("merge_core_ratio", ratio(&core_seconds), "ratio", Better::Lower),
        ];
        for ((label, _), Pair { built, merged, merged_where_wanted }) in WANTED.iter().zip(&self.asked) {
            let points = Some(100.0 * (merged.recall - built.recall));
            let points = Row::new(format!("merge_recall_points_at_{label}"), points, "points", Better::Higher);
            let hops = Some(merged.hops / built.hops);
            let wanted = Some(merged_where_wanted.recall);
            rows.push(points.expect(Some(-0.5), None));
            rows.push(Row::new(format!("merge_hops_ratio_at_{label}"), hops, "ratio", Better::Lower));
            rows.push(Row::new(format!("merge_recall_where_wanted_{label}"), wanted, "share", Better::Higher));
        }
        rows.push(Row::new("merge_unreachable", unreachable, "points", Better::Lower).expect(Some(0.0), None));
        rows
    }

    /// What both graphs answer, for people.
    fn table(&self) -> String {
        let cells = |((label, _), pair): (&(&str, f32), &Pair)| {
            let Pair { built, merged, merged_where_wanted } = pair;
            let recalls = [built, merged, merged_where_wanted].map(|asked| format!("{:.4}", asked.recall));
            let hops = [built, merged, merged_where_wanted].map(|asked| number(asked.hops));
            let cells = recalls.into_iter().zip(hops).flat_map(|(recall, hops)| [recall, hops]);
            [format!("0.{label}")].into_iter().chain(cells).collect()
        };
        let header = ["wanted", "built", "hops", "merged, as many hops", "hops", "merged, as wanted", "hops"];
        columns(&header, WANTED.iter().zip(&self.asked).map(cells).collect(), &[1, 2, 3, 4, 5, 6])
    }
}

impl Pair {
    fn new(set: &Set, built: &Segment, merged: &Segment, wanted: f32) -> Result<Self, BenchError> {
        let effort = Effort::Recall(wanted);
        let built = Asked::new(set, built, effort)?;
        let (merged, merged_where_wanted) = (Asked::at(set, merged, built.hops)?, Asked::new(set, merged, effort)?);
        Ok(Self { built, merged, merged_where_wanted })
    }
}

impl Asked {
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn new(set: &Set, segment: &Segment, effort: Effort) -> Result<Self, BenchError> {
        let Answers { ids, hops } = answer(segment, &mut Scratch::new(), &set.queries, K, effort)?;
        Ok(Self { recall: recall(&set.truth, &ids, K), hops: hops as f64 / set.queries.len() as f64 })
    }

    /// At so many hops: between the two beams that cost a little less and a little more. A beam stands for hops on the
    /// segment's own points, and queries may be harder.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    fn at(set: &Set, segment: &Segment, hops: f64) -> Result<Self, BenchError> {
        let (mut low, mut high) = (1, 4 * hops.ceil() as usize + 1);
        let mut below = Self::new(set, segment, Effort::Beam(low))?;
        let mut above = Self::new(set, segment, Effort::Beam(high))?;
        while high - low > 1 {
            let middle = low.midpoint(high);
            let asked = Self::new(set, segment, Effort::Beam(middle))?;
            if asked.hops < hops { (low, below) = (middle, asked) } else { (high, above) = (middle, asked) }
        }
        let share = ((hops - below.hops) / (above.hops - below.hops).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
        let between = |from: f64, to: f64| from + (to - from) * share;
        Ok(Self { recall: between(below.recall, above.recall), hops: between(below.hops, above.hops) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::clustered;
    use crate::exact::Exact;

    #[test]
    fn a_small_set_has_all_rows_and_loses_no_point() {
        let mut set = clustered::set(24, 1_500, 20, 3);
        set.truth = Exact::build(&set, K).search(&set.queries).expect("a fitting query is answered");
        let pool = ThreadPoolBuilder::new().num_threads(2).build().expect("threads start");
        let measured = Measured::new(&set, Tier::None, 2, &pool, 1).expect("nothing fails");
        assert_eq!((measured.builds.len(), measured.merges.len()), (1, 1));
        let rows = measured.rows();
        assert!(rows.iter().all(|row| row.value.is_some_and(f64::is_finite)), "{rows:?}");
        let unreachable = rows.iter().find(|row| row.name == "merge_unreachable").expect("it is among the rows");
        assert_eq!((unreachable.value, unreachable.met_gate), (Some(0.0), Some(true)));
    }
}
