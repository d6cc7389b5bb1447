//! What a coordinator has heard of nodes. Kept in memory alone: it is news, not an agreement. The leader hears
//! everything, a new one within one heartbeat; the others hear what passes through them, for the time without one.
//!
//! Silence says something only of a node that had the time to speak: whoever has begun to lead a moment ago awaits it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_model::{NodeId, ReplicaId, ShardId};
use shoal_proto::v1::ReplicaReport;
use shoal_runtime::DiskState;

/// The last heartbeat of a node.
#[derive(Clone, Debug)]
pub(crate) struct Heartbeat {
    pub(crate) at: Instant,
    pub(crate) shards: BTreeMap<ShardId, ReplicaReport>,
    /// Who has a vote in the groups that it leads and that are not about to change.
    pub(crate) voters: BTreeMap<ShardId, Vec<ReplicaId>>,
    pub(crate) disk_bytes: u64,
    pub(crate) disk: DiskState,
    /// What is damaged there and nowhere else; empty if nothing is.
    pub(crate) damage: String,
}

impl Heartbeat {
    /// One that tells of nothing.
    pub(crate) fn new(at: Instant) -> Self {
        Self {
            at,
            shards: BTreeMap::new(),
            voters: BTreeMap::new(),
            disk_bytes: 0,
            disk: DiskState::default(),
            damage: String::new(),
        }
    }
}

/// The last heartbeat of every node.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    heartbeats: Mutex<BTreeMap<NodeId, Heartbeat>>,
    /// When nodes last registered: they live, and have told nothing of what they hold yet.
    registered: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Heard {
    /// Takes note of a heartbeat.
    pub(crate) fn note(&self, node: NodeId, heartbeat: Heartbeat) {
        self.lock().insert(node, heartbeat);
    }

    /// Takes note of a node that has registered at `now`.
    pub(crate) fn note_registered(&self, node: NodeId, now: Instant) {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).insert(node, now);
    }

    /// All last heartbeats of this moment.
    pub(crate) fn all(&self) -> BTreeMap<NodeId, Heartbeat> {
        self.lock().clone()
    }

    /// When nodes last registered.
    pub(crate) fn registered(&self) -> BTreeMap<NodeId, Instant> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last heartbeats of nodes heard of within `timeout` before `now`: what a silent node said is no news.
    pub(crate) fn lately(&self, now: Instant, timeout: Duration) -> BTreeMap<NodeId, Heartbeat> {
        let mut all = self.all();
        all.retain(|_, heartbeat| now.saturating_duration_since(heartbeat.at) <= timeout);
        all
    }

    /// The disks of nodes heard of within `timeout` before `now`.
    pub(crate) fn disks(&self, now: Instant, timeout: Duration) -> Vec<(NodeId, DiskState)> {
        let lately = |heartbeat: &Heartbeat| now.saturating_duration_since(heartbeat.at) <= timeout;
        let all = self.lock();
        let disks = all.iter().filter(|(_, heartbeat)| lately(heartbeat));
        disks.map(|(node, heartbeat)| (*node, heartbeat.disk.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Heartbeat>> {
        // One insert is one change, so a poisoned map is whole.
        self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom nodes tell of themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    /// This coordinator, which leads in this term.
    Leader(u64),
    /// Any of those that are left, as nobody leads.
    Anybody,
    /// Another, which leads.
    Another,
}

/// Since when this coordinator is the one whom nodes tell of themselves.
#[derive(Debug, Default)]
pub(crate) struct Listening(Mutex<Option<(Listener, Instant)>>);

impl Listening {
    /// Takes note of how it stands at `now`; says since when this coordinator hears of every node, if it does.
    pub(crate) fn note(&self, listener: Listener, now: Instant) -> Option<Instant> {
        // One assignment is one change, so what a panic elsewhere leaves is whole.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, since) = *kept.filter(|(before, _)| *before == listener).get_or_insert((listener, now));
        *kept = Some((listener, since));
        (listener != Listener::Another).then_some(since)
    }
}

/// Whether a node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// It was heard of lately.
    Alive,
    /// Nobody can know: it was not heard of, and whoever is asked has not listened for long enough.
    Awaited,
    /// It was not heard of, though it had the time to speak.
    Silent,
}

/// All that was heard, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Hearing {
    pub(crate) now: Instant,
    /// Silence after which a node counts as gone.
    pub(crate) timeout: Duration,
    /// Since when all nodes were to be heard of; none if they tell another.
    pub(crate) since: Option<Instant>,
    /// All last heartbeats.
    pub(crate) heartbeats: BTreeMap<NodeId, Heartbeat>,
    /// When nodes last registered.
    pub(crate) registered: BTreeMap<NodeId, Instant>,
    /// Shards that have no leader though most of their nodes live, since when.
    pub(crate) leaderless: BTreeMap<ShardId, Instant>,
}

impl Hearing {
    fn is_late(&self, at: Instant) -> bool {
        self.now.saturating_duration_since(at) > self.timeout
    }

    /// When a node was last heard of.
    fn last(&self, node: NodeId) -> Option<Instant> {
        let heartbeat = self.heartbeats.get(&node).map(|heartbeat| heartbeat.at);
        heartbeat.max(self.registered.get(&node).copied())
    }

    /// Whether a node lives.
    pub(crate) fn liveness(&self, node: NodeId) -> Liveness {
        if self.last(node).is_some_and(|at| !self.is_late(at)) {
            return Liveness::Alive;
        }
        let had_time = self.since.is_some_and(|since| self.is_late(since));
        if had_time { Liveness::Silent } else { Liveness::Awaited }
    }

    /// How long a node has been silent. None if it was not heard of since this coordinator listens: what it told another
    /// meanwhile is not known here.
    pub(crate) fn silence(&self, node: NodeId) -> Option<Duration> {
        let last = self.last(node)?;
        let is_known = self.liveness(node) == Liveness::Alive || self.since.is_some_and(|since| since <= last);
        is_known.then(|| self.now.saturating_duration_since(last))
    }

    /// The last heartbeat of a node that was heard of lately.
    pub(crate) fn lately(&self, node: NodeId) -> Option<&Heartbeat> {
        self.heartbeats.get(&node).filter(|heartbeat| !self.is_late(heartbeat.at))
    }

    /// What a node that was heard of lately says of its replica of a shard.
    pub(crate) fn report(&self, node: NodeId, shard: ShardId) -> Option<&ReplicaReport> {
        self.lately(node)?.shards.get(&shard)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What one hears who has listened for long.
    pub(crate) fn hearing(now: Instant, heartbeats: impl IntoIterator<Item = (NodeId, Heartbeat)>) -> Hearing {
        let since = now.checked_sub(Duration::from_secs(3_600));
        let heartbeats = heartbeats.into_iter().collect();
        let (registered, leaderless) = (BTreeMap::new(), BTreeMap::new());
        Hearing { now, timeout: Duration::from_secs(3), since, heartbeats, registered, leaderless }
    }

    #[test]
    fn who_had_no_time_to_speak_is_awaited() {
        use Liveness::{Alive, Awaited, Silent};
        let now = Instant::now() + Duration::from_secs(3_600);
        let ago = |seconds: u64| now - Duration::from_secs(seconds);
        // Seconds ago: the last heartbeat, the last registration, the beginning of listening.
        for (name, heartbeat, registered, since, want, silence) in [
            ("it speaks", Some(1), None, Some(60), Alive, Some(1)),
            ("to one that begins to lead", Some(1), None, Some(0), Alive, Some(1)),
            ("it was heard of, and no more", Some(9), None, Some(60), Silent, Some(9)),
            ("it was never heard of", None, None, Some(60), Silent, None),
            ("not yet", None, None, Some(1), Awaited, None),
            ("only by an earlier leader that is this one too", Some(150), None, Some(1), Awaited, None),
            ("and it has fallen silent since", Some(150), None, Some(4), Silent, None),
            ("it speaks to another", Some(150), None, None, Awaited, None),
            ("it has just registered", None, Some(0), Some(60), Alive, Some(0)),
            ("it has registered and said nothing since", None, Some(9), Some(60), Silent, Some(9)),
        ] {
            let heartbeat = heartbeat.map(|seconds| (NodeId(1), Heartbeat::new(ago(seconds))));
            let registered = registered.map(|seconds| (NodeId(1), ago(seconds))).into_iter().collect();
            let hearing = Hearing { since: since.map(ago), registered, ..hearing(now, heartbeat) };
            assert_eq!(hearing.liveness(NodeId(1)), want, "{name}");
            assert_eq!(hearing.silence(NodeId(1)), silence.map(Duration::from_secs), "{name}");
        }
    }

    #[test]
    fn each_beginning_counts_anew() {
        let listening = Listening::default();
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        for (name, listener, seconds, want) in [
            ("another leads", Listener::Another, 0, None),
            ("nobody does", Listener::Anybody, 1, Some(1)),
            ("still nobody", Listener::Anybody, 2, Some(1)),
            ("this one does", Listener::Leader(5), 3, Some(3)),
            ("and goes on", Listener::Leader(5), 90, Some(3)),
            ("it was elected anew", Listener::Leader(7), 91, Some(91)),
            ("it follows", Listener::Another, 92, None),
            ("it leads again", Listener::Leader(9), 93, Some(93)),
        ] {
            assert_eq!(listening.note(listener, at(seconds)), want.map(at), "{name}");
        }
    }
}
