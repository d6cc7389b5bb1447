//! Growing a graph from nothing, batch by batch.

use std::ops::Range;

use rayon::prelude::*;

use super::growth::{Grown, Growth, nearest_of};
use super::links::{Links, List};
use super::order::order;
use super::points::{Points, offset_of};
use super::prune::prune;
use super::seed::seed;
use crate::segment::{BuildError, DEGREE, Layout, Near};

/// Points that `hnsw_rs` links: enough to lead later ones to all regions.
const SEED_POINTS: usize = 2_048;

/// How a graph is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Params {
    /// Beam of the walks that find candidates.
    pub(crate) ef_construction: usize,
}

impl Params {
    /// Beam of walks for points that join, which look less far: others that join after them link back to them.
    pub(super) fn joining_beam(self) -> usize {
        (self.ef_construction * 2 / 5).max(DEGREE)
    }
}

/// Links `points`, which it puts in another order: tells where each was before.
///
/// Errors: `Cancelled`; memory that the system refuses.
pub(crate) fn grow(
    points: &mut Points,
    layout: &Layout,
    params: Params,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<(Grown, Vec<u32>), BuildError> {
    let len = points.len();
    let first = len.min(SEED_POINTS);
    if stop() {
        return Err(BuildError::Cancelled);
    }
    let lists = plant(points, first, params.ef_construction);
    let (moved, starts) = regions(points, first, &lists);
    points.reorder(&moved);
    let mut growth = Growth::new(points, layout, Links::none(len), stop)?;
    growth.join(&(0..first), lists)?;
    for batch in batches(first, len) {
        growth.round(batch, params.joining_beam(), |own| starts[own as usize])?;
    }
    if len > first {
        growth.round(0..len, params.ef_construction, |own| own)?;
    }
    Ok((growth.finish(), moved))
}

/// The points that join together: each time as many as there are.
fn batches(first: usize, len: usize) -> impl Iterator<Item = Range<usize>> {
    let starts = std::iter::successors(Some(first), |have| Some(2 * have));
    starts.take_while(move |start| *start < len).map(move |start| start..len.min(2 * start))
}

/// Links the first `len` points.
fn plant(points: &Points, len: usize, ef_construction: usize) -> Vec<List> {
    let candidates = seed(points, len, ef_construction);
    let pruned = |(index, mut candidates): (usize, Vec<Near>)| prune(points, offset_of(index), &mut candidates);
    candidates.into_par_iter().enumerate().map(pruned).collect()
}

/// An order of the points in which those of a batch that are near each other stand together, so that walks for them find
/// in cache what walks before them read. For each place the point that comes there, and the seed near it.
fn regions(points: &Points, seeds: usize, lists: &[List]) -> (Vec<u32>, Vec<u32>) {
    let len = points.len();
    let mut links = Links::none(seeds);
    (0..).zip(lists).for_each(|(own, list)| links[own] = *list);
    let mut ranks = vec![0; seeds];
    (0_u32..).zip(order(&links, 0)).for_each(|(rank, seed)| ranks[seed as usize] = rank);
    let offsets: Vec<u32> = (0..).take(seeds).collect();
    let near = nearest_of(points, &offsets, 0..len);
    let mut moved: Vec<u32> = (0..).take(len).collect();
    for batch in batches(seeds, len) {
        moved[batch].par_sort_by_key(|point| ranks[near[*point as usize] as usize]);
    }
    let starts = moved.iter().map(|point| near[*point as usize]).collect();
    (moved, starts)
}
