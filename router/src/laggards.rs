//! Replicas that a session read has waited for in vain, until they are known to have what it waited for.
//!
//! A replica that lags makes each read wait that names a later position. Others are asked first meanwhile; that is
//! forgotten after a while, as a replica that nobody asks does not tell that it has caught up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_model::{LogIndex, NodeId, ShardId, Token};
use tokio::time::Instant;

/// How long it is held against a replica that it lagged.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);

/// What each of them lacked.
#[derive(Debug, Default)]
pub(crate) struct Laggards(Mutex<BTreeMap<(ShardId, NodeId), Lag>>);

#[derive(Clone, Copy, Debug)]
struct Lag {
    /// The earliest position that it lacked.
    lacks: LogIndex,
    until: Instant,
}

impl Laggards {
    /// What a node has answered: each shard with where its replica was, and those that were not ready with what was waited
    /// for; zero if that was nothing.
    pub(crate) fn hear(
        &self,
        node: NodeId,
        answered: impl Iterator<Item = (ShardId, LogIndex)>,
        not_ready: impl Iterator<Item = (ShardId, LogIndex)>,
    ) {
        let mut all = self.lock();
        for (shard, wanted) in not_ready.filter(|(_, wanted)| *wanted > LogIndex(0)) {
            let until = Instant::now() + REMEMBERED_FOR;
            let lag = all.entry((shard, node)).or_insert(Lag { lacks: wanted, until });
            *lag = Lag { lacks: lag.lacks.min(wanted), until };
        }
        // The usual case costs nothing more.
        if all.is_empty() {
            return;
        }
        for (shard, applied) in answered {
            if all.get(&(shard, node)).is_some_and(|lag| lag.lacks <= applied) {
                all.remove(&(shard, node));
            }
        }
    }

    /// The replicas that lack what is waited for, as far as is known.
    pub(crate) fn of(&self, waits_for: &Token) -> BTreeSet<(ShardId, NodeId)> {
        let mut all = self.lock();
        if all.is_empty() {
            return BTreeSet::new();
        }
        let now = Instant::now();
        all.retain(|_, lag| lag.until > now);
        let lacks = |(shard, _): &(ShardId, NodeId), lag: &Lag| lag.lacks <= waits_for.index_of(*shard);
        all.iter().filter(|(replica, lag)| lacks(replica, lag)).map(|(replica, _)| *replica).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(ShardId, NodeId), Lag>> {
        // Every change is one call or one assignment, so a poisoned table is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const SHARD: ShardId = ShardId(5);
    const NODE: NodeId = NodeId(2);

    fn failed(laggards: &Laggards, wanted: u64) {
        laggards.hear(NODE, [].into_iter(), [(SHARD, LogIndex(wanted))].into_iter());
    }

    fn answered(laggards: &Laggards, applied: u64) {
        laggards.hear(NODE, [(SHARD, LogIndex(applied))].into_iter(), [].into_iter());
    }

    fn lags(laggards: &Laggards, wanted: u64) -> bool {
        let mut token = Token::default();
        token.raise(SHARD, LogIndex(wanted));
        laggards.of(&token).contains(&(SHARD, NODE))
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_lags_until_it_has_what_was_waited_for_or_some_time_has_passed() {
        let laggards = Laggards::default();
        failed(&laggards, 0);
        assert!(!lags(&laggards, 100), "nothing was waited for: it fails for another reason");
        failed(&laggards, 42);
        assert_eq!((lags(&laggards, 41), lags(&laggards, 42), lags(&laggards, 43)), (false, true, true));
        answered(&laggards, 41);
        assert!(lags(&laggards, 42), "it lacks it still");
        answered(&laggards, 42);
        assert!(!lags(&laggards, 43));
        failed(&laggards, 42);
        failed(&laggards, 50);
        assert!(lags(&laggards, 42), "what it lacked first counts");
        advance(REMEMBERED_FOR).await;
        assert!(!lags(&laggards, 42), "it is asked again now and then");
    }
}
