//! Room on the disks of this node and of the others, and what the lack of it forbids.
//!
//! A node measures its own disk and tells the coordinators with every heartbeat; their answer names the others that lack room.
//! Without room a node takes no writes as a leader, hands its leads to replicas that have some, and begins no builds, merges,
//! fetches or snapshots. It takes what other leaders send until half of the reserve is gone, and then nothing but what keeps
//! its groups together. Reads, votes and heartbeats go on all the time, and so does everything once there is room again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use shoal_consensus::{Consensus, GroupStatus};
use shoal_model::{NodeId, Shard};
use shoal_runtime::{DiskState, DiskWatch, Room};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::NodeError;
use crate::shard::machine::Applied;

/// How long what was said of others counts. Where no coordinator answers, writes that a majority has no room for are not
/// refused, but wait in vain.
const NEWS_FOR: Duration = Duration::from_secs(10);

/// What others have said last.
struct News {
    at: Instant,
    lacking: BTreeMap<NodeId, DiskState>,
}

/// The disks that writes of this node's shards need.
pub(crate) struct Disks {
    me: NodeId,
    own: Arc<DiskWatch>,
    news: ArcSwap<News>,
}

impl Disks {
    /// Those of node `me`, whose own is `own`.
    pub(crate) fn new(me: NodeId, own: Arc<DiskWatch>) -> Self {
        let news = News { at: Instant::now(), lacking: BTreeMap::new() };
        Self { me, own, news: ArcSwap::from_pointee(news) }
    }

    /// How the own disk stands.
    pub(crate) fn own(&self) -> DiskState {
        self.own.state()
    }

    /// Whether the own disk has no room for anything that can wait.
    pub(crate) fn is_low(&self) -> bool {
        self.own.room() > Room::Enough
    }

    /// Wakes when the own disk has room for more or less than before.
    pub(crate) fn changes(&self) -> watch::Receiver<DiskState> {
        self.own.subscribe()
    }

    /// Takes what the coordinators say: which nodes have no room.
    pub(crate) fn hear(&self, mut lacking: BTreeMap<NodeId, DiskState>) {
        lacking.remove(&self.me); // that is measured here
        self.news.store(Arc::new(News { at: Instant::now(), lacking }));
    }

    /// Nodes without room, as far as is known.
    pub(crate) fn lacking(&self) -> BTreeSet<NodeId> {
        let news = self.news.load();
        let others = news.lacking.keys().copied().filter(|_| news.at.elapsed() < NEWS_FOR);
        others.chain(self.is_low().then_some(self.me)).collect()
    }

    /// Refuses work of so many bytes on the own disk that can wait.
    pub(crate) fn check_room(&self, bytes: u64) -> Result<(), NodeError> {
        let disk = self.own();
        if disk.room > Room::Enough || !disk.has_room_for(bytes) {
            return Err(NodeError::NoRoom { bytes, disk: Box::new(disk) });
        }
        Ok(())
    }

    /// Refuses a write to a shard that this node leads, if its own disk or those of too many others have no room.
    pub(crate) fn check_write(&self, shard: Option<&Shard>, group: Option<&GroupStatus>) -> Result<(), NodeError> {
        let own = self.own.state();
        if own.room > Room::Enough {
            return Err(NodeError::DiskFull { node: self.me, disk: Box::new(own) });
        }
        let news = self.news.load();
        let Some((shard, group)) = shard.zip(group) else { return Ok(()) };
        let voters = &group.members.voters;
        let node_of = |id| shard.replica(id).map(|replica| replica.node);
        let disks = voters.iter().filter_map(|id| news.lacking.get_key_value(&node_of(*id)?));
        let (lacking, quorum) = (disks.clone().count(), voters.len() / 2 + 1);
        match disks.max_by_key(|(_, disk)| disk.room) {
            Some((node, disk)) if voters.len() - lacking < quorum && news.at.elapsed() < NEWS_FOR => {
                Err(NodeError::DiskFull { node: *node, disk: Box::new(disk.clone()) })
            }
            _ => Ok(()),
        }
    }

    /// Whether any other node is known to lack room: then writes look at who votes on them.
    pub(crate) fn has_news(&self) -> bool {
        !self.news.load().lacking.is_empty()
    }
}

/// Measures the own disk until dropped, and has the groups take what it has room for.
pub(crate) async fn follow(own: Arc<DiskWatch>, consensus: Consensus<Applied>) {
    let tell = |disk: &DiskState| {
        consensus.set_room(disk.room < Room::Exhausted);
        match disk.room {
            Room::Enough => tracing::info!(%disk, "the disk has room again: writes are taken"),
            Room::Low => {
                tracing::warn!(%disk, "the disk has no room: writes are refused, and nothing is built; reads go on");
            }
            Room::Exhausted => {
                tracing::error!(%disk, "the disk is all but full: nothing is taken from other replicas either; reads go on");
            }
        }
    };
    own.follow(tell).await;
}

#[cfg(test)]
pub(crate) mod tests {
    use shoal_model::{Classify as _, ErrorKind, ReplicaId, ShardReplica, Standing};
    use shoal_runtime::{MemoryStore, Reserve, Space};

    use super::*;
    use crate::members::tests::led_by_first;

    const NOTHING: Reserve = Reserve { bytes: 0, percent: 0 };

    /// Disks without bounds.
    pub(crate) fn boundless(me: NodeId) -> Arc<Disks> {
        let watch = DiskWatch::new(Arc::new(MemoryStore::new()), NOTHING).expect("memory has no bounds");
        Arc::new(Disks::new(me, Arc::new(watch)))
    }

    fn full() -> DiskState {
        let space = Space { path: "/data".into(), free_bytes: 1 << 20, size_bytes: 1 << 30 };
        DiskState { space, reserve_bytes: 50 << 20, room: Room::Exhausted }
    }

    fn shard(replicas: u64) -> (Shard, GroupStatus) {
        let replica =
            |n| ShardReplica { id: ReplicaId(n), node: NodeId(n), witness: false, standing: Standing::Member };
        led_by_first((1..=replicas).map(replica).collect(), vec![])
    }

    #[tokio::test(start_paused = true)]
    async fn writes_are_refused_where_no_majority_has_room() {
        for (name, replicas, lacking, is_refused) in [
            ("all have room", 3, &[][..], false),
            ("one of three", 3, &[2][..], false),
            ("two of three", 3, &[2, 3][..], true),
            ("two of five", 5, &[2, 3][..], false),
            ("one of two", 2, &[2][..], true),
            ("others, who have no vote", 3, &[8, 9][..], false),
        ] {
            let disks = boundless(NodeId(1));
            disks.hear(lacking.iter().map(|node| (NodeId(*node), full())).collect());
            let (shard, status) = shard(replicas);
            let checked = disks.check_write(Some(&shard), Some(&status));
            assert_eq!(checked.is_err(), is_refused, "{name}");
            if let Err(refusal) = checked {
                assert_eq!(refusal.kind(), ErrorKind::DiskFull);
                let text = refusal.to_string();
                assert!(text.contains("1.0 MiB of 1.0 GiB are free at /data"), "{text}");
            }
            tokio::time::advance(NEWS_FOR).await;
            assert!(disks.check_write(Some(&shard), Some(&status)).is_ok(), "{name}: what is old does not count");
            assert!(disks.lacking().is_empty());
        }
    }
}
