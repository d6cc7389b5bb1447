//! The terms in which a fan-out and its shell speak: what is wanted, what happened, what to do, how it ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use shoal_model::{ClusterMap, CollectionId, Epoch, ErrorKind, NodeId, ShardId, Token};

/// What a request needs.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Whose shards they are.
    pub(crate) collection: CollectionId,
    /// The shards to ask.
    pub(crate) shards: BTreeSet<ShardId>,
    /// How shards share calls.
    pub(crate) grouping: Grouping,
    /// Which replica of each shard is asked first.
    pub(crate) first: First,
    /// How long a shard is asked again that fails.
    pub(crate) patience: Duration,
    /// Share of the shards that must answer, 0 to 1.
    pub(crate) coverage_min: f64,
    /// When the request ends with what there is, since it began.
    pub(crate) ends_at: Duration,
    /// Nodes that are silent: the others are asked first.
    pub(crate) silent: BTreeSet<NodeId>,
    /// What replicas wait for before they answer.
    pub(crate) waits_for: Token,
    /// Replicas that are known to lack it: the others are asked first.
    pub(crate) lagging: BTreeSet<(ShardId, NodeId)>,
    /// Seed of the jitter of rests.
    pub(crate) seed: u64,
}

/// How shards share calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// One call to a node for all its shards.
    PerNode,
    /// One call for each shard: each has its own part of the request.
    PerShard,
}

/// Which replica of each shard is asked first; the others follow in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// The one that leads: on these nodes as far as is known, else the first in the map.
    Leader(BTreeMap<ShardId, NodeId>),
    /// Any, another for each request.
    Any,
}

/// Number of a call within one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallId(pub(super) u32);

/// A shard, as the map that the call rests on has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) shard: ShardId,
    pub(crate) epoch: Epoch,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The request begins.
    Started,
    /// A node answered for some shards of a call, and said why not for others.
    Answered { call: CallId, answered: Vec<ShardId>, failed: Vec<(ShardId, Failure)> },
    /// The node of an open call is silent. The call may be answered yet.
    Silent { call: CallId },
    /// A call failed as a whole.
    CallFailed { call: CallId, failure: Failure },
    /// There is another map.
    Map(Arc<ClusterMap>),
    /// The time of the last [`Action::WakeAt`] has come.
    Woke,
    /// [`Plan::ends_at`] has come.
    Deadline,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Call a node about these shards.
    Call { call: CallId, node: NodeId, targets: Vec<Target> },
    /// A node knows of another map: look for one beyond this epoch, and tell when there is one.
    RefreshMap { beyond: Epoch },
    /// Tell when this time has come; replaces an earlier one.
    WakeAt(Duration),
    /// The request is over. Open calls are of no more use.
    Finish(Outcome),
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Enough shards answered; those that did not are named.
    Answered { gaps: Vec<Gap> },
    /// Too few shards answered, or can answer.
    TooFew { answered: usize, gaps: Vec<Gap> },
    /// A node says that the request is wrong.
    Refused(Failure),
    /// The collection was removed meanwhile.
    CollectionGone,
}

impl Outcome {
    /// The shards that did not answer, where others did or could.
    pub(crate) fn gaps(&self) -> &[Gap] {
        match self {
            Self::Answered { gaps } | Self::TooFew { gaps, .. } => gaps,
            Self::Refused(_) | Self::CollectionGone => &[],
        }
    }
}

/// A shard that did not answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gap {
    pub(crate) shard: ShardId,
    pub(crate) failure: Failure,
}

/// Why a shard did not answer, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    pub(crate) message: String,
    /// Node whose replica leads, if the one that was asked knows.
    pub(crate) leader: Option<NodeId>,
}

impl Failure {
    /// One that says nothing about who leads.
    pub(crate) fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), leader: None }
    }
}

/// What can be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// Node and router believe in different maps: look for a newer one, and try again.
    StaleEpoch,
    /// The replica cannot serve now: the next one, then a rest.
    NotReady,
    /// The replica does not lead: the one that does, or the next one, then a rest.
    NotLeader,
    /// The node cannot be reached: the next one, then a rest.
    Unreachable,
    /// The node says nothing: the next one, while the call stays open.
    Silent,
    /// The node has too much to do: a retry would add to it.
    Overloaded,
    /// A disk has no room: it has none a moment later either.
    DiskFull,
    /// Time ran out.
    Deadline,
    /// The request is wrong.
    Invalid,
    /// A bug or a failing disk.
    Internal,
}

impl Cause {
    /// Whether another replica of the shard may well answer.
    pub(super) fn is_of_one_replica(self) -> bool {
        match self {
            Self::NotReady | Self::NotLeader | Self::Unreachable | Self::Silent => true,
            Self::StaleEpoch | Self::Overloaded | Self::DiskFull => false,
            Self::Deadline | Self::Invalid | Self::Internal => false,
        }
    }

    /// The kind of error that a client gets for it.
    pub(crate) fn kind(self) -> ErrorKind {
        match self {
            Self::StaleEpoch | Self::NotReady | Self::NotLeader | Self::Unreachable => ErrorKind::Unavailable,
            Self::Overloaded => ErrorKind::Overloaded,
            Self::DiskFull => ErrorKind::DiskFull,
            Self::Silent | Self::Deadline => ErrorKind::DeadlineExceeded,
            Self::Invalid => ErrorKind::Invalid,
            Self::Internal => ErrorKind::Internal,
        }
    }

    /// Its name in metrics and answers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::StaleEpoch => "stale_epoch",
            Self::NotReady => "not_ready",
            Self::NotLeader => "not_leader",
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Overloaded => "overloaded",
            Self::DiskFull => "disk_full",
            Self::Deadline => "deadline",
            Self::Invalid => "invalid",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause.name(), self.message)
    }
}
