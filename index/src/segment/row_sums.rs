//! Checksums of what a point's answer is made of: its vector and its payload.
//!
//! Opening verifies every byte, but a mapped file is read again whenever its pages were dropped meanwhile, and a disk may have
//! spoilt it since. So whatever leaves for a caller is held against these sums, which lie in memory, and so is every
//! vector that an exact search compares. Codes, links and sketches have none: they decide where a walk goes, not what it
//! returns.
//!
//! A sum is the lower half of XXH3-64, changed by the point's offset, so that a row in another's place is none. Damage passes
//! with a chance of one in 2^32. The offset is no seed: one costs XXH3 a secret of its own for each row.

use xxhash_rust::xxh3::xxh3_64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Those of one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RowSums {
    pub(crate) vector: u32,
    pub(crate) payload: u32,
}

/// Of a vector as it lies in the file, padding included, and of what it is scaled by, which bounds its distance.
#[inline]
pub(crate) fn of_vector(bytes: &[u8], scale: f32, offset: u32) -> u32 {
    lower(xxh3_64(bytes) ^ place(offset, scale))
}

/// Of packed payload.
#[inline]
pub(crate) fn of_payload(bytes: &[u8], offset: u32) -> u32 {
    lower(xxh3_64(bytes) ^ place(offset, 0.0))
}

/// Tells points apart, and what their vectors are scaled by.
#[inline]
fn place(offset: u32, scale: f32) -> u64 {
    let both = u64::from(scale.to_bits()) << 32 | u64::from(offset);
    xxh3_64(&both.to_le_bytes())
}

#[allow(clippy::cast_possible_truncation, reason = "half of it is kept")]
fn lower(sum: u64) -> u32 {
    sum as u32
}
