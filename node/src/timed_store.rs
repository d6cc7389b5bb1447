//! The store as the log of all groups writes to it: how long each sync takes is told as a metric.
//!
//! A sync is what every write waits for, and how many writes share one decides how fast a node takes them.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use shoal_runtime::{Batch, Space, Store, StoreError, Table, Verified, Visit};

use crate::metrics::Metrics;

/// A store whose syncs are timed.
pub(crate) struct TimedStore {
    store: Arc<dyn Store>,
    metrics: Metrics,
}

impl TimedStore {
    /// The same store.
    pub(crate) fn new(store: Arc<dyn Store>, metrics: Metrics) -> Self {
        Self { store, metrics }
    }
}

impl Store for TimedStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.store.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.store.scan(table, from, to, visit)
    }

    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        self.store.write(batch)
    }

    fn sync(&self) -> Result<(), StoreError> {
        let began = Instant::now();
        self.store.sync()?;
        self.metrics.synced(began.elapsed());
        Ok(())
    }

    fn checkpoint(&self) -> Result<Arc<dyn Store>, StoreError> {
        self.store.checkpoint()
    }

    fn verify(&self, went: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Verified, StoreError> {
        self.store.verify(went)
    }

    fn give_back(&self, table: Table, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        self.store.give_back(table, from, to)
    }

    fn disk_bytes(&self) -> u64 {
        self.store.disk_bytes()
    }

    fn space(&self) -> Result<Option<Space>, StoreError> {
        self.store.space()
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use shoal_runtime::MemoryStore;

    use super::*;

    #[test]
    fn keeps_the_contract_of_stores() {
        let metrics = Metrics::register(&mut Registry::default());
        shoal_runtime::store_contract::check(&TimedStore::new(Arc::new(MemoryStore::new()), metrics));
    }
}
