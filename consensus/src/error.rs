//! Why a group did not do as asked.

use shoal_model::failpoints::Injected;
use shoal_model::{Classify, ErrorKind, GroupId, LogIndex, ReplicaId};
use shoal_runtime::StoreError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// This process has no such group open.
    #[error("group {group} is not open here")]
    UnknownGroup {
        /// The group.
        group: GroupId,
    },
    /// The group is open already, or what was destroyed of it is not off the disk yet.
    #[error("group {group} is open already")]
    AlreadyOpen {
        /// The group.
        group: GroupId,
    },
    /// What is stored belongs to another replica of the group.
    #[error("group {group}: the log on disk belongs to replica {stored}, not to {asked}")]
    OtherReplica {
        /// The group.
        group: GroupId,
        /// Whose log is stored.
        stored: ReplicaId,
        /// Who was to be opened.
        asked: ReplicaId,
    },
    /// Only the leader can do this. Nothing happened.
    #[error("group {group}: this replica does not lead{}", leader.map_or(String::new(), |id| format!("; {id} does")))]
    NotLeader {
        /// The group.
        group: GroupId,
        /// Who leads as far as is known here.
        leader: Option<ReplicaId>,
    },
    /// The leader is handing over. Nothing happened; retry soon.
    #[error("group {group} is changing its leader")]
    Transferring {
        /// The group.
        group: GroupId,
    },
    /// A snapshot can only be asked of a leader, and only by another. Nothing happened.
    #[error(
        "group {group}: {}",
        if *leads { "this replica leads, so nobody can send it a snapshot; hand over the lead first" }
        else { "no leader is known that could send a snapshot; retry once there is one" }
    )]
    NobodyToAsk {
        /// The group.
        group: GroupId,
        /// Whether this replica leads.
        leads: bool,
    },
    /// Too much is under way. Nothing happened.
    #[error("group {group} has too many {what}")]
    Overloaded {
        /// The group.
        group: GroupId,
        /// Of what.
        what: &'static str,
    },
    /// The data of a proposal, or a snapshot, is over its cap.
    #[error("{got} bytes are more than the cap of {most}")]
    TooLarge {
        /// Its size.
        got: usize,
        /// The cap.
        most: usize,
    },
    /// A proposal without data: that is what entries of Raft itself look like.
    #[error("a proposal must not be empty")]
    EmptyProposal,
    /// A message that no replica of this group sent to this one.
    #[error("message for group {group} is refused: {problem}")]
    BadMessage {
        /// The group it names.
        group: GroupId,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Another change of membership is not finished.
    #[error("group {group} has a change of membership under way")]
    ChangePending {
        /// The group.
        group: GroupId,
    },
    /// The change of membership breaks a rule.
    #[error("group {group}: {problem}")]
    BadChange {
        /// The group.
        group: GroupId,
        /// Which rule.
        problem: String,
    },
    /// The proposal may or may not happen: this replica lost the lead first.
    #[error("group {group} lost its leader; whether the proposal happened is not known")]
    OutcomeUnknown {
        /// The group.
        group: GroupId,
    },
    /// The proposal did not happen: another entry took its place in the log.
    #[error("group {group}: another leader's entry took the place of the proposal")]
    Superseded {
        /// The group.
        group: GroupId,
    },
    /// The deadline passed. A proposal may or may not happen.
    #[error("group {group} did not answer within the deadline")]
    DeadlineExceeded {
        /// The group.
        group: GroupId,
    },
    /// The consensus thread has ended, or ends.
    #[error("consensus has stopped")]
    Stopped,
    /// A stored record does not read back as it was written, or records contradict each other.
    #[error("group {group}: corrupt {record}: {detail}")]
    Corruption {
        /// The group.
        group: GroupId,
        /// Which record.
        record: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The leader knows entries as stored here that are not: the disk lost them. The replica must come back
    /// under a new id.
    #[error("group {group}: log ends at {last}, but entries up to {acknowledged} were acknowledged from here")]
    LogLost {
        /// The group.
        group: GroupId,
        /// Last entry there is.
        last: LogIndex,
        /// Last entry that there must be.
        acknowledged: LogIndex,
    },
    /// A setting is out of its bounds.
    #[error("{field} {problem}")]
    Config {
        /// Which setting.
        field: &'static str,
        /// What it must be.
        problem: &'static str,
    },
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A bug: the thread that runs the groups panicked, could not start, or raft refused what it must take.
    #[error("consensus failed: {0}")]
    Internal(String),
}

impl From<Injected> for ConsensusError {
    fn from(injected: Injected) -> Self {
        Self::Store(injected.into())
    }
}

impl Classify for ConsensusError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownGroup { .. } => ErrorKind::NotFound,
            Self::AlreadyOpen { .. } => ErrorKind::AlreadyExists,
            Self::NotLeader { .. } => ErrorKind::NotLeader,
            Self::NobodyToAsk { leads: true, .. } => ErrorKind::Precondition,
            Self::NobodyToAsk { leads: false, .. } => ErrorKind::Unavailable,
            Self::OtherReplica { .. } | Self::ChangePending { .. } | Self::BadChange { .. } => ErrorKind::Precondition,
            Self::Overloaded { .. } => ErrorKind::Overloaded,
            Self::EmptyProposal | Self::TooLarge { .. } | Self::BadMessage { .. } | Self::Config { .. } => {
                ErrorKind::Invalid
            }
            Self::Transferring { .. } | Self::OutcomeUnknown { .. } | Self::Superseded { .. } | Self::Stopped => {
                ErrorKind::Unavailable
            }
            Self::DeadlineExceeded { .. } => ErrorKind::DeadlineExceeded,
            Self::Corruption { .. } | Self::LogLost { .. } => ErrorKind::Corruption,
            Self::Store(error) => error.kind(),
            Self::Internal(_) => ErrorKind::Internal,
        }
    }
}
