//! Arithmetic of bytes: lookups in tables of 16, products of `i8`.

use std::arch::x86_64::*;

use crate::kernels::lut::{BLOCK_BYTES, Block, Lut, PICKS, SPREAD, WIDE_BLOCKS};

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: reads 32 bytes, which there are; needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) fn fill_lut(rotated: &[f32], inverse: f32, blocks: &mut [Block]) -> u32 {
    let halves = |bytes: &[u8; 64]| {
        let halves = bytes.as_chunks::<32>().0;
        [load(&halves[0]), load(&halves[1])]
    };
    let (picks, spread, inverse) = (PICKS.each_ref().map(halves), halves(&SPREAD), _mm256_set1_ps(inverse));
    let mut total = _mm256_setzero_si256();
    let tables = blocks.iter_mut().flat_map(|block| block.0.as_chunks_mut::<64>().0);
    for (values, tables) in rotated.as_chunks::<16>().0.iter().zip(tables) {
        let [low, high] = super::load(values).map(|values| _mm256_cvtps_epi32(_mm256_mul_ps(values, inverse)));
        total = _mm256_add_epi32(total, _mm256_add_epi32(_mm256_abs_epi32(low), _mm256_abs_epi32(high)));
        // Packing works within halves of a register; the quarters are put in order between.
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
        let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        let values = _mm256_broadcastsi128_si256(bytes);
        for (half, tables) in tables.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let entries = two_tables(values, picks.map(|pick| pick[half]), spread[half]);
            // SAFETY: writes 32 bytes, which there are; needs no alignment.
            unsafe { _mm256_storeu_si256(tables.as_mut_ptr().cast(), entries) }
        }
    }
    let mut lanes = [0_u32; 8];
    // SAFETY: writes 32 bytes, which there are; needs no alignment.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), total) }
    lanes.iter().sum()
}

/// Tables of two groups, picked from the 16 components that each lane of `values` has: the sum of those whose signs a
/// pattern has, over the least there is, that of all negative ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn two_tables(values: __m256i, [a, b, c, d]: [__m256i; 4], spread: __m256i) -> __m256i {
    let ab = _mm256_add_epi8(_mm256_shuffle_epi8(values, a), _mm256_shuffle_epi8(values, b));
    let cd = _mm256_add_epi8(_mm256_shuffle_epi8(values, c), _mm256_shuffle_epi8(values, d));
    let zero = _mm256_setzero_si256();
    let negative = _mm256_max_epi8(_mm256_sub_epi8(zero, values), zero);
    let pairs = _mm256_maddubs_epi16(negative, _mm256_set1_epi8(1));
    let least = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    _mm256_add_epi8(_mm256_add_epi8(ab, cd), _mm256_shuffle_epi8(least, spread))
}

/// Sums of 8 rows each, 32 bits each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sums(codes: &[u8], lut: &Lut) -> [__m256i; 4] {
    let mut total = [_mm256_setzero_si256(); 4];
    let codes = codes.as_chunks::<BLOCK_BYTES>().0;
    for (codes, blocks) in codes.chunks(WIDE_BLOCKS).zip(lut.blocks().chunks(WIDE_BLOCKS)) {
        for (total, sums) in total.iter_mut().zip(narrow_sums(codes, blocks)) {
            *total = _mm256_add_epi32(*total, _mm256_cvtepu16_epi32(sums));
        }
    }
    total
}

/// Sums of 8 rows each, 16 bits each.
///
/// A register of two groups has a byte for each row and group. Bytes are added up as 16-bit numbers, once as they are
/// and once the upper ones alone; taking these from those leaves the lower ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn narrow_sums(codes: &[[u8; BLOCK_BYTES]], blocks: &[Block]) -> [__m128i; 4] {
    let nibble = _mm256_set1_epi8(15);
    let zero = _mm256_setzero_si256();
    let (mut low_both, mut low_odd, mut high_both, mut high_odd) = (zero, zero, zero, zero);
    for (codes, block) in codes.iter().zip(blocks) {
        let (codes, tables) = (codes.as_chunks::<128>().0, block.0.as_chunks::<128>().0);
        for (codes, tables) in codes.iter().zip(tables) {
            let (codes, tables) = (codes.as_chunks::<32>().0, tables.as_chunks::<32>().0);
            let (mut low, mut high) = (zero, zero);
            for i in 0..4 {
                let (code, table) = (load(&codes[i]), load(&tables[i]));
                low = _mm256_add_epi8(low, _mm256_shuffle_epi8(table, _mm256_and_si256(code, nibble)));
                let code = _mm256_and_si256(_mm256_srli_epi16::<4>(code), nibble);
                high = _mm256_add_epi8(high, _mm256_shuffle_epi8(table, code));
            }
            low_both = _mm256_add_epi16(low_both, low);
            low_odd = _mm256_add_epi16(low_odd, _mm256_srli_epi16::<8>(low));
            high_both = _mm256_add_epi16(high_both, high);
            high_odd = _mm256_add_epi16(high_odd, _mm256_srli_epi16::<8>(high));
        }
    }
    let [low_first, low_second] = in_order(low_both, low_odd);
    let [high_first, high_second] = in_order(high_both, high_odd);
    [low_first, low_second, high_first, high_second]
}

/// Adds the two lanes and puts 16 rows in order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn in_order(both: __m256i, odd: __m256i) -> [__m128i; 2] {
    let joined = |sums| _mm_add_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let even = joined(_mm256_sub_epi16(both, _mm256_slli_epi16::<8>(odd)));
    let odd = joined(odd);
    [_mm_unpacklo_epi16(even, odd), _mm_unpackhi_epi16(even, odd)]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn values(codes: &[u8], lut: &Lut) -> [super::Lanes; 2] {
    let (step, bias) = (_mm256_set1_ps(lut.step()), _mm256_set1_ps(lut.bias()));
    let [a, b, c, d] = sums(codes, lut).map(|sums| {
        let sums = _mm256_cvtepi32_ps(sums);
        _mm256_add_ps(_mm256_mul_ps(sums, step), bias)
    });
    [[a, b], [c, d]]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widened(bytes: &[i8; 16]) -> __m256i {
    // SAFETY: reads 16 bytes, which there are; needs no alignment.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn total(sums: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) fn dot_i8_i8(a: &[i8], b: &[i8]) -> i32 {
    let mut sums = _mm256_setzero_si256();
    for (a, b) in a.as_chunks().0.iter().zip(b.as_chunks().0) {
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(widened(a), widened(b)));
    }
    total(sums)
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) fn squared_euclidean_i8_i8(a: &[i8], b: &[i8]) -> i32 {
    let mut sums = _mm256_setzero_si256();
    for (a, b) in a.as_chunks().0.iter().zip(b.as_chunks().0) {
        let difference = _mm256_sub_epi16(widened(a), widened(b));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(difference, difference));
    }
    total(sums)
}

/// Pairs of products stay below 2^12 in magnitude, so four of them fit 16 bits.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) fn dot_u4_i8(codes: &[u8], query: &[i8]) -> i32 {
    let (nibble, one) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    let mut sums = _mm256_setzero_si256();
    for (codes, query) in codes.as_chunks::<32>().0.iter().zip(query.as_chunks::<32>().0.as_chunks::<2>().0) {
        let codes = load(codes);
        let (low, high) = (_mm256_and_si256(codes, nibble), _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble));
        let pairs = _mm256_add_epi16(
            _mm256_maddubs_epi16(low, load_signed(&query[0])),
            _mm256_maddubs_epi16(high, load_signed(&query[1])),
        );
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, one));
    }
    total(sums)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_signed(bytes: &[i8; 32]) -> __m256i {
    // SAFETY: reads 32 bytes, which there are; needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}
