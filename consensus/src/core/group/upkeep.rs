//! What a group does as time passes: elections, lost snapshots, cutting its log.

use bytes::Bytes;
use raft::eraftpb::{Message, MessageType, Snapshot};
use raft::{ProgressState, SnapshotStatus};
use shoal_model::ReplicaId;
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::planted::{Bug, is_planted};
use shoal_runtime::Batch;

use super::Group;
use crate::core::processes::Processes;
use crate::core::records;
use crate::{ConsensusError, RaftConfig, StateMachine, Work};

impl Group {
    /// One tick.
    pub(crate) fn tick(&mut self, tick: u64, config: &RaftConfig, processes: &Processes, batch: &mut Batch) {
        if self.restoring.is_some() {
            return;
        }
        self.tick_sleep(tick, config, processes);
        // A follower whose disk hangs does not stand: raft asserts that a new leader has its entries on disk.
        if self.leads() || !self.has_unpersisted_entries() {
            self.raft.tick();
        }
        self.reads.tick(tick, config.read_retry_ticks, config.read_ticks_max, &mut self.answers);
        self.retry_snapshots(tick, config);
        self.serve_wishes(tick, config);
        self.ask_leader_for_snapshot(tick, config);
        self.hand_over(tick, config);
        self.cut_log(tick, config, batch);
        if self.raft.store().snapshot_wanted() {
            self.ask_for_snapshot(tick, config);
        }
    }

    /// A leader that has no state to serve hands the lead to the most advanced voter that was heard of late, as soon as
    /// that has all entries.
    fn hand_over(&mut self, tick: u64, config: &RaftConfig) {
        let waits = !self.leads() || self.raft.raft.lead_transferee.is_some();
        if waits || self.can_serve() || !tick.is_multiple_of(config.heartbeat_ticks as u64) {
            return;
        }
        let raft = &self.raft.raft;
        let last = raft.raft_log.last_index();
        let has_all = |id: &ReplicaId| raft.prs().get(id.0).is_some_and(|progress| progress.matched == last);
        let witnesses = &raft.store().witnesses;
        let mut heirs = self.members.voters.iter().copied().filter(|id| *id != self.me && !witnesses.contains(&id.0));
        if let Some(heir) = heirs.find(|id| has_all(id) && self.was_heard(id.0, tick, config)) {
            self.raft.transfer_leader(heir.0);
        }
    }

    /// raft waits for ever for a follower it has sent a snapshot to, unless it is told that it was lost.
    fn retry_snapshots(&mut self, tick: u64, config: &RaftConfig) {
        let raft = &mut self.raft;
        self.snapshots_sent.retain(|peer, since| {
            let progress = raft.raft.prs().get(*peer);
            let waits = progress.is_some_and(|progress| progress.state == ProgressState::Snapshot);
            let late = tick >= *since + config.snapshot_retry_ticks;
            if waits && late {
                raft.report_snapshot(*peer, SnapshotStatus::Failure);
            }
            waits && !late
        });
        let stale = self.snapshot_offered.is_some_and(|since| tick >= since + config.snapshot_retry_ticks);
        if stale && self.state_machine == StateMachine::Stored && self.snapshots_sent.is_empty() {
            // What it stands for may be gone from the state machine by now.
            self.raft.mut_store().offer_snapshot(None);
            self.snapshot_offered = None;
        }
    }

    fn ask_for_snapshot(&mut self, tick: u64, config: &RaftConfig) {
        if self.is_fed() && self.snapshot_asked.is_none_or(|since| tick >= since + config.snapshot_retry_ticks) {
            self.snapshot_asked = Some(tick);
            self.work.push(Work::Snapshot { group: self.id });
        }
    }

    /// The state machine made a snapshot of itself at `index`.
    pub(crate) fn snapshot_made(
        &mut self,
        index: u64,
        data: Bytes,
        tick: u64,
        config: &RaftConfig,
        batch: &mut Batch,
    ) -> Result<(), ConsensusError> {
        if !self.is_fed() {
            let problem = "it has no whole state, so it makes no snapshots".into();
            return Err(ConsensusError::BadChange { group: self.id, problem });
        }
        self.snapshot_asked = None;
        meet(Failpoint::ConsensusSnapshotMade)?;
        let place = self.raft.store().term_at(index).filter(|_| index > 0 && index <= self.handed_out);
        let (Some(term), Some(conf)) = (place, self.raft.store().confs.at(index).cloned()) else {
            let problem = format!("a snapshot at {index} is not of the log's present range");
            return Err(ConsensusError::BadChange { group: self.id, problem });
        };
        let mut snapshot = Snapshot { data, ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        metadata.index = index;
        metadata.term = term;
        metadata.set_conf_state(conf);
        if self.state_machine == StateMachine::InMemory {
            records::put_snapshot(batch, self.id, &snapshot);
            self.snapshot_index = index;
        }
        self.raft.mut_store().offer_snapshot(Some(snapshot));
        self.snapshot_offered = Some(tick);
        self.serve_wishes(tick, config);
        Ok(())
    }

    /// A snapshot from a leader can be passed on if it is the whole state.
    pub(super) fn keep_snapshot(&mut self, snapshot: Snapshot) {
        if self.state_machine == StateMachine::InMemory {
            self.raft.mut_store().offer_snapshot(Some(snapshot));
        }
    }

    /// Cuts what the state machine can do without after a crash, and followers need no more.
    fn cut_log(&mut self, tick: u64, config: &RaftConfig, batch: &mut Batch) {
        let (entries, bytes) = (config.log_keep_entries, config.log_keep_bytes);
        let safe = match self.state_machine {
            StateMachine::Stored if is_planted(Bug::CutLogBeyondApplied) => self.handed_out,
            StateMachine::Stored => self.durable_applied,
            StateMachine::InMemory => self.durable_snapshot,
            StateMachine::Witness => self.handed_out,
        };
        // Where there are witnesses, logs may be all that is left of what a full replica lacks: of one that restored a snapshot, with
        // the other lost in the middle, not even what it had before would be left. With no cap but the disk's.
        let safe = if self.has_witnesses() { safe.min(self.all_full_have()) } else { safe };
        // A snapshot that was asked for may be ahead of what was taken from raft.
        let safe = safe.min(self.handed_out);
        let log = self.raft.store();
        let over_cap = log.bytes() > config.log_bytes_max;
        let limit = if over_cap { safe } else { safe.min(self.slowest_follower(tick, config)) };
        if let Some(index) = log.cut_point(entries, bytes, limit) {
            self.cut_log_through(index, batch);
        } else if self.state_machine == StateMachine::InMemory
            && log.cut_point(entries, bytes, self.applied) > Some(safe)
        {
            self.ask_for_snapshot(tick, config);
        }
        self.drop_restored(batch);
    }

    fn cut_log_through(&mut self, index: u64, batch: &mut Batch) {
        if meet(Failpoint::ConsensusCut).is_err() {
            return; // the next tick tries again
        }
        let log = self.raft.mut_store();
        log.cut_through(index, batch);
        let forgot = log.confs.forget_before(index);
        records::put_start(batch, self.id, self.me, log.start());
        if forgot {
            records::put_confs(batch, self.id, &self.raft.store().confs);
        }
    }

    /// A leader's snapshot has done its duty once a state machine with its own store has it.
    fn drop_restored(&mut self, batch: &mut Batch) {
        let done = self.snapshot_index > 0 && self.durable_applied >= self.snapshot_index;
        if done && self.state_machine == StateMachine::Stored {
            records::delete_snapshot(batch, self.id);
            self.snapshot_index = 0;
        }
    }

    /// Whether a member has a vote and no state.
    fn has_witnesses(&self) -> bool {
        let witnesses = &self.raft.store().witnesses;
        self.is_witness() || self.members.voters.iter().any(|id| witnesses.contains(&id.0))
    }

    /// Up to where all full replicas with a vote have the log on disk, and a state to apply it to. A full one that follows
    /// needs what it has applied itself no more: whoever leads keeps it for the rest.
    fn all_full_have(&self) -> u64 {
        match (self.leads(), self.is_witness()) {
            (false, true) => return self.others_have,
            (false, false) => return u64::MAX,
            (true, _) => {}
        }
        let raft = &self.raft.raft;
        let voters = self.members.voters.iter().chain(&self.members.leaving);
        let full = voters.filter(|id| !raft.store().witnesses.contains(&id.0));
        let is_whole = |id: &ReplicaId| if *id == self.me { self.is_whole() } else { self.whole.contains(&id.0) };
        let matched = |id: &ReplicaId| raft.prs().get(id.0).filter(|_| is_whole(id)).map_or(0, |of| of.matched);
        full.map(matched).min().unwrap_or(0).min(raft.raft_log.committed)
    }

    /// Adds to heartbeats and their answers, in a field that raft leaves empty there: a leader tells witnesses how far they may
    /// cut, and others tell a leader whether they are whole.
    pub(super) fn add_what_is_had(&self, message: &mut Message) {
        match message.get_msg_type() {
            MessageType::MsgHeartbeat if self.leads() && self.raft.store().witnesses.contains(&message.to) => {
                message.index = self.all_full_have();
            }
            MessageType::MsgHeartbeatResponse => message.index = u64::from(self.is_whole()),
            _ => {}
        }
    }

    /// Takes it out again. What a witness was told once stays true: a replica that lost its log comes back as another, and has no
    /// vote before it has all.
    pub(super) fn take_what_is_had(&mut self, message: &mut Message) {
        let term = self.raft.raft.term;
        match message.get_msg_type() {
            MessageType::MsgHeartbeat => {
                let index = std::mem::take(&mut message.index);
                if self.is_witness() && message.term >= term {
                    self.others_have = self.others_have.max(index);
                }
            }
            MessageType::MsgHeartbeatResponse => {
                let is_whole = std::mem::take(&mut message.index) > 0;
                if !self.leads() || message.term != term {
                    return;
                }
                if is_whole {
                    self.whole.insert(message.from);
                } else {
                    self.whole.remove(&message.from);
                }
            }
            _ => {}
        }
    }

    /// How far the slowest follower has come, of those that were heard of late; those not heard get a snapshot.
    fn slowest_follower(&self, tick: u64, config: &RaftConfig) -> u64 {
        if !self.leads() {
            return u64::MAX;
        }
        let raft = &self.raft.raft;
        let active = raft.prs().iter().filter(|(id, _)| **id != self.me.0 && self.was_heard(**id, tick, config));
        // A follower that restores a snapshot will need what comes after that.
        active.map(|(_, progress)| progress.matched.max(progress.pending_snapshot)).min().unwrap_or(u64::MAX)
    }
}
