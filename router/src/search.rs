//! `shoal.v1.SearchService`: the nearest points over all shards.

use std::sync::Arc;

use shoal_model::{PointId, Scored, merge_top_k};
use shoal_proto::internal::v1 as wire;
use shoal_proto::v1::search_service_server::SearchService;
use shoal_proto::{convert, v1};
use tonic::{Request, Response, Status};
use tracing::info_span;

use crate::call::{Answered, Call, Errand, Shared, brief};
use crate::flight::{NodeAnswer, NodeCall};
use crate::lookup::Located;
use crate::nodes::timed;
use crate::{RouterError, check};

/// Serves searches.
pub(crate) struct Search(pub(crate) Arc<Shared>);

/// A hit on its way through the merge.
struct Candidate {
    id: PointId,
    hit: wire::NodeHit,
}

impl Scored for Candidate {
    fn score(&self) -> f32 {
        self.hit.score
    }

    fn id(&self) -> &PointId {
        &self.id
    }
}

/// What one node did for a search.
struct Found {
    hits: Vec<wire::NodeHit>,
    work: v1::SearchWork,
    search_us: u64,
    refine_us: u64,
}

impl Shared {
    async fn search(&self, request: v1::SearchRequest, call: &Call) -> Result<v1::SearchResponse, RouterError> {
        let name = request.collection.clone();
        let ask = |NodeCall { to, channel, within, .. }, message: wire::SearchRequest| {
            let mut node = self.client(channel);
            async move { Ok(node.search(timed(message, to, within)).await?.into_inner()) }
        };
        self.search_by(request, call, self.locate(&name, call.deadline), ask).await
    }

    /// Serves one search: `locate` finds its collection, `ask` carries its calls to nodes.
    pub(crate) async fn search_by<F>(
        &self,
        request: v1::SearchRequest,
        call: &Call,
        locate: impl Future<Output = Result<Located, RouterError>>,
        ask: impl Fn(NodeCall, wire::SearchRequest) -> F,
    ) -> Result<v1::SearchResponse, RouterError>
    where
        F: Future<Output = Result<wire::SearchResponse, Status>>,
    {
        check::search(&request, &self.config.limits)?;
        let freshness = self.freshness(request.consistency.clone())?;
        let located = locate.await?;
        let collection = located.collection();
        check::search_of(&request, collection.active.0, &collection.index)?;
        let least = request.min_coverage.unwrap_or(1.0);
        let errand = Errand::of_all_shards(&located, "too few for min_coverage", &freshness, least);
        let k = request.k as usize;
        let message = node_request(request);
        let found = self.fan_out(call, &located, errand, |call| {
            let message = wire::SearchRequest { targets: freshness.targets(&call.targets), ..message.clone() };
            let answer = ask(call, message);
            async move { Ok(node_answer(answer.await?)) }
        });
        let mut found = found.await?;
        let lists = candidates(&mut found)?;
        let hits = merge_top_k(collection.index.metric, k, lists).into_iter().map(hit).collect();
        let work = found.answers.iter().fold(v1::SearchWork::default(), |sum, answer| add(sum, &answer.body.work));
        // The answer that came last is the one that was waited for.
        let node_us = found.answers.last().map_or((0, 0), |last| (last.body.search_us, last.body.refine_us));
        Ok(v1::SearchResponse {
            hits,
            work: Some(work),
            metric: convert::metric_to_wire(collection.index.metric).into(),
            info: Some(found.info(call, &located, freshness, node_us)),
        })
    }
}

/// The search as every node gets it, but for its targets.
fn node_request(request: v1::SearchRequest) -> wire::SearchRequest {
    wire::SearchRequest {
        targets: vec![],
        vector: request.vector,
        k: request.k,
        filter: request.filter,
        score_limit: request.score_limit,
        with_payload: !request.without_payload,
        payload_fields: request.payload_fields,
        with_vectors: request.with_vectors,
        exact: request.exact,
        recall_target: request.recall_target,
        ef_search: request.ef_search,
    }
}

fn node_answer(answer: wire::SearchResponse) -> NodeAnswer<Found> {
    let work = v1::SearchWork {
        distances: answer.distances,
        hops: answer.hops,
        refined: answer.refined,
        filtered: answer.filtered,
    };
    let body = Found { hits: answer.hits, work, search_us: answer.search_us, refine_us: answer.refine_us };
    NodeAnswer { body, answered: answer.answered, failures: answer.failures }
}

fn candidates(found: &mut Answered<Found>) -> Result<Vec<Vec<Candidate>>, RouterError> {
    let candidate = |mut hit: wire::NodeHit| {
        let id = convert::point_id(hit.id.take()).map_err(RouterError::Malformed)?;
        Ok(Candidate { id, hit })
    };
    let list =
        |answer: &mut NodeAnswer<Found>| std::mem::take(&mut answer.body.hits).into_iter().map(candidate).collect();
    found.answers.iter_mut().map(list).collect()
}

fn hit(Candidate { id, hit }: Candidate) -> v1::Hit {
    v1::Hit { id: Some(convert::point_id_to_wire(&id)), score: hit.score, payload: hit.payload, vector: hit.vector }
}

fn add(a: v1::SearchWork, b: &v1::SearchWork) -> v1::SearchWork {
    v1::SearchWork {
        distances: a.distances + b.distances,
        hops: a.hops + b.hops,
        refined: a.refined + b.refined,
        filtered: a.filtered + b.filtered,
    }
}

#[tonic::async_trait]
impl SearchService for Search {
    async fn search(&self, request: Request<v1::SearchRequest>) -> Result<Response<v1::SearchResponse>, Status> {
        let message = request.get_ref();
        let span = info_span!("router.search", collection = brief(&message.collection), k = message.k);
        let answer = async |message, call: &Call| self.0.search(message, call).await;
        self.0.serve("search", span, message.timeout_ms, request, answer).await
    }

    async fn search_batch(
        &self,
        request: Request<v1::SearchBatchRequest>,
    ) -> Result<Response<v1::SearchBatchResponse>, Status> {
        let span = info_span!("router.search_batch", searches = request.get_ref().searches.len());
        let answer = async |message, call: &Call| self.0.search_batch(message, call).await;
        self.0.serve("search_batch", span, 0, request, answer).await
    }
}
