//! One group's log as raft reads it: the newest entries in memory, the rest on disk.
//!
//! Changes are made here and put into a [`Batch`] at once; raft may read them before the batch is written, which is
//! why entries stay in memory until they are known to be on disk. Terms and sizes of all entries are in memory, so
//! only entries themselves are ever read from disk.
//!
//! raft panics on most errors of its storage. A record that cannot be read is therefore noted ([`GroupLog::failure`])
//! and raft is told something harmless; the owner looks at the note after every call and gives the group up before
//! anything raft concluded gets out.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use shoal_model::GroupId;
use shoal_runtime::{Batch, Store};

use super::confs::{self, ConfHistory};
use super::records::{self, GroupRecords, Position};
use super::terms::TermRuns;
use crate::ConsensusError;

/// The data of a snapshot for a witness, which has no use for any. A full replica that is sent one by mistake knows
/// it by this: no state machine's snapshot is these bytes.
pub(crate) const NO_STATE: &[u8] = b"shoal: a place in the log, without state: 5f0c6b1ea7d94d02";

/// The log of one group.
pub(crate) struct GroupLog {
    store: Arc<dyn Store>,
    group: GroupId,
    hard: HardState,
    conf: ConfState,
    /// Memberships since the start of the log.
    pub(crate) confs: ConfHistory,
    /// Members that keep the log and no state.
    pub(crate) witnesses: BTreeSet<u64>,
    start: Position,
    terms: TermRuns,
    /// Size of each entry's record, oldest first.
    sizes: VecDeque<usize>,
    bytes: usize,
    /// The newest entries.
    tail: VecDeque<Entry>,
    tail_bytes: usize,
    /// State to send to followers that lag behind the log.
    snapshot: Option<Snapshot>,
    snapshot_wanted: Cell<bool>,
    failure: RefCell<Option<ConsensusError>>,
}

impl GroupLog {
    /// Reads and verifies the whole log. `conf` is the membership as of the applied index.
    pub(crate) fn load(
        store: &Arc<dyn Store>,
        group: GroupId,
        records: &GroupRecords,
        conf: ConfState,
        cache_bytes: usize,
    ) -> Result<Self, ConsensusError> {
        let mut log = Self {
            store: Arc::clone(store),
            group,
            hard: records.hard.clone(),
            conf,
            confs: records.confs.clone(),
            witnesses: BTreeSet::new(),
            start: records.start,
            terms: TermRuns::default(),
            sizes: VecDeque::new(),
            bytes: 0,
            tail: VecDeque::new(),
            tail_bytes: 0,
            snapshot: None,
            snapshot_wanted: Cell::new(false),
            failure: RefCell::new(None),
        };
        let mut falling = None;
        let mut last_term = records.start.term;
        records::scan_entries(&**store, group, records.start.index + 1, None, |entry, size| {
            if entry.term < last_term {
                falling.get_or_insert(entry.index);
            }
            last_term = entry.term;
            let index = entry.index;
            log.push(entry, size);
            log.evict(index, cache_bytes);
        })?;
        if let Some(index) = falling {
            return Err(log.corrupt(format!("entry {index}"), "has a lower term than the one before".into()));
        }
        Ok(log)
    }

    pub(crate) fn set_hard(&mut self, hard: HardState) {
        self.hard = hard;
    }

    /// Last position that is no longer in the log.
    pub(crate) fn start(&self) -> Position {
        self.start
    }

    pub(crate) fn last(&self) -> u64 {
        self.start.index + self.sizes.len() as u64
    }

    /// Bytes of all entries.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The term at `index`; `None` outside of the log.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        if index < self.start.index || index > self.last() { None } else { self.terms.at(index) }
    }

    /// Appends entries, replacing those that have their indexes and all after them.
    pub(crate) fn append(&mut self, entries: &[Entry], batch: &mut Batch) {
        let Some(first) = entries.first() else { return };
        debug_assert!(first.index > self.start.index && first.index <= self.last() + 1, "entries join the log");
        if first.index <= self.last() {
            records::delete_entries(batch, self.group, first.index, self.last() + 1);
            self.cut_from(first.index);
        }
        for entry in entries {
            let size = records::put_entry(batch, self.group, entry);
            self.push(entry.clone(), size);
        }
    }

    fn push(&mut self, entry: Entry, size: usize) {
        self.terms.push(entry.index, entry.term);
        self.sizes.push_back(size);
        self.bytes += size;
        self.tail_bytes += size;
        self.tail.push_back(entry);
    }

    fn cut_from(&mut self, index: u64) {
        self.terms.cut_from(index);
        while self.last() >= index
            && let Some(size) = self.sizes.pop_back()
        {
            self.bytes -= size;
            if self.tail.pop_back().is_some() {
                self.tail_bytes -= size;
            }
        }
    }

    /// Drops the oldest entries up to `through` from memory until `cap` bytes are left; they must be on disk.
    pub(crate) fn evict(&mut self, through: u64, cap: usize) {
        while self.tail_bytes > cap && self.tail_first() <= through && !self.tail.is_empty() {
            self.tail_bytes -= self.size_at(self.tail_first());
            self.tail.pop_front();
        }
    }

    /// How far the log may be cut so that about `keep_entries` and `keep_bytes` stay, and at most through `limit`;
    /// `None` as long as little would be won.
    pub(crate) fn cut_point(&self, keep_entries: usize, keep_bytes: usize, limit: u64) -> Option<u64> {
        let well_over = |have: usize, keep: usize| have > keep + keep / 4;
        if !well_over(self.sizes.len(), keep_entries) && !well_over(self.bytes, keep_bytes) {
            return None;
        }
        let (mut entries, mut bytes, mut point) = (self.sizes.len(), self.bytes, self.start.index);
        for size in &self.sizes {
            if point >= limit || (entries <= keep_entries && bytes <= keep_bytes) {
                break;
            }
            entries -= 1;
            bytes -= size;
            point += 1;
        }
        let worth_it = self.sizes.len() - entries >= keep_entries / 4 || self.bytes - bytes >= keep_bytes / 4;
        (point > self.start.index && worth_it).then_some(point)
    }

    /// Deletes the entries up to `index`, which is one of them. The caller writes the new start.
    pub(crate) fn cut_through(&mut self, index: u64, batch: &mut Batch) {
        let Some(term) = self.term_at(index) else { return };
        records::delete_entries(batch, self.group, self.start.index + 1, index + 1);
        self.evict(index, 0);
        for _ in self.start.index..index {
            self.bytes -= self.sizes.pop_front().unwrap_or(0);
        }
        self.terms.cut_through(index);
        self.start = Position { index, term };
    }

    /// Starts anew after a snapshot.
    pub(crate) fn restart(&mut self, start: Position, batch: &mut Batch) {
        records::delete_entries(batch, self.group, 0, u64::MAX);
        self.terms.clear();
        self.sizes.clear();
        self.tail.clear();
        (self.bytes, self.tail_bytes) = (0, 0);
        self.start = start;
        self.snapshot = None;
    }

    /// Offers a snapshot to followers.
    pub(crate) fn offer_snapshot(&mut self, snapshot: Option<Snapshot>) {
        self.snapshot = snapshot;
        self.snapshot_wanted.set(false);
    }

    /// What is offered.
    pub(crate) fn offered_snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// Whether raft asked for a snapshot and got none.
    pub(crate) fn snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.get()
    }

    /// Why this log can no longer be read, if so.
    pub(crate) fn failure(&self) -> Option<ConsensusError> {
        self.failure.take()
    }

    /// The earliest place in the log from which a witness can follow, so that it gets as much of the log as there is.
    fn place_for_witness(&self, to: u64) -> Option<Snapshot> {
        let index = self.confs.member_since(to)?.max(self.start.index);
        let mut snapshot = Snapshot { data: NO_STATE.into(), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, self.term_at(index)?);
        metadata.set_conf_state(self.confs.at(index)?.clone());
        Some(snapshot)
    }

    fn tail_first(&self) -> u64 {
        self.last() + 1 - self.tail.len() as u64
    }

    fn size_at(&self, index: u64) -> usize {
        let offset = index.checked_sub(self.start.index + 1).and_then(|offset| usize::try_from(offset).ok());
        offset.and_then(|offset| self.sizes.get(offset)).copied().unwrap_or(0)
    }

    /// The end of the longest range from `low` that has at most `max_bytes`, or one entry.
    fn end_within(&self, low: u64, high: u64, max_bytes: u64) -> u64 {
        let mut bytes = 0;
        for index in low..high {
            bytes += self.size_at(index) as u64;
            if bytes > max_bytes && index > low {
                return index;
            }
        }
        high
    }

    fn read(&self, low: u64, high: u64) -> Result<Vec<Entry>, ConsensusError> {
        let mut entries = Vec::new();
        let tail_first = self.tail_first();
        if low < tail_first {
            records::scan_entries(&*self.store, self.group, low, Some(high.min(tail_first)), |entry, _| {
                entries.push(entry);
            })?;
            self.check_terms(&entries)?;
        }
        let in_tail = self.tail.iter().filter(|entry| entry.index >= low && entry.index < high);
        entries.extend(in_tail.cloned());
        Ok(entries)
    }

    fn check_terms(&self, entries: &[Entry]) -> Result<(), ConsensusError> {
        match entries.iter().find(|entry| self.terms.at(entry.index) != Some(entry.term)) {
            Some(entry) => Err(self.corrupt(format!("entry {}", entry.index), "is an older one".into())),
            None => Ok(()),
        }
    }

    fn corrupt(&self, record: String, detail: String) -> ConsensusError {
        ConsensusError::Corruption { group: self.group, record, detail }
    }
}

impl Storage for GroupLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.start.index {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let high = self.end_within(low, high, max_size.into().unwrap_or(u64::MAX));
        self.read(low, high).or_else(|error| {
            self.failure.borrow_mut().get_or_insert(error);
            // The two answers that raft takes without a panic, by who asks.
            if context.can_async() { Err(StorageError::LogTemporarilyUnavailable.into()) } else { Ok(Vec::new()) }
        })
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let outside = if index < self.start.index { StorageError::Compacted } else { StorageError::Unavailable };
        self.term_at(index).ok_or_else(|| outside.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.start.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        if self.witnesses.contains(&to) {
            let place = self.place_for_witness(to);
            return place.ok_or_else(|| StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let fits = |snapshot: &&Snapshot| {
            let metadata = snapshot.get_metadata();
            confs::has_member(metadata.get_conf_state(), to) && metadata.index >= request_index.max(self.start.index)
        };
        match self.snapshot.as_ref().filter(fits) {
            Some(snapshot) => Ok(snapshot.clone()),
            None => {
                self.snapshot_wanted.set(true);
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

#[cfg(test)]
mod tests;
