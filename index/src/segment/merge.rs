//! Merging segments into one.

use std::cmp::Reverse;
use std::ops::Range;

use rayon::prelude::*;

use super::build::{BuildError, Parameters, check_len, gathered, grown, layout, params, placed};
use super::draft::{Draft, Facts};
use super::frozen::Segment;
use super::target::Target;
use crate::bits::is_set;
use crate::graph;
use crate::rotation::shuffled;

/// No point.
const NONE: u32 = u32::MAX;

/// A segment that is to be merged, and which of its points live.
#[derive(Clone, Copy, Debug)]
pub struct MergePart<'a> {
    /// The points.
    pub segment: &'a Segment,
    /// Which of them live, a bit each, by offset; `None` if all do.
    pub live: Option<&'a [u64]>,
}

impl MergePart<'_> {
    fn lives(&self, offset: u32) -> bool {
        self.live.is_none_or(|live| is_set(live, offset))
    }

    fn living(&self) -> impl Iterator<Item = u32> {
        (0..self.segment.len()).filter(|offset| self.lives(*offset))
    }
}

impl Segment {
    /// Merges what lives in `parts` into one segment, on the threads of the current rayon pool, and writes it. All parts
    /// are of one dimension and of the metric of `parameters`; an id lives in one of them at most.
    ///
    /// The part in which most points live keeps its links and the others join it, see `graph`; a graph is grown from
    /// nothing, as in a build, where more than half of that part died. The same parts, in the same order, and the same
    /// parameters give the same bytes, however many threads merge.
    ///
    /// Every byte of the parts is verified before it is read: what a disk has spoilt since a part was opened would be
    /// written with good checksums else, and be there for ever.
    ///
    /// Memory beside parts and file: 9 bytes a component, the blocks, and for each point its id and some 600 bytes.
    /// Errors: all of [`BuildError`]; `Cancelled` within milliseconds of `stop` saying so while walks are done or blocks
    /// written, which take most of the time, and at the next step else.
    ///
    /// # Panics
    /// If there are no parts, or they are of several dimensions.
    pub fn merge(
        parts: &[MergePart<'_>],
        parameters: &Parameters,
        target: &Target,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Self, BuildError> {
        verify(parts, stop)?;
        let survivors = Survivors::of(parts);
        check_len(survivors.origins.len())?;
        let base = survivors.sources.first().expect("a merge is of one part at least");
        let draft = if base.survivors.is_empty() || base.is_worn() {
            survivors.regrown(parameters, stop)?
        } else {
            survivors.joined(parameters, stop)?
        };
        draft.freeze(target, stop)
    }
}

/// Errors: `Part`, `Cancelled`.
fn verify(parts: &[MergePart<'_>], stop: &(dyn Fn() -> bool + Sync)) -> Result<(), BuildError> {
    parts.par_iter().try_for_each(|part| {
        if stop() {
            return Err(BuildError::Cancelled);
        }
        part.segment.verify().map_err(BuildError::Part)
    })
}

/// A point that lives in a part.
#[derive(Clone, Copy, Debug)]
struct Origin {
    part: u32,
    offset: u32,
}

/// A part, as a merge sees it.
struct Source<'a> {
    segment: &'a Segment,
    /// For each of its points which survivor it is.
    names: Vec<u32>,
    /// Which survivors are its own.
    survivors: Range<usize>,
}

impl Source<'_> {
    /// Whether more than half of its points died: the links that are left would lead to too few of those that are near.
    fn is_worn(&self) -> bool {
        2 * self.survivors.len() < self.names.len()
    }

    /// Writes whom a point was linked to; where some of these died, also whom they were linked to. Tells whether some did.
    fn known(&self, offset: u32, out: &mut Vec<u32>) -> bool {
        let mut died = false;
        for link in self.segment.neighbours(offset) {
            match self.names[link as usize] {
                NONE => {
                    died = true;
                    let beyond = self.segment.neighbours(link).filter(|other| *other != offset);
                    out.extend(beyond.map(|other| self.names[other as usize]).filter(|name| *name != NONE));
                }
                name => out.push(name),
            }
        }
        died
    }
}

/// All points that live in parts.
struct Survivors<'a> {
    /// The one in which most live first.
    sources: Vec<Source<'a>>,
    origins: Vec<Origin>,
}

impl<'a> Survivors<'a> {
    /// # Panics
    /// If parts are of several dimensions.
    fn of(parts: &[MergePart<'a>]) -> Self {
        let dim = parts.first().map_or(0, |part| part.segment.dim());
        assert!(parts.iter().all(|part| part.segment.dim() == dim), "parts of several dimensions");
        let mut living: Vec<(&Segment, Vec<u32>)> =
            parts.iter().map(|part| (part.segment, part.living().collect())).collect();
        living.sort_by_key(|(_, offsets)| Reverse(offsets.len()));
        let (mut sources, mut origins) = (Vec::with_capacity(living.len()), Vec::new());
        for (part, (segment, offsets)) in (0..).zip(living) {
            let first = origins.len();
            origins.extend(offsets.iter().map(|offset| Origin { part, offset: *offset }));
            let mut names = vec![NONE; segment.len() as usize];
            (first..).zip(&offsets).for_each(|(name, offset)| names[*offset as usize] = narrow(name));
            sources.push(Source { segment, names, survivors: first..origins.len() });
        }
        Self { sources, origins }
    }

    /// One graph of those that there are.
    fn joined(&self, parameters: &Parameters, stop: &(dyn Fn() -> bool + Sync)) -> Result<Draft<'a>, BuildError> {
        let points = placed(parameters, self.dim(), self.vectors());
        let layout = layout(&points, parameters);
        let part = |source: &Source<'_>| graph::Part { points: source.survivors.clone(), is_worn: source.is_worn() };
        let parts: Vec<graph::Part> = self.sources.iter().map(part).collect();
        let known = |own: u32, out: &mut Vec<u32>| {
            let Origin { part, offset } = self.origins[own as usize];
            self.sources[part as usize].known(offset, out)
        };
        let grown = graph::merge(&points, &layout, &parts, &known, params(parameters), stop)?;
        Ok(Draft::new(self.facts(), points, layout, grown, parameters, stop)?)
    }

    /// A graph from nothing.
    fn regrown(mut self, parameters: &Parameters, stop: &(dyn Fn() -> bool + Sync)) -> Result<Draft<'a>, BuildError> {
        let order = shuffled(self.origins.len(), parameters.seed);
        self.origins = order.iter().map(|at| self.origins[*at as usize]).collect();
        grown(self.facts(), self.dim(), self.vectors(), parameters, stop)
    }

    fn dim(&self) -> usize {
        self.sources[0].segment.dim() as usize
    }

    fn vectors(&self) -> Vec<f32> {
        gathered(self.origins.len(), self.dim(), |at, out| {
            let (segment, offset) = self.origin(self.origins[at]);
            segment.read_vector(offset, out);
        })
    }

    fn facts(&self) -> Facts<'a> {
        let origins = || self.origins.iter().map(|origin| self.origin(*origin));
        Facts {
            ids: origins().map(|(segment, offset)| segment.id(offset)).collect(),
            versions: origins().map(|(segment, offset)| segment.versions()[offset as usize]).collect(),
            payloads: origins().map(|(segment, offset)| segment.payload(offset)).collect(),
        }
    }

    fn origin(&self, origin: Origin) -> (&'a Segment, u32) {
        (self.sources[origin.part as usize].segment, origin.offset)
    }
}

/// Narrows the number of a survivor. One too many is no point: a segment is not made of so many.
fn narrow(name: usize) -> u32 {
    u32::try_from(name).unwrap_or(NONE)
}
