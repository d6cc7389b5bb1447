//! Points that wait to be visited.

use crate::kernels::{Kernels, LANES};

/// What is no point's estimate: larger than all limits.
const FREE: f32 = f32::INFINITY;

/// A point that waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Waiting {
    /// Estimate of its squared distance.
    pub(crate) estimate: f32,
    pub(crate) offset: u32,
}

impl Waiting {
    /// A point to start from.
    pub(crate) fn start(offset: u32) -> Self {
        Self { estimate: 0.0, offset }
    }

    /// A point to keep away from: too far for any limit, and met already.
    pub(crate) fn never(offset: u32) -> Self {
        Self { estimate: f32::INFINITY, offset }
    }
}

/// Points in no order. The least is looked for where it is wanted, 16 estimates an instruction, which for the hundred
/// that wait is cheaper than keeping them sorted.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Whole blocks, [`FREE`] behind the last.
    estimates: Vec<[f32; LANES]>,
    offsets: Vec<u32>,
    /// Room to find the best in.
    sorted: Vec<f32>,
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

    /// Lets go of all but the best `keep` and of what is beyond `limit`, once twice as many wait.
    ///
    /// Returns the largest estimate that is wanted from now on: of `keep` better ones, none becomes worse.
    #[inline]
    pub(super) fn trim(&mut self, limit: f32, keep: usize) -> f32 {
        if self.offsets.len() < 2 * keep { limit } else { self.retain(limit, keep) }
    }

    #[cold]
    fn retain(&mut self, limit: f32, keep: usize) -> f32 {
        let len = self.offsets.len();
        self.sorted.clear();
        self.sorted.extend_from_slice(&self.estimates.as_flattened()[..len]);
        let (_, last, _) = self.sorted.select_nth_unstable_by(keep - 1, f32::total_cmp);
        let limit = limit.min(*last);
        self.drop_beyond(limit);
        limit
    }

    /// Lets go of what is beyond `limit`.
    pub(super) fn drop_beyond(&mut self, limit: f32) {
        let (len, mut kept) = (self.offsets.len(), 0);
        for at in 0..len {
            let estimate = self.estimates[at / LANES][at % LANES];
            if estimate <= limit {
                self.estimates[kept / LANES][kept % LANES] = estimate;
                self.offsets[kept] = self.offsets[at];
                kept += 1;
            }
        }
        self.offsets.truncate(kept);
        self.estimates.truncate(kept.div_ceil(LANES));
        self.estimates.as_flattened_mut()[kept..].fill(FREE);
    }
}
