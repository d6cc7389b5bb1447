//! Checksums of what a point's answer is made of: its vector and its payload.
//!
//! Opening verifies every byte, but a mapped file is read again whenever its pages were dropped meanwhile, and a disk may have
//! spoilt it since. So whatever leaves for a caller is held against these sums, which lie in memory, and so is every
//! vector that an exact search compares: a near one that looks far would be missed, and nothing else would tell. Codes, links
//! and sketches have none: they decide where a walk goes, not what it returns.
//!
//! Of a vector the distance kernels compute what it comes to while they compare it (see `kernels`); of payload it is XXH3-64.
//! Either is changed by the point's offset, so that a row in another's place is none, and cut to 32 bits. Damage to payload
//! passes with a chance of one in 2^32, damage to a vector with one of less than one in 2^30.

use shoal_model::Metric;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Those of one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RowSums {
    pub(crate) vector: u32,
    pub(crate) payload: u32,
}

/// What of a vector's scale is summed with it: all where scans bound its distance by it, else nothing.
#[inline]
pub(crate) fn bounding_scale(metric: Metric, scale: impl FnOnce() -> f32) -> f32 {
    if metric == Metric::Cosine { scale() } else { 0.0 }
}

/// Of a vector. `row_sum`: [`Kernels::row_sum`](crate::kernels::Kernels::row_sum) of it as it lies in the file, padding
/// included; `scale`: [`bounding_scale`].
///
/// The product with an odd number loses nothing, and its upper half, which is kept, depends on all of the sum: of the
/// differences that two sums may have, one in 2^31 does not show.
#[inline]
pub(crate) fn of_vector(row_sum: u64, scale: f32, offset: u32) -> u32 {
    let place = u64::from(scale.to_bits()) << 32 | u64::from(offset);
    let sum = row_sum.wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    upper(sum)
}

/// Of packed payload.
#[inline]
pub(crate) fn of_payload(bytes: &[u8], offset: u32) -> u32 {
    upper(xxh3_64(bytes) ^ xxh3_64(&offset.to_le_bytes()))
}

#[allow(clippy::cast_possible_truncation, reason = "half of it is kept")]
fn upper(sum: u64) -> u32 {
    (sum >> 32) as u32
}

#[cfg(test)]
mod tests;
