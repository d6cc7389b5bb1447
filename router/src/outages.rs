//! Shards on which requests keep failing: told in the log once that has gone on, and once it is over.
//!
//! Each request that fails tells its caller; that all of them do, and since when, only the router sees. What no retry helps,
//! such as a full disk or a wrong request, is not counted: whoever has to do something about it is told elsewhere.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_model::ShardId;
use tokio::time::Instant;

use crate::fanout::{Cause, Failure, Gap};

/// How long requests must have failed before that is told: longer than an election, or a node's restart.
const TELL_AFTER: Duration = Duration::from_secs(10);
/// Between two times at which it is told.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// An outage of which nothing was heard for so long is over, or nobody asks.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// The shards that fail, by what they are asked for.
#[derive(Debug, Default)]
pub(crate) struct Outages(Mutex<BTreeMap<(ShardId, Asked), Outage>>);

/// What only leaders do fails apart from all else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    Leader,
    AnyReplica,
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    last: Instant,
    told_at: Option<Instant>,
}

/// What is worth a line in the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    Lasts { shard: ShardId, since: Duration, failure: Failure },
    Over { shard: ShardId, after: Duration },
}

impl Outages {
    /// Takes note of a request that is over, and tells what is to be told.
    pub(crate) fn hear(
        &self,
        asked: Asked,
        answered: impl Iterator<Item = ShardId>,
        gaps: &[Gap],
        now: Instant,
    ) -> Vec<News> {
        let mut outages = self.lock();
        // The usual case costs nothing more.
        if outages.is_empty() && gaps.is_empty() {
            return Vec::new();
        }
        let over = answered.filter_map(|shard| Some((shard, outages.remove(&(shard, asked))?)));
        let over = over.filter(|(_, outage)| outage.told_at.is_some());
        let mut news: Vec<News> = over.map(|(shard, outage)| News::Over { shard, after: now - outage.since }).collect();
        for gap in gaps.iter().filter(|gap| lasts(gap.failure.cause)) {
            let outage = outages.entry((gap.shard, asked)).or_insert_with(|| Outage::new(now));
            if outage.is_to_be_told(now) {
                let since = now - outage.since;
                news.push(News::Lasts { shard: gap.shard, since, failure: gap.failure.clone() });
            }
        }
        outages.retain(|_, outage| now - outage.last < FORGET_AFTER);
        news
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(ShardId, Asked), Outage>> {
        // A table that a panic has left lacks a time at most.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outage {
    fn new(now: Instant) -> Self {
        Self { since: now, last: now, told_at: None }
    }

    /// Notes another failure.
    fn is_to_be_told(&mut self, now: Instant) -> bool {
        if now - self.last >= FORGET_AFTER {
            *self = Self::new(now);
        }
        self.last = now;
        let due = self.told_at.map_or(self.since + TELL_AFTER, |told_at| told_at + TELL_EVERY);
        if due <= now {
            self.told_at = Some(now);
        }
        due <= now
    }
}

impl News {
    /// Writes it to the log.
    pub(crate) fn log(&self, asked: Asked) {
        let what = match asked {
            Asked::Leader => "writes and linearizable reads",
            Asked::AnyReplica => "reads",
        };
        match self {
            Self::Lasts { shard, since, failure } => tracing::warn!(
                shard = shard.0,
                for_s = since.as_secs(),
                last = %failure,
                "{what} of a shard keep failing; `shoal status` says which of its nodes are there"
            ),
            Self::Over { shard, after } => {
                tracing::info!(shard = shard.0, after_s = after.as_secs(), "{what} of a shard are served again");
            }
        }
    }
}

/// Whether retries were to help, and have not.
fn lasts(cause: Cause) -> bool {
    match cause {
        Cause::StaleEpoch | Cause::NotReady | Cause::NotLeader | Cause::Unreachable | Cause::Silent => true,
        Cause::Overloaded | Cause::DiskFull | Cause::Deadline | Cause::Invalid | Cause::Internal => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(5);

    fn gap(cause: Cause) -> [Gap; 1] {
        [Gap { shard: SHARD, failure: Failure::new(cause, "on purpose") }]
    }

    /// How long it has failed, if that is told.
    fn fails(outages: &Outages, asked: Asked, cause: Cause, now: Instant) -> Option<Duration> {
        match &outages.hear(asked, [].into_iter(), &gap(cause), now)[..] {
            [] => None,
            [News::Lasts { shard: SHARD, since, .. }] => Some(*since),
            other => panic!("one shard fails, got {other:?}"),
        }
    }

    #[test]
    fn what_goes_on_is_told_now_and_then_and_its_end_once() {
        let (outages, begun) = (Outages::default(), Instant::now());
        let told: Vec<u64> = (0..200)
            .filter(|s| fails(&outages, Asked::Leader, Cause::StaleEpoch, begun + Duration::from_secs(*s)).is_some())
            .collect();
        assert_eq!(told, [10, 70, 130, 190], "seconds at which it was told");
        let end = begun + Duration::from_secs(200);
        assert_eq!(outages.hear(Asked::AnyReplica, [SHARD].into_iter(), &[], end), [], "eventual reads went on");
        let over = News::Over { shard: SHARD, after: Duration::from_secs(200) };
        assert_eq!(outages.hear(Asked::Leader, [SHARD].into_iter(), &[], end), [over]);
        assert_eq!(outages.hear(Asked::Leader, [SHARD].into_iter(), &[], end), [], "that is known");
    }

    #[test]
    fn what_ends_soon_or_is_told_elsewhere_is_not_told() {
        let (outages, begun) = (Outages::default(), Instant::now());
        for s in 0..100 {
            let now = begun + Duration::from_secs(s);
            assert_eq!(fails(&outages, Asked::Leader, Cause::DiskFull, now), None);
            if s % 9 == 0 {
                assert_eq!(outages.hear(Asked::Leader, [SHARD].into_iter(), &[], now), []);
            }
            assert_eq!(fails(&outages, Asked::Leader, Cause::NotLeader, now), None, "{s}: an election is no outage");
        }
        let later = begun + Duration::from_secs(10_000);
        assert_eq!(fails(&outages, Asked::Leader, Cause::NotLeader, later), None, "nobody asked in between");
    }
}
