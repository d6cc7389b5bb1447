//! The disk port in memory, with crashes: what was not synced is lost.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::{Batch, Store, StoreError, Table, Visit, Write};

type Tables = BTreeMap<(Table, Bytes), Bytes>;

/// A [`Store`] for tests and simulation.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    now: Tables,
    durable: Tables,
    unsynced: Vec<Batch>,
    is_checkpoint: bool,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses power: of the batches written since the last sync only the first `kept` survive.
    pub fn crash(&self, kept: usize) {
        let mut state = self.state();
        let unsynced = std::mem::take(&mut state.unsynced);
        for batch in unsynced.into_iter().take(kept) {
            apply(&mut state.durable, batch);
        }
        state.now = state.durable.clone();
    }

    /// How many batches a crash could lose.
    #[must_use]
    pub fn unsynced_batches(&self) -> usize {
        self.state().unsynced.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below is finished before anything could panic, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn apply(tables: &mut Tables, batch: Batch) {
    for write in batch.writes {
        match write {
            Write::Put { table, key, value } => drop(tables.insert((table, key), value)),
            Write::Delete { table, key } => drop(tables.remove(&(table, key))),
            Write::DeleteRange { table, from, to } => {
                tables.retain(|(t, key), _| *t != table || *key < from || *key >= to);
            }
        }
    }
}

impl Store for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.state().now.get(&(table, Bytes::copy_from_slice(key))).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let bounds = (
            Bound::Included((table, Bytes::copy_from_slice(from))),
            Bound::Excluded((table, Bytes::copy_from_slice(to))),
        );
        // Copied out first: `visit` may use the store.
        let pairs: Vec<_> = self.state().now.range(bounds).map(|((_, k), v)| (k.clone(), v.clone())).collect();
        for (key, value) in pairs {
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.is_checkpoint {
            return Err(StoreError::ReadOnly);
        }
        apply(&mut state.now, batch.clone());
        state.unsynced.push(batch);
        Ok(())
    }

    fn checkpoint(&self) -> Result<Arc<dyn Store>, StoreError> {
        let now = self.state().now.clone();
        let state = State { durable: now.clone(), now, unsynced: Vec::new(), is_checkpoint: true };
        Ok(Arc::new(Self { state: Mutex::new(state) }))
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        for batch in std::mem::take(&mut state.unsynced) {
            apply(&mut state.durable, batch);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_contract_of_stores() {
        crate::store_contract::check(&MemoryStore::new());
    }

    #[test]
    fn a_crash_loses_what_was_not_synced() {
        let store = MemoryStore::new();
        let put = |key: &'static str| {
            let mut batch = Batch::default();
            batch.put(Table::Meta, key, "x");
            store.write(batch).expect("memory does not fail");
        };
        let has = |key: &str| store.get(Table::Meta, key.as_bytes()).expect("memory does not fail").is_some();
        put("a");
        store.sync().expect("memory does not fail");
        put("b");
        put("c");
        store.crash(1);
        assert_eq!((has("a"), has("b"), has("c")), (true, true, false));
    }
}
