//! A router: stateless, between clients and nodes.
//!
//! - `fanout`: what to do next for one request, as a plain state machine.
//! - `flight`: carrying that out: calls to nodes, timers, maps.
//! - `check`: everything a request may say wrongly, refused before anything is sent.
//! - `lookup`: from a collection's name to its place in the map.
//! - `split`: which shard holds an id; `leaders`: which node leads a shard, as far as answers have told;
//!   `laggards`: which replicas lag; `hearing`: which nodes are silent; `outages`: which shards have failed for long.
//! - `freshness`: how fresh an answer must be, and how fresh it is.
//! - `batch`: several searches at once; `coalesce`: those of their calls that go to one node as one.
//! - `points`, `search`: the gRPC services for data; `forward`: those that coordinators answer.
//!
//! Does not know about: indexes, disks, Raft, what a node does with a shard. It follows the cluster map
//! (`shoal_proto::map_watch`) and owns none of it.

mod batch;
mod call;
mod check;
mod coalesce;
mod config;
mod coordinators;
mod error;
mod fanout;
mod flight;
mod forward;
mod freshness;
mod hearing;
mod laggards;
mod leaders;
mod lookup;
mod metrics;
mod nodes;
mod outages;
mod points;
mod router;
mod search;
mod split;

pub use config::RouterConfig;
pub use error::RouterError;
pub use router::Router;
