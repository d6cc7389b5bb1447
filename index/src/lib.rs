//! The search engine inside one shard replica: fresh points, filters on stored payload, SIMD kernels.
//!
//! [`Delta`] takes points in as they are applied; [`DeltaView`] is what one search sees of it, immutable.
//! Payload is kept as [`packed`] bytes and filtered without decoding ([`CompiledFilter`]). [`kernels`] compare
//! vectors; every answer they lead to is settled in `f64`.
//!
//! [`segment`] freezes many points into a graph that is its own file, and walks it. [`set`] makes one set of points of
//! a delta that grows and segments that do not.
//!
//! Does not know about: clusters, shards, replication, the wire, clocks. The disk is that of [`mod@file`] alone, and builds
//! run on the rayon pool that calls them. Callers hand in points that passed `shoal_model::check_vector`, and a `stop`
//! question that search asks as it goes.

mod bits;
mod buffer;
mod delta;
mod error;
mod filter;
mod graph;
mod score;

pub mod file;
pub mod kernels;
pub mod packed;
pub mod payload_index;
pub mod quantize;
pub mod rotation;
pub mod segment;
pub mod set;

pub use delta::{Center, Certainty, Delta, DeltaRow, DeltaView, Found, Query, RowRef, SearchStats};
pub use error::IndexError;
pub use filter::CompiledFilter;
