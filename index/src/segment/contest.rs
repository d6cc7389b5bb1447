//! The contest of a scan: points wait with estimates, and the most promising are compared until no other can be among
//! the nearest.
//!
//! Who wins does not depend on the order in which points come, for that differs between points that are packed and points
//! that are not. A point counts as far as its distance or its estimate, whichever is more; of points that count so, the
//! k-th nearest sets the limit, and all take part whose estimates are not beyond it. A limit that is taken before all have
//! come is larger, so nobody is turned away who would take part in the end; who was let in too early is told to go.

use std::collections::BinaryHeap;

use super::form::Form;
use super::place::Place;
use super::queue::Waiting;
use super::walk::{Breadth, Near, admit};

/// Points whose vectors are asked for ahead of their turn.
const AHEAD: usize = 6;

/// Points that are compared before it is asked again which others still may be among the nearest.
const TURNS: usize = 16;

/// Who is among the `k` nearest.
pub(super) struct Contest<'a> {
    form: Form<'a>,
    pub(super) place: &'a Place,
    waiting: &'a mut Vec<Waiting>,
    /// The `k` nearest so far, each as far as it counts.
    nearest: &'a mut BinaryHeap<Near>,
    /// All that were compared, with their distances,
    met: &'a mut Vec<Near>,
    /// and with their estimates.
    estimates: &'a mut Vec<f32>,
    k: usize,
    /// How far the k-th nearest of them counts.
    limit: f32,
}

impl<'a> Contest<'a> {
    /// Nobody takes part yet.
    pub(super) fn new(
        form: Form<'a>,
        place: &'a Place,
        waiting: &'a mut Vec<Waiting>,
        nearest: &'a mut BinaryHeap<Near>,
        (met, estimates): (&'a mut Vec<Near>, &'a mut Vec<f32>),
        k: usize,
    ) -> Self {
        nearest.clear();
        met.clear();
        estimates.clear();
        waiting.clear();
        Self { form, place, waiting, nearest, met, estimates, k, limit: f32::MAX }
    }

    /// What estimates may be at most.
    #[inline]
    pub(super) fn limit(&self) -> f32 {
        self.limit
    }

    /// Points compared so far.
    pub(super) fn compared(&self) -> u64 {
        self.met.len() as u64
    }

    /// Lets a point wait whose estimate is not beyond the limit.
    #[inline]
    pub(super) fn enter(&mut self, estimate: f32, offset: u32) {
        self.waiting.push(Waiting { estimate, offset });
    }

    /// Compares points that wait, the most promising first, until those that are left are out.
    pub(super) fn decide(&mut self) {
        let mut waiting = std::mem::take(self.waiting);
        let mut rest = &mut waiting[..];
        while !rest.is_empty() {
            let (first, others) = part(rest);
            self.take(first);
            rest = keep_within(others, self.limit);
        }
        waiting.clear();
        *self.waiting = waiting;
    }

    /// Compares those that may be among the nearest when it is their turn.
    fn take(&mut self, turns: &[Waiting]) {
        turns.iter().take(AHEAD).for_each(|next| self.form.prefetch_row(next.offset));
        for (at, Waiting { estimate, offset }) in turns.iter().enumerate() {
            if let Some(ahead) = turns.get(at + AHEAD) {
                self.form.prefetch_row(ahead.offset);
            }
            if *estimate <= self.limit {
                self.compare(*estimate, *offset);
            }
        }
    }

    /// Compares a point.
    fn compare(&mut self, estimate: f32, offset: u32) {
        let near = Near { distance: self.form.distance(self.place, offset), offset };
        self.met.push(near);
        self.estimates.push(estimate);
        let counted = Near { distance: near.distance.max(estimate), offset };
        self.limit = admit(self.nearest, counted, Breadth::beam(self.k));
    }

    /// Leaves those that take part in `met`, and the nearest `k` of them in `nearest`. Nobody waits.
    pub(super) fn end(self) {
        let mut estimates = self.estimates.iter();
        self.met.retain(|_| estimates.next().is_some_and(|estimate| *estimate <= self.limit));
        self.nearest.clear();
        for near in self.met.iter() {
            admit(self.nearest, *near, Breadth::beam(self.k));
        }
    }
}

/// Parts the most promising from the others. Neither are in order: that would cost more than it spares.
fn part(waiting: &mut [Waiting]) -> (&[Waiting], &mut [Waiting]) {
    if waiting.len() > TURNS {
        waiting.select_nth_unstable_by(TURNS, |a, b| a.estimate.total_cmp(&b.estimate));
    }
    let (first, others) = waiting.split_at_mut(waiting.len().min(TURNS));
    (first, others)
}

/// Keeps those whose estimate is not beyond the limit.
fn keep_within(waiting: &mut [Waiting], limit: f32) -> &mut [Waiting] {
    let mut kept = 0;
    for at in 0..waiting.len() {
        let next = waiting[at];
        waiting[kept] = next;
        kept += usize::from(next.estimate <= limit);
    }
    &mut waiting[..kept]
}
