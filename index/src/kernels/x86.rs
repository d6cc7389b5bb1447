//! AVX-512 and AVX2 with FMA.

/// One register of 16.
pub(super) mod avx512 {
    use std::arch::x86_64::{
        __m512, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_reduce_add_ps, _mm512_setzero_ps, _mm512_sub_ps,
    };

    use super::super::{LANES, padded, plan};

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zero() -> __m512 {
        _mm512_setzero_ps()
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(block: &[f32; LANES]) -> __m512 {
        // SAFETY: reads 16 floats, which the block has; needs no alignment.
        unsafe { _mm512_loadu_ps(block.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn sub(a: __m512, b: __m512) -> __m512 {
        _mm512_sub_ps(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn mul_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, sum)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn sum(lanes: __m512) -> f32 {
        _mm512_reduce_add_ps(lanes)
    }

    plan!(target_feature(enable = "avx512f"));
}

/// Two registers of 8.
pub(super) mod avx2 {
    use std::arch::x86_64::{
        __m256, _mm_add_ps, _mm_cvtss_f32, _mm_movehdup_ps, _mm_movehl_ps, _mm256_add_ps, _mm256_castps256_ps128,
        _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_sub_ps,
    };

    use super::super::{LANES, padded, plan};

    type Lanes = [__m256; 2];

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn zero() -> Lanes {
        [_mm256_setzero_ps(), _mm256_setzero_ps()]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn load(block: &[f32; LANES]) -> Lanes {
        let at = block.as_ptr();
        // SAFETY: reads floats 0 to 7 and 8 to 15, which the block has; needs no alignment.
        unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))] }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn sub(a: Lanes, b: Lanes) -> Lanes {
        [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn mul_add(a: Lanes, b: Lanes, sum: Lanes) -> Lanes {
        [_mm256_fmadd_ps(a[0], b[0], sum[0]), _mm256_fmadd_ps(a[1], b[1], sum[1])]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn sum(lanes: Lanes) -> f32 {
        let eight = _mm256_add_ps(lanes[0], lanes[1]);
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ps(two, _mm_movehdup_ps(two)))
    }

    plan!(target_feature(enable = "avx2,fma"));
}
