//! A coordinator that tells what a test gives it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shoal_model::{ClusterMap, Collection, Epoch, InputError};
use shoal_proto::internal::v1 as wire;
use shoal_proto::internal::v1::coordinator_service_server::{CoordinatorService, CoordinatorServiceServer};
use shoal_proto::map::map_to_wire;
use shoal_proto::status::{RemoteError, not_served_yet, to_status};
use shoal_proto::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
use shoal_proto::v1::collections_service_server::{CollectionsService, CollectionsServiceServer};
use shoal_proto::{server, v1};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// Serves a map that the test changes.
#[derive(Clone)]
pub struct FakeCoordinator {
    pub address: String,
    /// What watchers see.
    pub shown: watch::Sender<ClusterMap>,
    /// What questions are answered from, if a test has set it apart from what watchers see.
    pub known: watch::Sender<Option<ClusterMap>>,
    /// How often it was asked for a collection.
    pub lookups: Arc<AtomicUsize>,
}

impl FakeCoordinator {
    pub async fn start(map: ClusterMap) -> Self {
        let (listener, address) = server::listen("127.0.0.1:0").await.expect("a free port");
        let fake = Self {
            address: format!("http://{address}"),
            shown: watch::Sender::new(map),
            known: watch::Sender::new(None),
            lookups: Arc::default(),
        };
        let routes = Routes::new(CoordinatorServiceServer::new(fake.clone()))
            .add_service(CollectionsServiceServer::new(fake.clone()))
            .add_service(ClusterServiceServer::new(fake.clone()));
        tokio::spawn(server::serve(listener, routes, CancellationToken::new()));
        fake
    }

    fn map(&self) -> ClusterMap {
        self.known.borrow().clone().unwrap_or_else(|| self.shown.borrow().clone())
    }

    fn describe(map: &ClusterMap, collection: &Collection) -> v1::Collection {
        let shard =
            |shard: &shoal_model::Shard| v1::Shard { id: shard.id.0, epoch: shard.epoch.0, ..Default::default() };
        v1::Collection {
            id: collection.id.0,
            name: collection.name.clone(),
            shards: map.shards_of(collection).map(shard).collect(),
            ..Default::default()
        }
    }

    fn find(&self, name: &str) -> Result<v1::Collection, Status> {
        let map = self.map();
        let found = map.collection(name).map(|collection| Self::describe(&map, collection));
        let kind = shoal_model::ErrorKind::NotFound;
        found.ok_or_else(|| to_status(&RemoteError { kind, field: "name".into(), message: "there is none".into() }))
    }
}

#[tonic::async_trait]
impl CoordinatorService for FakeCoordinator {
    type WatchMapStream = ReceiverStream<Result<wire::WatchMapResponse, Status>>;

    async fn watch_map(
        &self,
        request: Request<wire::WatchMapRequest>,
    ) -> Result<Response<Self::WatchMapStream>, Status> {
        let mut maps = self.shown.subscribe();
        let mut epoch = Epoch(request.get_ref().epoch);
        let (sender, stream) = mpsc::channel(4);
        tokio::spawn(async move {
            loop {
                let map = maps.borrow_and_update().clone();
                if map.epoch > epoch {
                    epoch = map.epoch;
                    let kind = Some(wire::watch_map_response::Kind::Whole(map_to_wire(&map)));
                    if sender.send(Ok(wire::WatchMapResponse { kind })).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = maps.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn register_node(
        &self,
        _: Request<wire::RegisterNodeRequest>,
    ) -> Result<Response<wire::RegisterNodeResponse>, Status> {
        Err(not_served_yet("registering with a fake"))
    }

    async fn heartbeat(&self, _: Request<wire::HeartbeatRequest>) -> Result<Response<wire::HeartbeatResponse>, Status> {
        Err(not_served_yet("a heartbeat to a fake"))
    }

    async fn ping(&self, _: Request<wire::PingRequest>) -> Result<Response<wire::PingResponse>, Status> {
        Err(not_served_yet("a ping to a fake"))
    }

    async fn get_beginning(
        &self,
        _: Request<wire::GetBeginningRequest>,
    ) -> Result<Response<wire::GetBeginningResponse>, Status> {
        Err(not_served_yet("asking a fake whether the cluster has begun"))
    }

    async fn join_coordinators(
        &self,
        _: Request<wire::JoinCoordinatorsRequest>,
    ) -> Result<Response<wire::JoinCoordinatorsResponse>, Status> {
        Err(not_served_yet("joining a fake"))
    }
}

#[tonic::async_trait]
impl CollectionsService for FakeCoordinator {
    async fn create_collection(
        &self,
        request: Request<v1::CreateCollectionRequest>,
    ) -> Result<Response<v1::CreateCollectionResponse>, Status> {
        let request = request.into_inner();
        if request.operation_id.is_empty() {
            return Err(to_status(&InputError::new("operation_id", "a router fills it in")));
        }
        let mut map = self.map();
        super::create(&mut map, &request.name, 2);
        // The index comes back as it came, so that tests see what has come through.
        let described =
            |collection| v1::Collection { index: request.index.clone(), ..Self::describe(&map, collection) };
        let collection = map.collection(&request.name).map(described);
        self.shown.send_replace(map);
        Ok(Response::new(v1::CreateCollectionResponse { collection }))
    }

    async fn list_collections(
        &self,
        _: Request<v1::ListCollectionsRequest>,
    ) -> Result<Response<v1::ListCollectionsResponse>, Status> {
        let map = self.map();
        let collections = map.collections.values().map(|collection| Self::describe(&map, collection)).collect();
        Ok(Response::new(v1::ListCollectionsResponse { collections }))
    }

    async fn get_collection(
        &self,
        request: Request<v1::GetCollectionRequest>,
    ) -> Result<Response<v1::GetCollectionResponse>, Status> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        let collection = Some(self.find(&request.get_ref().name)?);
        Ok(Response::new(v1::GetCollectionResponse { collection }))
    }

    async fn delete_collection(
        &self,
        request: Request<v1::DeleteCollectionRequest>,
    ) -> Result<Response<v1::DeleteCollectionResponse>, Status> {
        let found = self.find(&request.get_ref().name)?;
        let command = shoal_model::Command::DropCollection {
            operation: shoal_model::OperationId::default(),
            name: found.name,
            collection: Some(shoal_model::CollectionId(found.id)),
        };
        self.shown.send_modify(|map| drop(map.apply(command)));
        Ok(Response::new(v1::DeleteCollectionResponse {}))
    }

    async fn create_index_version(
        &self,
        _: Request<v1::CreateIndexVersionRequest>,
    ) -> Result<Response<v1::CreateIndexVersionResponse>, Status> {
        Err(not_served_yet("it"))
    }

    async fn roll_out_index_version(
        &self,
        _: Request<v1::RollOutIndexVersionRequest>,
    ) -> Result<Response<v1::RollOutIndexVersionResponse>, Status> {
        Err(not_served_yet("it"))
    }
}

#[tonic::async_trait]
impl ClusterService for FakeCoordinator {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(v1::GetStatusResponse { epoch: self.map().epoch.0, ..Default::default() }))
    }

    async fn remove_node(&self, _: Request<v1::RemoveNodeRequest>) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        Err(not_served_yet("it"))
    }

    async fn drain_node(&self, _: Request<v1::DrainNodeRequest>) -> Result<Response<v1::DrainNodeResponse>, Status> {
        Err(not_served_yet("it"))
    }

    async fn plan_reshard(
        &self,
        _: Request<v1::PlanReshardRequest>,
    ) -> Result<Response<v1::PlanReshardResponse>, Status> {
        Err(not_served_yet("it"))
    }

    async fn start_reshard(
        &self,
        _: Request<v1::StartReshardRequest>,
    ) -> Result<Response<v1::StartReshardResponse>, Status> {
        Err(not_served_yet("it"))
    }

    async fn list_operations(
        &self,
        _: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsResponse>, Status> {
        Err(not_served_yet("it"))
    }

    async fn control_operation(
        &self,
        _: Request<v1::ControlOperationRequest>,
    ) -> Result<Response<v1::ControlOperationResponse>, Status> {
        Err(not_served_yet("it"))
    }
}
