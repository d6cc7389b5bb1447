//! Arithmetic of bytes: lookups in tables of 16, products of `i8`.

use std::arch::x86_64::*;

use crate::kernels::lut::{BATCH, BLOCK_BYTES, Block, Lut, PICKS, SPREAD, WIDE_BLOCKS};

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: reads 64 bytes, which there are; needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load_signed(bytes: &[i8; 64]) -> __m512i {
    // SAFETY: reads 64 bytes, which there are; needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// `bytes` has fewer than 64 of them; zeros follow.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load_tail(bytes: &[i8]) -> __m512i {
    let mask = (1 << bytes.len()) - 1;
    // SAFETY: reads as many bytes as the mask has ones, which is how many there are; needs no alignment.
    unsafe { _mm512_maskz_loadu_epi8(mask, bytes.as_ptr()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in crate::kernels) fn fill_lut(rotated: &[f32], inverse: f32, blocks: &mut [Block]) -> u32 {
    let picks = PICKS.each_ref().map(|pick| load(pick));
    let (spread, inverse) = (load(&SPREAD), _mm512_set1_ps(inverse));
    let mut total = _mm512_setzero_si512();
    let tables = blocks.iter_mut().flat_map(|block| block.0.as_chunks_mut::<64>().0);
    for (values, tables) in rotated.as_chunks::<16>().0.iter().zip(tables) {
        let values = _mm512_cvtps_epi32(_mm512_mul_ps(super::load(values), inverse));
        total = _mm512_add_epi32(total, _mm512_abs_epi32(values));
        let values = _mm512_broadcast_i32x4(_mm512_cvtepi32_epi8(values));
        let entries = four_tables(values, picks, spread);
        // SAFETY: writes 64 bytes, which there are; needs no alignment.
        unsafe { _mm512_storeu_si512(tables.as_mut_ptr().cast(), entries) }
    }
    _mm512_reduce_add_epi32(total).cast_unsigned()
}

/// Tables of four groups, whose 16 components each lane of `values` has: the sum of those whose signs a pattern has,
/// over the least there is, that of all negative ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn four_tables(values: __m512i, [a, b, c, d]: [__m512i; 4], spread: __m512i) -> __m512i {
    let ab = _mm512_add_epi8(_mm512_shuffle_epi8(values, a), _mm512_shuffle_epi8(values, b));
    let cd = _mm512_add_epi8(_mm512_shuffle_epi8(values, c), _mm512_shuffle_epi8(values, d));
    let zero = _mm512_setzero_si512();
    let negative = _mm512_max_epi8(_mm512_sub_epi8(zero, values), zero);
    let least = _mm512_dpbusd_epi32(zero, negative, _mm512_set1_epi8(1));
    _mm512_add_epi8(_mm512_add_epi8(ab, cd), _mm512_shuffle_epi8(least, spread))
}

/// Sums of rows 0 to 15 and 16 to 31, 32 bits each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn sums(codes: &[u8], lut: &Lut) -> [__m512i; 2] {
    let mut total = [_mm512_setzero_si512(); 2];
    let codes = codes.as_chunks::<BLOCK_BYTES>().0;
    for (codes, blocks) in codes.chunks(WIDE_BLOCKS).zip(lut.blocks().chunks(WIDE_BLOCKS)) {
        let sums = narrow_sums(codes, blocks);
        let low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(sums));
        let high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(sums));
        total = [_mm512_add_epi32(total[0], low), _mm512_add_epi32(total[1], high)];
    }
    total
}

/// Sums of 32 rows, 16 bits each.
///
/// A register of four groups has a byte for each row and group. Bytes are added up as 16-bit numbers, once as they are
/// and once the upper ones alone; taking these from those leaves the lower ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn narrow_sums(codes: &[[u8; BLOCK_BYTES]], blocks: &[Block]) -> __m512i {
    let nibble = _mm512_set1_epi8(15);
    let zero = _mm512_setzero_si512();
    let (mut low_both, mut low_odd, mut high_both, mut high_odd) = (zero, zero, zero, zero);
    for (codes, block) in codes.iter().zip(blocks) {
        let (codes, tables) = (codes.as_chunks::<64>().0, block.0.as_chunks::<64>().0);
        let (mut low, mut high) = (zero, zero);
        for i in 0..4 {
            let (code, table) = (load(&codes[i]), load(&tables[i]));
            low = _mm512_add_epi8(low, _mm512_shuffle_epi8(table, _mm512_and_si512(code, nibble)));
            let code = _mm512_and_si512(_mm512_srli_epi16::<4>(code), nibble);
            high = _mm512_add_epi8(high, _mm512_shuffle_epi8(table, code));
        }
        low_both = _mm512_add_epi16(low_both, low);
        low_odd = _mm512_add_epi16(low_odd, _mm512_srli_epi16::<8>(low));
        high_both = _mm512_add_epi16(high_both, high);
        high_odd = _mm512_add_epi16(high_odd, _mm512_srli_epi16::<8>(high));
    }
    let low_even = _mm512_sub_epi16(low_both, _mm512_slli_epi16::<8>(low_odd));
    let high_even = _mm512_sub_epi16(high_both, _mm512_slli_epi16::<8>(high_odd));
    in_order(low_even, low_odd, high_even, high_odd)
}

/// Adds the four lanes of each and puts the rows in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn in_order(low_even: __m512i, low_odd: __m512i, high_even: __m512i, high_odd: __m512i) -> __m512i {
    let halves = |a, b| {
        let (first, second) = (_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0xee>(a, b));
        _mm512_add_epi16(first, second)
    };
    let (low, high) = (halves(low_even, low_odd), halves(high_even, high_odd));
    let (first, second) = (_mm512_shuffle_i64x2::<0x88>(low, high), _mm512_shuffle_i64x2::<0xdd>(low, high));
    const ORDER: [u16; BATCH] = {
        let mut order = [0; BATCH];
        let mut row = 0;
        while row < BATCH as u16 {
            order[row as usize] = row / 16 * 16 + row % 2 * 8 + row % 16 / 2;
            row += 1;
        }
        order
    };
    // SAFETY: reads 64 bytes, which the 32 numbers have; needs no alignment.
    let order = unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) };
    _mm512_permutexvar_epi16(order, _mm512_add_epi16(first, second))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn values(codes: &[u8], lut: &Lut) -> [__m512; 2] {
    let (step, bias) = (_mm512_set1_ps(lut.step()), _mm512_set1_ps(lut.bias()));
    let value = |sums| _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sums), step), bias);
    let [low, high] = sums(codes, lut);
    [value(low), value(high)]
}

/// VNNI multiplies unsigned by signed bytes: `(a + 128) b`, and 128 times the sum of `b` goes off in the end.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in crate::kernels) fn dot_i8_i8(a: &[i8], b: &[i8]) -> i32 {
    let (offset, one, zero) = (_mm512_set1_epi8(i8::MIN), _mm512_set1_epi8(1), _mm512_setzero_si512());
    let step = |[products, ones]: [__m512i; 2], a, b| {
        [_mm512_dpbusd_epi32(products, _mm512_xor_si512(a, offset), b), _mm512_dpbusd_epi32(ones, one, b)]
    };
    let ((blocks, tail), (other_blocks, other_tail)) = (a.as_chunks(), b.as_chunks());
    let mut sums = [zero; 2];
    for (a, b) in blocks.iter().zip(other_blocks) {
        sums = step(sums, load_signed(a), load_signed(b));
    }
    if !tail.is_empty() {
        sums = step(sums, load_tail(tail), load_tail(other_tail));
    }
    let [products, ones] = sums;
    _mm512_reduce_add_epi32(_mm512_sub_epi32(products, _mm512_slli_epi32::<7>(ones)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in crate::kernels) fn squared_euclidean_i8_i8(a: &[i8], b: &[i8]) -> i32 {
    let zero = _mm512_setzero_si512();
    let step = |[low, high]: [__m512i; 2], a, b| {
        let difference = _mm512_sub_epi8(_mm512_max_epi8(a, b), _mm512_min_epi8(a, b));
        let (first, second) = (_mm512_unpacklo_epi8(difference, zero), _mm512_unpackhi_epi8(difference, zero));
        [_mm512_dpwssd_epi32(low, first, first), _mm512_dpwssd_epi32(high, second, second)]
    };
    let ((blocks, tail), (other_blocks, other_tail)) = (a.as_chunks(), b.as_chunks());
    let mut sums = [zero; 2];
    for (a, b) in blocks.iter().zip(other_blocks) {
        sums = step(sums, load_signed(a), load_signed(b));
    }
    if !tail.is_empty() {
        sums = step(sums, load_tail(tail), load_tail(other_tail));
    }
    _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1]))
}

/// AVX2 has all that it takes, and this set implies it.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in crate::kernels) fn dot_u4_i8(codes: &[u8], query: &[i8]) -> i32 {
    crate::kernels::avx2::dot_u4_i8(codes, query)
}
