//! Registering with the coordinators, and telling them that this node lives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_consensus::Role;
use shoal_index::set::PartKind;
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{Classify as _, ClusterId, ErrorKind, NodeId, StoreId};
use shoal_proto::disk::{disk_from_wire, disk_to_wire};
use shoal_proto::internal::v1::coordinator_service_client::CoordinatorServiceClient;
use shoal_proto::internal::v1::{HeartbeatRequest, HeartbeatResponse, NodeDisk, RegisterNodeRequest, ShardReport};
use shoal_proto::map::{id_from_bytes, id_to_bytes};
use shoal_proto::status::{RemoteError, from_status};
use shoal_proto::{server, v1};
use shoal_runtime::{DiskState, Store};
use tokio::time::Instant;
use tonic::Request;
use tonic::transport::Channel;

use crate::damage::Damage;
use crate::disks::Disks;
use crate::identity::Identity;
use crate::replica::Replica;
use crate::replicas::Replicas;
use crate::witness::Witness;
use crate::{NodeConfig, NodeError};

/// How long one coordinator is given before the next is asked.
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// Pause between rounds in which no coordinator answered.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How often the log says that none answers.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Asks coordinators one after another, staying with the one that answers.
pub(crate) struct Coordinators {
    clients: Vec<CoordinatorServiceClient<Channel>>,
    current: usize,
}

impl Coordinators {
    /// Channels to all of them; none is connected yet.
    pub(crate) fn new(addresses: &[String]) -> Result<Self, NodeError> {
        let connect = |address: &String| server::channel(address).map(CoordinatorServiceClient::new);
        Ok(Self { clients: addresses.iter().map(connect).collect::<Result<_, _>>()?, current: 0 })
    }

    fn current(&mut self) -> &mut CoordinatorServiceClient<Channel> {
        let count = self.clients.len();
        &mut self.clients[self.current % count]
    }

    fn next(&mut self) {
        self.current = self.current.wrapping_add(1);
    }
}

/// Whose place a store takes that is not registered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// A store that was found damaged in the same folder.
    Store(StoreId),
    /// The store of the node of that number or name, as only the coordinators know it: its disk is lost.
    Node(String),
}

/// Registers until a coordinator accepts or refuses for good; returns who this node is.
pub(crate) async fn register(
    coordinators: &mut Coordinators,
    config: &NodeConfig,
    address: &str,
    identity: Identity,
    replaces: Option<&Replaced>,
) -> Result<(ClusterId, NodeId), NodeError> {
    let (replaces, replaces_node) = match replaces {
        None => (Bytes::new(), String::new()),
        Some(Replaced::Store(store)) => (id_to_bytes(store.0), String::new()),
        Some(Replaced::Node(called)) => (Bytes::new(), called.clone()),
    };
    let request = RegisterNodeRequest {
        store: id_to_bytes(identity.store.0),
        name: config.name.clone(),
        address: address.to_owned(),
        zone: config.zone.clone(),
        cluster: identity.member.map(|(cluster, _)| id_to_bytes(cluster.0)).unwrap_or_default(),
        replaces,
        replaces_node,
    };
    let mut told = Instant::now();
    loop {
        meet(Failpoint::NodeRegister)?;
        match coordinators.current().register_node(timed(request.clone())).await {
            Ok(response) => {
                let response = response.into_inner();
                let cluster = id_from_bytes("cluster id", &response.cluster).map_err(|error| {
                    NodeError::Refused(RemoteError {
                        kind: ErrorKind::Internal,
                        field: String::new(),
                        message: error.to_string(),
                    })
                })?;
                return Ok((ClusterId(cluster), NodeId(response.node_id)));
            }
            Err(status) => {
                let error = from_status(&status);
                if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Precondition) {
                    return Err(NodeError::Refused(error));
                }
                if told.elapsed() >= TELL_EVERY {
                    tracing::warn!(%error, coordinators = ?config.coordinators, "no coordinator registers this node; trying on");
                    told = Instant::now();
                }
                coordinators.next();
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ASK_WITHIN);
    request
}

/// What heartbeats tell of.
pub(crate) struct Reported {
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) disks: Arc<Disks>,
    pub(crate) damage: Damage,
}

/// The nodes that have no room, as a coordinator has heard.
fn without_room(heard: HeartbeatResponse) -> BTreeMap<NodeId, DiskState> {
    let disk = |node: NodeDisk| (NodeId(node.node_id), disk_from_wire(node.disk.unwrap_or_default()));
    heard.without_room.into_iter().map(disk).collect()
}

/// Sends a heartbeat every interval, until dropped, or until a coordinator does not know this node: it lags, or the node was
/// removed, which registering again tells.
pub(crate) async fn heartbeats(
    coordinators: &mut Coordinators,
    member: (ClusterId, NodeId),
    every: Duration,
    reported: &Reported,
) {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if meet(Failpoint::NodeHeartbeat).is_err() {
            continue;
        }
        let request = HeartbeatRequest {
            node_id: member.1.0,
            cluster: id_to_bytes(member.0.0),
            shards: reports(&reported.replicas),
            disk_bytes: reported.store.disk_bytes(),
            disk: disk_to_wire(&reported.disks.own()),
            damage: reported.damage.lasting().unwrap_or_default().to_owned(),
        };
        match coordinators.current().heartbeat(timed(request)).await {
            Ok(heard) => reported.disks.hear(without_room(heard.into_inner())),
            Err(status) => {
                tracing::debug!(%status, "heartbeat failed; asking the next coordinator");
                coordinators.next();
                if from_status(&status).kind() == ErrorKind::NotFound {
                    return;
                }
            }
        }
    }
}

fn reports(replicas: &Replicas) -> Vec<ShardReport> {
    let full = replicas.all().into_iter().map(|replica| report(&replica));
    full.chain(replicas.witnesses().iter().map(report_witness)).collect()
}

fn report_witness(witness: &Witness) -> ShardReport {
    let committed = witness.group_status().map_or(0, |group| group.committed.0);
    let report = v1::ReplicaReport { applied_index: committed, commit_index: committed, ..Default::default() };
    ShardReport { shard_id: witness.shard.0, report: Some(report), voters: Vec::new() }
}

fn report(replica: &Replica) -> ShardReport {
    let view = replica.view();
    let group = replica.group_status();
    let jobs = replica.jobs();
    let parts = view.points.parts();
    let of = |kind| parts.iter().filter(move |part| part.kind == kind);
    let points = |kind| of(kind).map(|part| part.live as u64).sum::<u64>();
    let report = v1::ReplicaReport {
        leader: group.as_ref().is_some_and(|group| group.role == Role::Leader),
        applied_index: view.applied.0,
        commit_index: group.as_ref().map_or(0, |group| group.committed.0),
        points: view.points.len() as u64,
        memory_bytes: view.points.memory_bytes() as u64,
        segments: of(PartKind::Segment).count() as u64,
        delta_points: points(PartKind::Active) + points(PartKind::Sealed),
        waiting_points: points(PartKind::Sealed),
        segment_bytes: of(PartKind::Segment).map(|part| part.bytes as u64).sum(),
        jobs: jobs.running.clone(),
        job_failures: jobs.failures.clone(),
        missing_segments: view.lacking as u64,
        // After a restart only the group knows that what it waits for is a snapshot.
        restoring: replica.is_restoring() || group.as_ref().is_some_and(|group| group.starves),
    };
    // Of a change that is under way nobody can say yet how it ends.
    let settled = group.filter(|group| group.role == Role::Leader && group.members.leaving.is_empty());
    let voters = settled.map(|group| group.members.voters.iter().map(|id| id.0).collect()).unwrap_or_default();
    ShardReport { shard_id: replica.shard.0, report: Some(report), voters }
}
