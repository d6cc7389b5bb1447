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
    /// Whole blocks, [`FREE`] behind the last that waits.
    estimates: Vec<[f32; LANES]>,
    /// As many places.
    offsets: Vec<u32>,
    /// How many wait.
    len: usize,
    /// Room to find the best in.
    sorted: Vec<f32>,
}

impl Queue {
    pub(super) fn clear(&mut self) {
        self.truncate(0);
    }

    #[inline]
    pub(super) fn push(&mut self, estimate: f32, offset: u32) {
        self.reserve(1);
        self.put(estimate, offset);
        self.len += 1;
    }

    /// Adds those of `candidates` that `item` says are new, each bit of them one.
    ///
    /// Whether one is new is a coin toss that no processor foresees, so each is put in the next place, which the next one
    /// takes if it was not.
    #[inline]
    pub(super) fn extend(&mut self, mut candidates: u32, mut item: impl FnMut(usize) -> (Waiting, bool)) {
        self.reserve(u32::BITS as usize);
        while candidates != 0 {
            let at = candidates.trailing_zeros() as usize;
            candidates &= candidates - 1;
            let (Waiting { estimate, offset }, is_new) = item(at);
            self.put(estimate, offset);
            self.len += usize::from(is_new);
        }
        self.estimates[self.len / LANES][self.len % LANES] = FREE;
    }

    /// Makes room for so many more, and for one behind them.
    #[inline]
    fn reserve(&mut self, more: usize) {
        let blocks = (self.len + more) / LANES + 1;
        if blocks > self.estimates.len() {
            self.grow(blocks);
        }
    }

    #[cold]
    fn grow(&mut self, blocks: usize) {
        self.estimates.resize(blocks, [FREE; LANES]);
        self.offsets.resize(blocks * LANES, 0);
    }

    #[inline]
    fn put(&mut self, estimate: f32, offset: u32) {
        self.estimates[self.len / LANES][self.len % LANES] = estimate;
        self.offsets[self.len] = offset;
    }

    /// Takes the one that seems nearest.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let last = self.len.checked_sub(1)?;
        let at = Kernels::best().first_least(&self.estimates[..=last / LANES]).min(last);
        let found = Waiting { estimate: self.estimates[at / LANES][at % LANES], offset: self.offsets[at] };
        self.estimates[at / LANES][at % LANES] = self.estimates[last / LANES][last % LANES];
        self.offsets[at] = self.offsets[last];
        self.estimates[last / LANES][last % LANES] = FREE;
        self.len = last;
        Some(found)
    }

    /// Lets go of all but the best `keep` and of what is beyond `limit`, once twice as many wait.
    ///
    /// Returns the largest estimate that is wanted from then on: of `keep` better ones, none becomes worse.
    #[inline]
    pub(super) fn trim(&mut self, limit: f32, keep: usize) -> Option<f32> {
        (self.len >= 2 * keep).then(|| self.retain(limit, keep))
    }

    #[cold]
    fn retain(&mut self, limit: f32, keep: usize) -> f32 {
        self.sorted.clear();
        self.sorted.extend_from_slice(&self.estimates.as_flattened()[..self.len]);
        let (_, last, _) = self.sorted.select_nth_unstable_by(keep - 1, f32::total_cmp);
        let limit = limit.min(*last);
        self.drop_beyond(limit);
        limit
    }

    /// Lets go of what is beyond `limit`.
    pub(super) fn drop_beyond(&mut self, limit: f32) {
        let mut kept = 0;
        for at in 0..self.len {
            let estimate = self.estimates[at / LANES][at % LANES];
            if estimate <= limit {
                self.estimates[kept / LANES][kept % LANES] = estimate;
                self.offsets[kept] = self.offsets[at];
                kept += 1;
            }
        }
        self.truncate(kept);
    }

    fn truncate(&mut self, len: usize) {
        self.estimates.as_flattened_mut()[len..self.len].fill(FREE);
        self.len = len;
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    /// What a queue must be like: takes the least, the first that came if there are several.
    fn sorted(mut waiting: Vec<Waiting>) -> Vec<Waiting> {
        waiting.sort_by(|a, b| a.estimate.total_cmp(&b.estimate).then(a.offset.cmp(&b.offset)));
        waiting
    }

    fn drained(queue: &mut Queue) -> Vec<Waiting> {
        sorted(std::iter::from_fn(|| queue.pop()).collect())
    }

    #[test]
    fn what_was_put_in_and_is_not_beyond_the_limit_comes_out_the_least_first() {
        let mut rng = StdRng::seed_from_u64(12);
        let (mut queue, mut number) = (Queue::default(), 0);
        for round in 0..300 {
            queue.clear();
            let mut model: Vec<Waiting> = Vec::new();
            for step in 0..rng.random_range(1..40) {
                let case = format!("round {round}, step {step}");
                match rng.random_range(0..4) {
                    0 => {
                        number += 1;
                        let waiting = Waiting { estimate: rng.random_range(0.0..9.0), offset: number };
                        queue.push(waiting.estimate, waiting.offset);
                        model.push(waiting);
                    }
                    1 => {
                        let (candidates, new): (u32, u32) = (rng.random(), rng.random());
                        queue.extend(candidates, |at| {
                            number += 1;
                            let (offset, is_new) = (number, new >> at & 1 == 1);
                            let waiting = Waiting { estimate: rng.random_range(0.0..9.0), offset };
                            model.extend(is_new.then_some(waiting));
                            (waiting, is_new)
                        });
                    }
                    2 => {
                        let least = sorted(model.clone()).first().copied();
                        let popped = queue.pop();
                        assert_eq!(popped.map(|popped| popped.estimate), least.map(|least| least.estimate), "{case}");
                        model.retain(|waiting| Some(*waiting) != popped);
                    }
                    _ => {
                        let limit = rng.random_range(3.0..9.0);
                        queue.drop_beyond(limit);
                        model.retain(|waiting| waiting.estimate <= limit);
                    }
                }
            }
            assert_eq!(drained(&mut queue), sorted(model), "round {round}");
        }
    }

    #[test]
    fn trimming_keeps_the_best_and_what_is_as_good_as_the_last_of_them() {
        let mut queue = Queue::default();
        (0..40_u16).for_each(|i| queue.push(f32::from(i % 20), u32::from(i)));
        assert_eq!(queue.trim(f32::MAX, 21), None, "fewer than twice as many wait");
        assert_eq!(queue.trim(f32::MAX, 5), Some(2.0));
        assert_eq!(drained(&mut queue).len(), 6, "two each of 0, 1 and 2");
    }
}
