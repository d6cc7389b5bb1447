//! Syncs on a thread of their own: while one runs, the consensus thread takes messages, writes and hands out work.
//!
//! One sync runs at a time, and covers every output written before it began; what is written meanwhile shares the next.
//! Did the consensus thread wait, a follower would learn what is committed, and a leader that a majority has it, only when
//! the disk is done with something else.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use shoal_model::failpoints::{Failpoint, meet};
use shoal_runtime::{Store, StoreError};

use super::Shared;
use crate::{ConsensusError, Ticket};

/// Which outputs are on disk, and the thread that sees to it.
pub(super) struct Syncer {
    /// `None` once it is to end.
    begin: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    /// The last output that was written.
    written: Ticket,
    /// The last one that the sync under way covers, and when that began.
    running: Option<(Ticket, Instant)>,
    /// Whether an output that was written since wants a sync.
    wanted: bool,
}

impl Syncer {
    /// Starts the thread. Each sync that ends is told to the inbox.
    ///
    /// Errors: `Internal` if there is no thread to be had.
    pub(super) fn start<R: Send + 'static>(
        store: Arc<dyn Store>,
        shared: Arc<Shared<R>>,
    ) -> Result<Self, ConsensusError> {
        // One sync runs at a time, so that one word to begin is all there ever is.
        let (begin, begins) = mpsc::sync_channel::<()>(1);
        let run = move || {
            let end = End(shared);
            while begins.recv().is_ok() {
                end.0.inbox.push_synced(sync(&*store));
            }
        };
        let thread = std::thread::Builder::new().name("sync".into()).spawn(run);
        let thread = thread.map_err(|error| ConsensusError::Internal(format!("start a thread: {error}")))?;
        let (written, running, wanted) = (Ticket::default(), None, false);
        Ok(Self { begin: Some(begin), thread: Some(thread), written, running, wanted })
    }

    /// The last output that was written.
    pub(super) fn written(&self) -> Ticket {
        self.written
    }

    /// Whether no sync is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    /// Whether the sync under way has taken that long.
    pub(super) fn lasts(&self, longer_than: Duration) -> bool {
        self.running.is_some_and(|(_, began)| began.elapsed() > longer_than)
    }

    /// Waits for the sync under way, whose end is told to the inbox as ever, and begins no more.
    pub(super) fn finish(&mut self) {
        self.begin = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it was told to the inbox.
            let _ = thread.join();
        }
    }

    /// An output was written. Returns what counts as persisted now, if that changes.
    pub(super) fn note_written(&mut self, ticket: Ticket, must_sync: bool) -> Option<Ticket> {
        self.written = ticket;
        match self.running {
            Some(_) => self.wanted |= must_sync,
            None if must_sync => self.begin(),
            None => return Some(ticket),
        }
        None
    }

    /// A sync has ended well. Returns what counts as persisted now.
    pub(super) fn note_synced(&mut self) -> Ticket {
        let covered = self.running.take().map(|(covered, _)| covered).unwrap_or_default();
        if std::mem::take(&mut self.wanted) {
            self.begin();
            return covered;
        }
        // What came after it asked for none.
        self.written
    }

    fn begin(&mut self) {
        self.running = Some((self.written, Instant::now()));
        // The thread is there until this ends; if it panicked, it has said so to the inbox.
        if let Some(begin) = &self.begin {
            let _ = begin.send(());
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.finish();
    }
}

fn sync(store: &dyn Store) -> Result<(), StoreError> {
    meet(Failpoint::ConsensusSync)?;
    store.sync()?;
    Ok(meet(Failpoint::ConsensusSynced)?)
}

/// Tells the inbox if the thread panics: nothing is known of the disk then.
struct End<R>(Arc<Shared<R>>);

impl<R> Drop for End<R> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let detail = "the thread that syncs has panicked".to_owned();
            self.0.inbox.push_synced(Err(StoreError::Io { detail }));
        }
    }
}

#[cfg(test)]
mod tests {
    use shoal_runtime::MemoryStore;
    use tokio::sync::watch;

    use super::super::{Statuses, inbox::Inbox};
    use super::*;

    #[test]
    fn an_output_counts_as_persisted_once_a_sync_that_began_after_it_has_ended() {
        let (inbox, statuses) = (Inbox::<()>::new(1, 1), Statuses::default());
        let failures = std::sync::Mutex::default();
        let shared = Arc::new(Shared { inbox, statuses, failures, ended: watch::channel(false).1 });
        let mut syncer = Syncer::start(Arc::new(MemoryStore::new()), shared.clone()).expect("there are threads");
        assert_eq!(syncer.note_written(Ticket(1), false), Some(Ticket(1)), "nothing is to be waited for");
        assert_eq!(syncer.note_written(Ticket(2), true), None);
        assert_eq!(syncer.note_written(Ticket(3), false), None, "those before it are not there yet");
        assert_eq!(syncer.note_written(Ticket(4), true), None);
        assert_eq!(syncer.note_written(Ticket(5), false), None);
        let mut next = || {
            shared.inbox.wait_until_synced();
            shared.inbox.take_synced().expect("it has ended").expect("memory does not fail");
            syncer.note_synced()
        };
        assert_eq!([next(), next()], [Ticket(2), Ticket(5)], "the second began after all of them");
        assert!(syncer.is_idle() && !syncer.lasts(Duration::ZERO));
    }
}
