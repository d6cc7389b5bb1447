//! NEON: four registers of 4.

use std::arch::aarch64::*;

use super::{
    LANES,
    hadamard::hadamard,
    lines::{Keys, LINE, lines, padded},
    queue::queue,
    rows::rows,
    scans::scans,
    signs::signs,
    sums::sums,
};

mod bytes;

use bytes::values;
pub(super) use bytes::{dot_i8_i8, dot_u4_i8, fill_lut, squared_euclidean_i8_i8};

type Lanes = [float32x4_t; 4];

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> Lanes {
    splat(0.0)
}

#[inline]
#[target_feature(enable = "neon")]
fn splat(value: f32) -> Lanes {
    [vdupq_n_f32(value); 4]
}

#[inline]
#[target_feature(enable = "neon")]
fn load(block: &[f32; LANES]) -> Lanes {
    let at = block.as_ptr();
    // SAFETY: reads floats 0 to 15, four at a time, which the block has; needs no alignment.
    unsafe { [vld1q_f32(at), vld1q_f32(at.add(4)), vld1q_f32(at.add(8)), vld1q_f32(at.add(12))] }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_f16(block: &[u16; LANES]) -> Lanes {
    let at = block.as_ptr();
    // SAFETY: reads numbers 0 to 7 and 8 to 15, which the block has; needs no alignment.
    let [low, high] = unsafe { [vld1q_u16(at), vld1q_u16(at.add(8))] };
    [vget_low_u16(low), vget_high_u16(low), vget_low_u16(high), vget_high_u16(high)].map(|bits| widen_f16(bits))
}

/// As [`super::scalar`] does it.
#[inline]
#[target_feature(enable = "neon")]
fn widen_f16(bits: uint16x4_t) -> float32x4_t {
    let bits = vmovl_u16(bits);
    let sign = vshlq_n_u32::<16>(vandq_u32(bits, vdupq_n_u32(0x8000)));
    let magnitude = vreinterpretq_f32_u32(vshlq_n_u32::<13>(vandq_u32(bits, vdupq_n_u32(0x7fff))));
    let bias = vreinterpretq_f32_u32(vdupq_n_u32((127 + 127 - 15) << 23));
    vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(vmulq_f32(magnitude, bias)), sign))
}

#[inline]
#[target_feature(enable = "neon")]
fn load_i8(block: &[i8; LANES]) -> Lanes {
    // SAFETY: reads 16 bytes, which the block has; needs no alignment.
    let bytes = unsafe { vld1q_s8(block.as_ptr()) };
    let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
    [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)]
        .map(|four| vcvtq_f32_s32(four))
}

#[inline]
#[target_feature(enable = "neon")]
fn load_u8(block: &[u8; LANES]) -> Lanes {
    // SAFETY: reads 16 bytes, which the block has; needs no alignment.
    widen_u8(unsafe { vld1q_u8(block.as_ptr()) })
}

#[inline]
#[target_feature(enable = "neon")]
fn widen_u8(bytes: uint8x16_t) -> Lanes {
    let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
    [vmovl_u16(vget_low_u16(low)), vmovl_high_u16(low), vmovl_u16(vget_low_u16(high)), vmovl_high_u16(high)]
        .map(|four| vcvtq_f32_u32(four))
}

#[inline]
#[target_feature(enable = "neon")]
fn store(block: &mut [f32; LANES], lanes: Lanes) {
    for (block, four) in block.as_chunks_mut::<4>().0.iter_mut().zip(lanes) {
        // SAFETY: writes 4 floats, which there are; needs no alignment.
        unsafe { vst1q_f32(block.as_mut_ptr(), four) }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn add(a: Lanes, b: Lanes) -> Lanes {
    [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1]), vaddq_f32(a[2], b[2]), vaddq_f32(a[3], b[3])]
}

#[inline]
#[target_feature(enable = "neon")]
fn sub(a: Lanes, b: Lanes) -> Lanes {
    [vsubq_f32(a[0], b[0]), vsubq_f32(a[1], b[1]), vsubq_f32(a[2], b[2]), vsubq_f32(a[3], b[3])]
}

#[inline]
#[target_feature(enable = "neon")]
fn mul(a: Lanes, b: Lanes) -> Lanes {
    [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1]), vmulq_f32(a[2], b[2]), vmulq_f32(a[3], b[3])]
}

#[inline]
#[target_feature(enable = "neon")]
fn mul_add(a: Lanes, b: Lanes, sum: Lanes) -> Lanes {
    [
        vfmaq_f32(sum[0], a[0], b[0]),
        vfmaq_f32(sum[1], a[1], b[1]),
        vfmaq_f32(sum[2], a[2], b[2]),
        vfmaq_f32(sum[3], a[3], b[3]),
    ]
}

#[inline]
#[target_feature(enable = "neon")]
fn abs(a: Lanes) -> Lanes {
    a.map(|a| vabsq_f32(a))
}

#[inline]
#[target_feature(enable = "neon")]
fn max(a: Lanes, b: Lanes) -> Lanes {
    [vmaxq_f32(a[0], b[0]), vmaxq_f32(a[1], b[1]), vmaxq_f32(a[2], b[2]), vmaxq_f32(a[3], b[3])]
}

#[inline]
#[target_feature(enable = "neon")]
fn min(a: Lanes, b: Lanes) -> Lanes {
    [vminq_f32(a[0], b[0]), vminq_f32(a[1], b[1]), vminq_f32(a[2], b[2]), vminq_f32(a[3], b[3])]
}

#[inline]
#[target_feature(enable = "neon")]
fn with_sign_of(value: Lanes, sign: Lanes) -> Lanes {
    let signed = |value, sign| {
        let sign = vandq_u32(vreinterpretq_u32_f32(sign), vdupq_n_u32(1 << 31));
        vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(value), sign))
    };
    [signed(value[0], sign[0]), signed(value[1], sign[1]), signed(value[2], sign[2]), signed(value[3], sign[3])]
}

/// Sign bits of four to their places among four, then all added up.
#[inline]
#[target_feature(enable = "neon")]
fn negative(a: Lanes) -> u16 {
    const PLACES: [i32; 4] = [0, 1, 2, 3];
    // SAFETY: reads 4 numbers, which there are; needs no alignment.
    let places = unsafe { vld1q_s32(PLACES.as_ptr()) };
    let [a, b, c, d] = a.map(|a| vaddvq_u32(vshlq_u32(vshrq_n_u32::<31>(vreinterpretq_u32_f32(a)), places)));
    #[allow(clippy::cast_possible_truncation, reason = "four bits each")]
    let bits = (a | b << 4 | c << 8 | d << 12) as u16;
    bits
}

/// One bit a lane: whether `a < b`. What is not a number is not.
#[inline]
#[target_feature(enable = "neon")]
fn below(a: Lanes, b: Lanes) -> u16 {
    negative(std::array::from_fn(|i| vreinterpretq_f32_u32(vcltq_f32(a[i], b[i]))))
}

#[inline]
#[target_feature(enable = "neon")]
fn swap_1(a: Lanes) -> Lanes {
    a.map(|a| vrev64q_f32(a))
}

#[inline]
#[target_feature(enable = "neon")]
fn swap_2(a: Lanes) -> Lanes {
    a.map(|a| vextq_f32::<2>(a, a))
}

#[inline]
#[target_feature(enable = "neon")]
fn butterflies(a: Lanes) -> Lanes {
    let [a, b, c, d] = a.map(|a| {
        let a = butterfly(a, vrev64q_f32(a), [0.0, -0.0, 0.0, -0.0]);
        butterfly(a, vextq_f32::<2>(a, a), [0.0, 0.0, -0.0, -0.0])
    });
    crossed4([a, b, c, d])
}

/// Stages over four registers: neighbours, then those two apart.
#[inline]
#[target_feature(enable = "neon")]
fn crossed4([a, b, c, d]: Lanes) -> Lanes {
    let (a, b, c, d) = (vaddq_f32(a, b), vsubq_f32(a, b), vaddq_f32(c, d), vsubq_f32(c, d));
    [vaddq_f32(a, c), vaddq_f32(b, d), vsubq_f32(a, c), vsubq_f32(b, d)]
}

/// Sums, and differences where `upper` is negative.
#[inline]
#[target_feature(enable = "neon")]
fn butterfly(a: float32x4_t, swapped: float32x4_t, upper: [f32; 4]) -> float32x4_t {
    // SAFETY: reads 4 floats, which there are; needs no alignment.
    let upper = vreinterpretq_u32_f32(unsafe { vld1q_f32(upper.as_ptr()) });
    vaddq_f32(swapped, vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(a), upper)))
}

/// The upper half onto the lower, until one is left, as the other sets do it.
#[inline]
#[target_feature(enable = "neon")]
fn sum(lanes: Lanes) -> f32 {
    let four = vaddq_f32(vaddq_f32(lanes[0], lanes[2]), vaddq_f32(lanes[1], lanes[3]));
    let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    vpadds_f32(two)
}

#[inline]
#[target_feature(enable = "neon")]
fn largest(lanes: Lanes) -> f32 {
    vmaxvq_f32(vmaxq_f32(vmaxq_f32(lanes[0], lanes[1]), vmaxq_f32(lanes[2], lanes[3])))
}

#[inline]
#[target_feature(enable = "neon")]
fn least(lanes: Lanes) -> f32 {
    vminvq_f32(vminq_f32(vminq_f32(lanes[0], lanes[1]), vminq_f32(lanes[2], lanes[3])))
}

#[inline]
#[target_feature(enable = "neon")]
fn load_line(line: &[u8; LINE]) -> [uint8x16_t; 4] {
    let at = line.as_ptr();
    // SAFETY: reads 64 bytes, 16 at a time, which the line has; needs no alignment.
    unsafe { [vld1q_u8(at), vld1q_u8(at.add(16)), vld1q_u8(at.add(32)), vld1q_u8(at.add(48))] }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_tail(tail: &[u8]) -> [uint8x16_t; 4] {
    load_line(&padded(tail))
}

#[inline]
#[target_feature(enable = "neon")]
fn as_f32(line: [uint8x16_t; 4]) -> [Lanes; 1] {
    [line.map(|four| vreinterpretq_f32_u8(four))]
}

#[inline]
#[target_feature(enable = "neon")]
fn as_f16(line: [uint8x16_t; 4]) -> [Lanes; 2] {
    let [a, b, c, d] = line.map(|eight| vreinterpretq_u16_u8(eight));
    let widened = |a, b| {
        [
            widen_f16(vget_low_u16(a)),
            widen_f16(vget_high_u16(a)),
            widen_f16(vget_low_u16(b)),
            widen_f16(vget_high_u16(b)),
        ]
    };
    [widened(a, b), widened(c, d)]
}

#[inline]
#[target_feature(enable = "neon")]
fn as_u8(line: [uint8x16_t; 4]) -> [Lanes; 4] {
    [widen_u8(line[0]), widen_u8(line[1]), widen_u8(line[2]), widen_u8(line[3])]
}

#[inline]
#[target_feature(enable = "neon")]
fn no_sums() -> [uint64x2_t; 2] {
    [vdupq_n_u64(0); 2]
}

#[inline]
#[target_feature(enable = "neon")]
fn add_line(sums: [uint64x2_t; 2], line: [uint8x16_t; 4], keys: &Keys) -> [uint64x2_t; 2] {
    let at = keys.0.as_ptr();
    // SAFETY: reads 16 numbers, 4 at a time, which there are; needs no alignment.
    let keys = unsafe { [vld1q_u32(at), vld1q_u32(at.add(4)), vld1q_u32(at.add(8)), vld1q_u32(at.add(12))] };
    let words: [uint32x4_t; 4] = std::array::from_fn(|i| vaddq_u32(vreinterpretq_u32_u8(line[i]), keys[i]));
    let added = |sums: [uint64x2_t; 2], low, high| {
        let (even, odd) = (vuzp1q_u32(low, high), vuzp2q_u32(low, high));
        [vmlal_u32(sums[0], vget_low_u32(even), vget_low_u32(odd)), vmlal_high_u32(sums[1], even, odd)]
    };
    added(added(sums, words[0], words[1]), words[2], words[3])
}

#[inline]
#[target_feature(enable = "neon")]
fn total(sums: [uint64x2_t; 2]) -> u64 {
    vaddvq_u64(vaddq_u64(sums[0], sums[1]))
}

lines!(target_feature(enable = "neon"));
queue!(target_feature(enable = "neon"));
rows!(target_feature(enable = "neon"));
hadamard!(target_feature(enable = "neon"));
signs!(target_feature(enable = "neon"));
scans!(target_feature(enable = "neon"));
sums!(target_feature(enable = "neon"));
