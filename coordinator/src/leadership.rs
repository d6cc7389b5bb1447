//! Doing a thing on the leader, wherever it was asked.
//!
//! Any coordinator may be asked. One that does not lead passes the call on to the one that does; while there is
//! none, the call waits within its deadline. So a caller sees an error only when most coordinators are gone.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use shoal_consensus::{Consensus, ConsensusError, GroupStatus, Role};
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{ClusterMap, Command, ErrorKind, Limits, LogIndex, MapError, NodeId, ReplicaId, Reply, placement};
use shoal_proto::map::encode_command;
use shoal_proto::server::{self, deadline};
use shoal_proto::status::{from_status, to_status};
use shoal_proto::v1::CoordinatorStanding;
use shoal_runtime::DiskWatch;
use tokio::sync::watch;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::beginning::coordinator_of;
use crate::health::Leaderless;
use crate::heard::{Heard, Hearing, Heartbeat, Listener, Listening, Liveness};
use crate::joining::{Wishes, is_settled};
use crate::lacking::{Lacking, nodes_by_name};
use crate::machine::{Applied, GROUP};
use crate::{CoordinatorConfig, CoordinatorError};

/// Size of the leader's answer to a call that is passed on; the whole map fits.
pub(crate) const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Marks a call that another coordinator has passed on, which is never passed on again.
const FORWARDED: &str = "shoal-forwarded";
/// Pause before a call is tried again while there is no leader.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// Pause before it is looked again who was heard of.
const LISTEN_EVERY: Duration = Duration::from_millis(50);

/// Whether another coordinator has passed the call on.
pub(crate) fn was_forwarded(metadata: &MetadataMap) -> bool {
    metadata.contains_key(FORWARDED)
}

/// What all services of a coordinator share.
pub(crate) struct Shared {
    pub(crate) config: CoordinatorConfig,
    /// The replica of the group that this coordinator's store is, once that is known.
    pub(crate) replica: OnceLock<ReplicaId>,
    /// What this coordinator waits for while it has no vote.
    pub(crate) waits_for: RwLock<String>,
    /// Replicas that wish to be members.
    pub(crate) wishes: Wishes,
    pub(crate) consensus: Consensus<Applied>,
    pub(crate) maps: watch::Receiver<Arc<ClusterMap>>,
    pub(crate) applied: watch::Receiver<LogIndex>,
    pub(crate) heard: Heard,
    /// Since when nodes tell this coordinator of themselves.
    pub(crate) listening: Listening,
    /// Replicas that nodes are to have and do not serve.
    pub(crate) lacking: Lacking,
    /// Shards that wait for a leader.
    pub(crate) leaderless: Leaderless,
    /// The disk of this coordinator.
    pub(crate) disk: Arc<DiskWatch>,
    /// Channels to the other coordinators, by their numbers.
    pub(crate) peers: Vec<(u64, Channel)>,
}

/// A future that on_leader may have to make again.
pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One attempt at a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) deadline: Instant,
}

impl Shared {
    /// The replica that this coordinator is; none while it has to find out.
    pub(crate) fn me(&self) -> Option<ReplicaId> {
        self.replica.get().copied()
    }

    /// How the group stands here.
    pub(crate) fn group(&self) -> Option<GroupStatus> {
        self.consensus.status(GROUP)
    }

    /// Whether this coordinator has a vote, as far as it knows.
    pub(crate) fn is_member(&self) -> bool {
        self.group().is_some_and(|status| is_settled(status.me, &status.members))
    }

    /// Where it stands among the coordinators.
    pub(crate) fn standing(&self) -> CoordinatorStanding {
        match self.me() {
            None => CoordinatorStanding::Asking,
            Some(_) if self.is_member() => CoordinatorStanding::Member,
            Some(_) => CoordinatorStanding::Joining,
        }
    }

    /// Says what this coordinator waits for while it has no vote.
    pub(crate) fn wait_for(&self, what: String) {
        *self.waits_for.write().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// What this coordinator waits for while it has no vote.
    pub(crate) fn waits_for(&self) -> String {
        self.waits_for.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refuses what a coordinator cannot answer that has no vote yet, and may know less than others.
    pub(crate) fn check_member(&self) -> Result<(), CoordinatorError> {
        if self.is_member() { Ok(()) } else { Err(CoordinatorError::NotMember { waits_for: self.waits_for() }) }
    }

    /// The caps.
    pub(crate) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// Silence after which a node counts as gone.
    pub(crate) fn heartbeat_timeout(&self) -> Duration {
        Duration::from_millis(self.config.heartbeat_timeout_ms.into())
    }

    /// All that was heard, at this moment.
    pub(crate) fn hearing(&self) -> Hearing {
        let now = Instant::now();
        Hearing {
            now,
            timeout: self.heartbeat_timeout(),
            since: self.listening.note(self.listener(), now),
            heartbeats: self.heard.all(),
            registered: self.heard.registered(),
            leaderless: self.leaderless.all(),
        }
    }

    /// Whom nodes tell of themselves.
    pub(crate) fn listener(&self) -> Listener {
        match self.group() {
            Some(status) if status.role == Role::Leader => Listener::Leader(status.term),
            Some(status) if status.leader.is_none() => Listener::Anybody,
            _ => Listener::Another,
        }
    }

    /// All that was heard, once that says of every node of `map` whether it lives: a coordinator that has just begun to
    /// lead waits for their heartbeats. Call it on the leader.
    pub(crate) async fn hearing_of_all(
        &self,
        map: &ClusterMap,
        deadline: Instant,
    ) -> Result<Hearing, CoordinatorError> {
        loop {
            let hearing = self.hearing();
            let nodes = placement::candidates(map);
            let awaited = nodes.into_iter().filter(|node| hearing.liveness(*node) == Liveness::Awaited);
            let awaited: Vec<NodeId> = awaited.collect();
            if awaited.is_empty() {
                return Ok(hearing);
            }
            if !self.leads() {
                return Err(ConsensusError::NotLeader { group: GROUP, leader: None }.into());
            }
            if Instant::now() + LISTEN_EVERY >= deadline {
                return Err(CoordinatorError::NotHeardYet { nodes: nodes_by_name(map, &awaited) });
            }
            tokio::time::sleep(LISTEN_EVERY).await;
        }
    }

    /// What the nodes that are alive have said last.
    pub(crate) fn heard_lately(&self) -> BTreeMap<NodeId, Heartbeat> {
        self.heard.lately(Instant::now(), self.heartbeat_timeout())
    }

    /// Runs `here` on this coordinator if it leads, or passes the message on with `there`.
    ///
    /// Both may run more than once, when leadership moves meanwhile; what they do must bear repeating.
    pub(crate) async fn on_leader<'a, Q: Clone, A>(
        &self,
        request: Request<Q>,
        here: impl Fn(Q, Attempt) -> Boxed<'a, Result<A, CoordinatorError>>,
        there: impl Fn(Channel, Request<Q>) -> Boxed<'a, Result<Response<A>, Status>>,
    ) -> Result<Response<A>, Status> {
        let forwarded = was_forwarded(request.metadata());
        let attempt = Attempt { deadline: deadline(request.metadata(), 0, self.limits()) };
        let metadata = request.metadata().clone();
        let message = request.into_inner();
        loop {
            let result = match self.leader() {
                Some(leader) if Some(leader) == self.me() => {
                    here(message.clone(), attempt).await.map(Response::new).map_err(|error| to_status(&error))
                }
                Some(leader) if !forwarded => match self.peer(leader) {
                    Some(channel) => there(channel, self.forward(&metadata, &message, attempt.deadline)).await,
                    None => Err(to_status(&CoordinatorError::NoLeader)),
                },
                // The coordinator that passed this on will find the new leader.
                Some(_) => return Err(to_status(&ConsensusError::NotLeader { group: GROUP, leader: None })),
                // Others may know a leader, and this one is not about to.
                None if !self.is_member() => {
                    return Err(to_status(&CoordinatorError::NotMember { waits_for: self.waits_for() }));
                }
                None => Err(to_status(&CoordinatorError::NoLeader)),
            };
            let Err(status) = result else { return result };
            let kind = from_status(&status).kind;
            if !matches!(kind, ErrorKind::NotLeader | ErrorKind::Unavailable) || forwarded {
                return Err(status);
            }
            if Instant::now() + RETRY_AFTER >= attempt.deadline {
                return Err(status);
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    fn forward<Q: Clone>(&self, metadata: &MetadataMap, message: &Q, deadline: Instant) -> Request<Q> {
        let mut request = Request::new(message.clone());
        *request.metadata_mut() = metadata.clone();
        request.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        request
    }

    /// Who leads, as far as this coordinator knows.
    pub(crate) fn leader(&self) -> Option<ReplicaId> {
        self.group()?.leader
    }

    /// Whether this coordinator leads.
    pub(crate) fn leads(&self) -> bool {
        self.group().is_some_and(|status| status.role == Role::Leader)
    }

    fn peer(&self, member: ReplicaId) -> Option<Channel> {
        self.peers.iter().find(|(id, _)| *id == coordinator_of(member)).map(|(_, channel)| channel.clone())
    }

    /// Agrees on a command and applies it here. Call it on the leader.
    pub(crate) async fn execute(&self, command: &Command, deadline: Instant) -> Result<Reply, CoordinatorError> {
        meet(Failpoint::CoordinatorPropose)?;
        let applied = self.consensus.propose(GROUP, encode_command(command), deadline.into()).await?;
        tracing::debug!(epoch = applied.epoch.0, ?command, "map command applied");
        Ok(applied.reply.map_err(|error: MapError| error)?)
    }

    /// The map with everything that was acknowledged before the call. Call it on the leader.
    pub(crate) async fn fresh_map(&self, deadline: Instant) -> Result<Arc<ClusterMap>, CoordinatorError> {
        let index = self.consensus.read_index(GROUP, deadline.into()).await?;
        let mut applied = self.applied.clone();
        match tokio::time::timeout_at(deadline.into(), applied.wait_for(|at| *at >= index)).await {
            Ok(Ok(_)) => Ok(self.maps.borrow().clone()),
            Ok(Err(_)) => Err(CoordinatorError::Stopping),
            Err(_) => Err(CoordinatorError::NoLeader),
        }
    }
}

/// Channels to all other coordinators.
pub(crate) fn connect_peers(config: &CoordinatorConfig) -> Result<Vec<(u64, Channel)>, CoordinatorError> {
    let others = config.peers.iter().filter(|peer| peer.id != config.id);
    others.map(|peer| Ok((peer.id, server::channel(&peer.address)?))).collect()
}
