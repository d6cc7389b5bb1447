//! A coordinator: one of three or five processes that agree on the cluster map.
//!
//! - `machine`: the map behind the Raft log, kept on disk and published to watchers.
//! - `beginning`: which replica of the group a coordinator's store is. `joining`: making one a member.
//! - `leadership`: doing a thing on the leader, wherever it was asked.
//! - `heard`: what the leader has heard of nodes; not agreed on, not kept. `lacking`: replicas that they do not serve.
//! - `health`: how shards are by that. `quorum`: how the coordinators are. `status`: what needs attention.
//! - `lost`, `copies`: whether a node's store may be given up, by what was heard.
//! - `collections`, `cluster`, `internal`: the gRPC services.
//! - `simulation`: what the simulation shares with a real coordinator.
//!
//! The rules of the map itself are in `shoal-model`, so that routers and nodes follow the same ones.
//!
//! Does not know about: points, searches, what a node does with a shard. Its traffic is per change and per
//! heartbeat, never per query.

mod beginning;
mod cluster;
mod collections;
mod config;
mod coordinator;
mod copies;
mod error;
mod health;
mod heard;
mod internal;
mod joining;
mod lacking;
mod leadership;
mod lost;
mod machine;
mod metrics;
mod quorum;
pub mod simulation;
mod status;

pub use config::{CoordinatorConfig, PeerConfig};
pub use coordinator::Coordinator;
pub use error::CoordinatorError;
