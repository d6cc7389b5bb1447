//! How hard to look: what recall each slack reached on the segment's own points, asked as queries.
//!
//! A point that is asked is left out of the graph meanwhile. With it, a walk that comes near it has all its neighbours
//! at once, which no query of a caller gets: where .98 was wanted, they found .95 (texts) and .96 (images).
//!
//! Slack is what a walk spends where a query is hard, so recall depends on it much the same way for any k. Hops are
//! kept beside it, so that a caller who thinks in beam widths gets the slack that costs as much.

use std::collections::BinaryHeap;

use rayon::prelude::*;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::place::Place;
use super::walk::{Breadth, Cancelled, Near, Scratch, admit};

/// Points asked. Few of them are hard, and those decide: where 200 were asked, what was told as .98 was .954 to .989.
pub(crate) const QUERIES: usize = 400;

/// Those of them that are asked under filters, whose searches take longer and have a margin of their own.
pub(crate) const QUERIES_AMONG: usize = 200;

/// One in so many points is looked for to calibrate walks among points that pass a filter: where fewer pass, a walk is
/// seldom chosen.
pub(super) const SPARSE: u32 = 4;

/// Queries, and points, that are compared with each other in one go.
const TOGETHER: usize = 16;
const POINTS_TOGETHER: usize = 64;

/// Recall at which no more slack is tried.
const RECALL_ENOUGH: f32 = 0.999;

/// Neighbours looked for.
pub(super) const K: usize = 10;

/// Misses that points may have, for each that queries may have.
const UNLIKE: f32 = 0.75;

/// Slacks tried.
const SLACKS: [f32; 16] = [0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 1.0];

/// Hops of the longest walk, as a multiple of what the slack before took on average.
const HOPS_SPREAD: f32 = 5.0;

/// Points that wait, at most.
const KEEP: usize = 256;

/// Least of it.
const HOPS_MAX_LEAST: f32 = 100.0;

/// What one slack came to.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Sample {
    pub(crate) slack: f32,
    /// Most points that a walk visited.
    pub(crate) hops_max: f32,
    /// Points visited by a walk, on average.
    pub(crate) hops: f32,
    /// Share of the 10 nearest that were found, on average.
    pub(crate) recall: f32,
}

/// Whether samples are what [`measure`] returns: slacks and hops are numbers and ascend.
pub(crate) fn check(samples: &[Sample]) -> bool {
    let sound = |s: &Sample| {
        s.slack >= 0.0 && s.slack.is_finite() && s.hops_max >= 1.0 && s.hops.is_finite() && s.recall.is_finite()
    };
    samples.iter().all(sound) && samples.is_sorted_by(|a, b| a.slack < b.slack && a.hops <= b.hops)
}

/// What reaches a recall; the most that was tried if nothing does.
pub(crate) fn for_recall(samples: &[Sample], recall: f32) -> Option<Sample> {
    interpolate(samples, |sample| sample.recall, recall)
}

/// What to ask of points so that queries, which are seldom as much like points as points are, get `recall`: of questions
/// to texts, .972 to .980 came out where .98 was asked of the texts.
pub(crate) fn careful(recall: f32) -> f32 {
    1.0 - UNLIKE * (1.0 - recall)
}

/// What costs as many hops; the most that was tried if all cost less.
pub(crate) fn for_hops(samples: &[Sample], hops: f32) -> Option<Sample> {
    interpolate(samples, |sample| sample.hops, hops)
}

/// Where `value`, taken to ascend, reaches `wanted`. `None` if nothing was tried.
fn interpolate(samples: &[Sample], value: impl Fn(&Sample) -> f32, wanted: f32) -> Option<Sample> {
    let at = samples.iter().position(|sample| value(sample) >= wanted);
    let at = at.or(samples.len().checked_sub(1))?;
    let (after, before) = (&samples[at], &samples[at.saturating_sub(1)]);
    let rise = value(after) - value(before);
    let share = if rise > 0.0 { ((wanted - value(before)) / rise).min(1.0) } else { 1.0 };
    let between = |of: fn(&Sample) -> f32| of(before) + share * (of(after) - of(before));
    Some(Sample {
        slack: between(|sample| sample.slack),
        hops_max: between(|sample| sample.hops_max),
        hops: between(|sample| sample.hops),
        recall: between(|sample| sample.recall),
    })
}

impl Sample {
    /// What it says of a walk for the `k` nearest.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "rough")]
    pub(crate) fn breadth(&self, k: usize) -> Breadth {
        let share = (k as f32 / K as f32).max(1.0);
        Breadth { width: k, slack: self.slack, keep: KEEP.max(3 * k), hops_max: (self.hops_max * share) as u64 }
    }
}

/// Asks `queries`, offsets of points. `ask` sets the place of a point as a query, `distance` tells how far from it
/// another is, `walk` walks for it and leaves what it found of `wanted`, offsets too, in `nearest`, by the same distance.
///
/// Errors: `Cancelled`.
pub(crate) fn measure(
    wanted: &[u32],
    queries: &[u32],
    ask: impl Fn(&mut Place, u32) + Sync,
    distance: impl Fn(&Place, u32) -> f32 + Sync,
    walk: impl Fn(&mut Scratch, u32, Breadth) -> Result<u64, Cancelled> + Sync,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Sample>, Cancelled> {
    let truth = |queries| farthest_of_nearest(wanted, queries, &ask, &distance, stop);
    let truths = queries.par_chunks(TOGETHER).map(truth).collect::<Result<Vec<_>, Cancelled>>()?.concat();
    let mut samples: Vec<Sample> = Vec::with_capacity(SLACKS.len());
    for slack in SLACKS {
        let hops_max = samples.last().map_or(HOPS_MAX_LEAST, |before| (HOPS_SPREAD * before.hops).max(HOPS_MAX_LEAST));
        let mut sample = Sample { slack, hops_max, hops: 0.0, recall: 0.0 };
        let breadth = sample.breadth(K);
        let one = |scratch: &mut Scratch, (own, truth): (&u32, &f32)| {
            ask(&mut scratch.place, *own);
            let hops = walk(scratch, *own, breadth)?;
            Ok((hops, scratch.nearest.iter().filter(|near| near.distance <= *truth).count()))
        };
        let asked = queries.par_iter().zip(&truths).map_init(Scratch::new, one);
        sample.hops = samples.last().map_or(0.0, |before| before.hops);
        sample.take(&asked.collect::<Result<Vec<_>, Cancelled>>()?, K.min(wanted.len().saturating_sub(1)));
        samples.push(sample);
        if sample.recall >= RECALL_ENOUGH {
            break;
        }
    }
    Ok(samples)
}

impl Sample {
    /// Takes in what each query came to: hops, and how many were found of `wanted`. Of the recall the standard error is
    /// taken off: rather too much effort than a promise that is not kept.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "means of small counts")]
    fn take(&mut self, asked: &[(u64, usize)], wanted: usize) {
        let queries = asked.len().max(1) as f64;
        let hops: u64 = asked.iter().map(|(hops, _)| hops).sum();
        self.hops = self.hops.max((hops as f64 / queries) as f32);
        let recall = |found: usize| found as f64 / wanted.max(1) as f64;
        let mean = asked.iter().map(|(_, found)| recall(*found)).sum::<f64>() / queries;
        let variance = asked.iter().map(|(_, found)| (recall(*found) - mean).powi(2)).sum::<f64>() / queries;
        self.recall = (mean - (variance / queries).sqrt()) as f32;
    }
}

/// Distance of the [`K`]-th nearest of each query but itself, or of the farthest. The queries take turns on a few points,
/// which stay in the cache meanwhile. Errors: `Cancelled`.
fn farthest_of_nearest(
    wanted: &[u32],
    queries: &[u32],
    ask: impl Fn(&mut Place, u32),
    distance: impl Fn(&Place, u32) -> f32,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<f32>, Cancelled> {
    let place = |own: &u32| {
        let mut place = Place::new();
        ask(&mut place, *own);
        place
    };
    let mut asked: Vec<(u32, Place, BinaryHeap<Near>)> =
        queries.iter().map(|own| (*own, place(own), BinaryHeap::new())).collect();
    for points in wanted.chunks(POINTS_TOGETHER) {
        if stop() {
            return Err(Cancelled);
        }
        for (own, place, nearest) in &mut asked {
            for offset in points.iter().copied().filter(|offset| offset != own) {
                admit(nearest, Near { distance: distance(place, offset), offset }, Breadth::beam(K));
            }
        }
    }
    Ok(asked.into_iter().map(|(.., nearest)| nearest.peek().map_or(0.0, |near| near.distance)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: [Sample; 3] = [
        Sample { slack: 0.0, hops_max: 100.0, hops: 20.0, recall: 0.8 },
        Sample { slack: 0.1, hops_max: 200.0, hops: 40.0, recall: 0.9 },
        Sample { slack: 0.3, hops_max: 400.0, hops: 80.0, recall: 0.99 },
    ];

    #[test]
    fn what_is_wanted_lies_between_what_was_tried() {
        let near = |a: f32, b: f32| (a - b).abs() < 1e-5;
        for (recall, slack) in [(0.5, 0.0), (0.8, 0.0), (0.85, 0.05), (0.9, 0.1), (0.945, 0.2), (0.99, 0.3), (1.0, 0.3)]
        {
            let found = for_recall(&SAMPLES, recall).expect("something was tried");
            assert!(near(found.slack, slack), "recall {recall}: {found:?}");
        }
        for (hops, slack, hops_max) in [(10.0, 0.0, 100.0), (60.0, 0.2, 300.0), (81.0, 0.3, 400.0)] {
            let found = for_hops(&SAMPLES, hops).expect("something was tried");
            assert!(near(found.slack, slack) && near(found.hops_max, hops_max), "{hops} hops: {found:?}");
        }
        assert_eq!(for_recall(&[], 0.9), None);
    }

    #[test]
    fn samples_must_ascend_and_be_numbers() {
        assert!(check(&SAMPLES) && check(&[]));
        let [a, b, c] = SAMPLES;
        assert!(!check(&[b, a, c]));
        assert!(!check(&[a, Sample { hops: f32::NAN, ..b }]));
        assert!(!check(&[Sample { slack: -1.0, ..a }]));
    }
}
