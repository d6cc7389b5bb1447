//! What the simulation of a cluster shares with a real node: the state machine of a shard, and the decisions around it that
//! are plain functions.
//!
//! Nothing else may use it. Where a node has tasks, sockets and threads, the simulation has its own; what is here it calls
//! in the order in which the node does.

pub use crate::builder::{Lane, parameters};
pub use crate::compare::{Compared, Digests, Odd, odd_ones};
pub use crate::jobs::pause_after;
pub use crate::members::{Reigns, heir, next_step};
pub use crate::reads::read_point;
pub use crate::replica::{group_of, group_spec, witnesses_of};
pub use crate::replicas::{save_map, saved_map, stored_shards};
pub use crate::shard::command::{Refusal, encode, encode_install, encode_seal};
pub use crate::shard::machine::{
    Applied, Begun, Effect, Replaced, Restoring, ShardMachine, View, erase, read_state, scan_records, snapshot_of,
};
pub use crate::shard::parts::{Manifest, Name};
pub use crate::shard::segment_files::{SegmentFiles, erase as erase_files, remove as remove_files};
pub use crate::shard::state::ShardState;
pub use crate::witness::note as note_witness;
