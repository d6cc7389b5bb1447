//! The calls of routers: parse, measure, trace, and tell errors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use shoal_model::{Classify as _, Epoch, ErrorKind, InputError, ShardId};
use shoal_proto::internal::v1 as wire;
use shoal_proto::internal::v1::shard_service_server::ShardService;
use shoal_proto::server::deadline;
use shoal_proto::status::{kind_name, to_status};
use shoal_proto::trace;
use tonic::{Request, Response, Status};
use tracing::{Instrument as _, Span, info_span};

use crate::NodeError;
use crate::metrics::Metrics;
use crate::reads::{Reads, failure};
use crate::shard::command::{self, Refusal};

/// Shards that one batch searches at once: enough for the search threads of a large machine, and few of the places for
/// searches that wait.
const BATCH_SHARDS_MAX: usize = 32;

/// Serves `shoal.internal.v1.ShardService`.
#[derive(Clone)]
pub(crate) struct ShardCalls {
    pub(crate) reads: Arc<Reads>,
    pub(crate) metrics: Metrics,
}

/// An answer of a batch on its way to the router.
type BatchAnswer = Result<wire::SearchBatchResponse, Status>;

impl ShardCalls {
    /// Runs one call inside `span`, which continues the caller's trace, and counts how it ended.
    async fn call<Q, A>(
        &self,
        method: &'static str,
        span: Span,
        request: Request<Q>,
        answer: impl AsyncFnOnce(Q, Instant) -> Result<A, NodeError>,
    ) -> Result<Response<A>, Status> {
        trace::adopt(&span, request.metadata());
        let started = Instant::now();
        let deadline = deadline(request.metadata(), 0, &self.reads.limits);
        let answered = answer(request.into_inner(), deadline).instrument(span).await;
        self.count(method, started, &answered);
        answered.map(Response::new).map_err(|error| to_status(&error))
    }

    /// Counts how a call ended.
    fn count<A>(&self, method: &'static str, started: Instant, answered: &Result<A, NodeError>) {
        let result = answered.as_ref().err().map_or("ok", |error| kind_name(error.kind()));
        self.metrics.called(method, result, started.elapsed());
        if let Err(error) = answered {
            self.reads.replicas.note_damage(error);
        }
        if let Err(error) = answered
            && matches!(error.kind(), ErrorKind::Internal | ErrorKind::Corruption)
        {
            tracing::error!(method, %error, "call failed");
        }
    }

    async fn search(&self, request: wire::SearchRequest, deadline: Instant) -> Result<wire::SearchResponse, NodeError> {
        let answer = self.reads.search(request, deadline).await?;
        self.metrics.scanned(answer.distances);
        Ok(answer)
    }

    /// One search of a batch. If it fails as a whole, so does each of its shards.
    async fn search_of_batch(&self, request: wire::SearchRequest, deadline: Instant) -> wire::SearchResponse {
        let started = Instant::now();
        let shards: Vec<ShardId> = request.targets.iter().map(|target| ShardId(target.shard_id)).collect();
        let answered = if started < deadline {
            self.search(request, deadline).await
        } else {
            Err(NodeError::Deadline { doing: "waiting for its turn in a batch" })
        };
        self.count("search", started, &answered);
        answered.unwrap_or_else(|error| wire::SearchResponse {
            failures: shards.iter().map(|shard| failure(*shard, &error)).collect(),
            ..Default::default()
        })
    }

    /// The answers of a batch, each as soon as it is there. Ends with the stream: when the router goes, so do they.
    fn search_all(
        self,
        items: Vec<wire::SearchBatchItem>,
        deadline: Instant,
        span: Span,
    ) -> impl Stream<Item = BatchAnswer> {
        let arrived = Instant::now();
        let shards = items.iter().filter_map(|item| Some(item.search.as_ref()?.targets.len())).max();
        let at_once = (BATCH_SHARDS_MAX / shards.unwrap_or(1).max(1)).max(1);
        let search = move |(position, item): (u32, wire::SearchBatchItem)| {
            let calls = self.clone();
            // A time beyond what the clock can tell is bound by that of the call.
            let own = arrived.checked_add(Duration::from_micros(item.timeout_us)).unwrap_or(deadline);
            let answer = async move {
                let answer = calls.search_of_batch(item.search.unwrap_or_default(), own.min(deadline)).await;
                Ok(wire::SearchBatchResponse { position, answer: Some(answer) })
            };
            answer.instrument(span.clone())
        };
        stream::iter((0..).zip(items)).map(search).buffer_unordered(at_once)
    }

    async fn write(&self, request: wire::WriteRequest, deadline: Instant) -> wire::WriteResponse {
        use wire::write_response::Result as Written;
        let target = request.target.unwrap_or_default();
        let shard = ShardId(target.shard_id);
        let points = request.upserts.len() + request.deletes.len();
        let result = self.write_checked(shard, Epoch(target.epoch), request, deadline).await;
        let result = match result {
            Ok(index) => {
                self.metrics.written(points);
                Written::LogIndex(index)
            }
            Err(error) => Written::Failure(failure(shard, &error)),
        };
        wire::WriteResponse { result: Some(result) }
    }

    async fn write_checked(
        &self,
        shard: ShardId,
        epoch: Epoch,
        request: wire::WriteRequest,
        deadline: Instant,
    ) -> Result<u64, NodeError> {
        let replica = self.reads.replicas.at_epoch(shard, epoch, deadline).await?;
        let wire::WriteRequest { operation, upserts, deletes, .. } = request;
        let command = command::encode(&operation, upserts, deletes, &replica.spec, replica.range, &self.reads.limits);
        let command = command.map_err(|refusal| match refusal {
            Refusal::Input(error) => NodeError::Input(error),
            Refusal::WrongShard => NodeError::StaleEpoch { shard },
        })?;
        Ok(replica.write(command, deadline).await?.0)
    }
}

#[tonic::async_trait]
impl ShardService for ShardCalls {
    type SearchBatchStream = BoxStream<'static, BatchAnswer>;

    async fn write(&self, request: Request<wire::WriteRequest>) -> Result<Response<wire::WriteResponse>, Status> {
        let span = info_span!("node.write", points = request.get_ref().upserts.len());
        let answer = async |request, deadline| Ok(Self::write(self, request, deadline).await);
        self.call("write", span, request, answer).await
    }

    async fn search(&self, request: Request<wire::SearchRequest>) -> Result<Response<wire::SearchResponse>, Status> {
        let span = info_span!("node.search", shards = request.get_ref().targets.len(), k = request.get_ref().k);
        let answer = async |request, deadline| Self::search(self, request, deadline).await;
        self.call("search", span, request, answer).await
    }

    async fn search_batch(
        &self,
        request: Request<wire::SearchBatchRequest>,
    ) -> Result<Response<Self::SearchBatchStream>, Status> {
        let span = info_span!("node.search_batch", searches = request.get_ref().items.len());
        trace::adopt(&span, request.metadata());
        let deadline = deadline(request.metadata(), 0, &self.reads.limits);
        let items = request.into_inner().items;
        let max = self.reads.limits.batch_queries_max;
        if items.len() > max as usize {
            let problem = format!("has {} entries, the cap is {max}", items.len());
            return Err(to_status(&InputError::new("items", problem)));
        }
        Ok(Response::new(self.clone().search_all(items, deadline, span).boxed()))
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::GetResponse>, Status> {
        let span = info_span!("node.get", ids = request.get_ref().ids.len());
        self.call("get", span, request, async |request, deadline| self.reads.get(request, deadline).await).await
    }

    async fn count(&self, request: Request<wire::CountRequest>) -> Result<Response<wire::CountResponse>, Status> {
        let span = info_span!("node.count", shards = request.get_ref().targets.len());
        self.call("count", span, request, async |request, deadline| self.reads.count(request, deadline).await).await
    }

    async fn scroll(&self, request: Request<wire::ScrollRequest>) -> Result<Response<wire::ScrollResponse>, Status> {
        let span = info_span!("node.scroll", shards = request.get_ref().targets.len());
        self.call("scroll", span, request, async |request, deadline| self.reads.scroll(request, deadline).await).await
    }
}
