//! Consensus for many Raft groups in one process.
//!
//! [`MultiRaft`] is the core: a plain struct over raft-rs that its caller steps. Ticks, messages, proposals, reads
//! and "this is on disk now" go in; messages, one batch of writes for all groups, and work for state machines come
//! out. [`Consensus`] is the shell around it: one thread that runs the core over a store and a transport, behind
//! async calls.
//!
//! # Duties of the core's caller, in order
//! 1. Before the first group is opened, sync the store once: what is found on disk counts as durable, also what a
//!    killed process left to the operating system.
//! 2. Open groups, pass on time ([`MultiRaft::tick`]), messages ([`MultiRaft::step`]) and requests, in any order and
//!    number. Between two calls of `ready`, no more proposals than fit a message of the network: they travel in one.
//! 3. Call [`MultiRaft::ready`] until it is empty. For each [`Output`]:
//!    1. send its messages at once;
//!    2. write its batch, whole, before that of any later output;
//!    3. hand its work to the state machines, in order, and its answers to those who wait: both may happen before
//!       the sync, as what is handed out as committed is on disk already;
//!    4. if `must_sync`, sync the store with a sync that begins after the write;
//!    5. report its ticket ([`MultiRaft::persisted`]). Tickets are reported in order; one stands for all before it.
//!       In between everything else may go on: the caller may step and collect while a sync runs.
//! 4. A state machine applies its work in order and without gaps, and reports it ([`MultiRaft::applied`]); one that
//!    is [`StateMachine::Stored`] has written its state and applied index to the same store by then, in one batch.
//!    What it wrote is durable with the next sync; the log is cut only behind that.
//! 5. Asked for a snapshot, it makes one as of what it has applied ([`MultiRaft::snapshot_made`]).
//! 6. If a write or sync fails, nothing is known of the disk: drop the core and end the process.
//! 7. If it says which process it is ([`RaftConfig::process`]), carry messages of [`BEACON_GROUP`] between processes.
//! 8. If raft panics it has met a state that must not be: end the process, do not catch it and go on.
//!
//! # What holds
//! - What is acknowledged or voted for is on disk before the message that says so leaves. A leader's appends leave
//!   while it writes, but never in a term that is not on its disk.
//! - Reads: each attempt has a context of its own, made of the replica, a nonce of the process and a counter.
//!   The transport must not deliver one message twice.
//! - Everything stored carries a checksum and is verified when read; a broken record closes its group with an error.
//! - Proposals and changes are only taken by a leader, never forwarded.
//! - A group that nobody uses sleeps, and costs nothing, as long as the processes of its members hear each other's
//!   beacons. That only moves the time at which elections and heartbeats begin; no quorum is asked less.
//! - A witness ([`StateMachine::Witness`]) has a vote and a log, and is never what a client talks to.
//! - A replica that lost its disk must come back under a new id; one that does not is found out and closed.
//!
//! Does not know about: what is proposed and applied, shards, the cluster map, gRPC. No type of raft-rs leaves it.

mod config;
mod core;
mod error;
mod output;
mod shell;

pub use self::config::{ElectionJitter, RaftConfig};
pub use self::core::{MultiRaft, stored_replica};
pub use self::error::ConsensusError;
pub use self::output::{
    Answer, BEACON_GROUP, GroupSpec, GroupStatus, MemberChange, MemberProgress, Members, Output, ProcessId, RequestId,
    Role, StateMachine, Ticket, Work,
};
pub use self::shell::{Apply, Consensus, ConsensusThread};
