//! `shoal.v1.ClusterService` on a coordinator.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_model::{ClusterMap, Command, ErrorKind, NodeId};
use shoal_proto::internal::v1::coordinator_service_client::CoordinatorServiceClient;
use shoal_proto::internal::v1::{PingRequest, PingResponse};
use shoal_proto::server::deadline;
use shoal_proto::status::{from_status, not_served_yet};
use shoal_proto::v1;
use shoal_proto::v1::cluster_service_client::ClusterServiceClient;
use shoal_proto::v1::cluster_service_server::ClusterService;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

use crate::CoordinatorError;
use crate::collections::describe_all;
use crate::leadership::{ANSWER_BYTES_MAX, Attempt, Boxed, Shared, was_forwarded};
use crate::lost;
use crate::status::{node_status, warnings};

/// How long another coordinator may take to answer for itself.
const PING_WITHIN: Duration = Duration::from_millis(500);

/// How long a leader is looked for before the status is told without one.
const LEADER_WITHIN: Duration = Duration::from_millis(1_500);

/// Whether a call failed for want of a leader.
fn without_leader(status: &Status) -> bool {
    let kind = from_status(status).kind;
    matches!(kind, ErrorKind::Unavailable | ErrorKind::NotLeader | ErrorKind::DeadlineExceeded | ErrorKind::Cancelled)
}

/// Serves the cluster's status.
pub(crate) struct Cluster(pub(crate) Arc<Shared>);

impl Cluster {
    async fn status(&self, attempt: Attempt) -> Result<v1::GetStatusResponse, CoordinatorError> {
        let map = self.0.fresh_map(attempt.deadline).await?;
        Ok(self.describe(&map, false).await)
    }

    async fn remove(
        &self,
        request: v1::RemoveNodeRequest,
        attempt: Attempt,
    ) -> Result<v1::RemoveNodeResponse, CoordinatorError> {
        let (map, node) = (self.0.fresh_map(attempt.deadline).await?, NodeId(request.node_id));
        // Numbers are not handed out twice, so a repeat removes nothing else.
        if let Some(known) = map.nodes.get(&node) {
            // What holds replicas is refused for that, alive or not.
            if map.shards_on(node).next().is_none() {
                lost::check_silent(&map, known, &self.0.hearing())?;
            }
            self.0.execute(&Command::RemoveNode { node }, attempt.deadline).await?;
        }
        Ok(v1::RemoveNodeResponse {})
    }

    /// The cluster as `map` and what this coordinator has heard show it.
    async fn describe(&self, map: &ClusterMap, stale: bool) -> v1::GetStatusResponse {
        let coordinators = self.ping_all().await;
        // One moment for all that is told, so that no two figures differ.
        let hearing = self.0.hearing();
        let nodes: Vec<_> = map.nodes.values().map(|node| node_status(map, node, &hearing)).collect();
        let lacking = self.0.lacking.warnings(map, hearing.now);
        v1::GetStatusResponse {
            cluster_id: uuid::Uuid::from_u128(map.cluster.0).to_string(),
            epoch: map.epoch.0,
            warnings: warnings(map, &nodes, &hearing, &coordinators, lacking, stale),
            coordinators,
            nodes,
            collections: describe_all(map, &hearing),
            stale,
        }
    }

    /// Whether another coordinator has a vote, and this one has none.
    async fn is_member_elsewhere(&self) -> bool {
        let has_vote = |pong: &PingResponse| pong.standing() == v1::CoordinatorStanding::Member;
        !self.0.is_member() && self.0.ping_peers().await.iter().any(has_vote)
    }

    /// How every coordinator is; one that is silent is out of reach.
    async fn ping_all(&self) -> Vec<v1::CoordinatorStatus> {
        let mut answers = self.0.ping_peers().await;
        answers.push(self.0.pong());
        let status = |peer: &crate::PeerConfig| {
            let answer = answers.iter().find(|answer| answer.id == peer.id);
            v1::CoordinatorStatus {
                id: peer.id,
                address: peer.address.clone(),
                leader: answer.is_some_and(|answer| answer.leader),
                reachable: answer.is_some(),
                applied_index: answer.map_or(0, |answer| answer.applied_index),
                disk: answer.and_then(|answer| answer.disk.clone()),
                standing: answer.map_or(0, |answer| answer.standing),
                waits_for: answer.map_or(String::new(), |answer| answer.waits_for.clone()),
            }
        };
        self.0.config.peers.iter().map(status).collect()
    }
}

impl Shared {
    /// Asks every other coordinator at once how it is; the answers of those that are not silent.
    pub(crate) async fn ping_peers(&self) -> Vec<PingResponse> {
        let mut pings = JoinSet::new();
        for (id, channel) in &self.peers {
            let (id, mut client) = (*id, CoordinatorServiceClient::new(channel.clone()));
            pings.spawn(async move {
                let mut request = Request::new(PingRequest {});
                request.set_timeout(PING_WITHIN);
                let answer = tokio::time::timeout(PING_WITHIN, client.ping(request)).await;
                let answer = answer.ok().and_then(Result::ok).map(Response::into_inner);
                answer.map(|answer| PingResponse { id, ..answer })
            });
        }
        pings.join_all().await.into_iter().flatten().collect()
    }
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn get_status(
        &self,
        mut request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        // An operator who asks how things are must not wait for them to be well.
        let deadline = deadline(request.metadata(), 0, self.0.limits());
        request.set_timeout(LEADER_WITHIN.min(deadline.saturating_duration_since(Instant::now()) / 2));
        let forwarded = was_forwarded(request.metadata());
        let here = |_, attempt| -> Boxed<'_, _> { Box::pin(self.status(attempt)) };
        let there = |leader, request| -> Boxed<'_, _> {
            Box::pin(async move {
                ClusterServiceClient::new(leader).max_decoding_message_size(ANSWER_BYTES_MAX).get_status(request).await
            })
        };
        match self.0.on_leader(request, here, there).await {
            // One that has no vote may have no map either; if others do, they are to be asked.
            Err(status) if !forwarded && without_leader(&status) && !self.is_member_elsewhere().await => {
                let map = self.0.maps.borrow().clone();
                Ok(Response::new(self.describe(&map, true).await))
            }
            answer => answer,
        }
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let here = |message, attempt| -> Boxed<'_, _> { Box::pin(self.remove(message, attempt)) };
        let there = |leader, request| -> Boxed<'_, _> {
            Box::pin(async move {
                ClusterServiceClient::new(leader).max_decoding_message_size(ANSWER_BYTES_MAX).remove_node(request).await
            })
        };
        self.0.on_leader(request, here, there).await
    }

    async fn drain_node(&self, _: Request<v1::DrainNodeRequest>) -> Result<Response<v1::DrainNodeResponse>, Status> {
        Err(not_served_yet("DrainNode"))
    }

    async fn plan_reshard(
        &self,
        _: Request<v1::PlanReshardRequest>,
    ) -> Result<Response<v1::PlanReshardResponse>, Status> {
        Err(not_served_yet("PlanReshard"))
    }

    async fn start_reshard(
        &self,
        _: Request<v1::StartReshardRequest>,
    ) -> Result<Response<v1::StartReshardResponse>, Status> {
        Err(not_served_yet("StartReshard"))
    }

    async fn list_operations(
        &self,
        _: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsResponse>, Status> {
        Err(not_served_yet("ListOperations"))
    }

    async fn control_operation(
        &self,
        _: Request<v1::ControlOperationRequest>,
    ) -> Result<Response<v1::ControlOperationResponse>, Status> {
        Err(not_served_yet("ControlOperation"))
    }
}
