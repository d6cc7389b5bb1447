//! One round of a group: what raft has ready becomes writes, messages, work and answers.

use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{LightReady, Ready};
use shoal_model::LogIndex;
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::planted::{Bug, is_planted};

use super::feed::Feed;
use super::{Group, Round, Unpersisted};
use crate::core::confs::ConfHistory;
use crate::core::inbound::pack;
use crate::core::records::{self, Position};
use crate::{Answer, ConsensusError, RaftConfig, Work};

impl Group {
    /// Collects what is ready into `round.out`, and returns the number under which it is to be reported as
    /// persisted, if there is one.
    ///
    /// Errors: what makes the group unable to go on. Nothing that raft concluded from it has got out.
    pub(crate) fn collect(&mut self, round: &mut Round<'_>) -> Result<Option<u64>, ConsensusError> {
        self.check_log()?;
        let mut number = None;
        if self.restoring.is_none() {
            self.ask_for_reads(round);
            if self.raft.has_ready() {
                number = Some(self.collect_ready(round)?);
            }
        }
        self.feed_from_log(round.config)?;
        self.note_leader();
        self.write_late(round);
        round.out.work.append(&mut self.work);
        round.out.answers.append(&mut self.answers);
        Ok(number)
    }

    fn collect_ready(&mut self, round: &mut Round<'_>) -> Result<u64, ConsensusError> {
        let mut ready = self.raft.ready();
        self.check_log()?;
        let number = ready.number();
        for state in ready.take_read_states() {
            self.reads.answer(&state.request_ctx, state.index, &mut self.answers);
        }
        self.write(&mut ready, round)?;
        self.send_or_hold(&mut ready, round);
        if !ready.snapshot().is_empty() {
            self.restoring = Some(ready);
            return Ok(number);
        }
        let committed = ready.take_committed_entries();
        self.raft.advance_append_async(ready);
        self.hand_out(committed, round.config)?;
        Ok(number)
    }

    /// Puts hard state, snapshot and entries into the batch.
    fn write(&mut self, ready: &mut Ready, round: &mut Round<'_>) -> Result<(), ConsensusError> {
        let batch = &mut round.out.batch;
        round.out.must_sync |= ready.must_sync();
        if let Some(hard) = ready.hs().filter(|_| !is_planted(Bug::VoteWithoutPersisting)) {
            meet(Failpoint::ConsensusHardState)?;
            records::put_hard(batch, self.id, hard);
        }
        if !ready.snapshot().is_empty() {
            meet(Failpoint::ConsensusSnapshotStore)?;
            let snapshot = ready.snapshot();
            let metadata = snapshot.get_metadata();
            let start = Position { index: metadata.index, term: metadata.term };
            self.raft.mut_store().restart(start, batch);
            self.raft.mut_store().confs = ConfHistory::new(start.index, metadata.get_conf_state().clone());
            records::put_start(batch, self.id, self.me, start);
            records::put_confs(batch, self.id, &self.raft.store().confs);
            if !self.is_witness() {
                records::put_snapshot(batch, self.id, snapshot);
            }
        }
        let entries = ready.take_entries();
        if !entries.is_empty() {
            meet(Failpoint::ConsensusAppend)?;
        }
        self.raft.mut_store().append(&entries, batch);
        Ok(())
    }

    /// A leader's messages leave at once, so that followers write while it does; all others after what they speak
    /// of is on disk.
    fn send_or_hold(&mut self, ready: &mut Ready, round: &mut Round<'_>) {
        let term = self.raft.raft.term;
        let nothing_open = self.unpersisted.is_empty() && !ready.must_sync();
        let at_once = nothing_open || (self.leads() && self.durable_term >= term);
        let mut messages = ready.take_messages();
        messages.append(&mut ready.take_persisted_messages());
        messages.retain_mut(|message| self.mend(message));
        for message in &mut messages {
            self.invite(message, round.tick, round.config);
            self.add_what_is_had(message);
        }
        self.note_snapshots(&messages, round.tick);
        let mut held = Vec::new();
        if at_once {
            round.out.messages.extend(messages.iter().map(|message| pack(self.id, message)));
        } else {
            held = messages;
        }
        self.unpersisted.push_back(Unpersisted { number: ready.number(), term, messages: held, change: None });
    }

    /// Puts right an append that raft 0.7.0 got wrong, and says whether the message may be sent.
    ///
    /// When raft batches, it adds entries to an earlier append that is still empty without looking at its place. A
    /// follower that had to go back in between would be sent entries that do not follow the place named, and might
    /// acknowledge what it does not have.
    fn mend(&self, message: &mut Message) -> bool {
        let Some((first, last)) = message.entries.first().zip(message.entries.last()) else { return true };
        if message.get_msg_type() != MessageType::MsgAppend {
            return true;
        }
        let (place, last_term) = (first.index - 1, last.term);
        match self.raft.raft.raft_log.term(place) {
            Ok(term) => (message.index, message.log_term) = (place, term),
            Err(_) => return false,
        }
        last_term <= message.term && place >= self.raft.store().start().index
    }

    fn note_snapshots(&mut self, messages: &[Message], tick: u64) {
        let snapshots = messages.iter().filter(|message| message.get_msg_type() == MessageType::MsgSnapshot);
        self.snapshots_sent.extend(snapshots.map(|message| (message.to, tick)));
    }

    /// What was collected under `number` and before is on disk; returns the messages that waited for it.
    pub(crate) fn persisted(&mut self, number: u64, config: &RaftConfig) -> Result<Vec<Message>, ConsensusError> {
        let mut messages = Vec::new();
        while let Some(mut round) = self.unpersisted.pop_front_if(|round| round.number <= number) {
            self.durable_term = self.durable_term.max(round.term);
            messages.append(&mut round.messages);
            self.answers.extend(round.change.map(|request| (request, Answer::Changed)));
        }
        match self.restoring.take_if(|ready| ready.number() <= number) {
            Some(ready) => self.finish_restoring(ready, &mut messages, config)?,
            None => self.raft.on_persist_ready(number),
        }
        let cap = if self.is_alone() { 0 } else { config.cache_bytes };
        let safe = self.handed_out.min(self.raft.raft.raft_log.persisted);
        self.raft.mut_store().evict(safe, cap);
        Ok(messages)
    }

    /// The snapshot is on disk: raft may go on, and the state machine restores it.
    fn finish_restoring(
        &mut self,
        ready: Ready,
        messages: &mut Vec<Message>,
        config: &RaftConfig,
    ) -> Result<(), ConsensusError> {
        let snapshot = ready.snapshot().clone();
        let index = snapshot.get_metadata().index;
        let mut light: LightReady = self.raft.advance_append(ready);
        messages.append(&mut light.take_messages());
        self.hard_is_dirty |= light.commit_index().is_some();
        self.handed_out = index;
        if self.is_witness() {
            (self.fed, self.applied) = (index, index);
        } else {
            (self.snapshot_index, self.durable_snapshot) = (index, index);
            self.feed_snapshot(index, snapshot.data.clone());
        }
        self.set_members(snapshot.get_metadata().get_conf_state());
        self.keep_snapshot(snapshot);
        self.raft.advance_apply_to(index);
        self.hand_out(light.take_committed_entries(), config)
    }

    /// Turns committed entries into work, and changes the membership where they say so.
    fn hand_out(&mut self, entries: Vec<Entry>, config: &RaftConfig) -> Result<(), ConsensusError> {
        let Some(last) = entries.last().map(|entry| entry.index) else { return Ok(()) };
        for mut entry in entries {
            let mut request = self.proposals.settle(entry.index, entry.term, &mut self.answers);
            // The type comes first: the entry that leaves a joint membership has no data.
            let data = match entry.get_entry_type() {
                EntryType::EntryNormal => std::mem::take(&mut entry.data),
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    self.apply_change(&entry)?;
                    bytes::Bytes::new()
                }
            };
            self.feed_later_if_behind(entry.index, config);
            if self.is_fed() {
                self.fed = entry.index;
                self.backlog.push(entry.index, data.len());
                self.work.push(Work::Entry {
                    group: self.id,
                    index: LogIndex(entry.index),
                    data,
                    request: request.take(),
                });
            }
            // Nobody here will say what came of it.
            self.answers.extend(request.map(|request| (request, Answer::Unknown)));
        }
        self.handed_out = last;
        if self.is_witness() {
            (self.fed, self.applied) = (last, last);
        }
        // After the changes above: this is what makes a leader propose to leave a joint membership.
        self.raft.advance_apply_to(last);
        self.settle_change();
        Ok(())
    }

    fn ask_for_reads(&mut self, round: &mut Round<'_>) {
        // raft drops a read in silence while it has no leader, or has not committed in its term.
        let heard = if self.leads() { self.raft.raft.commit_to_current_term() } else { self.leader().is_some() };
        if !heard || !self.reads.want_attempt() {
            return;
        }
        *round.contexts += u64::from(!is_planted(Bug::ReuseReadContext));
        let mut context = [0; 24];
        context[..8].copy_from_slice(&self.me.0.to_be_bytes());
        context[8..16].copy_from_slice(&round.config.boot_nonce.to_be_bytes());
        context[16..].copy_from_slice(&round.contexts.to_be_bytes());
        self.reads.begin(context, round.tick);
        self.raft.read_index(context.to_vec());
    }

    /// Ends what belongs to a lead that is over.
    fn note_leader(&mut self) {
        let raft = &self.raft.raft;
        let led_by = (raft.term, raft.leader_id);
        if led_by == self.led_by {
            return;
        }
        self.led_by = led_by;
        self.whole.clear();
        self.reads.restart();
        let term = self.leads().then_some(led_by.0);
        self.proposals.lose(term, &mut self.answers);
        self.lose_change(term);
    }

    /// Writes that came up between two rounds.
    fn write_late(&mut self, round: &mut Round<'_>) {
        if std::mem::take(&mut self.hard_is_dirty) {
            records::put_hard(&mut round.out.batch, self.id, &self.raft.raft.hard_state());
        }
        if std::mem::take(&mut self.confs_are_dirty) {
            round.out.must_sync = true;
            records::put_confs(&mut round.out.batch, self.id, &self.raft.store().confs);
        }
        if std::mem::take(&mut self.snapshot_is_dirty)
            && let Some(snapshot) = self.raft.store().offered_snapshot()
        {
            records::put_snapshot(&mut round.out.batch, self.id, snapshot);
        }
        if std::mem::take(&mut self.wish_is_dirty) {
            // A wish that comes back after a crash may find nobody left to fulfil it.
            round.out.must_sync = true;
            let stands = self.heals_at.is_some() || matches!(self.feed, Feed::Snapshot { .. });
            records::put_wish(&mut round.out.batch, self.id, stands);
        }
    }

    pub(super) fn check_log(&self) -> Result<(), ConsensusError> {
        self.raft.store().failure().map_or(Ok(()), Err)
    }
}
