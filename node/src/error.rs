//! Everything that can go wrong on a node.

use std::path::PathBuf;
use std::time::Duration;

use shoal_consensus::ConsensusError;
use shoal_index::IndexError;
use shoal_index::set::SetError;
use shoal_model::failpoints::Injected;
use shoal_model::{Classify, ErrorKind, InputError, NodeId, ShardId};
use shoal_proto::server::ServerError;
use shoal_proto::status::RemoteError;
use shoal_runtime::{DiskState, StoreError, TaskError};

/// Why a node could not start, go on or answer.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration or a request breaks a rule.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The Raft groups failed or refused.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// The index refused or was interrupted.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The server could not start or failed.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The coordinator refused this node.
    #[error("coordinator refuses this node: {0}")]
    Refused(RemoteError),
    /// The coordinators take this node's store for another node than it is.
    #[error(
        "this store is node {own}, and the coordinators register it as node {given}: they have given node {own} up for another; \
         empty the data folder, and it joins as a new node"
    )]
    GivenUp {
        /// Who it was.
        own: NodeId,
        /// Who it would be.
        given: NodeId,
    },
    /// A stored record does not read back.
    #[error("shard {shard}: stored {what} is malformed")]
    Malformed {
        /// Shard it belongs to.
        shard: ShardId,
        /// Which record.
        what: &'static str,
    },
    /// The router's map is older than this node's.
    #[error("shard {shard}: its map entry has changed since")]
    StaleEpoch {
        /// The shard.
        shard: ShardId,
    },
    /// Another replica leads the shard, or none does for the moment.
    #[error("shard {shard}: this node's replica does not lead it{}", leader.map_or(String::new(), |node| format!("; that of node {node} does")))]
    NotLeader {
        /// The shard.
        shard: ShardId,
        /// Where the leader is, as far as is known.
        leader: Option<NodeId>,
    },
    /// The replica is too far behind for this read.
    #[error("shard {shard}: {what}; ask another replica")]
    Lagging {
        /// The shard.
        shard: ShardId,
        /// Why.
        what: &'static str,
    },
    /// The replica is not open (yet), or has closed.
    #[error("shard {shard} is not ready on this node")]
    NotReady {
        /// The shard.
        shard: ShardId,
    },
    /// Too many searches wait for a thread.
    #[error("search queue is full ({max} waiting); retry after a pause")]
    Overloaded {
        /// The cap.
        max: u32,
    },
    /// Builds are slower than writes.
    #[error("shard {shard}: {waiting} deltas wait to be built into segments; retry after a pause")]
    BuildsBehind {
        /// The shard.
        shard: ShardId,
        /// How many.
        waiting: usize,
    },
    /// A disk that a write needs has no room.
    #[error("node {node} has no room for writes: {disk}; writes are taken again once there is room, reads go on")]
    DiskFull {
        /// Whose disk.
        node: NodeId,
        /// How it stands.
        disk: Box<DiskState>,
    },
    /// The own disk has no room for work that can wait.
    #[error("no room for {bytes} bytes more: {disk}; it is done once there is room")]
    NoRoom {
        /// About what it would write.
        bytes: u64,
        /// How the disk stands.
        disk: Box<DiskState>,
    },
    /// The folder of segment files cannot be used.
    #[error("segment folder {}: {source}; make it a folder that this process may write to", path.display())]
    SegmentFolder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The index was asked for what cannot be: a bug.
    #[error(transparent)]
    Set(#[from] SetError),
    /// Time ran out.
    #[error("deadline passed while {doing}")]
    Deadline {
        /// What was being done.
        doing: &'static str,
    },
    /// A task panicked or did not end.
    #[error("task failed: {0}")]
    Task(String),
    /// A replica stopped because applying failed.
    #[error("shard {shard} stopped: {reason}")]
    ReplicaStopped {
        /// The shard.
        shard: ShardId,
        /// Why.
        reason: String,
    },
    /// Not all tasks ended in time.
    #[error("tasks did not end within {0:?}")]
    Late(Duration),
}

impl NodeError {
    /// Whether the store cannot be read back, so that nothing in it is to be trusted. What it holds and this version does not
    /// understand is no such damage: another version may.
    #[must_use]
    pub fn is_store_damage(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Consensus(_)) && self.kind() == ErrorKind::Corruption
    }
}

impl Classify for NodeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Input(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Consensus(error) => error.kind(),
            Self::Index(error) => error.kind(),
            Self::Refused(error) => error.kind(),
            Self::GivenUp { .. } => ErrorKind::Precondition,
            Self::Malformed { .. } => ErrorKind::Corruption,
            Self::StaleEpoch { .. } => ErrorKind::StaleEpoch,
            Self::NotLeader { .. } => ErrorKind::NotLeader,
            Self::NotReady { .. } | Self::Lagging { .. } | Self::ReplicaStopped { .. } => ErrorKind::Unavailable,
            Self::Set(error) => error.kind(),
            Self::SegmentFolder { .. } => ErrorKind::Internal,
            Self::Overloaded { .. } | Self::BuildsBehind { .. } => ErrorKind::Overloaded,
            Self::DiskFull { .. } | Self::NoRoom { .. } => ErrorKind::DiskFull,
            Self::Deadline { .. } => ErrorKind::DeadlineExceeded,
            Self::Server(_) | Self::Task(_) | Self::Late(_) => ErrorKind::Internal,
        }
    }

    fn field(&self) -> &str {
        match self {
            Self::Input(error) => error.field(),
            _ => "",
        }
    }
}

impl From<Injected> for NodeError {
    fn from(injected: Injected) -> Self {
        Self::Store(injected.into())
    }
}

impl From<TaskError> for NodeError {
    fn from(error: TaskError) -> Self {
        Self::Task(error.to_string())
    }
}
