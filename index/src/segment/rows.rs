//! Points on their way into a segment.

use bytes::Bytes;
use shoal_model::PointId;

/// Points in any order, each id at most once.
#[derive(Clone, Debug)]
pub struct Rows {
    dim: usize,
    pub(super) ids: Vec<PointId>,
    pub(super) versions: Vec<u64>,
    pub(super) vectors: Vec<f32>,
    pub(super) payloads: Vec<Bytes>,
}

impl Rows {
    /// No points yet, of `dim` components, at least 1; memory for `len` of them.
    ///
    /// # Panics
    /// If `dim` is 0.
    #[must_use]
    pub fn with_capacity(dim: u32, len: usize) -> Self {
        assert!(dim > 0, "vectors have at least one component");
        let dim = dim as usize;
        Self {
            dim,
            ids: Vec::with_capacity(len),
            versions: Vec::with_capacity(len),
            vectors: Vec::with_capacity(len * dim),
            payloads: Vec::with_capacity(len),
        }
    }

    /// Adds a point: a vector that passed `shoal_model::check_vector`, packed payload, and the log index that wrote it.
    ///
    /// # Panics
    /// If the vector is of another dimension.
    pub fn push(&mut self, id: PointId, version: u64, vector: &[f32], payload: Bytes) {
        assert_eq!(vector.len(), self.dim, "components of a vector");
        self.ids.push(id);
        self.versions.push(version);
        self.vectors.extend_from_slice(vector);
        self.payloads.push(payload);
    }

    /// How many points there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Components of each vector.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }
}
