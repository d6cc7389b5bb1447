//! The contest of a scan: points wait with estimates, and the most promising are compared until no other can be among
//! the nearest.

use std::collections::BinaryHeap;

use super::form::Form;
use super::place::Place;
use super::queue::{Queue, Waiting};
use super::walk::{Breadth, Near, admit};

/// Points whose vectors are asked for ahead of their turn.
const AHEAD: usize = 4;

/// Who is among the `k` nearest.
pub(super) struct Contest<'a> {
    form: Form<'a>,
    pub(super) place: &'a Place,
    queue: &'a mut Queue,
    nearest: &'a mut BinaryHeap<Near>,
    /// All that were compared, as their distances may have to be settled.
    met: &'a mut Vec<Near>,
    k: usize,
    /// Squared distance of the k-th nearest so far.
    limit: f32,
}

impl<'a> Contest<'a> {
    /// Nobody takes part yet.
    pub(super) fn new(
        form: Form<'a>,
        place: &'a Place,
        queue: &'a mut Queue,
        nearest: &'a mut BinaryHeap<Near>,
        met: &'a mut Vec<Near>,
        k: usize,
    ) -> Self {
        nearest.clear();
        met.clear();
        queue.clear();
        Self { form, place, queue, nearest, met, k, limit: f32::MAX }
    }

    /// What estimates have to be below.
    #[inline]
    pub(super) fn limit(&self) -> f32 {
        self.limit
    }

    /// Points compared so far.
    pub(super) fn compared(&self) -> u64 {
        self.met.len() as u64
    }

    /// Lets a point wait whose estimate is below the limit.
    #[inline]
    pub(super) fn enter(&mut self, estimate: f32, offset: u32) {
        self.queue.push(estimate, offset);
    }

    /// Compares points that wait, from the best estimate on; the others are out.
    pub(super) fn decide(&mut self) {
        let mut ahead: [Option<Waiting>; AHEAD] = std::array::from_fn(|_| self.next());
        for turn in 0.. {
            let at = turn % AHEAD;
            let Some(next) = ahead[at].filter(|next| next.estimate <= self.limit) else {
                break;
            };
            ahead[at] = self.next();
            self.compare(next.offset);
        }
        self.queue.clear();
    }

    /// Takes the best that waits, and asks for its vector.
    fn next(&mut self) -> Option<Waiting> {
        let next = self.queue.pop()?;
        self.form.prefetch_row(next.offset);
        Some(next)
    }

    /// Compares a point.
    fn compare(&mut self, offset: u32) {
        let near = Near { distance: self.form.distance(self.place, offset), offset };
        self.met.push(near);
        let limit = admit(self.nearest, near, Breadth::beam(self.k));
        if self.limit == f32::MAX && limit < f32::MAX {
            self.queue.drop_beyond(limit);
        }
        self.limit = limit;
    }
}
