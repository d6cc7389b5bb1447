//! A client with its own small router: it follows the map, remembers who leads, sends each shard its part, and sends again
//! what failed, under the same operation. What it was told goes into a history. Mirrors the outcome of `shoal_router`'s
//! fan-out, not its hedges and groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;
use shoal_checker::history::{Call as Seen, ClientId, FoundHit, Level, OpNumber, Operation, Outcome, Search, Write};
use shoal_model::planted::{Bug, is_planted};
use shoal_model::{
    ClusterMap, Collection, LogIndex, Metric, NodeId, OperationId, PointId, Shard, ShardId, Standing, Token,
};
use shoal_proto::convert;

use crate::event::{Answer, Asked, Call, CallId, ClientOwn, Event, Failure, Outside, Read, Shown};
use crate::network::Endpoint;
use crate::node::process_at;
use crate::queue::{MS, Ns, SEC};
use crate::workload::{self, Fresh, Told, Wish};

/// The collection that is checked.
pub(crate) const CHECKED: &str = "checked";
/// How long one replica is given before another is asked.
const ASK_WITHIN: Ns = 1_500 * MS;
/// Longest rest of a part.
const REST_MAX: Ns = 250 * MS;

/// What clients share: numbers, and the history.
#[derive(Default)]
pub(crate) struct Book {
    last_op: u64,
    last_write: u64,
    pub(crate) operations: Vec<Operation>,
    pub(crate) told: Vec<Told>,
}

pub(crate) struct Client {
    number: usize,
    pub(crate) map: Arc<ClusterMap>,
    leaders: BTreeMap<ShardId, NodeId>,
    watching: Option<CallId>,
    op: Option<Op>,
    /// Nothing more is asked.
    pub(crate) is_done: bool,
}

struct Op {
    number: OpNumber,
    invoke_ns: Ns,
    operation: OperationId,
    level: Level,
    fresh: Fresh,
    token: Token,
    wish: Wish,
    /// Of an upsert, as many as ids.
    writes: Vec<Write>,
    parts: BTreeMap<ShardId, Part>,
    /// Pages of a scroll so far.
    shown: Vec<Shown>,
}

#[derive(Default)]
struct Part {
    ids: Vec<PointId>,
    call: Option<CallId>,
    turn: usize,
    failures: u32,
    answer: Option<Answer>,
}

impl Client {
    pub(crate) fn new(number: usize) -> Self {
        Self { number, map: Arc::default(), leaders: BTreeMap::new(), watching: None, op: None, is_done: false }
    }

    fn me(&self) -> Endpoint {
        Endpoint::Client(self.number)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.op.is_none()
    }

    fn own(&self, delay: Ns, own: ClientOwn, out: &mut Outside) {
        out.after(delay, Event::Client { client: self.number, own });
    }

    pub(crate) fn handle(&mut self, own: ClientOwn, book: &mut Book, out: &mut Outside) {
        match own {
            ClientOwn::Next => self.next(book, out),
            ClientOwn::Watch => {
                self.watch(out);
                self.own(SEC, ClientOwn::Watch, out);
            }
            ClientOwn::CallLate(id) => self.answered(id, Answer::Failed(Failure::Unknown), book, out),
            ClientOwn::Rested(shard) => self.send(shard, out),
            ClientOwn::Deadline(op) => {
                if self.op.as_ref().is_some_and(|open| open.number.0 == op) {
                    self.finish(false, book, out);
                }
            }
            ClientOwn::Churn => {}
        }
    }

    fn watch(&mut self, out: &mut Outside) {
        let to = out.rng.random_range(0..out.shape.coordinators);
        self.watching = Some(out.call(self.me(), to, Call::Watch { epoch: self.map.epoch }));
    }

    fn collection(&self) -> Option<&Collection> {
        self.map.collection(CHECKED)
    }

    fn next(&mut self, book: &mut Book, out: &mut Outside) {
        let pause = out.rng.random_range(0..out.shape.think_ns);
        if self.is_done || self.op.is_some() {
            return;
        }
        if self.collection().is_none() {
            return self.own(200 * MS, ClientOwn::Next, out);
        }
        let wish = workload::draw(out.shape.ids, out.shape.clients, &mut out.rng);
        self.begin(wish, book, out);
        if self.op.is_none() {
            self.own(pause, ClientOwn::Next, out);
        }
    }

    /// Begins an operation.
    pub(crate) fn begin(&mut self, wish: Wish, book: &mut Book, out: &mut Outside) {
        let Some(collection) = self.collection().cloned() else { return };
        book.last_op += 1;
        let number = OpNumber(book.last_op);
        let fresh = match &wish {
            Wish::Read(fresh, _) => *fresh,
            _ => Fresh::Session,
        };
        let mut token = book.told[self.number].token.clone();
        let mut other = None;
        if let Fresh::SessionOf(client) = fresh {
            token = token.merge(&book.told[client].token);
            other = book.told[client].last.filter(|_| client != self.number);
        }
        let count = if let Wish::Upsert(ids) = &wish { ids.len() } else { 0 };
        let writes = (0..count).map(|_| book.next_write()).collect();
        let mut parts: BTreeMap<ShardId, Part> = BTreeMap::new();
        match &wish {
            Wish::Upsert(ids) | Wish::Delete(ids) | Wish::Read(_, Read::Get(ids)) => {
                for id in ids {
                    let shard = self.map.shards_of(&collection).find(|shard| shard.range.contains(id.hash()));
                    let Some(shard) = shard else { return };
                    parts.entry(shard.id).or_default().ids.push(id.clone());
                }
            }
            Wish::Read(..) => parts.extend(collection.shards.iter().map(|shard| (*shard, Part::default()))),
        }
        let turn = out.rng.random_range(0..60);
        parts.values_mut().for_each(|part| part.turn = turn);
        let level = workload::level_of(fresh, u64::from(out.shape.staleness_ms) * MS, other);
        let (invoke_ns, operation) = (out.now, OperationId(out.rng.random()));
        let shards: Vec<ShardId> = parts.keys().copied().collect();
        self.op =
            Some(Op { number, invoke_ns, operation, level, fresh, token, wish, writes, parts, shown: Vec::new() });
        self.own(out.shape.call_deadline_ns, ClientOwn::Deadline(number.0), out);
        shards.into_iter().for_each(|shard| self.send(shard, out));
    }

    /// Sends a part to the next replica, unless it is answered or on its way.
    fn send(&mut self, shard: ShardId, out: &mut Outside) {
        let me = self.me();
        let Some(op) = &mut self.op else { return };
        let Some(part) = op.parts.get_mut(&shard).filter(|part| part.call.is_none() && part.answer.is_none()) else {
            return;
        };
        let Some(entry) = self.map.shards.get(&shard) else { return };
        let of_leaders = matches!(op.wish, Wish::Upsert(_) | Wish::Delete(_)) || op.fresh == Fresh::Linearizable;
        let nodes = candidates(entry);
        let known = self.leaders.get(&shard).filter(|node| of_leaders && nodes.contains(node)).copied();
        let node = known.or_else(|| nodes.get(part.turn % nodes.len().max(1)).copied());
        let Some(to) = node.and_then(|node| process_at(&self.map.nodes.get(&node)?.address)) else { return };
        if part.failures > 0 && is_planted(Bug::NewIdentityForRetry) {
            op.operation = OperationId(out.rng.random());
        }
        let call = op.call(entry, &op.parts[&shard].ids, out);
        let Some(part) = op.parts.get_mut(&shard) else { return };
        let id = out.call(me, to, call);
        part.call = Some(id);
        self.own(ASK_WITHIN, ClientOwn::CallLate(id), out);
    }

    pub(crate) fn answered(&mut self, id: CallId, answer: Answer, book: &mut Book, out: &mut Outside) {
        if self.watching == Some(id) {
            self.watching = None;
            if let Answer::Map(Some(map)) = answer
                && map.epoch > self.map.epoch
            {
                self.map = map;
            }
            return;
        }
        let Some(op) = &mut self.op else { return };
        let Some((&shard, part)) = op.parts.iter_mut().find(|(_, part)| part.call == Some(id)) else { return };
        part.call = None;
        if let Answer::Failed(failure) = answer {
            part.failures += 1;
            self.failed(shard, failure, out);
            return;
        }
        match &answer {
            Answer::Written(index) => op.token.raise(shard, *index),
            Answer::Found { applied, .. } => op.token.raise(shard, *applied),
            _ => {}
        }
        part.answer = Some(answer);
        if op.parts.values().all(|part| part.answer.is_some()) {
            self.page_or_finish(book, out);
        }
    }

    fn failed(&mut self, shard: ShardId, failure: Failure, out: &mut Outside) {
        let Some(part) = self.op.as_mut().and_then(|op| op.parts.get_mut(&shard)) else { return };
        let rest = (5 * MS << part.failures.min(8)).min(REST_MAX);
        let mut refresh = failure == Failure::StaleEpoch;
        match failure {
            Failure::NotLeader(Some(leader)) => drop(self.leaders.insert(shard, leader)),
            _ => {
                self.leaders.remove(&shard);
                part.turn += 1;
                refresh |= part.failures.is_multiple_of(4);
            }
        }
        let rest = rest / 2 + out.rng.random_range(0..rest);
        if refresh {
            self.watch(out);
        }
        self.own(rest, ClientOwn::Rested(shard), out);
    }

    /// All parts are answered: a scroll goes on after its page, all else is done.
    fn page_or_finish(&mut self, book: &mut Book, out: &mut Outside) {
        let Some(op) = &mut self.op else { return };
        if let Wish::Read(_, Read::Scroll { after, limit }) = &mut op.wish {
            let mut page: Vec<Shown> = Vec::new();
            let mut is_last = true;
            for part in op.parts.values_mut() {
                if let Some(Answer::Found { points, .. }) = part.answer.take() {
                    is_last &= points.len() < *limit;
                    page.extend(points);
                }
            }
            page.sort_by(|a, b| a.id.cmp(&b.id));
            is_last &= page.len() <= *limit;
            page.truncate(*limit);
            *after = page.last().map(|shown| shown.id.clone());
            op.shown.extend(page);
            if !is_last {
                let shards: Vec<ShardId> = op.parts.keys().copied().collect();
                shards.into_iter().for_each(|shard| self.send(shard, out));
                return;
            }
        }
        self.finish(true, book, out);
    }

    /// Ends the operation and notes it.
    fn finish(&mut self, is_whole: bool, book: &mut Book, out: &mut Outside) {
        let Some(op) = self.op.take() else { return };
        let is_write = matches!(op.wish, Wish::Upsert(_) | Wish::Delete(_));
        let outcome = match (is_whole, is_write) {
            (true, _) => Outcome::Ok,
            // It may arrive late, and happen then.
            (false, true) => Outcome::Unknown,
            (false, false) => Outcome::Failed,
        };
        if is_whole {
            let told = &mut book.told[self.number];
            told.token = std::mem::take(&mut told.token).merge(&op.token);
            told.last = Some(op.number);
        }
        let Some(collection) = self.map.collection(CHECKED) else { return };
        let (metric, dim) = (collection.index.metric, collection.index.dim);
        let (number, invoke_ns) = (op.number, op.invoke_ns);
        out.trace.note(out.now, 1_000 + self.number, number.0 << 2 | outcome as u64);
        let call = self.call_of(op, (metric, dim), out);
        out.trace.tell(out.now, || format!("client {} ends {number} {outcome:?}: {call:?}", self.number));
        let (client, return_ns) = (ClientId(self.number as u64), Some(out.now));
        book.operations.push(Operation { number, client, invoke_ns, return_ns, outcome, call });
        let pause = out.rng.random_range(0..out.shape.think_ns);
        self.own(pause, ClientOwn::Next, out);
    }

    /// The operation in the checker's words.
    fn call_of(&self, op: Op, (metric, dim): (Metric, u32), out: &mut Outside) -> Seen {
        let level = op.level;
        let answers = op.parts.into_values().filter_map(|part| part.answer);
        let (mut shown, mut total) = (op.shown, 0);
        for answer in answers {
            if let Answer::Found { points, count, .. } = answer {
                shown.extend(points);
                total += count;
            }
        }
        for point in &shown {
            if point.vector != workload::vector_of(&point.id, point.write, dim) {
                out.truth.breaks(format!("point {:?} has another vector than write {} gave it", point.id, point.write));
            }
        }
        match op.wish {
            Wish::Upsert(ids) => Seen::Upsert { points: ids.into_iter().zip(op.writes).collect() },
            Wish::Delete(ids) => Seen::Delete { ids },
            Wish::Read(_, Read::Get(ids)) => {
                let of = |id: &PointId| shown.iter().find(|point| point.id == *id).map(|point| point.write);
                Seen::Get { level, found: ids.into_iter().map(|id| (id.clone(), of(&id))).collect() }
            }
            Wish::Read(_, Read::Count) => Seen::Count { level, count: total },
            Wish::Read(_, Read::Scroll { .. }) => {
                Seen::Scroll { level, points: shown.into_iter().map(|point| (point.id, point.write)).collect() }
            }
            Wish::Read(_, Read::Search { query, k, exact, filter }) => {
                shown.sort_by(|a, b| metric.compare(a.score, b.score).then_with(|| a.id.cmp(&b.id)));
                shown.truncate(k);
                let hit = |point: Shown| FoundHit { id: point.id, score: point.score, write: point.write };
                Seen::Search(Search { level, query, k, filter, exact, hits: shown.into_iter().map(hit).collect() })
            }
        }
    }
}

impl Book {
    pub(crate) fn new(clients: usize) -> Self {
        Self { told: vec![Told::default(); clients], ..Self::default() }
    }

    fn next_write(&mut self) -> Write {
        self.last_write += 1;
        Write(self.last_write)
    }
}

/// Nodes that may be asked. One that joins has nothing yet.
fn candidates(shard: &Shard) -> Vec<NodeId> {
    let settled = shard.full_replicas().filter(|replica| replica.standing != Standing::Joining);
    settled.map(|replica| replica.node).collect()
}

impl Op {
    /// What a shard is asked.
    fn call(&self, shard: &Shard, ids: &[PointId], out: &Outside) -> Call {
        let is_eventual = self.fresh == Fresh::Eventual;
        let (operation, epoch, dim) = (self.operation, shard.epoch, out.shape.dim);
        let write = |upserts, deletes| Call::Write { shard: shard.id, epoch, operation, upserts, deletes };
        let read = |what| {
            let target = Asked {
                shard: shard.id,
                epoch,
                index: if is_eventual { LogIndex(0) } else { self.token.index_of(shard.id) },
                linearizable: self.fresh == Fresh::Linearizable,
                staleness_ms: if is_eventual { out.shape.staleness_ms } else { 0 },
            };
            Call::Read { target, what }
        };
        match &self.wish {
            Wish::Upsert(all) => {
                let own = all.iter().zip(&self.writes).filter(|(id, _)| ids.contains(id));
                write(own.map(|(id, w)| workload::point(id, *w, dim)).collect(), Vec::new())
            }
            Wish::Delete(_) => write(Vec::new(), ids.iter().map(convert::point_id_to_wire).collect()),
            Wish::Read(_, Read::Get(_)) => read(Read::Get(ids.to_vec())),
            Wish::Read(_, what) => read(what.clone()),
        }
    }
}
