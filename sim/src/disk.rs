//! A disk that can lose power: of what was written since the last sync only a prefix survives, each batch whole, as the
//! store port promises. A sync covers what was written before it began, and no more. Damage flips a byte of a record,
//! durable or not, and nobody is told.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use shoal_runtime::{Batch, Store, StoreError, Table, Visit, Write};

type Tables = BTreeMap<(Table, Bytes), Bytes>;

/// A disk.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Shared with checkpoints until the next write.
    now: Arc<Tables>,
    durable: Tables,
    unsynced: Vec<Batch>,
    /// Batches that were ever durable.
    synced: u64,
    is_checkpoint: bool,
}

impl Disk {
    /// How many batches were ever written: what a sync that begins now will cover.
    pub(crate) fn mark(&self) -> u64 {
        let state = self.state();
        state.synced + state.unsynced.len() as u64
    }

    /// A sync that began at a mark has ended.
    pub(crate) fn sync_through(&self, mark: u64) {
        let mut state = self.state();
        let count = usize::try_from(mark.saturating_sub(state.synced)).unwrap_or(0).min(state.unsynced.len());
        let batches: Vec<Batch> = state.unsynced.drain(..count).collect();
        state.synced += count as u64;
        batches.into_iter().for_each(|batch| apply(&mut state.durable, batch));
    }

    /// Batches that a power cut may lose.
    pub(crate) fn unsynced(&self) -> usize {
        self.state().unsynced.len()
    }

    /// Loses power: of the batches written since the last sync only the first `kept` survive.
    pub(crate) fn crash(&self, kept: usize) {
        let mut state = self.state();
        let unsynced = std::mem::take(&mut state.unsynced);
        state.synced += kept.min(unsynced.len()) as u64;
        for batch in unsynced.into_iter().take(kept) {
            apply(&mut state.durable, batch);
        }
        state.now = Arc::new(state.durable.clone());
    }

    /// Flips a bit of a record, now and for ever. False if there is no such record, or if it is not all durable.
    pub(crate) fn damage(&self, table: Table, key: &Bytes, byte: usize, bit: u32) -> bool {
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

    /// Keys of a table within bounds.
    pub(crate) fn keys(&self, table: Table, from: &Bytes, to: &Bytes) -> Vec<Bytes> {
        let state = self.state();
        let range = (Bound::Included((table, from.clone())), Bound::Excluded((table, to.clone())));
        state.now.range(range).map(|((_, key), _)| key.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn apply(tables: &mut Tables, batch: Batch) {
    for write in batch.writes {
        match write {
            Write::Put { table, key, value } => drop(tables.insert((table, key), value)),
            Write::Delete { table, key } => drop(tables.remove(&(table, key))),
            Write::DeleteRange { table, from, to } => {
                if from < to {
                    let range = (Bound::Included((table, from)), Bound::Excluded((table, to)));
                    let keys: Vec<_> = tables.range(range).map(|(key, _)| key.clone()).collect();
                    keys.iter().for_each(|key| drop(tables.remove(key)));
                }
            }
        }
    }
}

impl Store for Disk {
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
        // Shared, as `visit` may use the store.
        let now = Arc::clone(&self.state().now);
        for ((_, key), value) in now.range(bounds) {
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
        if batch.is_empty() {
            return Ok(());
        }
        apply(Arc::make_mut(&mut state.now), batch.clone());
        state.unsynced.push(batch);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.sync_through(u64::MAX);
        Ok(())
    }

    fn checkpoint(&self) -> Result<Arc<dyn Store>, StoreError> {
        let state = State { now: Arc::clone(&self.state().now), is_checkpoint: true, ..State::default() };
        Ok(Arc::new(Self { state: Mutex::new(state) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_contract_of_stores() {
        shoal_runtime::store_contract::check(&Disk::default());
    }

    #[test]
    fn a_sync_covers_what_was_written_before_it_began() {
        let disk = Disk::default();
        let put = |key: &'static str| {
            let mut batch = Batch::default();
            batch.put(Table::Meta, key, "x");
            disk.write(batch).expect("it does not fail");
        };
        put("a");
        let mark = disk.mark();
        put("b");
        disk.sync_through(mark);
        disk.crash(0);
        let has = |key: &str| disk.get(Table::Meta, key.as_bytes()).expect("it does not fail").is_some();
        assert_eq!((has("a"), has("b")), (true, false));
    }
}
