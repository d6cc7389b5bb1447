//! Snapshots of a shard: what one says, its records in order, and writing another's content to the store.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::planted::{Bug, is_planted};
use shoal_model::{PointId, ShardId};
use shoal_proto::internal::v1 as wire;
use shoal_runtime::{Batch, Store, Table};

use super::{erase_records, read_state};
use crate::NodeError;
use crate::shard::keys;
use crate::shard::operations::Operations;
use crate::shard::parts::{self, Manifest, Name, Stored, Versions};
use crate::shard::records::split_record;
use crate::shard::state::ShardState;

/// What a snapshot of a shard says beside its points and files, read from a checkpoint of the store.
pub fn snapshot_of(store: &dyn Store, shard: ShardId) -> Result<wire::ShardSnapshot, NodeError> {
    let state = read_state(store, shard)?.unwrap_or_default();
    let part = |(name, part): (Name, Stored)| wire::ShardPart {
        name,
        segment: part.manifest.map(Manifest::to_wire),
        versions: part.versions.to_wire(),
        center: part.center.as_ref().map(parts::center_to_wire),
    };
    Ok(wire::ShardSnapshot {
        node_id: 0,
        snapshot_id: 0,
        state: Some(state.to_wire()),
        parts: parts::load(store, shard)?.into_iter().map(part).collect(),
        operations: Operations::load(store, shard)?.to_wire(),
        center: parts::active_center(store, shard)?.as_ref().map(parts::center_to_wire),
    })
}

/// Restoring a snapshot into the store: everything of the shard goes first, and its state is written last, so that what a
/// crash leaves half restored is not taken for anything.
pub struct Restoring {
    store: Arc<dyn Store>,
    shard: ShardId,
    snapshot: wire::ShardSnapshot,
    state: ShardState,
    found: ShardState,
}

impl Restoring {
    /// Removes what there is.
    pub fn begin(store: Arc<dyn Store>, shard: ShardId, snapshot: wire::ShardSnapshot) -> Result<Self, NodeError> {
        let state = snapshot.state.as_ref().and_then(ShardState::from_wire);
        let state = state.ok_or(NodeError::Malformed { shard, what: "snapshot" })?;
        meet(Failpoint::NodeRestoreBegin)?;
        let mut batch = Batch::default();
        erase_records(shard, &mut batch);
        store.write(batch)?;
        Ok(Self { store, shard, snapshot, state, found: ShardState::default() })
    }

    /// Writes points as they come.
    pub fn write(&mut self, records: Vec<wire::PointRecord>) -> Result<(), NodeError> {
        let malformed = || NodeError::Malformed { shard: self.shard, what: "record of a snapshot" };
        let mut batch = Batch::default();
        let taken = records.len() - usize::from(is_planted(Bug::RestoreWithoutLast));
        for wire::PointRecord { key, vector, payload } in records.into_iter().take(taken) {
            let id = PointId::from_key(&key).map_err(|_| malformed())?;
            let key = keys::point(self.shard, &id);
            let (version, _) = split_record(&key, &vector).ok_or_else(malformed)?;
            split_record(&key, &payload).filter(|(of, _)| *of == version).ok_or_else(malformed)?;
            self.found.add_point(&id, version.0);
            batch.put(Table::Vectors, key.clone(), vector);
            batch.put(Table::Payload, key, payload);
        }
        meet(Failpoint::NodeRestoreWrite)?;
        Ok(self.store.write(batch)?)
    }

    /// Writes the rest: the shard can be opened. `files` are the segments' files that are in its folder.
    ///
    /// Errors: `Malformed` if the points are not those that the snapshot tells.
    pub fn finish(self, files: &BTreeMap<Name, u64>) -> Result<(), NodeError> {
        let malformed = |what| NodeError::Malformed { shard: self.shard, what };
        if !self.found.has_points_of(&self.state) && !is_planted(Bug::RestoreWithoutLast) {
            return Err(malformed("snapshot: its points are not those that its digest tells"));
        }
        meet(Failpoint::NodeRestoreFinish)?;
        let mut batch = Batch::default();
        let center = |center: &Option<wire::DeltaCenter>| {
            center.as_ref().map(parts::center_from_wire).transpose().map_err(|_| malformed("snapshot: a centre"))
        };
        for wire::ShardPart { name, segment, versions, center: around } in &self.snapshot.parts {
            let (manifest, versions) = (segment.map(Manifest::from_wire), Versions::from_wire(versions));
            let part = Stored { manifest, file: files.get(name).copied(), versions, center: center(around)? };
            parts::list(&mut batch, self.shard, *name, &part);
        }
        parts::set_active_center(&mut batch, self.shard, center(&self.snapshot.center)?.as_ref());
        Operations::write(self.shard, &self.snapshot.operations, &mut batch).ok_or(malformed("snapshot"))?;
        batch.put(Table::Meta, keys::state(self.shard), self.state.encode());
        Ok(self.store.write(batch)?)
    }
}

/// Shows points of a shard after a key, as they are stored, until `visit` breaks.
///
/// Errors: `Malformed` for a record that is not what was written: whoever it was sent to could only stop.
pub fn scan_records(
    store: &dyn Store,
    shard: ShardId,
    after: Option<&[u8]>,
    visit: &mut dyn FnMut(wire::PointRecord) -> ControlFlow<()>,
) -> Result<(), NodeError> {
    let (first, to) = keys::points(shard);
    let from = after.map_or(first.clone(), |after| [&first[..], after, &[0]].concat().into());
    let mut failed = None;
    store.scan(Table::Vectors, &from, &to, &mut |key, vector| match store.get(Table::Payload, key) {
        Ok(Some(payload)) if split_record(key, vector).is_none() || split_record(key, &payload).is_none() => {
            failed = Some(NodeError::Malformed { shard, what: "point" });
            ControlFlow::Break(())
        }
        Ok(Some(payload)) => visit(wire::PointRecord {
            key: Bytes::copy_from_slice(keys::id_part(key)),
            vector: Bytes::copy_from_slice(vector),
            payload,
        }),
        Ok(None) => {
            failed = Some(NodeError::Malformed { shard, what: "payload" });
            ControlFlow::Break(())
        }
        Err(error) => {
            failed = Some(error.into());
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}
