//! The disk port in memory, with crashes and damage: of what was not synced only a prefix survives, each batch whole, as the
//! port promises.

use std::collections::{BTreeMap, btree_map};
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
    /// Shared with checkpoints and scans until the next write.
    now: Arc<Tables>,
    durable: Tables,
    unsynced: Vec<Batch>,
    /// Batches that were ever durable.
    synced: u64,
    is_checkpoint: bool,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many batches were ever written: what a sync that begins now will cover.
    #[must_use]
    pub fn mark(&self) -> u64 {
        let state = self.state();
        state.synced + state.unsynced.len() as u64
    }

    /// A sync that began at a mark has ended: it covers what was written before, and no more.
    pub fn sync_through(&self, mark: u64) {
        let mut state = self.state();
        let count = usize::try_from(mark.saturating_sub(state.synced)).unwrap_or(usize::MAX);
        make_durable(&mut state, count);
    }

    /// Loses power: of the batches written since the last sync only the first `kept` survive.
    pub fn crash(&self, kept: usize) {
        let mut state = self.state();
        make_durable(&mut state, kept);
        state.unsynced.clear();
        state.now = Arc::new(state.durable.clone());
    }

    /// How many batches a crash could lose.
    #[must_use]
    pub fn unsynced_batches(&self) -> usize {
        self.state().unsynced.len()
    }

    /// Flips a bit of a record, now and for ever, and nobody is told. False if there is no such record, if it is empty, or
    /// if what is durable is another.
    pub fn damage(&self, table: Table, key: &Bytes, byte: usize, bit: u32) -> bool {
        let mut state = self.state();
        let place = (table, key.clone());
        let Some(value) = state.now.get(&place).filter(|value| !value.is_empty()).cloned() else { return false };
        if state.durable.get(&place) != Some(&value) {
            return false;
        }
        let mut bytes = value.to_vec();
        let at = byte % bytes.len();
        bytes[at] ^= 1 << (bit % 8);
        let bytes = Bytes::from(bytes);
        Arc::make_mut(&mut state.now).insert(place.clone(), bytes.clone());
        state.durable.insert(place, bytes);
        true
    }

    /// Keys of a table from one on, up to another.
    #[must_use]
    pub fn keys(&self, table: Table, from: &[u8], to: &[u8]) -> Vec<Bytes> {
        let now = Arc::clone(&self.state().now);
        let between = range(&now, table, Bytes::copy_from_slice(from), Bytes::copy_from_slice(to));
        between.map(|((_, key), _)| key.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below is finished before anything could panic, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first of the batches that are not, or all.
fn make_durable(state: &mut State, count: usize) {
    let count = count.min(state.unsynced.len());
    state.synced += count as u64;
    for batch in state.unsynced.drain(..count) {
        apply(&mut state.durable, batch);
    }
}

fn apply(tables: &mut Tables, batch: Batch) {
    for write in batch.writes {
        match write {
            Write::Put { table, key, value } => drop(tables.insert((table, key), value)),
            Write::Delete { table, key } => drop(tables.remove(&(table, key))),
            Write::DeleteRange { table, from, to } => {
                let keys: Vec<_> = range(tables, table, from, to).map(|(key, _)| key.clone()).collect();
                keys.iter().for_each(|key| drop(tables.remove(key)));
            }
        }
    }
}

fn range(tables: &Tables, table: Table, from: Bytes, to: Bytes) -> btree_map::Range<'_, (Table, Bytes), Bytes> {
    // One that ends before it begins is empty.
    let to = to.max(from.clone());
    tables.range((table, from)..(table, to))
}

impl Store for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.state().now.get(&(table, Bytes::copy_from_slice(key))).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        // Shared, as `visit` may use the store.
        let now = Arc::clone(&self.state().now);
        for ((_, key), value) in range(&now, table, Bytes::copy_from_slice(from), Bytes::copy_from_slice(to)) {
            if visit(key, value).is_break() {
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
        if !batch.is_empty() {
            apply(Arc::make_mut(&mut state.now), batch.clone());
            state.unsynced.push(batch);
        }
        Ok(())
    }

    fn checkpoint(&self) -> Result<Arc<dyn Store>, StoreError> {
        let state = State { now: Arc::clone(&self.state().now), is_checkpoint: true, ..State::default() };
        Ok(Arc::new(Self { state: Mutex::new(state) }))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.sync_through(u64::MAX);
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
        let mark = store.mark();
        put("d");
        store.sync_through(mark);
        store.crash(0);
        assert!(!has("d"), "a sync covers what was written before it began");
    }

    #[test]
    fn damage_stays() {
        let store = MemoryStore::new();
        let mut batch = Batch::default();
        batch.put(Table::Meta, "key", "x");
        store.write(batch).expect("memory does not fail");
        let key = Bytes::from("key");
        assert!(!store.damage(Table::Meta, &key, 0, 0), "it is not durable yet");
        store.sync().expect("memory does not fail");
        assert!(store.damage(Table::Meta, &key, 0, 0));
        store.crash(0);
        assert_eq!(store.get(Table::Meta, b"key").expect("memory does not fail").as_deref(), Some(&b"y"[..]));
        assert_eq!(store.keys(Table::Meta, b"a", b"z"), [key]);
    }
}
