//! `shoal eval`: recall, ranking quality and latency of a collection, with and without filters.

pub(crate) mod inputs;
pub(crate) mod metrics;
pub(crate) mod run;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use serde_json::json;
use shoal_client::{Collection, SearchOptions};

use self::inputs::{Named, NamedFilter};
use self::metrics::{Gains, Truth};
use self::run::{Measurement, Right, Summary};
use crate::args::EvalArgs;
use crate::command::Context;
use crate::effort::Effort;
use crate::failure::{Exit, Failure};
use crate::output::{self, columns};
use crate::progress::{Progress, rate, whole};

/// Everything that the files say.
struct Inputs {
    queries: Vec<Vec<f32>>,
    truth: Option<Vec<Truth>>,
    filters: Vec<NamedFilter>,
    /// By filter.
    filtered: Option<Vec<Vec<Truth>>>,
    judgments: Option<(BTreeMap<String, Gains>, Vec<String>)>,
}

/// Runs `shoal eval`.
pub(crate) async fn run(context: &Context, args: &EvalArgs) -> Result<(), Failure> {
    let inputs = read(args)?;
    inputs.check_k(args.k as usize)?;
    let collection = context.client.describe_collection(&args.collection).await?;
    inputs.check_dim(args, &collection)?;
    let measurement = Measurement {
        client: &context.client,
        collection: &args.collection,
        queries: &inputs.queries,
        concurrency: args.concurrency as usize,
        batch: args.batch as usize,
        doc_key: args.doc_key.as_deref(),
    };
    let mut summaries = Vec::new();
    if inputs.truth.is_some() || inputs.judgments.is_some() {
        let right = Right {
            truth: inputs.truth.as_deref(),
            judgments: inputs.judgments.as_ref().map(|(judgments, names)| (judgments, names.as_slice())),
        };
        for effort in args.efforts.each() {
            summaries.push(measure(&measurement, args, None, effort, right).await?);
        }
    }
    for (i, filter) in inputs.filters.iter().enumerate() {
        let truth = inputs.filtered.as_ref().and_then(|filtered| filtered.get(i)).map(Vec::as_slice);
        for effort in args.efforts.each() {
            let right = Right { truth, judgments: None };
            summaries.push(measure(&measurement, args, Some(filter), effort, right).await?);
        }
    }
    output::print(
        context.format,
        || table(&summaries),
        || json!({ "collection": args.collection, "rows": summaries }),
    )?;
    verdict(&summaries)
}

impl Inputs {
    /// Truth of fewer than `k` answers a query cannot tell what recall at `k` is.
    fn check_k(&self, k: usize) -> Result<(), Failure> {
        let filtered = self.filtered.iter().flatten().flatten();
        let width = self.truth.iter().flatten().chain(filtered).map(|truth| truth.ids.len()).min();
        match width {
            Some(width) if width < k => {
                let problem = format!("-k is {k}, and the truth has {width} answers for each query");
                Err(Failure::new(problem).exit(Exit::Usage).next(format!("ask for -k {width} at most")))
            }
            _ => Ok(()),
        }
    }

    fn check_dim(&self, args: &EvalArgs, collection: &Collection) -> Result<(), Failure> {
        let dim = self.queries.first().map_or(0, Vec::len);
        if dim == collection.dim as usize {
            return Ok(());
        }
        let (file, name, wanted) = (args.queries.display(), &collection.name, collection.dim);
        let problem = format!("{file} has vectors of {dim} components, collection {name} has {wanted}");
        Err(Failure::new(problem).next("give other queries or another collection"))
    }
}

fn read(args: &EvalArgs) -> Result<Inputs, Failure> {
    let queries = inputs::queries(&args.queries, args.limit)?;
    let count = queries.len();
    let truth = match &args.truth {
        Some(ids) => read_truth(ids, args.truth_dist.as_deref(), None, count)?.into_iter().next(),
        None => None,
    };
    let filters = args.filters.as_deref().map(inputs::filters).transpose()?.unwrap_or_default();
    let filtered = match &args.filtered_truth {
        Some(ids) => Some(read_truth(ids, args.filtered_dist.as_deref(), Some(filters.len()), count)?),
        None => None,
    };
    let judgments = match &args.qrels {
        Some(file) => {
            let rows = || Ok((0..count).map(|row| row.to_string()).collect());
            let names = args.query_ids.as_ref().map_or_else(rows, |names| inputs::query_names(names, count))?;
            Some((inputs::judgments(file)?, names))
        }
        None => None,
    };
    Ok(Inputs { queries, truth, filters, filtered, judgments })
}

/// Exact answers from files.
fn read_truth(
    ids: &Path,
    distances: Option<&Path>,
    slices: Option<usize>,
    queries: usize,
) -> Result<Vec<Vec<Truth>>, Failure> {
    inputs::truth(Named::open(ids)?, distances.map(Named::open).transpose()?, slices, queries)
}

async fn measure(
    measurement: &Measurement<'_>,
    args: &EvalArgs,
    filter: Option<&NamedFilter>,
    effort: Effort,
    right: Right<'_>,
) -> Result<Summary, Failure> {
    let name = filter.map(|filter| filter.name.clone());
    let options = SearchOptions {
        k: args.k,
        filter: filter.map(|filter| filter.filter.clone()).unwrap_or_default(),
        min_coverage: Some(0.0),
        without_payload: args.doc_key.is_none(),
        payload_fields: args.doc_key.clone().into_iter().collect(),
        ..SearchOptions::default()
    };
    let what = name.as_ref().map_or("eval".to_owned(), |name| format!("eval {name}"));
    let what = if effort == Effort::default() { what } else { format!("{what}, {}", effort.name()) };
    let progress = Progress::new(what, "queries", Some(measurement.queries.len() as u64));
    let started = Instant::now();
    let outcomes = measurement.run(&effort.of(options), &progress).await;
    let elapsed = started.elapsed();
    progress.finish();
    measurement.check_names(&outcomes, right)?;
    let summary = measurement.summarise(&outcomes, args.k as usize, right);
    let answered = (summary.queries - summary.errors) as u64;
    Ok(Summary { filter: name, effort, qps: Some(rate(answered, elapsed)), ..summary })
}

/// A row for each filter and effort. Columns that say nothing are left out.
fn table(summaries: &[Summary]) -> String {
    let k = summaries.first().map_or(0, |summary| summary.k);
    let share = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
    let judged = summaries.iter().any(|summary| summary.ndcg.is_some());
    let efforts = summaries.iter().any(|summary| summary.effort != Effort::default());
    let mut header = vec!["filter".to_owned()];
    if efforts {
        header.push("effort".to_owned());
    }
    let named = header.len();
    header.extend(["queries".to_owned(), format!("recall@{k}")]);
    if judged {
        header.extend([
            format!("precision@{k}"),
            format!("mrr@{k}"),
            format!("ndcg@{k}"),
            format!("judged recall@{k}"),
        ]);
    }
    header.push("qps".to_owned());
    header
        .extend(["p50 ms", "p95 ms", "p99 ms", "mean ms", "hops", "distances", "errors", "partial"].map(str::to_owned));
    let row = |summary: &Summary| {
        let mut row = vec![summary.filter.clone().unwrap_or_else(|| "(none)".to_owned())];
        if efforts {
            row.push(summary.effort.name());
        }
        row.extend([summary.queries.to_string(), share(summary.recall)]);
        if judged {
            row.extend([summary.precision, summary.mrr, summary.ndcg, summary.judged_recall].map(share));
        }
        let number = |value: Option<f64>| value.map_or("-".to_owned(), whole);
        row.push(number(summary.qps));
        let latency = &summary.latency_ms;
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        row.extend([latency.p50, latency.p95, latency.p99, latency.mean].map(ms));
        row.extend([summary.hops, summary.distances].map(number));
        row.extend([summary.errors.to_string(), summary.partial.to_string()]);
        row
    };
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let right: Vec<usize> = (named..header.len()).collect();
    columns(&header, summaries.iter().map(row).collect(), &right)
}

/// Fails if any query failed, or was answered in part.
fn verdict(summaries: &[Summary]) -> Result<(), Failure> {
    let (mut queries, mut errors, mut partial) = (0, 0, 0);
    for summary in summaries {
        queries += summary.queries;
        errors += summary.errors;
        partial += summary.partial;
    }
    let first = summaries.iter().find_map(|summary| summary.first_error.as_deref());
    match first {
        None if partial == 0 => Ok(()),
        None => Err(Failure::new(format!("{partial} of {queries} answers lack a shard"))
            .exit(Exit::Partial)
            .next("shoal status")),
        Some(first) => {
            let exit = if errors == queries { Exit::Failed } else { Exit::Partial };
            let message = format!("{errors} of {queries} queries failed; the first: {first}");
            Err(Failure::new(message).exit(exit).next("shoal status"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::run::Latency;
    use super::*;

    fn summary() -> Summary {
        Summary {
            queries: 495,
            k: 10,
            recall: Some(1.0),
            qps: Some(1_234.4),
            hops: Some(42.25),
            distances: Some(1_351.5),
            latency_ms: Latency { mean: Some(2.0), p50: Some(1.5), p95: Some(3.25), p99: Some(4.0) },
            ..Summary::default()
        }
    }

    #[test]
    fn tables_have_a_row_for_each_filter_and_effort() {
        let filtered = Summary { filter: Some("big".into()), recall: Some(0.99996), partial: 2, ..summary() };
        let want = "\
FILTER  QUERIES  RECALL@10    QPS  P50 MS  P95 MS  P99 MS  MEAN MS  HOPS  DISTANCES  ERRORS  PARTIAL
(none)      495     1.0000  1,234    1.50    3.25    4.00     2.00    42      1,352       0        0
big         495     1.0000  1,234    1.50    3.25    4.00     2.00    42      1,352       0        2
";
        assert_eq!(table(&[summary(), filtered.clone()]), want);
        let effort = Effort { ef_search: Some(64), ..Effort::default() };
        let want = "\
FILTER  EFFORT   QUERIES  RECALL@10    QPS  P50 MS  P95 MS  P99 MS  MEAN MS  HOPS  DISTANCES  ERRORS  PARTIAL
(none)  default      495     1.0000  1,234    1.50    3.25    4.00     2.00    42      1,352       0        0
big     ef 64        495     1.0000  1,234    1.50    3.25    4.00     2.00    42      1,352       0        2
";
        assert_eq!(table(&[summary(), Summary { effort, ..filtered }]), want);
    }

    #[test]
    fn k_must_be_within_the_truth() {
        let truth = |width| vec![Truth { ids: vec![1; width], distances: vec![] }];
        let inputs = |plain: Option<usize>, filtered: Option<usize>| Inputs {
            queries: vec![vec![1.0]],
            truth: plain.map(truth),
            filters: vec![],
            filtered: filtered.map(|width| vec![truth(width)]),
            judgments: None,
        };
        for (name, inputs, want) in [
            ("no truth", inputs(None, None), None),
            ("as wide", inputs(Some(10), None), None),
            ("too narrow", inputs(Some(9), None), Some(Exit::Usage)),
            ("too narrow under filters", inputs(Some(100), Some(5)), Some(Exit::Usage)),
        ] {
            assert_eq!(inputs.check_k(10).err().map(|failure| failure.exit), want, "{name}");
        }
    }

    #[test]
    fn judgments_add_columns() {
        let judged = Summary { recall: None, ndcg: Some(0.6461), mrr: Some(0.6), precision: Some(0.09), ..summary() };
        let text = table(&[judged]);
        assert!(text.contains("NDCG@10") && text.contains("0.6461"), "{text}");
    }

    #[test]
    fn failures_and_gaps_show_in_the_exit_code() {
        let failed = |errors| Summary { errors, first_error: Some("why".into()), ..summary() };
        for (name, summaries, want) in [
            ("fine", vec![summary()], None),
            ("partial", vec![summary(), Summary { partial: 1, ..summary() }], Some(Exit::Partial)),
            ("some failed", vec![failed(3)], Some(Exit::Partial)),
            ("all failed", vec![failed(495)], Some(Exit::Failed)),
        ] {
            assert_eq!(verdict(&summaries).err().map(|failure| failure.exit), want, "{name}");
        }
    }
}
