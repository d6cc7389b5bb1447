//! The words of Shoal as types, and the rules that need no I/O.
//!
//! Ids, hash ranges, points and payload, filters, collections, the cluster map with its state machine,
//! placement, top-k merge. Everything here is a value or a pure function: no clock, no randomness,
//! no sockets, no disk, no hash-map order.
//!
//! Does not know about: gRPC or any wire type (`shoal-proto` converts), how points are indexed
//! (`shoal-index`), how commands are agreed on (`shoal-consensus`).

mod cluster_map;
mod collection;
mod decisions;
mod effort;
mod error;
pub mod failpoints;
mod filter;
mod hash_range;
mod ids;
mod limits;
mod metric;
pub mod placement;
pub mod planted;
mod point;
mod point_id;
mod shard;
mod token;
mod top_k;
mod value;

pub use cluster_map::{Change, ClusterMap, Command, MapError, Node, Outcome, Reply};
pub use collection::{Collection, CollectionSpec, GraphSpec, IndexSpec, Quantization};
pub use decisions::{Decided, Decisions, Verdict, Wish};
pub use effort::RECALL_TARGET_DEFAULT;
pub use error::{Classify, ErrorKind, InputError};
pub use filter::{Condition, Filter, Predicate, Range, Scalar};
pub use hash_range::{HashRange, partitions_exactly};
pub use ids::{
    ClusterId, CollectionId, Epoch, GroupId, IndexVersion, LogIndex, NodeId, OperationId, ReplicaId, ShardId, StoreId,
};
pub use limits::Limits;
pub use metric::Metric;
pub use point::{Point, check_distinct, check_ef_search, check_k, check_payload, check_vector};
pub use point_id::{PointId, PointIdError};
pub use shard::{MembershipStep, Shard, ShardReplica, Standing};
pub use token::{Token, TokenError};
pub use top_k::{Hit, Scored, merge_top_k};
pub use value::{Payload, Value, depth, size_bytes};
