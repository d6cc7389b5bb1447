//! Where walks start: a sample of the points, whose codes are looked at one and all.
//!
//! It does what the upper layers of an HNSW do, without their random reads: 512 codes of 384 dimensions are 24 KiB,
//! which stay in cache and take a microsecond. They lie in blocks that have no row.

use super::blocks::{Blocks, LinkWriter, write_row};
use super::layout::{DEGREE, Layout, Precision};
use super::place::Place;

/// Most points of the sample. Twice as many save half a hop, and cost more than that.
pub(crate) const ENTRIES_MAX: usize = 512;

/// How the blocks of a sample are laid out, for places of `dims` components.
pub(crate) fn layout(dims: usize) -> Layout {
    Layout::new(0, dims, Precision::F32)
}

/// Writes the blocks of a sample: `offsets`, whose places less the centre, rotated, `rotated` tells.
pub(crate) fn write<'r>(
    layout: &Layout,
    padded_dims: usize,
    offsets: &[u32],
    rotated: impl Fn(u32) -> &'r [f32],
) -> Vec<u8> {
    let origin = vec![0.0; padded_dims];
    let mut writer = LinkWriter::new(padded_dims);
    let mut blocks = vec![0; offsets.len().div_ceil(DEGREE) * layout.stride()];
    for (block, offsets) in blocks.chunks_exact_mut(layout.stride()).zip(offsets.chunks(DEGREE)) {
        write_row(layout, block, &[], &[], 1.0);
        writer.write(layout, block, offsets[0], &origin, offsets, &rotated);
    }
    blocks
}

/// The entry point that seems nearest; `None` if there is none.
pub(crate) fn nearest(entries: Blocks<'_>, place: &Place) -> Option<u32> {
    let mut nearest = (f32::INFINITY, None);
    let mut estimates = [0.0; DEGREE];
    for number in 0..entries.len() as u32 {
        let block = entries.block(number);
        // Without the distance from the centre, which is the same for all.
        place.estimate(entries.layout(), block, 0.0, &mut estimates);
        for (estimate, link) in estimates.iter().zip(&entries.layout().tail(block).links) {
            if *estimate < nearest.0 {
                nearest = (*estimate, Some(*link));
            }
        }
    }
    nearest.1
}
