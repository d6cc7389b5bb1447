//! How long after its acknowledgement a point is found, on each replica and by each kind of read.
//!
//! Routers choose the replica that they ask, so nodes are asked here as routers ask them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_client::{Client, ClientError, Shard};
use shoal_model::{Point, PointId, ShardId, Token};
use shoal_proto::internal::v1 as wire;
use shoal_proto::internal::v1::shard_service_client::ShardServiceClient;
use shoal_proto::{convert, server, v1};
use tokio::task::JoinSet;
use tonic::Request;
use tonic::transport::Channel;

use super::load::Source;
use crate::error::BenchError;

/// Between two points.
const PACE: Duration = Duration::from_millis(20);
/// Ids of these points, beyond all of a load.
const FIRST_ID: u64 = 1 << 40;
/// Answers wanted of a search.
const K: u32 = 10;
/// How old an eventual answer may be, as routers ask.
const STALENESS_MS_MAX: u32 = 30_000;
/// After that a point counts as lost.
const WITHIN: Duration = Duration::from_secs(20);

/// A kind of read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// Asks once, and is made to wait until the replica has applied the write.
    Session,
    /// Asks again and again until the point is there.
    Eventual,
}

/// Times from acknowledgement to answer, over all points and replicas.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    pub(super) session: Vec<Duration>,
    pub(super) eventual: Vec<Duration>,
}

impl Fresh {
    /// Those of another run as well.
    pub(super) fn extend(&mut self, other: Self) {
        self.session.extend(other.session);
        self.eventual.extend(other.eventual);
    }
}

/// Writes single points, and looks for each on all replicas.
pub(super) struct Prober {
    client: Client,
    collection: String,
    source: Arc<Source>,
    shards: Vec<Shard>,
    nodes: BTreeMap<u64, Channel>,
    written: u64,
}

impl Prober {
    /// For a collection behind a router, with points like those of `source`: a search for one that is like no other takes
    /// longer, as codes spare it less, and would be another workload than what is written.
    pub(super) async fn new(router: &str, collection: &str, source: Arc<Source>) -> Result<Self, BenchError> {
        let client = Client::connect(&[router])?;
        let shards = client.describe_collection(collection).await?.shards;
        let mut nodes = BTreeMap::new();
        for node in client.status().await?.nodes {
            let channel = server::channel(&node.address).map_err(ClientError::from)?;
            nodes.insert(node.id, channel);
        }
        Ok(Self { client, collection: collection.to_owned(), source, shards, nodes, written: 0 })
    }

    /// How many points it has written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// So many points at their pace.
    pub(super) async fn probe(&mut self, points: usize) -> Result<Fresh, BenchError> {
        let mut fresh = Fresh::default();
        let mut due = tokio::time::interval(PACE);
        for _ in 0..points {
            due.tick().await;
            fresh.extend(self.one().await?);
        }
        Ok(fresh)
    }

    /// Points at their pace, until `work` is done.
    pub(super) async fn probe_during<T>(
        &mut self,
        work: impl Future<Output = Result<T, BenchError>>,
    ) -> Result<(T, Fresh), BenchError> {
        let mut work = std::pin::pin!(work);
        let mut fresh = Fresh::default();
        let mut due = tokio::time::interval(PACE);
        loop {
            tokio::select! {
                done = &mut work => return Ok((done?, fresh)),
                _ = due.tick() => {}
            }
            // Both go on together; what is probed when the work ends is probed to its end.
            let one = self.one();
            let mut one = std::pin::pin!(one);
            tokio::select! {
                done = &mut work => {
                    let done = done?;
                    one.await?;
                    return Ok((done, fresh));
                }
                probed = &mut one => fresh.extend(probed?),
            }
        }
    }

    /// Writes a point; once that is acknowledged, all replicas are asked at once, by both kinds of read.
    async fn one(&mut self) -> Result<Fresh, BenchError> {
        let id = PointId::Number(FIRST_ID + self.written);
        let point = Point { id: id.clone(), ..self.source.point_beyond(self.written) };
        self.written += 1;
        let vector = point.vector.clone();
        let token = self.client.upsert(&self.collection, vec![point]).await?;
        let acknowledged = Instant::now();
        let hash = id.hash();
        let shard = self.shards.iter().find(|shard| shard.range.contains(hash)).expect("ranges cover all hashes");
        let mut reads = JoinSet::new();
        for replica in &shard.replicas {
            for read in [Read::Session, Read::Eventual] {
                let sought = Sought {
                    node: replica.node_id,
                    channel: self.nodes[&replica.node_id].clone(),
                    search: search(shard, read, &token, &vector),
                    id: convert::point_id_to_wire(&id),
                };
                reads.spawn(async move { Ok::<_, BenchError>((read, sought.found(read, acknowledged).await?)) });
            }
        }
        let mut fresh = Fresh::default();
        while let Some(read) = reads.join_next().await {
            let (read, time) = read.map_err(|error| BenchError::Task(error.to_string()))??;
            match read {
                Read::Session => fresh.session.push(time),
                Read::Eventual => fresh.eventual.push(time),
            }
        }
        Ok(fresh)
    }
}

/// A point that a node is to find.
struct Sought {
    node: u64,
    channel: Channel,
    search: wire::SearchRequest,
    id: v1::PointId,
}

impl Sought {
    /// The time from acknowledgement until it is found. A session read must find it at once: that it waits is its promise.
    async fn found(self, read: Read, acknowledged: Instant) -> Result<Duration, BenchError> {
        let hidden = BenchError::Hidden { node: self.node, seconds: WITHIN.as_secs() };
        let mut node = ShardServiceClient::new(self.channel);
        while acknowledged.elapsed() < WITHIN {
            let mut request = Request::new(self.search.clone());
            request.set_timeout(WITHIN);
            let answer =
                node.search(request).await.map_err(|status| BenchError::Task(status.to_string()))?.into_inner();
            if answer.hits.iter().any(|hit| hit.id.as_ref() == Some(&self.id)) {
                return Ok(acknowledged.elapsed());
            }
            // A replica that lags too far sends session reads elsewhere; one that answers must have the point.
            if read == Read::Session && answer.failures.is_empty() {
                return Err(hidden);
            }
        }
        Err(hidden)
    }
}

fn search(shard: &Shard, read: Read, token: &Token, vector: &[f32]) -> wire::SearchRequest {
    let (applied_index_min, staleness_ms_max) = match read {
        Read::Session => (token.index_of(ShardId(shard.id)).0, 0),
        Read::Eventual => (0, STALENESS_MS_MAX),
    };
    let linearizable = false;
    let (shard_id, epoch) = (shard.id, shard.epoch);
    let target = wire::ShardTarget { shard_id, epoch, applied_index_min, linearizable, staleness_ms_max };
    wire::SearchRequest {
        targets: vec![target],
        vector: Some(convert::vector_to_wire(vector)),
        k: K,
        ..wire::SearchRequest::default()
    }
}
