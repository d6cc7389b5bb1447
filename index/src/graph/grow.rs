//! Growing a graph batch by batch.

use std::ops::Range;

use rayon::prelude::*;

use super::links::{Links, List};
use super::points::{Points, offset_of};
use super::prune::prune;
use super::seed::seed;
use crate::buffer::Buffer;
use crate::segment::{
    Blocks, Breadth, BuildError, Cancelled, DEGREE, Layout, LinkWriter, Near, Scratch, walk, write_row,
};

/// Points that `hnsw_rs` links: enough to lead later ones to all regions.
const SEED_POINTS: usize = 2_048;

/// Points that a thread takes at a time.
const SHARE: usize = 64;

/// How a graph is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Params {
    /// Beam of the walks that find candidates.
    pub(crate) ef_construction: usize,
}

/// A graph, as it is before repair and order.
pub(crate) struct Grown {
    pub(crate) links: Links,
    /// Blocks of all points, with those links.
    pub(crate) blocks: Buffer,
    /// Whether the precision of rows lost nothing.
    pub(crate) lossless: bool,
}

/// Links `points`. Errors: `Cancelled`; memory that the system refuses.
pub(crate) fn grow(
    points: &Points,
    layout: &Layout,
    params: Params,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Grown, BuildError> {
    let len = points.len();
    let mut blocks = Buffer::zeroed(len * layout.stride()).map_err(BuildError::Memory)?;
    let lossless = write_rows(points, layout, &mut blocks);
    let mut growth = Growth { points, layout, links: Links::none(len), blocks, stop };
    let first = len.min(SEED_POINTS);
    growth.plant(first, params.ef_construction)?;
    let mut have = first;
    while have < len {
        let end = len.min(have + have / 2);
        growth.round(have..end, params.ef_construction)?;
        have = end;
    }
    if len > first {
        growth.round(0..len, params.ef_construction)?;
    }
    Ok(Grown { links: growth.links, blocks: growth.blocks, lossless })
}

fn write_rows(points: &Points, layout: &Layout, blocks: &mut [u8]) -> bool {
    let blocks = blocks.par_chunks_exact_mut(layout.stride()).enumerate();
    let write = |(index, block): (usize, &mut [u8])| {
        let vector = points.vector(offset_of(index));
        write_row(layout, block, vector, points.space().scale(vector))
    };
    blocks.map(write).reduce(|| true, |a, b| a && b)
}

struct Growth<'a> {
    points: &'a Points,
    layout: &'a Layout,
    links: Links,
    blocks: Buffer,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl Growth<'_> {
    /// Links the first `len` points.
    fn plant(&mut self, len: usize, ef_construction: usize) -> Result<(), Cancelled> {
        self.go_on()?;
        let candidates = seed(self.points, len, ef_construction);
        let lists: Vec<List> = (candidates.into_par_iter().enumerate())
            .map(|(index, mut candidates)| prune(self.points, offset_of(index), &mut candidates))
            .collect();
        let batch = 0..len;
        self.join(&batch, lists);
        Ok(())
    }

    /// Links the points of `batch` to what they find, and what they found back to them.
    fn round(&mut self, batch: Range<usize>, beam: usize) -> Result<(), Cancelled> {
        let blocks = Blocks::new(self.layout, &self.blocks);
        let breadth = Breadth::beam(beam);
        let lists = (batch.clone().into_par_iter().with_min_len(SHARE))
            .map_init(
                || (Scratch::new(), Vec::new()),
                |(scratch, candidates), index| {
                    let own = offset_of(index);
                    scratch.place.set_point(self.points.space(), self.points.vector(own), self.points.rotated(own));
                    walk(blocks, scratch, &[0], breadth, |_| true, self.stop)?;
                    candidates.clear();
                    candidates.extend(scratch.nearest.drain());
                    candidates.extend(self.links[own].iter().map(|link| self.near(own, *link)));
                    Ok(prune(self.points, own, candidates))
                },
            )
            .collect::<Result<Vec<List>, Cancelled>>()?;
        self.join(&batch, lists);
        Ok(())
    }

    /// Sets the lists of a batch, adds the links back, and brings the blocks up to date.
    fn join(&mut self, batch: &Range<usize>, lists: Vec<List>) {
        for (index, list) in batch.clone().zip(lists) {
            self.links[offset_of(index)] = list;
        }
        let mut changed = self.link_back(batch);
        changed.extend(batch.clone().map(offset_of));
        changed.sort_unstable();
        changed.dedup();
        write_links(self.points, self.layout, &self.links, &changed, &mut self.blocks);
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
        let mut candidates: Vec<Near> = all.map(|other| self.near(own, other)).collect();
        Some((own, prune(self.points, own, &mut candidates)))
    }

    fn near(&self, own: u32, other: u32) -> Near {
        Near { distance: self.points.distance(own, other), offset: other }
    }

    fn go_on(&self) -> Result<(), Cancelled> {
        if (self.stop)() { Err(Cancelled) } else { Ok(()) }
    }
}

/// Writes codes and links of the points in `changed`, ascending.
pub(super) fn write_links(points: &Points, layout: &Layout, links: &Links, changed: &[u32], blocks: &mut [u8]) {
    let mut is_changed = vec![false; links.len()];
    changed.iter().for_each(|offset| is_changed[*offset as usize] = true);
    blocks.par_chunks_exact_mut(layout.stride()).enumerate().with_min_len(SHARE).for_each_init(
        || LinkWriter::new(points.rotation().padded_dim()),
        |writer, (index, block)| {
            if is_changed[index] {
                write_block(points, layout, links, offset_of(index), writer, block);
            }
        },
    );
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
