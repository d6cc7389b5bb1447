//! Growing a graph batch by batch.

use std::ops::Range;

use rayon::prelude::*;

use super::links::{Links, List};
use super::order::order;
use super::points::{Points, offset_of};
use super::prune::prune;
use super::seed::seed;
use crate::buffer::Buffer;
use crate::segment::{
    Blocks, Breadth, BuildError, Cancelled, DEGREE, Layout, LinkWriter, Near, Place, Scratch, Waiting, entries, walk,
    write_row,
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
    /// Where each point was before [`grow`] put near ones together.
    pub(crate) moved: Vec<u32>,
    pub(crate) links: Links,
    /// Blocks of all points, with those links.
    pub(crate) blocks: Buffer,
    /// Whether the precision of rows lost nothing.
    pub(crate) lossless: bool,
}

/// Links `points`, which it puts in another order. Errors: `Cancelled`; memory that the system refuses.
pub(crate) fn grow(
    points: &mut Points,
    layout: &Layout,
    params: Params,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Grown, BuildError> {
    let len = points.len();
    let first = len.min(SEED_POINTS);
    if stop() {
        return Err(BuildError::Cancelled);
    }
    let lists = plant(points, first, params.ef_construction);
    let (moved, starts) = regions(points, first, &lists);
    points.reorder(&moved);
    let mut blocks = Buffer::zeroed(len * layout.stride()).map_err(BuildError::Memory)?;
    let lossless = write_rows(points, layout, &mut blocks);
    let mut growth = Growth { points, layout, links: Links::none(len), blocks, stop };
    growth.join(&(0..first), lists);
    let growing_beam = (params.ef_construction * 2 / 5).max(DEGREE);
    for batch in batches(first, len) {
        growth.round(batch, growing_beam, |own| starts[own as usize])?;
    }
    if len > first {
        growth.round(0..len, params.ef_construction, |own| own)?;
    }
    Ok(Grown { moved, links: growth.links, blocks: growth.blocks, lossless })
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
    let layout = entries::layout(points.space().dims());
    let blocks = entries::write(&layout, points.rotation().padded_dim(), &offsets, |seed| points.rotated(seed));
    let blocks = Blocks::new(&layout, &blocks);
    let nearest = |place: &mut Place, index| {
        let own = offset_of(index);
        place.set_point(points.space(), points.vector(own), points.rotated(own));
        entries::nearest(blocks, place).unwrap_or(0)
    };
    let near: Vec<u32> = (0..len).into_par_iter().map_init(Place::new, nearest).collect();
    let mut moved: Vec<u32> = (0..).take(len).collect();
    for batch in batches(seeds, len) {
        moved[batch].par_sort_by_key(|point| ranks[near[*point as usize] as usize]);
    }
    let starts = moved.iter().map(|point| near[*point as usize]).collect();
    (moved, starts)
}

fn write_rows(points: &Points, layout: &Layout, blocks: &mut [u8]) -> bool {
    let blocks = blocks.par_chunks_exact_mut(layout.stride()).enumerate();
    let write = |(index, block): (usize, &mut [u8])| {
        let (vector, rotated) = (points.vector(offset_of(index)), points.rotated(offset_of(index)));
        write_row(layout, block, vector, rotated, points.space().scale(vector))
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
    /// Links the points of `batch` to what they find, and what they found back to them. `start`: where walks begin.
    fn round(&mut self, batch: Range<usize>, beam: usize, start: impl Fn(u32) -> u32 + Sync) -> Result<(), Cancelled> {
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
            walk(blocks, scratch, &[Waiting::start(start(own))], breadth, |_| 1.0, keep, self.stop)?;
            candidates.extend(self.links[own].iter().map(|link| self.near(own, *link)));
            Ok(prune(points, own, candidates))
        };
        let walks = batch.clone().into_par_iter().with_min_len(SHARE).map_init(Default::default, find);
        let lists = walks.collect::<Result<Vec<List>, Cancelled>>()?;
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
