//! Arithmetic of bytes: lookups in tables of 16, products of `i8`.

use std::arch::aarch64::*;

use crate::kernels::lut::{BLOCK_BYTES, Block, Lut, PICKS, SPREAD, WIDE_BLOCKS};

#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: reads 16 bytes, which there are; needs no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[target_feature(enable = "neon")]
pub(in crate::kernels) fn fill_lut(rotated: &[f32], inverse: f32, blocks: &mut [Block]) -> u32 {
    let quarters = |bytes: &[u8; 64]| {
        let quarters = bytes.as_chunks::<16>().0;
        [load(&quarters[0]), load(&quarters[1]), load(&quarters[2]), load(&quarters[3])]
    };
    let (picks, spread) = (PICKS.each_ref().map(quarters), quarters(&SPREAD));
    let mut total = 0;
    let tables = blocks.iter_mut().flat_map(|block| block.groups_mut().as_chunks_mut::<4>().0);
    for (values, tables) in rotated.as_chunks::<16>().0.iter().zip(tables) {
        let [a, b, c, d] = super::load(values).map(|four| vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(four, inverse))));
        let values = vcombine_s8(vmovn_s16(vcombine_s16(a, b)), vmovn_s16(vcombine_s16(c, d)));
        total += u32::from(vaddlvq_u8(vreinterpretq_u8_s8(vabsq_s8(values))));
        for (i, tables) in tables.iter_mut().enumerate() {
            let entries = one_table(values, picks.map(|pick| pick[i]), spread[i]);
            // SAFETY: writes 16 bytes, which there are; needs no alignment.
            unsafe { vst1q_u8(tables.as_mut_ptr(), entries) }
        }
    }
    total
}

/// The table of one group, picked from 16 components: the sum of those whose signs a pattern has, over the least there
/// is, that of all negative ones.
#[inline]
#[target_feature(enable = "neon")]
fn one_table(values: int8x16_t, [a, b, c, d]: [uint8x16_t; 4], spread: uint8x16_t) -> uint8x16_t {
    let ab = vaddq_s8(vqtbl1q_s8(values, a), vqtbl1q_s8(values, b));
    let cd = vaddq_s8(vqtbl1q_s8(values, c), vqtbl1q_s8(values, d));
    let negative = vreinterpretq_u8_s8(vmaxq_s8(vnegq_s8(values), vdupq_n_s8(0)));
    let least = vreinterpretq_u8_u32(vpaddlq_u16(vpaddlq_u8(negative)));
    vaddq_u8(vreinterpretq_u8_s8(vaddq_s8(ab, cd)), vqtbl1q_u8(least, spread))
}

/// Sums of 8 rows each, 16 bits each.
#[inline]
#[target_feature(enable = "neon")]
fn narrow_sums(codes: &[[u8; BLOCK_BYTES]], blocks: &[Block]) -> [uint16x8_t; 4] {
    let mut sums = [vdupq_n_u16(0); 4];
    for (codes, block) in codes.iter().zip(blocks) {
        let (codes, tables) = (codes.as_chunks::<16>().0.as_chunks::<4>().0, block.groups().as_chunks::<4>().0);
        for (codes, tables) in codes.iter().zip(tables) {
            let (mut low, mut high) = (vdupq_n_u8(0), vdupq_n_u8(0));
            for i in 0..4 {
                let (code, table) = (load(&codes[i]), load(&tables[i]));
                low = vaddq_u8(low, vqtbl1q_u8(table, vandq_u8(code, vdupq_n_u8(15))));
                high = vaddq_u8(high, vqtbl1q_u8(table, vshrq_n_u8::<4>(code)));
            }
            sums[0] = vaddw_u8(sums[0], vget_low_u8(low));
            sums[1] = vaddw_high_u8(sums[1], low);
            sums[2] = vaddw_u8(sums[2], vget_low_u8(high));
            sums[3] = vaddw_high_u8(sums[3], high);
        }
    }
    sums
}

/// Sums of 16 rows each, 32 bits each.
#[inline]
#[target_feature(enable = "neon")]
fn sums(codes: &[u8], lut: &Lut) -> [[uint32x4_t; 4]; 2] {
    let mut total = [[vdupq_n_u32(0); 4]; 2];
    let codes = codes.as_chunks::<BLOCK_BYTES>().0;
    for (codes, blocks) in codes.chunks(WIDE_BLOCKS).zip(lut.blocks().chunks(WIDE_BLOCKS)) {
        for (i, sums) in narrow_sums(codes, blocks).into_iter().enumerate() {
            let (low, high) = (&mut total[i / 2], i % 2 * 2);
            low[high] = vaddw_u16(low[high], vget_low_u16(sums));
            low[high + 1] = vaddw_high_u16(low[high + 1], sums);
        }
    }
    total
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn values(codes: &[u8], lut: &Lut) -> [super::Lanes; 2] {
    let (step, bias) = (vdupq_n_f32(lut.step()), vdupq_n_f32(lut.bias()));
    sums(codes, lut).map(|sums| sums.map(|sums| vaddq_f32(vmulq_f32(vcvtq_f32_u32(sums), step), bias)))
}

#[inline]
#[target_feature(enable = "neon")]
fn signed(bytes: &[i8; 16]) -> int8x16_t {
    // SAFETY: reads 16 bytes, which there are; needs no alignment.
    unsafe { vld1q_s8(bytes.as_ptr()) }
}

#[target_feature(enable = "neon")]
pub(in crate::kernels) fn dot_i8_i8(a: &[i8], b: &[i8]) -> i32 {
    let mut sums = vdupq_n_s32(0);
    for (a, b) in a.as_chunks().0.iter().zip(b.as_chunks().0) {
        let (a, b) = (signed(a), signed(b));
        sums = vpadalq_s16(sums, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
        sums = vpadalq_s16(sums, vmull_high_s8(a, b));
    }
    vaddvq_s32(sums)
}

#[target_feature(enable = "neon")]
pub(in crate::kernels) fn squared_euclidean_i8_i8(a: &[i8], b: &[i8]) -> i32 {
    let mut sums = vdupq_n_u32(0);
    for (a, b) in a.as_chunks().0.iter().zip(b.as_chunks().0) {
        let difference = vreinterpretq_u8_s8(vabdq_s8(signed(a), signed(b)));
        sums = vpadalq_u16(sums, vmull_u8(vget_low_u8(difference), vget_low_u8(difference)));
        sums = vpadalq_u16(sums, vmull_high_u8(difference, difference));
    }
    vaddvq_u32(sums).cast_signed()
}

/// In plain Rust, which compilers turn into widening products.
#[target_feature(enable = "neon")]
pub(in crate::kernels) fn dot_u4_i8(codes: &[u8], query: &[i8]) -> i32 {
    crate::kernels::scalar::dot_u4_i8(codes, query)
}
