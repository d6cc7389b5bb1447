//! Vectors in fewer bits: signs with correction factors (RaBitQ), 4 bits with such factors, `f16`, `i8`.
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

/// What turns a product with a 4-bit row into one with the row itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NibbleFactors {
    /// Squared length of the row.
    pub square: f32,
    /// Multiplies the product with the code, whose levels are -7.5 to 7.5.
    pub rescale: f32,
    /// Times the length of the other vector: the standard deviation of a squared distance, if the rotation is random.
    pub error: f32,
}

/// Steps between levels that are tried, in standard deviations of a component: 0.335 is best for a normal distribution.
const NIBBLE_STEPS: [f32; 6] = [0.2, 0.27, 0.31, 0.335, 0.365, 0.42];

/// Writes a rotated row in 4 bits a component, as `Kernels::dot_u4_i8` reads them: level `u - 7.5` for the number `u`.
///
/// As with signs, what the code lacks of the row is at right angles to other vectors on average, and its share of the
/// row corrects products. Of several steps the one that leaves the least angle is taken. Source: Gao et al., Practical
/// and asymptotically optimal quantization of high-dimensional vectors (extended RaBitQ), arXiv 2409.09913.
///
/// # Panics
/// If the row is no whole number of 64 components, or `out` has not half as many bytes.
pub fn narrow_u4(row: &[f32], out: &mut [u8]) -> NibbleFactors {
    assert!(row.len().is_multiple_of(BLOCK_DIMS), "{} components are no whole blocks", row.len());
    assert_eq!(row.len(), 2 * out.len(), "components of row and room");
    #[allow(clippy::cast_precision_loss, reason = "dimensions are far below 2^24")]
    let dim = row.len() as f32;
    let square: f32 = row.iter().map(|c| c * c).sum();
    let deviation = (square / dim).sqrt();
    let share = |step: f32| {
        let (dot, length) = row.iter().fold((0.0, 0.0), |(dot, length), component| {
            let level = f32::from(nibble(*component, 1.0 / step)) - NIBBLE_MIDDLE;
            (dot + level * component, length + level * level)
        });
        (dot, dot / length.sqrt())
    };
    let steps = NIBBLE_STEPS.map(|step| step * deviation);
    let shares = steps.map(|step| (step, share(step)));
    let (step, (dot, kept)) =
        shares.into_iter().fold(shares[0], |best, next| if next.1.1 > best.1.1 { next } else { best });
    for (row, out) in row.chunks_exact(BLOCK_DIMS).zip(out.chunks_exact_mut(BLOCK_DIMS / 2)) {
        let (low, high) = row.split_at(BLOCK_DIMS / 2);
        for (out, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
            *out = nibble(*low, 1.0 / step) | nibble(*high, 1.0 / step) << 4;
        }
    }
    if dot < f32::MIN_POSITIVE || kept < f32::MIN_POSITIVE {
        return NibbleFactors { square, ..NibbleFactors::default() };
    }
    let stretch = deviation * dim.sqrt() / kept;
    let lost = (square * (stretch * stretch - 1.0)).max(0.0);
    let finite = |factor: f32| factor.clamp(0.0, f32::MAX);
    NibbleFactors {
        square: finite(square),
        rescale: finite(square / dot),
        error: finite(2.0 * (lost / (dim - 1.0)).sqrt()),
    }
}

/// The middle of 16 levels.
pub(crate) const NIBBLE_MIDDLE: f32 = 7.5;

/// The level that a component is nearest to.
#[inline]
fn nibble(component: f32, inverse_step: f32) -> u8 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts saturate")]
    let number = (component * inverse_step + 8.0) as u8;
    number.min(15)
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
