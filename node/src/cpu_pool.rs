//! Threads for searching: as many at a time as there are cores, and a bounded number waiting.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use shoal_index::segment::Scratch;
use shoal_index::set::Look;
use tokio::sync::Semaphore;

use crate::NodeError;
use crate::blocking;

/// Runs searches off the threads that serve sockets.
#[derive(Debug)]
pub(crate) struct CpuPool {
    permits: Arc<Semaphore>,
    threads: usize,
    waiting: AtomicU32,
    waiting_max: u32,
    /// What searches need beside the points, once they have grown: at most one for each thread.
    scratches: Mutex<Vec<Scratch>>,
}

/// Tells running searches that nobody waits for them any more: when it is dropped, or past the deadline.
#[derive(Debug)]
pub(crate) struct Interest {
    gone: Arc<AtomicBool>,
    deadline: Instant,
}

/// What a search polls.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    gone: Arc<AtomicBool>,
    deadline: Instant,
}

impl Interest {
    /// Interest until `deadline`.
    pub(crate) fn until(deadline: Instant) -> Self {
        Self { gone: Arc::default(), deadline }
    }

    /// What a search on this interest's behalf polls.
    pub(crate) fn stop(&self) -> Stop {
        Stop { gone: self.gone.clone(), deadline: self.deadline }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

impl Stop {
    /// Whether to stop.
    pub(crate) fn now(&self) -> bool {
        self.gone.load(Ordering::Relaxed) || Instant::now() >= self.deadline
    }
}

/// Counts a waiting search, also when it is cancelled.
struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl CpuPool {
    /// A pool of `threads`, with at most `waiting_max` searches waiting.
    pub(crate) fn new(threads: usize, waiting_max: u32) -> Self {
        let (permits, waiting) = (Arc::new(Semaphore::new(threads)), AtomicU32::new(0));
        Self { permits, threads, waiting, waiting_max, scratches: Mutex::default() }
    }

    /// How many searches run at a time.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Into how many parts a search that compares with `points` one by one is worth splitting.
    pub(crate) fn parts(&self, points: usize, look: Look) -> usize {
        /// Below a part of so many points, handing work to another thread costs more than it saves: some 0.5 ms.
        const EXACT_MIN: usize = 8_192;
        /// A scan of codes is several times as fast.
        const CODES_MIN: usize = 24_576;
        let points_min = if look == Look::Exact { EXACT_MIN } else { CODES_MIN };
        (points / points_min).clamp(1, self.threads)
    }

    /// Runs a search when a thread is free, with what it needs to walk. Errors: as [`CpuPool::run`].
    pub(crate) async fn search<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Scratch) -> T + Send + 'static,
    ) -> Result<T, NodeError> {
        let pool = self.clone();
        let with_scratch = move || {
            let scratches = || pool.scratches.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = scratches().pop();
            let mut scratch = taken.unwrap_or_default();
            let done = work(&mut scratch);
            scratches().push(scratch);
            done
        };
        self.run(with_scratch).await
    }

    /// Runs `work` when a thread is free.
    ///
    /// Errors: `Overloaded` if too many wait already; `Task` if `work` panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NodeError> {
        let waiting = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.waiting_max {
            return Err(NodeError::Overloaded { max: self.waiting_max });
        }
        let permit = self.permits.clone().acquire_owned().await;
        drop(waiting);
        let permit = permit.map_err(|_| NodeError::Task("search threads have stopped".to_owned()))?;
        let run = move || {
            let _permit = permit;
            work()
        };
        blocking::run(run).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_full_queue_pushes_back_and_drains() {
        let pool = Arc::new(CpuPool::new(1, 1));
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (started, starting) = tokio::sync::oneshot::channel();
        let busy = tokio::spawn({
            let pool = pool.clone();
            async move {
                let work = move || {
                    let _ = started.send(());
                    held.recv().is_ok()
                };
                pool.run(work).await
            }
        });
        starting.await.expect("the first search runs");
        let mut second = Box::pin(pool.run(|| 2));
        assert!(futures_poll_pending(&mut second).await, "the second waits for the thread");
        assert!(matches!(pool.run(|| 3).await, Err(NodeError::Overloaded { max: 1 })), "the third is pushed back");
        release.send(()).expect("still held");
        assert!(matches!(second.await, Ok(2)));
        assert!(matches!(busy.await, Ok(Ok(true))));
    }

    async fn futures_poll_pending<F: Future + Unpin>(future: &mut F) -> bool {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())
        })
        .await
    }

    #[test]
    fn interest_ends_by_drop_and_by_deadline() {
        let interest = Interest::until(Instant::now() + Duration::from_secs(60));
        let stop = interest.stop();
        assert!(!stop.now());
        drop(interest);
        assert!(stop.now(), "nobody waits any more");
        assert!(Interest::until(Instant::now()).stop().now(), "the deadline has passed");
    }
}
