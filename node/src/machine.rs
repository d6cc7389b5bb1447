//! The state machine of a shard: what applying a log entry does to its points.
//!
//! Total and deterministic: the same log gives the same points, in memory and on disk, on every replica. It
//! fails only on an entry that no node would have proposed or on a broken disk, and then the replica stops
//! rather than go on with less than the others have.
//!
//! Points, payload and the position they reflect are written in one batch without a sync of its own: the log
//! can replay it.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use shoal_index::{Delta, DeltaView};
use shoal_model::{GraphSpec, IndexSpec, LogIndex, PointId, ShardId};
use shoal_proto::convert;
use shoal_runtime::{Batch, Store, Table};

use crate::command::{self, Command};
use crate::{NodeError, keys};

/// What one read sees: all points at one applied position. Cloning it is cloning two words.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) points: Arc<DeltaView>,
    pub(crate) applied: LogIndex,
}

/// The state of one shard replica. Owned by its apply task.
pub(crate) struct ShardMachine {
    shard: ShardId,
    dim: u32,
    delta: Delta,
    applied: LogIndex,
}

impl ShardMachine {
    /// The state that `store` holds, or an empty one. Reads every point once.
    pub(crate) fn open(store: &dyn Store, shard: ShardId, spec: &IndexSpec) -> Result<Self, NodeError> {
        let applied = read_applied(store, shard)?;
        let mut machine = Self { shard, dim: spec.dim, delta: Delta::new(spec.dim, spec.metric), applied };
        machine.load_points(store)?;
        Ok(machine)
    }

    fn load_points(&mut self, store: &dyn Store) -> Result<(), NodeError> {
        let (from, to) = keys::points(self.shard);
        let mut failed = None;
        store.scan(Table::Vectors, &from, &to, &mut |key, record| match self.load_point(store, key, record) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn load_point(&mut self, store: &dyn Store, key: &[u8], record: &[u8]) -> Result<(), NodeError> {
        let id = PointId::from_key(keys::id_part(key)).map_err(|_| self.malformed("point id"))?;
        let (index, vector) = split_record(record).ok_or_else(|| self.malformed("vector"))?;
        let vector = convert::vector_from_f32_le(vector).map_err(|_| self.malformed("vector"))?;
        if vector.len() != self.dim as usize {
            return Err(self.malformed("vector"));
        }
        let payload = store.get(Table::Payload, key)?.ok_or_else(|| self.malformed("payload"))?;
        let (_, packed) = split_record(&payload).ok_or_else(|| self.malformed("payload"))?;
        self.delta.upsert(id, index.0, &vector, payload.slice_ref(packed));
        Ok(())
    }

    /// The position that the state reflects.
    pub(crate) fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Applies the entry at `index`; its writes go to `batch`. An entry applied before changes nothing.
    pub(crate) fn apply(&mut self, index: LogIndex, entry: Bytes, batch: &mut Batch) -> Result<(), NodeError> {
        if index <= self.applied {
            return Ok(());
        }
        if !entry.is_empty() {
            let command = command::decode(entry).map_err(|_| self.malformed("log entry"))?;
            self.apply_command(index, command, batch)?;
        }
        self.applied = index;
        Ok(())
    }

    fn apply_command(&mut self, index: LogIndex, command: Command, batch: &mut Batch) -> Result<(), NodeError> {
        for point in command.upserts {
            if point.vector.len() != self.dim as usize {
                return Err(self.malformed("log entry"));
            }
            let key = keys::point(self.shard, &point.id);
            batch.put(Table::Vectors, key.clone(), record(index, &convert::vector_to_f32_le(&point.vector)));
            batch.put(Table::Payload, key, record(index, &point.payload));
            // A copy: a slice would keep the whole log entry in memory as long as the point lives.
            self.delta.upsert(point.id, index.0, &point.vector, Bytes::copy_from_slice(&point.payload));
        }
        for id in command.deletes {
            let key = keys::point(self.shard, &id);
            batch.delete(Table::Vectors, key.clone());
            batch.delete(Table::Payload, key);
            self.delta.delete(&id);
        }
        Ok(())
    }

    /// Adds the position to the batch that holds everything up to it.
    pub(crate) fn seal(&self, batch: &mut Batch) {
        batch.put(Table::Meta, keys::applied(self.shard), Bytes::copy_from_slice(&self.applied.0.to_be_bytes()));
    }

    /// What reads may see from now on.
    pub(crate) fn publish(&mut self) -> View {
        View { points: self.delta.publish(), applied: self.applied }
    }

    fn malformed(&self, what: &'static str) -> NodeError {
        NodeError::Malformed { shard: self.shard, what }
    }
}

/// The position that the stored points of a shard reflect.
pub(crate) fn read_applied(store: &dyn Store, shard: ShardId) -> Result<LogIndex, NodeError> {
    let malformed = NodeError::Malformed { shard, what: "applied position" };
    match store.get(Table::Meta, &keys::applied(shard))? {
        None => Ok(LogIndex::default()),
        Some(bytes) => bytes[..].try_into().map(|b| LogIndex(u64::from_be_bytes(b))).map_err(|_| malformed),
    }
}

/// A record: the position of the write that made it, then its content. Both records of a point carry the same
/// position, so that a reader notices when it read one before and one after a write.
fn record(index: LogIndex, content: &[u8]) -> Bytes {
    [&index.0.to_be_bytes()[..], content].concat().into()
}

/// The position and content of a record.
pub(crate) fn split_record(record: &[u8]) -> Option<(LogIndex, &[u8])> {
    let (index, content) = record.split_first_chunk()?;
    Some((LogIndex(u64::from_be_bytes(*index)), content))
}

/// Removes everything of a shard but its log.
pub(crate) fn erase(store: &dyn Store, shard: ShardId) -> Result<(), NodeError> {
    let (from, to) = keys::points(shard);
    let mut batch = Batch::default();
    batch.delete_range(Table::Vectors, from.clone(), to.clone());
    batch.delete_range(Table::Payload, from, to);
    batch.delete(Table::Meta, keys::applied(shard));
    Ok(store.write(batch)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_model::{HashRange, Limits, Metric};
    use shoal_proto::v1;
    use shoal_runtime::MemoryStore;

    const SHARD: ShardId = ShardId(7);

    fn spec() -> IndexSpec {
        IndexSpec { dim: 2, metric: Metric::Euclidean, embedding: String::new(), graph: GraphSpec::DEFAULT }
    }

    fn entry(upserts: &[(u64, f32)], deletes: &[u64]) -> Bytes {
        let id = |number: u64| v1::PointId { kind: Some(v1::point_id::Kind::Number(number)) };
        let point = |&(number, x): &(u64, f32)| v1::Point {
            id: Some(id(number)),
            vector: Some(convert::vector_to_wire(&[x, 0.0])),
            ..Default::default()
        };
        let upserts = upserts.iter().map(point).collect();
        let deletes = deletes.iter().copied().map(id).collect();
        command::encode(upserts, deletes, &spec(), HashRange::FULL, &Limits::default()).expect("a good command")
    }

    fn ids(machine: &mut ShardMachine) -> Vec<u64> {
        let view = machine.publish();
        let all = view.points.scroll(None, 100, None, &|| false).expect("nothing stops it");
        let number = |id: &PointId| match id {
            PointId::Number(number) => *number,
            other => panic!("never stored {other}"),
        };
        all.iter().map(|(id, _)| number(id)).collect()
    }

    #[test]
    fn a_crash_between_apply_and_sync_is_mended_by_replay() {
        let log = [entry(&[(1, 1.0), (2, 2.0)], &[]), entry(&[(3, 3.0)], &[1]), Bytes::new(), entry(&[(1, 9.0)], &[2])];
        for crash_after in 0..=log.len() {
            for kept in 0..=crash_after {
                let store = MemoryStore::new();
                let mut machine = ShardMachine::open(&store, SHARD, &spec()).expect("empty");
                for (i, entry) in (1..).zip(&log[..crash_after]) {
                    let mut batch = Batch::default();
                    machine.apply(LogIndex(i), entry.clone(), &mut batch).expect("applies");
                    machine.seal(&mut batch);
                    store.write(batch).expect("memory does not fail");
                }
                store.crash(kept);
                let mut machine = ShardMachine::open(&store, SHARD, &spec()).expect("reopens");
                assert_eq!(machine.applied(), LogIndex(kept as u64), "the position is that of the points");
                for (i, entry) in (1..).zip(&log) {
                    let mut batch = Batch::default();
                    machine.apply(LogIndex(i), entry.clone(), &mut batch).expect("applies");
                }
                assert_eq!(ids(&mut machine), [1, 3], "crash after {crash_after}, {kept} batches kept");
            }
        }
    }

    #[test]
    fn an_entry_no_node_would_propose_stops_the_replica() {
        let store = MemoryStore::new();
        let mut machine = ShardMachine::open(&store, SHARD, &spec()).expect("empty");
        let error = machine.apply(LogIndex(1), Bytes::from_static(b"\xff\xff"), &mut Batch::default());
        assert!(matches!(error, Err(NodeError::Malformed { what: "log entry", .. })));
    }

    #[test]
    fn erasing_leaves_the_neighbours() {
        let store = MemoryStore::new();
        for shard in [ShardId(6), SHARD, ShardId(8)] {
            let mut machine = ShardMachine::open(&store, shard, &spec()).expect("empty");
            let mut batch = Batch::default();
            machine.apply(LogIndex(1), entry(&[(1, 1.0)], &[]), &mut batch).expect("applies");
            machine.seal(&mut batch);
            store.write(batch).expect("memory does not fail");
        }
        erase(&store, SHARD).expect("erased");
        for (shard, want) in [(ShardId(6), 1), (SHARD, 0), (ShardId(8), 1)] {
            let machine = ShardMachine::open(&store, shard, &spec()).expect("opens");
            assert_eq!((machine.delta.len(), machine.applied().0), (want, want as u64), "shard {shard}");
        }
    }
}
