//! `shoal.v1.PointsService`: writing and reading points by id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use shoal_model::failpoints::{Failpoint, Injected, meet};
use shoal_model::{OperationId, PointId, ShardId, Token};
use shoal_proto::internal::v1 as wire;
use shoal_proto::internal::v1::shard_service_client::ShardServiceClient;
use shoal_proto::map::id_to_bytes;
use shoal_proto::v1::points_service_server::PointsService;
use shoal_proto::{convert, v1};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tracing::info_span;

use crate::call::{Answered, Call, Errand, Shared, brief};
use crate::fanout::Grouping;
use crate::flight::{NodeAnswer, NodeCall};
use crate::freshness::Freshness;
use crate::lookup::Located;
use crate::nodes::timed;
use crate::split::by_shard;
use crate::{RouterError, check};

/// Serves points.
pub(crate) struct Points(pub(crate) Arc<Shared>);

impl Shared {
    /// A client of a node. Answers may be as large as requests.
    pub(crate) fn client(&self, channel: Channel) -> ShardServiceClient<Channel> {
        ShardServiceClient::new(channel).max_decoding_message_size(self.config.limits.message_bytes_max as usize)
    }

    /// How fresh a request wants its answer.
    pub(crate) fn freshness(&self, consistency: Option<v1::Consistency>) -> Result<Freshness, RouterError> {
        Freshness::new(consistency, self.config.staleness_ms_max)
    }

    async fn upsert(&self, request: v1::UpsertRequest, call: &Call) -> Result<v1::UpsertResponse, RouterError> {
        let limits = &self.config.limits;
        check::batch("points", request.points.len(), limits)?;
        let located = self.locate(&request.collection, call.deadline).await?;
        let ids = check::points(&request.points, &located.collection().index, limits)?;
        let operation = operation(&request.operation_id)?;
        let parts = by_shard(&located, &ids, request.points)?;
        let write =
            |upserts| wire::WriteRequest { target: None, operation: operation.clone(), upserts, deletes: vec![] };
        let writes = parts.into_iter().map(|(shard, points)| (shard, write(points))).collect();
        Ok(v1::UpsertResponse { token: self.write(call, &located, writes).await?.encode().into() })
    }

    async fn delete(&self, request: v1::DeleteRequest, call: &Call) -> Result<v1::DeleteResponse, RouterError> {
        if request.filter.is_some() {
            return Err(RouterError::not_served("filter"));
        }
        let ids = check::ids(&request.ids, &self.config.limits)?;
        let located = self.locate(&request.collection, call.deadline).await?;
        let operation = operation(&request.operation_id)?;
        let parts = by_shard(&located, &ids, request.ids)?;
        let write =
            |deletes| wire::WriteRequest { target: None, operation: operation.clone(), upserts: vec![], deletes };
        let writes = parts.into_iter().map(|(shard, ids)| (shard, write(ids))).collect();
        Ok(v1::DeleteResponse { token: self.write(call, &located, writes).await?.encode().into() })
    }

    /// Writes to each shard its part. A part is sent again when it is not known what became of it: a shard that has applied
    /// its operation changes nothing.
    async fn write(
        &self,
        call: &Call,
        located: &Located,
        writes: BTreeMap<ShardId, wire::WriteRequest>,
    ) -> Result<Token, RouterError> {
        let errand = Errand {
            doing: "all must; repeating the whole batch is safe",
            shards: writes.keys().copied().collect(),
            grouping: Grouping::PerShard,
            of_leaders: true,
            waits_for: Token::default(),
            coverage_min: 1.0,
        };
        let target = Freshness::default();
        let written = self.fan_out(call, located, errand, |NodeCall { to, channel, targets, within }| {
            let own = targets.first().and_then(|target| Some((target.shard, writes.get(&target.shard)?.clone())));
            let (shard, mut write) = own.unwrap_or_default();
            write.target = targets.first().map(|asked| target.target(*asked));
            let mut node = self.client(channel);
            async move {
                meet(Failpoint::RouterWrite).map_err(lost)?;
                let answer = node.write(timed(write, to, within)).await?.into_inner();
                meet(Failpoint::RouterWritten).map_err(lost)?;
                Ok(write_answer(shard, answer))
            }
        });
        let answers = written.await?.answers;
        Ok(Freshness::default().token(answers.iter().flat_map(|answer| &answer.answered)))
    }

    async fn get(&self, request: v1::GetRequest, call: &Call) -> Result<v1::GetResponse, RouterError> {
        let ids = check::ids(&request.ids, &self.config.limits)?;
        let freshness = self.freshness(request.consistency)?;
        let located = self.locate(&request.collection, call.deadline).await?;
        let parts = by_shard(&located, &ids, request.ids)?;
        let errand = Errand {
            doing: "all that hold the ids must",
            shards: parts.keys().copied().collect(),
            grouping: Grouping::PerShard,
            of_leaders: freshness.is_of_leaders(),
            waits_for: freshness.waits_for(),
            coverage_min: 1.0,
        };
        let read = self.fan_out(call, &located, errand, |NodeCall { to, channel, targets, within }| {
            let target = targets.first();
            let message = wire::GetRequest {
                target: target.map(|target| freshness.target(*target)),
                ids: target.and_then(|target| parts.get(&target.shard)).cloned().unwrap_or_default(),
                with_payload: !request.without_payload,
                with_vectors: request.with_vectors,
            };
            let mut node = self.client(channel);
            async move {
                let answer = node.get(timed(message, to, within)).await?.into_inner();
                Ok(NodeAnswer { body: answer.points, answered: answer.answered, failures: answer.failures })
            }
        });
        let mut read = read.await?;
        let points = in_order_of(&ids, take_points(&mut read))?;
        Ok(v1::GetResponse { points, info: Some(read.info(call, &located, freshness, (0, 0))) })
    }

    async fn count(&self, request: v1::CountRequest, call: &Call) -> Result<v1::CountResponse, RouterError> {
        check::filter(request.filter.as_ref(), &self.config.limits)?;
        let freshness = self.freshness(request.consistency)?;
        let located = self.locate(&request.collection, call.deadline).await?;
        let errand = Errand::of_all_shards(&located, "all must", &freshness, 1.0);
        let counted = self.fan_out(call, &located, errand, |NodeCall { to, channel, targets, within }| {
            let message = wire::CountRequest { targets: freshness.targets(&targets), filter: request.filter.clone() };
            let mut node = self.client(channel);
            async move {
                let answer = node.count(timed(message, to, within)).await?.into_inner();
                Ok(NodeAnswer { body: answer.count, answered: answer.answered, failures: answer.failures })
            }
        });
        let counted = counted.await?;
        let count = counted.answers.iter().map(|answer| answer.body).sum();
        Ok(v1::CountResponse { count, info: Some(counted.info(call, &located, freshness, (0, 0))) })
    }

    async fn scroll(&self, request: v1::ScrollRequest, call: &Call) -> Result<v1::ScrollResponse, RouterError> {
        let limits = &self.config.limits;
        let wanted = check::page(&request, limits)?;
        check::filter(request.filter.as_ref(), limits)?;
        let freshness = self.freshness(request.consistency)?;
        let located = self.locate(&request.collection, call.deadline).await?;
        let errand = Errand::of_all_shards(&located, "all must", &freshness, 1.0);
        // One more than wanted tells whether there are more, unless the cap forbids to ask for it.
        let limit = u32::try_from(wanted).unwrap_or(u32::MAX).saturating_add(1).min(limits.batch_points_max);
        let page = self.fan_out(call, &located, errand, |NodeCall { to, channel, targets, within }| {
            let message = wire::ScrollRequest {
                targets: freshness.targets(&targets),
                filter: request.filter.clone(),
                after: request.after.clone(),
                limit,
                with_payload: !request.without_payload,
                with_vectors: request.with_vectors,
            };
            let mut node = self.client(channel);
            async move {
                let answer = node.scroll(timed(message, to, within)).await?.into_inner();
                Ok(NodeAnswer { body: answer.points, answered: answer.answered, failures: answer.failures })
            }
        });
        let mut page = page.await?;
        let cut_short = page.answers.iter().any(|answer| answer.body.len() >= limit as usize);
        let (points, next_after) = merge_pages(take_points(&mut page), wanted, cut_short)?;
        let info = Some(page.info(call, &located, freshness, (0, 0)));
        Ok(v1::ScrollResponse { points, next_after, info })
    }
}

impl Errand {
    /// For requests that every shard of the collection answers.
    pub(crate) fn of_all_shards(
        located: &Located,
        doing: &'static str,
        freshness: &Freshness,
        coverage_min: f64,
    ) -> Self {
        let shards: BTreeSet<ShardId> = located.collection().shards.iter().copied().collect();
        Self {
            doing,
            shards,
            grouping: Grouping::PerNode,
            of_leaders: freshness.is_of_leaders(),
            waits_for: freshness.waits_for(),
            coverage_min,
        }
    }
}

/// The identity of a write: the caller's, or a new one, which the router's own repeats carry.
fn operation(named: &str) -> Result<Bytes, RouterError> {
    let named = convert::operation_id(named)?.filter(|id| *id != OperationId::default());
    Ok(id_to_bytes(named.map_or_else(|| uuid::Uuid::new_v4().as_u128(), |id| id.0)))
}

/// As if the connection had broken.
fn lost(injected: Injected) -> Status {
    Status::unavailable(injected.to_string())
}

fn write_answer(shard: ShardId, answer: wire::WriteResponse) -> NodeAnswer<()> {
    use wire::write_response::Result as Written;
    let (answered, failures) = match answer.result {
        Some(Written::LogIndex(index)) => {
            (vec![wire::ShardAnswer { shard_id: shard.0, applied_index: index, staleness_ms: 0 }], vec![])
        }
        Some(Written::Failure(failure)) => (vec![], vec![failure]),
        None => (vec![], vec![]),
    };
    NodeAnswer { body: (), answered, failures }
}

fn take_points(answered: &mut Answered<Vec<v1::Point>>) -> Vec<v1::Point> {
    answered.answers.iter_mut().flat_map(|answer| std::mem::take(&mut answer.body)).collect()
}

fn by_id(points: Vec<v1::Point>) -> Result<BTreeMap<PointId, v1::Point>, RouterError> {
    let keyed = |point: v1::Point| Ok((convert::point_id(point.id.clone()).map_err(RouterError::Malformed)?, point));
    points.into_iter().map(keyed).collect()
}

/// The points that exist, in the order in which they were asked for.
fn in_order_of(ids: &[PointId], points: Vec<v1::Point>) -> Result<Vec<v1::Point>, RouterError> {
    let mut points = by_id(points)?;
    Ok(ids.iter().filter_map(|id| points.remove(id)).collect())
}

/// The first `wanted` points of all pages by id, each once, and where the next page starts, if there is one.
///
/// `cut_short`: a node had as many points as it was asked for, and may have more.
fn merge_pages(
    points: Vec<v1::Point>,
    wanted: usize,
    cut_short: bool,
) -> Result<(Vec<v1::Point>, Option<v1::PointId>), RouterError> {
    let points = by_id(points)?;
    let more = points.len() > wanted || cut_short;
    let page: Vec<v1::Point> = points.into_values().take(wanted).collect();
    let next_after = page.last().filter(|_| more).and_then(|last| last.id.clone());
    Ok((page, next_after))
}

#[tonic::async_trait]
impl PointsService for Points {
    async fn upsert(&self, request: Request<v1::UpsertRequest>) -> Result<Response<v1::UpsertResponse>, Status> {
        let message = request.get_ref();
        let span = info_span!("router.upsert", collection = brief(&message.collection), points = message.points.len());
        let answer = async |message, call: &Call| self.0.upsert(message, call).await;
        self.0.serve("upsert", span, message.timeout_ms, request, answer).await
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        let message = request.get_ref();
        let span = info_span!("router.delete", collection = brief(&message.collection), ids = message.ids.len());
        let answer = async |message, call: &Call| self.0.delete(message, call).await;
        self.0.serve("delete", span, message.timeout_ms, request, answer).await
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let message = request.get_ref();
        let span = info_span!("router.get", collection = brief(&message.collection), ids = message.ids.len());
        let answer = async |message, call: &Call| self.0.get(message, call).await;
        self.0.serve("get", span, message.timeout_ms, request, answer).await
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
        let message = request.get_ref();
        let span = info_span!("router.count", collection = brief(&message.collection));
        let answer = async |message, call: &Call| self.0.count(message, call).await;
        self.0.serve("count", span, message.timeout_ms, request, answer).await
    }

    async fn scroll(&self, request: Request<v1::ScrollRequest>) -> Result<Response<v1::ScrollResponse>, Status> {
        let message = request.get_ref();
        let span = info_span!("router.scroll", collection = brief(&message.collection), limit = message.limit);
        let answer = async |message, call: &Call| self.0.scroll(message, call).await;
        self.0.serve("scroll", span, message.timeout_ms, request, answer).await
    }

    async fn set_payload(
        &self,
        request: Request<v1::SetPayloadRequest>,
    ) -> Result<Response<v1::SetPayloadResponse>, Status> {
        let span = info_span!("router.set_payload", collection = brief(&request.get_ref().collection));
        let answer = async |_, _: &Call| Err(RouterError::not_served("SetPayload"));
        self.0.serve("set_payload", span, 0, request, answer).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(numbers: &[u64]) -> Vec<v1::Point> {
        let point = |number: &u64| v1::Point {
            id: Some(convert::point_id_to_wire(&PointId::Number(*number))),
            ..v1::Point::default()
        };
        numbers.iter().map(point).collect()
    }

    #[test]
    fn pages_are_joined_in_order_and_say_whether_there_are_more() {
        for (name, got, cut_short, want, next) in [
            ("nothing", &[][..], false, &[][..], None),
            ("all of it", &[5, 2], false, &[2, 5], None),
            ("one more than wanted", &[9, 1, 5], false, &[1, 5], Some(5)),
            ("an id on two shards", &[5, 1, 5], false, &[1, 5], None),
            ("a full page at the cap", &[1, 5], true, &[1, 5], Some(5)),
        ] {
            let (page, next_after) = merge_pages(points(got), 2, cut_short).expect("well-formed");
            assert_eq!(page, points(want), "{name}");
            assert_eq!(next_after, points(next.as_slice()).pop().and_then(|point| point.id), "{name}");
        }
    }

    #[test]
    fn points_come_in_the_order_asked_for() {
        let ids = [7, 3, 9].map(PointId::Number);
        assert_eq!(in_order_of(&ids, points(&[9, 7])).expect("well-formed"), points(&[7, 9]));
        assert!(in_order_of(&ids, vec![v1::Point::default()]).is_err(), "a point without an id is a broken answer");
    }
}
