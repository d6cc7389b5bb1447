//! Arithmetic of bytes: lookups in tables of 16, products of `i8`.

use crate::kernels::lut::{BATCH, BLOCK_BYTES, Block, Lut};

pub(in crate::kernels) fn fill_lut(rotated: &[f32], inverse: f32, blocks: &mut [Block]) -> u32 {
    let mut total = 0;
    for (group, entries) in rotated.as_chunks::<4>().0.iter().zip(blocks.iter_mut().flat_map(Block::groups_mut)) {
        #[allow(clippy::cast_possible_truncation, reason = "the inverse keeps it within 63")]
        let values = group.map(|value| (value * inverse).round_ties_even() as i8);
        for (signs, entry) in entries.iter_mut().enumerate() {
            let agree = |(i, value): (usize, &i8)| {
                let positive = signs >> i & 1 == 1;
                if positive == (*value > 0) { value.unsigned_abs() } else { 0 }
            };
            *entry = values.iter().enumerate().map(agree).sum();
        }
        total += values.iter().map(|value| u32::from(value.unsigned_abs())).sum::<u32>();
    }
    total
}

/// Sums of 32 rows, by halves.
#[inline]
pub(super) fn values(codes: &[u8], lut: &Lut) -> [super::Lanes; 2] {
    #[allow(clippy::cast_precision_loss, reason = "sums stay below 2^24")]
    let value = |sum: u32| sum as f32 * lut.step() + lut.bias();
    let values = sums(codes, lut).map(value);
    [std::array::from_fn(|i| values[i]), std::array::from_fn(|i| values[16 + i])]
}

fn sums(codes: &[u8], lut: &Lut) -> [u32; BATCH] {
    let mut sums = [0; BATCH];
    for (codes, block) in codes.as_chunks::<BLOCK_BYTES>().0.iter().zip(lut.blocks()) {
        for (codes, entries) in codes.as_chunks::<16>().0.iter().zip(block.groups()) {
            for (row, code) in codes.iter().enumerate() {
                sums[row] += u32::from(entries[usize::from(code & 15)]);
                sums[row + 16] += u32::from(entries[usize::from(code >> 4)]);
            }
        }
    }
    sums
}

pub(in crate::kernels) fn dot_i8_i8(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}

pub(in crate::kernels) fn squared_euclidean_i8_i8(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(a, b)| (i32::from(*a) - i32::from(*b)).pow(2)).sum()
}

pub(in crate::kernels) fn dot_u4_i8(codes: &[u8], query: &[i8]) -> i32 {
    let blocks = codes.as_chunks::<32>().0.iter().zip(query.as_chunks::<64>().0);
    let product = |code: u8, component: i8| i32::from(code) * i32::from(component);
    blocks
        .map(|(codes, query)| {
            let (low, high) = query.split_at(32);
            let both = codes.iter().zip(low.iter().zip(high));
            both.map(|(code, (low, high))| product(code & 15, *low) + product(code >> 4, *high)).sum::<i32>()
        })
        .sum()
}
