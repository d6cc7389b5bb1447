//! `hnsw_rs` as it comes: the library that seeds our builds, serving by its own search.
//!
//! It runs in this process, on the thread that calls it, with our kernel for distances, which is faster than its own.

use hnsw_rs::prelude::{AnnT as _, Distance, Hnsw};
use rayon::ThreadPoolBuilder;
use shoal_index::kernels::Kernels;
use shoal_model::Metric;

use crate::error::BenchError;
use crate::npy::Matrix;
use crate::set::Set;

/// What `--peers` calls it.
pub(crate) const NAME: &str = "hnsw_rs";

/// As for the other peers.
const LINKS: usize = 16;
const EF_CONSTRUCTION: usize = 200;

/// `hnsw_rs` writes no file of a graph with fewer.
const LAYERS_MAX: usize = 16;

/// Orders unit vectors as their cosine does.
struct SquaredEuclidean;

impl Distance<f32> for SquaredEuclidean {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        Kernels::best().squared_euclidean(a, [b])[0]
    }
}

/// A graph of every vector of a set.
pub(crate) struct HnswRs {
    graph: Hnsw<'static, f32, SquaredEuclidean>,
    k: usize,
}

impl HnswRs {
    /// Builds it with `threads`, to answer with `k` points. Errors: `PeerMetric` for inner products.
    pub(crate) fn build(set: &Set, k: usize, threads: usize) -> Result<Self, BenchError> {
        if set.metric == Metric::Dot {
            return Err(BenchError::PeerMetric { peer: NAME, metric: set.metric.name() });
        }
        let pool = ThreadPoolBuilder::new().num_threads(threads).build()?;
        let graph = Hnsw::new(LINKS, set.base.len(), LAYERS_MAX, EF_CONSTRUCTION, SquaredEuclidean);
        let rows: Vec<(&[f32], usize)> = set.base.rows().zip(0..).collect();
        pool.install(|| graph.parallel_insert_slice(&rows));
        Ok(Self { graph, k })
    }

    /// Length of the files that it writes.
    pub(crate) fn file_bytes(&self) -> Result<f64, BenchError> {
        let folder = tempfile::tempdir().map_err(BenchError::io("make a temporary folder"))?;
        let dumped = self.graph.file_dump(folder.path(), "graph");
        dumped
            .map_err(|error| BenchError::io("write the graph of hnsw_rs")(std::io::Error::other(error.to_string())))?;
        let files = std::fs::read_dir(folder.path()).map_err(BenchError::io("read a temporary folder"))?;
        let sizes = files.map(|file| Ok(file?.metadata()?.len()));
        let bytes = sizes.sum::<std::io::Result<u64>>().map_err(BenchError::io("read a temporary folder"))?;
        #[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
        let bytes = bytes as f64;
        Ok(bytes)
    }

    /// Answers the queries one after the other.
    pub(crate) fn search(&self, queries: &Matrix<f32>, beam: usize) -> Matrix<i64> {
        let mut ids = Vec::with_capacity(queries.len() * self.k);
        for vector in queries.rows() {
            let found = self.graph.search(vector, self.k, beam);
            let missing = self.k - found.len();
            ids.extend(found.iter().map(|point| i64::try_from(point.d_id).unwrap_or(-1)));
            ids.extend(std::iter::repeat_n(-1, missing));
        }
        Matrix::new(self.k, ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::tests::line;

    #[test]
    fn it_finds_what_is_nearest_and_has_a_size() {
        let set = line(40);
        let library = HnswRs::build(&set, 3, 1).expect("built");
        let found = library.search(&set.queries, 20);
        assert_eq!(found.rows().next(), Some(&[0_i64, 1, 2][..]));
        assert!(library.file_bytes().expect("written") > 0.0);
    }
}
