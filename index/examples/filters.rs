//! Measures the payload index on `debian-packages`: its size, and the ten filters that come with the set.
//!
//! Compares how many points pass with what the set says. Run with
//! `cargo run --release -p shoal-index --example filters -- DIR [TIMES]`, where DIR holds `docs.jsonl.gz` and
//! `filters.json`. With TIMES the set is taken as often, for a larger segment.

#![allow(clippy::unwrap_used, reason = "a measurement")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Instant;

use flate2::read::GzDecoder;
use serde_json::Value as Json;
use shoal_index::packed;
use shoal_index::payload_index::PayloadIndex;
use shoal_model::{Condition, Filter, Payload, Predicate, Range, Scalar, Value};

const ROUNDS: u32 = 400;

fn main() {
    let dir = PathBuf::from(std::env::args().nth(1).expect("the folder of the data set"));
    let times = std::env::args().nth(2).map_or(1, |times| times.parse().unwrap());
    let payloads = vec![payloads(&dir); times].concat();
    let started = Instant::now();
    let bytes = PayloadIndex::build(payloads.iter().map(Vec::as_slice));
    let built = started.elapsed();
    let points = u32::try_from(payloads.len()).unwrap();
    let index = PayloadIndex::open(&bytes[..], points).unwrap();
    let (open, verify) = (micros(|| PayloadIndex::open(&bytes[..], points)), Instant::now());
    index.verify().unwrap();
    let (verify, each) = (verify.elapsed(), bytes.len() as f64 / f64::from(points));
    println!("{points} points: {} bytes, {each:.1} a point; built in {built:?}", bytes.len());
    println!("open {open:.2} us, verify {verify:?}");
    if times == 1 {
        print_fields(&payloads);
    }
    println!("{:18} {:>7} {:>6} {:>12} {:>12}  estimate", "filter", "passing", "", "evaluate us", "estimate us");
    for case in serde_json::from_reader::<_, Vec<Json>>(File::open(dir.join("filters.json")).unwrap()).unwrap() {
        let filter = filter(&case["filter"]);
        let matches = index.evaluate(&filter, &|_| None).unwrap();
        let right = if Some(u64::from(matches.len())) == case["matching"].as_u64().map(|count| count * times as u64) {
            "right"
        } else {
            "WRONG"
        };
        let evaluate = micros(|| index.evaluate(&filter, &|_| None));
        let estimate = micros(|| index.estimate(&filter));
        let e = index.estimate(&filter).unwrap();
        let name = case["name"].as_str().unwrap();
        print!("{name:18} {:>7} {right:>6} {evaluate:>12.2} {estimate:>12.2}", matches.len());
        println!("  {} to {}, likely {:.0}", e.low, e.high, e.likely);
    }
    print_ranges(&index);
}

/// Ranges of every width, on a column of few values a number and one of many.
fn print_ranges(index: &PayloadIndex<&[u8]>) {
    for (key, bounds) in [
        ("installed_kib", [50_000.0, 5_000.0, 1_000.0, 300.0, 150.0, 80.0, 40.0, 0.0]),
        ("download_bytes", [5e7, 5e6, 1e6, 2e5, 1e5, 3e4, 1e4, 0.0]),
    ] {
        for gte in bounds {
            let predicate = Predicate::Range(Range { gte: Some(gte), ..Range::default() });
            let filter = Filter { must: vec![Condition::Field { key: key.into(), predicate }], ..Filter::default() };
            let passing = index.evaluate(&filter, &|_| None).unwrap().len();
            let micros = micros(|| index.evaluate(&filter, &|_| None));
            println!("{key} >= {gte}: {passing} pass, {micros:.2} us");
        }
    }
}

/// What an index of one field alone takes.
fn print_fields(payloads: &[Vec<u8>]) {
    let mut fields = BTreeMap::<String, Vec<(usize, Value)>>::new();
    for (offset, payload) in payloads.iter().enumerate() {
        for (name, value) in packed::decode(payload).unwrap() {
            fields.entry(name).or_default().push((offset, value));
        }
    }
    for (name, values) in fields {
        let mut alone = vec![packed::encode(&Payload::new()); payloads.len()];
        for (offset, value) in values {
            alone[offset] = packed::encode(&[(name.clone(), value)].into());
        }
        let bytes = PayloadIndex::build(alone.iter().map(Vec::as_slice)).len();
        println!("  {name:15} {bytes:>9} bytes, {:.2} a point", bytes as f64 / payloads.len() as f64);
    }
}

fn micros<T>(run: impl Fn() -> T) -> f64 {
    let mut times: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            std::hint::black_box(run());
            started.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6
}

fn payloads(dir: &Path) -> Vec<Vec<u8>> {
    let lines = BufReader::new(GzDecoder::new(File::open(dir.join("docs.jsonl.gz")).unwrap())).lines();
    lines.map(|line| packed::encode(&payload(serde_json::from_str(&line.unwrap()).unwrap()))).collect()
}

fn payload(doc: serde_json::Map<String, Json>) -> Payload {
    doc.into_iter().filter(|(name, _)| name != "id").map(|(name, json)| (name, value(json))).collect()
}

fn value(json: Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(value),
        Json::Number(number) => number.as_i64().map_or_else(|| Value::Double(number.as_f64().unwrap()), Value::Integer),
        Json::String(text) => Value::Text(text),
        Json::Array(items) => Value::List(items.into_iter().map(value).collect()),
        Json::Object(fields) => Value::Object(fields.into_iter().map(|(name, json)| (name, value(json))).collect()),
    }
}

fn filter(json: &Json) -> Filter {
    let clause = |name: &str| json[name].as_array().into_iter().flatten().map(condition).collect();
    Filter { must: clause("must"), should: clause("should"), must_not: clause("must_not") }
}

fn condition(json: &Json) -> Condition {
    let predicate = if let Some(values) = json["any"].as_array() {
        Predicate::Any(values.iter().map(scalar).collect())
    } else if let Some(null) = json["is_null"].as_bool() {
        Predicate::IsNull(null)
    } else if let Some(range) = json["range"].as_object() {
        let bound = |name: &str| range.get(name).and_then(Json::as_f64);
        Predicate::Range(Range { gt: bound("gt"), gte: bound("gte"), lt: bound("lt"), lte: bound("lte") })
    } else {
        Predicate::Match(scalar(&json["match"]))
    };
    Condition::Field { key: json["key"].as_str().unwrap().to_owned(), predicate }
}

fn scalar(json: &Json) -> Scalar {
    match value(json.clone()) {
        Value::Bool(value) => Scalar::Bool(value),
        Value::Integer(number) => Scalar::Integer(number),
        Value::Double(number) => Scalar::Double(number),
        Value::Text(text) => Scalar::Text(text),
        value => panic!("a filter cannot compare with {value:?}"),
    }
}
