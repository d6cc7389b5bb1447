//! The network port for Raft messages.

use bytes::Bytes;
use shoal_model::{GroupId, ReplicaId};

/// A Raft message on its way; only `shoal-consensus` knows what is inside.
///
/// Those of group 0, which no group can be, go from process to process: `from` and `to` number processes, not members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Group it belongs to.
    pub group: GroupId,
    /// Member that sent it.
    pub from: ReplicaId,
    /// Member it is for.
    pub to: ReplicaId,
    /// The message.
    pub data: Bytes,
}

/// Carries Raft messages between processes.
///
/// May drop, delay or reorder; callers do not rely on delivery. Must not duplicate: raft 0.7.0 could answer a
/// read from an old acknowledgement. Never blocks: what does not fit is dropped.
pub trait Transport: Send + Sync + 'static {
    /// Sends `envelope` towards the process that holds member `envelope.to`, or, for group 0, is numbered so.
    fn send(&self, envelope: Envelope);
}
