//! Snapshots of a replica's content: making one that a peer can fetch, and taking over one that a peer has made.
//!
//! What travels through the group is small: the state in digests, the names of parts, the operations of late, and where the
//! rest can be fetched. Points come from a checkpoint of the maker's store, so that it goes on writing meanwhile; segments
//! from whoever has them.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{IndexSpec, LogIndex, NodeId, ShardId};
use shoal_proto::internal::v1 as wire;
use shoal_runtime::Store;
use tokio::sync::oneshot;

use crate::NodeError;
use crate::blocking;
use crate::fetch::{self, FetchError};
use crate::replica::Indexing;
use crate::shard::machine::{self, Restoring, ShardMachine};
use crate::shard::parts::{Manifest, Name};
use crate::shard::segment_files::{self, SegmentFiles};
use crate::transfer::Exports;

/// A replica with the content of a snapshot.
pub(crate) struct Restored {
    pub(crate) machine: ShardMachine,
    /// Segments whose files could not be fetched yet.
    pub(crate) lacking: usize,
}

/// Makes a snapshot of a shard as of what the store holds, and tells the group of it. If that fails `note` is told why, and
/// the group asks again.
pub(crate) async fn make(
    node: NodeId,
    shard: ShardId,
    store: Arc<dyn Store>,
    exports: Arc<Exports>,
    reply: oneshot::Sender<(LogIndex, Bytes)>,
    note: impl FnOnce(&NodeError),
) {
    let checkpoint = move || {
        meet(Failpoint::NodeSnapshot)?;
        let checkpoint = store.checkpoint()?;
        let snapshot = machine::snapshot_of(&*checkpoint, shard)?;
        meet(Failpoint::NodeSnapshotMade)?;
        Ok::<_, NodeError>((checkpoint, snapshot))
    };
    match blocking::run(checkpoint).await.flatten() {
        Ok((checkpoint, mut snapshot)) => {
            snapshot.node_id = node.0;
            snapshot.snapshot_id = exports.keep(shard, checkpoint);
            let index = snapshot.state.as_ref().map_or(0, |state| state.applied_index);
            let _ = reply.send((LogIndex(index), snapshot.encode_to_vec().into())); // or the group is closed
        }
        Err(error) => {
            tracing::warn!(shard = shard.0, %error, "a snapshot could not be made");
            note(&error);
        }
    }
}

/// Takes over the content of a snapshot; files of its segments get numbers from `files_from` on. Ends with `Cancelled` once
/// `closed` completes.
///
/// Records come first: the maker keeps them for as long as somebody reads them, and segments are to be had from others, too.
///
/// Errors: `Node` of what the disk says and of a snapshot that is malformed; the others if it could not be fetched, so that
/// another is to be asked for.
pub(crate) async fn restore(
    shard: ShardId,
    spec: &IndexSpec,
    data: Bytes,
    store: Arc<dyn Store>,
    indexing: &Indexing,
    files_from: u64,
    closed: impl Future<Output = ()>,
) -> Result<Restored, FetchError> {
    meet(Failpoint::NodeRestore).map_err(NodeError::from)?;
    let malformed = |_| NodeError::Malformed { shard, what: "snapshot" };
    let snapshot = wire::ShardSnapshot::decode(data).map_err(malformed)?;
    let (maker, number) = (NodeId(snapshot.node_id), snapshot.snapshot_id);
    // Writes are short: each lot is some megabyte.
    let mut restoring = Restoring::begin(store.clone(), shard, snapshot.clone())?;
    let fetch = async {
        fetch::records(&indexing.peers, shard, maker, number, |records| restoring.write(records)).await?;
        fetch_files(shard, &snapshot, indexing, files_from).await
    };
    let (files, next) = tokio::select! {
        fetched = fetch => fetched?,
        () = closed => return Err(FetchError::Cancelled),
    };
    restoring.finish(&files)?;
    let lacking = snapshot.parts.iter().filter(|part| part.segment.is_some()).count() - files.len();
    let (spec, policy, root) = (spec.clone(), indexing.policy, indexing.folder.clone());
    let open = move || ShardMachine::open(&*store, shard, &spec, policy, root.as_deref());
    let (mut machine, _) = blocking::run(open).await??;
    machine.number_files_from(next);
    Ok(Restored { machine, lacking })
}

/// Fetches the files of a snapshot's segments, as far as any peer has them; tells their numbers, and the next one.
async fn fetch_files(
    shard: ShardId,
    snapshot: &wire::ShardSnapshot,
    indexing: &Indexing,
    files_from: u64,
) -> Result<(BTreeMap<Name, u64>, u64), FetchError> {
    let mut found = BTreeMap::new();
    let Some(root) = indexing.folder.as_deref() else { return Ok((found, files_from)) };
    // What is left of the content before is of no use.
    segment_files::erase(root, shard)?;
    let mut files = SegmentFiles::empty(root, shard, files_from)?;
    let maker = NodeId(snapshot.node_id);
    let others = indexing.peers.of(shard).into_iter().filter(|node| *node != maker);
    let nodes: Vec<NodeId> = std::iter::once(maker).chain(others).collect();
    for wire::ShardPart { name, segment, .. } in &snapshot.parts {
        let Some(manifest) = segment.map(Manifest::from_wire) else { continue };
        let number = files.reserve();
        match fetch::segment(&indexing.peers, shard, manifest, &nodes, &files.target(number)).await {
            Ok(_) => drop(found.insert(*name, number)),
            Err((error, _)) => {
                tracing::warn!(shard = shard.0, segment = name, %error, "a segment of a snapshot is not fetched yet");
                segment_files::remove(&files.target(number));
            }
        }
    }
    Ok((found, files.from()))
}
