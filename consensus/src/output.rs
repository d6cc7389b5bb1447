//! What goes into the core, what comes out of it, and what it says about its groups.

use std::sync::Arc;

use bytes::Bytes;
use shoal_model::{GroupId, LogIndex, ReplicaId};
use shoal_runtime::{Batch, Envelope};

use crate::ConsensusError;
use crate::core::FIRST;

/// A process, as its peers address it: in messages of [`BEACON_GROUP`] it stands where otherwise a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u64);

/// What messages between processes carry in place of a group; no group can have it.
pub const BEACON_GROUP: GroupId = GroupId(0);

/// Name that a caller gives to a proposal, read or change, to know its answer by. Unique while unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Name of one [`Output`], to report it as persisted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

/// Where the state machine of a group keeps its state, and so how far its log may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateMachine {
    /// In the same store as the log, its applied index with it in one batch. The log may be cut behind what was
    /// applied and synced.
    Stored,
    /// In memory. It is small: a snapshot of it is kept beside the log, and the log may be cut behind that.
    InMemory,
    /// Nowhere: this member votes and keeps the log, for a quorum at the price of a log. It gets no work. Its log is
    /// only cut above `log_bytes_max`. Should it be elected, as nobody else has all entries, it refuses proposals and
    /// reads, and hands the lead to the first full voter that has them.
    Witness,
}

/// A group to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// Which.
    pub group: GroupId,
    /// The member that lives in this process. A replica that lost its disk must come back under a new id.
    pub me: ReplicaId,
    /// The first members, the same on each of them; used if nothing is stored. Empty for a replica that joins a
    /// group which exists: it waits for a leader to send it a snapshot.
    pub voters: Vec<ReplicaId>,
    /// Which members are witnesses, as far as is known; may change later
    /// ([`MultiRaft::set_witnesses`](crate::MultiRaft::set_witnesses)).
    pub witnesses: Vec<ReplicaId>,
    /// What the state machine has applied; zero if it starts empty.
    pub applied: LogIndex,
    /// Where its state is.
    pub state_machine: StateMachine,
    /// Whether that is lost or damaged, whatever `applied` says, while the log is not: the state machine gets nothing
    /// before a snapshot from a peer, as after [`MultiRaft::request_snapshot`](crate::MultiRaft::request_snapshot).
    pub state_lost: bool,
}

/// One step of a change of membership; several together take effect at once, through a joint quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A replica that gets everything and has no vote. A new member starts as one.
    AddLearner(ReplicaId),
    /// A learner that has caught up gets a vote.
    Promote(ReplicaId),
    /// A member goes; not the leader.
    Remove(ReplicaId),
}

/// Role of a replica in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Orders proposals.
    Leader,
    /// Stands for election.
    Candidate,
    /// Follows, or waits for a leader.
    Follower,
}

/// Members of a group, as applied here; each list ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Those with a vote.
    pub voters: Vec<ReplicaId>,
    /// Those without.
    pub learners: Vec<ReplicaId>,
    /// Those whose votes count as well until the change under way is finished.
    pub leaving: Vec<ReplicaId>,
}

/// How far a member has come, as its leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberProgress {
    /// Which member.
    pub member: ReplicaId,
    /// Last entry that is known to be on its disk, as it is in the leader's log.
    pub matched: LogIndex,
    /// Last entry that it is known to know as committed.
    pub committed: LogIndex,
    /// Whether it was heard within twice `election_ticks`.
    pub active: bool,
    /// Whether it is being sent a snapshot, or has asked for one of late, as its state is damaged: it cannot serve.
    pub gets_snapshot: bool,
}

/// How a group stands on this replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Which group.
    pub group: GroupId,
    /// Which replica.
    pub me: ReplicaId,
    /// Its role.
    pub role: Role,
    /// Who leads, as far as is known here.
    pub leader: Option<ReplicaId>,
    /// Raft's election number.
    pub term: u64,
    /// Last entry known as committed.
    pub committed: LogIndex,
    /// Last entry that the state machine has applied.
    pub applied: LogIndex,
    /// Whether the state machine gets nothing until a snapshot comes that was asked for.
    pub starves: bool,
    /// Whether the group sleeps here: nobody uses it, and its members' processes are up.
    pub sleeps: bool,
    /// First entry of the log.
    pub first: LogIndex,
    /// Last entry of the log.
    pub last: LogIndex,
    /// Size of the log.
    pub log_bytes: usize,
    /// The members.
    pub members: Arc<Members>,
    /// How far each of them has come, the leader too; ascending. Empty where this replica does not lead.
    pub progress: Vec<MemberProgress>,
}

impl GroupStatus {
    /// Whether nothing has happened in the group since this replica, one of the first, began: it has heard of no
    /// election, and so never voted, nor kept an entry. A replica that joins is not new, as the group it joins is not.
    #[must_use]
    pub fn is_new(&self) -> bool {
        (self.term, self.last.0) == (FIRST.term, FIRST.index)
    }
}

/// Work for a state machine. That of one group comes in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Apply an entry.
    Entry {
        /// Of which group.
        group: GroupId,
        /// Its place; without gaps after the last work of the group.
        index: LogIndex,
        /// What was proposed. Empty for entries of Raft itself, which only move the applied index on.
        data: Bytes,
        /// Who waits for it, if it was proposed here.
        request: Option<RequestId>,
    },
    /// Replace the state by a snapshot.
    Restore {
        /// Of which group.
        group: GroupId,
        /// What the snapshot includes; beyond the last work of the group, or, if it was asked for, not before that.
        index: LogIndex,
        /// The snapshot.
        data: Bytes,
    },
    /// Make a snapshot of what is applied, and answer with `snapshot_made`.
    Snapshot {
        /// Of which group.
        group: GroupId,
    },
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A state that has applied this index has everything that was acknowledged before the read was asked for.
    ReadAt(LogIndex),
    /// The read got no answer for too long.
    ReadExpired,
    /// The change of membership is complete.
    Changed,
    /// The lead was lost; the proposal or change may or may not happen.
    Unknown,
    /// The proposal or change did not happen.
    Superseded,
}

/// What the caller has to carry out.
#[derive(Debug, Default)]
pub struct Output {
    /// To send at once.
    pub messages: Vec<Envelope>,
    /// To write.
    pub batch: Batch,
    /// Whether a sync must follow the write.
    pub must_sync: bool,
    /// To report when written and, if so told, synced.
    pub ticket: Ticket,
    /// To hand to state machines, after the write.
    pub work: Vec<Work>,
    /// To hand to callers.
    pub answers: Vec<(RequestId, Answer)>,
    /// Groups that were closed because they cannot go on.
    pub failed: Vec<(GroupId, ConsensusError)>,
    /// Groups whose status may have changed.
    pub touched: Vec<GroupId>,
}

impl Output {
    /// Whether there is nothing to do, and so no ticket to report.
    ///
    /// An output may carry nothing and still have a ticket: raft's rounds are reported as persisted without gaps.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ticket == Ticket::default()
    }
}
