//! Makes the sample that `shoal up` ships, from the data set debian-packages.
//!
//! Run it where that set is: `cargo run -p shoal-cli --example make_sample -- ../shared/data/debian-packages cli/sample`.
//! It chooses 50 queries (every ninth), every 13th package, and the packages that those queries were written for; numbers the rows anew in their old order; and computes the exact
//! answers for those rows in float64, ties by row number. The same input gives the same files.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use half::f16;
use npyz::{AutoSerialize, NpyFile, Serialize, WriteOptions, WriterBuilder as _};
use serde_json::Value as Json;

const QUERIES: usize = 50;
const QUERY_EVERY: usize = 9;
const ROW_EVERY: usize = 13;
const TRUTH: usize = 100;

type Fallible<T> = Result<T, Box<dyn Error>>;

fn main() -> Fallible<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(from), Some(to)) = (arguments.next(), arguments.next()) else {
        return Err("usage: make_sample FOLDER-OF-DEBIAN-PACKAGES FOLDER-OF-SAMPLE".into());
    };
    let (base, dim) = read_array(&from.join("base.npy"))?;
    let (all_queries, _) = read_array(&from.join("queries.npy"))?;
    let docs = read_objects(&from.join("docs.jsonl.gz"))?;
    let texts = read_objects(&from.join("queries.jsonl.gz"))?;

    let chosen: Vec<usize> = (0..texts.len()).step_by(QUERY_EVERY).take(QUERIES).collect();
    let wanted = chosen.iter().map(|query| texts[*query]["package_id"].as_u64().ok_or("a query without package"));
    let wanted = wanted.map(|row| Ok(usize::try_from(row?)?)).collect::<Fallible<BTreeSet<usize>>>()?;
    let rows: Vec<usize> =
        (0..docs.len()).filter(|row| row.is_multiple_of(ROW_EVERY) || wanted.contains(row)).collect();

    let vector = |array: &[f16], row: usize| array[row * dim..(row + 1) * dim].to_vec();
    let vectors: Vec<Vec<f16>> = rows.iter().map(|row| vector(&base, *row)).collect();
    let queries: Vec<Vec<f16>> = chosen.iter().map(|query| vector(&all_queries, *query)).collect();

    fs::create_dir_all(&to)?;
    write_array(&to.join("base.npy"), &[vectors.len(), dim], &vectors.concat())?;
    write_array(&to.join("queries.npy"), &[queries.len(), dim], &queries.concat())?;
    write_docs(&to.join("docs.jsonl.gz"), rows.iter().map(|row| docs[*row].clone()))?;
    write_queries(&to.join("queries.jsonl"), chosen.iter().map(|query| &texts[*query]))?;
    let truth: Vec<(i32, f32)> =
        queries.iter().map(|query| nearest(query, &vectors)).collect::<Fallible<Vec<_>>>()?.concat();
    let (ids, distances): (Vec<i32>, Vec<f32>) = truth.into_iter().unzip();
    write_array(&to.join("truth_ids.npy"), &[queries.len(), TRUTH], &ids)?;
    write_array(&to.join("truth_dist.npy"), &[queries.len(), TRUTH], &distances)?;
    println!("{} rows, {} queries", vectors.len(), queries.len());
    Ok(())
}

fn read_array(path: &Path) -> Fallible<(Vec<f16>, usize)> {
    let file = NpyFile::new(BufReader::new(File::open(path)?))?;
    let dim = usize::try_from(*file.shape().get(1).ok_or("not rows × components")?)?;
    Ok((file.into_vec()?, dim))
}

fn read_objects(path: &Path) -> Fallible<Vec<Json>> {
    let lines = BufReader::new(MultiGzDecoder::new(File::open(path)?)).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

fn write_array<T: Serialize + AutoSerialize + Copy>(path: &Path, shape: &[usize], values: &[T]) -> Fallible<()> {
    let shape: Vec<u64> = shape.iter().map(|length| *length as u64).collect();
    let mut writer = WriteOptions::new().default_dtype().shape(&shape).writer(File::create(path)?).begin_nd()?;
    writer.extend(values.iter().copied())?;
    Ok(writer.finish()?)
}

/// Payload by row, with the new row numbers.
fn write_docs(path: &Path, docs: impl Iterator<Item = Json>) -> Fallible<()> {
    let mut file = GzEncoder::new(File::create(path)?, Compression::best());
    for (row, mut doc) in docs.enumerate() {
        doc["id"] = row.into();
        writeln!(file, "{doc}")?;
    }
    file.finish()?.flush()?;
    Ok(())
}

/// Text and package of each query.
fn write_queries<'a>(path: &Path, texts: impl Iterator<Item = &'a Json>) -> Fallible<()> {
    let mut file = File::create(path)?;
    for (row, text) in texts.enumerate() {
        writeln!(file, "{}", serde_json::json!({ "id": row, "text": text["text"], "package": text["package"] }))?;
    }
    Ok(())
}

/// The nearest rows and their cosine distances.
fn nearest(query: &[f16], rows: &[Vec<f16>]) -> Fallible<Vec<(i32, f32)>> {
    let mut all: Vec<(f64, usize)> = rows.iter().map(|row| 1.0 - cosine(query, row)).zip(0..).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    #[allow(clippy::cast_possible_truncation, reason = "distances are kept as float32")]
    all.into_iter().take(TRUTH).map(|(distance, row)| Ok((i32::try_from(row)?, distance as f32))).collect()
}

fn cosine(a: &[f16], b: &[f16]) -> f64 {
    let dot = |a: &[f16], b: &[f16]| a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64()).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
