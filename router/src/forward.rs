//! `shoal.v1.CollectionsService` and `ClusterService`: answered by coordinators, whichever one can.
//!
//! What a caller has just created or removed through this router, its next call through this router sees.

use std::sync::Arc;
use std::time::Duration;

use shoal_model::ErrorKind;
use shoal_proto::status::from_status;
use shoal_proto::v1;
use shoal_proto::v1::cluster_service_server::ClusterService;
use shoal_proto::v1::collections_service_server::CollectionsService;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tracing::info_span;

use crate::RouterError;
use crate::call::{Call, Shared, brief};
use crate::coordinators::{Asked, cluster, collections};
use crate::lookup::epoch_of;

/// How long the answer to a removal may wait until this router's map shows it.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// Serves collections.
pub(crate) struct Collections(pub(crate) Arc<Shared>);

/// Serves the cluster.
pub(crate) struct Cluster(pub(crate) Arc<Shared>);

impl Shared {
    /// Serves a request by asking coordinators. `message` must bear repeating.
    async fn forward<Q: Clone, A>(
        &self,
        method: &'static str,
        request: Request<Q>,
        ask: impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<Response<A>, Status> {
        let answer = async |message, call: &Call| self.ask(&message, call, ask).await.0;
        self.serve(method, info_span!("router.forward", method), 0, request, answer).await
    }

    /// What a coordinator answers, and whether an earlier attempt may have done the work already.
    async fn ask<Q: Clone, A>(
        &self,
        message: &Q,
        call: &Call,
        ask: impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
    ) -> (Result<A, RouterError>, bool) {
        let Asked { result, repeated } = self.coordinators.ask(&call.metadata, message, call.deadline, ask).await;
        (result.map(Response::into_inner).map_err(|status| from_status(&status).into()), repeated)
    }

    async fn create(
        &self,
        mut request: v1::CreateCollectionRequest,
        call: &Call,
    ) -> Result<v1::CreateCollectionResponse, RouterError> {
        if request.operation_id.is_empty() {
            // So that asking a second coordinator is the same intent.
            request.operation_id = uuid::Uuid::new_v4().to_string();
        }
        let ask = async |channel, request| collections(channel).create_collection(request).await;
        let answer = self.ask(&request, call, ask).await.0?;
        if let Some(collection) = &answer.collection {
            self.shown(epoch_of(collection), call.deadline).await;
        }
        Ok(answer)
    }

    async fn remove(
        &self,
        mut request: v1::DeleteCollectionRequest,
        call: &Call,
    ) -> Result<v1::DeleteCollectionResponse, RouterError> {
        if request.operation_id.is_empty() {
            // So that asking a second coordinator removes nothing else.
            request.operation_id = uuid::Uuid::new_v4().to_string();
        }
        let removed = self.air.watch.current().collection(&request.name).map(|collection| collection.id);
        let ask = async |channel, request| collections(channel).delete_collection(request).await;
        let answer = match self.ask(&request, call, ask).await {
            // The first attempt has removed it, and its answer was lost.
            (Err(RouterError::Remote(error)), true) if error.kind == ErrorKind::NotFound => {
                v1::DeleteCollectionResponse {}
            }
            (answer, _) => answer?,
        };
        if let Some(removed) = removed {
            self.air.watch.refresh();
            let mut maps = self.air.watch.subscribe();
            let gone = maps.wait_for(|map| !map.collections.contains_key(&removed));
            // It is removed in any case; a map that is late only says so later.
            let _ = timeout_at(call.deadline.min(Instant::now() + GONE_WITHIN), gone).await;
        }
        Ok(answer)
    }
}

#[tonic::async_trait]
impl CollectionsService for Collections {
    async fn create_collection(
        &self,
        request: Request<v1::CreateCollectionRequest>,
    ) -> Result<Response<v1::CreateCollectionResponse>, Status> {
        let span = info_span!("router.create_collection", name = brief(&request.get_ref().name));
        let answer = async |message, call: &Call| self.0.create(message, call).await;
        self.0.serve("create_collection", span, 0, request, answer).await
    }

    async fn delete_collection(
        &self,
        request: Request<v1::DeleteCollectionRequest>,
    ) -> Result<Response<v1::DeleteCollectionResponse>, Status> {
        let span = info_span!("router.delete_collection", name = brief(&request.get_ref().name));
        let answer = async |message, call: &Call| self.0.remove(message, call).await;
        self.0.serve("delete_collection", span, 0, request, answer).await
    }

    async fn list_collections(
        &self,
        request: Request<v1::ListCollectionsRequest>,
    ) -> Result<Response<v1::ListCollectionsResponse>, Status> {
        let ask = async |channel, request| collections(channel).list_collections(request).await;
        self.0.forward("list_collections", request, ask).await
    }

    async fn get_collection(
        &self,
        request: Request<v1::GetCollectionRequest>,
    ) -> Result<Response<v1::GetCollectionResponse>, Status> {
        let ask = async |channel, request| collections(channel).get_collection(request).await;
        self.0.forward("get_collection", request, ask).await
    }

    async fn create_index_version(
        &self,
        request: Request<v1::CreateIndexVersionRequest>,
    ) -> Result<Response<v1::CreateIndexVersionResponse>, Status> {
        refuse("create_index_version", "CreateIndexVersion", &self.0, request).await
    }

    async fn roll_out_index_version(
        &self,
        request: Request<v1::RollOutIndexVersionRequest>,
    ) -> Result<Response<v1::RollOutIndexVersionResponse>, Status> {
        refuse("roll_out_index_version", "RollOutIndexVersion", &self.0, request).await
    }
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let ask = async |channel, request| cluster(channel).get_status(request).await;
        self.0.forward("get_status", request, ask).await
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let ask = async |channel, request| cluster(channel).remove_node(request).await;
        self.0.forward("remove_node", request, ask).await
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::DrainNodeResponse>, Status> {
        refuse("drain_node", "DrainNode", &self.0, request).await
    }

    async fn plan_reshard(
        &self,
        request: Request<v1::PlanReshardRequest>,
    ) -> Result<Response<v1::PlanReshardResponse>, Status> {
        refuse("plan_reshard", "PlanReshard", &self.0, request).await
    }

    async fn start_reshard(
        &self,
        request: Request<v1::StartReshardRequest>,
    ) -> Result<Response<v1::StartReshardResponse>, Status> {
        refuse("start_reshard", "StartReshard", &self.0, request).await
    }

    async fn list_operations(
        &self,
        request: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsResponse>, Status> {
        refuse("list_operations", "ListOperations", &self.0, request).await
    }

    async fn control_operation(
        &self,
        request: Request<v1::ControlOperationRequest>,
    ) -> Result<Response<v1::ControlOperationResponse>, Status> {
        refuse("control_operation", "ControlOperation", &self.0, request).await
    }
}

/// Answers a call that is part of the API and not served yet.
async fn refuse<Q, A>(
    method: &'static str,
    name: &'static str,
    shared: &Shared,
    request: Request<Q>,
) -> Result<Response<A>, Status> {
    let answer = async |_, _: &Call| Err(RouterError::not_served(name));
    shared.serve(method, info_span!("router.forward", method), 0, request, answer).await
}
