//! A data set: vectors, queries, and the exact answers to them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_model::Metric;

use crate::error::BenchError;
use crate::npy::{self, Matrix};

/// A data set in memory. Vectors and queries are unit vectors where the metric is cosine.
pub(crate) struct Set {
    /// What `meta.json` calls it.
    pub(crate) name: String,
    /// How nearness is measured.
    pub(crate) metric: Metric,
    /// The vectors; the number of a row is the id of the point.
    pub(crate) base: Matrix<f32>,
    /// What is searched for.
    pub(crate) queries: Matrix<f32>,
    /// For each query the rows of `base` nearest to it, nearest first.
    pub(crate) truth: Matrix<i64>,
}

/// What a report says about a set.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct About {
    pub(crate) name: String,
    pub(crate) metric: Metric,
    pub(crate) dim: usize,
    pub(crate) vectors: usize,
    pub(crate) queries: usize,
    /// Whether `--quick` cut the queries or the time.
    pub(crate) quick: bool,
}

impl About {
    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let Self { name, metric, dim, vectors, queries, quick } = self;
        let quick = if *quick { ", a quick run" } else { "" };
        format!("{name}: {vectors} × {dim}, {}, {queries} queries{quick}", metric.name())
    }
}

#[derive(Deserialize)]
struct Meta {
    name: String,
    metric: Metric,
    dim: usize,
}

impl Set {
    /// Reads `meta.json`, `base.npy`, `queries.npy` and `truth_ids.npy` of a folder.
    ///
    /// Errors: `Set` if a file is missing, malformed, or of another shape than the rest.
    pub(crate) fn open(folder: &Path) -> Result<Self, BenchError> {
        let wrong = |file: &str, problem: String| BenchError::Set { path: folder.join(file), problem };
        let text = fs::read_to_string(folder.join("meta.json"))
            .map_err(|error| wrong("meta.json", format!("cannot be read: {error}")))?;
        let meta: Meta = serde_json::from_str(&text).map_err(|error| wrong("meta.json", error.to_string()))?;
        let vectors = |file: &str| {
            let vectors = npy::read_vectors(&folder.join(file)).map_err(|problem| wrong(file, problem))?;
            match vectors.columns() == meta.dim {
                true if vectors.len() > 0 => Ok(vectors),
                true => Err(wrong(file, "holds no rows".to_owned())),
                false => Err(wrong(file, format!("has {} columns, meta.json says {}", vectors.columns(), meta.dim))),
            }
        };
        let (base, queries) = (vectors("base.npy")?, vectors("queries.npy")?);
        let truth = npy::read_ids(&folder.join("truth_ids.npy")).map_err(|problem| wrong("truth_ids.npy", problem))?;
        if truth.len() != queries.len() {
            let problem = format!("answers {} queries, there are {}", truth.len(), queries.len());
            return Err(wrong("truth_ids.npy", problem));
        }
        Ok(Self::new(meta.name, meta.metric, base, queries, truth))
    }

    /// A set of these arrays.
    pub(crate) fn new(
        name: String,
        metric: Metric,
        base: Matrix<f32>,
        queries: Matrix<f32>,
        truth: Matrix<i64>,
    ) -> Self {
        Self { name, metric, base, queries, truth }
    }

    /// Keeps the first `limit` queries at most.
    pub(crate) fn limit_queries(&mut self, limit: usize) {
        self.queries.truncate(limit);
        self.truth.truncate(limit);
    }

    /// What a report says about it.
    pub(crate) fn about(&self, quick: bool) -> About {
        About {
            name: self.name.clone(),
            metric: self.metric,
            dim: self.base.columns(),
            vectors: self.base.len(),
            queries: self.queries.len(),
            quick,
        }
    }

    /// Fails if the truth of a query has not `k` neighbours; `folder` is for the text.
    pub(crate) fn check_k(&self, k: usize, folder: &Path) -> Result<(), BenchError> {
        if self.truth.columns() >= k {
            return Ok(());
        }
        let problem = format!("holds {} neighbours of each query, k is {k}", self.truth.columns());
        Err(BenchError::Set { path: folder.join("truth_ids.npy"), problem })
    }
}

/// Scales to length 1; a vector without direction stays as it is.
#[allow(clippy::cast_possible_truncation, reason = "components are f32")]
fn normalise(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
}

/// A set as files of `f32` that other programs read; gone when dropped.
pub(crate) struct Shared {
    folder: tempfile::TempDir,
}

impl Shared {
    /// Writes the vectors and queries of `set` once, for every peer; normalised if the metric is cosine, as peers know
    /// inner products only. Ours takes vectors as they come.
    pub(crate) fn write(set: &Set) -> Result<Self, BenchError> {
        let doing = "write the vectors for the peers to a temporary folder";
        let folder = tempfile::tempdir().map_err(BenchError::io(doing))?;
        let shared = Self { folder };
        for (path, vectors) in [(shared.base(), &set.base), (shared.queries(), &set.queries)] {
            let mut vectors = vectors.clone();
            if set.metric == Metric::Cosine {
                vectors.rows_mut().for_each(normalise);
            }
            npy::write_vectors(&path, &vectors).map_err(BenchError::io(doing))?;
        }
        Ok(shared)
    }

    /// The vectors.
    pub(crate) fn base(&self) -> PathBuf {
        self.folder.path().join("base.npy")
    }

    /// The queries.
    pub(crate) fn queries(&self) -> PathBuf {
        self.folder.path().join("queries.npy")
    }

    /// A file of this name that nobody else has.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Points of two dimensions on a line; query `i` is nearest to rows `i`, `i + 1`, ...
    pub(crate) fn line(rows: usize) -> Set {
        #[allow(clippy::cast_precision_loss, reason = "small numbers")]
        let base: Vec<f32> = (0..rows).flat_map(|i| [i as f32 * i as f32, 0.0]).collect();
        let queries = Matrix::new(2, vec![-1.0, 0.0]);
        let truth = (0..rows).map(|i| i64::try_from(i).expect("small numbers")).collect();
        Set::new("line".to_owned(), Metric::Euclidean, Matrix::new(2, base), queries, Matrix::new(rows, truth))
    }

    fn folder(meta: &str, base: &Matrix<f32>, queries: &Matrix<f32>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("meta.json"), meta).expect("the temporary folder is writable");
        npy::write_vectors(&at("base.npy"), base).expect("the temporary folder is writable");
        npy::write_vectors(&at("queries.npy"), queries).expect("the temporary folder is writable");
        let header = "{'descr': '<i4', 'fortran_order': False, 'shape': (1, 2), }\n";
        let length = u16::try_from(header.len()).expect("a short header");
        let truth =
            [b"\x93NUMPY\x01\x00", &length.to_le_bytes()[..], header.as_bytes(), &[0, 0, 0, 0, 1, 0, 0, 0]].concat();
        fs::write(at("truth_ids.npy"), truth).expect("the temporary folder is writable");
        folder
    }

    #[test]
    fn a_set_of_cosine_is_shared_normalised_and_keeps_vectors_without_direction() {
        let meta = r#"{"name": "two", "metric": "cosine", "dim": 2, "dtype": "float32", "base": 2}"#;
        let folder = folder(meta, &Matrix::new(2, vec![3.0, 4.0, 0.0, 0.0]), &Matrix::new(2, vec![0.0, 2.0]));
        let set = Set::open(folder.path()).expect("the set is whole");
        assert_eq!(set.base, Matrix::new(2, vec![3.0, 4.0, 0.0, 0.0]));
        assert_eq!(set.truth, Matrix::new(2, vec![0, 1]));
        assert!(set.check_k(2, folder.path()).is_ok());
        assert!(set.check_k(3, folder.path()).is_err(), "recall at 3 needs a truth of 3");
        let shared = Shared::write(&set).expect("temporary folders have room");
        assert_eq!(
            npy::read_vectors(&shared.base()).expect("it was written"),
            Matrix::new(2, vec![0.6, 0.8, 0.0, 0.0])
        );
        assert_eq!(npy::read_vectors(&shared.queries()).expect("it was written"), Matrix::new(2, vec![0.0, 1.0]));
    }

    #[test]
    fn a_folder_that_is_no_set_is_refused_by_the_file_that_is_wrong() {
        let meta = r#"{"name": "two", "metric": "cosine", "dim": 2}"#;
        let (two, one) = (Matrix::new(2, vec![1.0; 4]), Matrix::new(2, vec![1.0; 2]));
        for (name, folder, want) in [
            ("no metric", folder(r#"{"name": "x", "dim": 2}"#, &two, &one), "meta.json"),
            ("another dimension", folder(meta, &Matrix::new(3, vec![1.0; 3]), &one), "base.npy"),
            ("more queries than answers", folder(meta, &two, &two), "truth_ids.npy"),
            ("no queries", folder(meta, &two, &Matrix::new(2, vec![])), "queries.npy"),
        ] {
            match Set::open(folder.path()) {
                Err(BenchError::Set { path, .. }) => assert!(path.ends_with(want), "{name}: {}", path.display()),
                Err(other) => panic!("{name}: {other}"),
                Ok(_) => panic!("{name}: taken for a set"),
            }
        }
    }
}
