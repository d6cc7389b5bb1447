//! What to do next for one request: the router's decisions as a plain state machine.
//!
//! [`Fanout::decide`] takes an event and the time since the request began, and says what to do. No clock, no
//! sockets, no tasks: the shell (`flight`) brings the events and carries out the actions, and so does a simulation.
//!
//! What holds, whatever comes in and in whatever order:
//! - it finishes exactly once, at the latest at [`Plan::ends_at`], and does nothing afterwards;
//! - every shard asked for is either answered or a gap with a reason;
//! - a shard has one open call at most, and counts as answered with its first answer; a later error changes nothing;
//! - until it finishes there is an open call or a time to wake at.
//!
//! Does not know about: what is searched or written, addresses, the wire.

mod terms;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use shoal_model::{ClusterMap, Epoch, NodeId, Shard, ShardId, Standing};

pub(crate) use terms::{Action, CallId, Cause, Event, Failure, First, Gap, Grouping, Outcome, Plan, Target};

/// Rest after the first round through the replicas of a shard; it doubles with each further round.
const REST_FIRST: Duration = Duration::from_millis(5);
/// A multiple of every number of replicas that there may be, so that each is the first as often as any other.
const TURNS: usize = 420;
/// Longest rest.
const REST_MAX: Duration = Duration::from_millis(250);

/// One request on its way.
#[derive(Debug)]
pub(crate) struct Fanout {
    plan: Plan,
    map: Arc<ClusterMap>,
    parts: BTreeMap<ShardId, Part>,
    calls: BTreeMap<CallId, Vec<Target>>,
    last_call: u32,
    refused: Option<Failure>,
    retries: BTreeMap<Cause, u64>,
    random: SmallRng,
    finished: bool,
}

/// Where one shard stands.
#[derive(Debug)]
struct Part {
    state: State,
    /// Position of the replica to ask among [`candidates`], modulo their number.
    replica: usize,
    failures: u32,
    /// When the first of them came.
    failing_since: Option<Duration>,
    last: Option<Failure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be called at once.
    Ready,
    Called,
    /// To be called later; at once when the shard's entry in the map is no longer that of `refused`.
    Resting {
        until: Duration,
        refused: Option<Epoch>,
    },
    Answered,
    /// No call would help any more.
    Lost,
}

impl Fanout {
    /// A request that has not begun.
    pub(crate) fn new(plan: Plan, map: Arc<ClusterMap>) -> Self {
        let mut random = SmallRng::seed_from_u64(plan.seed);
        // One turn for all shards: those that share their nodes still share calls.
        let turn = random.random_range(0..TURNS);
        let first = |shard: &ShardId| match &plan.first {
            First::Any => turn,
            First::Leader(leaders) => {
                let known = map.shards.get(shard).zip(leaders.get(shard));
                known.and_then(|(shard, node)| position_on(shard, *node)).unwrap_or(0)
            }
        };
        let part = |shard: &ShardId| {
            (*shard, Part { state: State::Ready, replica: first(shard), failures: 0, failing_since: None, last: None })
        };
        Self {
            parts: plan.shards.iter().map(part).collect(),
            random,
            plan,
            map,
            calls: BTreeMap::new(),
            last_call: 0,
            refused: None,
            retries: BTreeMap::new(),
            finished: false,
        }
    }

    /// The map in force.
    pub(crate) fn map(&self) -> &Arc<ClusterMap> {
        &self.map
    }

    /// How often a shard was asked again, by the failure before.
    pub(crate) fn retries(&self) -> &BTreeMap<Cause, u64> {
        &self.retries
    }

    /// What to do about `event`, which came `at` this time since the request began.
    pub(crate) fn decide(&mut self, at: Duration, event: Event) -> Vec<Action> {
        if self.finished {
            return Vec::new();
        }
        let mut over = at >= self.plan.ends_at;
        let mut refresh = false;
        match event {
            Event::Started | Event::Woke => {}
            Event::Deadline => over = true,
            Event::Map(map) => self.take_map(map),
            Event::Answered { call, answered, failed } => refresh = self.take_answer(at, call, &answered, failed),
            Event::CallFailed { call, failure } => refresh = self.take_failure(at, call, &failure),
        }
        self.wake(at);
        let mut actions = Vec::new();
        if refresh {
            actions.push(Action::RefreshMap { beyond: self.map.epoch });
        }
        // Placing calls can lose shards, and with them the request.
        if self.outcome(over).is_none() {
            self.call_ready(at, &mut actions);
        }
        if let Some(outcome) = self.outcome(over) {
            self.finished = true;
            return vec![Action::Finish(outcome)];
        }
        actions.extend(self.next_wake().map(Action::WakeAt));
        actions
    }

    fn take_map(&mut self, map: Arc<ClusterMap>) {
        if map.epoch > self.map.epoch {
            self.map = map;
        }
        for (shard, part) in &mut self.parts {
            if let State::Resting { refused: Some(refused), .. } = part.state
                && self.map.shards.get(shard).is_none_or(|shard| shard.epoch != refused)
            {
                part.state = State::Ready;
            }
        }
    }

    /// Whether a newer map is needed.
    fn take_answer(
        &mut self,
        at: Duration,
        call: CallId,
        answered: &[ShardId],
        failed: Vec<(ShardId, Failure)>,
    ) -> bool {
        let Some(targets) = self.calls.remove(&call) else { return false };
        let mut failed: BTreeMap<ShardId, Failure> = failed.into_iter().collect();
        let mut refresh = false;
        for target in targets {
            if answered.contains(&target.shard) {
                self.set(target.shard, State::Answered);
                continue;
            }
            let silent = || Failure::new(Cause::NotReady, "its node did not answer for it");
            let failure = failed.remove(&target.shard).unwrap_or_else(silent);
            refresh |= self.fail(at, target, failure);
        }
        refresh
    }

    fn take_failure(&mut self, at: Duration, call: CallId, failure: &Failure) -> bool {
        let targets = self.calls.remove(&call).unwrap_or_default();
        let fail = |refresh, target| self.fail(at, target, failure.clone()) || refresh;
        targets.into_iter().fold(false, fail)
    }

    fn set(&mut self, shard: ShardId, state: State) {
        if let Some(part) = self.parts.get_mut(&shard) {
            part.state = state;
        }
    }

    /// Notes that a shard failed; says whether a newer map is needed.
    fn fail(&mut self, at: Duration, target: Target, failure: Failure) -> bool {
        let Some(part) = self.parts.get_mut(&target.shard).filter(|part| part.state != State::Answered) else {
            return false;
        };
        let entry = self.map.shards.get(&target.shard);
        let replicas = entry.map_or(0, |shard| candidates(shard).count()).max(1);
        let leader = entry.zip(failure.leader).and_then(|(shard, node)| position_on(shard, node));
        let cause = failure.cause;
        part.failures = part.failures.saturating_add(1);
        part.last = Some(failure.clone());
        let round = part.failures / u32::try_from(replicas).unwrap_or(u32::MAX);
        let rest = rest(round, &mut self.random);
        let give_up_at = self.plan.ends_at.min(*part.failing_since.get_or_insert(at) + self.plan.patience);
        let resting = |refused| {
            let until = at + rest;
            if until < give_up_at { State::Resting { until, refused } } else { State::Lost }
        };
        part.state = match cause {
            Cause::StaleEpoch if entry.is_none_or(|shard| shard.epoch != target.epoch) => State::Ready,
            Cause::StaleEpoch => resting(Some(target.epoch)),
            Cause::NotReady | Cause::NotLeader | Cause::Unreachable => {
                part.replica = leader.unwrap_or(part.replica.wrapping_add(1));
                let all_asked = (part.failures as usize).is_multiple_of(replicas);
                if all_asked { resting(None) } else { State::Ready }
            }
            Cause::Overloaded | Cause::DiskFull | Cause::Deadline | Cause::Invalid | Cause::Internal => State::Lost,
        };
        if part.state != State::Lost {
            *self.retries.entry(cause).or_default() += 1;
        }
        if cause == Cause::Invalid {
            self.refused = Some(failure);
        }
        cause == Cause::StaleEpoch
    }

    fn wake(&mut self, at: Duration) {
        for part in self.parts.values_mut() {
            if matches!(part.state, State::Resting { until, .. } if until <= at) {
                part.state = State::Ready;
            }
        }
    }

    fn next_wake(&self) -> Option<Duration> {
        let until = |part: &Part| match part.state {
            State::Resting { until, .. } => Some(until),
            _ => None,
        };
        self.parts.values().filter_map(until).min()
    }

    /// Calls the nodes of every shard that is ready.
    fn call_ready(&mut self, at: Duration, actions: &mut Vec<Action>) {
        let mut groups: BTreeMap<(NodeId, Option<ShardId>), Vec<Target>> = BTreeMap::new();
        let ready: Vec<ShardId> =
            self.parts.iter().filter(|(_, part)| part.state == State::Ready).map(|(shard, _)| *shard).collect();
        for shard in ready {
            if let Some((node, target)) = self.place(at, shard) {
                let own = (self.plan.grouping == Grouping::PerShard).then_some(shard);
                groups.entry((node, own)).or_default().push(target);
            }
        }
        for ((node, _), targets) in groups {
            let call = self.new_call(targets.clone());
            actions.push(Action::Call { call, node, targets });
        }
    }

    fn new_call(&mut self, targets: Vec<Target>) -> CallId {
        self.last_call += 1;
        let call = CallId(self.last_call);
        targets.iter().for_each(|target| self.set(target.shard, State::Called));
        self.calls.insert(call, targets);
        call
    }

    /// The node to ask for a shard; `None` if the map has none to ask, which counts as a failure.
    fn place(&mut self, at: Duration, shard: ShardId) -> Option<(NodeId, Target)> {
        let entry = self.map.shards.get(&shard)?;
        let target = Target { shard, epoch: entry.epoch };
        let nodes: Vec<NodeId> = candidates(entry).collect();
        for _ in 0..nodes.len().max(1) {
            let position = self.parts.get(&shard)?.replica;
            let node = nodes.get(position % nodes.len().max(1)).copied();
            if let Some(node) = node.filter(|node| self.map.nodes.contains_key(node)) {
                return Some((node, target));
            }
            let message = node.map_or("has no replica".to_owned(), |node| format!("node {node} is not in the map"));
            self.fail(at, target, Failure::new(Cause::Unreachable, message));
            if self.parts.get(&shard)?.state != State::Ready {
                return None;
            }
        }
        None
    }

    fn outcome(&self, over: bool) -> Option<Outcome> {
        if let Some(failure) = &self.refused {
            return Some(Outcome::Refused(failure.clone()));
        }
        if !self.map.collections.contains_key(&self.plan.collection) {
            return Some(Outcome::CollectionGone);
        }
        let count = |state| self.parts.values().filter(|part| part.state == state).count();
        let (answered, lost) = (count(State::Answered), count(State::Lost));
        let asked = self.parts.len();
        if self.replaced() || !self.enough(asked - lost) {
            return Some(Outcome::TooFew { answered, gaps: self.gaps() });
        }
        if answered + lost < asked && !over {
            return None;
        }
        let gaps = self.gaps();
        Some(if self.enough(answered) { Outcome::Answered { gaps } } else { Outcome::TooFew { answered, gaps } })
    }

    /// Whether a shard that is still to answer has left the map while its collection stayed. What is left of its
    /// range belongs to shards that were not asked: the request has to begin again.
    fn replaced(&self) -> bool {
        self.parts.iter().any(|(shard, part)| part.state == State::Ready && !self.map.shards.contains_key(shard))
    }

    #[allow(clippy::cast_precision_loss, reason = "a collection has few shards")]
    fn enough(&self, answered: usize) -> bool {
        answered as f64 + 1e-9 >= self.plan.coverage_min * self.parts.len() as f64
    }

    fn gaps(&self) -> Vec<Gap> {
        let open = self.parts.iter().filter(|(_, part)| part.state != State::Answered);
        open.map(|(shard, part)| Gap { shard: *shard, failure: self.reason(*shard, part) }).collect()
    }

    fn reason(&self, shard: ShardId, part: &Part) -> Failure {
        if !self.map.shards.contains_key(&shard) {
            return Failure::new(Cause::NotReady, "other shards took its place meanwhile; try again");
        }
        let silent = || Failure::new(Cause::Deadline, "did not answer in time");
        part.last.clone().unwrap_or_else(silent)
    }
}

/// Nodes whose replica of a shard can be asked: those with points that are members.
fn candidates(shard: &Shard) -> impl Iterator<Item = NodeId> {
    shard.full_replicas().filter(|replica| replica.standing != Standing::Joining).map(|replica| replica.node)
}

/// Position among [`candidates`] of the replica on a node.
fn position_on(shard: &Shard, node: NodeId) -> Option<usize> {
    candidates(shard).position(|candidate| candidate == node)
}

/// Rest after `round` rounds through the replicas: doubling, bounded, with jitter so that requests spread.
fn rest(round: u32, random: &mut SmallRng) -> Duration {
    let doublings = round.saturating_sub(1).min(16);
    (REST_FIRST * 2_u32.pow(doublings)).min(REST_MAX).mul_f64(random.random_range(0.5..1.0))
}

#[cfg(test)]
mod tests;
