//! The calls of routers: parse, measure, trace, and tell errors.

use std::sync::Arc;
use std::time::Instant;

use shoal_model::{Classify as _, Epoch, ErrorKind, ShardId};
use shoal_proto::internal::v1 as wire;
use shoal_proto::internal::v1::shard_service_server::ShardService;
use shoal_proto::server::deadline;
use shoal_proto::status::{kind_name, to_status};
use shoal_proto::trace;
use tonic::{Request, Response, Status};
use tracing::{Instrument as _, Span, info_span};

use crate::NodeError;
use crate::command::{self, Refusal};
use crate::metrics::Metrics;
use crate::reads::{Reads, failure};

/// Serves `shoal.internal.v1.ShardService`.
pub(crate) struct ShardCalls {
    pub(crate) reads: Arc<Reads>,
    pub(crate) metrics: Metrics,
}

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
        let result = answered.as_ref().err().map_or("ok", |error| kind_name(error.kind()));
        self.metrics.called(method, result, started.elapsed());
        answered.map(Response::new).map_err(|error| {
            if matches!(error.kind(), ErrorKind::Internal | ErrorKind::Corruption) {
                tracing::error!(method, %error, "call failed");
            }
            to_status(&error)
        })
    }

    async fn write(&self, request: wire::WriteRequest, deadline: Instant) -> wire::WriteResponse {
        use wire::write_response::Result as Written;
        let target = request.target.unwrap_or_default();
        let shard = ShardId(target.shard_id);
        let points = request.upserts.len() + request.deletes.len();
        let result = self.write_checked(shard, Epoch(target.epoch), request.upserts, request.deletes, deadline).await;
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
        upserts: Vec<shoal_proto::v1::Point>,
        deletes: Vec<shoal_proto::v1::PointId>,
        deadline: Instant,
    ) -> Result<u64, NodeError> {
        let replica = self.reads.replicas.at_epoch(shard, epoch, deadline).await?;
        let command = command::encode(upserts, deletes, &replica.spec, replica.range, &self.reads.limits);
        let command = command.map_err(|refusal| match refusal {
            Refusal::Input(error) => NodeError::Input(error),
            Refusal::WrongShard => NodeError::StaleEpoch { shard },
        })?;
        Ok(replica.write(command, deadline).await?.0)
    }
}

#[tonic::async_trait]
impl ShardService for ShardCalls {
    async fn write(&self, request: Request<wire::WriteRequest>) -> Result<Response<wire::WriteResponse>, Status> {
        let span = info_span!("node.write", points = request.get_ref().upserts.len());
        let answer = async |request, deadline| Ok(Self::write(self, request, deadline).await);
        self.call("write", span, request, answer).await
    }

    async fn search(&self, request: Request<wire::SearchRequest>) -> Result<Response<wire::SearchResponse>, Status> {
        let span = info_span!("node.search", shards = request.get_ref().targets.len(), k = request.get_ref().k);
        let answer = async |request, deadline| {
            let answer = self.reads.search(request, deadline).await?;
            self.metrics.scanned(answer.distances);
            Ok(answer)
        };
        self.call("search", span, request, answer).await
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
