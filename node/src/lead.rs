//! What the leader of a shard does beside ordering writes: it says when a delta is sealed, offers segments that it has built
//! to the followers, and has the log install them.
//!
//! A proposal that fails costs nothing: what it was about is planned again by whoever leads then.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_consensus::{Consensus, ConsensusError};
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{NodeId, ShardId};
use shoal_proto::internal::v1 as wire;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::Request;

use crate::NodeError;
use crate::jobs::Made;
use crate::peers::Peers;
use crate::replica::group_of;
use crate::shard::command;
use crate::shard::machine::Applied;
use crate::shard::parts::{Manifest, Name};

/// How long a proposal may take.
const PROPOSE_WITHIN: Duration = Duration::from_secs(10);
/// Pause after one that failed.
const PROPOSE_AGAIN: Duration = Duration::from_millis(100);
/// How long followers are given to fetch a segment before it is installed without waiting for them, beside the time that
/// its bytes take at [`SLOWEST`].
const OFFER_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes a second that a follower is expected to fetch at least.
const SLOWEST: u64 = 16 << 20;
/// Pause before a follower is asked again that was not ready to fetch.
const OFFER_AGAIN: Duration = Duration::from_millis(50);

/// How long followers are given to fetch a segment.
fn patience(manifest: Manifest) -> Duration {
    OFFER_PATIENCE + Duration::from_secs((manifest.graph_bytes + manifest.stored_bytes) / SLOWEST)
}

/// How long after a follower has fetched a segment its install may come. Later it hardly will: whoever offered the segment
/// leads no more.
pub(crate) fn installs_within(manifest: Manifest) -> Duration {
    patience(manifest) + 2 * PROPOSE_WITHIN
}

/// Proposals under way.
pub(crate) struct Lead {
    shard: ShardId,
    consensus: Consensus<Applied>,
    peers: Arc<Peers>,
    under_way: JoinSet<Proposed>,
    sealing: bool,
}

/// A proposal that has ended.
pub(crate) enum Proposed {
    /// A seal, applied here or not.
    Seal(Result<(), ConsensusError>),
    /// An install.
    Install(Result<(), ConsensusError>),
}

impl Lead {
    /// Nothing is under way.
    pub(crate) fn new(shard: ShardId, consensus: Consensus<Applied>, peers: Arc<Peers>) -> Self {
        Self { shard, consensus, peers, under_way: JoinSet::new(), sealing: false }
    }

    /// Proposes a seal, unless one is under way.
    pub(crate) fn seal(&mut self, entry: Bytes) {
        if std::mem::replace(&mut self.sealing, true) {
            return;
        }
        let (consensus, shard) = (self.consensus.clone(), self.shard);
        self.under_way
            .spawn(async move { Proposed::Seal(propose(&consensus, shard, Failpoint::NodeSealPropose, entry).await) });
    }

    /// Offers a segment to the followers, waits a while for them to fetch it, and has the log install it.
    pub(crate) fn install(&mut self, made: Made) {
        let (consensus, shard, peers) = (self.consensus.clone(), self.shard, self.peers.clone());
        self.under_way.spawn(async move {
            if let Some(manifest) = made.manifest {
                offer(&peers, shard, &made.replaced, manifest).await;
            }
            let entry = command::encode_install(&made.replaced, made.manifest);
            Proposed::Install(propose(&consensus, shard, Failpoint::NodeInstallPropose, entry).await)
        });
    }

    /// The next proposal that has ended. Safe to drop.
    pub(crate) async fn next(&mut self) -> Result<Proposed, NodeError> {
        match self.under_way.join_next().await {
            Some(ended) => {
                let proposed = ended.map_err(|error| NodeError::Task(error.to_string()))?;
                if matches!(proposed, Proposed::Seal(_)) {
                    self.sealing = false;
                }
                Ok(proposed)
            }
            None => std::future::pending().await,
        }
    }
}

/// Proposes an entry; returns once it is applied here. It is no write, so the state machine's answer says nothing.
async fn propose(
    consensus: &Consensus<Applied>,
    shard: ShardId,
    before: Failpoint,
    entry: Bytes,
) -> Result<(), ConsensusError> {
    let answer = match meet(before) {
        Ok(()) => consensus.propose(group_of(shard), entry, Instant::now() + PROPOSE_WITHIN).await,
        Err(injected) => Err(injected.into()),
    };
    if answer.is_err() {
        // Refusals come at once, and whoever waits for the end of this one proposes again.
        sleep(PROPOSE_AGAIN).await;
    }
    answer.map(drop)
}

/// Has followers fetch a segment, all at once, for as long as that is worth waiting for.
async fn offer(peers: &Arc<Peers>, shard: ShardId, replaced: &[Name], manifest: Manifest) {
    let patience = patience(manifest);
    let mut offers = JoinSet::new();
    for node in peers.of(shard) {
        let (peers, replaced) = (peers.clone(), replaced.to_vec());
        offers
            .spawn(async move { timeout(patience, offer_to(&peers, shard, node, &replaced, manifest)).await.is_ok() });
    }
    let fetched = offers.join_all().await.into_iter().filter(|fetched| *fetched).count();
    tracing::debug!(shard = shard.0, fetched, "followers have fetched a segment");
}

/// Asks until the follower has it; whoever calls gives up.
async fn offer_to(peers: &Peers, shard: ShardId, node: NodeId, replaced: &[Name], manifest: Manifest) {
    loop {
        let offer = wire::OfferSegmentRequest {
            shard_id: shard.0,
            node_id: peers.me().0,
            replaced: replaced.to_vec(),
            segment: Some(manifest.to_wire()),
        };
        if meet(Failpoint::NodeOffer).is_ok()
            && let Ok(mut client) = peers.client(shard, node)
        {
            match client.offer_segment(Request::new(offer)).await {
                Ok(_) => return,
                Err(status) => tracing::debug!(shard = shard.0, node = node.0, %status, "offer refused; again"),
            }
        }
        sleep(OFFER_AGAIN).await;
    }
}
