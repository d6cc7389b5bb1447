//! What to do next for one request: the router's decisions as a plain state machine.
//!
//! [`Fanout::decide`] takes an event and the time since the request began, and says what to do. No clock, no
//! sockets, no tasks: the shell (`flight`) brings the events and carries out the actions, and so does a simulation.
//!
//! What holds, whatever comes in and in whatever order:
//! - it finishes exactly once, at the latest at [`Plan::ends_at`], and does nothing afterwards;
//! - every shard asked for is either answered or a gap with a reason;
//! - a replica has one open call at most, and a shard has several only where all but the last are to silent nodes;
//! - a shard counts as answered with its first answer; what comes later changes nothing;
//! - until it finishes there is an open call or a time to wake at.
//!
//! Does not know about: what is searched or written, addresses, the wire.

mod terms;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use shoal_model::{ClusterMap, Epoch, LogIndex, NodeId, Shard, ShardId, Standing};

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
    calls: BTreeMap<CallId, Open>,
    last_call: u32,
    refused: Option<Failure>,
    retries: BTreeMap<Cause, u64>,
    random: SmallRng,
    finished: bool,
}

/// An open call.
#[derive(Debug)]
struct Open {
    node: NodeId,
    targets: Vec<Target>,
    /// Whether its node is known to be silent.
    silent: bool,
}

/// Where one shard stands.
#[derive(Debug)]
struct Part {
    state: State,
    /// Position of the next replica in turn among [`candidates`], modulo their number.
    turn: usize,
    /// Node that is said to lead.
    leader: Option<NodeId>,
    /// How often nodes were asked.
    asked: BTreeMap<NodeId, u32>,
    /// Nodes that did not know the shard as the map had it, and the epoch that it had there.
    refused_by: BTreeMap<NodeId, Epoch>,
    failures: u32,
    /// When the first of them came.
    failing_since: Option<Duration>,
    last: Option<Failure>,
    /// Nodes with an open call about it.
    open: Vec<NodeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be called at once.
    Ready,
    /// Nothing to do but to wait for open calls.
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
            First::Any => (turn, None),
            First::Leader(leaders) => (0, leaders.get(shard).copied()),
        };
        let part = |shard: &ShardId| {
            let (turn, leader) = first(shard);
            let part = Part {
                state: State::Ready,
                turn,
                leader,
                asked: BTreeMap::new(),
                refused_by: BTreeMap::new(),
                failures: 0,
                failing_since: None,
                last: None,
                open: Vec::new(),
            };
            (*shard, part)
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

    /// The position at which a replica of a shard answers.
    pub(crate) fn waits_for(&self, shard: ShardId) -> LogIndex {
        self.plan.waits_for.index_of(shard)
    }

    /// The shards that have answered.
    pub(crate) fn answered(&self) -> impl Iterator<Item = ShardId> {
        self.parts.iter().filter(|(_, part)| part.state == State::Answered).map(|(shard, _)| *shard)
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
            Event::Silent { call } => self.take_silence(at, call),
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
        let (node, targets) = self.close(call);
        let mut failed: BTreeMap<ShardId, Failure> = failed.into_iter().collect();
        let mut refresh = false;
        for target in targets {
            if answered.contains(&target.shard) {
                self.set(target.shard, State::Answered);
                continue;
            }
            let silent = || Failure::new(Cause::NotReady, "its node did not answer for it");
            let failure = failed.remove(&target.shard).unwrap_or_else(silent);
            refresh |= self.fail(at, node, target, failure);
        }
        refresh
    }

    fn take_failure(&mut self, at: Duration, call: CallId, failure: &Failure) -> bool {
        let (node, targets) = self.close(call);
        let fail = |refresh, target| self.fail(at, node, target, failure.clone()) || refresh;
        targets.into_iter().fold(false, fail)
    }

    /// Asks others about what a silent node was asked.
    fn take_silence(&mut self, at: Duration, call: CallId) {
        let Some(call) = self.calls.get_mut(&call).filter(|call| !call.silent) else { return };
        call.silent = true;
        let (node, targets) = (call.node, call.targets.clone());
        self.plan.silent.insert(node);
        for target in targets {
            if self.parts.get(&target.shard).is_some_and(|part| part.waits_for_silent(&self.plan)) {
                self.fail(at, Some(node), target, Failure::new(Cause::Silent, format!("node {node} says nothing")));
            }
        }
    }

    /// Whether an answer about some shards is the first about each: nodes answer for all their shards together, so
    /// that it cannot count for some of them alone.
    pub(crate) fn counts(&self, answered: &[ShardId]) -> bool {
        let is_answered = |shard| self.parts.get(shard).is_some_and(|part| part.state == State::Answered);
        !answered.iter().any(is_answered)
    }

    /// To whom a call went that is over, and what it was about.
    fn close(&mut self, call: CallId) -> (Option<NodeId>, Vec<Target>) {
        let Some(Open { node, targets, .. }) = self.calls.remove(&call) else { return (None, Vec::new()) };
        for target in &targets {
            if let Some(part) = self.parts.get_mut(&target.shard) {
                part.open.retain(|open| *open != node);
            }
        }
        (Some(node), targets)
    }

    fn set(&mut self, shard: ShardId, state: State) {
        if let Some(part) = self.parts.get_mut(&shard) {
            part.state = state;
        }
    }

    /// Notes that a shard failed, on `node` if one was asked; says whether a newer map is needed.
    fn fail(&mut self, at: Duration, node: Option<NodeId>, target: Target, failure: Failure) -> bool {
        let Some(part) = self.parts.get_mut(&target.shard).filter(|part| part.state != State::Answered) else {
            return false;
        };
        let cause = failure.cause;
        part.failures = part.failures.saturating_add(1);
        part.failing_since.get_or_insert(at);
        part.last = Some(failure.clone());
        if cause.is_of_one_replica() {
            part.leader = failure.leader;
        }
        if let Some(node) = node.filter(|_| cause == Cause::StaleEpoch) {
            part.refused_by.insert(node, target.epoch);
        }
        let state = self.after_failure(at, target, cause);
        self.set(target.shard, state);
        if state != State::Lost {
            *self.retries.entry(cause).or_default() += 1;
        }
        if cause == Cause::Invalid {
            self.refused = Some(failure);
        }
        cause == Cause::StaleEpoch
    }

    /// What to do about a shard after a failure.
    fn after_failure(&mut self, at: Duration, target: Target, cause: Cause) -> State {
        let Some(part) = self.parts.get(&target.shard) else { return State::Lost };
        let entry = self.map.shards.get(&target.shard);
        let replicas = entry.map_or(0, |shard| candidates(shard).count()).max(1);
        let until = at + rest(part.failures / u32::try_from(replicas).unwrap_or(u32::MAX), &mut self.random);
        let give_up_at = part.failing_since.unwrap_or(at) + self.plan.patience;
        let in_time = until < self.plan.ends_at.min(give_up_at);
        let resting = |refused| if in_time { State::Resting { until, refused } } else { State::Lost };
        let state = match cause {
            Cause::StaleEpoch if entry.is_none_or(|shard| shard.epoch != target.epoch) => State::Ready,
            Cause::StaleEpoch => resting(Some(target.epoch)),
            _ if !cause.is_of_one_replica() => State::Lost,
            _ if (part.failures as usize).is_multiple_of(replicas) => resting(None),
            _ => State::Ready,
        };
        // An error does not beat an answer that is on its way, and the last one not even an answer that may be.
        let waits = match state {
            State::Lost => !part.open.is_empty(),
            _ => part.open.iter().any(|node| !self.plan.silent.contains(node)),
        };
        if waits { State::Called } else { state }
    }

    fn wake(&mut self, at: Duration) {
        let Self { parts, plan, .. } = self;
        for part in parts.values_mut() {
            if given_up_at(part, plan).is_some_and(|give_up_at| give_up_at <= at) {
                part.state = State::Lost;
            }
            if matches!(part.state, State::Resting { until, .. } if until <= at) {
                part.state = State::Ready;
            }
        }
    }

    fn next_wake(&self) -> Option<Duration> {
        let until = |part: &Part| match part.state {
            State::Resting { until, .. } => Some(until),
            _ => given_up_at(part, &self.plan),
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
                self.called(node, target.shard);
                groups.entry((node, own)).or_default().push(target);
            }
        }
        for ((node, _), targets) in groups {
            let call = self.new_call(node, targets.clone());
            actions.push(Action::Call { call, node, targets });
        }
    }

    fn new_call(&mut self, node: NodeId, targets: Vec<Target>) -> CallId {
        self.last_call += 1;
        let call = CallId(self.last_call);
        self.calls.insert(call, Open { node, targets, silent: false });
        call
    }

    fn called(&mut self, node: NodeId, shard: ShardId) {
        if let Some(part) = self.parts.get_mut(&shard) {
            part.state = State::Called;
            part.open.push(node);
            *part.asked.entry(node).or_default() += 1;
        }
    }

    /// The node to ask for a shard; `None` if there is none to ask: without open calls that counts as a failure.
    fn place(&mut self, at: Duration, shard: ShardId) -> Option<(NodeId, Target)> {
        let entry = self.map.shards.get(&shard)?;
        let target = Target { shard, epoch: entry.epoch };
        let candidates: Vec<NodeId> = candidates(entry).collect();
        let part = self.parts.get_mut(&shard)?;
        let in_turn = (0..candidates.len()).map(|ahead| part.turn.wrapping_add(ahead) % candidates.len());
        let free = |at: &usize| self.map.nodes.contains_key(&candidates[*at]) && !part.open.contains(&candidates[*at]);
        // Of equals the first in turn.
        let best = in_turn.filter(free).min_by_key(|at| {
            let node = candidates[*at];
            let silent = self.plan.silent.contains(&node);
            // Whoever leads knows the shard. One that does not will say so again, whatever the others believe of it.
            let leads = part.leader == Some(node) && part.refused_by.get(&node) != Some(&entry.epoch);
            (
                silent || !leads,
                part.asked.get(&node).copied().unwrap_or(0),
                silent,
                self.plan.lagging.contains(&(shard, node)),
            )
        });
        if let Some(at) = best {
            part.turn = at + 1;
            return Some((candidates[at], target));
        }
        if part.open.is_empty() {
            let message = match candidates.first() {
                Some(node) => format!("node {node} is not in the map"),
                None => "has no replica".to_owned(),
            };
            let failure = Failure::new(Cause::Unreachable, message);
            // A whole round fails at once.
            while self.parts.get(&shard)?.state == State::Ready {
                self.fail(at, None, target, failure.clone());
            }
        } else {
            part.state = State::Called;
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

impl Part {
    /// Whether nothing is left of it but calls to silent nodes.
    fn waits_for_silent(&self, plan: &Plan) -> bool {
        self.state == State::Called && self.open.iter().all(|node| plan.silent.contains(node))
    }
}

/// Nodes whose replica of a shard can be asked: those with points that are members.
fn candidates(shard: &Shard) -> impl Iterator<Item = NodeId> {
    shard.full_replicas().filter(|replica| replica.standing != Standing::Joining).map(|replica| replica.node)
}

/// When a shard is given up of which nothing is left but calls to silent nodes.
fn given_up_at(part: &Part, plan: &Plan) -> Option<Duration> {
    part.failing_since.filter(|_| part.waits_for_silent(plan)).map(|since| since + plan.patience)
}

/// Rest after `round` rounds through the replicas: doubling, bounded, with jitter so that requests spread.
fn rest(round: u32, random: &mut SmallRng) -> Duration {
    let doublings = round.saturating_sub(1).min(16);
    (REST_FIRST * 2_u32.pow(doublings)).min(REST_MAX).mul_f64(random.random_range(0.5..1.0))
}

#[cfg(test)]
mod tests;
