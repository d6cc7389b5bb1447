//! How shards are: one answer for tables, counts and warnings, from what was heard at one moment.
//!
//! A shard is served through its leader. One without is not out of reach for good while most of its nodes live, as they
//! elect another: that is told as such for a while, and then as what it is.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoal_model::{ClusterMap, Shard, ShardId};
use shoal_proto::v1::ShardHealth;

use crate::heard::{Hearing, Liveness};

/// How long an election may take, and the news of it.
const ELECTED_WITHIN: Duration = Duration::from_secs(5);

/// Shards that were served, and of whose leader nothing is heard any more though most of their nodes live; since when.
#[derive(Debug, Default)]
pub(crate) struct Leaderless(Mutex<BTreeMap<ShardId, Instant>>);

impl Leaderless {
    /// Takes note of how shards are.
    pub(crate) fn note(&self, map: &ClusterMap, hearing: &Hearing) {
        let waits = |shard: &&Shard| leads(shard, hearing).is_none() && most_live(shard, hearing);
        // Replaced as a whole, so a poisoned map is one of before or after.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |shard: &Shard| (shard.id, kept.get(&shard.id).copied().unwrap_or(hearing.now));
        let found = map.shards.values().filter(waits).map(since).collect();
        *kept = found;
    }

    /// Those of this moment.
    pub(crate) fn all(&self) -> BTreeMap<ShardId, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The position among its replicas of the one that says it leads.
fn leads(shard: &Shard, hearing: &Hearing) -> Option<usize> {
    let leads = |node| hearing.report(node, shard.id).is_some_and(|report| report.leader);
    shard.replicas.iter().position(|replica| leads(replica.node))
}

fn most_live(shard: &Shard, hearing: &Hearing) -> bool {
    let live = shard.replicas.iter().filter(|replica| hearing.liveness(replica.node) == Liveness::Alive);
    live.count() > shard.replicas.len() / 2
}

/// How a shard is.
pub(crate) fn health_of(shard: &Shard, hearing: &Hearing) -> ShardHealth {
    let is_awaited = |replica: &&shoal_model::ShardReplica| hearing.liveness(replica.node) == Liveness::Awaited;
    let awaited = shard.replicas.iter().filter(is_awaited).count();
    if leads(shard, hearing).is_some() {
        let serves = |node| hearing.report(node, shard.id).is_some_and(|report| !report.restoring);
        let serving = shard.replicas.iter().filter(|replica| serves(replica.node)).count();
        return match shard.replicas.len() - serving {
            0 => ShardHealth::Healthy,
            missing if missing == awaited => ShardHealth::Unknown,
            _ => ShardHealth::Degraded,
        };
    }
    if awaited > 0 {
        return ShardHealth::Unknown;
    }
    let mut reports = shard.replicas.iter().filter_map(|replica| hearing.report(replica.node, shard.id));
    let untouched = reports.all(|report| report.commit_index == 0);
    let lasts = hearing.leaderless.get(&shard.id).map(|since| hearing.now.saturating_duration_since(*since));
    let is_new = lasts.is_none_or(|lasts| lasts < ELECTED_WITHIN);
    if most_live(shard, hearing) && (untouched || is_new) { ShardHealth::Starting } else { ShardHealth::Unavailable }
}

#[cfg(test)]
mod tests {
    use shoal_model::{
        CollectionSpec, Command, GraphSpec, IndexSpec, Metric, NodeId, OperationId, StoreId, placement::place,
    };
    use shoal_proto::v1::ReplicaReport;

    use super::*;
    use crate::heard::Heartbeat;
    use crate::heard::tests::hearing;

    fn map(replicas: u32) -> ClusterMap {
        let mut map = ClusterMap::default();
        for i in 1..=3_u128 {
            let (address, name) = (format!("http://127.0.0.1:{i}"), format!("node-{i}"));
            map.apply(Command::RegisterNode { store: StoreId(i), name, address, zone: String::new(), replaces: None });
        }
        let index = IndexSpec { dim: 2, metric: Metric::Dot, embedding: String::new(), graph: GraphSpec::DEFAULT };
        let spec = CollectionSpec { name: "c".into(), shards: 1, replicas, witness: false, index };
        let placement = place(&map, 1, replicas).expect("three nodes");
        map.apply(Command::CreateCollection { operation: OperationId(1), spec, placement });
        map
    }

    /// What the nodes say in turn: that it leads, that it follows, that it was just opened, that it restores, nothing of
    /// the shard, nothing at all.
    fn heard(map: &ClusterMap, said: &[&str], now: Instant) -> Hearing {
        let shard = map.shards.keys().next().copied().expect("created");
        let report = |said: &str| match said {
            "leads" => Some(ReplicaReport { leader: true, commit_index: 9, ..Default::default() }),
            "follows" => Some(ReplicaReport { commit_index: 9, ..Default::default() }),
            "restores" => Some(ReplicaReport { commit_index: 9, restoring: true, ..Default::default() }),
            "opened" => Some(ReplicaReport::default()),
            _ => None,
        };
        let speak = (1..).zip(said).filter(|(_, said)| **said != "silent");
        hearing(
            now,
            speak.map(|(node, said)| {
                let shards = report(said).map(|report| (shard, report)).into_iter().collect();
                (NodeId(node), Heartbeat { shards, ..Heartbeat::new(now) })
            }),
        )
    }

    #[test]
    fn a_shard_is_what_its_nodes_say_and_do_not_say() {
        use ShardHealth::{Degraded, Healthy, Starting, Unavailable, Unknown};
        let now = Instant::now() + Duration::from_secs(3_600);
        for (name, said, leaderless_s, has_listened, want) in [
            ("all serve", &["leads", "follows", "follows"][..], None, true, Healthy),
            ("one is silent", &["leads", "follows", "silent"], None, true, Degraded),
            ("one has not opened it", &["leads", "follows", "alive"], None, true, Degraded),
            ("one restores it", &["leads", "follows", "restores"], None, true, Degraded),
            ("made just now", &["alive", "opened", "alive"], Some(99), true, Starting),
            ("it elects", &["alive", "follows", "follows"], Some(1), true, Starting),
            ("in vain", &["alive", "follows", "follows"], Some(9), true, Unavailable),
            ("most are gone", &["follows", "silent", "silent"], None, true, Unavailable),
            ("the only one is gone", &["silent"], None, true, Unavailable),
            ("the only one starts", &["alive"], Some(99), true, Starting),
            ("a new leader hears nobody yet", &["silent"; 3], None, false, Unknown),
            ("and then some", &["follows", "silent", "follows"], None, false, Unknown),
            ("and then who leads", &["leads", "silent", "follows"], None, false, Unknown),
            ("what it knows it tells", &["leads", "silent", "restores"], None, false, Degraded),
        ] {
            let map = map(u32::try_from(said.len()).expect("few"));
            let shard = map.shards.values().next().expect("created");
            let mut hearing = heard(&map, said, now);
            hearing.since = hearing.since.filter(|_| has_listened);
            let since = leaderless_s.map(|seconds| (shard.id, now - Duration::from_secs(seconds)));
            hearing.leaderless = since.into_iter().collect();
            assert_eq!(health_of(shard, &hearing), want, "{name}");
        }
    }

    #[test]
    fn the_want_of_a_leader_lasts_until_there_is_one() {
        let map = map(3);
        let shard = map.shards.keys().next().copied().expect("created");
        let (leaderless, began) = (Leaderless::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        for (name, said, seconds, want) in [
            ("it is served", ["leads", "follows", "follows"], 0, None),
            ("it elects", ["silent", "follows", "follows"], 1, Some(1)),
            ("still", ["silent", "follows", "follows"], 3, Some(1)),
            ("it has elected", ["silent", "leads", "follows"], 4, None),
            ("most are gone", ["silent", "silent", "follows"], 5, None),
        ] {
            leaderless.note(&map, &heard(&map, &said, at(seconds)));
            assert_eq!(leaderless.all().get(&shard).copied(), want.map(at), "{name}");
        }
    }
}
