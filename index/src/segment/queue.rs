//! Points that wait to be visited.

use crate::kernels::{Kernels, LANES};

/// What is no point's estimate: larger than all limits.
const FREE: f32 = f32::INFINITY;

/// A point that waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Waiting {
    /// Estimate of its squared distance.
    pub(super) estimate: f32,
    pub(super) offset: u32,
}

/// Points in no order. The least is looked for where it is wanted, 16 estimates an instruction, which for the hundred
/// that wait is cheaper than keeping them sorted.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Whole blocks, [`FREE`] behind the last.
    estimates: Vec<[f32; LANES]>,
    offsets: Vec<u32>,
}

impl Queue {
    pub(super) fn clear(&mut self) {
        self.estimates.clear();
        self.offsets.clear();
    }

    #[inline]
    pub(super) fn push(&mut self, estimate: f32, offset: u32) {
        let at = self.offsets.len();
        if at == self.estimates.len() * LANES {
            self.estimates.push([FREE; LANES]);
        }
        self.estimates[at / LANES][at % LANES] = estimate;
        self.offsets.push(offset);
    }

    /// Takes the one that seems nearest.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let last = self.offsets.len().checked_sub(1)?;
        let at = Kernels::best().first_least(&self.estimates).min(last);
        let found = Waiting { estimate: self.estimates[at / LANES][at % LANES], offset: self.offsets[at] };
        self.estimates[at / LANES][at % LANES] = self.estimates[last / LANES][last % LANES];
        self.estimates[last / LANES][last % LANES] = FREE;
        self.offsets.swap_remove(at);
        if last.is_multiple_of(LANES) {
            self.estimates.pop();
        }
        Some(found)
    }

    /// Lets go, once there is a crowd, of points beyond `limit`, and of all but the best `keep`.
    #[inline]
    pub(super) fn trim(&mut self, limit: f32, keep: usize) {
        if self.offsets.len() >= keep + keep / 2 {
            self.retain(limit, keep);
        }
    }

    #[cold]
    fn retain(&mut self, mut limit: f32, keep: usize) {
        let offsets = std::mem::take(&mut self.offsets);
        let mut estimates = std::mem::take(&mut self.estimates);
        let estimates = estimates.as_flattened_mut();
        if keep < offsets.len() {
            let mut sorted = estimates[..offsets.len()].to_vec();
            let (_, last, _) = sorted.select_nth_unstable_by(keep - 1, f32::total_cmp);
            limit = limit.min(*last);
        }
        for (estimate, offset) in estimates.iter().zip(&offsets) {
            if *estimate <= limit {
                self.push(*estimate, *offset);
            }
        }
    }
}
