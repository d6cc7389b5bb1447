//! One graph of several: the largest stays, and the others join it.
//!
//! A point knows its neighbours within its own part, so only those in other parts are looked for: each point of a smaller
//! part walks what is there already, and those that it links to link back. Points of the largest part do not walk, which
//! is what makes a merge take a third of a build. Whoever was linked to a point that died takes over its links.
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

/// Points of the largest part among which the start of a walk is looked for: two microseconds spent to save many hops.
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
    growth.join_as_they_are(0..base);
    let sample: Vec<u32> = (0..base).step_by((base / STARTS).max(1)).map(offset_of).collect();
    let starts = nearest_of(points, &sample, base..points.len());
    for batch in batches(parts) {
        growth.round(batch, params.joining_beam(), |own| starts[own as usize - base])?;
    }
    // These did not know each other when they joined.
    for part in parts.iter().filter(|part| part.is_worn) {
        growth.round(part.points.clone(), params.joining_beam(), |own| own)?;
    }
    Ok(growth.finish())
}

/// The parts that join together: not more points than there are.
fn batches(parts: &[Part]) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    for Part { points, .. } in &parts[1..] {
        match batches.last_mut() {
            Some(batch) if points.end <= 2 * batch.start => batch.end = points.end,
            _ => batches.push(points.clone()),
        }
    }
    batches
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "a batch is a range")]
    fn parts_join_together_while_they_are_not_more_than_what_they_join() {
        for (name, sizes, want) in [
            ("one", &[10][..], &[][..]),
            ("halves", &[10, 10], &[10..20]),
            ("equal ones", &[10; 5], &[10..20, 20..40, 40..50]),
            ("a large one and small ones", &[100, 40, 30, 20, 10, 5], &[100..200, 200..205]),
            ("nothing left of some", &[3, 0, 0], &[3..3]),
        ] {
            let ends = sizes.iter().scan(0, |end, size| {
                *end += size;
                Some(*end)
            });
            let part = |(size, end): (&usize, usize)| Part { points: end - size..end, is_worn: false };
            let parts: Vec<Part> = sizes.iter().zip(ends).map(part).collect();
            assert_eq!(batches(&parts), want, "{name}");
        }
    }
}
