//! The end of a run: waiting until all replicas have caught up, and asking them what they hold.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shoal_checker::digest::Observation;
use shoal_client::{ClientError, ClusterStatus, Collection};
use shoal_model::{LogIndex, ReplicaId, ShardId};
use shoal_proto::internal::v1 as wire;
use shoal_proto::internal::v1::replica_service_client::ReplicaServiceClient;
use shoal_proto::server;
use tonic::transport::Channel;

/// How long a cluster may take to be whole after the last fault.
pub(crate) const SETTLED_WITHIN: Duration = Duration::from_secs(90);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Asks the cluster about itself.
#[derive(Debug)]
pub(crate) struct Watcher {
    client: shoal_client::Client,
    channels: BTreeMap<String, Channel>,
}

impl Watcher {
    /// Through these routers. Errors: an address that is none.
    pub(crate) fn new(routers: &[String]) -> Result<Self, ClientError> {
        let client = shoal_client::Client::connect(routers)?.with_timeout(Duration::from_secs(5));
        Ok(Self { client, channels: BTreeMap::new() })
    }

    /// The cluster's client.
    #[must_use]
    pub(crate) fn client(&self) -> &shoal_client::Client {
        &self.client
    }

    /// Waits until all replicas with points have applied the same positions, and returns what they hold.
    ///
    /// Errors: what was still missing when time was out.
    pub(crate) async fn settled(&mut self) -> Result<Vec<Observation>, String> {
        let started = Instant::now();
        loop {
            let missing = match self.look().await {
                Ok(observations) => return Ok(observations),
                Err(missing) => missing,
            };
            if started.elapsed() > SETTLED_WITHIN {
                return Err(format!("{} s after the last fault: {missing}", SETTLED_WITHIN.as_secs()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What all replicas hold, if they have applied the same positions. Errors: what is missing for that.
    pub(crate) async fn look(&mut self) -> Result<Vec<Observation>, String> {
        let observations = self.observe().await?;
        laggard(&observations).map_or(Ok(observations), Err)
    }

    /// What every replica with points says of its content.
    async fn observe(&mut self) -> Result<Vec<Observation>, String> {
        let status = self.client.status().await.map_err(|error| error.to_string())?;
        let mut observations = Vec::new();
        for collection in &status.collections {
            for shard in &collection.shards {
                for replica in shard.replicas.iter().filter(|replica| !replica.witness) {
                    let address = address_of(&status, replica.node_id)?;
                    let digests = self.digests(&address, shard.id).await.map_err(|status| {
                        format!("shard {} of node {}: {}", shard.id, replica.node_id, status.message())
                    })?;
                    if digests.is_empty() {
                        return Err(format!("shard {} of node {} has applied nothing", shard.id, replica.node_id));
                    }
                    observations.extend(digests.into_iter().map(|digest| Observation {
                        shard: ShardId(shard.id),
                        applied: LogIndex(digest.applied_index),
                        replica: ReplicaId(replica.id),
                        digest: digest.digest.to_vec(),
                    }));
                }
            }
        }
        Ok(observations)
    }

    async fn digests(&mut self, address: &str, shard: u64) -> Result<Vec<wire::PositionDigest>, tonic::Status> {
        if !self.channels.contains_key(address) {
            let channel = server::channel(address).map_err(|error| tonic::Status::internal(error.to_string()))?;
            self.channels.insert(address.to_owned(), channel);
        }
        let mut request = tonic::Request::new(wire::GetDigestsRequest { shard_id: shard });
        request.set_timeout(Duration::from_secs(3));
        let mut node = ReplicaServiceClient::new(self.channels[address].clone());
        Ok(node.get_digests(request).await?.into_inner().digests)
    }
}

fn address_of(status: &ClusterStatus, node: u64) -> Result<String, String> {
    let known = status.nodes.iter().find(|known| known.id == node && known.alive);
    known.map(|known| known.address.clone()).ok_or_else(|| format!("node {node} is not alive"))
}

/// A shard whose replicas are at different positions, or that no replica knows.
fn laggard(observations: &[Observation]) -> Option<String> {
    let mut newest: BTreeMap<ShardId, BTreeMap<ReplicaId, LogIndex>> = BTreeMap::new();
    for Observation { shard, replica, applied, .. } in observations {
        let at = newest.entry(*shard).or_default().entry(*replica).or_default();
        *at = (*at).max(*applied);
    }
    let behind = newest.iter().find(|(_, replicas)| {
        let mut positions = replicas.values();
        let first = positions.next();
        positions.any(|position| Some(position) != first)
    });
    behind.map(|(shard, replicas)| format!("replicas of shard {shard} are at {replicas:?}"))
}

/// The shard that holds a hash.
#[must_use]
pub(crate) fn shard_at(collection: &Collection, hash: u64) -> u64 {
    let holds = |shard: &&shoal_client::Shard| shard.range.contains(hash);
    collection.shards.iter().find(holds).map_or(0, |shard| shard.id)
}
