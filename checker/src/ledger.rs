//! A history sorted by point: the form that every checker works on.
//!
//! Linearizability is local (Herlihy and Wing, 1990): a history is linearizable when the part of it that concerns
//! each object is. Each point id is an object here, so every checker looks at one id after the other.

use std::collections::{HashMap, HashSet};

use shoal_model::PointId;

use crate::history::{Call, HistoryError, Level, OpNumber, Operation, Write};
use crate::session::Sessions;

/// Number of a point id within a ledger, in the order of first mention.
pub(crate) type Key = usize;

/// Place of an operation within a ledger.
pub(crate) type Place = usize;

/// What an operation did to a point, or saw of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Touch {
    pub(crate) place: Place,
    pub(crate) what: What,
}

/// `None` stands for a point that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Wrote(Option<Write>),
    Saw(Option<Write>),
}

/// A history that keeps the rules, sorted by point id.
#[derive(Debug)]
pub struct Ledger {
    pub(crate) operations: Vec<Operation>,
    pub(crate) ids: Vec<PointId>,
    pub(crate) keys: HashMap<PointId, Key>,
    /// Of each key, in the order of operations. Failed writes are in it, failed reads are not. A scroll that does
    /// not show a point saw that it is not there, and is not in it.
    pub(crate) touches: Vec<Vec<Touch>>,
    /// Scrolls that were answered.
    pub(crate) scrolls: Vec<Place>,
    pub(crate) sessions: Sessions,
}

impl Ledger {
    /// Sorts a history. Errors: what breaks the rules in the header of [`crate::history`].
    ///
    /// The token of a write also orders later reads of other points of its shard: `shard_of` tells which shard that
    /// is, if it stays the same for the whole history. Else give `None`, and each point is judged alone.
    pub fn new(operations: Vec<Operation>, shard_of: Option<&dyn Fn(&PointId) -> u64>) -> Result<Self, HistoryError> {
        check(&operations)?;
        let mut keys: HashMap<&PointId, Key> = HashMap::new();
        let mut touches: Vec<Vec<Touch>> = Vec::new();
        for (place, operation) in operations.iter().enumerate() {
            for (id, what) in touched(operation) {
                let key = *keys.entry(id).or_insert_with(|| {
                    touches.push(Vec::new());
                    touches.len() - 1
                });
                let is_repeated = is_sweep(&operation.call) && touches[key].last().is_some_and(|t| t.place == place);
                // A sweep that shows an id twice is reported as such, and is no two reads.
                if !is_repeated {
                    touches[key].push(Touch { place, what });
                }
            }
        }
        let mut ids = vec![PointId::Number(0); keys.len()];
        keys.iter().for_each(|(id, key)| ids[*key] = (*id).clone());
        let keys = ids.iter().cloned().zip(0..).collect();
        check_writes(&operations, &ids, &touches)?;
        let is_scroll = |operation: &Operation| operation.is_ok() && matches!(operation.call, Call::Scroll { .. });
        let scrolls = (0..operations.len()).filter(|place| is_scroll(&operations[*place])).collect();
        let shards = ids.iter().enumerate().map(|(key, id)| shard_of.map_or(key as u64, |shard_of| shard_of(id)));
        let sessions = Sessions::new(&operations, &touches, shards.collect());
        Ok(Self { operations, ids, keys, touches, scrolls, sessions })
    }

    /// What `place` did to `key` or saw of it, scrolls that did not show it left out.
    pub(crate) fn touches_of(&self, key: Key, place: Place) -> &[Touch] {
        touches_of(&self.touches[key], place)
    }

    /// Scrolls that did not show `key`.
    pub(crate) fn scrolls_without(&self, key: Key) -> impl Iterator<Item = Place> {
        self.scrolls.iter().copied().filter(move |place| self.touches_of(key, *place).is_empty())
    }
}

/// The part of one key's touches that belongs to one operation.
pub(crate) fn touches_of(touches: &[Touch], place: Place) -> &[Touch] {
    let first = touches.partition_point(|touch| touch.place < place);
    let len = touches[first..].partition_point(|touch| touch.place == place);
    &touches[first..first + len]
}

/// Whether the call goes to every shard.
pub(crate) fn is_sweep(call: &Call) -> bool {
    matches!(call, Call::Scroll { .. } | Call::Search(_) | Call::Count { .. })
}

/// Ids with what the operation did or saw; nothing for reads that were not answered.
fn touched(operation: &Operation) -> Vec<(&PointId, What)> {
    match &operation.call {
        Call::Upsert { points } => points.iter().map(|(id, w)| (id, What::Wrote(Some(*w)))).collect(),
        Call::Delete { ids } => ids.iter().map(|id| (id, What::Wrote(None))).collect(),
        _ if !operation.is_ok() => Vec::new(),
        Call::Get { found, .. } => found.iter().map(|(id, write)| (id, What::Saw(*write))).collect(),
        Call::Scroll { points, .. } => points.iter().map(|(id, w)| (id, What::Saw(Some(*w)))).collect(),
        Call::Search(search) => search.hits.iter().map(|hit| (&hit.id, What::Saw(Some(hit.write)))).collect(),
        Call::Count { .. } => Vec::new(),
    }
}

/// Times, numbers and tokens.
fn check(operations: &[Operation]) -> Result<(), HistoryError> {
    let mut numbers: HashMap<OpNumber, &Operation> = HashMap::with_capacity(operations.len());
    for operation in operations {
        let refuse = |problem: &str| Err(HistoryError::new(operation.number, problem));
        if operation.return_ns.is_some_and(|at| at < operation.invoke_ns) {
            return refuse("returns before it is invoked");
        }
        if operation.is_ok() && operation.return_ns.is_none() {
            return refuse("is acknowledged and has no return time");
        }
        if numbers.insert(operation.number, operation).is_some() {
            return refuse("another operation has the same number");
        }
    }
    operations.iter().try_for_each(|operation| check_token(operation, &numbers))
}

fn check_token(operation: &Operation, numbers: &HashMap<OpNumber, &Operation>) -> Result<(), HistoryError> {
    let Some(Level::Session { after, .. }) = operation.call.level() else { return Ok(()) };
    for number in after {
        let covered = numbers.get(number).filter(|covered| {
            covered.is_ok() && covered.end_ns() <= operation.invoke_ns && covered.number < operation.number
        });
        if covered.is_none() {
            let problem = format!("its token covers operation {number}, which had not completed before");
            return Err(HistoryError::new(operation.number, problem));
        }
    }
    Ok(())
}

/// Each value of a key is written once, and each batch names an id once.
fn check_writes(operations: &[Operation], ids: &[PointId], touches: &[Vec<Touch>]) -> Result<(), HistoryError> {
    for (id, touches) in ids.iter().zip(touches) {
        let mut writes = HashSet::new();
        let mut previous = None;
        for touch in touches {
            let What::Wrote(wrote) = touch.what else { continue };
            let refuse = |problem: String| Err(HistoryError::new(operations[touch.place].number, problem));
            if previous == Some(touch.place) {
                return refuse(format!("names point {id} twice"));
            }
            previous = Some(touch.place);
            if let Some(write) = wrote.filter(|write| !writes.insert(*write)) {
                return refuse(format!("writes {write} to point {id}, as another operation does"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
