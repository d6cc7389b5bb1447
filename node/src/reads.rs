//! Answering reads: views of the named shards, work on the search threads, one merged answer a node.
//!
//! A shard that cannot answer is told apart in the answer; it fails neither the others nor the call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use shoal_index::segment::{Effort, Scratch};
use shoal_index::set::{self, Found, Look, Row, SetFilter, SetQuery, SetStats, ViewFilter};
use shoal_index::{IndexError, packed};
use shoal_model::{
    Classify as _, Epoch, ErrorKind, InputError, Limits, LogIndex, Payload, PointId, RECALL_TARGET_DEFAULT, Scored,
    ShardId, check_ef_search, check_k, check_vector, merge_top_k,
};
use shoal_proto::internal::v1 as wire;
use shoal_proto::{convert, v1};
use shoal_runtime::{Store, Table};
use tokio::task::JoinSet;

use crate::NodeError;
use crate::blocking;
use crate::cpu_pool::{CpuPool, Interest, Stop};
use crate::replica::{Replica, Wanted};
use crate::replicas::Replicas;
use crate::shard::keys;
use crate::shard::machine::{View, read_state};
use crate::shard::records::split_record;

/// Everything that answering reads needs.
pub(crate) struct Reads {
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) pool: Arc<CpuPool>,
    pub(crate) limits: Limits,
}

/// The shards that can answer, with their views, and those that cannot.
#[derive(Default)]
struct Views {
    open: Vec<(Arc<Replica>, Arc<View>)>,
    /// How old each open view may be at most.
    staleness_ms: BTreeMap<ShardId, u32>,
    failures: Vec<wire::ShardFailure>,
}

impl Views {
    fn staleness_of(&self, shard: ShardId) -> u32 {
        self.staleness_ms.get(&shard).copied().unwrap_or(u32::MAX)
    }

    fn answered(&self) -> Vec<wire::ShardAnswer> {
        let answer = |(replica, view): &(Arc<Replica>, Arc<View>)| wire::ShardAnswer {
            shard_id: replica.shard.0,
            applied_index: view.applied.0,
            staleness_ms: self.staleness_of(replica.shard),
        };
        self.open.iter().map(answer).collect()
    }
}

/// A hit, and where its payload and vector are.
struct Located {
    found: Found,
    /// Position among the open views.
    view: usize,
}

impl Scored for Located {
    fn score(&self) -> f32 {
        self.found.score
    }

    fn id(&self) -> &PointId {
        &self.found.id
    }
}

/// What to return of each point.
struct Selection {
    payload: bool,
    /// Only these fields; empty for all.
    fields: Vec<String>,
    vectors: bool,
}

impl Selection {
    /// Bytes that a row adds to an answer, about; an upper bound where only some fields are wanted.
    fn bytes(&self, view: &View, row: Row) -> usize {
        let payload = if self.payload { view.points.payload_bytes(row) } else { 0 };
        payload + if self.vectors { view.points.dim() as usize * size_of::<f32>() } else { 0 }
    }
}

/// One search as every part of it is given.
struct Work {
    vector: Vec<f32>,
    k: usize,
    look: Look,
    score_limit: Option<f32>,
    stop: Stop,
}

/// A share of the search of one view.
struct Slice {
    /// Position among the open views.
    position: usize,
    view: Arc<View>,
    /// Prepared for the view; shared by its slices.
    filter: Option<Arc<ViewFilter>>,
    part: usize,
    parts: usize,
}

/// What was found in a slice, by position of its view.
type SliceResult = (usize, Result<(Vec<Found>, SetStats), IndexError>);

/// Views that failed, by position.
type Failed = BTreeMap<usize, wire::ShardFailure>;

/// The answer of a shard that answers with none of what was asked for.
fn no_points(views: Views) -> wire::GetResponse {
    wire::GetResponse { points: vec![], answered: vec![], failures: views.failures }
}

/// The failure of one shard for the wire.
pub(crate) fn failure(shard: ShardId, error: &NodeError) -> wire::ShardFailure {
    use wire::ShardFailureKind as Kind;
    let kind = match error.kind() {
        ErrorKind::StaleEpoch => Kind::StaleEpoch,
        ErrorKind::NotLeader => Kind::NotLeader,
        ErrorKind::Unavailable | ErrorKind::NotFound => Kind::NotReady,
        ErrorKind::Overloaded => Kind::Overloaded,
        ErrorKind::DiskFull => Kind::DiskFull,
        ErrorKind::DeadlineExceeded | ErrorKind::Cancelled => Kind::Deadline,
        ErrorKind::Invalid => Kind::Invalid,
        _ => Kind::Internal,
    };
    let leader_node = match error {
        NodeError::NotLeader { leader: Some(node), .. } => node.0,
        _ => 0,
    };
    wire::ShardFailure { shard_id: shard.0, kind: kind.into(), message: error.to_string(), leader_node }
}

impl Reads {
    /// Searches all named shards and merges.
    pub(crate) async fn search(
        &self,
        request: wire::SearchRequest,
        deadline: Instant,
    ) -> Result<wire::SearchResponse, NodeError> {
        let interest = Interest::until(deadline);
        check_k(request.k, &self.limits)?;
        let look = look(&request, &self.limits)?;
        let work = Arc::new(Work {
            vector: convert::vector(request.vector)?,
            k: request.k as usize,
            look,
            score_limit: request.score_limit,
            stop: interest.stop(),
        });
        let filter = self.filter(request.filter)?;
        let mut views = self.views(request.targets, deadline).await;
        for (replica, _) in &views.open {
            check_vector(&work.vector, replica.spec.dim, replica.spec.metric)?;
        }
        let started = Instant::now();
        let (hits, stats) = self.search_views(&mut views, filter.as_ref(), &work).await?;
        let searched = Instant::now();
        let selection =
            Selection { payload: request.with_payload, fields: request.payload_fields, vectors: request.with_vectors };
        let size = |hit: &Located| selection.bytes(&views.open[hit.view].1, hit.found.row);
        self.check_size("k", hits.iter().map(size).sum())?;
        let (answered, failures) = (views.answered(), std::mem::take(&mut views.failures));
        let is_read = selection.payload || selection.vectors;
        let hits = read_rows(is_read, move || {
            hits.iter().map(|hit| node_hit(hit, &views, &selection)).collect::<Result<_, _>>()
        });
        Ok(wire::SearchResponse {
            hits: hits.await??,
            answered,
            failures,
            search_us: micros(searched - started),
            refine_us: micros(searched.elapsed()),
            distances: stats.scan.scanned + stats.walk.hops,
            refined: stats.scan.rescored + stats.walk.refined,
            filtered: stats.scan.filtered,
            hops: stats.walk.hops,
        })
    }

    /// Searches every open view. A view that fails becomes a failure.
    ///
    /// What is worth it is split over threads; all else takes no more threads than there are, one view after another,
    /// as a walk takes hardly longer than handing it to another thread.
    async fn search_views(
        &self,
        views: &mut Views,
        filter: Option<&Arc<SetFilter>>,
        work: &Arc<Work>,
    ) -> Result<(Vec<Located>, SetStats), NodeError> {
        let Some(metric) = views.open.first().map(|(replica, _)| replica.spec.metric) else {
            return Ok(Default::default());
        };
        let mut lists: BTreeMap<usize, Vec<Vec<Found>>> = BTreeMap::new();
        let (mut stats, mut failed) = (SetStats::default(), Failed::new());
        let shard = |position: usize| views.open[position].0.shard;
        for (positions, result) in self.search_groups(self.groups(views, filter, work.look), work).await? {
            match result {
                Ok(slices) => {
                    for (position, result) in slices {
                        match result {
                            Ok((found, slice_stats)) => {
                                stats.merge(&slice_stats);
                                lists.entry(position).or_default().push(found);
                            }
                            Err(error) => {
                                let error = NodeError::Index(error);
                                self.replicas.note_damage(&error);
                                failed.insert(position, failure(shard(position), &error));
                            }
                        }
                    }
                }
                Err(error) => failed.extend(positions.iter().map(|at| (*at, failure(shard(*at), &error)))),
            }
        }
        lists.retain(|position, _| !failed.contains_key(position));
        // Each view by itself first: what the search of one finds must not depend on how many threads there are for it.
        let located = |(view, lists): (usize, Vec<Vec<Found>>)| {
            let found = Found::merge(metric, work.k, lists);
            found.into_iter().map(|found| Located { found, view }).collect::<Vec<_>>()
        };
        let hits = merge_top_k(metric, work.k, lists.into_iter().map(located).collect());
        Ok((views.without(failed, hits), stats))
    }

    /// The slices of all views, in groups for a thread each.
    fn groups(&self, views: &Views, filter: Option<&Arc<SetFilter>>, look: Look) -> Vec<Vec<Slice>> {
        let (mut large, mut small) = (Vec::new(), Vec::new());
        for (position, (_, view)) in views.open.iter().enumerate() {
            let parts = self.pool.parts(view.points.points_scanned(look), look);
            let filter = filter.map(|filter| Arc::new(view.points.filter(filter)));
            let slices = (0..parts).map(|part| {
                let (view, filter) = (view.clone(), filter.clone());
                Slice { position, view, filter, part, parts }
            });
            if parts == 1 { small.extend(slices) } else { large.extend(slices.map(|slice| vec![slice])) }
        }
        let per_thread = small.len().div_ceil(self.pool.threads()).max(1);
        let mut groups = large;
        while !small.is_empty() {
            groups.push(small.split_off(small.len().saturating_sub(per_thread)));
        }
        groups
    }

    /// Searches groups of slices, each on one thread. Tells with each result which views it is about.
    async fn search_groups(
        &self,
        mut groups: Vec<Vec<Slice>>,
        work: &Arc<Work>,
    ) -> Result<Vec<(Vec<usize>, Result<Vec<SliceResult>, NodeError>)>, NodeError> {
        let run = |group: Vec<Slice>| {
            let (work, pool) = (work.clone(), self.pool.clone());
            let positions = group.iter().map(|slice| slice.position).collect();
            let search = move |scratch: &mut Scratch| {
                group.iter().map(|slice| (slice.position, search_slice(slice, scratch, &work))).collect()
            };
            async move { (positions, pool.search(search).await) }
        };
        let last = groups.pop();
        let mut others: JoinSet<_> = groups.into_iter().map(run).collect();
        let mut results = Vec::with_capacity(others.len() + 1);
        if let Some(last) = last {
            results.push(run(last).await);
        }
        while let Some(ended) = others.join_next().await {
            results.push(ended.map_err(|error| NodeError::Task(error.to_string()))?);
        }
        Ok(results)
    }

    /// Counts points of all named shards.
    pub(crate) async fn count(
        &self,
        request: wire::CountRequest,
        deadline: Instant,
    ) -> Result<wire::CountResponse, NodeError> {
        let interest = Interest::until(deadline);
        let filter = self.filter(request.filter)?;
        let views = self.views(request.targets, deadline).await;
        let points: Vec<_> = views.open.iter().map(|(_, view)| view.points.clone()).collect();
        let stop = interest.stop();
        let count = move || {
            let count = |points: &Arc<set::View>| {
                points.count(filter.as_ref().map(|filter| points.filter(filter)).as_ref(), &|| stop.now())
            };
            points.iter().map(count).sum()
        };
        let count: Result<u64, IndexError> = self.pool.run(count).await?;
        Ok(wire::CountResponse { count: count?, answered: views.answered(), failures: views.failures })
    }

    /// The first points after the cursor of all named shards.
    pub(crate) async fn scroll(
        &self,
        request: wire::ScrollRequest,
        deadline: Instant,
    ) -> Result<wire::ScrollResponse, NodeError> {
        let interest = Interest::until(deadline);
        let limit = request.limit as usize;
        if limit == 0 || limit > self.limits.batch_points_max as usize {
            let problem = format!("is {limit}, must be 1 to {}", self.limits.batch_points_max);
            return Err(InputError::new("limit", problem).into());
        }
        let after = request.after.map(|after| convert::point_id(Some(after))).transpose();
        let after = after.map_err(|e| e.within("after"))?;
        let filter = self.filter(request.filter)?;
        let mut views = self.views(request.targets, deadline).await;
        let points: Vec<_> = views.open.iter().map(|(_, view)| view.points.clone()).collect();
        let stop = interest.stop();
        let scan = move || {
            let page = |points: &Arc<set::View>| {
                let filter = filter.as_ref().map(|filter| points.filter(filter));
                points.scroll(after.as_ref(), limit, filter.as_ref(), &|| stop.now())
            };
            points.iter().map(page).collect::<Result<Vec<_>, IndexError>>()
        };
        let pages = self.pool.run(scan).await??;
        let mut rows: Vec<(PointId, Row, usize)> = Vec::new();
        for (view, page) in pages.into_iter().enumerate() {
            rows.extend(page.into_iter().map(|(id, row)| (id, row, view)));
        }
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows.truncate(limit);
        let selection = Selection { payload: request.with_payload, fields: vec![], vectors: request.with_vectors };
        let size = |(_, row, view): &(PointId, Row, usize)| selection.bytes(&views.open[*view].1, *row);
        self.check_size("limit", rows.iter().map(size).sum())?;
        let (answered, failures) = (views.answered(), std::mem::take(&mut views.failures));
        let is_read = selection.payload || selection.vectors;
        let points = read_rows(is_read, move || {
            let point = |(id, row, view): &(PointId, Row, usize)| {
                let (payload, vector) = contents(&views.open[*view], *row, &selection)?;
                let id = Some(convert::point_id_to_wire(id));
                Ok::<_, NodeError>(v1::Point { id, vector, payload, version_vectors: BTreeMap::new() })
            };
            rows.iter().map(point).collect::<Result<_, _>>()
        });
        Ok(wire::ScrollResponse { points: points.await??, answered, failures })
    }

    /// Points of one shard by id, from disk.
    pub(crate) async fn get(
        &self,
        request: wire::GetRequest,
        deadline: Instant,
    ) -> Result<wire::GetResponse, NodeError> {
        let ids = convert::point_ids("ids", request.ids)?;
        if ids.len() > self.limits.batch_points_max as usize {
            let problem = format!("has {} ids, the cap is {}", ids.len(), self.limits.batch_points_max);
            return Err(InputError::new("ids", problem).into());
        }
        let mut views = self.views(request.target.into_iter().collect(), deadline).await;
        let Some((replica, view)) = views.open.first() else {
            return Ok(no_points(views));
        };
        let (store, shard, seen) = (self.store.clone(), replica.shard, view.applied);
        let (replica, content) = (replica.clone(), replica.content());
        let replaced = NodeError::Lagging { shard, what: "its content is being replaced" };
        if replica.is_restoring() {
            views.failures.push(failure(shard, &replaced));
            return Ok(no_points(views));
        }
        let (with_payload, with_vectors) = (request.with_payload, request.with_vectors);
        let read = move || {
            let point = |id| read_point(&*store, shard, id, with_payload, with_vectors);
            let points = ids.iter().filter_map(|id| point(id).transpose()).collect::<Result<Vec<_>, NodeError>>()?;
            // Disk may be ahead of the view. Read after the points, this position covers them all.
            Ok::<_, NodeError>((points, read_state(&*store, shard)?.unwrap_or_default().applied))
        };
        let (points, applied) = match self.pool.run(read).await? {
            // What is damaged here is sound elsewhere.
            Err(error) if error.kind() == ErrorKind::Corruption => {
                self.replicas.note_damage(&error);
                let kind = wire::ShardFailureKind::NotReady.into();
                views.failures.push(wire::ShardFailure { kind, ..failure(shard, &error) });
                return Ok(no_points(views));
            }
            read => read?,
        };
        if applied < seen || replica.content() != content {
            // The records went while they were read, and may have come back: the replica is dropped, or restored from another.
            views.failures.push(failure(shard, &replaced));
            return Ok(no_points(views));
        }
        self.check_size("ids", points.iter().map(prost::Message::encoded_len).sum())?;
        let staleness_ms = views.staleness_of(shard);
        let answered = vec![wire::ShardAnswer { shard_id: shard.0, applied_index: applied.0, staleness_ms }];
        Ok(wire::GetResponse { points, answered, failures: views.failures })
    }

    /// Refuses an answer that no message could carry; `field` is what the caller can ask less of.
    fn check_size(&self, field: &str, bytes: usize) -> Result<(), InputError> {
        // Half of the cap: names and framing come on top.
        let max = self.limits.message_bytes_max as usize / 2;
        if bytes <= max {
            return Ok(());
        }
        let problem = format!("asks for an answer of {bytes} bytes, the cap is {max}; ask for fewer points or fields");
        Err(InputError::new(field, problem))
    }

    fn filter(&self, filter: Option<v1::Filter>) -> Result<Option<Arc<SetFilter>>, InputError> {
        let filter = convert::filter(filter)?;
        filter.check(&self.limits)?;
        Ok((!filter.is_empty()).then(|| Arc::new(SetFilter::new(filter))))
    }

    /// Views of the targets, each as fresh as asked for; all are waited for at once.
    async fn views(&self, targets: Vec<wire::ShardTarget>, deadline: Instant) -> Views {
        let mut waiting = JoinSet::new();
        let order: Vec<u64> = targets.iter().map(|target| target.shard_id).collect();
        for target in targets {
            let replicas = self.replicas.clone();
            waiting.spawn(async move { (target.shard_id, open_view(&replicas, &target, deadline).await) });
        }
        let mut opened = BTreeMap::new();
        while let Some(Ok((shard, result))) = waiting.join_next().await {
            opened.insert(shard, result);
        }
        let mut views = Views::default();
        for shard in order {
            match opened.remove(&shard) {
                Some(Ok((replica, view, age))) => {
                    let staleness_ms = age.map_or(u32::MAX, |age| u32::try_from(age.as_millis()).unwrap_or(u32::MAX));
                    views.staleness_ms.insert(replica.shard, staleness_ms);
                    views.open.push((replica, view));
                }
                Some(Err(error)) => views.failures.push(failure(ShardId(shard), &error)),
                None => views.failures.push(failure(ShardId(shard), &NodeError::NotReady { shard: ShardId(shard) })),
            }
        }
        views
    }
}

impl Views {
    /// Turns the views that failed into failures, and the hits' positions into those of the rest.
    fn without(&mut self, mut failed: Failed, hits: Vec<Located>) -> Vec<Located> {
        if failed.is_empty() {
            return hits;
        }
        let mut moved_to = BTreeMap::new();
        let mut open = Vec::new();
        for (position, view) in std::mem::take(&mut self.open).into_iter().enumerate() {
            match failed.remove(&position) {
                Some(failure) => self.failures.push(failure),
                None => {
                    moved_to.insert(position, open.len());
                    open.push(view);
                }
            }
        }
        self.open = open;
        hits.into_iter().filter_map(|hit| Some(Located { view: *moved_to.get(&hit.view)?, ..hit })).collect()
    }
}

async fn open_view(
    replicas: &Replicas,
    target: &wire::ShardTarget,
    deadline: Instant,
) -> Result<(Arc<Replica>, Arc<View>, Option<Duration>), NodeError> {
    let replica = replicas.at_epoch(ShardId(target.shard_id), Epoch(target.epoch), deadline).await?;
    let staleness_ms = Some(target.staleness_ms_max).filter(|most| *most > 0);
    let wanted = Wanted {
        index: LogIndex(target.applied_index_min),
        linearizable: target.linearizable,
        staleness_max: staleness_ms.map(|most| Duration::from_millis(most.into())),
    };
    let (view, age) = replica.view_at(wanted, deadline).await?;
    Ok((replica, view, age))
}

/// How a request wants its points looked for. A wanted recall goes before a beam; all of them means each point.
fn look(request: &wire::SearchRequest, limits: &Limits) -> Result<Look, InputError> {
    if request.exact {
        return Ok(Look::Exact);
    }
    let effort = match (request.recall_target, request.ef_search) {
        (Some(recall), _) if !(recall > 0.0 && recall <= 1.0) => {
            return Err(InputError::new("recall_target", format!("is {recall}, must be above 0 and at most 1")));
        }
        (None, Some(beam)) => {
            check_ef_search(beam, request.k, limits)?;
            Effort::Beam(beam as usize)
        }
        (recall, _) => {
            #[allow(clippy::cast_possible_truncation, reason = "segments measure recall in f32")]
            let recall = recall.unwrap_or(RECALL_TARGET_DEFAULT) as f32;
            if recall >= 1.0 {
                return Ok(Look::Exact);
            }
            Effort::Recall(recall)
        }
    };
    Ok(Look::Walk(effort))
}

fn search_slice(slice: &Slice, scratch: &mut Scratch, work: &Work) -> Result<(Vec<Found>, SetStats), IndexError> {
    let query = SetQuery {
        vector: &work.vector,
        k: work.k,
        look: work.look,
        filter: slice.filter.as_deref(),
        score_limit: work.score_limit,
        stop: &|| work.stop.now(),
    };
    slice.view.points.search_part(slice.part, slice.parts, scratch, &query)
}

/// Reads rows, off the threads that serve sockets if that may touch a mapped file.
async fn read_rows<T: Send + 'static>(
    is_read: bool,
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NodeError> {
    if !is_read {
        return Ok(read());
    }
    blocking::run(read).await
}

fn node_hit(hit: &Located, views: &Views, selection: &Selection) -> Result<wire::NodeHit, NodeError> {
    let (payload, vector) = contents(&views.open[hit.view], hit.found.row, selection)?;
    Ok(wire::NodeHit { id: Some(convert::point_id_to_wire(&hit.found.id)), score: hit.found.score, payload, vector })
}

fn contents(
    (replica, view): &(Arc<Replica>, Arc<View>),
    row: Row,
    selection: &Selection,
) -> Result<(Option<v1::Payload>, Option<v1::Vector>), NodeError> {
    let payload = if selection.payload {
        Some(unpack(replica.shard, view.points.payload(row)?, &selection.fields)?)
    } else {
        None
    };
    let vector = selection.vectors.then(|| view.points.vector(row)).transpose()?;
    let vector = vector.map(|vector| convert::vector_to_wire(&vector));
    Ok((payload, vector))
}

fn unpack(shard: ShardId, packed: &[u8], fields: &[String]) -> Result<v1::Payload, NodeError> {
    let mut payload: Payload = packed::decode(packed).map_err(|_| NodeError::Malformed { shard, what: "payload" })?;
    if !fields.is_empty() {
        payload.retain(|name, _| fields.contains(name));
    }
    Ok(convert::payload_to_wire(payload))
}

/// Times that a point is read because a write came between its records; no writer is that fast.
const READS_MAX: usize = 100;

/// Reads both records of a point, again if a write came between them.
pub fn read_point(
    store: &dyn Store,
    shard: ShardId,
    id: &PointId,
    with_payload: bool,
    with_vectors: bool,
) -> Result<Option<v1::Point>, NodeError> {
    let key = keys::point(shard, id);
    let malformed = |what| NodeError::Malformed { shard, what };
    for _ in 0..READS_MAX {
        let Some(vector) = store.get(Table::Vectors, &key)? else { return Ok(None) };
        let payload = store.get(Table::Payload, &key)?;
        let (written, components) = split_record(&key, &vector).ok_or(malformed("vector"))?;
        let Some(payload) = payload else { continue };
        let (payload_written, packed) = split_record(&key, &payload).ok_or(malformed("payload"))?;
        if written != payload_written {
            continue;
        }
        let f32_le: Bytes = vector.slice_ref(components);
        return Ok(Some(v1::Point {
            id: Some(convert::point_id_to_wire(id)),
            vector: with_vectors.then(|| convert::vector_bytes_to_wire(f32_le)),
            payload: if with_payload { Some(unpack(shard, packed, &[])?) } else { None },
            version_vectors: BTreeMap::new(),
        }));
    }
    Err(malformed("point: its two records do not belong together"))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
