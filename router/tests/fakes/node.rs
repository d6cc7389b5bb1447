//! A node that answers, refuses or keeps silent as a test tells it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::stream::{self, BoxStream, StreamExt as _};
use shoal_model::{ClusterMap, PointId};
use shoal_proto::internal::v1 as wire;
use shoal_proto::internal::v1::shard_service_server::{ShardService, ShardServiceServer};
use shoal_proto::recipient::Recipient;
use shoal_proto::status::{RemoteError, to_status};
use shoal_proto::{convert, server, v1};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// What a call meets instead of an answer.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// Every shard is refused with this kind.
    Shards(wire::ShardFailureKind),
    /// The call fails with this kind.
    Call(shoal_model::ErrorKind),
    /// No answer ever.
    Silence,
}

/// Keeps points in memory, one log position a write.
#[derive(Clone)]
pub struct FakeNode {
    pub address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    down: Option<TcpSocket>,
    stopped: Option<TcpListener>,
    points: BTreeMap<u64, BTreeMap<PointId, v1::Point>>,
    log_index: u64,
    epochs: BTreeMap<u64, u64>,
    /// Met by the next calls, one each.
    next: VecDeque<Trouble>,
    /// Met by every call.
    lasting: Option<Trouble>,
    /// Targets of each call.
    calls: Vec<Vec<wire::ShardTarget>>,
    timeouts: Vec<String>,
    /// Searches in each batch.
    batches: Vec<usize>,
}

impl FakeNode {
    pub async fn start() -> Self {
        let (listener, address) = server::listen("127.0.0.1:0").await.expect("a free port");
        let node = Self { address: format!("http://{address}"), state: Arc::default() };
        node.serve(listener);
        node
    }

    /// A node that takes calls for itself alone.
    pub async fn start_as(me: Recipient) -> Self {
        let (listener, address) = server::listen("127.0.0.1:0").await.expect("a free port");
        let node = Self { address: format!("http://{address}"), state: Arc::default() };
        let routes = me.guard(Routes::new(ShardServiceServer::new(node.clone())));
        tokio::spawn(server::serve(listener, routes, CancellationToken::new()));
        node
    }

    /// A node that is down: its address is taken, but nothing listens there.
    pub fn down() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let state = State { down: Some(socket), ..State::default() };
        Self { address: format!("http://{address}"), state: Arc::new(Mutex::new(state)) }
    }

    /// Brings a node that is down up at its address.
    pub fn come_back(&self) {
        let socket = self.state().down.take().expect("it was down");
        self.serve(socket.listen(64).expect("it is bound"));
    }

    /// A node that is stopped: the kernel takes connections for it, and nothing is ever said on them.
    pub async fn stopped() -> Self {
        let (listener, address) = server::listen("127.0.0.1:0").await.expect("a free port");
        let state = State { stopped: Some(listener), ..State::default() };
        Self { address: format!("http://{address}"), state: Arc::new(Mutex::new(state)) }
    }

    /// Lets a node that is stopped go on.
    pub fn go_on(&self) {
        let listener = self.state().stopped.take().expect("it was stopped");
        self.serve(listener);
    }

    fn serve(&self, listener: TcpListener) {
        let routes = Routes::new(ShardServiceServer::new(self.clone()));
        tokio::spawn(server::serve(listener, routes, CancellationToken::new()));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// Believes in the epochs of `map` from now on.
    pub fn follow(&self, map: &ClusterMap) {
        self.state().epochs = map.shards.values().map(|shard| (shard.id.0, shard.epoch.0)).collect();
    }

    pub fn next(&self, trouble: Trouble) {
        self.state().next.push_back(trouble);
    }

    pub fn always(&self, trouble: Trouble) {
        self.state().lasting = Some(trouble);
    }

    /// The targets of each call so far.
    pub fn calls(&self) -> Vec<Vec<wire::ShardTarget>> {
        self.state().calls.clone()
    }

    /// The deadlines that calls carried, as their headers say.
    pub fn timeouts(&self) -> Vec<String> {
        self.state().timeouts.clone()
    }

    /// How many searches each batch had.
    pub fn batches(&self) -> Vec<usize> {
        self.state().batches.clone()
    }

    /// What becomes of the targets of a call: those that may answer, and the others.
    async fn admit<T>(
        &self,
        request: &Request<T>,
        targets: Vec<wire::ShardTarget>,
    ) -> Result<(Vec<wire::ShardAnswer>, Vec<wire::ShardFailure>), Status> {
        let timeout = request.metadata().get("grpc-timeout").and_then(|text| text.to_str().ok());
        self.admit_within(timeout.unwrap_or_default().to_owned(), targets).await
    }

    async fn admit_within(
        &self,
        timeout: String,
        targets: Vec<wire::ShardTarget>,
    ) -> Result<(Vec<wire::ShardAnswer>, Vec<wire::ShardFailure>), Status> {
        let trouble = {
            let mut state = self.state();
            state.calls.push(targets.clone());
            state.timeouts.push(timeout);
            let lasting = state.lasting;
            state.next.pop_front().or(lasting)
        };
        let message = "on purpose".to_owned();
        match trouble {
            Some(Trouble::Silence) => std::future::pending().await,
            Some(Trouble::Call(kind)) => Err(to_status(&RemoteError { kind, field: String::new(), message })),
            Some(Trouble::Shards(kind)) => Ok((vec![], targets.iter().map(|t| refused(t, kind)).collect())),
            None => {
                let state = self.state();
                let stale = |target: &wire::ShardTarget| state.epochs.get(&target.shard_id) != Some(&target.epoch);
                let (failed, open): (Vec<_>, Vec<_>) = targets.into_iter().partition(stale);
                let kind = wire::ShardFailureKind::StaleEpoch;
                let answer = |t: wire::ShardTarget| wire::ShardAnswer {
                    shard_id: t.shard_id,
                    applied_index: state.log_index,
                    staleness_ms: 0,
                };
                Ok((open.into_iter().map(answer).collect(), failed.iter().map(|t| refused(t, kind)).collect()))
            }
        }
    }

    fn points_of(&self, answered: &[wire::ShardAnswer]) -> BTreeMap<PointId, v1::Point> {
        let state = self.state();
        let of_shard = |answer: &wire::ShardAnswer| state.points.get(&answer.shard_id).cloned().unwrap_or_default();
        answered.iter().flat_map(of_shard).collect()
    }
}

/// What a search finds among `points`, and among the shards that answer.
fn find(
    points: BTreeMap<PointId, v1::Point>,
    request: wire::SearchRequest,
    answered: Vec<wire::ShardAnswer>,
    failures: Vec<wire::ShardFailure>,
) -> wire::SearchResponse {
    let query = components(request.vector);
    let hit = |point: v1::Point| wire::NodeHit {
        score: components(point.vector.clone()).iter().zip(&query).map(|(a, b)| a * b).sum(),
        id: point.id,
        payload: point.payload.filter(|_| request.with_payload),
        vector: point.vector.filter(|_| request.with_vectors),
    };
    let mut hits: Vec<_> = points.into_values().map(hit).collect();
    hits.sort_by(|a, b| b.score.total_cmp(&a.score));
    let distances = hits.len() as u64;
    hits.truncate(request.k as usize);
    // As effort asks for, so that tests see that it has come through.
    let hops = if request.exact { 0 } else { request.ef_search.unwrap_or(10).into() };
    wire::SearchResponse {
        hits,
        answered,
        failures,
        search_us: 1,
        // More than the whole flight can have taken.
        refine_us: 1 << 40,
        distances,
        hops,
        ..Default::default()
    }
}

fn refused(target: &wire::ShardTarget, kind: wire::ShardFailureKind) -> wire::ShardFailure {
    wire::ShardFailure { shard_id: target.shard_id, kind: kind.into(), message: "on purpose".into(), leader_node: 0 }
}

fn components(vector: Option<v1::Vector>) -> Vec<f32> {
    convert::vector(vector).expect("checked by the router")
}

fn point_id(id: Option<v1::PointId>) -> PointId {
    convert::point_id(id).expect("checked by the router")
}

#[tonic::async_trait]
impl ShardService for FakeNode {
    type SearchBatchStream = BoxStream<'static, Result<wire::SearchBatchResponse, Status>>;

    async fn write(&self, request: Request<wire::WriteRequest>) -> Result<Response<wire::WriteResponse>, Status> {
        use wire::write_response::Result as Written;
        let target = request.get_ref().target.expect("a write has a target");
        let (answered, failures) = self.admit(&request, vec![target]).await?;
        let request = request.into_inner();
        if answered.is_empty() {
            return Ok(Response::new(wire::WriteResponse {
                result: failures.into_iter().next().map(Written::Failure),
            }));
        }
        let mut state = self.state();
        state.log_index += 1;
        let points = state.points.entry(target.shard_id).or_default();
        points.extend(request.upserts.into_iter().map(|point| (point_id(point.id.clone()), point)));
        request.deletes.into_iter().for_each(|id| drop(points.remove(&point_id(Some(id)))));
        Ok(Response::new(wire::WriteResponse { result: Some(Written::LogIndex(state.log_index)) }))
    }

    async fn search(&self, request: Request<wire::SearchRequest>) -> Result<Response<wire::SearchResponse>, Status> {
        let (answered, failures) = self.admit(&request, request.get_ref().targets.clone()).await?;
        let points = self.points_of(&answered);
        Ok(Response::new(find(points, request.into_inner(), answered, failures)))
    }

    /// A search that fails as a call does ends the whole batch with it.
    async fn search_batch(
        &self,
        request: Request<wire::SearchBatchRequest>,
    ) -> Result<Response<Self::SearchBatchStream>, Status> {
        let items = request.into_inner().items;
        self.state().batches.push(items.len());
        let node = self.clone();
        let answer = move |(position, item): (u32, wire::SearchBatchItem)| {
            let node = node.clone();
            async move {
                let search = item.search.expect("the router fills it in");
                let within = format!("{}u", item.timeout_us);
                let (answered, failures) = node.admit_within(within, search.targets.clone()).await?;
                let answer = find(node.points_of(&answered), search, answered, failures);
                Ok(wire::SearchBatchResponse { position, answer: Some(answer) })
            }
        };
        Ok(Response::new(stream::iter((0..).zip(items)).map(answer).buffer_unordered(usize::MAX).boxed()))
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::GetResponse>, Status> {
        let (answered, failures) = self.admit(&request, request.get_ref().target.into_iter().collect()).await?;
        let mut points = self.points_of(&answered);
        let wanted = request.into_inner().ids;
        let points = wanted.into_iter().filter_map(|id| points.remove(&point_id(Some(id)))).collect();
        Ok(Response::new(wire::GetResponse { points, answered, failures }))
    }

    async fn count(&self, request: Request<wire::CountRequest>) -> Result<Response<wire::CountResponse>, Status> {
        let (answered, failures) = self.admit(&request, request.get_ref().targets.clone()).await?;
        let count = self.points_of(&answered).len() as u64;
        Ok(Response::new(wire::CountResponse { count, answered, failures }))
    }

    async fn scroll(&self, request: Request<wire::ScrollRequest>) -> Result<Response<wire::ScrollResponse>, Status> {
        let (answered, failures) = self.admit(&request, request.get_ref().targets.clone()).await?;
        let request = request.into_inner();
        let after = request.after.map(|after| point_id(Some(after)));
        let points = self.points_of(&answered).into_iter();
        let points = points.filter(|(id, _)| after.as_ref().is_none_or(|after| id > after)).map(|(_, point)| point);
        Ok(Response::new(wire::ScrollResponse {
            points: points.take(request.limit as usize).collect(),
            answered,
            failures,
        }))
    }
}
