//! Plain Rust, which compilers turn into whatever vectors the target has for certain.

use super::{LANES, padded, plan};

type Lanes = [f32; LANES];

fn zero() -> Lanes {
    [0.0; LANES]
}

#[inline(always)]
fn load(block: &[f32; LANES]) -> Lanes {
    *block
}

#[inline(always)]
fn sub(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i] - b[i])
}

/// Two roundings: a fused one without hardware would be a call for each component.
#[inline(always)]
fn mul_add(a: Lanes, b: Lanes, sum: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i] * b[i] + sum[i])
}

fn sum(lanes: Lanes) -> f32 {
    let mut lanes = lanes;
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

plan!();
