//! `shoal search|count|get|delete`.

use std::path::Path;

use serde_json::{Map, Value as Json, json};
use shoal_client::{Answer, Consistency, Hit, ReadOptions, Record, SearchOptions};
use shoal_model::{Filter, Payload, PointId, Value};

use crate::args::{CountArgs, DeleteArgs, GetArgs, SearchArgs, VectorArgs};
use crate::command::Context;
use crate::failure::{Exit, Failure};
use crate::json::{self as forms, id_to_json, id_to_text, payload_to_json, value_to_json, vector_to_json};
use crate::output::{self, columns, cut};
use crate::progress::{counted, say};
use crate::rows::Source;

/// Characters of a payload in a table.
const PAYLOAD_WIDTH: usize = 100;
/// Characters of a payload field that was asked for.
const FIELD_WIDTH: usize = 60;

pub(crate) async fn search(context: &Context, args: &SearchArgs) -> Result<(), Failure> {
    let vector = vector(context, &args.collection, &args.vector).await?;
    let options = SearchOptions {
        k: args.k,
        filter: filter(args.filter.as_deref())?,
        min_coverage: Some(args.min_coverage),
        without_payload: args.no_payload,
        payload_fields: args.fields.clone(),
        ..SearchOptions::default()
    };
    let options = args.effort.effort().of(options);
    let answer = context.client.search(&args.collection, &vector, &options).await?;
    output::print(context.format, || hits_table(&answer, args), || answer_json(&answer))?;
    let coverage = &answer.info.coverage;
    say(&format!(
        "{}, {} of {} shards, {:.1} ms in the cluster",
        counted(answer.hits.len(), "hit"),
        coverage.shards_answered,
        coverage.shards_asked,
        answer.info.timings.total_us as f64 / 1000.0
    ));
    if coverage.is_full() {
        return Ok(());
    }
    let gaps: Vec<String> = coverage.gaps.iter().map(|gap| format!("shard {}: {}", gap.shard_id, gap.reason)).collect();
    Err(Failure::new(format!("some shards did not answer: {}", gaps.join("; ")))
        .exit(Exit::Partial)
        .next("shoal status"))
}

/// The vector that the arguments mean.
async fn vector(context: &Context, collection: &str, args: &VectorArgs) -> Result<Vec<f32>, Failure> {
    if let Some(id) = &args.like {
        let options = ReadOptions { with_vectors: true, without_payload: true, ..ReadOptions::default() };
        let found = context.client.get(collection, std::slice::from_ref(id), &options).await?;
        let vector = found.into_iter().next().and_then(|record| record.vector);
        return vector.ok_or_else(|| Failure::new(format!("{collection} has no point {}", id_to_text(id))));
    }
    match (&args.vector, &args.vector_file) {
        (Some(text), _) => vector_from_json(text.as_bytes(), "--vector"),
        (None, Some(file)) if file.extension().is_some_and(|extension| extension == "json") => {
            vector_from_json(&read(file)?, &file.display().to_string())
        }
        (None, Some(file)) => vector_from_row(file, args.row),
        (None, None) => Err(Failure::new("no vector was given").exit(Exit::Usage)),
    }
}

fn usage(problem: impl std::fmt::Display) -> Failure {
    Failure::new(problem).exit(Exit::Usage)
}

fn vector_from_json(text: &[u8], what: &str) -> Result<Vec<f32>, Failure> {
    let json: Json = serde_json::from_slice(text).map_err(|error| usage(format!("{what} is not JSON: {error}")))?;
    forms::vector(&json).map_err(|error| usage(format!("{what}: {error}")))
}

fn vector_from_row(file: &Path, row: u64) -> Result<Vec<f32>, Failure> {
    let mut rows = Source::file(file).open()?;
    rows.skip_to(row)?;
    let point = rows.next_point()?;
    point.map(|point| point.vector).ok_or_else(|| Failure::new(format!("{} has no row {row}", rows.file())))
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| Failure::new(format!("read {}: {error}", file.display())))
}

/// A filter as typed: JSON, or `@FILE` that holds it.
fn filter(text: Option<&str>) -> Result<Filter, Failure> {
    let Some(text) = text else { return Ok(Filter::default()) };
    let bytes = match text.strip_prefix('@') {
        Some(file) => read(Path::new(file))?,
        None => text.as_bytes().to_vec(),
    };
    let json = serde_json::from_slice(&bytes).map_err(|error| usage(format!("the filter is not JSON: {error}")))?;
    forms::filter(&json).map_err(|error| usage(error).next("shoal search --help shows the form of filters"))
}

fn hits_table(answer: &Answer, args: &SearchArgs) -> String {
    let mut header = vec!["#", "score", "id"];
    header.extend(args.fields.iter().map(String::as_str));
    if args.fields.is_empty() && !args.no_payload {
        header.push("payload");
    }
    let row = |(i, hit): (usize, &Hit)| {
        let mut row = vec![(i + 1).to_string(), format!("{:.6}", hit.score), id_to_text(&hit.id)];
        row.extend(args.fields.iter().map(|field| field_text(&hit.payload, field)));
        if args.fields.is_empty() && !args.no_payload {
            row.push(cut(&payload_to_json(&hit.payload).to_string(), PAYLOAD_WIDTH));
        }
        row
    };
    columns(&header, answer.hits.iter().enumerate().map(row).collect(), &[0, 1])
}

fn field_text(payload: &Payload, field: &str) -> String {
    match payload.get(field) {
        None => "-".to_owned(),
        Some(value) => cut(&value_text(value), FIELD_WIDTH),
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        value => value_to_json(value).to_string(),
    }
}

fn answer_json(answer: &Answer) -> Json {
    let hit = |hit: &Hit| {
        let mut json = Map::new();
        json.insert("id".to_owned(), id_to_json(&hit.id));
        json.insert("score".to_owned(), json!(hit.score));
        json.insert("payload".to_owned(), payload_to_json(&hit.payload));
        Json::Object(json)
    };
    json!({
        "hits": answer.hits.iter().map(hit).collect::<Vec<_>>(),
        "metric": answer.metric,
        "index_version": answer.info.index_version,
        "epoch": answer.info.epoch,
        "staleness_ms": answer.info.staleness_ms,
        "coverage": answer.info.coverage,
        "timings": answer.info.timings,
        "work": answer.work,
    })
}

pub(crate) async fn count(context: &Context, args: &CountArgs) -> Result<(), Failure> {
    let filter = filter(args.filter.as_deref())?;
    let count = context.client.count(&args.collection, &filter, &Consistency::Linearizable).await?;
    output::print(context.format, || format!("{count}\n"), || json!({ "count": count }))
}

pub(crate) async fn get(context: &Context, args: &GetArgs) -> Result<(), Failure> {
    let options =
        ReadOptions { consistency: Consistency::Linearizable, with_vectors: args.vectors, ..ReadOptions::default() };
    let records = context.client.get(&args.collection, &args.ids, &options).await?;
    let missing = missing(&args.ids, &records);
    output::print(
        context.format,
        || records.iter().map(record_text).collect::<Vec<_>>().join("\n"),
        || json!({ "points": records.iter().map(record_json).collect::<Vec<_>>() }),
    )?;
    match missing.as_slice() {
        [] => Ok(()),
        ids => Err(Failure::new(format!("{} has no point {}", args.collection, ids.join(", ")))),
    }
}

fn missing(wanted: &[PointId], found: &[Record]) -> Vec<String> {
    let is_missing = |id: &&PointId| !found.iter().any(|record| record.id == **id);
    wanted.iter().filter(is_missing).map(id_to_text).collect()
}

/// A point as lines of field and value.
fn record_text(record: &Record) -> String {
    let mut rows = vec![vec!["id".to_owned(), id_to_text(&record.id)]];
    rows.extend(record.payload.iter().map(|(name, value)| vec![name.clone(), value_text(value)]));
    if let Some(vector) = &record.vector {
        rows.push(vec!["vector".to_owned(), vector_to_json(vector).to_string()]);
    }
    columns(&["field", "value"], rows, &[])
}

fn record_json(record: &Record) -> Json {
    let mut json = json!({ "id": id_to_json(&record.id), "payload": payload_to_json(&record.payload) });
    if let Some(vector) = &record.vector {
        json["vector"] = vector_to_json(vector);
    }
    json
}

pub(crate) async fn delete(context: &Context, args: &DeleteArgs) -> Result<(), Failure> {
    context.client.delete(&args.collection, &args.ids).await?;
    let ids = args.ids.len();
    output::print(
        context.format,
        // The cluster does not say how many of them were there.
        || format!("{} now holds none of these: {}\n", args.collection, counted(ids, "id")),
        || json!({ "collection": args.collection, "ids": ids }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use shoal_client::{AnswerInfo, SearchWork};
    use shoal_model::Metric;

    fn args(line: &str) -> SearchArgs {
        match crate::args::Cli::parse_from(line.split(' ')).command {
            crate::args::Command::Search(args) => args,
            other => panic!("not a search: {other:?}"),
        }
    }

    fn answer() -> Answer {
        let payload = |name: &str| -> Payload {
            [("name".to_owned(), Value::Text(name.into())), ("n".to_owned(), Value::Integer(3))].into()
        };
        let hit = |id, score, name| Hit { id, score, vector: None, payload: payload(name) };
        Answer {
            hits: vec![hit(PointId::Number(7), 0.75, "dosbox"), hit(PointId::Text("key".into()), 0.5, "two\nlines")],
            metric: Metric::Cosine,
            info: AnswerInfo::default(),
            work: SearchWork::default(),
        }
    }

    #[test]
    fn hits_are_shown_with_the_fields_asked_for() {
        for (line, want) in [
            (
                "shoal search c --like 1 --fields name,missing",
                "#     SCORE  ID   NAME       MISSING\n\
                 1  0.750000  7    dosbox     -\n\
                 2  0.500000  key  two lines  -\n",
            ),
            ("shoal search c --like 1 --no-payload", "#     SCORE  ID\n1  0.750000  7\n2  0.500000  key\n"),
            (
                "shoal search c --like 1",
                "#     SCORE  ID   PAYLOAD\n\
                 1  0.750000  7    {\"n\":3,\"name\":\"dosbox\"}\n\
                 2  0.500000  key  {\"n\":3,\"name\":\"two\\nlines\"}\n",
            ),
        ] {
            assert_eq!(hits_table(&answer(), &args(line)), want, "{line}");
        }
    }

    #[test]
    fn points_are_shown_in_full() {
        let long = "word ".repeat(40);
        let payload = [("t".to_owned(), Value::Text(format!("{long}\u{1b}[0m")))].into();
        let text = record_text(&Record { id: PointId::Text("17".into()), vector: None, payload });
        assert_eq!(text, format!("FIELD  VALUE\nid     text:17\nt      {long}\\u{{1b}}[0m\n"));
    }

    #[test]
    fn json_answers_hold_everything() {
        let json = answer_json(&answer());
        assert_eq!(json["hits"][0], json!({ "id": 7, "score": 0.75, "payload": { "n": 3, "name": "dosbox" } }));
        for field in ["metric", "index_version", "epoch", "staleness_ms", "coverage", "timings", "work"] {
            assert!(!json[field].is_null(), "{field} is documented");
        }
    }
}
