//! Answering routers: writes, and reads as fresh as they ask. Mirrors `shoal_node`'s `service::ShardCalls::write_checked`,
//! `reads::open_view`, `replica::Replica::view_at` and `reads::Reads`.

use std::sync::Arc;

use rand::Rng;
use shoal_checker::history::Write;
use shoal_consensus::ConsensusError;
use shoal_index::packed;
use shoal_index::segment::Effort;
use shoal_index::set::{Look, Row, SetFilter, SetQuery};
use shoal_model::planted::{Bug, is_planted};
use shoal_model::{
    Condition, Epoch, Filter, Limits, LogIndex, OperationId, Payload, PointId, Predicate, Scalar, ShardId, Value,
};
use shoal_node::NodeError;
use shoal_node::simulation::{View, encode, group_of, read_point, read_state};
use shoal_proto::map::id_to_bytes;
use shoal_proto::{convert, v1};

use crate::event::{Answer, Asked, CallId, Failure, Outside, Own, Read, Shown};
use crate::network::Endpoint;
use crate::node::Node;
use crate::process::{Host, Waiting};
use crate::queue::{MS, Ns, SEC};
use crate::workload::query_vector;

/// How long a call waits for a shard that its router already knows of.
const READY_WITHIN: Ns = 2 * SEC;
/// How long a read waits for this replica to catch up.
const CATCH_UP_WITHIN: Ns = 500 * MS;
/// How long a read waits for the group to say how far it is.
const READ_INDEX_WITHIN: Ns = 2 * SEC;

/// A read on its way.
pub(crate) struct Reading {
    to: (Endpoint, CallId),
    target: Asked,
    what: Read,
    /// Position that must be applied.
    index: LogIndex,
    /// When the group was asked, if it was.
    asked_at: Option<Ns>,
    /// What the view had applied that this read was let through on.
    seen: LogIndex,
    stage: Stage,
    /// When that is over.
    until: Ns,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The map here is older than the router's.
    Parked,
    Asking,
    CatchingUp,
    Reading,
}

impl Node {
    /// Mirrors `ShardCalls::write_checked` and `Replica::write`.
    pub(crate) fn take_write(
        &mut self,
        to: (Endpoint, CallId),
        (shard, epoch): (ShardId, Epoch),
        operation: OperationId,
        (upserts, deletes): (Vec<v1::Point>, Vec<v1::PointId>),
        host: &mut Host,
        out: &mut Outside,
    ) {
        let refused = match self.at_epoch(shard, epoch) {
            Ok(true) => None,
            Ok(false) => Some(Failure::NotReady),
            Err(failure) => Some(failure),
        };
        if let Some(failure) = refused {
            return out.answer(host.number, to, Answer::Failed(failure));
        }
        let Some(replica) = self.replicas.get(&shard) else { return };
        out.truth.serves(shard, epoch, replica.epoch);
        let operation = id_to_bytes(operation.0);
        let entry = encode(&operation, upserts, deletes, &replica.spec, replica.range, &Limits::default());
        let Ok(entry) = entry else { return out.answer(host.number, to, Answer::Failed(Failure::StaleEpoch)) };
        if replica.view.sealed >= out.shape.deltas_waiting_max && !replica.jobs.cannot_build() {
            return out.answer(host.number, to, Answer::Failed(Failure::Overloaded));
        }
        let refused = match host.propose(group_of(shard), entry, Waiting::Write(to)) {
            Ok(request) if is_planted(Bug::AnswerWhenProposed) => {
                host.waiting.remove(&request);
                let last = host.core.as_ref().and_then(|core| core.status(group_of(shard))).map(|status| status.last);
                return out.answer(host.number, to, Answer::Written(last.unwrap_or_default()));
            }
            Ok(_) => return,
            Err((ConsensusError::NotLeader { leader, .. }, _)) => {
                let entry = self.map.shards.get(&shard).zip(leader);
                let leader = entry.and_then(|(shard, leader)| shard.replica(leader)).map(|replica| replica.node);
                Failure::NotLeader(leader)
            }
            Err((ConsensusError::Overloaded { .. }, _)) => Failure::Overloaded,
            Err(_) => Failure::NotReady,
        };
        out.answer(host.number, to, Answer::Failed(refused));
    }

    pub(crate) fn take_read(
        &mut self,
        to: (Endpoint, CallId),
        target: Asked,
        what: Read,
        host: &mut Host,
        out: &mut Outside,
    ) {
        let key = self.next_key();
        let reading = Reading {
            to,
            target,
            what,
            index: target.index,
            asked_at: None,
            seen: LogIndex(0),
            stage: Stage::Parked,
            until: out.now + READY_WITHIN,
        };
        self.reads.insert(key, reading);
        if self.open_view(key, host, out) {
            out.own(host.id(), READY_WITHIN, Own::ReadLate(key));
        }
    }

    /// Mirrors `reads::open_view` and the beginning of `Replica::view_at`. True if it stays parked.
    fn open_view(&mut self, key: u64, host: &mut Host, out: &mut Outside) -> bool {
        let Some(reading) = self.reads.get_mut(&key) else { return false };
        let target = reading.target;
        match self.at_epoch(target.shard, target.epoch) {
            Ok(false) => return true,
            Err(failure) => {
                self.read_fails(key, failure, host, out);
                return false;
            }
            Ok(true) => {}
        }
        let (Some(replica), Some(reading)) = (self.replicas.get(&target.shard), self.reads.get_mut(&key)) else {
            return false;
        };
        out.truth.serves(target.shard, target.epoch, replica.epoch);
        if is_planted(Bug::IgnoreSessionToken) {
            reading.index = LogIndex(0);
        }
        let most = Ns::from(target.staleness_ms) * MS;
        let is_fresh = replica.fresh_at.is_some_and(|at| out.now - at <= most);
        if !target.linearizable && (most == 0 || is_fresh) {
            self.view_from(key, host, out);
            return false;
        }
        reading.asked_at = Some(out.now);
        reading.stage = Stage::Asking;
        reading.until = out.now + READ_INDEX_WITHIN;
        match host.read_index(group_of(target.shard), Waiting::Read(key)) {
            Ok(()) => out.own(host.id(), READ_INDEX_WITHIN, Own::ReadLate(key)),
            Err(_) => self.read_fails(key, Failure::Lagging, host, out),
        }
        false
    }

    /// The group said how far it is.
    pub(crate) fn read_at(&mut self, key: u64, index: LogIndex, host: &mut Host, out: &mut Outside) {
        let Some(reading) = self.reads.get_mut(&key).filter(|reading| reading.stage == Stage::Asking) else { return };
        reading.index = reading.index.max(index);
        self.view_from(key, host, out);
    }

    /// Mirrors `Replica::view_from`.
    fn view_from(&mut self, key: u64, host: &mut Host, out: &mut Outside) {
        let Some(reading) = self.reads.get_mut(&key) else { return };
        let Some(replica) = self.replicas.get(&reading.target.shard) else {
            return self.read_fails(key, Failure::NotReady, host, out);
        };
        if !replica.mode.is_open() {
            return self.read_fails(key, Failure::Lagging, host, out);
        }
        if replica.view.applied >= reading.index {
            return self.look(key, host, out);
        }
        reading.stage = Stage::CatchingUp;
        reading.until = out.now + CATCH_UP_WITHIN;
        out.own(host.id(), CATCH_UP_WITHIN, Own::ReadLate(key));
    }

    /// A replica has applied more.
    pub(crate) fn look_at_waiting(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        let Some(applied) = self.replicas.get(&shard).map(|replica| replica.view.applied) else { return };
        let is_due = |reading: &Reading| {
            reading.target.shard == shard && reading.stage == Stage::CatchingUp && reading.index <= applied
        };
        let due: Vec<u64> = self.reads.iter().filter(|(_, reading)| is_due(reading)).map(|(key, _)| *key).collect();
        due.into_iter().for_each(|key| self.look(key, host, out));
    }

    /// The map here has moved on.
    pub(crate) fn look_at_parked(&mut self, host: &mut Host, out: &mut Outside) {
        let parked: Vec<u64> =
            self.reads.iter().filter(|(_, reading)| reading.stage == Stage::Parked).map(|(key, _)| *key).collect();
        for key in parked {
            let _ = self.open_view(key, host, out); // its alarm is set already
        }
    }

    /// It took too long; void if it has come further since, as each stage sets its own alarm.
    pub(crate) fn read_late(&mut self, key: u64, host: &mut Host, out: &mut Outside) {
        let due = self.reads.get(&key).filter(|reading| reading.until <= out.now);
        let failure = match due.map(|reading| reading.stage) {
            Some(Stage::Parked) => Failure::NotReady,
            Some(Stage::Asking | Stage::CatchingUp) => Failure::Lagging,
            _ => return,
        };
        self.read_fails(key, failure, host, out);
    }

    pub(crate) fn read_fails(&mut self, key: u64, failure: Failure, host: &Host, out: &mut Outside) {
        if let Some(reading) = self.reads.remove(&key) {
            out.answer(host.number, reading.to, Answer::Failed(failure));
        }
    }

    /// A view that is fresh enough is there: the end of `Replica::view_at`, and what is done with the view.
    fn look(&mut self, key: u64, host: &mut Host, out: &mut Outside) {
        let Some(reading) = self.reads.get_mut(&key) else { return };
        let Some(replica) = self.replicas.get_mut(&reading.target.shard) else { return };
        if let Some(asked_at) = reading.asked_at {
            replica.fresh_at = replica.fresh_at.max(Some(asked_at));
        }
        if let Read::Get(_) = reading.what {
            // Points come from the store, a moment later.
            reading.stage = Stage::Reading;
            reading.seen = replica.view.applied;
            let slow = out.rng.random_bool(0.15);
            let delay = out.short(if slow { 800 * MS } else { 2 * MS });
            out.own(host.id(), delay, Own::ReadPoints(key));
            return;
        }
        let view = replica.view.clone();
        let dim = replica.spec.dim;
        let Some(reading) = self.reads.remove(&key) else { return };
        let answer = self.answer_from(&view, &reading.what, dim);
        out.answer(host.number, reading.to, answer);
    }

    fn answer_from(&mut self, view: &View, what: &Read, dim: u32) -> Answer {
        let points = &view.points;
        let shown = |id: PointId, row: Row, score: f32| {
            let payload = packed::decode(points.payload(row).ok()?).ok()?;
            Some(Shown { id, write: write_of(&payload)?, score, vector: points.vector(row).ok()? })
        };
        let found = match what {
            Read::Get(_) => return Answer::Failed(Failure::Corrupt),
            Read::Count => {
                return Answer::Found { applied: view.applied, points: Vec::new(), count: points.len() as u64 };
            }
            Read::Scroll { after, limit } => {
                let page = points.scroll(after.as_ref(), *limit, None, &|| false).unwrap_or_default();
                page.into_iter().map(|(id, row)| shown(id, row, 0.0)).collect::<Option<Vec<_>>>()
            }
            Read::Search { query, k, exact, filter } => {
                let filter = filter.map(|kind| points.filter(&Arc::new(SetFilter::new(kind_is(kind)))));
                let query = SetQuery {
                    vector: &query_vector(*query, dim),
                    k: *k,
                    look: if *exact { Look::Exact } else { Look::Walk(Effort::Recall(0.9)) },
                    filter: filter.as_ref(),
                    score_limit: None,
                    stop: &|| false,
                };
                let hits = points.search(&mut self.scratch, &query).map(|(hits, _)| hits).unwrap_or_default();
                hits.into_iter().map(|hit| shown(hit.id, hit.row, hit.score)).collect()
            }
        };
        match found {
            Some(points) => Answer::Found { applied: view.applied, points, count: 0 },
            None => Answer::Failed(Failure::Corrupt),
        }
    }

    /// Mirrors `reads::Reads::get`, from where it reads the store.
    pub(crate) fn read_points(&mut self, key: u64, host: &mut Host, out: &mut Outside) {
        let Some(reading) = self.reads.remove(&key) else { return };
        let Read::Get(ids) = &reading.what else { return };
        let shard = reading.target.shard;
        let read = || {
            let point = |id| read_point(&*host.disk, shard, id, true, true);
            let points = ids.iter().filter_map(|id| point(id).transpose()).collect::<Result<Vec<_>, NodeError>>()?;
            Ok::<_, NodeError>((points, read_state(&*host.disk, shard)?.unwrap_or_default().applied))
        };
        let shown = |point: v1::Point| {
            let payload = convert::payload(point.payload).ok()?;
            let (id, vector) = (convert::point_id(point.id).ok()?, convert::vector(point.vector).ok()?);
            Some(Shown { id, write: write_of(&payload)?, score: 0.0, vector })
        };
        let answer = match read() {
            // The records went while they were read.
            Ok((_, applied)) if applied < reading.seen => Answer::Failed(Failure::Lagging),
            Ok((points, applied)) => match points.into_iter().map(shown).collect() {
                Some(points) => Answer::Found { applied, points, count: 0 },
                None => Answer::Failed(Failure::Corrupt),
            },
            Err(error) => {
                out.trace.tell(out.now, || format!("process {}: {error}", host.number));
                Answer::Failed(Failure::Corrupt)
            }
        };
        out.answer(host.number, reading.to, answer);
    }
}

/// The write that a payload comes from.
fn write_of(payload: &Payload) -> Option<Write> {
    match payload.get("w") {
        Some(Value::Integer(write)) => Some(Write(u64::try_from(*write).ok()?)),
        _ => None,
    }
}

fn kind_is(kind: u64) -> Filter {
    let predicate = Predicate::Match(Scalar::Integer(i64::try_from(kind).unwrap_or(i64::MAX)));
    Filter { must: vec![Condition::Field { key: "kind".to_owned(), predicate }], ..Filter::default() }
}
