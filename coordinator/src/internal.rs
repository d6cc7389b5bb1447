//! `shoal.internal.v1.CoordinatorService`: what nodes, routers and other coordinators ask.

use std::sync::Arc;
use std::time::Instant;

use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{ClusterId, ClusterMap, Command, Epoch, NodeId, ReplicaId, Reply, ShardId, StoreId};
use shoal_proto::disk::{disk_from_wire, disk_to_wire};
use shoal_proto::internal::v1 as wire;
use shoal_proto::internal::v1::coordinator_service_client::CoordinatorServiceClient;
use shoal_proto::internal::v1::coordinator_service_server::CoordinatorService;
use shoal_proto::map::{changes_to_wire, id_from_bytes, id_to_bytes, map_to_wire, replaced_store};
use shoal_proto::status::to_status;
use shoal_proto::v1::CoordinatorStanding;
use shoal_runtime::Room;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::beginning::has_begun;
use crate::heard::{Heartbeat, Liveness};
use crate::lacking::nodes_by_name;
use crate::leadership::{ANSWER_BYTES_MAX, Attempt, Boxed, Shared};
use crate::{CoordinatorError, copies, lost};
use shoal_model::InputError;

/// Changes that wait for a slow watcher before it holds up its own stream.
const WATCH_AHEAD: usize = 16;

/// Names and addresses are in every map, and so are short.
const TEXT_BYTES_MAX: usize = 256;

/// Serves nodes, routers and other coordinators.
pub(crate) struct Internal {
    pub(crate) shared: Arc<Shared>,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    /// What this coordinator says of itself.
    pub(crate) fn pong(&self) -> wire::PingResponse {
        let standing = self.standing();
        let waits_for = if standing == CoordinatorStanding::Member { String::new() } else { self.waits_for() };
        wire::PingResponse {
            id: self.config.id,
            leader: self.leads(),
            applied_index: self.applied.borrow().0,
            disk: disk_to_wire(&self.disk.state()),
            standing: standing.into(),
            waits_for,
        }
    }
}

/// Refuses a caller of another cluster; one that knows none yet is welcome.
fn check_cluster(map: &ClusterMap, theirs: &[u8]) -> Result<(), CoordinatorError> {
    let theirs = ClusterId(id_from_bytes("cluster id", theirs)?);
    if theirs == ClusterId::default() || theirs == map.cluster {
        return Ok(());
    }
    if map.cluster == ClusterId::default() {
        // This coordinator knows of no cluster yet, so it cannot say that this is another.
        return Err(CoordinatorError::NoLeader);
    }
    Err(CoordinatorError::OtherCluster { theirs: theirs.to_string(), ours: map.cluster.to_string() })
}

/// Refuses a store that the map does not know although a cluster, which is this one, has known it: as a new node it would
/// hold replicas for nobody.
fn check_not_given_up(is_known: bool, cluster: &[u8]) -> Result<(), CoordinatorError> {
    if is_known || cluster.is_empty() { Ok(()) } else { Err(CoordinatorError::GivenUp) }
}

impl Internal {
    async fn register(
        &self,
        request: wire::RegisterNodeRequest,
        attempt: Attempt,
    ) -> Result<wire::RegisterNodeResponse, CoordinatorError> {
        meet(Failpoint::CoordinatorRegister)?;
        let map = self.shared.fresh_map(attempt.deadline).await?;
        if map.cluster == ClusterId::default() {
            // The new leader names the cluster first.
            return Err(CoordinatorError::NoLeader);
        }
        check_cluster(&map, &request.cluster)?;
        let store = StoreId(id_from_bytes("store id", &request.store)?);
        if store == StoreId::default() {
            return Err(InputError::new("store", "must have 16 bytes that are not all zero").into());
        }
        for (field, text) in [
            ("name", &request.name),
            ("zone", &request.zone),
            ("address", &request.address),
            ("replaces_node", &request.replaces_node),
        ] {
            if text.len() > TEXT_BYTES_MAX {
                let problem = format!("has {} bytes, the cap is {TEXT_BYTES_MAX}", text.len());
                return Err(InputError::new(field, problem).into());
            }
        }
        shoal_proto::server::check_address(&request.address).map_err(|e| e.within("address"))?;
        let is_known = map.nodes.values().any(|known| known.store == store);
        check_not_given_up(is_known, &request.cluster)?;
        let replaces = if is_known { None } else { self.given_up(&map, &request)? };
        let command =
            Command::RegisterNode { store, name: request.name, address: request.address, zone: request.zone, replaces };
        match self.shared.execute(&command, attempt.deadline).await? {
            Reply::Node(node) => {
                self.shared.heard.note_registered(node, Instant::now());
                Ok(wire::RegisterNodeResponse { node_id: node.0, cluster: id_to_bytes(map.cluster.0) })
            }
            other => Err(CoordinatorError::Task(format!("registering a node answered {other:?}"))),
        }
    }

    /// The store whose place a new one takes, if any. Refused if it must not be given up, by what was heard.
    fn given_up(
        &self,
        map: &ClusterMap,
        request: &wire::RegisterNodeRequest,
    ) -> Result<Option<StoreId>, CoordinatorError> {
        let by_operator = !request.replaces_node.is_empty();
        let replaces = match &request.replaces_node {
            called if by_operator => Some(self.silent_node(map, called)?),
            _ => replaced_store(&request.replaces)?,
        };
        if let Some(lost) = replaces {
            self.check_copies(map, lost)?;
            // A node with a damaged store is of no use as it is, and joins once others are back: it need not wait for them. Were
            // it to, two of them could wait for each other.
            if by_operator {
                self.check_voters(map, lost)?;
            }
        }
        Ok(replaces)
    }

    /// The store of a node that an operator gives up. A node that finds its own store damaged names that itself, and was
    /// heard of a moment before; of any other, that means that its disk is not lost.
    fn silent_node(&self, map: &ClusterMap, called: &str) -> Result<StoreId, CoordinatorError> {
        let node = lost::node_called(map, called)?;
        lost::check_silent(map, node, &self.shared.hearing())?;
        Ok(node.store)
    }

    /// Refuses to give up a store whose points nobody else has, by what was heard.
    fn check_copies(&self, map: &ClusterMap, lost: StoreId) -> Result<(), CoordinatorError> {
        if let Some(shard) = copies::waiting_for(map, lost, &self.shared.hearing()) {
            return Err(CoordinatorError::CopiesWait { shard });
        }
        Ok(())
    }

    /// Refuses to give up a store without which those that have votes and use them are no majority, by what was heard: a new
    /// one could not join, and whoever is silent may have what it takes.
    fn check_voters(&self, map: &ClusterMap, lost: StoreId) -> Result<(), CoordinatorError> {
        let hearing = self.shared.hearing();
        match copies::silent_without(map, lost, &hearing) {
            None => Ok(()),
            Some((shard, silent)) => {
                let nodes = nodes_by_name(map, &silent);
                let is_early = silent.iter().any(|node| hearing.liveness(*node) == Liveness::Awaited);
                Err(if is_early {
                    CoordinatorError::NotHeardYet { nodes }
                } else {
                    CoordinatorError::VotersSilent { shard, nodes }
                })
            }
        }
    }

    fn hear(&self, request: &wire::HeartbeatRequest) -> Result<wire::HeartbeatResponse, CoordinatorError> {
        meet(Failpoint::CoordinatorHeartbeat)?;
        let map = self.shared.maps.borrow().clone();
        check_cluster(&map, &request.cluster)?;
        let node = NodeId(request.node_id);
        if !map.nodes.contains_key(&node) {
            return Err(CoordinatorError::UnknownNode { node: node.0 });
        }
        let report = |shard: &wire::ShardReport| Some((ShardId(shard.shard_id), shard.report.clone()?));
        let shards = request.shards.iter().filter_map(report).collect();
        let of_leader = request.shards.iter().filter(|shard| !shard.voters.is_empty());
        let voters =
            of_leader.map(|shard| (ShardId(shard.shard_id), shard.voters.iter().map(|id| ReplicaId(*id)).collect()));
        let heartbeat = Heartbeat {
            at: Instant::now(),
            shards,
            voters: voters.collect(),
            disk_bytes: request.disk_bytes,
            disk: request.disk.clone().map(disk_from_wire).unwrap_or_default(),
            damage: request.damage.clone(),
        };
        self.shared.heard.note(node, heartbeat);
        Ok(wire::HeartbeatResponse { without_room: self.without_room() })
    }

    /// The nodes that were heard of lately and have no room for writes.
    fn without_room(&self) -> Vec<wire::NodeDisk> {
        let disks = self.shared.heard.disks(Instant::now(), self.shared.heartbeat_timeout());
        let lacking = disks.into_iter().filter(|(_, disk)| disk.room > Room::Enough);
        lacking.map(|(node, disk)| wire::NodeDisk { node_id: node.0, disk: disk_to_wire(&disk) }).collect()
    }
}

#[tonic::async_trait]
impl CoordinatorService for Internal {
    type WatchMapStream = ReceiverStream<Result<wire::WatchMapResponse, Status>>;

    async fn register_node(
        &self,
        request: Request<wire::RegisterNodeRequest>,
    ) -> Result<Response<wire::RegisterNodeResponse>, Status> {
        let here = |message, attempt| -> Boxed<'_, _> { Box::pin(self.register(message, attempt)) };
        let there = |leader, request| -> Boxed<'_, _> {
            Box::pin(async move {
                CoordinatorServiceClient::new(leader)
                    .max_decoding_message_size(ANSWER_BYTES_MAX)
                    .register_node(request)
                    .await
            })
        };
        self.shared.on_leader(request, here, there).await
    }

    async fn heartbeat(
        &self,
        request: Request<wire::HeartbeatRequest>,
    ) -> Result<Response<wire::HeartbeatResponse>, Status> {
        // Heard by whoever is asked: while there is no leader, this coordinator can still tell who lives.
        let heard = self.hear(request.get_ref()).map_err(|error| to_status(&error))?;
        if self.shared.leader().is_none() && self.shared.is_member() {
            return Ok(Response::new(heard));
        }
        let here = |message, _| -> Boxed<'_, _> { Box::pin(std::future::ready(self.hear(&message))) };
        let there = |leader, request| -> Boxed<'_, _> {
            Box::pin(async move {
                CoordinatorServiceClient::new(leader)
                    .max_decoding_message_size(ANSWER_BYTES_MAX)
                    .heartbeat(request)
                    .await
            })
        };
        self.shared.on_leader(request, here, there).await
    }

    async fn watch_map(
        &self,
        request: Request<wire::WatchMapRequest>,
    ) -> Result<Response<Self::WatchMapStream>, Status> {
        let request = request.into_inner();
        // The map of one that joins comes late, and of one that asks perhaps never.
        self.shared.check_member().map_err(|error| to_status(&error))?;
        let maps = self.shared.maps.clone();
        check_cluster(&maps.borrow(), &request.cluster).map_err(|error| to_status(&error))?;
        let (sender, stream) = mpsc::channel(WATCH_AHEAD);
        let stop = self.stop.clone();
        // Ends with the stream: when the watcher goes, or this coordinator stops.
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = sender.closed() => {}
                () = stream_changes(maps, Epoch(request.epoch), &sender) => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn ping(&self, _: Request<wire::PingRequest>) -> Result<Response<wire::PingResponse>, Status> {
        Ok(Response::new(self.shared.pong()))
    }

    async fn get_beginning(
        &self,
        _: Request<wire::GetBeginningRequest>,
    ) -> Result<Response<wire::GetBeginningResponse>, Status> {
        // Whether it knows who it is first: it may open its group in between, and that is new then.
        let (replica, config) = (self.shared.me(), &self.shared.config);
        let has_begun = has_begun(replica, self.shared.group().as_ref());
        let has_begun = has_begun.ok_or_else(|| to_status(&CoordinatorError::Stopping))?;
        let mut peers: Vec<u64> = config.peers.iter().map(|peer| peer.id).collect();
        peers.sort_unstable();
        Ok(Response::new(wire::GetBeginningResponse { id: config.id, peers, has_begun }))
    }

    async fn join_coordinators(
        &self,
        request: Request<wire::JoinCoordinatorsRequest>,
    ) -> Result<Response<wire::JoinCoordinatorsResponse>, Status> {
        let here = |message, attempt| -> Boxed<'_, _> { Box::pin(self.shared.hear_wish(message, attempt)) };
        let there = |leader, request| -> Boxed<'_, _> {
            Box::pin(async move {
                CoordinatorServiceClient::new(leader)
                    .max_decoding_message_size(ANSWER_BYTES_MAX)
                    .join_coordinators(request)
                    .await
            })
        };
        self.shared.on_leader(request, here, there).await
    }
}

/// Sends what comes after `epoch`, then every change. A watcher that is ahead of us gets nothing until we have
/// caught up: it must never be sent back.
async fn stream_changes(
    mut maps: watch::Receiver<Arc<ClusterMap>>,
    mut epoch: Epoch,
    sender: &mpsc::Sender<Result<wire::WatchMapResponse, Status>>,
) {
    loop {
        let map = maps.borrow_and_update().clone();
        if map.epoch > epoch {
            for message in news(&map, epoch) {
                if meet(Failpoint::CoordinatorWatch).is_err() || sender.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            epoch = map.epoch;
        }
        if maps.changed().await.is_err() {
            return;
        }
    }
}

/// The changes after `epoch` if they are still kept, else the whole map.
fn news(map: &ClusterMap, epoch: Epoch) -> Vec<wire::WatchMapResponse> {
    use wire::watch_map_response::Kind;
    let kinds: Vec<Kind> = match map.changes_since(epoch).filter(|_| epoch > Epoch::default()) {
        Some(changes) => changes.iter().map(|(at, list)| Kind::Changes(changes_to_wire(*at, list))).collect(),
        None => {
            let mut whole = map_to_wire(map);
            whole.recent.clear();
            whole.decided.clear();
            vec![Kind::Whole(whole)]
        }
    };
    kinds.into_iter().map(|kind| wire::WatchMapResponse { kind: Some(kind) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::watch_map_response::Kind;

    fn map(epochs: u128) -> ClusterMap {
        let mut map = ClusterMap::default();
        map.apply(Command::NameCluster { cluster: ClusterId(1) });
        for store in 1..epochs {
            let address = "http://127.0.0.1:1".to_owned();
            map.apply(Command::RegisterNode {
                store: StoreId(store),
                name: "n".into(),
                address,
                zone: String::new(),
                replaces: None,
            });
        }
        map
    }

    #[test]
    fn a_watcher_gets_what_it_missed_and_no_more() {
        for (name, from, whole, changes) in [("new", 0, true, 0), ("resumes", 2, false, 3), ("up to date", 5, false, 0)]
        {
            let news = news(&map(5), Epoch(from));
            let is_whole = |message: &wire::WatchMapResponse| matches!(message.kind, Some(Kind::Whole(_)));
            assert_eq!(news.iter().any(is_whole), whole, "{name}");
            assert_eq!(news.iter().filter(|m| !is_whole(m)).count(), changes, "{name}");
        }
        let far_behind = news(&map(2_000), Epoch(3));
        assert_eq!(far_behind.len(), 1, "one whole map rather than a history that is no longer kept");
    }

    #[test]
    fn a_store_that_was_given_up_is_not_taken_for_a_new_one() {
        let cluster = id_to_bytes(1);
        for (name, is_known, cluster, welcome) in [
            ("a new one", false, &b""[..], true),
            ("one whose first answer was lost", true, b"", true),
            ("one that comes back", true, &cluster, true),
            ("one that was given up", false, &cluster, false),
        ] {
            assert_eq!(check_not_given_up(is_known, cluster).is_ok(), welcome, "{name}");
        }
    }

    #[test]
    fn members_of_another_cluster_are_refused() {
        let map = map(1);
        assert!(check_cluster(&map, &[]).is_ok());
        assert!(check_cluster(&map, &id_to_bytes(1)).is_ok());
        assert!(matches!(check_cluster(&map, &id_to_bytes(2)), Err(CoordinatorError::OtherCluster { .. })));
        assert!(check_cluster(&map, b"short").is_err());
        let unnamed = check_cluster(&ClusterMap::default(), &id_to_bytes(2));
        assert!(matches!(unnamed, Err(CoordinatorError::NoLeader)), "others may know that cluster");
    }
}
