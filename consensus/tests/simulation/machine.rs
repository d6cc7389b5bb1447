//! A state machine that is easy to check: it keeps the list of numbers it was given.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use shoal_consensus::{RequestId, StateMachine};
use shoal_model::{GroupId, LogIndex};
use shoal_runtime::{Batch, MemoryStore, Store, Table};

/// No proposal's number.
const NOISE: u64 = 13;

/// What waits to be applied.
pub(crate) enum Job {
    Entry { index: LogIndex, data: Bytes, request: Option<RequestId> },
    Restore { index: LogIndex, data: Bytes },
    Snapshot,
}

pub(crate) struct Machine {
    group: GroupId,
    kind: StateMachine,
    pub(crate) applied: LogIndex,
    pub(crate) numbers: Vec<u64>,
    /// What a damaged state holds is noise; a snapshot heals it.
    pub(crate) damaged: bool,
    pub(crate) inbox: VecDeque<Job>,
}

impl Machine {
    /// Reads its state back, or starts empty.
    pub(crate) fn open(group: GroupId, kind: StateMachine, store: &MemoryStore) -> Self {
        let mut machine =
            Self { group, kind, applied: LogIndex(0), numbers: Vec::new(), damaged: false, inbox: VecDeque::new() };
        let stored = store.get(Table::Payload, &group.0.to_be_bytes()).expect("memory does not fail");
        if let Some(state) = stored.filter(|_| kind == StateMachine::Stored) {
            machine.decode(&state);
        }
        machine
    }

    pub(crate) fn forget(group: GroupId, store: &MemoryStore) {
        let mut batch = Batch::default();
        batch.delete(Table::Payload, group.0.to_be_bytes().to_vec());
        store.write(batch).expect("memory does not fail");
    }

    /// Applies an entry; true if it carries a number.
    pub(crate) fn apply(&mut self, index: LogIndex, data: &Bytes, store: &Arc<MemoryStore>) -> bool {
        // The index at which a group begins has no entry.
        let first = self.applied == LogIndex(0) && index == LogIndex(2);
        assert!(first || index == self.applied.next(), "work of a group has no gaps: {index} after {}", self.applied);
        self.applied = index;
        if !data.is_empty() {
            self.numbers.push(number(data));
        }
        self.save(store);
        !data.is_empty()
    }

    pub(crate) fn restore(&mut self, index: LogIndex, data: &Bytes, store: &Arc<MemoryStore>) {
        assert!(index >= self.applied, "a snapshot does not lead back: {index} after {}", self.applied);
        self.decode(data);
        assert!(!self.damaged, "a peer does not send a damaged state");
        assert_eq!(index, self.applied, "a snapshot is of the index it says");
        self.save(store);
    }

    pub(crate) fn damage(&mut self, store: &Arc<MemoryStore>) {
        if self.numbers.first() != Some(&NOISE) {
            self.numbers.insert(0, NOISE);
            self.save(store);
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let words = std::iter::once(self.applied.0).chain(self.numbers.iter().copied());
        words.flat_map(u64::to_be_bytes).collect::<Vec<u8>>().into()
    }

    fn decode(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8).map(number);
        self.applied = LogIndex(words.next().expect("begins with the index"));
        self.numbers = words.collect();
        self.damaged = self.numbers.first() == Some(&NOISE);
    }

    fn save(&self, store: &Arc<MemoryStore>) {
        if self.kind == StateMachine::Stored {
            let mut batch = Batch::default();
            batch.put(Table::Payload, self.group.0.to_be_bytes().to_vec(), self.encode());
            store.write(batch).expect("memory does not fail");
        }
    }
}

/// The number at the front of a proposal; what follows is ballast.
pub(crate) fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(*bytes.first_chunk::<8>().expect("a number has eight bytes"))
}
