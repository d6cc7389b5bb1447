//! NEON: four registers of 4.

use std::arch::aarch64::{float32x4_t, vaddq_f32, vaddvq_f32, vdupq_n_f32, vfmaq_f32, vld1q_f32, vsubq_f32};

use super::{LANES, padded, plan};

type Lanes = [float32x4_t; 4];

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> Lanes {
    [vdupq_n_f32(0.0); 4]
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
fn sub(a: Lanes, b: Lanes) -> Lanes {
    [vsubq_f32(a[0], b[0]), vsubq_f32(a[1], b[1]), vsubq_f32(a[2], b[2]), vsubq_f32(a[3], b[3])]
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
fn sum(lanes: Lanes) -> f32 {
    vaddvq_f32(vaddq_f32(vaddq_f32(lanes[0], lanes[1]), vaddq_f32(lanes[2], lanes[3])))
}

plan!(target_feature(enable = "neon"));
