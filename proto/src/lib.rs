//! The wire: generated types of `shoal.v1` (public) and `shoal.internal.v1`, every conversion between them and
//! the words of `shoal-model`, and the few settings that all gRPC servers and channels of Shoal share.
//!
//! This crate alone knows wire types, gRPC codes and metadata.
//!
//! Does not know about: what a service does with a request; what is inside a Raft message, which crosses it as
//! opaque bytes.

pub mod convert;
pub mod disk;
pub mod map;
pub mod map_watch;
pub mod raft_lanes;
pub mod recipient;
pub mod server;
pub mod status;
pub mod trace;

/// The public API, stable within `v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated; documented in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("shoal.v1");
}

/// Between processes of one cluster; no stability is promised.
pub mod internal {
    /// The first and only version.
    #[allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::pedantic,
        reason = "generated; documented in the .proto files"
    )]
    pub mod v1 {
        tonic::include_proto!("shoal.internal.v1");
    }
}

/// Encoded descriptors of all services, for reflection.
pub const FILE_DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("shoal");
