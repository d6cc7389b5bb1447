//! One request: admission, deadline, span, counting, and where its time went.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_model::{Classify as _, CollectionSpec, ErrorKind, InputError, Limits, ShardId, Token};
use shoal_proto::server;
use shoal_proto::status::to_status;
use shoal_proto::{trace, v1};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::{Instrument as _, Span};

use crate::coordinators::Coordinators;
use crate::error::gaps_or_error;
use crate::fanout::{First, Gap, Grouping, Plan};
use crate::flight::{Airspace, Landed, NodeAnswer, NodeCall};
use crate::freshness::Freshness;
use crate::lookup::{Located, Pacer};
use crate::{RouterConfig, RouterError, check};

/// Share of a request's time that is kept for joining the answers and sending the result.
const RESERVE_SHARE: u32 = 20;
/// Most of it.
const RESERVE_MAX: Duration = Duration::from_millis(20);

/// How long a shard is asked again. A node that restarts is back by then; one that is gone must not hold up every
/// request until its deadline, or they would use up the router's places.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same for what only a leader can do: when one is lost, the next is there in less than two seconds.
const PATIENCE_FOR_LEADERS: Duration = Duration::from_secs(5);

/// What all services of a router share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: RouterConfig,
    pub(crate) air: Airspace,
    pub(crate) coordinators: Coordinators,
    pub(crate) lookups: Pacer,
    pub(crate) admission: Semaphore,
}

/// A request that was admitted.
pub(crate) struct Call {
    pub(crate) metadata: MetadataMap,
    begun: Instant,
    admitted: Instant,
    pub(crate) deadline: Instant,
}

/// A fan-out that gave an answer, and everything that is said about it.
pub(crate) struct Answered<T> {
    pub(crate) answers: Vec<NodeAnswer<T>>,
    gaps: Vec<Gap>,
    asked: usize,
    epoch: u64,
    sent: Instant,
    landed: Instant,
}

/// What a fan-out is for.
pub(crate) struct Errand {
    pub(crate) doing: &'static str,
    pub(crate) shards: BTreeSet<ShardId>,
    pub(crate) grouping: Grouping,
    /// Whether leaders are asked, and waited for.
    pub(crate) of_leaders: bool,
    /// What replicas wait for before they answer.
    pub(crate) waits_for: Token,
    pub(crate) coverage_min: f64,
}

impl Shared {
    /// Serves one request inside `span`, which continues the caller's trace, and counts how it ended.
    ///
    /// `timeout_ms`: the time that the request names, 0 for none.
    pub(crate) async fn serve<Q, A>(
        &self,
        method: &'static str,
        span: Span,
        timeout_ms: u32,
        request: Request<Q>,
        answer: impl AsyncFnOnce(Q, &Call) -> Result<A, RouterError>,
    ) -> Result<Response<A>, Status> {
        trace::adopt(&span, request.metadata());
        let mut in_flight = self.air.metrics.request(method);
        let answered = self.admitted(timeout_ms, request, answer).instrument(span).await;
        in_flight.ended(&answered);
        answered.map(Response::new).map_err(|error| {
            if error.kind() == ErrorKind::Internal {
                tracing::error!(method, %error, "request failed");
            }
            to_status(&error)
        })
    }

    async fn admitted<Q, A>(
        &self,
        timeout_ms: u32,
        request: Request<Q>,
        answer: impl AsyncFnOnce(Q, &Call) -> Result<A, RouterError>,
    ) -> Result<A, RouterError> {
        let begun = Instant::now();
        let (metadata, _, message) = request.into_parts();
        let limits = &self.config.limits;
        let deadline = server::deadline(&metadata, timeout_ms, limits).into();
        let too_many = |_| RouterError::TooManyRequests { max: self.config.in_flight_max };
        let _permit = self.admission.try_acquire().map_err(too_many)?;
        check::timeout(timeout_ms, limits)?;
        answer(message, &Call { metadata, begun, admitted: Instant::now(), deadline }).await
    }

    /// Asks the nodes of the errand's shards. Fails unless enough of them answer.
    pub(crate) async fn fan_out<T, F>(
        &self,
        call: &Call,
        located: &Located,
        errand: Errand,
        ask: impl Fn(NodeCall) -> F,
    ) -> Result<Answered<T>, RouterError>
    where
        F: Future<Output = Result<NodeAnswer<T>, Status>>,
    {
        let sent = Instant::now();
        let asked = errand.shards.len();
        let first = if errand.of_leaders { First::Leader(self.air.leaders.of(&errand.shards)) } else { First::Any };
        let plan = Plan {
            collection: located.collection().id,
            shards: errand.shards,
            grouping: errand.grouping,
            first,
            patience: if errand.of_leaders { PATIENCE_FOR_LEADERS } else { PATIENCE },
            coverage_min: errand.coverage_min,
            ends_at: call.time_for_nodes(),
            silent: self.air.hearing.silent(),
            lagging: self.air.laggards.of(&errand.waits_for),
            waits_for: errand.waits_for,
            seed: rand::random(),
        };
        let flown = self.air.fly(plan, located.map.clone(), call.begun, ask).await;
        let Landed { outcome, answers, map } = flown;
        let gaps = gaps_or_error(outcome, &located.collection().name, errand.doing, asked)?;
        Ok(Answered { answers, gaps, asked, epoch: map.epoch.0, sent, landed: Instant::now() })
    }
}

impl Call {
    /// The same call for a part of it that names its own time, 0 for none.
    pub(crate) fn part(&self, timeout_ms: u32, limits: &Limits) -> Result<Self, InputError> {
        check::timeout(timeout_ms, limits)?;
        let deadline = server::deadline(&self.metadata, timeout_ms, limits).into();
        Ok(Self { metadata: MetadataMap::new(), deadline, ..*self })
    }

    /// When nodes must have answered, since the request began.
    fn time_for_nodes(&self) -> Duration {
        let whole = self.deadline.saturating_duration_since(self.begun);
        whole - (whole / RESERVE_SHARE).min(RESERVE_MAX)
    }
}

impl<T> Answered<T> {
    /// Everything that an answer says about itself. Call it last: it ends the clock.
    ///
    /// `node_us`: time for searching and for refining on the slowest node that counted.
    pub(crate) fn info(
        &self,
        call: &Call,
        located: &Located,
        freshness: Freshness,
        node_us: (u64, u64),
    ) -> v1::AnswerInfo {
        let answered = self.answers.iter().flat_map(|answer| &answer.answered);
        let gap = |gap: &Gap| v1::CoverageGap { shard_id: gap.shard.0, reason: gap.failure.to_string() };
        v1::AnswerInfo {
            index_version: located.collection().active.0,
            epoch: self.epoch,
            coverage: Some(v1::Coverage {
                shards_asked: count(self.asked),
                shards_answered: count(self.asked - self.gaps.len()),
                gaps: self.gaps.iter().map(gap).collect(),
            }),
            staleness_ms: self.staleness_ms(),
            token: freshness.token(answered).encode().into(),
            timings: Some(self.timings(call, node_us)),
        }
    }

    /// That of the oldest answer.
    fn staleness_ms(&self) -> u32 {
        let answered = self.answers.iter().flat_map(|answer| &answer.answered);
        answered.map(|answer| answer.staleness_ms).max().unwrap_or(0)
    }

    fn timings(&self, call: &Call, (search_us, refine_us): (u64, u64)) -> v1::StageTimings {
        let queue_us = micros(call.admitted - call.begun);
        let route_us = micros(self.sent - call.admitted);
        let flight_us = micros(self.landed - self.sent);
        let merge_us = micros(self.landed.elapsed());
        // Clocks of two machines, rounded twice: parts of the flight never exceed it.
        let search_us = search_us.min(flight_us);
        let refine_us = refine_us.min(flight_us - search_us);
        v1::StageTimings {
            total_us: queue_us + route_us + flight_us + merge_us,
            queue_us,
            route_us,
            wait_us: flight_us - search_us - refine_us,
            search_us,
            refine_us,
            merge_us,
        }
    }
}

/// A name as spans show it: nobody has checked it yet, and it may be of any length.
pub(crate) fn brief(name: &str) -> &str {
    &name[..name.floor_char_boundary(CollectionSpec::MAX_NAME_BYTES)]
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn count(shards: usize) -> u32 {
    u32::try_from(shards).unwrap_or(u32::MAX)
}
