//! Comparing replicas: the leader of a shard asks the others, now and then, what their content comes to, and has the odd one
//! fetch the content of the rest.
//!
//! Replicas of one log that differ are a bug, or a disk or memory that lies; nobody notices, as each by itself is well. So
//! a difference is an alarm (`shoal_node_digest_differences`, and an error in the log of the leader's node) before it is mended.
//!
//! Deciding is pure ([`odd_ones`]): at a position where digests differ those are odd that differ from what most of the
//! shard's replicas have. If no digest has a majority, nobody can say who is right: it stays an alarm.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_consensus::Role;
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{LogIndex, NodeId};
use shoal_proto::internal::v1 as wire;
use tokio::task::JoinSet;
use tonic::Request;

use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::replica::{Errand, Replica};
use crate::replicas::Replicas;

/// How often shards are compared.
const COMPARE_EVERY: Duration = Duration::from_secs(5);
/// How long a replica may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Digests of one replica by position.
pub type Digests = BTreeMap<LogIndex, u128>;

/// A replica whose content is not that of most others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Odd {
    /// Where it is.
    pub node: NodeId,
    /// The position at which it differs.
    pub index: LogIndex,
    /// What it has there.
    pub digest: u128,
}

/// What comparing replicas came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Pairs of the leader's digest and another's at one position.
    pub pairs: usize,
    /// Those that differ.
    pub differences: usize,
    /// At the newest position that tells; none if most do not agree on anything.
    pub odd: Vec<Odd>,
}

/// Compares the shards that are led here, until dropped.
pub(crate) async fn compare_all(replicas: Arc<Replicas>, peers: Arc<Peers>, metrics: Metrics) {
    let mut interval = tokio::time::interval(COMPARE_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        for replica in replicas.all() {
            let leads = replica.group_status().is_some_and(|status| status.role == Role::Leader);
            let others = peers.of(replica.shard);
            if leads && !others.is_empty() {
                compare(&replica, &peers, others, &metrics).await;
            }
        }
    }
}

async fn compare(replica: &Replica, peers: &Arc<Peers>, others: Vec<NodeId>, metrics: &Metrics) {
    let mut asked = JoinSet::new();
    let full_replicas = others.len() + 1;
    for node in others {
        let (peers, shard) = (peers.clone(), replica.shard);
        asked.spawn(async move { Some((node, digests_of(&peers, shard, node).await?)) });
    }
    let mut all: BTreeMap<NodeId, Digests> = asked.join_all().await.into_iter().flatten().collect();
    // After theirs, so that the leader has come at least as far.
    all.insert(peers.me(), replica.digests().into_iter().collect());
    let Compared { pairs, differences, odd } = odd_ones(peers.me(), full_replicas, &all);
    metrics.compared(pairs, differences);
    if differences > 0 {
        tracing::error!(shard = replica.shard.0, differences, ?odd, "replicas of one shard differ");
    }
    for odd in odd {
        if odd.node == peers.me() {
            // Another leads meanwhile, as a replica that waits for a snapshot gives the lead away.
            let _ = replica.send(Errand::Rebuild);
        } else {
            rebuild(peers, replica, odd).await;
        }
    }
}

async fn digests_of(peers: &Peers, shard: shoal_model::ShardId, node: NodeId) -> Option<Digests> {
    let mut client = peers.client(shard, node).ok()?;
    let mut request = Request::new(wire::GetDigestsRequest { shard_id: shard.0 });
    request.set_timeout(ANSWER_WITHIN);
    let answer = client.get_digests(request).await.ok()?.into_inner();
    let differs = u128::from(meet(Failpoint::NodeCompare).is_err());
    let digest = |told: wire::PositionDigest| {
        Some((LogIndex(told.applied_index), u128::from_be_bytes(told.digest[..].try_into().ok()?) ^ differs))
    };
    Some(answer.digests.into_iter().filter_map(digest).collect())
}

async fn rebuild(peers: &Peers, replica: &Replica, odd: Odd) {
    if let Err(injected) = meet(Failpoint::NodeRebuildAsk) {
        tracing::warn!(shard = replica.shard.0, node = odd.node.0, %injected, "a replica that differs is not rebuilt yet");
        return;
    }
    let Ok(mut client) = peers.client(replica.shard, odd.node) else { return };
    let digest =
        wire::PositionDigest { applied_index: odd.index.0, digest: Bytes::copy_from_slice(&odd.digest.to_be_bytes()) };
    let mut request = Request::new(wire::RebuildRequest { shard_id: replica.shard.0, digest: Some(digest) });
    request.set_timeout(ANSWER_WITHIN);
    if let Err(status) = client.rebuild(request).await {
        tracing::warn!(shard = replica.shard.0, node = odd.node.0, %status, "a replica that differs is not rebuilt yet");
    }
}

/// Compares what replicas say, of which there are `full_replicas`, whether they answered or not.
pub fn odd_ones(leader: NodeId, full_replicas: usize, all: &BTreeMap<NodeId, Digests>) -> Compared {
    let mut compared = Compared::default();
    let Some(own) = all.get(&leader) else { return compared };
    for (index, digest) in own {
        let at: Vec<(NodeId, u128)> = all.iter().filter_map(|(node, of)| Some((*node, *of.get(index)?))).collect();
        let differ = at.iter().filter(|(_, other)| other != digest).count();
        compared.pairs += at.len() - 1;
        compared.differences += differ;
        if differ == 0 {
            continue;
        }
        let votes = |candidate: u128| at.iter().filter(|(_, other)| *other == candidate).count();
        let right = at.iter().map(|(_, digest)| *digest).find(|digest| 2 * votes(*digest) > full_replicas);
        if let Some(right) = right {
            let odd = at.into_iter().filter(|(_, digest)| *digest != right);
            compared.odd = odd.map(|(node, digest)| Odd { node, index: *index, digest }).collect();
        }
    }
    compared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_odd_one_is_who_differs_from_most() {
        let replica = |digests: &[(u64, u128)]| digests.iter().map(|(at, digest)| (LogIndex(*at), *digest)).collect();
        let odd = |node, index, digest| vec![Odd { node: NodeId(node), index: LogIndex(index), digest }];
        for (name, replicas, full, want) in [
            ("all the same", vec![vec![(1, 7), (2, 8)], vec![(2, 8)], vec![(1, 7)]], 3, (2, 0, vec![])),
            ("nothing in common", vec![vec![(1, 7)], vec![(2, 8)]], 3, (0, 0, vec![])),
            ("a follower", vec![vec![(1, 7)], vec![(1, 9)], vec![(1, 7)]], 3, (2, 1, odd(2, 1, 9))),
            ("the leader", vec![vec![(1, 9)], vec![(1, 7)], vec![(1, 7)]], 3, (2, 2, odd(1, 1, 9))),
            ("nobody knows", vec![vec![(1, 9)], vec![(1, 7)]], 2, (1, 1, vec![])),
            ("one is silent", vec![vec![(1, 9)], vec![(1, 7)]], 3, (1, 1, vec![])),
            ("all differ", vec![vec![(1, 1)], vec![(1, 2)], vec![(1, 3)]], 3, (2, 2, vec![])),
        ] {
            let all: BTreeMap<NodeId, Digests> =
                (1..).zip(&replicas).map(|(node, digests)| (NodeId(node), replica(digests))).collect();
            let Compared { pairs, differences, odd } = odd_ones(NodeId(1), full, &all);
            assert_eq!((pairs, differences, odd), want, "{name}");
        }
    }
}
