//! The graph of a segment, in one form or the other.

use super::among::walk_among;
use super::blocks::{Blocks, Row, row};
use super::compact::Compact;
use super::layout::DEGREE;
use super::place::Place;
use super::queue::Waiting;
use super::walk::{Breadth, Cancelled, Near, Path, Scratch, Steps, admit, walk};

/// Standard deviations of a told distance within which the truth is taken to lie.
const DEVIATIONS: f32 = 2.5;

/// What a segment's walks and scans read.
#[derive(Clone, Copy)]
pub(crate) enum Form<'a> {
    /// Blocks with a vector each, or its codes, and the codes of neighbours.
    Full(Blocks<'a>),
    Compact(Compact<'a>),
}

impl Form<'_> {
    /// Whether distances are those of codes, so that they are to be settled.
    pub(super) fn is_coded(&self) -> bool {
        match self {
            Self::Full(blocks) => blocks.layout().precision().is_coded(),
            Self::Compact(_) => true,
        }
    }

    /// Neighbours of a point; a free place holds its own offset. A file may say anything.
    pub(super) fn links(&self, offset: u32) -> &[u32; DEGREE] {
        match self {
            Self::Full(blocks) => Steps::links(blocks, offset),
            Self::Compact(compact) => Steps::links(compact, offset),
        }
    }

    /// What makes the vector of a point, as it was sent, a place.
    pub(super) fn vector_scale(&self, offset: u32) -> f32 {
        match self {
            Self::Full(blocks) => blocks.layout().head(blocks.block(offset)).vector_scale,
            Self::Compact(compact) => compact.vector_scale(offset),
        }
    }

    /// Asks for what [`Form::distance`] reads ahead of time.
    #[inline]
    pub(super) fn prefetch_row(&self, offset: u32) {
        match self {
            Self::Full(blocks) => blocks.prefetch_row(offset),
            Self::Compact(compact) => Steps::prefetch(compact, offset),
        }
    }

    /// Squared distance of a point, as well as the form knows it.
    #[inline]
    pub(super) fn distance(&self, place: &Place, offset: u32) -> f32 {
        match self {
            Self::Full(blocks) => Steps::distance(blocks, place, offset),
            Self::Compact(compact) => Steps::distance(compact, place, offset),
        }
    }

    /// How many points a scan keeps so that the nearest `k` are among them once their distances are settled.
    pub(super) fn width(&self, k: usize) -> usize {
        match self {
            Self::Full(_) if self.is_coded() => k + k / 8 + 4,
            Self::Full(_) => k,
            Self::Compact(_) => 2 * k + 16,
        }
    }

    /// How far from the truth the distance that was told of a point may lie.
    fn leeway(&self, place: &Place, near: Near) -> f32 {
        let deviation = match self {
            Self::Full(blocks) => match row(blocks.layout(), blocks.block(near.offset)) {
                // A component is off by the root of a twelfth of a step.
                Row::Codes(_) => {
                    let step = blocks.layout().head(blocks.block(near.offset)).row_scale;
                    2.0 * near.distance.sqrt() * step / 12.0_f32.sqrt()
                }
                _ => 0.0,
            },
            Self::Compact(compact) => compact.deviation(place, near.offset),
        };
        DEVIATIONS * deviation
    }

    /// [`walk`] that leaves in `scratch.met` all points that were accepted, if their distances are to be settled.
    pub(super) fn walk(
        &self,
        scratch: &mut Scratch,
        starts: &[Waiting],
        breadth: Breadth,
        handicap: impl Fn(u32) -> f32,
        mut accept: impl FnMut(u32) -> bool,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Path, Cancelled> {
        let mut met = std::mem::take(&mut scratch.met);
        met.clear();
        let walked = match self {
            Self::Full(blocks) if self.is_coded() => {
                walk(*blocks, scratch, starts, breadth, handicap, noting(&mut met, accept), stop)
            }
            Self::Full(blocks) => walk(*blocks, scratch, starts, breadth, handicap, |near| accept(near.offset), stop),
            Self::Compact(compact) => {
                walk(*compact, scratch, starts, breadth, handicap, noting(&mut met, accept), stop)
            }
        };
        scratch.met = met;
        walked
    }

    /// [`walk_among`], likewise.
    pub(super) fn walk_among(
        &self,
        scratch: &mut Scratch,
        starts: &[Waiting],
        breadth: Breadth,
        wanted: impl Fn(u32) -> bool,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Path, Cancelled> {
        let mut met = std::mem::take(&mut scratch.met);
        met.clear();
        let note = |near: Near| met.push(near);
        let walked = match self {
            Self::Full(blocks) if self.is_coded() => walk_among(*blocks, scratch, starts, breadth, wanted, note, stop),
            Self::Full(blocks) => walk_among(*blocks, scratch, starts, breadth, wanted, |_| (), stop),
            Self::Compact(compact) => walk_among(*compact, scratch, starts, breadth, wanted, note, stop),
        };
        scratch.met = met;
        walked
    }

    /// Leaves the `k` nearest of `scratch.met` in `scratch.nearest`, by the distances that `exact` tells: of as few as
    /// can be, for it reads vectors, which `prefetch` asks for ahead of time.
    pub(super) fn refine(
        &self,
        scratch: &mut Scratch,
        k: usize,
        prefetch: impl Fn(u32),
        mut exact: impl FnMut(&Place, Near) -> f32,
    ) {
        let Scratch { place, nearest, met, .. } = scratch;
        if met.len() > k {
            let (_, last, _) = met.select_nth_unstable(k - 1);
            let limit = last.distance + self.leeway(place, *last);
            met.retain(|near| near.distance - self.leeway(place, *near) <= limit);
        }
        met.iter_mut().for_each(|near| near.distance -= self.leeway(place, *near));
        met.sort_unstable();
        nearest.clear();
        for (at, near) in met.iter().enumerate() {
            if nearest.len() >= k && nearest.peek().is_some_and(|last| near.distance > last.distance) {
                break;
            }
            if let Some(next) = met.get(at + 1) {
                prefetch(next.offset);
            }
            let distance = exact(place, *near);
            admit(nearest, Near { distance, ..*near }, Breadth::beam(k));
        }
    }
}

/// Accepts what `accept` does, and notes it in `met`.
fn noting(met: &mut Vec<Near>, mut accept: impl FnMut(u32) -> bool) -> impl FnMut(Near) -> bool {
    move |near| {
        let accepted = accept(near.offset);
        if accepted {
            met.push(near);
        }
        accepted
    }
}
