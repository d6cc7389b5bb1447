use std::collections::BTreeSet;

use shoal_model::{
    ClusterId, CollectionId, Command, ErrorKind, GraphSpec, IndexSpec, Metric, OperationId, Outcome as Applied,
    StoreId, Token,
};
use shoal_model::{CollectionSpec, Reply};

use super::*;

const ENDS_AT: Duration = Duration::from_millis(1_000);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Nodes 1 to `nodes`, and a collection whose shard `i` has its replicas on the nodes of `placement[i]`.
fn map(nodes: u64, placement: &[&[u64]]) -> (Arc<ClusterMap>, CollectionId) {
    let mut map = ClusterMap::default();
    map.apply(Command::NameCluster { cluster: ClusterId(1) });
    for store in 1..=nodes {
        let address = format!("http://127.0.0.1:{store}");
        map.apply(Command::RegisterNode {
            store: StoreId(store.into()),
            name: "n".into(),
            address,
            zone: String::new(),
            replaces: None,
        });
    }
    let replicas = u32::try_from(placement[0].len()).expect("few");
    let created = map.apply(Command::CreateCollection {
        operation: OperationId(1),
        spec: CollectionSpec {
            name: "c".into(),
            shards: u32::try_from(placement.len()).expect("few"),
            replicas,
            witness: false,
            index: IndexSpec { dim: 2, metric: Metric::Dot, embedding: String::new(), graph: GraphSpec::DEFAULT },
        },
        placement: placement.iter().map(|nodes| nodes.iter().map(|node| NodeId(*node)).collect()).collect(),
    });
    match created {
        Applied { reply: Ok(Reply::Collection(id)), .. } => (Arc::new(map), id),
        other => panic!("the collection was not created: {other:?}"),
    }
}

fn shards(map: &ClusterMap) -> Vec<ShardId> {
    map.shards.keys().copied().collect()
}

fn fanout(map: &Arc<ClusterMap>, collection: CollectionId, coverage_min: f64, grouping: Grouping) -> Fanout {
    let shards = map.shards.values().filter(|shard| shard.collection == collection).map(|shard| shard.id).collect();
    let first = First::Leader(BTreeMap::new());
    let patience = ms(2_000);
    let plan = Plan {
        collection,
        shards,
        grouping,
        first,
        patience,
        coverage_min,
        ends_at: ENDS_AT,
        silent: BTreeSet::new(),
        waits_for: Token::default(),
        lagging: BTreeSet::new(),
        seed: 1,
    };
    Fanout::new(plan, map.clone())
}

/// The map after a change of `shard`.
fn changed(map: &ClusterMap, shard: ShardId) -> Arc<ClusterMap> {
    let mut next = map.clone();
    next.epoch = next.epoch.next();
    if let Some(entry) = next.shards.get_mut(&shard) {
        entry.epoch = next.epoch;
    }
    Arc::new(next)
}

fn failed(cause: Cause) -> Failure {
    Failure::new(cause, "on purpose")
}

fn calls(actions: &[Action]) -> Vec<(CallId, NodeId, Vec<Target>)> {
    let call = |action: &Action| match action {
        Action::Call { call, node, targets } => Some((*call, *node, targets.clone())),
        _ => None,
    };
    actions.iter().filter_map(call).collect()
}

fn only_call(actions: &[Action]) -> (CallId, NodeId, Vec<Target>) {
    match <[_; 1]>::try_from(calls(actions)) {
        Ok([call]) => call,
        Err(calls) => panic!("wanted one call, got {calls:?} in {actions:?}"),
    }
}

fn finish(actions: &[Action]) -> &Outcome {
    match actions {
        [Action::Finish(outcome)] => outcome,
        other => panic!("wanted the end, got {other:?}"),
    }
}

fn wake(actions: &[Action]) -> Duration {
    let at = actions.iter().find_map(|action| if let Action::WakeAt(at) = action { Some(*at) } else { None });
    at.unwrap_or_else(|| panic!("wanted a rest, got {actions:?}"))
}

fn answer(call: CallId, answered: Vec<ShardId>) -> Event {
    Event::Answered { call, answered, failed: vec![] }
}

fn refuse(call: CallId, shard: ShardId, cause: Cause) -> Event {
    Event::Answered { call, answered: vec![], failed: vec![(shard, failed(cause))] }
}

#[test]
fn a_node_gets_one_call_for_all_its_shards_or_one_for_each_part() {
    let (map, collection) = map(2, &[&[1], &[2], &[1]]);
    let [a, b, c] = shards(&map)[..] else { panic!("three shards") };
    let mut request = fanout(&map, collection, 1.0, Grouping::PerNode);
    let started = calls(&request.decide(ms(0), Event::Started));
    let by_node: Vec<_> = started.iter().map(|(_, node, targets)| (node.0, targets.len())).collect();
    assert_eq!(by_node, [(1, 2), (2, 1)]);
    assert_eq!(request.decide(ms(1), answer(started[0].0, vec![a, c])), []);
    let end = request.decide(ms(2), answer(started[1].0, vec![b]));
    assert_eq!(finish(&end), &Outcome::Answered { gaps: vec![] });

    let mut request = fanout(&map, collection, 1.0, Grouping::PerShard);
    let started = calls(&request.decide(ms(0), Event::Started));
    assert_eq!(started.iter().map(|(_, node, _)| node.0).collect::<Vec<_>>(), [1, 1, 2]);
    assert!(started.iter().all(|(_, _, targets)| targets.len() == 1), "each shard has its own part");
}

#[test]
fn a_stale_epoch_is_resolved_with_the_next_map() {
    let (map, collection) = map(1, &[&[1]]);
    let [shard] = shards(&map)[..] else { panic!("one shard") };
    let mut request = fanout(&map, collection, 1.0, Grouping::PerNode);
    let (call, ..) = only_call(&request.decide(ms(0), Event::Started));
    let actions = request.decide(ms(1), refuse(call, shard, Cause::StaleEpoch));
    assert_eq!(actions[0], Action::RefreshMap { beyond: map.epoch });
    assert!(wake(&actions) > ms(1), "it tries again even if no map comes: the node may be the one behind");
    assert_eq!(calls(&request.decide(ms(2), Event::Map(map.clone()))), [], "the same map is no news");
    let next = changed(&map, shard);
    let (call, _, targets) = only_call(&request.decide(ms(3), Event::Map(next.clone())));
    assert_eq!(targets, [Target { shard, epoch: next.epoch }]);
    assert_eq!(request.retries().get(&Cause::StaleEpoch), Some(&1));
    finish(&request.decide(ms(4), answer(call, vec![shard])));
}

#[test]
fn a_leader_that_does_not_know_the_shard_is_not_asked_before_the_others_again() {
    let (map, collection) = map(3, &[&[1, 2, 3]]);
    let [shard] = shards(&map)[..] else { panic!("one shard") };
    let mut request = fanout(&map, collection, 1.0, Grouping::PerShard);
    let part = request.parts.get_mut(&shard).expect("it is asked for");
    part.leader = Some(NodeId(1));
    let names_the_old_one =
        |call| Event::Answered { call, answered: vec![], failed: vec![(shard, led_by(Cause::NotLeader, 1))] };
    let (call, node, _) = only_call(&request.decide(ms(0), Event::Started));
    assert_eq!(node, NodeId(1));
    let rested = wake(&request.decide(ms(1), refuse(call, shard, Cause::StaleEpoch)));
    let (call, node, _) = only_call(&request.decide(rested, Event::Woke));
    assert_eq!(node, NodeId(2), "the map is the same, so the first would say the same");
    let (call, node, _) = only_call(&request.decide(rested, names_the_old_one(call)));
    assert_eq!(node, NodeId(3), "also if others take it for the leader");
    let rested = wake(&request.decide(rested, names_the_old_one(call)));
    let next = changed(&map, shard);
    assert_eq!(calls(&request.decide(rested - ms(1), Event::Map(next))), [], "no call waits for a map");
    assert_eq!(
        only_call(&request.decide(rested, Event::Woke)).1,
        NodeId(1),
        "its entry has changed: it may know it now"
    );
}

fn led_by(cause: Cause, node: u64) -> Failure {
    Failure { leader: Some(NodeId(node)), ..failed(cause) }
}

#[test]
fn a_map_that_came_meanwhile_is_used_at_once() {
    let (map, collection) = map(1, &[&[1]]);
    let [shard] = shards(&map)[..] else { panic!("one shard") };
    let mut request = fanout(&map, collection, 1.0, Grouping::PerNode);
    let (call, ..) = only_call(&request.decide(ms(0), Event::Started));
    let next = changed(&map, shard);
    assert_eq!(request.decide(ms(1), Event::Map(next.clone())), [], "an open call is not repeated for a new map");
    let (_, _, targets) = only_call(&request.decide(ms(2), refuse(call, shard, Cause::StaleEpoch)));
    assert_eq!(targets[0].epoch, next.epoch);
}

#[test]
fn every_replica_is_asked_before_a_rest() {
    for cause in [Cause::NotReady, Cause::Unreachable] {
        let (map, collection) = map(3, &[&[2, 3, 1]]);
        let [shard] = shards(&map)[..] else { panic!("one shard") };
        let mut request = fanout(&map, collection, 1.0, Grouping::PerShard);
        let mut actions = request.decide(ms(0), Event::Started);
        for node in [2, 3, 1] {
            let (call, asked, _) = only_call(&actions);
            assert_eq!(asked, NodeId(node), "the first replica first, then the others in turn");
            actions = match cause {
                Cause::Unreachable => request.decide(ms(1), Event::CallFailed { call, failure: failed(cause) }),
                _ => request.decide(ms(1), refuse(call, shard, cause)),
            };
        }
        let at = wake(&actions);
        assert_eq!(request.decide(at - ms(1), Event::Woke), [Action::WakeAt(at)], "not yet");
        assert_eq!(only_call(&request.decide(at, Event::Woke)).1, NodeId(2));
    }
}

#[test]
fn rests_grow_and_end_before_the_deadline() {
    let (map, collection) = map(1, &[&[1]]);
    let mut request = fanout(&map, collection, 1.0, Grouping::PerNode);
    let mut actions = request.decide(ms(0), Event::Started);
    let mut at = ms(0);
    let mut attempts = 0;
    let outcome = loop {
        if let [Action::Finish(outcome)] = &actions[..] {
            break outcome.clone();
        }
        let (call, ..) = only_call(&actions);
        attempts += 1;
        let resting = request.decide(at, Event::CallFailed { call, failure: failed(Cause::Unreachable) });
        if let [Action::Finish(outcome)] = &resting[..] {
            break outcome.clone();
        }
        assert!(wake(&resting) <= at + REST_MAX, "rests are bounded");
        at = wake(&resting);
        actions = request.decide(at, Event::Woke);
    };
    assert!((6..=30).contains(&attempts), "{attempts} attempts in a second");
    let Outcome::TooFew { answered: 0, gaps } = outcome else { panic!("nobody answered: {outcome:?}") };
    assert_eq!(gaps[0].failure, failed(Cause::Unreachable), "the gap says what was wrong");
}

#[test]
fn what_no_retry_helps_ends_the_request_or_leaves_a_gap() {
    for cause in [Cause::Overloaded, Cause::DiskFull, Cause::Internal, Cause::Deadline] {
        let (map, collection) = map(2, &[&[1], &[2]]);
        let [a, b] = shards(&map)[..] else { panic!("two shards") };
        let gaps = vec![Gap { shard: a, failure: failed(cause) }];

        let mut strict = fanout(&map, collection, 1.0, Grouping::PerNode);
        let started = calls(&strict.decide(ms(0), Event::Started));
        let end = strict.decide(ms(1), refuse(started[0].0, a, cause));
        assert_eq!(finish(&end), &Outcome::TooFew { answered: 0, gaps: vec![gaps[0].clone(), unanswered(b)] });

        let mut lenient = fanout(&map, collection, 0.5, Grouping::PerNode);
        let started = calls(&lenient.decide(ms(0), Event::Started));
        let waits = lenient.decide(ms(1), refuse(started[0].0, a, cause));
        assert_eq!(waits, [], "an error does not beat an answer on its way");
        let end = lenient.decide(ms(2), answer(started[1].0, vec![b]));
        assert_eq!(finish(&end), &Outcome::Answered { gaps });
    }
}

fn unanswered(shard: ShardId) -> Gap {
    Gap { shard, failure: Failure::new(Cause::Deadline, "did not answer in time") }
}

#[test]
fn a_wrong_request_ends_at_once() {
    let (map, collection) = map(2, &[&[1], &[2]]);
    let [a, b] = shards(&map)[..] else { panic!("two shards") };
    let mut request = fanout(&map, collection, 0.0, Grouping::PerNode);
    let started = calls(&request.decide(ms(0), Event::Started));
    let end = request.decide(ms(1), refuse(started[0].0, a, Cause::Invalid));
    assert_eq!(finish(&end), &Outcome::Refused(failed(Cause::Invalid)));
    assert_eq!(request.decide(ms(2), answer(started[1].0, vec![b])), [], "nothing happens after the end");
}

#[test]
fn the_deadline_ends_the_request_with_what_there_is() {
    for (coverage_min, enough) in [(0.0, true), (1.0 / 3.0, true), (0.5, false), (1.0, false)] {
        let (map, collection) = map(3, &[&[1], &[2], &[3]]);
        let [a, b, c] = shards(&map)[..] else { panic!("three shards") };
        let mut request = fanout(&map, collection, coverage_min, Grouping::PerNode);
        let started = calls(&request.decide(ms(0), Event::Started));
        assert_eq!(request.decide(ms(5), answer(started[1].0, vec![b])), [], "others may still answer");
        let gaps = vec![unanswered(a), unanswered(c)];
        let want = if enough { Outcome::Answered { gaps } } else { Outcome::TooFew { answered: 1, gaps } };
        assert_eq!(finish(&request.decide(ENDS_AT, Event::Deadline)), &want, "min_coverage {coverage_min}");
    }
}

#[test]
fn a_collection_or_shard_that_leaves_the_map_ends_the_request() {
    let (map, collection) = map(1, &[&[1]]);
    let [shard] = shards(&map)[..] else { panic!("one shard") };
    let mut dropped = (*map).clone();
    let (operation, name) = (OperationId(2), "c".to_owned());
    dropped.apply(Command::DropCollection { operation, name, collection: Some(collection) });
    let mut request = fanout(&map, collection, 1.0, Grouping::PerNode);
    request.decide(ms(0), Event::Started);
    let end = request.decide(ms(1), Event::Map(Arc::new(dropped)));
    assert_eq!(finish(&end), &Outcome::CollectionGone);

    let mut replaced = (*map).clone();
    replaced.epoch = replaced.epoch.next();
    replaced.shards.remove(&shard);
    let mut request = fanout(&map, collection, 1.0, Grouping::PerNode);
    let (call, ..) = only_call(&request.decide(ms(0), Event::Started));
    request.decide(ms(1), Event::Map(Arc::new(replaced)));
    let end = request.decide(ms(2), refuse(call, shard, Cause::StaleEpoch));
    let Outcome::TooFew { gaps, .. } = finish(&end) else { panic!("its range is elsewhere: {end:?}") };
    assert_eq!(gaps[0].failure.cause.kind(), ErrorKind::Unavailable, "a retry by the client will do");
}

#[test]
fn a_node_missing_from_the_map_is_passed_over() {
    let (map, collection) = map(2, &[&[1, 2]]);
    let mut lost = (*map).clone();
    lost.nodes.remove(&NodeId(1));
    let mut request = fanout(&Arc::new(lost), collection, 1.0, Grouping::PerNode);
    assert_eq!(only_call(&request.decide(ms(0), Event::Started)).1, NodeId(2));
}

#[test]
fn while_a_node_is_silent_others_are_asked_and_the_first_answer_counts() {
    let (map, collection) = map(3, &[&[1, 2, 3]]);
    let [shard] = shards(&map)[..] else { panic!("one shard") };
    for silent_answers_first in [false, true] {
        let mut request = fanout(&map, collection, 1.0, Grouping::PerNode);
        let (silent, ..) = only_call(&request.decide(ms(0), Event::Started));
        let (other, node, _) = only_call(&request.decide(ms(1), Event::Silent { call: silent }));
        assert_eq!(node, NodeId(2));
        assert_eq!(request.decide(ms(2), Event::Silent { call: silent }), [], "that is known");
        let first = if silent_answers_first { silent } else { other };
        assert_eq!(finish(&request.decide(ms(3), answer(first, vec![shard]))), &Outcome::Answered { gaps: vec![] });
    }
}

#[test]
fn a_silent_node_that_answers_counts_after_the_others_have_failed() {
    let (map, collection) = map(2, &[&[1, 2]]);
    let [shard] = shards(&map)[..] else { panic!("one shard") };
    let mut request = fanout(&map, collection, 1.0, Grouping::PerNode);
    let (silent, ..) = only_call(&request.decide(ms(0), Event::Started));
    let (other, ..) = only_call(&request.decide(ms(1), Event::Silent { call: silent }));
    let waits = request.decide(ms(2), refuse(other, shard, Cause::Internal));
    assert_eq!(calls(&waits), [], "nobody is left to ask");
    assert_eq!(finish(&request.decide(ms(3), answer(silent, vec![shard]))), &Outcome::Answered { gaps: vec![] });
}

#[test]
fn a_shard_of_which_all_nodes_are_silent_is_given_up_in_time() {
    let (map, collection) = map(2, &[&[1, 2]]);
    let [shard] = shards(&map)[..] else { panic!("one shard") };
    let mut request = fanout(&map, collection, 1.0, Grouping::PerNode);
    request.plan.patience = ms(300);
    let (call, ..) = only_call(&request.decide(ms(0), Event::Started));
    let (call, ..) = only_call(&request.decide(ms(100), Event::Silent { call }));
    // Both have a call by now, so that the rest after the round ends with nobody to ask.
    let rested = wake(&request.decide(ms(150), Event::Silent { call }));
    let given_up_at = wake(&request.decide(rested, Event::Woke));
    assert_eq!(given_up_at, ms(100) + request.plan.patience, "since the first silence");
    let actions = request.decide(given_up_at, Event::Woke);
    let Outcome::TooFew { answered: 0, gaps } = finish(&actions) else { panic!("nobody answered: {actions:?}") };
    assert_eq!((gaps[0].shard, gaps[0].failure.cause), (shard, Cause::Silent));
}

#[test]
fn silent_nodes_are_asked_last() {
    let (map, collection) = map(3, &[&[1, 2, 3]]);
    let [shard] = shards(&map)[..] else { panic!("one shard") };
    let mut request = fanout(&map, collection, 1.0, Grouping::PerNode);
    request.plan.silent = BTreeSet::from([NodeId(1), NodeId(2)]);
    let (call, node, _) = only_call(&request.decide(ms(0), Event::Started));
    assert_eq!(node, NodeId(3));
    let (_, node, _) = only_call(&request.decide(ms(1), refuse(call, shard, Cause::NotReady)));
    assert_eq!(node, NodeId(1));
}

#[test]
fn replicas_that_lag_are_asked_after_the_others() {
    let (map, collection) = map(3, &[&[1, 2, 3]]);
    let [shard] = shards(&map)[..] else { panic!("one shard") };
    let mut request = fanout(&map, collection, 1.0, Grouping::PerNode);
    request.plan.lagging = BTreeSet::from([(shard, NodeId(1)), (shard, NodeId(2))]);
    let (call, node, _) = only_call(&request.decide(ms(0), Event::Started));
    assert_eq!(node, NodeId(3));
    let (_, node, _) = only_call(&request.decide(ms(1), refuse(call, shard, Cause::NotReady)));
    assert_eq!(node, NodeId(1), "it may have caught up");
}

/// A cluster that answers, fails, keeps silent and changes at random, in a random order.
struct World {
    random: SmallRng,
    map: Arc<ClusterMap>,
    open: Vec<(CallId, NodeId, Vec<Target>)>,
    ended: Vec<CallId>,
    silent: BTreeSet<NodeId>,
    wake_at: Option<Duration>,
    answered: BTreeSet<ShardId>,
    now: Duration,
}

impl World {
    fn cause(&mut self) -> Cause {
        use Cause::{Deadline, Internal, Invalid, NotReady, Overloaded, StaleEpoch, Unreachable};
        let likely = [StaleEpoch, NotReady, Unreachable];
        let rare = [Overloaded, Deadline, Internal, Invalid];
        if self.random.random_bool(0.97) {
            likely[self.random.random_range(0..3)]
        } else {
            rare[self.random.random_range(0..4)]
        }
    }

    /// Anything that can happen now, sometimes twice and sometimes out of nowhere.
    fn event(&mut self, end: Duration) -> Event {
        self.now += Duration::from_micros(self.random.random_range(0..20_000));
        let due = self.wake_at.filter(|at| *at <= self.now);
        match self.random.random_range(0..10) {
            _ if self.now >= end => Event::Deadline,
            0 => {
                let all = shards(&self.map);
                self.map = changed(&self.map, all[self.random.random_range(0..all.len())]);
                Event::Map(self.map.clone())
            }
            1 | 2 if due.is_some() => Event::Woke,
            3 if !self.ended.is_empty() => {
                let call = self.ended[self.random.random_range(0..self.ended.len())];
                answer(call, shards(&self.map))
            }
            _ if self.open.is_empty() => Event::Woke,
            4 => {
                let (call, ..) = self.take();
                Event::CallFailed { call, failure: failed(self.cause()) }
            }
            5 => {
                let (call, node, _) = self.open[self.random.random_range(0..self.open.len())];
                self.silent.insert(node);
                Event::Silent { call }
            }
            _ => self.some_answer(),
        }
    }

    fn take(&mut self) -> (CallId, NodeId, Vec<Target>) {
        let at = self.random.random_range(0..self.open.len());
        let call = self.open.swap_remove(at);
        self.ended.push(call.0);
        call
    }

    /// Each shard of a call is answered, refused or forgotten.
    fn some_answer(&mut self) -> Event {
        let (call, _, targets) = self.take();
        let (mut answered, mut refused) = (vec![ShardId(u64::MAX)], vec![]);
        for target in targets {
            if self.answered.contains(&target.shard) {
                continue;
            }
            match self.random.random_range(0..3) {
                0 => {
                    answered.push(target.shard);
                    self.answered.insert(target.shard);
                }
                1 => refused.push((target.shard, failed(self.cause()))),
                _ => {}
            }
        }
        Event::Answered { call, answered, failed: refused }
    }

    /// Carries out `actions`; returns the outcome if they hold one.
    fn carry_out(&mut self, grouping: Grouping, actions: Vec<Action>) -> Option<Outcome> {
        let made = calls(&actions);
        if grouping == Grouping::PerNode {
            let nodes: BTreeSet<NodeId> = made.iter().map(|(_, node, _)| *node).collect();
            assert_eq!(nodes.len(), made.len(), "one call to a node at a time for all its shards");
        }
        let last = actions.len().saturating_sub(1);
        for (position, action) in actions.into_iter().enumerate() {
            match action {
                Action::Finish(outcome) => {
                    assert_eq!(position, last, "nothing follows the end");
                    return Some(outcome);
                }
                Action::Call { call, node, targets } => self.called(call, node, targets),
                Action::WakeAt(at) => self.wake_at = Some(at),
                Action::RefreshMap { beyond } => assert!(beyond <= self.map.epoch),
            }
        }
        None
    }

    fn called(&mut self, call: CallId, node: NodeId, targets: Vec<Target>) {
        for target in &targets {
            for (_, other, targets) in self.open.iter().filter(|(_, _, open)| open.contains(target)) {
                assert!(self.silent.contains(other), "a second call about {targets:?}, and {other} is not silent");
                assert_ne!(*other, node, "a replica has one open call at most");
            }
            assert!(!self.answered.contains(&target.shard), "an answered shard is not asked again");
            let entry = &self.map.shards[&target.shard];
            assert!(entry.replicas.iter().any(|replica| replica.node == node), "a node is asked for what it holds");
            assert!(entry.epoch >= target.epoch, "a call carries the epoch of a map");
        }
        assert!(!targets.is_empty() && !self.ended.contains(&call), "calls have new numbers and something to ask");
        self.open.push((call, node, targets));
    }
}

#[test]
fn whatever_happens_it_ends_once_and_accounts_for_every_shard() {
    for seed in 0..3_000_u64 {
        println!("seed {seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let (nodes, replicas) = (random.random_range(3..6), random.random_range(1..4));
        let placement: Vec<Vec<u64>> = (0..random.random_range(1..8_u64))
            .map(|_| (random.random_range(0..nodes)..).map(|node| node % nodes + 1).take(replicas).collect())
            .collect();
        let placement: Vec<&[u64]> = placement.iter().map(Vec::as_slice).collect();
        let (map, collection) = map(nodes, &placement);
        let coverage_min = [0.0, 0.3, 0.5, 1.0][random.random_range(0..4)];
        let grouping = if random.random_bool(0.5) { Grouping::PerNode } else { Grouping::PerShard };
        let mut request = fanout(&map, collection, coverage_min, grouping);
        let mut world = World {
            random,
            map,
            open: vec![],
            ended: vec![],
            silent: BTreeSet::new(),
            wake_at: None,
            answered: BTreeSet::new(),
            now: ms(0),
        };
        let mut event = Event::Started;
        let outcome = loop {
            let over = matches!(event, Event::Deadline);
            let actions = request.decide(world.now, event);
            if let Some(outcome) = world.carry_out(grouping, actions) {
                break outcome;
            }
            assert!(!over, "the deadline ends it");
            assert!(world.now < ENDS_AT, "it does not outlive its deadline");
            let waits = world.wake_at.is_some_and(|at| at < ENDS_AT);
            assert!(!world.open.is_empty() || waits, "it waits for something");
            event = world.event(ENDS_AT);
        };
        check(&outcome, &world.answered, placement.len(), coverage_min);
        for event in [Event::Woke, Event::Deadline, Event::Map(world.map.clone())] {
            assert_eq!(request.decide(ENDS_AT, event), [], "it ends once");
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "few shards")]
fn check(outcome: &Outcome, answered: &BTreeSet<ShardId>, asked: usize, coverage_min: f64) {
    let covered = answered.len() as f64 >= coverage_min * asked as f64;
    let gaps = match outcome {
        Outcome::Answered { gaps } => {
            assert!(covered, "{outcome:?} with {answered:?} of {asked}");
            gaps
        }
        Outcome::TooFew { answered: told, gaps } => {
            assert!(!covered, "{outcome:?} with {answered:?} of {asked}");
            assert_eq!(*told, answered.len());
            gaps
        }
        Outcome::Refused(failure) => return assert_eq!(failure.cause, Cause::Invalid),
        Outcome::CollectionGone => panic!("it was never dropped"),
    };
    let missing: BTreeSet<ShardId> = gaps.iter().map(|gap| gap.shard).collect();
    assert!(missing.is_disjoint(answered), "an answered shard is no gap");
    assert_eq!((missing.len(), gaps.len()), (asked - answered.len(), asked - answered.len()), "no shard is lost");
}
