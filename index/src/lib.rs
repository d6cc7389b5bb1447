//! The search engine inside one shard replica: fresh points, filters on stored payload, SIMD kernels.
//!
//! [`Delta`] takes points in as they are applied; [`DeltaView`] is what one search sees of it, exact and immutable.
//! Payload is kept as [`packed`] bytes and filtered without decoding ([`CompiledFilter`]). [`kernels`] compare
//! vectors; every answer they lead to is settled in `f64`.
//!
//! Does not know about: clusters, shards, replication, the wire, the disk, threads, clocks. Callers hand in points
//! that passed `shoal_model::check_vector`, and a `stop` question that search asks as it goes.

mod delta;
mod error;
mod filter;

pub mod kernels;
pub mod packed;

pub use delta::{Delta, DeltaView, Found, Query, RowRef, SearchStats};
pub use error::IndexError;
pub use filter::CompiledFilter;
