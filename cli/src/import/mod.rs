//! `shoal import`: points from a file into a collection, continued where an earlier run was cut short.

pub(crate) mod acked;
pub(crate) mod load;
pub(crate) mod state;

use std::time::{Duration, Instant};

use serde_json::json;
use shoal_client::{Client, Collection, NewCollection};
use shoal_model::{Classify as _, ErrorKind};

use self::acked::Mark;
use self::load::Load;
use self::state::{State, StateFile, Target};
use crate::args::ImportArgs;
use crate::command::Context;
use crate::failure::Failure;
use crate::output;
use crate::progress::{Progress, counted, grouped, rate, say, whole};
use crate::rows::{Rows, RowsError, Source};

/// How often progress is noted on disk.
const SAVE_EVERY: Duration = Duration::from_millis(500);

impl From<RowsError> for Failure {
    fn from(error: RowsError) -> Self {
        Self::new(error)
    }
}

/// Runs `shoal import`.
pub(crate) async fn run(context: &Context, args: &ImportArgs) -> Result<(), Failure> {
    let source = Source { file: args.file.clone(), payload: args.payload.clone(), id_field: args.id_field.clone() };
    let rows = source.open()?;
    let collection = find_or_create(&context.client, args, rows.dim()).await?;
    if collection.dim != rows.dim() {
        let problem = format!(
            "{} has vectors of {} components, collection {} takes {}",
            rows.file(),
            rows.dim(),
            collection.name,
            collection.dim
        );
        return Err(Failure::new(problem).next("give another file or collection"));
    }
    let cluster = context.client.status().await?.cluster_id;
    let target = Target { cluster, collection: collection.id };
    let state = StateFile::locate(args.state.as_deref(), &args.collection, &source)?;
    if args.restart {
        state.remove();
    }
    let rows = match state.resume(&target) {
        Some(mark) => resume(&source, rows, mark)?,
        None => rows,
    };
    let load = Load {
        client: context.client.clone(),
        collection: args.collection.clone(),
        metric: collection.metric,
        batch: args.batch as usize,
        concurrency: args.concurrency as usize,
        limit: args.limit,
        give_up_after: args.give_up_after,
    };
    let begun = rows.position();
    if let Some(limit) = args.limit.filter(|limit| begun > 0 && *limit <= begun) {
        return report_nothing(context, &args.collection, begun, limit);
    }
    let started = Instant::now();
    let end = load_noting(&load, rows, &state, &target, args).await?;
    if begun > 0 && args.limit.is_some() {
        // Part of a longer import, which may go on from here.
        state.save(&State { file: args.file.clone(), target, rows: end.rows, digest: end.digest })?;
    } else {
        state.remove();
    }
    report(context, &args.collection, begun, end.rows, started.elapsed())
}

/// The collection to import into; one that is missing is created where that was asked for.
async fn find_or_create(client: &Client, args: &ImportArgs, dim: u32) -> Result<Collection, Failure> {
    match client.describe_collection(&args.collection).await {
        Ok(collection) => match contradiction(&collection, args) {
            None => Ok(collection),
            Some((option, has)) => {
                let problem = format!("{option}: collection {} is there already and has {has}", collection.name);
                Err(Failure::new(problem).next("leave the option out, or import into a collection with another name"))
            }
        },
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        Err(error) => match args.metric.filter(|_| args.create) {
            Some(metric) => {
                let new = NewCollection {
                    shards: args.spread.shards,
                    replicas: args.spread.replicas,
                    witness: args.spread.witness,
                    embedding: args.spread.embedding.clone(),
                    graph: args.graph.options(),
                    ..NewCollection::new(&args.collection, dim, metric)
                };
                Ok(client.create_collection(new).await?)
            }
            None => Err(Failure::from(error).next(format!(
                "repeat with --create --metric cosine|dot|euclidean to create it with {dim} dimensions"
            ))),
        },
    }
}

/// An option for a collection that is created which the one that is there does not agree with, and what that has.
fn contradiction(there: &Collection, args: &ImportArgs) -> Option<(&'static str, String)> {
    let ImportArgs { metric, spread, graph, .. } = args;
    let shards = there.shards.len();
    [
        ("--metric", metric.is_none_or(|metric| metric == there.metric), there.metric.name().to_owned()),
        ("--shards", spread.shards == 0 || spread.shards as usize == shards, counted(shards, "shard")),
        ("--embedding", ["", &there.embedding].contains(&spread.embedding.as_str()), format!("{:?}", there.embedding)),
        (
            "--ef-construction",
            graph.ef_construction.is_none_or(|width| width == there.graph.ef_construction),
            there.graph.ef_construction.to_string(),
        ),
        (
            "--quantization",
            graph.quantization.is_none_or(|tier| tier == there.graph.quantization),
            there.graph.quantization.name().to_owned(),
        ),
        ("--seed", graph.seed.is_none_or(|seed| seed == there.graph.seed), there.graph.seed.to_string()),
    ]
    .into_iter()
    .find_map(|(option, agrees, has)| (!agrees).then_some((option, has)))
}

/// `rows` behind `mark`, if the rows before it are those that were sent; otherwise from the start.
fn resume(source: &Source, mut rows: Rows, mark: Mark) -> Result<Rows, Failure> {
    let reached = matches!(rows.skip_to(mark.rows), Ok(true));
    if reached && rows.digest() == mark.digest {
        say(&format!("continuing behind the first {} rows, which an earlier run has stored", grouped(mark.rows)));
        return Ok(rows);
    }
    say("the rows that an earlier run has stored have changed since: beginning at the first row");
    Ok(source.open()?)
}

/// Loads `rows`, and notes on disk how far it has come.
async fn load_noting(
    load: &Load,
    rows: Rows,
    state: &StateFile,
    target: &Target,
    args: &ImportArgs,
) -> Result<Mark, Failure> {
    let total = rows.total().map(|total| args.limit.map_or(total, |limit| limit.min(total))).or(args.limit);
    let progress = Progress::new(format!("import {}", load.collection), "rows", total);
    progress.begin_at(rows.position());
    let save = |mark: Mark| {
        let file = args.file.clone();
        state.save(&State { file, target: target.clone(), rows: mark.rows, digest: mark.digest })
    };
    let mut latest = Mark { rows: rows.position(), digest: rows.digest() };
    let mut saved = Instant::now();
    let note = |mark: Mark| {
        latest = mark;
        if saved.elapsed() >= SAVE_EVERY {
            saved = Instant::now();
            save(mark)?;
        }
        Ok(())
    };
    let result = load.run(rows, &progress, note).await;
    progress.finish();
    if result.is_err() {
        save(latest)?;
        tracing::info!(state = %state.path().display(), rows = latest.rows, "progress noted");
    }
    result
}

/// Says that an earlier run has stored all that was asked for.
fn report_nothing(context: &Context, collection: &str, stored: u64, limit: u64) -> Result<(), Failure> {
    output::print(
        context.format,
        || {
            format!(
                "nothing to import into {collection}: an earlier run has stored the first {} rows, --limit asks for {} \
                 (--restart sends them again)\n",
                grouped(stored),
                grouped(limit)
            )
        },
        || {
            json!({
                "collection": collection, "rows": 0, "rows_before": stored, "seconds": 0.0, "rows_per_second": 0.0,
            })
        },
    )
}

fn report(context: &Context, collection: &str, begun: u64, end: u64, took: Duration) -> Result<(), Failure> {
    let (rows, per_second) = (end - begun, rate(end - begun, took));
    let seconds = took.as_secs_f64();
    output::print(
        context.format,
        || {
            let earlier = if begun > 0 { format!(" ({} by an earlier run)", grouped(begun)) } else { String::new() };
            format!(
                "imported {} into {collection} in {seconds:.1} s, {} rows/s{earlier}\n",
                counted(usize::try_from(rows).unwrap_or(usize::MAX), "row"),
                whole(per_second)
            )
        },
        || {
            json!({
                "collection": collection, "rows": rows, "rows_before": begun,
                "seconds": seconds, "rows_per_second": per_second,
            })
        },
    )
}
