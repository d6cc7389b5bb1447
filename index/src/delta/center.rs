//! Where rows lie on average. Codes of residuals from there say more than codes of the rows themselves.
//!
//! Embeddings share a direction, pixels are never negative: of what a row has in common with all others, a code need
//! not tell. Around their mean, codes of 20,000 images leave half as many rows to be compared as around zero, codes of
//! 20,000 texts three quarters.

use crate::kernels::Kernels;

/// Rows after which a centre is made anew, so that it follows what is being written.
const ROWS: usize = 1_024;

/// A place that codes are made around, rotated as they are.
#[derive(Debug)]
pub(super) struct Center {
    place: Vec<f32>,
    square: f32,
    /// Mean length of the rows it was made of; 0 for the origin.
    length: f32,
}

impl Center {
    /// Zero: for the rows that come before any other.
    pub(super) fn origin(padded_dim: usize) -> Self {
        Self { place: vec![0.0; padded_dim], square: 0.0, length: 0.0 }
    }

    pub(super) fn place(&self) -> &[f32] {
        &self.place
    }

    /// Its squared length.
    pub(super) fn square(&self) -> f32 {
        self.square
    }

    pub(super) fn length(&self) -> f32 {
        self.length
    }
}

/// The rows since the last centre was made.
#[derive(Debug)]
pub(super) struct Mean {
    sum: Vec<f32>,
    lengths: f32,
    count: usize,
    is_first: bool,
}

impl Mean {
    pub(super) fn new(padded_dim: usize) -> Self {
        Self { sum: vec![0.0; padded_dim], lengths: 0.0, count: 0, is_first: true }
    }

    pub(super) fn add(&mut self, rotated: &[f32], length: f32) {
        for (sum, component) in self.sum.iter_mut().zip(rotated) {
            *sum += component;
        }
        self.lengths += length;
        self.count += 1;
    }

    /// The centre of the rows, if they are enough for a new one; the first need not be many. Begins anew then.
    pub(super) fn take_if_ripe(&mut self) -> Option<Center> {
        let enough = if self.is_first { 1 } else { ROWS };
        if self.count < enough {
            return None;
        }
        #[allow(clippy::cast_precision_loss, reason = "some thousands")]
        let share = 1.0 / self.count as f32;
        let next = Self { is_first: false, ..Self::new(self.sum.len()) };
        let Self { sum, lengths, .. } = std::mem::replace(self, next);
        let place: Vec<f32> = sum.iter().map(|sum| sum * share).collect();
        let [square] = Kernels::best().dot(&place, [&place]);
        Some(Center { place, square, length: lengths * share })
    }
}
