//! How far back a read may look: what its level and its token promise.
//!
//! A replica shows the state at some position of its shard's log. That state was the current one from the moment at
//! which its last write was agreed on until the next one was, so a read of it takes effect at a moment as every
//! operation does; only, the moment may be before the invocation. That turns every level into an interval, and lets
//! one search judge all of them together:
//!
//! - *linearizable*: the moment is between invoke and return;
//! - *eventual*: between invoke less the bound, and return;
//! - *session*: not before the moment of anything the token covers, and before return. For operations on the same
//!   point that is an edge in the order. For others of the same shard it is a bound: the position is at least theirs,
//!   and what they wrote or saw was agreed on no earlier than they may look back themselves.
//!
//! This is sound: a moment exists whenever the system keeps its promise. It is stronger than judging each read alone,
//! since one order of the writes has to explain all reads.

use std::collections::{HashMap, HashSet};

use crate::history::{Call, ClientId, Level, OpNumber, Operation};
use crate::ledger::{Key, Place, Touch, is_sweep, touches_of};

/// How many reads without a token of one client its next session read is ordered after. Fewer edges find less, and
/// are never wrong.
const PASSED_OVER_MAX: usize = 8;

/// Tokens of a history, ready to be asked about.
#[derive(Debug)]
pub(crate) struct Sessions {
    shards: Vec<u64>,
    places: HashMap<OpNumber, Place>,
    clients: HashMap<ClientId, Client>,
}

/// What one client completed, in the order of completion.
#[derive(Debug, Default)]
struct Client {
    touches: HashMap<Key, Vec<Completed>>,
    scrolls: Vec<Completed>,
    /// With the latest moment up to which each shard had been seen by then.
    shards: HashMap<u64, Vec<(Completed, u64)>>,
    sweeps: Vec<(Completed, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Completed {
    return_ns: u64,
    number: OpNumber,
    place: Place,
}

impl Sessions {
    pub(crate) fn new(operations: &[Operation], touches: &[Vec<Touch>], shards: Vec<u64>) -> Self {
        let presents = |operation: &&Operation| matches!(operation.call.level(), Some(Level::Session { .. }));
        let mut sessions = Self { shards, places: HashMap::new(), clients: HashMap::new() };
        let with_session: Vec<&Operation> = operations.iter().filter(presents).collect();
        if with_session.is_empty() {
            return sessions;
        }
        sessions.places = operations.iter().enumerate().map(|(place, operation)| (operation.number, place)).collect();
        let mut needed: HashSet<ClientId> = with_session.iter().map(|operation| operation.client).collect();
        for operation in with_session {
            needed.extend(after(operation).iter().map(|number| operations[sessions.places[number]].client));
        }
        sessions.clients = needed.into_iter().map(|client| (client, Client::default())).collect();
        sessions.fill(operations, touches);
        sessions
    }

    fn fill(&mut self, operations: &[Operation], touches: &[Vec<Touch>]) {
        let mut keys: Vec<Vec<Key>> = vec![Vec::new(); operations.len()];
        for (key, touches) in touches.iter().enumerate() {
            touches.iter().for_each(|touch| keys[touch.place].push(key));
        }
        let done = |(place, operation): (Place, &Operation)| {
            operation.is_ok().then(|| Completed { return_ns: operation.end_ns(), number: operation.number, place })
        };
        let mut completed: Vec<Completed> = operations.iter().enumerate().filter_map(done).collect();
        completed.sort_unstable();
        for done in completed {
            let operation = &operations[done.place];
            if let Some(client) = self.clients.get_mut(&operation.client) {
                client.complete(operation, done, &keys[done.place], &self.shards);
            }
        }
    }

    /// The earliest moment at which the read at `place` can have taken effect on `key`.
    pub(crate) fn earliest_ns(&self, operations: &[Operation], key: Key, place: Place) -> u64 {
        let operation = &operations[place];
        let Some(Level::Session { own, after }) = operation.call.level() else { return looks_back_to(operation) };
        let shard = self.shards[key];
        let own_part = if *own { self.seen_by(operation, shard) } else { 0 };
        let covered = after.iter().map(|number| &operations[self.places[number]]);
        let of_shard = covered.filter(|covered| self.touches_shard(covered, shard));
        of_shard.map(|covered| self.covered_ns(covered, shard)).max().unwrap_or(0).max(own_part)
    }

    /// Operations on the same key, a missing point in a scroll included, that the read's token covers.
    ///
    /// The last of the client's own is enough, as it is itself ordered after the ones before: by time, or by its own
    /// token. A read that looked back without a token is not, so the ones before it count as well.
    pub(crate) fn covered(&self, operations: &[Operation], touches: &[Touch], key: Key, place: Place) -> Vec<Place> {
        let operation = &operations[place];
        let Some(Level::Session { own, after }) = operation.call.level() else { return Vec::new() };
        let mut covered: Vec<Place> = after.iter().map(|number| self.places[number]).collect();
        covered.retain(|place| {
            matches!(operations[*place].call, Call::Scroll { .. }) || !touches_of(touches, *place).is_empty()
        });
        if *own && let Some(client) = self.clients.get(&operation.client) {
            client.cover(operations, operation, key, &mut covered);
        }
        covered.sort_unstable();
        covered.dedup();
        covered
    }

    fn covered_ns(&self, covered: &Operation, shard: u64) -> u64 {
        match covered.call.level() {
            Some(Level::Session { own: true, .. }) => self.seen_by(covered, shard),
            _ => looks_back_to(covered),
        }
    }

    fn seen_by(&self, operation: &Operation, shard: u64) -> u64 {
        let Some(client) = self.clients.get(&operation.client) else { return 0 };
        let of_shard = client.shards.get(&shard).and_then(|seen| last_before(seen, operation));
        let of_all = last_before(&client.sweeps, operation);
        of_shard.max(of_all).unwrap_or(0)
    }

    fn touches_shard(&self, covered: &Operation, shard: u64) -> bool {
        let seen = self.clients.get(&covered.client).and_then(|client| client.shards.get(&shard));
        let place =
            |seen: &Vec<(Completed, u64)>| seen.binary_search_by_key(&at(covered), |(done, _)| done.at()).is_ok();
        is_sweep(&covered.call) || seen.is_some_and(place)
    }
}

impl Client {
    fn complete(&mut self, operation: &Operation, done: Completed, keys: &[Key], shards: &[u64]) {
        for key in keys {
            self.touches.entry(*key).or_default().push(done);
        }
        if matches!(operation.call, Call::Scroll { .. }) {
            self.scrolls.push(done);
        }
        let seen_ns = looks_back_to(operation);
        if is_sweep(&operation.call) {
            push_max(&mut self.sweeps, done, seen_ns);
            return;
        }
        for key in keys {
            push_max(self.shards.entry(shards[*key]).or_default(), done, seen_ns);
        }
    }

    fn cover(&self, operations: &[Operation], read: &Operation, key: Key, covered: &mut Vec<Place>) {
        let of_key = self.touches.get(&key).map_or(&[][..], Vec::as_slice);
        for list in [of_key, &self.scrolls] {
            let before = list.partition_point(|done| is_before(done, read));
            for done in list[..before].iter().rev().take(PASSED_OVER_MAX) {
                covered.push(done.place);
                if stands_for_earlier(&operations[done.place]) {
                    break;
                }
            }
        }
    }
}

/// Whether the order puts it after all that its client had completed before.
fn stands_for_earlier(operation: &Operation) -> bool {
    matches!(operation.call.level(), None | Some(Level::Linearizable | Level::Session { own: true, .. }))
}

/// The earliest moment at which an operation can have taken effect, as far as its level alone tells.
fn looks_back_to(operation: &Operation) -> u64 {
    match operation.call.level() {
        None | Some(Level::Linearizable) => operation.invoke_ns,
        Some(Level::Eventual { staleness_ns }) => operation.invoke_ns.saturating_sub(*staleness_ns),
        // What its token adds is in the client's own list already, or is passed over.
        Some(Level::Session { .. }) => 0,
    }
}

impl Completed {
    fn at(&self) -> (u64, OpNumber) {
        (self.return_ns, self.number)
    }
}

fn at(operation: &Operation) -> (u64, OpNumber) {
    (operation.end_ns(), operation.number)
}

/// Completed before the read was invoked. Within one nanosecond numbers tell, as they grow with invocation.
fn is_before(done: &Completed, read: &Operation) -> bool {
    done.at() < (read.invoke_ns, read.number)
}

fn last_before(seen: &[(Completed, u64)], read: &Operation) -> Option<u64> {
    let before = seen.partition_point(|(done, _)| is_before(done, read));
    seen[..before].last().map(|(_, seen_ns)| *seen_ns)
}

fn push_max(seen: &mut Vec<(Completed, u64)>, done: Completed, seen_ns: u64) {
    let so_far = seen.last().map_or(0, |(_, seen_ns)| *seen_ns);
    seen.push((done, so_far.max(seen_ns)));
}

fn after(operation: &Operation) -> &[OpNumber] {
    match operation.call.level() {
        Some(Level::Session { after, .. }) => after,
        _ => &[],
    }
}

#[cfg(test)]
mod tests;
