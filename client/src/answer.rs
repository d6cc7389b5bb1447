//! Answers about points, in the words of `shoal-model`.

use serde::Serialize;
use shoal_model::{Metric, Payload, PointId, Token};
use shoal_proto::{convert, v1};

use crate::error::{ClientError, malformed};

/// A point as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its id.
    pub id: PointId,
    /// Its vector, where asked for.
    pub vector: Option<Vec<f32>>,
    /// Its payload, unless left out.
    pub payload: Payload,
}

/// A point that a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// Its id.
    pub id: PointId,
    /// The metric's quantity; see [`Metric`] for which way it points.
    pub score: f32,
    /// Its vector, where asked for.
    pub vector: Option<Vec<f32>>,
    /// Its payload, or the fields of it that were asked for.
    pub payload: Payload,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Nearest first, ties by id.
    pub hits: Vec<Hit>,
    /// Says what a score is.
    pub metric: Metric,
    /// What the answer rests on.
    pub info: AnswerInfo,
    /// What it took.
    pub work: SearchWork,
}

/// A page of points.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// In order of their ids.
    pub records: Vec<Record>,
    /// Where the next page starts; absent after the last.
    pub next_after: Option<PointId>,
    /// What the page rests on.
    pub info: AnswerInfo,
}

/// What an answer rests on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerInfo {
    /// Index version that answered.
    pub index_version: u32,
    /// Version of the cluster map that the router followed.
    pub epoch: u64,
    /// How much of the collection the answer covers.
    pub coverage: Coverage,
    /// Upper bound of how far behind its leader any answering replica was; `u32::MAX` if one never found that out.
    pub staleness_ms: u32,
    /// A read that presents it sees at least what this answer has seen.
    pub token: Token,
    /// Where the time went.
    pub timings: StageTimings,
}

/// How much of a collection an answer covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Shards that were asked.
    pub shards_asked: u32,
    /// Shards that answered.
    pub shards_answered: u32,
    /// Those that did not.
    pub gaps: Vec<Gap>,
}

impl Coverage {
    /// Whether every shard answered.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shards_answered >= self.shards_asked
    }
}

/// A shard that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Its number.
    pub shard_id: u64,
    /// Why.
    pub reason: String,
}

/// Where the time of a request went, in microseconds. Stages follow each other and sum to the total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StageTimings {
    /// All of it.
    pub total_us: u64,
    /// Waiting for admission.
    pub queue_us: u64,
    /// Checking the request and choosing replicas.
    pub route_us: u64,
    /// Network and queues between router and the slowest node that counted.
    pub wait_us: u64,
    /// Searching on that node.
    pub search_us: u64,
    /// Rescoring and fetching payload on that node.
    pub refine_us: u64,
    /// Joining the answers.
    pub merge_us: u64,
}

/// What a search did, all shards together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SearchWork {
    /// Vectors compared.
    pub distances: u64,
    /// Steps through graphs.
    pub hops: u64,
    /// Vectors compared again at full precision.
    pub refined: u64,
    /// Points that the filter refused.
    pub filtered: u64,
}

fn optional_vector(vector: Option<v1::Vector>) -> Result<Option<Vec<f32>>, ClientError> {
    vector.map(|vector| convert::vector(Some(vector)).map_err(|e| malformed(&e))).transpose()
}

pub(crate) fn record(point: v1::Point) -> Result<Record, ClientError> {
    Ok(Record {
        id: convert::point_id(point.id).map_err(|e| malformed(&e))?,
        vector: optional_vector(point.vector)?,
        payload: convert::payload(point.payload).map_err(|e| malformed(&e))?,
    })
}

pub(crate) fn records(points: Vec<v1::Point>) -> Result<Vec<Record>, ClientError> {
    points.into_iter().map(record).collect()
}

fn hit(hit: v1::Hit) -> Result<Hit, ClientError> {
    Ok(Hit {
        id: convert::point_id(hit.id).map_err(|e| malformed(&e))?,
        score: hit.score,
        vector: optional_vector(hit.vector)?,
        payload: convert::payload(hit.payload).map_err(|e| malformed(&e))?,
    })
}

pub(crate) fn answer(response: v1::SearchResponse) -> Result<Answer, ClientError> {
    let work = response.work.unwrap_or_default();
    Ok(Answer {
        hits: response.hits.into_iter().map(hit).collect::<Result<_, _>>()?,
        metric: convert::metric(response.metric).map_err(|e| malformed(&e))?,
        info: info(response.info)?,
        work: SearchWork { distances: work.distances, hops: work.hops, refined: work.refined, filtered: work.filtered },
    })
}

pub(crate) fn page(response: v1::ScrollResponse) -> Result<Page, ClientError> {
    let next_after = response.next_after.map(|id| convert::point_id(Some(id))).transpose();
    Ok(Page {
        records: records(response.points)?,
        next_after: next_after.map_err(|e| malformed(&e))?,
        info: info(response.info)?,
    })
}

pub(crate) fn token(bytes: &[u8]) -> Result<Token, ClientError> {
    Token::decode(bytes).map_err(|error| ClientError::Malformed(error.to_string()))
}

fn info(info: Option<v1::AnswerInfo>) -> Result<AnswerInfo, ClientError> {
    let info = info.unwrap_or_default();
    let coverage = info.coverage.unwrap_or_default();
    let timings = info.timings.unwrap_or_default();
    let gap = |gap: v1::CoverageGap| Gap { shard_id: gap.shard_id, reason: gap.reason };
    Ok(AnswerInfo {
        index_version: info.index_version,
        epoch: info.epoch,
        coverage: Coverage {
            shards_asked: coverage.shards_asked,
            shards_answered: coverage.shards_answered,
            gaps: coverage.gaps.into_iter().map(gap).collect(),
        },
        staleness_ms: info.staleness_ms,
        token: token(&info.token)?,
        timings: StageTimings {
            total_us: timings.total_us,
            queue_us: timings.queue_us,
            route_us: timings.route_us,
            wait_us: timings.wait_us,
            search_us: timings.search_us,
            refine_us: timings.refine_us,
            merge_us: timings.merge_us,
        },
    })
}
