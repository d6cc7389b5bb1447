//! The other nodes that hold replicas of a shard, and the pace at which data goes to and from them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shoal_model::{ClusterMap, NodeId, ShardId, ShardReplica, Standing};
use shoal_proto::internal::v1::replica_service_client::ReplicaServiceClient;
use shoal_proto::map_watch::MapWatch;
use shoal_proto::server;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::NodeError;

/// Bytes of one message of a transfer, about.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// Largest message of a transfer: a record may be larger than a chunk.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Who else holds a shard, and how to reach them.
pub(crate) struct Peers {
    me: NodeId,
    maps: MapWatch,
    channels: Mutex<BTreeMap<String, Channel>>,
    pace: Pace,
}

impl Peers {
    /// Those of node `me`; transfers to them take `bytes_per_second` at most, all together.
    pub(crate) fn new(me: NodeId, maps: MapWatch, bytes_per_second: u64) -> Self {
        Self { me, maps, channels: Mutex::default(), pace: Pace::new(bytes_per_second) }
    }

    /// This node.
    pub(crate) fn me(&self) -> NodeId {
        self.me
    }

    /// The newest map.
    pub(crate) fn map(&self) -> std::sync::Arc<ClusterMap> {
        self.maps.current()
    }

    /// The other nodes whose replicas of a shard have points.
    pub(crate) fn of(&self, shard: ShardId) -> Vec<NodeId> {
        let map = self.maps.current();
        let replicas = map.shards.get(&shard).into_iter().flat_map(|shard| shard.full_replicas());
        replicas.map(|replica| replica.node).filter(|node| *node != self.me).collect()
    }

    /// Whether other nodes have a shard's points: one that is to take the place of another may have none yet.
    pub(crate) fn have(&self, shard: ShardId) -> bool {
        let map = self.maps.current();
        let has_points = |replica: &ShardReplica| replica.node != self.me && replica.standing == Standing::Member;
        map.shards.get(&shard).is_some_and(|shard| shard.full_replicas().any(has_points))
    }

    /// A client of a node. Errors: `NotReady` if the map does not know where it is.
    pub(crate) fn client(&self, shard: ShardId, node: NodeId) -> Result<ReplicaServiceClient<Channel>, NodeError> {
        let map = self.maps.current();
        let address = map.nodes.get(&node).map(|node| node.address.clone()).ok_or(NodeError::NotReady { shard })?;
        // The table is whole at every moment, so a panic elsewhere leaves it usable.
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(&address) {
            Some(channel) => channel.clone(),
            None => {
                let channel = server::channel(&address)?;
                channels.insert(address, channel.clone());
                channel
            }
        };
        Ok(ReplicaServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Returns once so many bytes may be sent.
    pub(crate) async fn pace(&self, bytes: usize) {
        self.pace.take(bytes).await;
    }
}

/// Lets bytes through at a rate, first come, first served.
struct Pace {
    bytes_per_second: u64,
    /// When what was let through so far has passed.
    free_at: tokio::sync::Mutex<Instant>,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: tokio::sync::Mutex::new(Instant::now()) }
    }

    async fn take(&self, bytes: usize) {
        let mut free_at = self.free_at.lock().await;
        tokio::time::sleep_until(*free_at).await;
        #[allow(clippy::cast_precision_loss, reason = "a share of a second")]
        let lasts = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        *free_at = Instant::now() + lasts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_their_rate() {
        let (pace, began) = (Pace::new(1_000), Instant::now());
        for _ in 0..5 {
            pace.take(500).await;
        }
        assert_eq!(began.elapsed().as_millis(), 2_000, "the last of them begins when four have passed");
    }
}
