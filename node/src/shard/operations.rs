//! Which writes a shard has applied lately, by the identity that their senders gave them.
//!
//! A router or client that got no answer sends a write again under the same identity. If it was applied, others may have
//! written the same points since, and applying it again would undo that. The window is one of writes, not of time, so that
//! every replica forgets the same ones; it is longer than any request lives at a thousand writes a second.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;

use bytes::Bytes;
use shoal_model::planted::{Bug, is_planted};
use shoal_model::{LogIndex, OperationId, ShardId};
use shoal_proto::internal::v1 as wire;
use shoal_proto::map::{id_from_bytes, id_to_bytes};
use shoal_runtime::{Batch, Store, Table};
use xxhash_rust::xxh3::xxh3_64;

use super::keys;
use crate::NodeError;

/// Writes of a shard that are remembered: some 4 MB where as many were.
pub(crate) const KEPT: usize = 65_536;

/// The writes that are remembered.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    /// Looked up, never walked: its order is no part of the state.
    known: HashMap<OperationId, Known>,
    /// The oldest first.
    order: VecDeque<(LogIndex, OperationId)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    index: LogIndex,
    /// Of the whole entry.
    content: u64,
}

/// What is known of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing.
    Never,
    /// It was applied at that position.
    At(LogIndex),
    /// Another write was applied under its identity.
    AsAnother,
}

impl Operations {
    /// Those that `store` has of a shard.
    pub(crate) fn load(store: &dyn Store, shard: ShardId) -> Result<Self, NodeError> {
        let (from, to) = keys::operations(shard);
        let (mut operations, mut is_whole) = (Self::default(), true);
        if is_planted(Bug::ForgetOperationsAtRestart) {
            return Ok(operations);
        }
        store.scan(Table::Meta, &from, &to, &mut |key, value| {
            match (keys::number_at_end(key), decode(value)) {
                (Some(index), Some((operation, content))) => operations.insert(LogIndex(index), operation, content),
                _ => is_whole = false,
            }
            ControlFlow::Continue(())
        })?;
        if is_whole { Ok(operations) } else { Err(NodeError::Malformed { shard, what: "list of operations" }) }
    }

    /// What is known of the operation of an entry.
    pub(crate) fn look_up(&self, operation: OperationId, entry: &[u8]) -> Seen {
        match self.known.get(&operation) {
            None => Seen::Never,
            Some(known) if known.content == xxh3_64(entry) => Seen::At(known.index),
            Some(_) => Seen::AsAnother,
        }
    }

    /// An operation is applied with an entry; forgets the oldest if there are too many.
    pub(crate) fn note(
        &mut self,
        shard: ShardId,
        index: LogIndex,
        operation: OperationId,
        entry: &[u8],
        batch: &mut Batch,
    ) {
        let content = xxh3_64(entry);
        self.insert(index, operation, content);
        batch.put(Table::Meta, keys::operation(shard, index), encode(operation, content));
        while self.order.len() > KEPT
            && let Some((index, operation)) = self.order.pop_front()
        {
            self.known.remove(&operation);
            batch.delete(Table::Meta, keys::operation(shard, index));
        }
    }

    fn insert(&mut self, index: LogIndex, operation: OperationId, content: u64) {
        self.known.insert(operation, Known { index, content });
        self.order.push_back((index, operation));
    }

    /// All of them, for a snapshot.
    pub(crate) fn to_wire(&self) -> Vec<wire::ShardOperation> {
        let each = |(index, operation): &(LogIndex, OperationId)| wire::ShardOperation {
            index: index.0,
            operation: id_to_bytes(operation.0),
            content: self.known.get(operation).map_or(0, |known| known.content),
        };
        self.order.iter().map(each).collect()
    }

    /// Writes those of a snapshot. `None` if one is malformed.
    pub(crate) fn write(shard: ShardId, operations: &[wire::ShardOperation], batch: &mut Batch) -> Option<()> {
        for known in operations.iter().filter(|_| !is_planted(Bug::SnapshotWithoutOperations)) {
            let operation = OperationId(id_from_bytes("operation", &known.operation).ok()?);
            batch.put(Table::Meta, keys::operation(shard, LogIndex(known.index)), encode(operation, known.content));
        }
        Some(())
    }
}

fn encode(operation: OperationId, content: u64) -> Bytes {
    [&operation.0.to_be_bytes()[..], &content.to_be_bytes()].concat().into()
}

fn decode(bytes: &[u8]) -> Option<(OperationId, u64)> {
    let (operation, content) = bytes.split_first_chunk()?;
    Some((OperationId(u128::from_be_bytes(*operation)), u64::from_be_bytes(content.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use shoal_runtime::MemoryStore;

    use super::*;

    #[test]
    fn the_latest_operations_are_known_also_after_a_restart() {
        const SHARD: ShardId = ShardId(3);
        let (store, mut operations) = (MemoryStore::new(), Operations::default());
        let more = 10;
        for number in 1..=(KEPT + more) as u64 {
            let mut batch = Batch::default();
            let (index, operation) = (LogIndex(number), OperationId(number.into()));
            assert_eq!(operations.look_up(operation, b"entry"), Seen::Never);
            operations.note(SHARD, index, operation, b"entry", &mut batch);
            store.write(batch).expect("memory does not fail");
        }
        let reopened = Operations::load(&store, SHARD).expect("as it was written");
        for operations in [&operations, &reopened] {
            let seen = |number: u64| operations.look_up(OperationId(number.into()), b"entry");
            assert_eq!(seen(more as u64), Seen::Never, "forgotten");
            assert_eq!(seen(more as u64 + 1), Seen::At(LogIndex(more as u64 + 1)));
            assert_eq!(operations.look_up(OperationId(50), b"other"), Seen::AsAnother);
            assert_eq!(operations.to_wire().len(), KEPT);
        }
        assert!(Operations::load(&store, ShardId(4)).expect("empty").order.is_empty(), "another shard has its own");
    }
}
