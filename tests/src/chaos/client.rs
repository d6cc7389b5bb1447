//! The operations of one client, with their answers as history has them.

use shoal_checker::history::{Call, FoundHit, Level, Search, Write};
use shoal_model::{PointId, Token};
use shoal_proto::v1::points_service_client::PointsServiceClient;
use shoal_proto::v1::search_service_client::SearchServiceClient;
use shoal_proto::{convert, v1};
use tonic::transport::Channel;

use super::attempt::{Trouble, call};
use super::values::{Plan, filter, point, query, verify};

/// How far behind an eventual read may be.
const STALENESS_MS: u32 = 5_000;
/// What clocks and heartbeats add to that.
const STALENESS_SLACK_MS: u32 = 1_500;
/// Points a page.
const PAGE: u32 = 200;

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Freshness {
    /// Everything acknowledged.
    Linearizable,
    /// What the client has seen.
    Session,
    /// What was current a while ago.
    Eventual,
}

impl Freshness {
    /// As history has it.
    #[must_use]
    pub(crate) fn level(self) -> Level {
        match self {
            Self::Linearizable => Level::Linearizable,
            Self::Session => Level::Session { own: true, after: Vec::new() },
            Self::Eventual => {
                Level::Eventual { staleness_ns: u64::from(STALENESS_MS + STALENESS_SLACK_MS) * 1_000_000 }
            }
        }
    }

    fn wire(self, seen: &Token) -> v1::Consistency {
        use v1::ConsistencyLevel as Wire;
        let (level, staleness_ms_max) = match self {
            Self::Linearizable => (Wire::Linearizable, 0),
            Self::Session => (Wire::Session, 0),
            Self::Eventual => (Wire::Eventual, STALENESS_MS),
        };
        v1::Consistency { level: level.into(), tokens: vec![seen.encode().into()], staleness_ms_max }
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// Writes.
    Upsert(Vec<(PointId, Write)>),
    /// Removes.
    Delete(Vec<PointId>),
    /// Reads by id.
    Get(Freshness, Vec<PointId>),
    /// Counts all.
    Count(Freshness),
    /// Reads all.
    Scroll(Freshness),
    /// Searches; query, filter, exact.
    Search(Freshness, u64, Option<u64>, bool),
}

/// Hits that searches ask for.
const K: u32 = 10;

impl Ask {
    /// As history has it before there is an answer.
    #[must_use]
    pub(crate) fn call(&self) -> Call {
        match self {
            Self::Upsert(points) => Call::Upsert { points: points.clone() },
            Self::Delete(ids) => Call::Delete { ids: ids.clone() },
            Self::Get(level, _) => Call::Get { level: level.level(), found: Vec::new() },
            Self::Count(level) => Call::Count { level: level.level(), count: 0 },
            Self::Scroll(level) => Call::Scroll { level: level.level(), points: Vec::new() },
            Self::Search(level, query, filter, exact) => Call::Search(Search {
                level: level.level(),
                query: *query,
                k: K as usize,
                filter: *filter,
                exact: *exact,
                hits: Vec::new(),
            }),
        }
    }

    /// Whether it changes anything.
    #[must_use]
    pub(crate) fn is_write(&self) -> bool {
        matches!(self, Self::Upsert(_) | Self::Delete(_))
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It was acknowledged or answered: for a read the call with its answer, and what the answer's token covers.
    Done(Option<Call>, Token),
    /// There is no answer.
    Trouble(Trouble),
    /// An answer that no state of the cluster explains.
    Wrong(String),
}

/// A client of a collection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client<'a> {
    /// The collection.
    pub(crate) plan: &'a Plan,
    /// Routers to go through.
    pub(crate) routers: &'a [Channel],
    /// Position of the one that is asked first.
    pub(crate) first: usize,
    /// What the client has seen.
    pub(crate) seen: &'a Token,
}

impl Client<'_> {
    /// Asks.
    pub(crate) async fn ask(&self, ask: &Ask) -> Answer {
        let done = match ask {
            Ask::Upsert(points) => self.upsert(points).await,
            Ask::Delete(ids) => self.delete(ids).await,
            Ask::Get(level, ids) => self.get(*level, ids).await,
            Ask::Count(level) => self.count(*level).await,
            Ask::Scroll(level) => self.scroll(*level).await,
            Ask::Search(level, query, filter, exact) => self.search(*level, *query, *filter, *exact).await,
        };
        match done {
            Ok((call, token)) => Answer::Done(call, token),
            Err(No::Trouble(trouble)) => Answer::Trouble(trouble),
            Err(No::Wrong(text)) => Answer::Wrong(text),
        }
    }

    async fn upsert(&self, points: &[(PointId, Write)]) -> Told {
        let wire = |(id, write): &(PointId, Write)| convert::point_to_wire(point(id.clone(), *write, self.plan.dim));
        let request = v1::UpsertRequest {
            collection: self.collection(),
            points: points.iter().map(wire).collect(),
            timeout_ms: 0,
            operation_id: uuid::Uuid::new_v4().to_string(),
        };
        let send = |channel, request| async move { PointsServiceClient::new(channel).upsert(request).await };
        let answer = call(self.routers, self.first, request, send).await?;
        Ok((None, token(&answer.token)?))
    }

    async fn delete(&self, ids: &[PointId]) -> Told {
        let request = v1::DeleteRequest {
            collection: self.collection(),
            ids: ids.iter().map(convert::point_id_to_wire).collect(),
            filter: None,
            timeout_ms: 0,
            operation_id: uuid::Uuid::new_v4().to_string(),
        };
        let send = |channel, request| async move { PointsServiceClient::new(channel).delete(request).await };
        let answer = call(self.routers, self.first, request, send).await?;
        Ok((None, token(&answer.token)?))
    }

    async fn get(&self, level: Freshness, ids: &[PointId]) -> Told {
        let request = v1::GetRequest {
            collection: self.collection(),
            ids: ids.iter().map(convert::point_id_to_wire).collect(),
            without_payload: false,
            with_vectors: true,
            consistency: Some(level.wire(self.seen)),
            timeout_ms: 0,
        };
        let send = |channel, request| async move { PointsServiceClient::new(channel).get(request).await };
        let answer = call(self.routers, self.first, request, send).await?;
        let token = covered(answer.info)?;
        let mut points = Vec::new();
        for point in answer.points {
            points.push(self.point(point)?);
        }
        if let Some((id, _)) = points.iter().find(|(id, _)| !ids.contains(id)) {
            return Err(No::Wrong(format!("a get returned point {id}, for which it did not ask")));
        }
        let write = |id| points.iter().find(|(found, _)| found == id).map(|(_, write)| *write);
        let found = ids.iter().map(|id| (id.clone(), write(id))).collect();
        Ok((Some(Call::Get { level: level.level(), found }), token))
    }

    async fn count(&self, level: Freshness) -> Told {
        let request = v1::CountRequest {
            collection: self.collection(),
            filter: None,
            consistency: Some(level.wire(self.seen)),
            timeout_ms: 0,
        };
        let send = |channel, request| async move { PointsServiceClient::new(channel).count(request).await };
        let answer = call(self.routers, self.first, request, send).await?;
        Ok((Some(Call::Count { level: level.level(), count: answer.count }), covered(answer.info)?))
    }

    async fn scroll(&self, level: Freshness) -> Told {
        let (mut points, mut after, mut seen) = (Vec::new(), None, self.seen.clone());
        loop {
            let request = v1::ScrollRequest {
                collection: self.collection(),
                filter: None,
                after,
                limit: PAGE,
                without_payload: false,
                with_vectors: true,
                consistency: Some(level.wire(&seen)),
                timeout_ms: 0,
            };
            let send = |channel, request| async move { PointsServiceClient::new(channel).scroll(request).await };
            let page = call(self.routers, self.first, request, send).await?;
            seen = seen.merge(&covered(page.info)?);
            for point in page.points {
                points.push(self.point(point)?);
            }
            after = page.next_after;
            if after.is_none() {
                return Ok((Some(Call::Scroll { level: level.level(), points }), seen));
            }
        }
    }

    async fn search(&self, level: Freshness, number: u64, group: Option<u64>, exact: bool) -> Told {
        let request = v1::SearchRequest {
            collection: self.collection(),
            vector: Some(convert::vector_to_wire(&query(number, self.plan.dim))),
            k: K,
            filter: group.map(|group| convert::filter_to_wire(&filter(group))),
            consistency: Some(level.wire(self.seen)),
            with_vectors: true,
            exact,
            ..v1::SearchRequest::default()
        };
        let send = |channel, request| async move { SearchServiceClient::new(channel).search(request).await };
        let answer = call(self.routers, self.first, request, send).await?;
        let token = covered(answer.info)?;
        let mut hits = Vec::new();
        for hit in answer.hits {
            let (id, write) = self.point(v1::Point {
                id: hit.id,
                vector: hit.vector,
                payload: hit.payload,
                version_vectors: Default::default(),
            })?;
            hits.push(FoundHit { id, score: hit.score, write });
        }
        let search = Search { level: level.level(), query: number, k: K as usize, filter: group, exact, hits };
        Ok((Some(Call::Search(search)), token))
    }

    fn collection(&self) -> String {
        self.plan.name.to_owned()
    }

    fn point(&self, point: v1::Point) -> Result<(PointId, Write), No> {
        let point = convert::point(point).map_err(|error| No::Wrong(format!("a point is malformed: {error}")))?;
        let verified = verify(self.plan, &point.payload, Some(&point.vector));
        let write = verified.map_err(|problem| No::Wrong(format!("point {}: {problem}", point.id)))?;
        Ok((point.id, write))
    }
}

type Told = Result<(Option<Call>, Token), No>;

/// Why there is no answer that history can hold.
enum No {
    Trouble(Trouble),
    Wrong(String),
}

impl From<Trouble> for No {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

fn token(bytes: &[u8]) -> Result<Token, No> {
    Token::decode(bytes).map_err(|error| No::Wrong(format!("a token is malformed: {error}")))
}

/// The token of an answer that covers all of the collection.
fn covered(info: Option<v1::AnswerInfo>) -> Result<Token, No> {
    let info = info.unwrap_or_default();
    let coverage = info.coverage.unwrap_or_default();
    if coverage.shards_answered < coverage.shards_asked {
        let text = format!("{} of {} shards answered", coverage.shards_answered, coverage.shards_asked);
        return Err(No::Trouble(Trouble { is_certain: true, text }));
    }
    token(&info.token)
}
