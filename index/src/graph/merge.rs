//! One graph of several: the largest stays, and the others join it.
//!
//! A point knows its neighbours within its own part, so only those in other parts are looked for: part after part, each
//! point walks what is there already, and those that it links to link back. Points of the largest part do not walk, which
//! is what makes a merge of two take less than half of a build. Whoever was linked to a point that died takes over its links.
//!
//! Sources: FreshDiskANN, arXiv 2105.09613 (taking over the links of the dead); ParlayANN, arXiv 2305.04359 (batches).

use std::ops::Range;

use rayon::prelude::*;

use super::grow::Params;
use super::growth::{Grown, Growth, SHARE, nearest_of};
use super::links::{Links, List};
use super::points::{Points, offset_of};
use super::prune::prune;
use crate::segment::{BuildError, Cancelled, Layout, Near};

/// Points of those that are there among which the start of a walk is looked for: two microseconds spent to save many hops.
const STARTS: usize = 1_024;

/// A graph that is to become part of another.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Its points, among those of all parts.
    pub(crate) points: Range<usize>,
    /// Whether most of its points died, and most links with them.
    pub(crate) is_worn: bool,
}

/// Makes one graph of `parts`, the largest first, which is not worn.
///
/// `known` writes whom a point was linked to and tells whether some of these died; then what it writes are also those
/// that the dead were linked to, any of them more than once.
/// Errors: `Cancelled`; memory that the system refuses.
pub(crate) fn merge(
    points: &Points,
    layout: &Layout,
    parts: &[Part],
    known: &(impl Fn(u32, &mut Vec<u32>) -> bool + Sync),
    params: Params,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Grown, BuildError> {
    let links = inherited(points, known, stop)?;
    let mut growth = Growth::new(points, layout, links, stop)?;
    let base = parts[0].points.end;
    growth.join_as_they_are(0..base)?;
    for Part { points: part, .. } in &parts[1..] {
        let there = part.start;
        let sample: Vec<u32> = (0..there).step_by((there / STARTS).max(1)).map(offset_of).collect();
        let starts = nearest_of(points, &sample, part.clone());
        growth.round(part.clone(), params.joining_beam(), |own| starts[own as usize - there])?;
    }
    // These did not know all of their own part when it joined.
    for part in parts.iter().filter(|part| part.is_worn) {
        growth.round(part.points.clone(), params.joining_beam(), |own| own)?;
    }
    Ok(growth.finish())
}

/// The links that points have of their parts.
fn inherited(
    points: &Points,
    known: &(impl Fn(u32, &mut Vec<u32>) -> bool + Sync),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Links, Cancelled> {
    let list = |others: &mut Vec<u32>, index: usize| {
        if index.is_multiple_of(SHARE) && stop() {
            return Err(Cancelled);
        }
        let own = offset_of(index);
        others.clear();
        if known(own, others) {
            let mut candidates: Vec<Near> = others.iter().map(|other| points.near(own, *other)).collect();
            return Ok(prune(points, own, &mut candidates));
        }
        Ok(others.iter().copied().collect())
    };
    let lists = (0..points.len()).into_par_iter().with_min_len(SHARE).map_init(Vec::new, list);
    Ok(Links::from(lists.collect::<Result<Vec<List>, Cancelled>>()?))
}
