//! Ours without an index: the delta, which scans every vector. What an index has to be worth.

use std::sync::Arc;

use bytes::Bytes;
use shoal_index::{Certainty, Delta, DeltaView, IndexError, Query};
use shoal_model::PointId;

use crate::npy::Matrix;
use crate::set::Set;

/// Every vector of a set in one delta.
pub(crate) struct Exact {
    view: Arc<DeltaView>,
    k: usize,
    memory_bytes: usize,
}

impl Exact {
    /// Takes in every vector, to answer with `k` of them.
    pub(crate) fn build(set: &Set, k: usize) -> Self {
        let dim = u32::try_from(set.base.columns()).expect("a dimension is no larger than a file's header says");
        let mut delta = Delta::new(dim, set.metric);
        for (row, vector) in (0..).zip(set.base.rows()) {
            delta.upsert(PointId::Number(row), row, vector, Bytes::new());
        }
        Self { view: delta.publish(), k, memory_bytes: delta.memory_bytes() }
    }

    #[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
    pub(crate) fn memory_bytes(&self) -> f64 {
        self.memory_bytes as f64
    }

    /// Answers the queries one after the other.
    pub(crate) fn search(&self, queries: &Matrix<f32>) -> Result<Matrix<i64>, IndexError> {
        let mut ids = Vec::with_capacity(queries.len() * self.k);
        for vector in queries.rows() {
            let query = Query {
                vector,
                k: self.k,
                filter: None,
                score_limit: None,
                certainty: Certainty::Exact,
                stop: &|| false,
            };
            let (found, _) = self.view.search(&query)?;
            let missing = self.k - found.len();
            ids.extend(found.iter().map(|point| row(&point.id)));
            ids.extend(std::iter::repeat_n(-1, missing));
        }
        Ok(Matrix::new(self.k, ids))
    }
}

/// The row that a point came from; −1 for ids that are no row's.
fn row(id: &PointId) -> i64 {
    match id {
        PointId::Number(row) => i64::try_from(*row).unwrap_or(-1),
        _ => -1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::tests::line;

    #[test]
    fn the_nearest_come_first_and_what_is_not_there_is_minus_one() {
        let set = line(3);
        let exact = Exact::build(&set, 5);
        let found = exact.search(&set.queries).expect("nothing stops it");
        assert_eq!(found, Matrix::new(5, vec![0, 1, 2, -1, -1]));
    }
}
