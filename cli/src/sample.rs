//! The sample collection that is built into the binary: Debian packages, and questions with known answers.

use std::io::Cursor;

use serde::Deserialize;
use shoal_model::Metric;

use crate::eval::inputs;
use crate::eval::metrics::Truth;
use crate::failure::Failure;
use crate::rows::{Rows, RowsError, unpacked};

/// Name of the collection.
pub(crate) const NAME: &str = "packages";
/// How its nearness is measured.
pub(crate) const METRIC: Metric = Metric::Cosine;

const BASE: &[u8] = include_bytes!("../sample/base.npy");
const DOCS: &[u8] = include_bytes!("../sample/docs.jsonl.gz");
const QUERIES: &[u8] = include_bytes!("../sample/queries.npy");
const TEXTS: &str = include_str!("../sample/queries.jsonl");
const TRUTH_IDS: &[u8] = include_bytes!("../sample/truth_ids.npy");
const TRUTH_DISTANCES: &[u8] = include_bytes!("../sample/truth_dist.npy");

/// A question.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Question {
    /// What somebody wrote about a program.
    pub(crate) text: String,
    /// The program.
    pub(crate) package: String,
}

/// The points.
pub(crate) fn rows() -> Result<Rows, RowsError> {
    let payload = ("sample/docs.jsonl.gz".to_owned(), unpacked(Cursor::new(DOCS)));
    Rows::new("sample/base.npy".to_owned(), Box::new(Cursor::new(BASE)), Some(payload), None)
}

/// The query vectors.
pub(crate) fn queries() -> Result<Vec<Vec<f32>>, Failure> {
    let mut rows = Rows::new("sample/queries.npy".to_owned(), Box::new(Cursor::new(QUERIES)), None, None)?;
    let mut queries = Vec::new();
    while let Some(point) = rows.next_point()? {
        queries.push(point.vector);
    }
    Ok(queries)
}

/// What the queries ask.
pub(crate) fn questions() -> Result<Vec<Question>, Failure> {
    let parse =
        |line| serde_json::from_str(line).map_err(|error| Failure::new(format!("sample/queries.jsonl: {error}")));
    TEXTS.lines().map(parse).collect()
}

/// The exact answers of `queries` queries.
pub(crate) fn truth(queries: usize) -> Result<Vec<Truth>, Failure> {
    let ids = inputs::Named { name: "sample/truth_ids.npy".to_owned(), bytes: Box::new(Cursor::new(TRUTH_IDS)) };
    let distances =
        inputs::Named { name: "sample/truth_dist.npy".to_owned(), bytes: Box::new(Cursor::new(TRUTH_DISTANCES)) };
    let all = inputs::truth(ids, Some(distances), None, queries)?;
    Ok(all.into_iter().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_whole() {
        let mut rows = rows().expect("built in");
        assert_eq!(rows.dim(), 384);
        let mut names = std::collections::BTreeSet::new();
        while let Some(point) = rows.next_point().expect("well-formed") {
            names.insert(format!("{:?}", point.payload["name"]));
        }
        assert_eq!(names.len() as u64, rows.position(), "no package comes twice");
        assert!((4_500..5_500).contains(&names.len()), "{} rows", names.len());
        let queries = queries().expect("built in");
        assert_eq!((queries.len(), questions().expect("built in").len()), (50, 50));
        assert_eq!(truth(50).expect("built in")[49].ids.len(), 100);
    }

    #[test]
    fn the_sample_stays_small() {
        let size = BASE.len() + DOCS.len() + QUERIES.len() + TEXTS.len() + TRUTH_IDS.len() + TRUTH_DISTANCES.len();
        assert!(size <= 8 << 20, "{size} bytes, 8 MiB are allowed");
    }

    #[test]
    fn its_truth_is_the_exact_answer() {
        let mut rows = rows().expect("built in");
        let mut base = Vec::new();
        while let Some(point) = rows.next_point().expect("well-formed") {
            base.push(point.vector);
        }
        let queries = queries().expect("built in");
        let truth = truth(queries.len()).expect("built in");
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        for query in [0, 17, 49] {
            let vector = &queries[query];
            let distance = |row: &Vec<f32>| 1.0 - dot(row, vector) / (dot(row, row) * dot(vector, vector)).sqrt();
            let mut all: Vec<(f64, i64)> = base.iter().map(distance).zip(0..).collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let ids: Vec<i64> = all.iter().take(100).map(|(_, row)| *row).collect();
            assert_eq!(ids, truth[query].ids, "query {query}");
        }
    }
}
