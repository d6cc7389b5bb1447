//! A node: it holds shard replicas, writes to them through their Raft groups and answers reads from views.
//!
//! - `identity`: who this node is; one data folder is one node for ever.
//! - `membership`: registering, heartbeats; `members`: who is in the groups that are led here.
//! - `replicas`: which shards are open, following the cluster map.
//! - `shard`: what applying a log entry means, and how that lies on disk; total and deterministic.
//! - `witness`: a replica without points; `replica`: one with them: the task that applies, the view that reads take.
//! - `jobs`, `builder`: making segments; `lead`: what a leader does beside ordering writes.
//! - `peers`, `fetch`, `transfer`, `restore`: segments and snapshots on their way between replicas.
//! - `disks`: what the lack of room on a disk forbids.
//! - `compare`: whether replicas hold the same; `scrub`: whether disks do; `damage`: what is done if not.
//! - `metrics`: what it tells of itself; `timed_store`: how long syncs take.
//! - `reads` and `service`: the calls of routers; `freshness`: how old an answer may be.
//! - `simulation`: what the simulation shares with a real node.
//!
//! Does not know about: how a request is spread over shards or hedged (the router), who decides where replicas live (the
//! coordinator), what is inside a Raft message (`shoal-consensus`).

mod blocking;
mod builder;
mod compare;
mod config;
mod cpu_pool;
mod damage;
mod disks;
mod error;
mod fetch;
mod freshness;
mod identity;
mod jobs;
mod lead;
mod members;
mod membership;
mod metrics;
mod node;
mod peers;
mod reads;
mod replica;
mod replicas;
mod restore;
mod scrub;
mod service;
mod shard;
pub mod simulation;
mod timed_store;
mod transfer;
mod witness;

pub use config::NodeConfig;
pub use error::NodeError;
pub use membership::Replaced;
pub use node::Node;
