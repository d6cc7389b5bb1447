//! The calls, and the one loop that gives each a deadline, another attempt and another endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use shoal_model::{Filter, InputError, Point, PointId, Token};
use shoal_proto::v1::cluster_service_client::ClusterServiceClient;
use shoal_proto::v1::collections_service_client::CollectionsServiceClient;
use shoal_proto::v1::points_service_client::PointsServiceClient;
use shoal_proto::v1::search_service_client::SearchServiceClient;
use shoal_proto::{convert, server, trace, v1};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tracing::instrument;

use crate::answer::{self, Answer, Page, Record};
use crate::cluster::{self, ClusterStatus, Collection};
use crate::error::{ClientError, Met, classify, is_transient};
use crate::options::{
    Consistency, NewCollection, ReadOptions, ScrollOptions, SearchOptions, VectorEncoding, filter_to_wire,
};
use crate::retry::pause_after;

/// Time a call is given unless [`Client::with_timeout`] says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer that is read: 10,000 hits with vectors of a thousand dimensions fit.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A connection to a cluster. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    endpoints: Arc<Endpoints>,
    timeout: Duration,
    patience: Option<Duration>,
}

#[derive(Debug)]
struct Endpoints {
    list: Vec<(String, Channel)>,
    /// Position of the one that answered last.
    current: AtomicUsize,
}

impl Endpoints {
    fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed) % self.list.len()
    }

    /// Turns to the endpoint after `failed`, unless another call did so before.
    fn turn_from(&self, failed: usize) {
        let next = (failed + 1) % self.list.len();
        let _ = self.current.compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn names(&self) -> String {
        self.list.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

macro_rules! service {
    ($client:ident, $channel:expr) => {
        $client::new($channel).max_decoding_message_size(ANSWER_BYTES_MAX)
    };
}

impl Client {
    /// A client of the cluster behind `endpoints` (each `http://host:port`). Connects when first used, inside a
    /// Tokio runtime.
    ///
    /// Errors: [`ClientError::Input`] for an address that is none, or if there are none.
    pub fn connect<S: AsRef<str>>(endpoints: &[S]) -> Result<Self, ClientError> {
        let named = |error: InputError| InputError { field: "endpoint".to_owned(), ..error };
        let open =
            |endpoint: &S| Ok((endpoint.as_ref().to_owned(), server::channel(endpoint.as_ref()).map_err(named)?));
        let list = endpoints.iter().map(open).collect::<Result<Vec<_>, InputError>>()?;
        if list.is_empty() {
            return Err(InputError::new("endpoints", "is empty; give at least one http://host:port").into());
        }
        let endpoints = Arc::new(Endpoints { list, current: AtomicUsize::new(0) });
        Ok(Self { endpoints, timeout: DEFAULT_TIMEOUT, patience: None })
    }

    /// The same client, whose calls are given `timeout`, all attempts together.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same client, whose calls end after `patience` if nobody has listened at any endpoint until then; otherwise
    /// such a call is repeated until its deadline.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self.clone() }
    }

    /// Time that a call is given.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Creates a collection. A retry of the same intent finds its own work.
    #[instrument(name = "client.create_collection", skip_all, fields(collection = %new.name))]
    pub async fn create_collection(&self, new: NewCollection) -> Result<Collection, ClientError> {
        let send = |channel, request| async move {
            service!(CollectionsServiceClient, channel).create_collection(request).await
        };
        cluster::collection(self.call(new.to_wire(), send).await?.collection)
    }

    /// All collections by name.
    #[instrument(name = "client.list_collections", skip_all)]
    pub async fn list_collections(&self) -> Result<Vec<Collection>, ClientError> {
        let send = |channel, request| async move {
            service!(CollectionsServiceClient, channel).list_collections(request).await
        };
        cluster::collections(self.call(v1::ListCollectionsRequest {}, send).await?.collections)
    }

    /// One collection with its shards.
    #[instrument(name = "client.describe_collection", skip_all, fields(collection = name))]
    pub async fn describe_collection(&self, name: &str) -> Result<Collection, ClientError> {
        let send =
            |channel, request| async move { service!(CollectionsServiceClient, channel).get_collection(request).await };
        let request = v1::GetCollectionRequest { name: name.to_owned() };
        cluster::collection(self.call(request, send).await?.collection)
    }

    /// Removes a collection and all its points. A repeated attempt removes nothing else, whoever has created another collection
    /// of that name meanwhile.
    #[instrument(name = "client.drop_collection", skip_all, fields(collection = name))]
    pub async fn drop_collection(&self, name: &str) -> Result<(), ClientError> {
        let send = |channel, request| async move {
            service!(CollectionsServiceClient, channel).delete_collection(request).await
        };
        let request = v1::DeleteCollectionRequest { name: name.to_owned(), operation_id: new_operation() };
        self.call(request, send).await.map(drop)
    }

    /// Writes points, each as a whole. All of them are on disk when it returns.
    pub async fn upsert(&self, collection: &str, points: Vec<Point>) -> Result<Token, ClientError> {
        self.upsert_as(collection, points, VectorEncoding::F32).await
    }

    /// [`Client::upsert`] with vectors that travel as `encoding` says.
    #[instrument(name = "client.upsert", skip_all, fields(collection, points = points.len()))]
    pub async fn upsert_as(
        &self,
        collection: &str,
        points: Vec<Point>,
        encoding: VectorEncoding,
    ) -> Result<Token, ClientError> {
        let points = points.into_iter().map(|point| point_to_wire(point, encoding)).collect();
        let collection = collection.to_owned();
        let request = v1::UpsertRequest { collection, points, timeout_ms: 0, operation_id: new_operation() };
        let send = |channel, request| async move { service!(PointsServiceClient, channel).upsert(request).await };
        answer::token(&self.call(request, send).await?.token)
    }

    /// Removes points. Ids that do not exist are no error.
    #[instrument(name = "client.delete", skip_all, fields(collection, ids = ids.len()))]
    pub async fn delete(&self, collection: &str, ids: &[PointId]) -> Result<Token, ClientError> {
        let request = v1::DeleteRequest {
            collection: collection.to_owned(),
            ids: ids.iter().map(convert::point_id_to_wire).collect(),
            filter: None,
            timeout_ms: 0,
            operation_id: new_operation(),
        };
        let send = |channel, request| async move { service!(PointsServiceClient, channel).delete(request).await };
        answer::token(&self.call(request, send).await?.token)
    }

    /// The points among `ids` that exist, in the order asked for.
    #[instrument(name = "client.get", skip_all, fields(collection, ids = ids.len()))]
    pub async fn get(
        &self,
        collection: &str,
        ids: &[PointId],
        options: &ReadOptions,
    ) -> Result<Vec<Record>, ClientError> {
        let request = v1::GetRequest {
            collection: collection.to_owned(),
            ids: ids.iter().map(convert::point_id_to_wire).collect(),
            without_payload: options.without_payload,
            with_vectors: options.with_vectors,
            consistency: Some(options.consistency.to_wire()),
            timeout_ms: 0,
        };
        let send = |channel, request| async move { service!(PointsServiceClient, channel).get(request).await };
        answer::records(self.call(request, send).await?.points)
    }

    /// How many points pass `filter`.
    #[instrument(name = "client.count", skip_all, fields(collection))]
    pub async fn count(
        &self,
        collection: &str,
        filter: &Filter,
        consistency: &Consistency,
    ) -> Result<u64, ClientError> {
        let request = v1::CountRequest {
            collection: collection.to_owned(),
            filter: filter_to_wire(filter),
            consistency: Some(consistency.to_wire()),
            timeout_ms: 0,
        };
        let send = |channel, request| async move { service!(PointsServiceClient, channel).count(request).await };
        Ok(self.call(request, send).await?.count)
    }

    /// A page of points in order of their ids.
    #[instrument(name = "client.scroll", skip_all, fields(collection))]
    pub async fn scroll(&self, collection: &str, options: &ScrollOptions) -> Result<Page, ClientError> {
        let request = v1::ScrollRequest {
            collection: collection.to_owned(),
            filter: filter_to_wire(&options.filter),
            after: options.after.as_ref().map(convert::point_id_to_wire),
            limit: options.limit,
            without_payload: options.read.without_payload,
            with_vectors: options.read.with_vectors,
            consistency: Some(options.read.consistency.to_wire()),
            timeout_ms: 0,
        };
        let send = |channel, request| async move { service!(PointsServiceClient, channel).scroll(request).await };
        answer::page(self.call(request, send).await?)
    }

    /// The nearest points of `vector`.
    #[instrument(name = "client.search", skip_all, fields(collection, k = options.k))]
    pub async fn search(
        &self,
        collection: &str,
        vector: &[f32],
        options: &SearchOptions,
    ) -> Result<Answer, ClientError> {
        let send = |channel, request| async move { service!(SearchServiceClient, channel).search(request).await };
        answer::answer(self.call(options.to_wire(collection, vector), send).await?)
    }

    /// The cluster as its coordinators see it.
    #[instrument(name = "client.status", skip_all)]
    pub async fn status(&self) -> Result<ClusterStatus, ClientError> {
        let send = |channel, request| async move { service!(ClusterServiceClient, channel).get_status(request).await };
        cluster::status(self.call(v1::GetStatusRequest {}, send).await?)
    }

    /// Removes a node that is silent and holds no replica. Numbers are never reused, so removing one that is gone is no error.
    #[instrument(name = "client.remove_node", skip_all, fields(node))]
    pub async fn remove_node(&self, node: u64) -> Result<(), ClientError> {
        let send = |channel, request| async move { service!(ClusterServiceClient, channel).remove_node(request).await };
        self.call(v1::RemoveNodeRequest { node_id: node }, send).await.map(drop)
    }

    /// Sends `message` until it is answered, refused for good, or out of time.
    pub(crate) async fn call<Q: Clone, A, F>(
        &self,
        message: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, ClientError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let started = Instant::now();
        let mut nobody = true;
        for attempt in 1_u32.. {
            let left = self.timeout.saturating_sub(started.elapsed());
            let position = self.endpoints.current();
            let (endpoint, channel) = &self.endpoints.list[position];
            let late = || ClientError::DeadlineExceeded { endpoint: endpoint.clone(), timeout: self.timeout };
            let mut request = Request::new(message.clone());
            request.set_timeout(left);
            trace::inject(request.metadata_mut());
            let status = match tokio::time::timeout(left, send(channel.clone(), request)).await {
                Err(_) => return Err(late()),
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => status,
            };
            // The channel watches the same deadline and says `Cancelled` where we would say `late`.
            let out_of_time = started.elapsed() >= self.timeout;
            if out_of_time && matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded) {
                return Err(late());
            }
            let Met { error, answered, refused, not_shoal } = classify(&status);
            if let Some(problem) = not_shoal {
                return Err(ClientError::NotShoal { endpoint: endpoint.clone(), problem });
            }
            nobody &= refused;
            if !is_transient(error.kind) {
                return Err(ClientError::Refused(error));
            }
            tracing::debug!(attempt, endpoint, error = %error, "call failed, will be tried again");
            self.endpoints.turn_from(position);
            let pause = pause_after(attempt, rand::random());
            let patience = self.patience.filter(|_| nobody).unwrap_or(self.timeout);
            if started.elapsed() + pause >= patience.min(self.timeout) {
                let endpoints = self.endpoints.names();
                return Err(ClientError::Unavailable {
                    endpoints,
                    attempts: attempt,
                    waited: started.elapsed(),
                    last: error,
                    answered,
                });
            }
            tokio::time::sleep(pause).await;
        }
        unreachable!("attempts are bounded by the deadline")
    }
}

fn point_to_wire(point: Point, encoding: VectorEncoding) -> v1::Point {
    if encoding == VectorEncoding::F32 {
        return convert::point_to_wire(point);
    }
    let halves: Vec<u8> =
        point.vector.iter().flat_map(|component| half::f16::from_f32(*component).to_le_bytes()).collect();
    v1::Point {
        id: Some(convert::point_id_to_wire(&point.id)),
        vector: Some(v1::Vector { encoding: Some(v1::vector::Encoding::F16Le(halves.into())) }),
        payload: Some(convert::payload_to_wire(point.payload)),
        version_vectors: Default::default(),
    }
}

/// Names one change: all attempts of a call carry the same name, so that it is made once.
fn new_operation() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_checked_before_anything_is_sent() {
        for (name, endpoints) in [("none", vec![]), ("no address", vec!["no scheme at all"])] {
            let refused = Client::connect(&endpoints);
            assert!(matches!(refused, Err(ClientError::Input(_))), "{name}");
        }
    }

    #[test]
    fn half_floats_travel_without_loss() {
        let vector = vec![0.5, -0.0, half::f16::MIN_POSITIVE_SUBNORMAL.to_f32(), -65504.0];
        let point = Point { id: PointId::Number(1), vector, payload: Default::default() };
        let wire = point_to_wire(point.clone(), VectorEncoding::F16);
        assert!(
            matches!(&wire.vector, Some(v1::Vector { encoding: Some(v1::vector::Encoding::F16Le(b)) }) if b.len() == 8)
        );
        assert_eq!(convert::point(wire), Ok(point));
    }
}
