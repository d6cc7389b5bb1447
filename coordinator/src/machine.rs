//! The cluster map behind the Raft log: applied in order, kept on disk, published to watchers.
//!
//! The whole map is written after every change. Changes are rare and the map is small (some hundred bytes a
//! shard), so a whole write is simpler than any difference, and a restart replays next to nothing.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use shoal_consensus::{Apply, Consensus};
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{ClusterMap, Epoch, GroupId, LogIndex, MapError, Reply};
use shoal_proto::internal::v1 as wire;
use shoal_proto::map::{MapDecodeError, decode_command, map_from_wire, map_to_wire};
use shoal_runtime::{Batch, Store, Table};
use tokio::sync::{mpsc, watch};

use crate::CoordinatorError;

/// The coordinators' own group.
pub const GROUP: GroupId = GroupId(1);

const KEY: &[u8] = b"coordinator/map";

/// The map's answer to a command, and the epoch after it.
#[derive(Debug)]
pub struct Applied {
    /// The answer.
    pub reply: Result<Reply, MapError>,
    /// The epoch.
    pub epoch: Epoch,
}

/// The map and the log position it reflects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapMachine {
    map: Arc<ClusterMap>,
    applied: LogIndex,
}

impl MapMachine {
    /// The map that `store` holds, or an empty one.
    pub fn open(store: &dyn Store) -> Result<Self, CoordinatorError> {
        match store.get(Table::Meta, KEY)? {
            None => Ok(Self::default()),
            Some(bytes) => Ok(Self::decode(&bytes)?),
        }
    }

    /// The map.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.map.clone()
    }

    /// The position it reflects.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Applies the entry at `index`. Entries applied before, and Raft's own empty ones, give no answer.
    pub fn apply(&mut self, index: LogIndex, entry: Bytes) -> Result<Option<Applied>, MapDecodeError> {
        if index <= self.applied {
            return Ok(None);
        }
        self.applied = index;
        if entry.is_empty() {
            return Ok(None);
        }
        let outcome = Arc::make_mut(&mut self.map).apply(decode_command(entry)?);
        Ok(Some(Applied { reply: outcome.reply, epoch: self.map.epoch }))
    }

    /// The state as bytes: the position, then the map.
    pub fn encode(&self) -> Bytes {
        let mut bytes = self.applied.0.to_be_bytes().to_vec();
        bytes.extend(map_to_wire(&self.map).encode_to_vec());
        bytes.into()
    }

    /// Reads back [`MapMachine::encode`].
    pub fn decode(bytes: &Bytes) -> Result<Self, MapDecodeError> {
        let malformed = MapDecodeError { what: "cluster map" };
        let (applied, map) = bytes.split_first_chunk().ok_or(malformed.clone())?;
        let map = wire::ClusterMap::decode(bytes.slice_ref(map)).map_err(|_| malformed)?;
        Ok(Self { map: Arc::new(map_from_wire(map)?), applied: LogIndex(u64::from_be_bytes(*applied)) })
    }

    /// Writes the state.
    pub fn save(&self, store: &dyn Store) -> Result<(), CoordinatorError> {
        let mut batch = Batch::default();
        batch.put(Table::Meta, KEY, self.encode());
        // Without a sync: the log can replay it, and is kept until this is durable.
        Ok(store.write(batch)?)
    }
}

/// Where the map goes: watchers of the map, and reads that wait for a position.
pub(crate) struct Published {
    pub(crate) maps: watch::Sender<Arc<ClusterMap>>,
    pub(crate) applied: watch::Sender<LogIndex>,
}

impl Published {
    fn announce(&self, machine: &MapMachine) {
        self.maps.send_if_modified(|published| {
            let newer = published.epoch != machine.map.epoch;
            if newer {
                *published = machine.map();
            }
            newer
        });
        // Readers that wait for a position look at the map after it is announced, so the map comes first.
        self.applied.send_replace(machine.applied);
    }
}

/// Applies what the group agrees on until the group is closed, publishing the map after each change.
pub(crate) async fn apply_all(
    mut machine: MapMachine,
    mut inbox: mpsc::Receiver<Apply<Applied>>,
    store: Arc<dyn Store>,
    consensus: Consensus<Applied>,
    published: Published,
) -> Result<(), CoordinatorError> {
    while let Some(next) = inbox.recv().await {
        let mut answer = None;
        match next {
            Apply::Entry { index, data, reply } => {
                meet(Failpoint::CoordinatorApply)?;
                let applied = machine.apply(index, data)?;
                answer = reply.zip(applied);
            }
            Apply::Restore { data, .. } => machine = MapMachine::decode(&data)?,
            Apply::Snapshot { reply } => {
                // The group asks again if it no longer waits for this one.
                let _ = reply.send((machine.applied(), machine.encode()));
                continue;
            }
        }
        meet(Failpoint::CoordinatorSave)?;
        machine.save(&*store)?;
        meet(Failpoint::CoordinatorSaved)?;
        published.announce(&machine);
        consensus.applied(GROUP, machine.applied());
        if let Some((reply, applied)) = answer {
            let _ = reply.send(applied);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_model::{ClusterId, Command, NodeId, StoreId};
    use shoal_proto::map::encode_command;
    use shoal_runtime::MemoryStore;

    fn register(store: u128) -> Bytes {
        encode_command(&Command::RegisterNode {
            store: StoreId(store),
            name: "n".into(),
            address: "http://127.0.0.1:1".into(),
            zone: String::new(),
            replaces: None,
        })
    }

    #[test]
    fn replaying_the_log_over_saved_state_changes_nothing() {
        let log =
            [encode_command(&Command::NameCluster { cluster: ClusterId(1) }), register(1), Bytes::new(), register(2)];
        let store = MemoryStore::new();
        let mut machine = MapMachine::open(&store).expect("empty");
        for (i, entry) in (1..).zip(&log) {
            machine.apply(LogIndex(i), entry.clone()).expect("applies");
        }
        machine.save(&store).expect("memory does not fail");
        let mut reopened = MapMachine::open(&store).expect("reopens");
        assert_eq!(reopened, machine);
        for (i, entry) in (1..).zip(&log) {
            assert!(reopened.apply(LogIndex(i), entry.clone()).expect("skips").is_none());
        }
        assert_eq!(reopened, machine);
        let next = reopened.apply(LogIndex(5), register(1)).expect("applies").expect("answers");
        assert_eq!(next.reply, Ok(Reply::Node(NodeId(1))), "numbers are not handed out twice");
    }

    #[test]
    fn foreign_state_is_refused() {
        for bytes in [&b""[..], b"short", &[0xff; 32]] {
            assert!(MapMachine::decode(&Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
    }
}
