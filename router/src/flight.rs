//! Carrying out a fan-out: calls to nodes, timers, maps.
//!
//! The calls belong to the request: when it is over, or its caller goes away, they are dropped, which cancels them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use shoal_model::{ClusterMap, Epoch, LogIndex, NodeId, ShardId};
use shoal_proto::internal::v1 as wire;
use shoal_proto::map_watch::MapWatch;
use shoal_proto::recipient::Recipient;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tonic::transport::Channel;

use crate::fanout::{Action, CallId, Cause, Event, Failure, Fanout, First, Outcome, Plan, Target};
use crate::hearing::Hearing;
use crate::laggards::Laggards;
use crate::leaders::Leaders;
use crate::metrics::Metrics;
use crate::nodes::{Nodes, call_failure, shard_failure};
use crate::outages::{Asked, Outages};

/// What every flight needs.
#[derive(Debug)]
pub(crate) struct Airspace {
    pub(crate) watch: MapWatch,
    pub(crate) nodes: Nodes,
    pub(crate) metrics: Metrics,
    pub(crate) leaders: Leaders,
    pub(crate) laggards: Laggards,
    pub(crate) hearing: Hearing,
    pub(crate) outages: Outages,
}

/// A call to one node.
pub(crate) struct NodeCall {
    /// Whatever else listens at its address refuses the call.
    pub(crate) to: Recipient,
    pub(crate) channel: Channel,
    /// At least one.
    pub(crate) targets: Vec<Target>,
    /// Time left for it.
    pub(crate) within: Duration,
}

/// What a node answered.
pub(crate) struct NodeAnswer<T> {
    pub(crate) body: T,
    pub(crate) answered: Vec<wire::ShardAnswer>,
    pub(crate) failures: Vec<wire::ShardFailure>,
}

/// A fan-out that is over.
pub(crate) struct Landed<T> {
    pub(crate) outcome: Outcome,
    /// Those with at least one shard, in the order in which they came.
    pub(crate) answers: Vec<NodeAnswer<T>>,
    /// The map followed last.
    pub(crate) map: Arc<ClusterMap>,
}

impl Airspace {
    /// Carries out `plan`, whose time began at `begun`. `call` makes one call to one node.
    pub(crate) async fn fly<T, F>(
        &self,
        plan: Plan,
        map: Arc<ClusterMap>,
        begun: Instant,
        call: impl Fn(NodeCall) -> F,
    ) -> Landed<T>
    where
        F: Future<Output = Result<NodeAnswer<T>, Status>>,
    {
        let ends_at = begun + plan.ends_at;
        let mut maps = self.newer_than(&map);
        let to_leaders = matches!(plan.first, First::Leader(_));
        let mut fanout = Fanout::new(plan, map);
        let mut calls = FuturesUnordered::new();
        let mut silences = FuturesUnordered::new();
        let mut nodes = BTreeMap::new();
        let mut answers = Vec::new();
        let mut wake_at = ends_at;
        let mut event = Event::Started;
        loop {
            for action in fanout.decide(begun.elapsed(), event) {
                match action {
                    Action::Call { call: id, node, targets } => {
                        nodes.insert(id, node);
                        let within = ends_at.saturating_duration_since(Instant::now());
                        let channel = self.channel(fanout.map(), node);
                        let to = Recipient { cluster: fanout.map().cluster, node };
                        let made = channel.map(|channel| call(NodeCall { to, channel, targets, within }));
                        calls.push(outcome_of(id, node, made));
                        silences.push(self.silence_of(id, node));
                    }
                    Action::RefreshMap { beyond } => self.refresh(beyond),
                    Action::WakeAt(at) => wake_at = ends_at.min(begun + at),
                    Action::Finish(outcome) => {
                        self.note_end(&fanout, &outcome, to_leaders);
                        return Landed { outcome, answers, map: fanout.map().clone() };
                    }
                }
            }
            event = tokio::select! {
                biased;
                Some((call, result)) = calls.next() => {
                    let node = nodes.remove(&call);
                    let event = self.heard(&fanout, call, node, result, &mut answers);
                    node.filter(|_| to_leaders).inspect(|node| self.leaders.hear(*node, &event));
                    event
                }
                Some(call) = silences.next() => Event::Silent { call },
                // Fails only without a sender, and `self.watch` holds one.
                _ = maps.changed() => Event::Map(maps.borrow_and_update().clone()),
                () = sleep_until(wake_at) => {
                    wake_at = ends_at;
                    if Instant::now() >= ends_at { Event::Deadline } else { Event::Woke }
                }
            };
        }
    }

    /// Counts what became of a call and keeps its answer, if it is the first about any shard.
    fn heard<T>(
        &self,
        fanout: &Fanout,
        call: CallId,
        node: Option<NodeId>,
        result: Result<NodeAnswer<T>, Failure>,
        answers: &mut Vec<NodeAnswer<T>>,
    ) -> Event {
        self.metrics.node_call(result.as_ref().err().map(|failure| failure.cause));
        node.inspect(|node| self.listen_to(*node, &result));
        match result {
            Err(failure) => Event::CallFailed { call, failure },
            Ok(mut answer) => {
                let failed: Vec<_> = std::mem::take(&mut answer.failures).into_iter().map(shard_failure).collect();
                node.inspect(|node| self.note_lags(fanout, *node, &answer.answered, &failed));
                let mut answered: Vec<_> = answer.answered.iter().map(|answer| ShardId(answer.shard_id)).collect();
                if !fanout.counts(&answered) {
                    answered.clear();
                }
                if !answered.is_empty() {
                    answers.push(answer);
                }
                Event::Answered { call, answered, failed }
            }
        }
    }

    /// Counts how a request ended, and tells what no single one shows.
    fn note_end(&self, fanout: &Fanout, outcome: &Outcome, to_leaders: bool) {
        let partial = matches!(outcome, Outcome::Answered { gaps } if !gaps.is_empty());
        self.metrics.fanned_out(fanout, partial);
        let asked = if to_leaders { Asked::Leader } else { Asked::AnyReplica };
        let news = self.outages.hear(asked, fanout.answered(), outcome.gaps(), Instant::now());
        news.iter().for_each(|news| news.log(asked));
    }

    fn note_lags(&self, fanout: &Fanout, node: NodeId, answered: &[wire::ShardAnswer], failed: &[(ShardId, Failure)]) {
        let answered = answered.iter().map(|answer| (ShardId(answer.shard_id), LogIndex(answer.applied_index)));
        let not_ready = failed.iter().filter(|(_, failure)| failure.cause == Cause::NotReady);
        let not_ready = not_ready.map(|(shard, _)| (*shard, fanout.waits_for(*shard)));
        self.laggards.hear(node, answered, not_ready);
    }

    fn listen_to<T>(&self, node: NodeId, result: &Result<NodeAnswer<T>, Failure>) {
        match result.as_ref().map_err(|failure| failure.cause) {
            Err(Cause::Unreachable) => self.hearing.doubt(node),
            // Nothing was heard before the time was up.
            Err(Cause::Deadline) => {}
            Ok(_) | Err(_) => self.hearing.hear(node),
        }
    }

    async fn silence_of(&self, call: CallId, node: NodeId) -> CallId {
        self.hearing.silence(node, Instant::now()).await;
        call
    }

    fn refresh(&self, beyond: Epoch) {
        // A map that is newer comes by itself.
        if self.watch.current().epoch <= beyond {
            self.watch.refresh();
        }
    }

    /// Maps from now on, beginning with one that came since `map`.
    fn newer_than(&self, map: &ClusterMap) -> watch::Receiver<Arc<ClusterMap>> {
        let mut maps = self.watch.subscribe();
        if maps.borrow().epoch > map.epoch {
            maps.mark_changed();
        }
        maps
    }

    fn channel(&self, map: &ClusterMap, node: NodeId) -> Result<Channel, Failure> {
        let address = map.nodes.get(&node).map(|node| node.address.as_str()).unwrap_or_default();
        let failed = |error| Failure::new(Cause::Unreachable, format!("address of node {node}{error}"));
        self.nodes.channel(address).map_err(failed)
    }
}

async fn outcome_of<T>(
    id: CallId,
    node: NodeId,
    made: Result<impl Future<Output = Result<NodeAnswer<T>, Status>>, Failure>,
) -> (CallId, Result<NodeAnswer<T>, Failure>) {
    match made {
        Ok(made) => (id, made.await.map_err(|status| call_failure(node, &status))),
        Err(failure) => (id, Err(failure)),
    }
}
