//! Vectors in fewer bits: signs with correction factors (RaBitQ), `f16`, `i8`.
//!
//! A sign keeps of a residual `r = o - c` only on which side of the centre each component lies. Of the unit vector
//! along `r`, the unit vector of signs `s / sqrt(dim)` has a known share, and what it lacks is, after a random rotation,
//! at right angles to the query on average. So `sum(s_i q_i)`, corrected by that share, estimates `<r, q>` without bias:
//!
//! ```text
//! |q - o|^2  =  |q - c|^2 + |r|^2 - 2 <r, q - c>
//!            ~  |q - c|^2 + add + rescale * sum(s_i q_i),     g = |r|^2 / sum(|r_i|)
//!               rescale = -2 g,     add = |r|^2 + 2 g sum(s_i c_i)
//! ```
//!
//! Source: Gao and Long, RaBitQ, arXiv 2405.12497; laid out beside a graph's links as in SymphonyQG, arXiv 2411.12229.

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

pub use crate::kernels::{BATCH, BLOCK_BYTES, BLOCK_DIMS, LANES, Lut};

use crate::kernels::Kernels;

mod batch;
#[cfg(test)]
mod tests;

pub use batch::{insert, pack};

/// What corrects an estimate from signs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Factors {
    /// Added to the squared distance of query and centre.
    pub add: f32,
    /// Multiplies the sum of the query's components under the signs.
    pub rescale: f32,
    /// Times the distance of query and centre: the standard deviation of the estimate, if the rotation is random.
    pub error: f32,
}

/// Keeps the signs of `rotated - center`, both rotated alike: writes a bit for each component, 64 a word of `bits`.
///
/// Factors are finite whatever the components, if these pass `shoal_model::check_vector`; none is needed where vector
/// and centre are equal.
///
/// # Panics
/// If lengths differ, or are no multiple of 64.
pub fn encode(rotated: &[f32], center: &[f32], bits: &mut [u64]) -> Factors {
    encode_with(Kernels::best(), rotated, center, bits)
}

fn encode_with(kernels: Kernels, rotated: &[f32], center: &[f32], bits: &mut [u64]) -> Factors {
    let moments = kernels.signs(rotated, center, bits);
    if moments.magnitude == 0.0 {
        return Factors::default();
    }
    #[allow(clippy::cast_precision_loss, reason = "dimensions are far below 2^24")]
    let dim = rotated.len() as f32;
    let gain = moments.square / moments.magnitude;
    let lost = (dim * gain * gain - moments.square).max(0.0);
    let finite = |factor: f32| factor.clamp(f32::MIN, f32::MAX);
    Factors {
        add: finite(moments.square + 2.0 * gain * moments.center),
        rescale: finite(-2.0 * gain),
        error: finite(2.0 * (lost / (dim - 1.0)).sqrt()),
    }
}

/// Writes `add` and `rescale` of up to 32 rows as `f16`, zeros behind them, and returns what both are to be multiplied
/// by: the power of two that brings the largest below 2^15.
///
/// # Panics
/// If there are more than 32.
pub fn narrow_factors(factors: &[Factors], add: &mut [u16; BATCH], rescale: &mut [u16; BATCH]) -> f32 {
    assert!(factors.len() <= BATCH, "{} factors for {BATCH} rows", factors.len());
    let largest = factors.iter().fold(0.0_f32, |largest, f| largest.max(f.add.abs()).max(f.rescale.abs()));
    let scale = power_above(largest, 15);
    let narrow = |value: f32| f16::from_f32(value / scale).to_bits();
    (*add, *rescale) = ([0; BATCH], [0; BATCH]);
    for (i, factors) in factors.iter().enumerate() {
        add[i] = narrow(factors.add);
        rescale[i] = narrow(factors.rescale);
    }
    scale
}

/// The least normal power of two whose `2^bits`-fold is greater than `value`, which is finite and not negative.
fn power_above(value: f32, bits: u32) -> f32 {
    let exponent = value.to_bits() >> 23;
    f32::from_bits((exponent + 1).saturating_sub(bits).max(1) << 23)
}

/// Writes a row as `f16` bits. Tells whether nothing was lost.
///
/// What is beyond the range of `f16` becomes infinite, and then something was lost.
///
/// # Panics
/// If lengths differ.
pub fn narrow_f16(row: &[f32], out: &mut [u16]) -> bool {
    let out: &mut [f16] = out.reinterpret_cast_mut();
    out.convert_from_f32_slice(row);
    row.iter().zip(out).all(|(before, after)| after.to_f32() == *before)
}

/// Writes a row as `u8`, rounded. Tells whether nothing was lost.
///
/// # Panics
/// If lengths differ.
pub fn narrow_u8(row: &[f32], out: &mut [u8]) -> bool {
    assert_eq!(row.len(), out.len(), "components of row and room");
    for (component, out) in row.iter().zip(out.iter_mut()) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts saturate")]
        let narrow = component.round_ties_even() as u8;
        *out = narrow;
    }
    row.iter().zip(out).all(|(before, after)| f32::from(*after).to_bits() == before.to_bits())
}

/// Writes a row as `i8` and returns the scale that they are to be multiplied by.
///
/// # Panics
/// If lengths differ.
pub fn narrow_i8(row: &[f32], out: &mut [i8]) -> f32 {
    assert_eq!(row.len(), out.len(), "components of row and room");
    let largest = row.iter().fold(0.0_f32, |largest, c| largest.max(c.abs()));
    let scale = (largest / 127.0).max(f32::MIN_POSITIVE);
    for (c, out) in row.iter().zip(out) {
        #[allow(clippy::cast_possible_truncation, reason = "within 127, and casts saturate")]
        let narrow = (c / scale).round_ties_even() as i8;
        *out = narrow;
    }
    scale
}
