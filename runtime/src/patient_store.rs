//! A store that waits while its disk is full.
//!
//! A write that finds no room has changed nothing, so it can be made again. Nobody above could do better: a Raft group may not
//! go on without what it has to write, and a state machine not without what it has applied. So it waits, and nothing is
//! acknowledged meanwhile. What waits says so: the disk counts as without room, also where the system tells otherwise, as
//! with quotas.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_util::sync::CancellationToken;

use crate::store::Visit;
use crate::{Batch, Space, Store, StoreError, Table, Verified};

/// How long a write rests before it is tried again.
const REST: Duration = Duration::from_millis(200);

/// A [`Store`] whose writes and syncs block while there is no room.
pub struct PatientStore {
    store: Arc<dyn Store>,
    /// Ends the patience.
    stop: CancellationToken,
    waiting: AtomicUsize,
}

impl PatientStore {
    /// Waits for `store` until `stop`; after that what finds no room fails.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, stop: CancellationToken) -> Self {
        Self { store, stop, waiting: AtomicUsize::new(0) }
    }

    fn until_there_is_room<T>(&self, mut work: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut done = work();
        if !matches!(done, Err(StoreError::Full { .. })) {
            return done;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        while matches!(done, Err(StoreError::Full { .. })) && !self.stop.is_cancelled() {
            rest();
            done = work();
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        done
    }
}

/// Blocks for a while, as the system does not tell when there is room. Threads that serve calls are given others in their
/// place.
fn rest() {
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(|| thread::sleep(REST));
        }
        _ => thread::sleep(REST),
    }
}

impl Store for PatientStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<bytes::Bytes>, StoreError> {
        self.store.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.store.scan(table, from, to, visit)
    }

    /// The copy that is kept for another attempt shares all keys and values.
    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        self.until_there_is_room(|| self.store.write(batch.clone()))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.until_there_is_room(|| self.store.sync())
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
        let is_waiting = self.waiting.load(Ordering::Relaxed) > 0;
        let space = self.store.space()?;
        Ok(space.map(|space| if is_waiting { Space { free_bytes: 0, ..space } } else { space }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::MemoryStore;

    /// Takes nothing while it is full.
    struct Fills {
        store: MemoryStore,
        is_full: AtomicBool,
        attempts: AtomicUsize,
    }

    impl Store for Fills {
        fn get(&self, table: Table, key: &[u8]) -> Result<Option<bytes::Bytes>, StoreError> {
            self.store.get(table, key)
        }

        fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
            self.store.scan(table, from, to, visit)
        }

        fn write(&self, batch: Batch) -> Result<(), StoreError> {
            self.attempts.fetch_add(1, Ordering::SeqCst);
            if self.is_full.load(Ordering::SeqCst) {
                return Err(StoreError::Full { detail: "no room".to_owned() });
            }
            self.store.write(batch)
        }

        fn sync(&self) -> Result<(), StoreError> {
            self.store.sync()
        }

        fn checkpoint(&self) -> Result<Arc<dyn Store>, StoreError> {
            self.store.checkpoint()
        }

        fn space(&self) -> Result<Option<Space>, StoreError> {
            Ok(Some(Space { path: String::new(), free_bytes: 7, size_bytes: 9 }))
        }
    }

    fn full() -> (Arc<Fills>, Arc<PatientStore>, CancellationToken) {
        let store = MemoryStore::new();
        let fills = Arc::new(Fills { store, is_full: AtomicBool::new(true), attempts: AtomicUsize::new(0) });
        let stop = CancellationToken::new();
        (fills.clone(), Arc::new(PatientStore::new(fills, stop.clone())), stop)
    }

    fn write(store: &Arc<PatientStore>) -> thread::JoinHandle<Result<(), StoreError>> {
        let store = store.clone();
        thread::spawn(move || {
            let mut batch = Batch::default();
            batch.put(Table::Meta, "key", "value");
            store.write(batch)
        })
    }

    fn free_bytes(store: &PatientStore) -> u64 {
        store.space().expect("told").expect("a disk").free_bytes
    }

    #[test]
    fn a_write_waits_for_room_and_says_so() {
        let (fills, store, _stop) = full();
        assert_eq!(free_bytes(&store), 7);
        let writing = write(&store);
        while fills.attempts.load(Ordering::SeqCst) < 2 {
            thread::yield_now();
        }
        assert_eq!(free_bytes(&store), 0, "whatever the system says");
        fills.is_full.store(false, Ordering::SeqCst);
        writing.join().expect("no panic").expect("written");
        assert_eq!(store.get(Table::Meta, b"key").expect("read").as_deref(), Some(&b"value"[..]));
        assert_eq!(free_bytes(&store), 7);
    }

    #[test]
    fn a_process_that_stops_does_not_wait() {
        let (fills, store, stop) = full();
        let writing = write(&store);
        while fills.attempts.load(Ordering::SeqCst) < 1 {
            thread::yield_now();
        }
        stop.cancel();
        assert!(matches!(writing.join().expect("no panic"), Err(StoreError::Full { .. })));
    }
}
