//! What a state machine is fed with, and how one whose state is damaged gets a new one from a peer.
//!
//! A damaged state machine gets nothing more; a snapshot is asked of the leader until one comes. The log does not
//! wait for it: this replica appends, acknowledges and votes as ever, and keeps what it has acknowledged. raft's own
//! way (`request_snapshot`) would have it acknowledge nothing until the snapshot comes, and drop its log then: a group
//! of which another member is down would stop, for ever if the last acknowledgement before the request was lost. So
//! raft sees neither the request nor, if its log reaches that far, the snapshot.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{GetEntriesContext, ProgressState, Storage as _};
use shoal_model::LogIndex;
use shoal_model::failpoints::{Failpoint, meet};

use super::Group;
use crate::{ConsensusError, RaftConfig, StateMachine, Work};

/// What the state machine is fed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    /// Committed entries as they come.
    Entries,
    /// Nothing until a snapshot at `floor` or later comes.
    Snapshot { floor: u64 },
    /// Nothing ever: a witness has no state.
    Nothing,
    /// Entries from `next` on, out of the log, until it has all that were committed meanwhile.
    Log { next: u64 },
}

/// Snapshots that followers asked for; kept by a leader.
#[derive(Debug, Default)]
pub(super) struct Asked(BTreeMap<u64, Wish>);

#[derive(Debug)]
struct Wish {
    /// What the snapshot must reach.
    floor: u64,
    /// When it was last asked for, and last sent.
    asked: u64,
    sent: Option<u64>,
}

impl Asked {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a member has asked, and has not got what it asked for as far as is known.
    pub(super) fn by(&self, member: u64) -> bool {
        self.0.contains_key(&member)
    }
}

impl Group {
    /// Asks the leader for a snapshot; the state machine gets nothing before it.
    pub(crate) fn request_snapshot(&mut self) -> Result<(), ConsensusError> {
        if self.is_witness() {
            let problem = "a witness has no state to replace".into();
            return Err(ConsensusError::BadChange { group: self.id, problem });
        }
        if self.leads() || self.leader().is_none() {
            return Err(ConsensusError::NobodyToAsk { group: self.id, leads: self.leads() });
        }
        if !matches!(self.feed, Feed::Snapshot { .. }) {
            meet(Failpoint::ConsensusSnapshotWish)?;
            self.starve();
        }
        Ok(())
    }

    /// Feeds the state machine nothing more but a snapshot.
    pub(super) fn starve(&mut self) {
        self.feed = Feed::Snapshot { floor: self.fed };
        self.heals_at = None;
        self.snapshot_asked = None;
        self.wish_is_dirty = true;
    }

    /// Whether the state machine has, or is about to get, all that is committed.
    pub(super) fn is_fed(&self) -> bool {
        self.feed == Feed::Entries
    }

    /// Whether the state machine waits for no snapshot, nor restores one. It may lack entries that the log has.
    pub(super) fn is_whole(&self) -> bool {
        !matches!(self.feed, Feed::Snapshot { .. }) && self.applied >= self.restores
    }

    /// Whether this replica could lead for long.
    pub(super) fn can_serve(&self) -> bool {
        matches!(self.feed, Feed::Entries | Feed::Log { .. })
    }

    /// A follower's part, every few ticks: a request may be lost, and so may its answer.
    pub(super) fn ask_leader_for_snapshot(&mut self, tick: u64, config: &RaftConfig) {
        let Feed::Snapshot { floor } = self.feed else { return };
        let Some(leader) = self.leader().filter(|leader| *leader != self.me) else { return };
        // What it was handed before comes first, so that its next report is about the snapshot.
        if self.applied < floor || !tick.is_multiple_of(config.heartbeat_ticks as u64) {
            return;
        }
        let mut message = Message { to: leader.0, from: self.me.0, term: self.raft.raft.term, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppendResponse);
        message.reject = true;
        message.request_snapshot = floor.max(1);
        self.raft.raft.msgs.push(message);
    }

    /// A leader's part: `peer` asked for a snapshot. It may have been removed and not know.
    pub(super) fn note_wish(&mut self, peer: u64, floor: u64, tick: u64, config: &RaftConfig) {
        if self.raft.raft.prs().get(peer).is_none() {
            return;
        }
        let wish = self.asked.0.entry(peer).or_insert(Wish { floor, asked: tick, sent: None });
        (wish.floor, wish.asked) = (floor, tick);
        self.serve_wishes(tick, config);
    }

    /// Sends snapshots to those who asked for them, once each until that is late, and has one made if need be.
    pub(super) fn serve_wishes(&mut self, tick: u64, config: &RaftConfig) {
        let patience = 2 * config.election_ticks as u64;
        let leads = self.leads();
        self.asked.0.retain(|_, wish| leads && tick <= wish.asked + patience);
        let raft = &mut self.raft.raft;
        for (&peer, wish) in &mut self.asked.0 {
            let waits = wish.sent.is_some_and(|sent| tick < sent + config.snapshot_retry_ticks);
            let known = raft.prs().get(peer).is_some_and(|progress| progress.state != ProgressState::Snapshot);
            if waits || !known || self.applied < wish.floor {
                continue;
            }
            // Notes that one is wanted, if there is none.
            if let Ok(snapshot) = raft.store().snapshot(wish.floor, peer) {
                let mut message = Message { to: peer, from: self.me.0, term: raft.term, ..Message::default() };
                message.set_msg_type(MessageType::MsgSnapshot);
                message.set_snapshot(snapshot);
                raft.msgs.push(message);
                wish.sent = Some(tick);
            }
        }
    }

    /// Takes the state out of a snapshot that was asked for, if the log holds its place: all after that is kept.
    /// raft is left with a snapshot it only learns the commit index from. Any other snapshot is raft's to take.
    pub(super) fn take_wish(&mut self, message: &mut Message) {
        let Feed::Snapshot { floor } = self.feed else { return };
        let raft = &self.raft.raft;
        let (index, term) = {
            let metadata = message.get_snapshot().get_metadata();
            (metadata.index, metadata.term)
        };
        let is_ours = raft.raft_log.term(index).is_ok_and(|here| here == term);
        if message.term < raft.term || index < floor || self.applied < floor || !is_ours {
            return;
        }
        if meet(Failpoint::ConsensusSnapshotTake).is_err() {
            // As if it had not come; another is asked for.
            message.mut_snapshot().data.clear();
            return;
        }
        if self.state_machine == StateMachine::InMemory {
            self.raft.mut_store().offer_snapshot(Some(message.get_snapshot().clone()));
            self.snapshot_index = index;
            self.snapshot_is_dirty = true;
        }
        let data = std::mem::take(&mut message.mut_snapshot().data);
        self.feed_snapshot(index, data);
        self.feed = Feed::Log { next: index + 1 };
    }

    /// Hands out a snapshot, which heals a damaged state.
    pub(super) fn feed_snapshot(&mut self, index: u64, data: Bytes) {
        if matches!(self.feed, Feed::Snapshot { .. }) {
            self.heals_at = Some(index);
        }
        (self.fed, self.restores) = (index, index);
        self.feed = Feed::Entries;
        self.backlog.push(index, data.len());
        self.work.push(Work::Restore { group: self.id, index: LogIndex(index), data });
    }

    /// A follower whose state machine is far behind, as one that restores a snapshot is, goes on with the log, and has the
    /// entries from `index` on handed out later. Were they refused, the leader would cut them in the end, and send another
    /// snapshot to one that has not finished with the last. A leader takes no proposals instead.
    pub(super) fn feed_later_if_behind(&mut self, index: u64, config: &RaftConfig) {
        if self.is_fed() && !self.leads() && self.backlog.bytes() > config.backlog_bytes_max {
            self.feed = Feed::Log { next: index };
        }
    }

    /// Hands out the next entries that a state machine has missed.
    pub(super) fn feed_from_log(&mut self, config: &RaftConfig) -> Result<(), ConsensusError> {
        let Feed::Log { next } = self.feed else { return Ok(()) };
        if next > self.handed_out {
            if next == self.handed_out + 1 {
                self.feed = Feed::Entries;
            }
            return Ok(());
        }
        if self.backlog.bytes() > config.backlog_bytes_max {
            return Ok(());
        }
        let (most, context) = (config.committed_bytes_per_round as u64, GetEntriesContext::empty(false));
        let entries = self.raft.store().entries(next, self.handed_out + 1, most, context);
        self.check_log()?;
        for entry in entries.map_err(|error| ConsensusError::Internal(error.to_string()))? {
            self.feed_entry(entry);
        }
        self.feed = Feed::Log { next: self.fed + 1 };
        Ok(())
    }

    fn feed_entry(&mut self, entry: Entry) {
        let index = entry.index;
        // What raft changes members with is not the state machine's.
        let data = if entry.get_entry_type() == EntryType::EntryNormal { entry.data } else { Bytes::new() };
        self.fed = index;
        self.backlog.push(index, data.len());
        self.work.push(Work::Entry { group: self.id, index: LogIndex(index), data, request: None });
    }

    /// Whether [`Group::feed_from_log`] has something to do.
    pub(crate) fn can_feed(&self, config: &RaftConfig) -> bool {
        matches!(self.feed, Feed::Log { next } if next <= self.handed_out + 1)
            && self.backlog.bytes() <= config.backlog_bytes_max
    }
}
