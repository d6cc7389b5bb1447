//! A router in memory that does as told, and the `shoal` binary run against it.

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shoal_model::{ErrorKind, InputError, Metric, Point, PointId};
use shoal_proto::status::{RemoteError, not_served_yet, to_status};
use shoal_proto::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
use shoal_proto::v1::collections_service_server::{CollectionsService, CollectionsServiceServer};
use shoal_proto::v1::points_service_server::{PointsService, PointsServiceServer};
use shoal_proto::{convert, server, v1};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// What the router holds, and how it misbehaves.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) collection: Option<v1::Collection>,
    pub(crate) points: BTreeMap<PointId, Point>,
    /// Ids of every point that was ever sent, in order.
    pub(crate) sent: Vec<PointId>,
    /// Upserts to fail first, as if the cluster were out of reach.
    pub(crate) unavailable: u32,
    /// Refuses the point with this id.
    pub(crate) refused: Option<PointId>,
    /// Fails every upsert once this many points are stored.
    pub(crate) full_at: Option<usize>,
    /// Does not answer upserts once this many points are stored, until it is taken away.
    pub(crate) hang_at: Option<usize>,
    /// Whether vectors came as 16-bit floats.
    pub(crate) halves: bool,
}

/// A router in memory.
#[derive(Clone, Default)]
pub(crate) struct FakeRouter {
    pub(crate) state: Arc<Mutex<State>>,
    hanging: Arc<Notify>,
}

type Answer<T> = Result<Response<T>, Status>;

fn error(kind: ErrorKind, message: &str) -> Status {
    to_status(&RemoteError { kind, field: String::new(), message: message.into() })
}

impl FakeRouter {
    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panics")
    }

    /// Completes once an upsert hangs.
    pub(crate) async fn hangs(&self) {
        self.hanging.notified().await;
    }

    fn must_hang(&self) -> bool {
        let state = self.lock();
        state.hang_at.is_some_and(|hang_at| state.points.len() >= hang_at)
    }

    /// Serves until the test ends; gives the endpoint.
    pub(crate) async fn start(&self) -> String {
        let (listener, address) = server::listen("127.0.0.1:0").await.expect("a free port");
        let routes = Routes::new(PointsServiceServer::new(self.clone()))
            .add_service(CollectionsServiceServer::new(self.clone()))
            .add_service(ClusterServiceServer::new(self.clone()));
        tokio::spawn(server::serve(listener, routes, CancellationToken::new()));
        format!("http://{address}")
    }

    pub(crate) fn with_collection(dim: u32, metric: Metric) -> Self {
        let router = Self::default();
        router.lock().collection = Some(collection("c", dim, convert::metric_to_wire(metric).into()));
        router
    }
}

fn collection(name: &str, dim: u32, metric: i32) -> v1::Collection {
    v1::Collection {
        id: 7,
        name: name.into(),
        active_version: 1,
        index: Some(v1::IndexSpec { dim, metric, ..Default::default() }),
        replicas: 1,
        ..Default::default()
    }
}

#[tonic::async_trait]
impl CollectionsService for FakeRouter {
    async fn create_collection(
        &self,
        request: Request<v1::CreateCollectionRequest>,
    ) -> Answer<v1::CreateCollectionResponse> {
        let request = request.into_inner();
        let index = request.index.unwrap_or_default();
        let created = v1::Collection { index: Some(index), ..collection(&request.name, 0, 0) };
        self.lock().collection = Some(created.clone());
        Ok(Response::new(v1::CreateCollectionResponse { collection: Some(created) }))
    }

    async fn get_collection(&self, _: Request<v1::GetCollectionRequest>) -> Answer<v1::GetCollectionResponse> {
        match &self.lock().collection {
            None => Err(error(ErrorKind::NotFound, "collection c does not exist")),
            found => Ok(Response::new(v1::GetCollectionResponse { collection: found.clone() })),
        }
    }

    async fn list_collections(&self, _: Request<v1::ListCollectionsRequest>) -> Answer<v1::ListCollectionsResponse> {
        let collections = self.lock().collection.clone().into_iter().collect();
        Ok(Response::new(v1::ListCollectionsResponse { collections }))
    }

    async fn delete_collection(&self, _: Request<v1::DeleteCollectionRequest>) -> Answer<v1::DeleteCollectionResponse> {
        self.lock().collection = None;
        Ok(Response::new(v1::DeleteCollectionResponse {}))
    }

    async fn create_index_version(
        &self,
        _: Request<v1::CreateIndexVersionRequest>,
    ) -> Answer<v1::CreateIndexVersionResponse> {
        Err(not_served_yet("CreateIndexVersion"))
    }

    async fn roll_out_index_version(
        &self,
        _: Request<v1::RollOutIndexVersionRequest>,
    ) -> Answer<v1::RollOutIndexVersionResponse> {
        Err(not_served_yet("RollOutIndexVersion"))
    }
}

#[tonic::async_trait]
impl PointsService for FakeRouter {
    async fn upsert(&self, request: Request<v1::UpsertRequest>) -> Answer<v1::UpsertResponse> {
        while self.must_hang() {
            self.hanging.notify_one();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut state = self.lock();
        if state.unavailable > 0 {
            state.unavailable -= 1;
            return Err(error(ErrorKind::Unavailable, "no leader for the moment"));
        }
        if state.full_at.is_some_and(|full_at| state.points.len() >= full_at) {
            return Err(error(ErrorKind::Precondition, "disk is full"));
        }
        let points = request.into_inner().points;
        let is_half = |point: &v1::Point| {
            let encoding = point.vector.as_ref().and_then(|vector| vector.encoding.as_ref());
            matches!(encoding, Some(v1::vector::Encoding::F16Le(_)))
        };
        state.halves = points.iter().all(is_half);
        let points: Vec<Point> = points.into_iter().map(convert::point).collect::<Result<_, _>>().expect("well-formed");
        for (i, point) in points.iter().enumerate() {
            if state.refused.as_ref() == Some(&point.id) {
                let refusal = InputError::new(format!("points[{i}].payload"), "has 9 bytes, the cap is 5");
                return Err(to_status(&refusal));
            }
        }
        for point in points {
            state.sent.push(point.id.clone());
            state.points.insert(point.id.clone(), point);
        }
        Ok(Response::new(v1::UpsertResponse::default()))
    }

    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Answer<v1::DeleteResponse> {
        Ok(Response::new(v1::DeleteResponse::default()))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Answer<v1::GetResponse> {
        let ids = convert::point_ids("ids", request.into_inner().ids).expect("well-formed");
        let state = self.lock();
        let points = ids.iter().filter_map(|id| state.points.get(id)).cloned().map(convert::point_to_wire);
        Ok(Response::new(v1::GetResponse { points: points.collect(), info: None }))
    }

    async fn count(&self, _: Request<v1::CountRequest>) -> Answer<v1::CountResponse> {
        Ok(Response::new(v1::CountResponse { count: self.lock().points.len() as u64, info: None }))
    }

    async fn scroll(&self, _: Request<v1::ScrollRequest>) -> Answer<v1::ScrollResponse> {
        Err(not_served_yet("Scroll"))
    }

    async fn set_payload(&self, _: Request<v1::SetPayloadRequest>) -> Answer<v1::SetPayloadResponse> {
        Err(not_served_yet("SetPayload"))
    }
}

#[tonic::async_trait]
impl ClusterService for FakeRouter {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Answer<v1::GetStatusResponse> {
        Ok(Response::new(v1::GetStatusResponse { cluster_id: "c0ffee".into(), epoch: 1, ..Default::default() }))
    }

    async fn remove_node(&self, _: Request<v1::RemoveNodeRequest>) -> Answer<v1::RemoveNodeResponse> {
        Err(not_served_yet("RemoveNode"))
    }

    async fn drain_node(&self, _: Request<v1::DrainNodeRequest>) -> Answer<v1::DrainNodeResponse> {
        Err(not_served_yet("DrainNode"))
    }

    async fn plan_reshard(&self, _: Request<v1::PlanReshardRequest>) -> Answer<v1::PlanReshardResponse> {
        Err(not_served_yet("PlanReshard"))
    }

    async fn start_reshard(&self, _: Request<v1::StartReshardRequest>) -> Answer<v1::StartReshardResponse> {
        Err(not_served_yet("StartReshard"))
    }

    async fn list_operations(&self, _: Request<v1::ListOperationsRequest>) -> Answer<v1::ListOperationsResponse> {
        Err(not_served_yet("ListOperations"))
    }

    async fn control_operation(&self, _: Request<v1::ControlOperationRequest>) -> Answer<v1::ControlOperationResponse> {
        Err(not_served_yet("ControlOperation"))
    }
}

/// Longest that any command of a test may take.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// A run of `shoal`.
pub(crate) struct Run {
    pid: String,
    output: mpsc::Receiver<std::io::Result<Output>>,
}

impl Run {
    /// Starts `shoal` with these arguments against `endpoint`.
    pub(crate) fn start(endpoint: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
        command.args(arguments).env("SHOAL_ENDPOINT", endpoint);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for variable in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "SHOAL_LOG", "RUST_LOG"] {
            command.env_remove(variable);
        }
        let child = command.spawn().expect("the binary runs");
        let pid = child.id().to_string();
        let (sender, output) = mpsc::channel(1);
        std::thread::spawn(move || sender.blocking_send(child.wait_with_output()));
        Self { pid, output }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid]).stderr(Stdio::null()).status();
        sent.expect("kill runs");
    }

    /// Waits for its end; gives exit code, stdout and stderr. One that does not end fails the test.
    pub(crate) async fn end(mut self) -> (i32, String, String) {
        let ended = tokio::time::timeout(ENDS_WITHIN, self.output.recv()).await;
        let Ok(output) = ended else {
            self.signal("KILL");
            panic!("the command did not end within {ENDS_WITHIN:?}");
        };
        told(output)
    }

    /// Sends it a signal again and again until its end.
    pub(crate) async fn end_signalled(mut self, name: &str) -> (i32, String, String) {
        for _ in 0..600 {
            self.signal(name);
            if let Ok(output) = tokio::time::timeout(Duration::from_millis(100), self.output.recv()).await {
                return told(output);
            }
        }
        self.signal("KILL");
        panic!("the command did not end on signals");
    }
}

fn told(output: Option<std::io::Result<Output>>) -> (i32, String, String) {
    let Output { status, stdout, stderr } = output.expect("sent once").expect("its output is read");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("it was not killed"), text(stdout), text(stderr))
}

/// Runs `shoal` with these arguments against `endpoint`; gives exit code, stdout and stderr.
pub(crate) async fn shoal(endpoint: &str, arguments: &[&str]) -> (i32, String, String) {
    Run::start(endpoint, arguments).end().await
}
