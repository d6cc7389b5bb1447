//! AVX-512 with byte arithmetic and VNNI (Cascade Lake and Zen 4 on): one register of 16.

use std::arch::x86_64::*;

use super::{
    LANES,
    hadamard::hadamard,
    lines::{Keys, LINE, lines},
    queue::queue,
    rows::rows,
    scans::scans,
    signs::signs,
    sums::sums,
};

mod bytes;

use bytes::values;
pub(super) use bytes::{dot_i8_i8, dot_u4_i8, fill_lut, squared_euclidean_i8_i8};

type Lanes = __m512;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn zero() -> Lanes {
    _mm512_setzero_ps()
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn splat(value: f32) -> Lanes {
    _mm512_set1_ps(value)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load(block: &[f32; LANES]) -> Lanes {
    // SAFETY: reads 16 floats, which the block has; needs no alignment.
    unsafe { _mm512_loadu_ps(block.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load_f16(block: &[u16; LANES]) -> Lanes {
    // SAFETY: reads 32 bytes, which the block has; needs no alignment.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(block.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load_i8(block: &[i8; LANES]) -> Lanes {
    // SAFETY: reads 16 bytes, which the block has; needs no alignment.
    let bytes = unsafe { _mm_loadu_si128(block.as_ptr().cast()) };
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load_u8(block: &[u8; LANES]) -> Lanes {
    // SAFETY: reads 16 bytes, which the block has; needs no alignment.
    let bytes = unsafe { _mm_loadu_si128(block.as_ptr().cast()) };
    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn store(block: &mut [f32; LANES], lanes: Lanes) {
    // SAFETY: writes 16 floats, which the block has; needs no alignment.
    unsafe { _mm512_storeu_ps(block.as_mut_ptr(), lanes) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add(a: Lanes, b: Lanes) -> Lanes {
    _mm512_add_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn sub(a: Lanes, b: Lanes) -> Lanes {
    _mm512_sub_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn mul(a: Lanes, b: Lanes) -> Lanes {
    _mm512_mul_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn mul_add(a: Lanes, b: Lanes, sum: Lanes) -> Lanes {
    _mm512_fmadd_ps(a, b, sum)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn abs(a: Lanes) -> Lanes {
    _mm512_abs_ps(a)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn max(a: Lanes, b: Lanes) -> Lanes {
    _mm512_max_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn min(a: Lanes, b: Lanes) -> Lanes {
    _mm512_min_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn with_sign_of(value: Lanes, sign: Lanes) -> Lanes {
    let sign = _mm512_and_si512(_mm512_castps_si512(sign), _mm512_set1_epi32(i32::MIN));
    _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(value), sign))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn negative(a: Lanes) -> u16 {
    _mm512_test_epi32_mask(_mm512_castps_si512(a), _mm512_set1_epi32(i32::MIN))
}

/// One bit a lane: whether `a < b`. What is not a number is not.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn below(a: Lanes, b: Lanes) -> u16 {
    _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn swap_1(a: Lanes) -> Lanes {
    _mm512_permute_ps::<0b10_11_00_01>(a)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn swap_2(a: Lanes) -> Lanes {
    _mm512_permute_ps::<0b01_00_11_10>(a)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn butterflies(a: Lanes) -> Lanes {
    let a = butterfly(a, swap_1(a), 0b1010_1010_1010_1010);
    let a = butterfly(a, swap_2(a), 0b1100_1100_1100_1100);
    let a = butterfly(a, _mm512_shuffle_f32x4::<0b10_11_00_01>(a, a), 0b1111_0000_1111_0000);
    butterfly(a, _mm512_shuffle_f32x4::<0b01_00_11_10>(a, a), 0b1111_1111_0000_0000)
}

/// Sums, and differences in the lanes of `upper`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn butterfly(a: Lanes, swapped: Lanes, upper: u16) -> Lanes {
    _mm512_mask_sub_ps(_mm512_add_ps(a, swapped), upper, swapped, a)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn sum(lanes: Lanes) -> f32 {
    let four = _mm512_add_ps(lanes, _mm512_shuffle_f32x4::<0b01_00_11_10>(lanes, lanes));
    let four = _mm512_castps512_ps128(_mm512_add_ps(four, _mm512_shuffle_f32x4::<0b10_11_00_01>(four, four)));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn largest(lanes: Lanes) -> f32 {
    _mm512_reduce_max_ps(lanes)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn least(lanes: Lanes) -> f32 {
    _mm512_reduce_min_ps(lanes)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load_line(line: &[u8; LINE]) -> __m512i {
    // SAFETY: reads 64 bytes, which the line has; needs no alignment.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

/// The last line of a row, which has fewer than 64 bytes; zeros follow.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load_tail(tail: &[u8]) -> __m512i {
    let mask = !(u64::MAX << tail.len());
    // SAFETY: reads as many bytes as the mask has ones, which is how many there are; needs no alignment.
    unsafe { _mm512_maskz_loadu_epi8(mask, tail.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn as_f32(line: __m512i) -> [Lanes; 1] {
    [_mm512_castsi512_ps(line)]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn as_f16(line: __m512i) -> [Lanes; 2] {
    [_mm512_cvtph_ps(_mm512_castsi512_si256(line)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(line))]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn as_u8(line: __m512i) -> [Lanes; 4] {
    let parts = [
        _mm512_castsi512_si128(line),
        _mm512_extracti32x4_epi32::<1>(line),
        _mm512_extracti32x4_epi32::<2>(line),
        _mm512_extracti32x4_epi32::<3>(line),
    ];
    parts.map(|bytes| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn no_sums() -> __m512i {
    _mm512_setzero_si512()
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_line(sums: __m512i, line: __m512i, keys: &Keys) -> __m512i {
    // SAFETY: reads 16 numbers, which there are; needs no alignment.
    let words = _mm512_add_epi32(line, unsafe { _mm512_loadu_si512(keys.0.as_ptr().cast()) });
    _mm512_add_epi64(sums, _mm512_mul_epu32(words, _mm512_srli_epi64::<32>(words)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn total(sums: __m512i) -> u64 {
    _mm512_reduce_add_epi64(sums).cast_unsigned()
}

lines!(target_feature(enable = "avx512f,avx512bw,avx512vnni"));
queue!(target_feature(enable = "avx512f,avx512bw,avx512vnni"));
rows!(target_feature(enable = "avx512f,avx512bw,avx512vnni"));
hadamard!(target_feature(enable = "avx512f,avx512bw,avx512vnni"));
signs!(target_feature(enable = "avx512f,avx512bw,avx512vnni"));
scans!(target_feature(enable = "avx512f,avx512bw,avx512vnni"));
sums!(target_feature(enable = "avx512f,avx512bw,avx512vnni"));
