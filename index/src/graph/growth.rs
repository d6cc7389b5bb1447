//! A graph that grows: points join it in batches, each linked to what it finds, and what it found back to it.

use std::ops::Range;

use rayon::prelude::*;

use super::links::{Links, List};
use super::points::{Points, offset_of};
use super::prune::prune;
use super::towards::Towards;
use crate::buffer::Buffer;
use crate::segment::{
    Blocks, Breadth, BuildError, Cancelled, DEGREE, Layout, LinkWriter, Near, Place, Scratch, Waiting, entries, walk,
    write_row,
};

/// Points that a thread takes at a time.
pub(super) const SHARE: usize = 64;

/// A graph, as it is before repair and order.
pub(crate) struct Grown {
    pub(crate) links: Links,
    /// Blocks of all points, with those links.
    pub(crate) blocks: Buffer,
    /// Whether the precision of rows lost nothing.
    pub(crate) lossless: bool,
}

/// A graph, some of whose points may not have joined it yet: no other links to them, and their blocks have a row alone.
pub(super) struct Growth<'a> {
    points: &'a Points,
    layout: &'a Layout,
    links: Links,
    blocks: Buffer,
    lossless: bool,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Growth<'a> {
    /// A graph that no point has joined. `links`: whom each knows of those that join before or with it.
    ///
    /// Errors: `Memory`.
    pub(super) fn new(
        points: &'a Points,
        layout: &'a Layout,
        links: Links,
        stop: &'a (dyn Fn() -> bool + Sync),
    ) -> Result<Self, BuildError> {
        let mut blocks = Buffer::zeroed(points.len() * layout.stride()).map_err(BuildError::Memory)?;
        let lossless = write_rows(points, layout, &mut blocks);
        Ok(Self { points, layout, links, blocks, lossless, stop })
    }

    pub(super) fn finish(self) -> Grown {
        Grown { links: self.links, blocks: self.blocks, lossless: self.lossless }
    }

    /// Has points join that are linked among each other already. Errors: `Cancelled`.
    pub(super) fn join_as_they_are(&mut self, batch: Range<usize>) -> Result<(), Cancelled> {
        let all: Vec<u32> = batch.map(offset_of).collect();
        self.write_links(&all)
    }

    /// Links the points of `batch` to what they find, and what they found back to them. `start`: where walks begin.
    ///
    /// Errors: `Cancelled`.
    pub(super) fn round(
        &mut self,
        batch: Range<usize>,
        beam: usize,
        start: impl Fn(u32) -> u32 + Sync,
    ) -> Result<(), Cancelled> {
        let blocks = Blocks::new(self.layout, &self.blocks);
        let breadth = Breadth::beam(beam);
        let points = self.points;
        let find = |(scratch, candidates): &mut (Scratch, Vec<Near>), index| {
            let own = offset_of(index);
            scratch.place.set_point(points.space(), points.vector(own), points.rotated(own));
            candidates.clear();
            let keep = |near| {
                candidates.push(near);
                true
            };
            let graph = Towards { blocks, points, own };
            walk(graph, scratch, &[Waiting::start(start(own))], breadth, |_| 1.0, keep, self.stop)?;
            candidates.extend(self.links[own].iter().map(|link| points.near(own, *link)));
            Ok(prune(points, own, candidates))
        };
        let walks = batch.clone().into_par_iter().with_min_len(SHARE).map_init(Default::default, find);
        let lists = walks.collect::<Result<Vec<List>, Cancelled>>()?;
        self.join(&batch, lists)
    }

    /// Sets the lists of a batch, adds the links back, and brings the blocks up to date. Errors: `Cancelled`.
    pub(super) fn join(&mut self, batch: &Range<usize>, lists: Vec<List>) -> Result<(), Cancelled> {
        for (index, list) in batch.clone().zip(lists) {
            self.links[offset_of(index)] = list;
        }
        let mut changed = self.link_back(batch);
        changed.extend(batch.clone().map(offset_of));
        changed.sort_unstable();
        changed.dedup();
        self.write_links(&changed)
    }

    /// Writes codes and links of the points in `changed`. Errors: `Cancelled`.
    fn write_links(&mut self, changed: &[u32]) -> Result<(), Cancelled> {
        let Self { points, layout, links, blocks, stop, .. } = self;
        let mut is_changed = vec![false; links.len()];
        changed.iter().for_each(|offset| is_changed[*offset as usize] = true);
        blocks.par_chunks_exact_mut(layout.stride()).enumerate().with_min_len(SHARE).try_for_each_init(
            || LinkWriter::new(points.rotation().padded_dim()),
            |writer, (index, block)| {
                if is_changed[index] {
                    write_block(points, layout, links, offset_of(index), writer, block);
                }
                if index.is_multiple_of(SHARE) && stop() { Err(Cancelled) } else { Ok(()) }
            },
        )
    }

    /// Links what the batch links to back to it. Returns whose lists changed.
    fn link_back(&mut self, batch: &Range<usize>) -> Vec<u32> {
        let links = &self.links;
        let mut pairs: Vec<(u32, u32)> = (batch.clone().into_par_iter().map(offset_of))
            .flat_map_iter(|own| links[own].iter().map(move |link| (*link, own)))
            .collect();
        pairs.par_sort_unstable();
        let groups: Vec<&[(u32, u32)]> = pairs.chunk_by(|a, b| a.0 == b.0).collect();
        let lists: Vec<Option<(u32, List)>> =
            groups.into_par_iter().with_min_len(SHARE).map(|group| self.with_links_from(group)).collect();
        let mut changed = Vec::with_capacity(lists.len());
        for (own, list) in lists.into_iter().flatten() {
            self.links[own] = list;
            changed.push(own);
        }
        changed
    }

    /// The list of a point with those added that link to it, if that changes it. `group`: pairs of it and another.
    fn with_links_from(&self, group: &[(u32, u32)]) -> Option<(u32, List)> {
        let own = group[0].0;
        let list = self.links[own];
        let new: Vec<u32> = group.iter().map(|(_, other)| *other).filter(|other| !list.contains(other)).collect();
        if new.is_empty() {
            return None;
        }
        let all = list.iter().chain(&new).copied();
        if list.len() + new.len() <= DEGREE {
            return Some((own, all.collect()));
        }
        let mut candidates: Vec<Near> = all.map(|other| self.points.near(own, other)).collect();
        Some((own, prune(self.points, own, &mut candidates)))
    }
}

/// For each point of `range` the one of `sample` that seems nearest, where a walk for it may start.
pub(super) fn nearest_of(points: &Points, sample: &[u32], range: Range<usize>) -> Vec<u32> {
    let layout = entries::layout(points.space().dims());
    let blocks = entries::write(&layout, points.rotation().padded_dim(), sample, |offset| points.rotated(offset));
    let blocks = Blocks::new(&layout, &blocks);
    let nearest = |place: &mut Place, index| {
        let own = offset_of(index);
        place.set_point(points.space(), points.vector(own), points.rotated(own));
        entries::nearest(blocks, place).unwrap_or(0)
    };
    range.into_par_iter().map_init(Place::new, nearest).collect()
}

fn write_rows(points: &Points, layout: &Layout, blocks: &mut [u8]) -> bool {
    let blocks = blocks.par_chunks_exact_mut(layout.stride()).enumerate();
    let write = |(index, block): (usize, &mut [u8])| {
        let (vector, rotated) = (points.vector(offset_of(index)), points.rotated(offset_of(index)));
        write_row(layout, block, vector, rotated, points.space().scale(vector))
    };
    blocks.map(write).reduce(|| true, |a, b| a && b)
}

/// Writes codes and links of one point.
pub(super) fn write_block(
    points: &Points,
    layout: &Layout,
    links: &Links,
    own: u32,
    writer: &mut LinkWriter,
    block: &mut [u8],
) {
    writer.write(layout, block, own, points.rotated(own), &links[own], |link| points.rotated(link));
}
