//! Which nodes have fallen silent.
//!
//! A node that is stopped, or cut off, refuses nothing: calls to it stay open, and would until their deadline. Slow is
//! not silent: whatever a node answers, to whomever, counts, and before it is given up it is asked for a sign of life,
//! which costs it next to nothing. A silent node is asked for signs until it gives one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use shoal_model::NodeId;
use shoal_proto::map_watch::MapWatch;
use shoal_proto::recipient::Recipient;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::fanout::Cause;
use crate::nodes::{Nodes, call_failure};

/// How long a node that was called may say nothing before it is asked for a sign of life.
const QUIET: Duration = Duration::from_millis(150);
/// How soon the sign must come: far longer than a node that is busy in every thread takes.
const SIGN_WITHIN: Duration = Duration::from_millis(150);
/// Between two questions to a silent node.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// What was heard of nodes.
#[derive(Debug, Default)]
pub(crate) struct Hearing {
    /// When each last said anything.
    heard: Mutex<BTreeMap<NodeId, Instant>>,
    /// Those that were called and said nothing since.
    doubts: watch::Sender<BTreeMap<NodeId, Doubt>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// To be asked for a sign.
    Quiet,
    /// Was asked, and gave none.
    Silent,
}

impl Hearing {
    /// A node has answered, whatever it said.
    pub(crate) fn hear(&self, node: NodeId) {
        self.heard().insert(node, Instant::now());
        self.doubts.send_if_modified(|doubts| doubts.remove(&node).is_some());
    }

    /// A node cannot be reached, or has said nothing since it was called.
    pub(crate) fn doubt(&self, node: NodeId) {
        self.doubts.send_if_modified(|doubts| {
            let unknown = !doubts.contains_key(&node);
            doubts.entry(node).or_insert(Doubt::Quiet);
            unknown
        });
    }

    /// Nodes that are silent.
    pub(crate) fn silent(&self) -> BTreeSet<NodeId> {
        let doubts = self.doubts.borrow();
        doubts.iter().filter(|(_, doubt)| **doubt == Doubt::Silent).map(|(node, _)| *node).collect()
    }

    /// Ends once `node`, which was called at `called`, is silent.
    pub(crate) async fn silence(&self, node: NodeId, called: Instant) {
        let mut doubts = self.doubts.subscribe();
        loop {
            if doubts.borrow_and_update().get(&node) == Some(&Doubt::Silent) {
                return;
            }
            let heard = self.heard().get(&node).copied();
            let quiet_at = heard.map_or(called, |heard| heard.max(called)) + QUIET;
            if quiet_at <= Instant::now() {
                self.doubt(node);
                // Fails only without a sender, and `self` holds it.
                let _ = doubts.changed().await;
            } else {
                tokio::select! {
                    () = sleep_until(quiet_at) => {}
                    _ = doubts.changed() => {}
                }
            }
        }
    }

    /// Asks doubted nodes for signs of life, until `stop`.
    pub(crate) async fn listen(&self, nodes: &Nodes, maps: &MapWatch, stop: CancellationToken) {
        let mut doubts = self.doubts.subscribe();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                // Fails only without a sender, and `self` holds it.
                _ = doubts.wait_for(|doubts| !doubts.is_empty()) => {}
            }
            self.ask(nodes, maps).await;
            sleep(ASK_EVERY).await;
        }
    }

    /// Asks each doubted node once.
    async fn ask(&self, nodes: &Nodes, maps: &MapWatch) {
        let map = maps.current();
        let doubted: Vec<NodeId> = self.doubts.borrow().keys().copied().collect();
        let mut signs = FuturesUnordered::new();
        for node in doubted {
            let channel = map.nodes.get(&node).and_then(|entry| nodes.channel(&entry.address).ok());
            match channel {
                Some(channel) => {
                    let to = Recipient { cluster: map.cluster, node };
                    signs.push(async move { (node, gives_sign(to, channel).await) });
                }
                None => self.forget(node),
            }
        }
        while let Some((node, gives_sign)) = signs.next().await {
            if gives_sign {
                self.hear(node);
            } else {
                self.fell_silent(node);
            }
        }
    }

    fn fell_silent(&self, node: NodeId) {
        let new = self.doubts.send_if_modified(|doubts| match doubts.get_mut(&node) {
            // It may have answered a call meanwhile.
            Some(doubt @ Doubt::Quiet) => {
                *doubt = Doubt::Silent;
                true
            }
            Some(Doubt::Silent) | None => false,
        });
        if new {
            tracing::warn!(node = node.0, "the node is silent; others are asked first");
        }
    }

    /// A node has left the map.
    fn forget(&self, node: NodeId) {
        self.heard().remove(&node);
        self.doubts.send_if_modified(|doubts| doubts.remove(&node).is_some());
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<NodeId, Instant>> {
        // Every change is one call, so a poisoned table is whole.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a node says anything at all, be it that it is not ready. Another one at its address speaks for itself only.
async fn gives_sign(to: Recipient, channel: Channel) -> bool {
    let mut question = Request::new(HealthCheckRequest { service: String::new() });
    to.inject(question.metadata_mut());
    match timeout(SIGN_WITHIN, HealthClient::new(channel).check(question)).await {
        Ok(Ok(_)) => true,
        Ok(Err(status)) => call_failure(to.node, &status).cause != Cause::Unreachable,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_node_is_silent_once_it_owes_a_sign() {
        let hearing = Hearing::default();
        let called = Instant::now();
        let silence = hearing.silence(NodeId(1), called);
        tokio::pin!(silence);
        assert!(timeout(QUIET * 2, &mut silence).await.is_err(), "quiet is not silent");
        assert_eq!(hearing.silent(), BTreeSet::new());
        hearing.fell_silent(NodeId(1));
        assert_eq!(hearing.silent(), BTreeSet::from([NodeId(1)]));
        silence.await;
        hearing.hear(NodeId(1));
        assert_eq!(hearing.silent(), BTreeSet::new());
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_a_node_answers_counts() {
        let hearing = Hearing::default();
        let called = Instant::now();
        let silence = hearing.silence(NodeId(1), called);
        tokio::pin!(silence);
        for _ in 0..10 {
            assert!(timeout(QUIET / 2, &mut silence).await.is_err());
            hearing.hear(NodeId(1));
        }
        assert!(hearing.doubts.borrow().is_empty(), "it was never in doubt");
        advance(QUIET).await;
        assert!(timeout(QUIET, &mut silence).await.is_err());
        assert_eq!(hearing.doubts.borrow().get(&NodeId(1)), Some(&Doubt::Quiet));
    }

    #[tokio::test]
    async fn a_sign_that_comes_while_it_is_waited_for_counts() {
        let hearing = Hearing::default();
        hearing.doubt(NodeId(1));
        hearing.hear(NodeId(1));
        hearing.fell_silent(NodeId(1));
        assert_eq!(hearing.silent(), BTreeSet::new());
    }
}
