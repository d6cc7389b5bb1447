//! AVX2 with FMA and F16C (Haswell and Zen on): two registers of 8.

use std::arch::x86_64::*;

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

type Lanes = [__m256; 2];

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn zero() -> Lanes {
    [_mm256_setzero_ps(); 2]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn splat(value: f32) -> Lanes {
    [_mm256_set1_ps(value); 2]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(block: &[f32; LANES]) -> Lanes {
    let at = block.as_ptr();
    // SAFETY: reads floats 0 to 7 and 8 to 15, which the block has; needs no alignment.
    unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))] }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_f16(block: &[u16; LANES]) -> Lanes {
    let at: *const __m128i = block.as_ptr().cast();
    // SAFETY: reads 32 bytes, 16 at a time, which the block has; needs no alignment.
    let halves = unsafe { [_mm_loadu_si128(at), _mm_loadu_si128(at.add(1))] };
    [_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1])]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_i8(block: &[i8; LANES]) -> Lanes {
    // SAFETY: reads 16 bytes, which the block has; needs no alignment.
    let bytes = unsafe { _mm_loadu_si128(block.as_ptr().cast()) };
    let widened = |bytes| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    [widened(bytes), widened(_mm_unpackhi_epi64(bytes, bytes))]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_u8(block: &[u8; LANES]) -> Lanes {
    // SAFETY: reads 16 bytes, which the block has; needs no alignment.
    widen_u8(unsafe { _mm_loadu_si128(block.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_u8(bytes: __m128i) -> Lanes {
    let widened = |bytes| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
    [widened(bytes), widened(_mm_unpackhi_epi64(bytes, bytes))]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(block: &mut [f32; LANES], lanes: Lanes) {
    let at = block.as_mut_ptr();
    // SAFETY: writes floats 0 to 7 and 8 to 15, which the block has; needs no alignment.
    unsafe {
        _mm256_storeu_ps(at, lanes[0]);
        _mm256_storeu_ps(at.add(8), lanes[1]);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add(a: Lanes, b: Lanes) -> Lanes {
    [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sub(a: Lanes, b: Lanes) -> Lanes {
    [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn mul(a: Lanes, b: Lanes) -> Lanes {
    [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn mul_add(a: Lanes, b: Lanes, sum: Lanes) -> Lanes {
    [_mm256_fmadd_ps(a[0], b[0], sum[0]), _mm256_fmadd_ps(a[1], b[1], sum[1])]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn abs(a: Lanes) -> Lanes {
    a.map(|a| _mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn max(a: Lanes, b: Lanes) -> Lanes {
    [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn min(a: Lanes, b: Lanes) -> Lanes {
    [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_sign_of(value: Lanes, sign: Lanes) -> Lanes {
    let signed = |value, sign| _mm256_xor_ps(value, _mm256_and_ps(sign, _mm256_set1_ps(-0.0)));
    [signed(value[0], sign[0]), signed(value[1], sign[1])]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn negative(a: Lanes) -> u16 {
    let [low, high] = a.map(|a| _mm256_movemask_ps(a));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "eight bits each")]
    let bits = (low | high << 8) as u16;
    bits
}

/// One bit a lane: whether `a < b`. What is not a number is not.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn below(a: Lanes, b: Lanes) -> u16 {
    negative([_mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0]), _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])])
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn swap_1(a: Lanes) -> Lanes {
    a.map(|a| _mm256_permute_ps::<0b10_11_00_01>(a))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn swap_2(a: Lanes) -> Lanes {
    a.map(|a| _mm256_permute_ps::<0b01_00_11_10>(a))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn butterflies(a: Lanes) -> Lanes {
    let a = a.map(|a| {
        let a = butterfly(a, _mm256_permute_ps::<0b10_11_00_01>(a), [0.0, -0.0, 0.0, -0.0, 0.0, -0.0, 0.0, -0.0]);
        let a = butterfly(a, _mm256_permute_ps::<0b01_00_11_10>(a), [0.0, 0.0, -0.0, -0.0, 0.0, 0.0, -0.0, -0.0]);
        butterfly(a, _mm256_permute2f128_ps::<1>(a, a), [0.0, 0.0, 0.0, 0.0, -0.0, -0.0, -0.0, -0.0])
    });
    [_mm256_add_ps(a[0], a[1]), _mm256_sub_ps(a[0], a[1])]
}

/// Sums, and differences where `upper` is negative.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn butterfly(a: __m256, swapped: __m256, upper: [f32; 8]) -> __m256 {
    // SAFETY: reads 8 floats, which there are; needs no alignment.
    let upper = unsafe { _mm256_loadu_ps(upper.as_ptr()) };
    _mm256_add_ps(swapped, _mm256_xor_ps(a, upper))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum(lanes: Lanes) -> f32 {
    let eight = _mm256_add_ps(lanes[0], lanes[1]);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn largest(lanes: Lanes) -> f32 {
    let eight = _mm256_max_ps(lanes[0], lanes[1]);
    let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn least(lanes: Lanes) -> f32 {
    let eight = _mm256_min_ps(lanes[0], lanes[1]);
    let four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_min_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_line(line: &[u8; LINE]) -> [__m256i; 2] {
    let at: *const __m256i = line.as_ptr().cast();
    // SAFETY: reads 64 bytes, 32 at a time, which the line has; needs no alignment.
    unsafe { [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))] }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_tail(tail: &[u8]) -> [__m256i; 2] {
    load_line(&padded(tail))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn as_f32(line: [__m256i; 2]) -> [Lanes; 1] {
    [line.map(|half| _mm256_castsi256_ps(half))]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn as_f16(line: [__m256i; 2]) -> [Lanes; 2] {
    let [a, b, c, d] = quarters(line);
    [[_mm256_cvtph_ps(a), _mm256_cvtph_ps(b)], [_mm256_cvtph_ps(c), _mm256_cvtph_ps(d)]]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn as_u8(line: [__m256i; 2]) -> [Lanes; 4] {
    let [a, b, c, d] = quarters(line);
    [widen_u8(a), widen_u8(b), widen_u8(c), widen_u8(d)]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn quarters([low, high]: [__m256i; 2]) -> [__m128i; 4] {
    let upper = |half| _mm256_extracti128_si256::<1>(half);
    [_mm256_castsi256_si128(low), upper(low), _mm256_castsi256_si128(high), upper(high)]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn no_sums() -> [__m256i; 2] {
    [_mm256_setzero_si256(); 2]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_line(sums: [__m256i; 2], line: [__m256i; 2], keys: &Keys) -> [__m256i; 2] {
    let at: *const __m256i = keys.0.as_ptr().cast();
    // SAFETY: reads 16 numbers, 8 at a time, which there are; needs no alignment.
    let keys = unsafe { [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))] };
    let added = |sums, half, keys| {
        let words = _mm256_add_epi32(half, keys);
        _mm256_add_epi64(sums, _mm256_mul_epu32(words, _mm256_srli_epi64::<32>(words)))
    };
    [added(sums[0], line[0], keys[0]), added(sums[1], line[1], keys[1])]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn total(sums: [__m256i; 2]) -> u64 {
    let four = _mm256_add_epi64(sums[0], sums[1]);
    let two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256::<1>(four));
    _mm_cvtsi128_si64(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two))).cast_unsigned()
}

lines!(target_feature(enable = "avx2,fma,f16c"));
queue!(target_feature(enable = "avx2,fma,f16c"));
rows!(target_feature(enable = "avx2,fma,f16c"));
hadamard!(target_feature(enable = "avx2,fma,f16c"));
signs!(target_feature(enable = "avx2,fma,f16c"));
scans!(target_feature(enable = "avx2,fma,f16c"));
sums!(target_feature(enable = "avx2,fma,f16c"));
