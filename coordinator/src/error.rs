//! Everything that can go wrong on a coordinator.

use shoal_consensus::ConsensusError;
use shoal_model::failpoints::Injected;
use shoal_model::{Classify, ErrorKind, InputError, MapError, NodeId, ShardId};
use shoal_proto::map::MapDecodeError;
use shoal_proto::server::ServerError;
use shoal_proto::status::RemoteError;
use shoal_runtime::{DiskState, StoreError, TaskError};

/// Why a coordinator could not start, go on or answer.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The configuration or a request breaks a rule.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The Raft group failed or refused.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// The server could not start or failed.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The map refused a command.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The leader answered with an error.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// A stored record does not read back.
    #[error("coordinator state: {0}")]
    Malformed(#[from] MapDecodeError),
    /// There is no such collection.
    #[error("collection {name:?} does not exist; list them with `shoal collection ls`")]
    UnknownCollection {
        /// The name asked for.
        name: String,
    },
    /// A call that is repeated has created a collection that is gone.
    #[error("collection {name:?} was created by this operation, and has been removed since")]
    RemovedSince {
        /// Its name.
        name: String,
    },
    /// There is no such node.
    #[error("node {node} is not registered in this cluster")]
    UnknownNode {
        /// The number it gave.
        node: u64,
    },
    /// A node or watcher of another cluster called.
    #[error(
        "belongs to cluster {theirs}, this is cluster {ours}; check the coordinators' addresses and the data folder it was started with"
    )]
    OtherCluster {
        /// The caller's cluster.
        theirs: String,
        /// This cluster.
        ours: String,
    },
    /// Too few nodes for the wanted replicas.
    #[error(
        "replicas: {replicas} replicas need as many nodes, there are {nodes}; start more nodes or ask for fewer replicas"
    )]
    TooFewNodes {
        /// Replicas wanted.
        replicas: u32,
        /// Nodes registered.
        nodes: usize,
    },
    /// Too few nodes that live for the wanted replicas.
    #[error(
        "replicas: {replicas} replicas need as many nodes that live, and {alive} of {nodes} do; not heard of: {silent}; start \
         those again, or ask for fewer replicas"
    )]
    TooFewAlive {
        /// Replicas wanted.
        replicas: u32,
        /// Nodes that live.
        alive: usize,
        /// Nodes registered.
        nodes: usize,
        /// Those that do not live, and for how long they have been silent.
        silent: String,
    },
    /// The leader cannot know yet which nodes live.
    #[error(
        "this coordinator began to lead a moment ago, and has not heard of these nodes yet: {nodes}; try again in some seconds"
    )]
    NotHeardYet {
        /// Their names.
        nodes: String,
    },
    /// A store cannot be given up now: who else has a copy of a shard waits for its content.
    #[error(
        "shard {shard} has no other replica with points now, as those of other nodes wait for theirs; try again once one has \
         them, or bring the old data folder back"
    )]
    CopiesWait {
        /// The shard.
        shard: ShardId,
    },
    /// A store cannot be given up now: of the others that have a vote in a shard too few are heard of.
    #[error(
        "shard {shard} can agree on nothing without this store while others are silent, so that no new replica could join; \
         start first {nodes}, then this node again"
    )]
    VotersSilent {
        /// The shard.
        shard: ShardId,
        /// Who is silent.
        nodes: String,
    },
    /// No node is called so.
    #[error("no node has the number or name {called:?}; list them with `shoal node ls`")]
    NobodyCalled {
        /// What it was called.
        called: String,
    },
    /// A name that several nodes have.
    #[error("several nodes have the name {called:?}; give the number of the one that is meant: {nodes}")]
    SeveralCalled {
        /// What it was called.
        called: String,
        /// Their numbers.
        nodes: String,
    },
    /// A node has been replaced already.
    #[error(
        "another node has taken the place of node {node} already; if the disk of that one is lost too, name it instead \
         (`shoal node ls`)"
    )]
    AlreadyReplaced {
        /// The node.
        node: NodeId,
    },
    /// A store that another has replaced, or whose node was removed.
    #[error(
        "the cluster has given this store up: another has taken its place, or its node was removed; empty the data folder, and \
         it joins as a new node"
    )]
    GivenUp,
    /// What is to be given up or removed lives.
    #[error(
        "node {node} ({name}) lives: it was heard of a moment ago; stop it first, and try again once `shoal status` shows it as \
         silent"
    )]
    NodeAlive {
        /// The node.
        node: NodeId,
        /// Its name.
        name: String,
    },
    /// The cap on collections is met.
    #[error("the cluster has {max} collections, which is its cap; remove one first")]
    TooManyCollections {
        /// The cap.
        max: u32,
    },
    /// The leading coordinator's disk has no room, nor has that of another that could lead.
    #[error(
        "coordinator {id} has no room for more collections: {disk}; make some there, or remove a collection, which is taken all the same"
    )]
    DiskFull {
        /// Which coordinator.
        id: u64,
        /// How its disk stands.
        disk: Box<DiskState>,
    },
    /// No leader could be reached in time.
    #[error("no leader among the coordinators within the deadline; check with `shoal status` that most of them run")]
    NoLeader,
    /// This coordinator has no vote yet.
    #[error("this coordinator has no vote yet, so ask another: it waits for {waits_for}")]
    NotMember {
        /// For what.
        waits_for: String,
    },
    /// Another store took the place of this coordinator's.
    #[error(
        "the other coordinators have given this one's store up for another, so it has no vote any more; empty its data folder, \
         and it joins them anew"
    )]
    Replaced,
    /// This coordinator is stopping.
    #[error("this coordinator is stopping; ask another")]
    Stopping,
    /// A task panicked or did not end.
    #[error("task failed: {0}")]
    Task(String),
}

impl CoordinatorError {
    /// Whether the store does not hold what was written to it, so that another has to take its place. State that reads back
    /// and is not understood, as after a downgrade, is no damage.
    #[must_use]
    pub fn is_store_damage(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Consensus(_)) && self.kind() == ErrorKind::Corruption
    }
}

impl Classify for CoordinatorError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Input(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Consensus(error) => error.kind(),
            Self::Map(error) => error.kind(),
            Self::Remote(error) => error.kind(),
            Self::Malformed(error) => error.kind(),
            Self::UnknownCollection { .. } | Self::RemovedSince { .. } | Self::UnknownNode { .. } => {
                ErrorKind::NotFound
            }
            Self::OtherCluster { .. }
            | Self::TooFewNodes { .. }
            | Self::TooFewAlive { .. }
            | Self::CopiesWait { .. }
            | Self::VotersSilent { .. }
            | Self::NobodyCalled { .. }
            | Self::SeveralCalled { .. }
            | Self::AlreadyReplaced { .. }
            | Self::GivenUp
            | Self::NodeAlive { .. }
            | Self::Replaced => ErrorKind::Precondition,
            Self::TooManyCollections { .. } => ErrorKind::Overloaded,
            Self::DiskFull { .. } => ErrorKind::DiskFull,
            Self::NoLeader | Self::NotMember { .. } | Self::NotHeardYet { .. } | Self::Stopping => {
                ErrorKind::Unavailable
            }
            Self::Server(_) | Self::Task(_) => ErrorKind::Internal,
        }
    }

    fn field(&self) -> &str {
        match self {
            Self::Input(error) => error.field(),
            Self::Remote(error) => error.field(),
            Self::Map(MapError::OperationReused) => "operation_id",
            Self::TooFewNodes { .. } | Self::TooFewAlive { .. } => "replicas",
            _ => "",
        }
    }
}

impl From<Injected> for CoordinatorError {
    fn from(injected: Injected) -> Self {
        Self::Store(injected.into())
    }
}

impl From<TaskError> for CoordinatorError {
    fn from(error: TaskError) -> Self {
        Self::Task(error.to_string())
    }
}
