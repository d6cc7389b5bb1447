//! Ours: every vector of a set in one frozen segment.

use bytes::Bytes;
use rayon::ThreadPoolBuilder;
use shoal_index::segment::{Effort, Parameters, Rows, Scratch, Segment, SegmentQuery, Target};
use shoal_model::{GraphSpec, PointId};

use crate::error::BenchError;
use crate::npy::Matrix;
use crate::set::Set;

/// Beam of builds: the default of collections.
const EF_CONSTRUCTION: usize = GraphSpec::DEFAULT.ef_construction as usize;

/// Of the rotation and the order of points; a constant, so that figures compare.
const SEED: u64 = 1;

/// A segment, and what one thread needs to ask it.
pub(crate) struct Frozen {
    segment: Segment,
    scratch: Scratch,
    k: usize,
}

impl Frozen {
    /// Builds it with `threads`, in memory, to answer with `k` points.
    pub(crate) fn build(set: &Set, k: usize, threads: usize) -> Result<Self, BenchError> {
        let dim = u32::try_from(set.base.columns()).expect("a dimension is no larger than a file's header says");
        let mut rows = Rows::with_capacity(dim, set.base.len());
        for (row, vector) in (0..).zip(set.base.rows()) {
            rows.push(PointId::Number(row), row, vector, Bytes::new());
        }
        let parameters =
            Parameters { metric: set.metric, precision: None, ef_construction: EF_CONSTRUCTION, seed: SEED };
        let pool = ThreadPoolBuilder::new().num_threads(threads).build()?;
        let segment = pool.install(|| Segment::build(&rows, &parameters, &Target::Memory, &|| false))?;
        Ok(Self { segment, scratch: Scratch::new(), k })
    }

    /// Length of the file.
    #[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
    pub(crate) fn file_bytes(&self) -> f64 {
        self.segment.graph_image().bytes().len() as f64
    }

    /// Answers the queries one after the other.
    pub(crate) fn search(&mut self, queries: &Matrix<f32>, beam: usize) -> Result<Matrix<i64>, BenchError> {
        let mut ids = Vec::with_capacity(queries.len() * self.k);
        for vector in queries.rows() {
            let query = query(vector, self.k, Effort::Beam(beam));
            let (hits, _) = self.segment.search(&mut self.scratch, &query)?;
            ids.extend(hits.iter().map(|hit| row(self.segment.versions()[hit.offset as usize])));
            ids.extend(std::iter::repeat_n(-1, self.k - hits.len()));
        }
        Ok(Matrix::new(self.k, ids))
    }
}

fn query(vector: &[f32], k: usize, effort: Effort) -> SegmentQuery<'_> {
    SegmentQuery { vector, k, effort, live: None, filter: None, score_limit: None, stop: &|| false }
}

/// Versions are rows here.
fn row(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(-1)
}
