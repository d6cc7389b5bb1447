//! A node: it holds shard replicas, writes to them through their Raft groups and answers reads from views.
//!
//! - `identity`: who this node is; one data folder is one node for ever.
//! - `membership`: registering, heartbeats.
//! - `replicas`: which shards are open, following the cluster map.
//! - `replica`: one shard replica: the task that applies, the view that reads take.
//! - `machine`: what applying a log entry means; total and deterministic.
//! - `reads` and `service`: the calls of routers.
//!
//! Does not know about: other nodes' shards, how a request is spread over shards or hedged (the router), who
//! decides where replicas live (the coordinator), what is inside a Raft message (`shoal-consensus`).

mod builder;
mod command;
mod config;
mod cpu_pool;
mod error;
mod identity;
mod jobs;
mod keys;
mod machine;
mod membership;
mod metrics;
mod node;
mod reads;
mod replica;
mod replicas;
mod segment_files;
mod service;

pub use config::NodeConfig;
pub use error::NodeError;
pub use node::Node;
