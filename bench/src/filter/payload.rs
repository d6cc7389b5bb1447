//! Payload and filters of a data set, from their files.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::Value as Json;
use shoal_index::packed;
use shoal_model::{Condition, Filter, Payload, Predicate, Range, Scalar, Value};

use crate::error::BenchError;

/// A filter of a set, and what the set says about it.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) filter: Filter,
    /// Share of the points that pass.
    pub(super) share: f64,
}

/// Packed payload of each row, from `docs.jsonl.gz`.
pub(super) fn payloads(folder: &Path) -> Result<Vec<Vec<u8>>, BenchError> {
    let path = folder.join("docs.jsonl.gz");
    let file = File::open(&path).map_err(BenchError::io(format!("read {}", path.display())))?;
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    let packed = |(number, line): (usize, std::io::Result<String>)| {
        let line = line.map_err(BenchError::io(format!("read {}", path.display())))?;
        let doc: serde_json::Map<String, Json> = serde_json::from_str(&line)
            .map_err(|error| bad(folder, format!("line {} of docs.jsonl.gz: {error}", number + 1)))?;
        let fields: Option<Payload> =
            doc.into_iter().filter(|(name, _)| name != "id").map(|(name, json)| Some((name, value(json)?))).collect();
        let payload = fields.ok_or_else(|| bad(folder, format!("line {}: a number is too large", number + 1)))?;
        Ok(packed::encode(&payload))
    };
    lines.enumerate().map(packed).collect()
}

/// The filters of a set, from `filters.json`.
pub(super) fn cases(folder: &Path) -> Result<Vec<Case>, BenchError> {
    #[derive(Deserialize)]
    struct Entry {
        name: String,
        filter: Json,
        share: f64,
    }
    let path = folder.join("filters.json");
    let file = File::open(&path).map_err(BenchError::io(format!("read {}", path.display())))?;
    let entries: Vec<Entry> =
        serde_json::from_reader(file).map_err(|error| bad(folder, format!("filters.json: {error}")))?;
    let case = |Entry { name, filter: json, share }: Entry| {
        let filter = filter(&json).ok_or_else(|| bad(folder, format!("filters.json: {name} is no filter")))?;
        Ok(Case { name, filter, share })
    };
    entries.into_iter().map(case).collect()
}

fn bad(folder: &Path, problem: String) -> BenchError {
    BenchError::Set { path: folder.to_owned(), problem }
}

/// `None` if a number fits neither `i64` nor `f64`.
fn value(json: Json) -> Option<Value> {
    Some(match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(value),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::Integer(number),
            None => Value::Double(number.as_f64()?),
        },
        Json::String(text) => Value::Text(text),
        Json::Array(items) => Value::List(items.into_iter().map(value).collect::<Option<_>>()?),
        Json::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, json)| Some((name, value(json)?))).collect::<Option<_>>()?)
        }
    })
}

fn filter(json: &Json) -> Option<Filter> {
    let clause = |name: &str| json[name].as_array().into_iter().flatten().map(condition).collect::<Option<Vec<_>>>();
    Some(Filter { must: clause("must")?, should: clause("should")?, must_not: clause("must_not")? })
}

fn condition(json: &Json) -> Option<Condition> {
    let predicate = if let Some(values) = json["any"].as_array() {
        Predicate::Any(values.iter().map(scalar).collect::<Option<_>>()?)
    } else if let Some(null) = json["is_null"].as_bool() {
        Predicate::IsNull(null)
    } else if let Some(range) = json["range"].as_object() {
        let bound = |name: &str| range.get(name).and_then(Json::as_f64);
        Predicate::Range(Range { gt: bound("gt"), gte: bound("gte"), lt: bound("lt"), lte: bound("lte") })
    } else {
        Predicate::Match(scalar(&json["match"])?)
    };
    Some(Condition::Field { key: json["key"].as_str()?.to_owned(), predicate })
}

fn scalar(json: &Json) -> Option<Scalar> {
    Some(match value(json.clone())? {
        Value::Bool(value) => Scalar::Bool(value),
        Value::Integer(number) => Scalar::Integer(number),
        Value::Double(number) => Scalar::Double(number),
        Value::Text(text) => Scalar::Text(text),
        Value::Null | Value::List(_) | Value::Object(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_as_the_sets_write_them() {
        let json = serde_json::json!({
            "must": [{"key": "a", "match": "x"}, {"key": "b", "range": {"gte": 3, "lt": 4.5}}],
            "must_not": [{"key": "c", "any": [1, true]}, {"key": "d", "is_null": true}],
        });
        let filter = filter(&json).expect("it is a filter");
        let field = |key: &str, predicate| Condition::Field { key: key.to_owned(), predicate };
        let range = Range { gte: Some(3.0), lt: Some(4.5), ..Range::default() };
        assert_eq!(
            filter.must,
            [field("a", Predicate::Match(Scalar::Text("x".to_owned()))), field("b", Predicate::Range(range))]
        );
        let any = Predicate::Any(vec![Scalar::Integer(1), Scalar::Bool(true)]);
        assert_eq!(filter.must_not, [field("c", any), field("d", Predicate::IsNull(true))]);
        assert_eq!(super::filter(&serde_json::json!({"must": [{"match": 3}]})), None);
    }
}
