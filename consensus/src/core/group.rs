//! One Raft group of this process.
//!
//! raft's own applied index moves as soon as committed entries are handed out, and membership changes with it: both
//! only need the entry to be committed. What the state machine has really applied is kept apart, for cutting the
//! log and for holding back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{Entry, HardState, Message, MessageType};
use raft::{RawNode, Ready, StateRole};
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::planted::{Bug, is_planted};
use shoal_model::{GroupId, LogIndex, ReplicaId};
use shoal_runtime::{Batch, Store};

use self::feed::{Asked, Feed};
use self::membership::{PendingChange, members};
use self::sleep::{Sleep, Word};
use super::backlog::Backlog;
use super::confs::ConfHistory;
use super::log::{GroupLog, NO_STATE};
use super::logger::logger;
use super::processes::Processes;
use super::proposals::Proposals;
use super::reads::Reads;
use super::records::{self, GroupRecords, Position};
use crate::{Answer, ConsensusError, GroupSpec, GroupStatus, Members, Output, RaftConfig, RequestId};
use crate::{StateMachine, Work};

mod feed;
mod membership;
mod ready;
mod sleep;
mod status;
mod upkeep;

/// Where the log of a new group starts. Above zero, so that a replica that joins later cannot be fed from the log
/// alone: the first membership is no entry, it travels only in snapshots.
pub(crate) const FIRST: Position = Position { index: 1, term: 1 };

/// How far beyond its own a replica believes a term: a million elections in its absence.
const TERM_JUMP_MAX: u64 = 1 << 20;

/// What a round over all groups shares.
pub(crate) struct Round<'a> {
    pub(crate) config: &'a RaftConfig,
    pub(crate) tick: u64,
    /// Contexts of reads used so far by this process.
    pub(crate) contexts: &'a mut u64,
    pub(crate) out: &'a mut Output,
}

/// A round of raft whose writes are not known to be on disk.
struct Unpersisted {
    number: u64,
    term: u64,
    /// To be sent once they are.
    messages: Vec<Message>,
    /// A change of members that is complete once they are.
    change: Option<RequestId>,
}

/// One group.
pub(crate) struct Group {
    id: GroupId,
    me: ReplicaId,
    /// Tells a group from an earlier one of the same id.
    pub(crate) incarnation: u64,
    state_machine: StateMachine,
    raft: RawNode<GroupLog>,
    members: Arc<Members>,
    proposals: Proposals,
    reads: Reads,
    change: Option<PendingChange>,
    unpersisted: VecDeque<Unpersisted>,
    /// A round with a snapshot: nothing may reach raft until it is on disk.
    restoring: Option<Ready>,
    /// Newest term that is on disk. A single voter leads a new term before that is so, and must not tell learners.
    durable_term: u64,
    /// Last committed index taken from raft, with its change of members if it is one.
    handed_out: u64,
    /// What the state machine is fed with, the last index it was handed, what it has applied of it, and what of that
    /// is on disk.
    feed: Feed,
    fed: u64,
    applied: u64,
    durable_applied: u64,
    backlog: Backlog,
    /// Index of the snapshot in the store, zero without one; and whether it is on disk.
    snapshot_index: u64,
    durable_snapshot: u64,
    /// Ticks at which the state machine was asked for a snapshot, one was offered, and sent to each peer.
    snapshot_asked: Option<u64>,
    snapshot_offered: Option<u64>,
    snapshots_sent: BTreeMap<u64, u64>,
    /// Snapshots that followers asked for.
    asked: Asked,
    /// Index of a snapshot that was asked for and handed out: once it is applied, the state is whole again.
    heals_at: Option<u64>,
    /// For a witness: up to where all full replicas with a vote have the log, as their leaders told.
    others_have: u64,
    /// For a leader: members that told it that their state machines wait for no snapshot.
    whole: BTreeSet<u64>,
    /// Index of the last snapshot that was handed out: the state is whole once that is applied.
    restores: u64,
    /// Tick at which each peer was last heard.
    heard: BTreeMap<u64, u64>,
    sleep: Sleep,
    /// Work and answers for the next round.
    work: Vec<Work>,
    answers: Vec<(RequestId, Answer)>,
    /// Writes for the next round, before its work.
    hard_is_dirty: bool,
    confs_are_dirty: bool,
    snapshot_is_dirty: bool,
    wish_is_dirty: bool,
    /// Term and leader that reads were asked under.
    led_by: (u64, u64),
    reported: Option<GroupStatus>,
}

impl Group {
    /// Opens what is stored, or begins a new group, whose first records go into `batch`.
    pub(crate) fn open(
        store: &Arc<dyn Store>,
        spec: &GroupSpec,
        config: &RaftConfig,
        incarnation: u64,
        batch: &mut Batch,
    ) -> Result<Self, ConsensusError> {
        let mut records = match records::load(&**store, spec.group)? {
            Some(records) => records,
            None => begin(spec, batch),
        };
        if records.me != spec.me {
            return Err(ConsensusError::OtherReplica { group: spec.group, stored: records.me, asked: spec.me });
        }
        let stored_snapshot = records.snapshot.as_ref().map_or(0, |snapshot| snapshot.get_metadata().index);
        // What a leader sent before a restart heals as well.
        let is_witness = spec.state_machine == StateMachine::Witness;
        let from_leader = spec.state_machine == StateMachine::Stored && stored_snapshot > spec.applied.0;
        let starves = (spec.state_lost || records.wish) && !from_leader && !is_witness;
        let applied = applied_at_open(spec, &records, starves)?;
        let corrupt = |record: &str, detail: String| ConsensusError::Corruption {
            group: spec.group,
            record: record.into(),
            detail,
        };
        let conf = records.confs.at(applied).cloned();
        let conf = conf.ok_or_else(|| corrupt("membership", format!("does not reach back to index {applied}")))?;
        let members = Arc::new(members(&conf));
        let mut log = GroupLog::load(store, spec.group, &records, conf, config.cache_bytes)?;
        records.hard.commit = records.hard.commit.max(applied);
        if records.hard.commit > log.last() {
            let (last, acknowledged) = (LogIndex(log.last()), LogIndex(records.hard.commit));
            return Err(ConsensusError::LogLost { group: spec.group, last, acknowledged });
        }
        log.set_hard(records.hard.clone());
        log.witnesses = witnesses(spec.me, is_witness, &spec.witnesses);
        let mut work = Vec::new();
        if let Some(snapshot) = records.snapshot {
            if stored_snapshot > spec.applied.0 && !starves && !is_witness {
                let data = snapshot.data.clone();
                work.push(Work::Restore { group: spec.group, index: LogIndex(stored_snapshot), data });
            }
            if spec.state_machine == StateMachine::InMemory {
                log.offer_snapshot(Some(snapshot));
            }
        }
        let raft = RawNode::new(&config.raft(spec.me.0, applied, is_witness), log, &logger(spec.group.0))
            .map_err(|error| ConsensusError::Internal(error.to_string()))?;
        let mut group = Self {
            id: spec.group,
            me: spec.me,
            incarnation,
            state_machine: spec.state_machine,
            raft,
            members,
            proposals: Proposals::default(),
            reads: Reads::default(),
            change: None,
            unpersisted: VecDeque::new(),
            restoring: None,
            durable_term: records.hard.term,
            handed_out: applied,
            feed: if is_witness { Feed::Nothing } else { Feed::Entries },
            fed: applied,
            applied: spec.applied.0.max(if work.is_empty() { applied } else { 0 }),
            durable_applied: spec.applied.0,
            backlog: Backlog::default(),
            snapshot_index: stored_snapshot,
            durable_snapshot: stored_snapshot,
            snapshot_asked: None,
            snapshot_offered: None,
            snapshots_sent: BTreeMap::new(),
            asked: Asked::default(),
            heals_at: (records.wish && from_leader).then_some(stored_snapshot),
            others_have: 0,
            whole: BTreeSet::new(),
            restores: if work.is_empty() { 0 } else { stored_snapshot },
            heard: BTreeMap::new(),
            sleep: Sleep::default(),
            work,
            answers: Vec::new(),
            hard_is_dirty: false,
            confs_are_dirty: false,
            snapshot_is_dirty: false,
            wish_is_dirty: false,
            led_by: (0, 0),
            reported: None,
        };
        if starves {
            if group.is_only_voter() {
                return Err(ConsensusError::NobodyToAsk { group: spec.group, leads: true });
            }
            group.starve();
        }
        if group.is_only_voter() {
            // Nobody else could lead: no need to wait for a timeout.
            group.raft.campaign().map_err(|error| ConsensusError::Internal(error.to_string()))?;
        }
        Ok(group)
    }

    /// Proposes `data`; its fate is told under `request`.
    pub(crate) fn propose(
        &mut self,
        data: Bytes,
        request: RequestId,
        config: &RaftConfig,
    ) -> Result<(), ConsensusError> {
        self.check_leads()?;
        if data.is_empty() {
            return Err(ConsensusError::EmptyProposal);
        }
        if data.len() > config.proposal_bytes_max {
            return Err(ConsensusError::TooLarge { got: data.len(), most: config.proposal_bytes_max });
        }
        if self.proposals.len() >= config.proposals_in_flight_max {
            return Err(self.overloaded("proposals"));
        }
        if self.backlog.bytes() > config.backlog_bytes_max {
            return Err(self.overloaded("entries to apply"));
        }
        meet(Failpoint::ConsensusPropose)?;
        let entry = Entry { data, ..Entry::default() };
        let (index, term) = self.append(entry)?;
        self.proposals.push(index, term, request);
        Ok(())
    }

    /// Appends an entry as the leader and returns its index and term.
    fn append(&mut self, entry: Entry) -> Result<(u64, u64), ConsensusError> {
        let mut message = Message { from: self.me.0, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(vec![entry].into());
        match self.raft.step(message) {
            Ok(()) => Ok((self.raft.raft.raft_log.last_index(), self.raft.raft.term)),
            Err(raft::Error::ProposalDropped) => Err(self.overloaded("uncommitted bytes")),
            Err(error) => Err(ConsensusError::Internal(error.to_string())),
        }
    }

    /// A read: its index is told under `request`, once a leader has confirmed its lead.
    pub(crate) fn read_index(
        &mut self,
        request: RequestId,
        tick: u64,
        config: &RaftConfig,
    ) -> Result<(), ConsensusError> {
        if self.is_witness() {
            let leader = self.leader().filter(|leader| *leader != self.me);
            return Err(ConsensusError::NotLeader { group: self.id, leader });
        }
        if is_planted(Bug::StaleLease) && self.leads() {
            self.answers.push((request, Answer::ReadAt(LogIndex(self.handed_out))));
            return Ok(());
        }
        if self.reads.len() >= config.reads_in_flight_max {
            return Err(self.overloaded("reads"));
        }
        meet(Failpoint::ConsensusReadIndex)?;
        self.reads.push(request, tick);
        Ok(())
    }

    /// Takes a message that was parsed and checked. Some are dropped: raft can do without any single one.
    pub(crate) fn step(
        &mut self,
        mut message: Message,
        tick: u64,
        config: &RaftConfig,
        processes: &mut Processes,
    ) -> Result<(), ConsensusError> {
        if self.restoring.is_some() {
            return Ok(());
        }
        // Such a jump is no election but a forgery or a flipped bit; taken over, it could use up all terms.
        if message.term > self.raft.raft.term.saturating_add(TERM_JUMP_MAX) {
            let problem = "its term is far beyond any that elections have led to";
            return Err(ConsensusError::BadMessage { group: self.id, problem });
        }
        let from_leader = matches!(
            message.get_msg_type(),
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
        );
        if from_leader && self.is_alone() {
            if message.term <= self.raft.raft.term {
                // Of a leader that has left since.
                return Ok(());
            }
            let problem = "this replica is its group's only member, so nobody else can lead it";
            return Err(ConsensusError::BadMessage { group: self.id, problem });
        }
        let word = self.read_word(&mut message, tick, config, processes);
        match word {
            Word::Murmur => return Ok(()),
            Word::Invitation { agrees: true, .. } => {}
            // A leader that is about to fall asleep hears answers to its last messages.
            _ if self.sleeps_on().is_none() && is_answer(&message) => {}
            _ => self.wake(None, processes, tick, config),
        }
        self.heard.insert(message.from, tick);
        self.take_what_is_had(&mut message);
        self.step_raft(message, tick, config)?;
        self.heed(word, tick, config, processes);
        Ok(())
    }

    /// Passes a message to raft, if raft can take it.
    fn step_raft(&mut self, mut message: Message, tick: u64, config: &RaftConfig) -> Result<(), ConsensusError> {
        let last = self.raft.raft.raft_log.last_index();
        match message.get_msg_type() {
            // Not for raft; see the header of `feed`.
            MessageType::MsgAppendResponse if message.request_snapshot != 0 && message.term <= self.raft.raft.term => {
                if self.leads() && message.term == self.raft.raft.term {
                    self.note_wish(message.from, message.request_snapshot, tick, config);
                }
                return Ok(());
            }
            MessageType::MsgSnapshot if self.is_witness() => message.mut_snapshot().data.clear(),
            MessageType::MsgSnapshot if message.get_snapshot().data == NO_STATE => {
                let problem = "it has no state, as for a witness, and this replica is none";
                return Err(ConsensusError::BadMessage { group: self.id, problem });
            }
            MessageType::MsgSnapshot => self.take_wish(&mut message),
            // raft would pass it on to whom it takes for the leader, in the name of who asked. Who asked asks again.
            MessageType::MsgReadIndex if !self.leads() => return Ok(()),
            // raft asserts that a leader has no entries that are not on disk; a single voter leads at once.
            MessageType::MsgTimeoutNow if self.has_unpersisted_entries() => return Ok(()),
            MessageType::MsgHeartbeat if message.term >= self.raft.raft.term && message.commit > last => {
                let (last, acknowledged) = (LogIndex(last), LogIndex(message.commit));
                return Err(ConsensusError::LogLost { group: self.id, last, acknowledged });
            }
            MessageType::MsgAppendResponse
                if self.leads() && !message.reject && message.term == self.raft.raft.term && message.index > last =>
            {
                let problem = "it acknowledges entries that were never sent";
                return Err(ConsensusError::BadMessage { group: self.id, problem });
            }
            _ => {}
        }
        if is_planted(Bug::CommitWithoutQuorum)
            && self.leads()
            && message.get_msg_type() == MessageType::MsgAppendResponse
        {
            self.raft.raft.raft_log.commit_to(message.index.min(last));
        }
        match self.raft.step(message) {
            // Answers of members that have left are of no interest.
            Ok(()) | Err(raft::Error::StepPeerNotFound) => Ok(()),
            Err(error) => Err(ConsensusError::Internal(error.to_string())),
        }
    }

    /// The state machine has applied up to `index`.
    pub(crate) fn note_applied(&mut self, index: u64) {
        self.applied = self.applied.max(index.min(self.fed));
        self.backlog.applied(self.applied);
        if self.heals_at.take_if(|at| index >= *at).is_some() {
            self.wish_is_dirty = true;
        }
    }

    pub(crate) fn me(&self) -> ReplicaId {
        self.me
    }

    /// What is applied and which snapshot is stored, to be noted as durable after the next sync.
    pub(crate) fn written(&self) -> (u64, u64) {
        (self.applied, self.snapshot_index)
    }

    /// A sync has finished that began after [`Group::written`] said this.
    pub(crate) fn note_durable(&mut self, applied: u64, snapshot_index: u64) {
        self.durable_applied = self.durable_applied.max(applied);
        self.durable_snapshot = self.durable_snapshot.max(snapshot_index);
    }

    /// Hands the lead to `to`.
    pub(crate) fn transfer_leader(&mut self, to: ReplicaId) -> Result<(), ConsensusError> {
        if !self.leads() {
            return Err(ConsensusError::NotLeader { group: self.id, leader: self.leader() });
        }
        if self.raft.raft.lead_transferee.is_some() {
            return Err(ConsensusError::Transferring { group: self.id });
        }
        if !self.members.voters.contains(&to) {
            let problem = format!("replica {to} has no vote, so it cannot lead");
            return Err(ConsensusError::BadChange { group: self.id, problem });
        }
        if self.raft.store().witnesses.contains(&to.0) {
            let problem = format!("replica {to} is a witness, so it cannot lead for long");
            return Err(ConsensusError::BadChange { group: self.id, problem });
        }
        if to != self.me {
            meet(Failpoint::ConsensusTransfer)?;
            self.raft.transfer_leader(to.0);
        }
        Ok(())
    }

    /// Messages to `peer` do not arrive.
    pub(crate) fn note_unreachable(&mut self, peer: ReplicaId) {
        if self.restoring.is_none() && self.leads() {
            self.raft.report_unreachable(peer.0);
        }
    }

    /// Ends all that is open; the group is closed.
    pub(crate) fn close(mut self) -> Vec<(RequestId, Answer)> {
        self.proposals.lose(None, &mut self.answers);
        self.answers.extend(self.change.map(|change| (change.request, Answer::Unknown)));
        self.answers.extend(self.reads.requests().map(|request| (request, Answer::ReadExpired)));
        self.answers
    }

    /// Which members keep the log and no state.
    pub(crate) fn set_witnesses(&mut self, ids: &[ReplicaId]) {
        self.raft.mut_store().witnesses = witnesses(self.me, self.is_witness(), ids);
    }

    fn is_witness(&self) -> bool {
        self.feed == Feed::Nothing
    }

    fn leads(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    fn leader(&self) -> Option<ReplicaId> {
        Some(ReplicaId(self.raft.raft.leader_id)).filter(|id| id.0 != raft::INVALID_ID)
    }

    fn is_only_voter(&self) -> bool {
        self.members.voters == [self.me] && self.members.leaving.is_empty()
    }

    fn is_alone(&self) -> bool {
        self.is_only_voter() && self.members.learners.is_empty()
    }

    fn check_leads(&self) -> Result<(), ConsensusError> {
        if !self.leads() {
            return Err(ConsensusError::NotLeader { group: self.id, leader: self.leader() });
        }
        if !self.is_fed() {
            // It is about to hand over the lead.
            return Err(ConsensusError::NotLeader { group: self.id, leader: None });
        }
        if self.raft.raft.lead_transferee.is_some() {
            return Err(ConsensusError::Transferring { group: self.id });
        }
        Ok(())
    }

    fn overloaded(&self, what: &'static str) -> ConsensusError {
        ConsensusError::Overloaded { group: self.id, what }
    }

    fn has_unpersisted_entries(&self) -> bool {
        self.raft.raft.raft_log.persisted < self.raft.raft.raft_log.last_index()
    }
}

fn is_answer(message: &Message) -> bool {
    matches!(message.get_msg_type(), MessageType::MsgHeartbeatResponse | MessageType::MsgAppendResponse)
}

/// A replica knows of itself what it is.
fn witnesses(me: ReplicaId, is_witness: bool, ids: &[ReplicaId]) -> BTreeSet<u64> {
    let others = ids.iter().filter(|id| **id != me);
    others.chain(is_witness.then_some(&me)).map(|id| id.0).collect()
}

/// The records of a group that is not stored.
fn begin(spec: &GroupSpec, batch: &mut Batch) -> GroupRecords {
    let start = if spec.voters.is_empty() { Position::default() } else { FIRST };
    let hard = HardState { term: start.term, commit: start.index, ..HardState::default() };
    let confs = ConfHistory::new(start.index, records::voters(&spec.voters));
    records::put_start(batch, spec.group, spec.me, start);
    records::put_hard(batch, spec.group, &hard);
    records::put_confs(batch, spec.group, &confs);
    GroupRecords { me: spec.me, start, hard, confs, snapshot: None, wish: false }
}

/// Where the state machine will be once it has restored the stored snapshot, if it needs that. One that waits for a
/// snapshot of a peer may be anywhere.
fn applied_at_open(spec: &GroupSpec, records: &GroupRecords, starves: bool) -> Result<u64, ConsensusError> {
    if spec.state_machine == StateMachine::Witness {
        return Ok(records.start.index);
    }
    let snapshot = records.snapshot.as_ref().map_or(0, |snapshot| snapshot.get_metadata().index);
    let applied = spec.applied.0.max(snapshot);
    if applied >= records.start.index {
        return Ok(if is_planted(Bug::ApplyTwiceAfterRestart) { records.start.index } else { applied });
    }
    if starves || records.start.index <= FIRST.index {
        return Ok(records.start.index);
    }
    let detail = format!("begins after {}, but the state machine is at {applied}", records.start.index);
    Err(ConsensusError::Corruption { group: spec.group, record: "log".into(), detail })
}
