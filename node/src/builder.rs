//! The node's builder: threads that make segments, for all of its shards.
//!
//! Its threads have the lowest priority the system knows, so that a search never waits for one of them, and are fewer
//! than the cores. Jobs run in lanes, one at a time in each: a delta that waits to be built, which every search
//! scans meanwhile, does not wait for a merge of minutes. Lanes are first come, first served, and a shard has one build
//! and one merge at most, so that shards take turns.
//!
//! On a machine that others keep busy, what has the lowest priority never runs. So jobs that press have lanes and threads of
//! their own, at the priority of searches: a system lets a thread lower its priority, but not raise it again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rayon::{ThreadPool, ThreadPoolBuilder};
use shoal_index::segment::{Parameters, Precision};
use shoal_model::IndexSpec;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::NodeError;

/// Which jobs wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Deltas become segments.
    Build,
    /// Segments become others.
    Merge,
}

impl Lane {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::Build, Self::Merge];
}

/// Whose time a job may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// What nobody else wants.
    Spare,
    /// That of searches, as writes wait for it.
    Pressing,
}

/// Runs jobs.
#[derive(Debug)]
pub(crate) struct Builder {
    spare: Workers,
    pressing: Workers,
    /// What the system calls its threads.
    threads: Arc<Mutex<Vec<u32>>>,
}

/// Threads, and whose turn it is.
#[derive(Debug)]
struct Workers {
    pool: ThreadPool,
    builds: Semaphore,
    merges: Semaphore,
}

/// Tells jobs to end: those that wait by waking them, those that run when they ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancel {
    token: CancellationToken,
    /// What the token says, for a question that is asked a million times a second.
    is_set: Arc<AtomicBool>,
    /// That of the one that this one is a child of.
    above: Option<Arc<AtomicBool>>,
}

/// Why a job has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfinished {
    /// It was cancelled before it began.
    #[error("cancelled")]
    Cancelled,
    /// It panicked.
    #[error("{0}")]
    Panicked(String),
}

impl Cancel {
    /// One that is cancelled with this one, or by itself.
    pub(crate) fn child(&self) -> Self {
        Self { token: self.token.child_token(), is_set: Arc::default(), above: Some(self.is_set.clone()) }
    }

    /// Cancels.
    pub(crate) fn set(&self) {
        self.is_set.store(true, Ordering::Relaxed);
        self.token.cancel();
    }

    /// Whether it was cancelled.
    pub(crate) fn is_set(&self) -> bool {
        let is_set = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
        is_set(&self.is_set) || self.above.as_ref().is_some_and(is_set)
    }

    /// The same, once whoever waits for this core has had it: a kernel that does not preempt for wake-ups looks for those
    /// when a thread calls it, and else every 4 ms.
    pub(crate) fn is_set_after_others(&self) -> bool {
        std::thread::yield_now();
        self.is_set()
    }

    /// Completes once it is cancelled.
    pub(crate) async fn cancelled(&self) {
        self.token.cancelled().await;
    }
}

impl Builder {
    /// Starts `threads`, at least one, and as many that only pressing jobs use.
    pub(crate) fn start(threads: usize) -> Result<Self, NodeError> {
        let ids = Arc::<Mutex<Vec<u32>>>::default();
        let pool = |name: &'static str, begin: fn()| {
            let started = ids.clone();
            let pool =
                ThreadPoolBuilder::new().num_threads(threads).thread_name(move |number| format!("{name}-{number}"));
            let pool = pool.start_handler(move |_| {
                begin();
                started.lock().unwrap_or_else(PoisonError::into_inner).push(own_thread_id());
            });
            pool.build().map_err(|error| NodeError::Task(format!("start build threads: {error}")))
        };
        let workers = |pool| Workers { pool, builds: Semaphore::new(1), merges: Semaphore::new(1) };
        let (spare, pressing) = (workers(pool("build", lower_priority)?), workers(pool("pressing", || {})?));
        Ok(Self { spare, pressing, threads: ids })
    }

    /// Time that its threads have had on a core, all together; 0 where the system does not tell.
    pub(crate) fn core_time(&self) -> Duration {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|id| core_time_of(*id)).sum()
    }

    /// Runs `work` on threads of the builder once the lane is free.
    pub(crate) async fn run<T: Send + 'static>(
        self: Arc<Self>,
        (lane, urgency): (Lane, Urgency),
        cancel: &Cancel,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        let workers = self.workers(urgency);
        let turn = match lane {
            Lane::Build => &workers.builds,
            Lane::Merge => &workers.merges,
        };
        let permit = tokio::select! {
            permit = turn.acquire() => permit.map_err(|_| Unfinished::Cancelled)?,
            () = cancel.cancelled() => return Err(Unfinished::Cancelled),
        };
        let builder = self.clone();
        let done = tokio::task::spawn_blocking(move || builder.workers(urgency).pool.install(work)).await;
        drop(permit);
        done.map_err(|error| Unfinished::Panicked(error.to_string()))
    }

    fn workers(&self, urgency: Urgency) -> &Workers {
        match urgency {
            Urgency::Spare => &self.spare,
            Urgency::Pressing => &self.pressing,
        }
    }
}

/// Gives the calling thread up for any other that has something to do.
fn lower_priority() {
    // A nice thread that runs is still left to the end of its slice when a search wakes up; an idle one is not.
    #[cfg(target_os = "linux")]
    {
        use thread_priority::unix::{NormalThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id};
        use thread_priority::{ThreadPriority, ThreadSchedulePolicy};

        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle) {
            tracing::warn!(%error, "build threads run at the priority of searches");
        }
    }
}

/// The calling thread, as the system numbers it.
fn own_thread_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

/// Time that a thread of this process has had on a core.
fn core_time_of(thread: u32) -> Duration {
    let told = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap_or_default();
    let nanos = told.split_whitespace().next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// How the segments of a collection are built.
pub fn parameters(spec: &IndexSpec) -> Parameters {
    Parameters {
        metric: spec.metric,
        precision: Precision::of(spec.graph.quantization),
        ef_construction: spec.graph.ef_construction as usize,
        seed: spec.graph.seed,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn time_on_cores_is_that_of_its_threads() {
        let builder = Arc::new(Builder::start(1).expect("threads start"));
        let spin = || {
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(50) {}
        };
        spin();
        let before = builder.core_time();
        builder.clone().run((Lane::Build, Urgency::Spare), &Cancel::default(), spin).await.expect("it ends by itself");
        let spent = builder.core_time() - before;
        assert!(spent > Duration::ZERO && spent < Duration::from_millis(60), "{spent:?}");
    }
}
