//! What peers ask of a replica: files of its segments, the records of a snapshot, its digests, and to fetch what they built.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use shoal_index::segment::Segment;
use shoal_model::failpoints::{Failpoint, Injected, meet};
use shoal_model::{ErrorKind, LogIndex, NodeId, ShardId};
use shoal_proto::internal::v1 as wire;
use shoal_proto::internal::v1::replica_service_server::ReplicaService;
use shoal_proto::status::{RemoteError, to_status};
use shoal_runtime::Store;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};
use tonic::{Request, Response, Status};
use xxhash_rust::xxh3::xxh3_64;

use crate::NodeError;
use crate::blocking;
use crate::fetch::checksum_of;
use crate::peers::{CHUNK_BYTES, Peers};
use crate::replica::{Errand, Replica};
use crate::replicas::Replicas;
use crate::shard::machine;
use crate::shard::parts::Manifest;

/// How long a snapshot is kept that nobody reads.
const SNAPSHOT_KEPT: Duration = Duration::from_secs(60);
/// Snapshots of a shard that are kept: each may be on its way to another replica.
const SNAPSHOTS_OF_SHARD_MAX: usize = 4;
/// How long a follower may take to fetch what it is offered.
const OFFER_WITHIN: Duration = Duration::from_secs(600);

/// A checkpoint that a follower reads from.
struct Export {
    shard: ShardId,
    store: Arc<dyn Store>,
    used_at: Instant,
}

/// Snapshots that this node has made for others, by their number.
#[derive(Default)]
pub(crate) struct Exports {
    kept: Mutex<BTreeMap<u64, Export>>,
}

impl Exports {
    /// Keeps a checkpoint to be read as a snapshot of a shard; of too many of that shard the one goes that was not read for
    /// longest.
    pub(crate) fn keep(&self, shard: ShardId, store: Arc<dyn Store>) -> u64 {
        let mut kept = self.lock();
        let number = rand_number();
        let mut of_shard: Vec<(Instant, u64)> =
            kept.iter().filter(|(_, export)| export.shard == shard).map(|(at, export)| (export.used_at, *at)).collect();
        of_shard.sort_unstable();
        for (_, idle) in of_shard.iter().rev().skip(SNAPSHOTS_OF_SHARD_MAX - 1) {
            kept.remove(idle);
        }
        kept.insert(number, Export { shard, store, used_at: Instant::now() });
        number
    }

    fn find(&self, shard: ShardId, number: u64) -> Option<Arc<dyn Store>> {
        let mut kept = self.lock();
        let export = kept.get_mut(&number).filter(|export| export.shard == shard)?;
        export.used_at = Instant::now();
        Some(export.store.clone())
    }

    /// Drops those that nobody has read for long.
    pub(crate) fn tidy(&self) {
        let idle = |export: &Export| export.used_at.elapsed() > SNAPSHOT_KEPT;
        let gone: Vec<Export> =
            self.lock().extract_if(.., |_, export| idle(export)).map(|(_, export)| export).collect();
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Export>> {
        // Every change is one call, so a poisoned table is whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name that no earlier run of this process has given: a follower must not read another snapshot than it was told of.
fn rand_number() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0 >> 1
}

/// Serves `shoal.internal.v1.ReplicaService`.
#[derive(Clone)]
pub(crate) struct ReplicaCalls {
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) exports: Arc<Exports>,
}

impl ReplicaCalls {
    fn replica(&self, shard: u64) -> Result<Arc<Replica>, Status> {
        let shard = ShardId(shard);
        self.replicas.get(shard).ok_or_else(|| to_status(&NodeError::NotReady { shard }))
    }
}

fn refused(injected: Injected) -> Status {
    to_status(&NodeError::from(injected))
}

fn not_found(what: impl Into<String>) -> Status {
    to_status(&RemoteError { kind: ErrorKind::NotFound, field: String::new(), message: what.into() })
}

/// Made as it is sent; ends with the call.
type Chunks<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl ReplicaService for ReplicaCalls {
    type FetchFileStream = Chunks<wire::FetchFileResponse>;
    type FetchRecordsStream = Chunks<wire::FetchRecordsResponse>;

    async fn offer_segment(
        &self,
        request: Request<wire::OfferSegmentRequest>,
    ) -> Result<Response<wire::OfferSegmentResponse>, Status> {
        let wire::OfferSegmentRequest { shard_id, node_id, replaced, segment } = request.into_inner();
        meet(Failpoint::NodeOffered).map_err(refused)?;
        let replica = self.replica(shard_id)?;
        let manifest = Manifest::from_wire(segment.unwrap_or_default());
        let (reply, replied) = oneshot::channel();
        let errand = Errand::Fetch { node: NodeId(node_id), replaced, manifest, reply };
        replica.send(errand).map_err(|error| to_status(&error))?;
        let gone = || Err(NodeError::NotReady { shard: ShardId(shard_id) });
        let fetched = tokio::time::timeout(OFFER_WITHIN, replied).await;
        let late = || Err(NodeError::Deadline { doing: "fetching a segment" });
        let result = fetched.map_or_else(|_| late(), |reply| reply.unwrap_or_else(|_| gone()));
        result.map(|()| Response::new(wire::OfferSegmentResponse {})).map_err(|error| to_status(&error))
    }

    async fn fetch_file(
        &self,
        request: Request<wire::FetchFileRequest>,
    ) -> Result<Response<Self::FetchFileStream>, Status> {
        let wire::FetchFileRequest { shard_id, checksum, file, offset } = request.into_inner();
        let segment = self.replica(shard_id)?.segment(checksum);
        let segment = segment.ok_or_else(|| not_found(format!("segment {checksum:016x} is not here")))?;
        let is_graph = file == i32::from(wire::SegmentFile::Graph);
        let peers = self.peers.clone();
        let next = move |at| {
            let (segment, peers) = (segment.clone(), peers.clone());
            async move {
                meet(Failpoint::NodeSendFile).map_err(refused)?;
                // A mapped file may have to be read.
                let bytes = blocking::run(move || chunk_of(&segment, is_graph, at)).await.map_err(|e| to_status(&e))?;
                if bytes.is_empty() {
                    return Ok(None);
                }
                peers.pace(bytes.len()).await;
                let (after, checksum) = (at + bytes.len(), xxh3_64(&bytes));
                Ok(Some((wire::FetchFileResponse { bytes, checksum }, after)))
            }
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        Ok(Response::new(stream::try_unfold(from, next).boxed()))
    }

    async fn fetch_records(
        &self,
        request: Request<wire::FetchRecordsRequest>,
    ) -> Result<Response<Self::FetchRecordsStream>, Status> {
        let wire::FetchRecordsRequest { shard_id, snapshot_id, after } = request.into_inner();
        let shard = ShardId(shard_id);
        let none = move || not_found(format!("snapshot {snapshot_id} of shard {shard} is not here (any more)"));
        self.exports.find(shard, snapshot_id).ok_or_else(none)?;
        let (peers, exports, replicas) = (self.peers.clone(), self.exports.clone(), self.replicas.clone());
        let next = move |after: Option<Bytes>| {
            let (peers, store, replicas) = (peers.clone(), exports.find(shard, snapshot_id), replicas.clone());
            async move {
                let store = store.ok_or_else(none)?;
                let read = move || read_lot(&*store, shard, after.as_deref());
                let read = blocking::run(read).await.flatten();
                let records =
                    read.inspect_err(|error| replicas.note_damage(error)).map_err(|error| to_status(&error))?;
                let Some(last) = records.last().map(|record| record.key.clone()) else { return Ok(None) };
                peers.pace(records.iter().map(|record| record.vector.len() + record.payload.len()).sum()).await;
                let checksum = checksum_of(&records);
                Ok(Some((wire::FetchRecordsResponse { records, checksum }, Some(last))))
            }
        };
        Ok(Response::new(stream::try_unfold(after, next).boxed()))
    }

    async fn get_digests(
        &self,
        request: Request<wire::GetDigestsRequest>,
    ) -> Result<Response<wire::GetDigestsResponse>, Status> {
        meet(Failpoint::NodeDigests).map_err(refused)?;
        let replica = self.replica(request.into_inner().shard_id)?;
        let digests = replica.digests().into_iter().map(|(index, digest)| wire::PositionDigest {
            applied_index: index.0,
            digest: Bytes::copy_from_slice(&digest.to_be_bytes()),
        });
        Ok(Response::new(wire::GetDigestsResponse { digests: digests.collect() }))
    }

    async fn rebuild(&self, request: Request<wire::RebuildRequest>) -> Result<Response<wire::RebuildResponse>, Status> {
        let wire::RebuildRequest { shard_id, digest } = request.into_inner();
        let replica = self.replica(shard_id)?;
        let wire::PositionDigest { applied_index, digest } = digest.unwrap_or_default();
        let is_it = |(index, own): &(LogIndex, u128)| index.0 == applied_index && own.to_be_bytes()[..] == digest[..];
        if replica.digests().iter().any(is_it) {
            replica.send(Errand::Rebuild).map_err(|error| to_status(&error))?;
        }
        Ok(Response::new(wire::RebuildResponse {}))
    }
}

/// The bytes of a segment's file from `at` on that travel together; none at its end.
fn chunk_of(segment: &Segment, is_graph: bool, at: usize) -> Bytes {
    let image = if is_graph { segment.graph_image() } else { segment.stored_image() };
    let rest = image.bytes().get(at..).unwrap_or_default();
    Bytes::copy_from_slice(&rest[..rest.len().min(CHUNK_BYTES)])
}

fn read_lot(store: &dyn Store, shard: ShardId, after: Option<&[u8]>) -> Result<Vec<wire::PointRecord>, NodeError> {
    meet(Failpoint::NodeSendRecords)?;
    let (mut records, mut bytes) = (Vec::new(), 0);
    machine::scan_records(store, shard, after, &mut |record| {
        bytes += record.key.len() + record.vector.len() + record.payload.len();
        records.push(record);
        if bytes < CHUNK_BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use shoal_runtime::MemoryStore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn snapshots_are_kept_for_those_who_read_them() {
        let (exports, shard) = (Exports::default(), ShardId(1));
        let keep = || exports.keep(shard, Arc::new(MemoryStore::new()));
        let read = keep();
        let others: Vec<u64> = (1..SNAPSHOTS_OF_SHARD_MAX as u64)
            .map(|_| {
                let other = keep();
                assert!(exports.find(shard, read).is_some(), "one that is read is not given up for a newer one");
                other
            })
            .collect();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(exports.find(shard, read).is_some() && exports.find(ShardId(2), read).is_none());
        let newest = keep();
        let idle = others.iter().filter(|other| exports.find(shard, **other).is_none()).count();
        assert_eq!(idle, 1, "one of those that nobody reads goes");
        tokio::time::advance(SNAPSHOT_KEPT / 2).await;
        assert!(exports.find(shard, read).is_some());
        tokio::time::advance(SNAPSHOT_KEPT / 2 + Duration::from_secs(1)).await;
        exports.tidy();
        assert!(exports.find(shard, read).is_some() && exports.find(shard, newest).is_none(), "by who reads them");
    }
}
