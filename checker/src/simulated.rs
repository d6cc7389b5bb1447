//! A cluster that keeps its promises, for tests: every write takes effect at one moment, every read shows a state
//! that its level allows. And ways to break one promise of a history that it made.

use std::collections::{BTreeMap, HashMap};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use shoal_model::{Metric, PointId};

use crate::history::{Call, ClientId, FOREVER, FoundHit, Level, OpNumber, Operation, Outcome, Search, Write};

/// How large a history becomes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) clients: u64,
    pub(crate) operations: u64,
    pub(crate) keys: u64,
    /// Share of operations whose outcome is lost.
    pub(crate) unknown: f64,
    /// Whether clients also scroll, count and search.
    pub(crate) sweeps: bool,
}

/// Points of one shard, as the tokens of the cluster see it.
pub(crate) fn shard_of(id: &PointId) -> u64 {
    id.hash() % 2
}

/// Few different scores, so that ties are common.
#[allow(clippy::cast_precision_loss, reason = "small numbers")]
pub(crate) fn score(query: u64, id: &PointId, write: Write) -> f32 {
    (query.wrapping_mul(31).wrapping_add(id.hash()).wrapping_add(write.0.wrapping_mul(0x9e37_79b9)) >> 7) as u8 as f32
        / 32.0
}

/// Filters pass one write in three.
pub(crate) fn passes(filter: u64, _: &PointId, write: Write) -> bool {
    write.0 % 3 == filter % 3
}

/// What [`score`] is.
pub(crate) const METRIC: Metric = Metric::Euclidean;

/// Makes the history of a run; the seed decides everything.
pub(crate) fn run(shape: Shape, seed: u64) -> Vec<Operation> {
    let mut cluster = Cluster::new(shape, seed);
    let mut operations = cluster.plan();
    operations.push(final_scroll(&operations, shape));
    for operation in &operations {
        cluster.apply(operation);
    }
    cluster.effects.values_mut().for_each(|effects| effects.sort_unstable());
    operations.iter_mut().for_each(|operation| cluster.answer(operation));
    operations
}

fn final_scroll(operations: &[Operation], shape: Shape) -> Operation {
    let end = operations.iter().filter_map(|operation| operation.return_ns).max().unwrap_or(0);
    Operation {
        number: OpNumber(operations.len() as u64),
        client: ClientId(shape.clients),
        invoke_ns: end + 1,
        return_ns: Some(end + 10),
        outcome: Outcome::Ok,
        call: Call::Scroll { level: Level::Linearizable, points: Vec::new() },
    }
}

struct Cluster {
    shape: Shape,
    rng: SmallRng,
    /// Of each point: moments at which it changed, with what it became. Ties go by operation.
    effects: BTreeMap<u64, Vec<(u64, OpNumber, Option<Write>)>>,
    /// The moment that each operation wrote or showed, by shard.
    moments: HashMap<(OpNumber, u64), u64>,
    /// The latest of those of each client's completed operations.
    seen: HashMap<(ClientId, u64), u64>,
}

impl Cluster {
    fn new(shape: Shape, seed: u64) -> Self {
        let rng = SmallRng::seed_from_u64(seed);
        Self { shape, rng, effects: BTreeMap::new(), moments: HashMap::new(), seen: HashMap::new() }
    }

    /// Who calls what and when: each client one call after the other.
    fn plan(&mut self) -> Vec<Operation> {
        let mut clocks = vec![0_u64; usize::try_from(self.shape.clients).expect("a small number")];
        let mut operations: Vec<Operation> = Vec::new();
        for number in 0..self.shape.operations {
            // The client that is free first calls next, so numbers grow with time.
            let client = (0..clocks.len()).min_by_key(|client| clocks[*client]).expect("a client");
            let invoke_ns = clocks[client] + self.rng.random_range(0..4);
            let return_ns = invoke_ns + self.rng.random_range(0..40);
            clocks[client] = return_ns + self.rng.random_range(0..8);
            let (client, number) = (ClientId(client as u64), OpNumber(number));
            let call = self.call(client, number, invoke_ns, &operations);
            let outcome = match self.rng.random::<f64>() {
                share if share < self.shape.unknown => Outcome::Unknown,
                share if share < self.shape.unknown + 0.03 => Outcome::Failed,
                _ => Outcome::Ok,
            };
            operations.push(Operation { number, client, invoke_ns, return_ns: Some(return_ns), outcome, call });
        }
        operations
    }

    fn call(&mut self, client: ClientId, number: OpNumber, invoke_ns: u64, earlier: &[Operation]) -> Call {
        let ids = self.ids();
        let write = |i: usize| Write(number.0 * 10 + i as u64);
        match self.rng.random_range(0..if self.shape.sweeps { 20 } else { 16 }) {
            0..6 => Call::Upsert { points: ids.into_iter().enumerate().map(|(i, id)| (id, write(i))).collect() },
            6..9 => Call::Delete { ids },
            9..16 => Call::Get {
                level: self.level(client, invoke_ns, earlier),
                found: ids.into_iter().map(|id| (id, None)).collect(),
            },
            16 => Call::Count { level: self.level(client, invoke_ns, earlier), count: 0 },
            17 => Call::Scroll { level: self.level(client, invoke_ns, earlier), points: Vec::new() },
            _ => Call::Search(Search {
                level: self.level(client, invoke_ns, earlier),
                query: self.rng.random_range(0..4),
                k: self.rng.random_range(1..4),
                filter: self.rng.random_bool(0.3).then_some(number.0),
                exact: self.rng.random_bool(0.7),
                hits: Vec::new(),
            }),
        }
    }

    fn ids(&mut self) -> Vec<PointId> {
        let first = self.rng.random_range(0..self.shape.keys);
        let more = self.rng.random_range(0..6_u64).saturating_sub(4);
        (first..=first + more)
            .map(|key| PointId::Number(key % self.shape.keys))
            .take(self.shape.keys as usize)
            .collect()
    }

    fn level(&mut self, client: ClientId, invoke_ns: u64, earlier: &[Operation]) -> Level {
        match self.rng.random_range(0..6) {
            0..3 => Level::Linearizable,
            3 => Level::Eventual { staleness_ns: self.rng.random_range(0..150) },
            _ => {
                let is_done = |op: &&Operation| op.is_ok() && op.end_ns() <= invoke_ns && op.client != client;
                let done: Vec<&Operation> = earlier.iter().rev().take(20).filter(is_done).collect();
                let own = self.rng.random_bool(0.7);
                let others = self.rng.random_range(0..3);
                let after = done.choose_multiple(&mut self.rng, others).map(|operation| operation.number).collect();
                Level::Session { own, after }
            }
        }
    }

    /// Lets a write take effect: in time, late or never.
    fn apply(&mut self, operation: &Operation) {
        let written: Vec<(PointId, Option<Write>)> = match &operation.call {
            Call::Upsert { points } => points.iter().map(|(id, write)| (id.clone(), Some(*write))).collect(),
            Call::Delete { ids } => ids.iter().map(|id| (id.clone(), None)).collect(),
            _ => return,
        };
        for (id, write) in written {
            let at = match operation.outcome {
                Outcome::Failed => continue,
                Outcome::Unknown if self.rng.random_bool(0.4) => continue,
                Outcome::Unknown => operation.invoke_ns + self.rng.random_range(0..400),
                Outcome::Ok => self.rng.random_range(operation.invoke_ns..=operation.end_ns()),
            };
            self.effects.entry(number(&id)).or_default().push((at, operation.number, write));
            if operation.is_ok() {
                let moment = self.moments.entry((operation.number, shard_of(&id))).or_default();
                *moment = at.max(*moment);
            }
        }
    }

    /// Fills in what a read shows, shard by shard at a moment that its level allows.
    fn answer(&mut self, operation: &mut Operation) {
        if let (Some(level), true) = (operation.call.level().cloned(), operation.is_ok()) {
            for shard in self.shards(&operation.call) {
                let from = self.from(operation, &level, shard).min(operation.end_ns());
                // The oldest state that is allowed is the most telling one.
                let at =
                    if self.rng.random_bool(0.3) { from } else { self.rng.random_range(from..=operation.end_ns()) };
                self.moments.insert((operation.number, shard), at);
            }
            self.fill(operation);
        }
        for shard in 0..2 {
            if let Some(at) = self.moments.get(&(operation.number, shard)).filter(|_| operation.is_ok()) {
                let seen = self.seen.entry((operation.client, shard)).or_default();
                *seen = (*at).max(*seen);
            }
        }
    }

    fn shards(&self, call: &Call) -> Vec<u64> {
        match call {
            Call::Get { found, .. } => {
                (0..2).filter(|shard| found.iter().any(|(id, _)| shard_of(id) == *shard)).collect()
            }
            _ => vec![0, 1],
        }
    }

    fn from(&self, operation: &Operation, level: &Level, shard: u64) -> u64 {
        match level {
            Level::Linearizable => operation.invoke_ns,
            Level::Eventual { staleness_ns } => operation.invoke_ns.saturating_sub(*staleness_ns),
            Level::Session { own, after } => {
                let own = own.then(|| self.seen.get(&(operation.client, shard))).flatten().copied();
                let others = after.iter().filter_map(|number| self.moments.get(&(*number, shard)).copied());
                others.chain(own).max().unwrap_or(0)
            }
        }
    }

    fn fill(&mut self, operation: &mut Operation) {
        let number = operation.number;
        match &mut operation.call {
            Call::Get { found, .. } => found.iter_mut().for_each(|(id, write)| *write = self.shows(number, id)),
            Call::Count { count, .. } => *count = self.state(number).len() as u64,
            Call::Scroll { points, .. } => *points = self.state(number),
            Call::Search(search) => self.search(search, &self.state(number)),
            Call::Upsert { .. } | Call::Delete { .. } => {}
        }
    }

    fn state(&self, operation: OpNumber) -> Vec<(PointId, Write)> {
        let ids = (0..self.shape.keys).map(PointId::Number);
        ids.filter_map(|id| Some((id.clone(), self.shows(operation, &id)?))).collect()
    }

    fn shows(&self, operation: OpNumber, id: &PointId) -> Option<Write> {
        let at = *self.moments.get(&(operation, shard_of(id)))?;
        let effects = self.effects.get(&number(id))?;
        effects.iter().rev().find(|(effect, ..)| *effect <= at)?.2
    }

    fn search(&mut self, search: &mut Search, state: &[(PointId, Write)]) {
        let kept = state.iter().filter(|(id, write)| search.filter.is_none_or(|filter| passes(filter, id, *write)));
        let mut hits: Vec<FoundHit> = kept
            .map(|(id, write)| FoundHit { id: id.clone(), score: score(search.query, id, *write), write: *write })
            .collect();
        hits.retain(|_| search.exact || self.rng.random_bool(0.7));
        hits.sort_by(|a, b| METRIC.compare(a.score, b.score).then_with(|| a.id.cmp(&b.id)));
        hits.truncate(search.k);
        search.hits = hits;
    }
}

fn number(id: &PointId) -> u64 {
    match id {
        PointId::Number(number) => *number,
        _ => FOREVER,
    }
}

/// A promise to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    /// A linearizable read shows a value that was certainly replaced before.
    StaleRead,
    /// A session read overlooks a write of its own client.
    OverlookedOwnWrite,
    /// The final scroll lacks a point that is certainly there.
    LostWrite,
    /// The final scroll shows a point that is certainly deleted.
    Resurrected,
    /// A read shows a value that nobody wrote.
    Phantom,
    /// A read shows a value before its write is invoked.
    FromTheFuture,
}

/// Breaks the promise somewhere, if the history has a place for it.
pub(crate) fn plant(operations: &mut [Operation], what: Plant, seed: u64) -> Option<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let is_scroll = matches!(what, Plant::LostWrite | Plant::Resurrected);
    let mut places: Vec<(usize, PointId, Option<Write>)> = Vec::new();
    for (place, operation) in operations.iter().enumerate() {
        match &operation.call {
            _ if !operation.is_ok() => {}
            Call::Get { found, .. } if !is_scroll => {
                let wrong = found.iter().flat_map(|(id, _)| wrong_values(operations, operation, id, what));
                places.extend(wrong.map(|(id, write)| (place, id, write)));
            }
            Call::Scroll { .. } if is_scroll && place + 1 == operations.len() => {
                let ids = (0..16).map(PointId::Number);
                let wrong = ids.flat_map(|id| wrong_values(operations, operation, &id, what));
                places.extend(wrong.map(|(id, write)| (place, id, write)));
            }
            _ => {}
        }
    }
    let (place, id, write) = places.choose(&mut rng)?.clone();
    match &mut operations[place].call {
        Call::Get { found, .. } => found.iter_mut().filter(|(found, _)| *found == id).for_each(|(_, old)| *old = write),
        Call::Scroll { points, .. } => {
            points.retain(|(found, _)| *found != id);
            points.extend(write.map(|write| (id, write)));
        }
        _ => {}
    }
    Some(())
}

/// Values that the read cannot show for the id, by rules as simple as can be: pairs of operations and their times.
fn wrong_values(
    operations: &[Operation],
    read: &Operation,
    id: &PointId,
    what: Plant,
) -> Vec<(PointId, Option<Write>)> {
    let all = mutations(operations, id);
    let known = |(operation, _): &&(&Operation, Option<Write>)| operation.is_ok();
    let before = |a: &Operation, b: &Operation| a.end_ns() < b.invoke_ns;
    let is_strict = read.call.level() == Some(&Level::Linearizable);
    let values: Vec<Option<Write>> = match what {
        Plant::Phantom => vec![Some(Write(FOREVER - 1))],
        Plant::FromTheFuture => {
            all.iter().filter(|(op, write)| write.is_some() && read.end_ns() < op.invoke_ns).map(|(_, w)| *w).collect()
        }
        Plant::StaleRead | Plant::OverlookedOwnWrite => {
            let counts = |x: &Operation| match what {
                Plant::StaleRead => is_strict && before(x, read),
                _ => {
                    let own = matches!(read.call.level(), Some(Level::Session { own: true, .. }));
                    own && x.client == read.client && x.number < read.number
                }
            };
            let replaced = |a: &Operation| all.iter().filter(known).any(|(x, _)| before(a, x) && counts(x));
            all.iter().filter(known).filter(|(a, write)| write.is_some() && replaced(a)).map(|(_, w)| *w).collect()
        }
        Plant::LostWrite => {
            let mut writes = all.iter().filter(known).filter(|(op, write)| write.is_some() && before(op, read));
            let deletes: Vec<_> = all.iter().filter(|(_, write)| write.is_none()).collect();
            let is_there = writes.any(|(w, _)| deletes.iter().all(|(delete, _)| before(delete, w)));
            if is_there { vec![None] } else { vec![] }
        }
        Plant::Resurrected => {
            let mut deletes = all.iter().filter(known).filter(|(op, write)| write.is_none() && before(op, read));
            let writes: Vec<_> = all.iter().filter(|(_, write)| write.is_some()).collect();
            let is_gone = deletes.any(|(delete, _)| writes.iter().all(|(write, _)| before(write, delete)));
            if is_gone { writes.iter().map(|(_, write)| *write).collect() } else { vec![] }
        }
    };
    values.into_iter().map(|write| (id.clone(), write)).collect()
}

fn mutations<'a>(operations: &'a [Operation], id: &PointId) -> Vec<(&'a Operation, Option<Write>)> {
    let of = |operation: &'a Operation| match &operation.call {
        _ if operation.outcome == Outcome::Failed => None,
        Call::Upsert { points } => points.iter().find(|(other, _)| other == id).map(|(_, w)| (operation, Some(*w))),
        Call::Delete { ids } => ids.contains(id).then_some((operation, None)),
        _ => None,
    };
    operations.iter().filter_map(of).collect()
}
