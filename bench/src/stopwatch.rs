//! Time as it passes, and time on a core.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// How long work took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Elapsed {
    /// By the clock on the wall.
    pub(crate) seconds: f64,
    /// That the process spent on a core, of all its threads together.
    ///
    /// Of work by one thread that waits for nothing this is the wall time, less what other programs took of the core.
    pub(crate) core_seconds: f64,
}

/// Runs from [`Stopwatch::start`].
pub(crate) struct Stopwatch {
    wall: Instant,
    core: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { wall: Instant::now(), core: core_time() }
    }

    pub(crate) fn elapsed(&self) -> Elapsed {
        let core = core_time().saturating_sub(self.core);
        Elapsed { seconds: self.wall.elapsed().as_secs_f64(), core_seconds: core.as_secs_f64() }
    }
}

fn core_time() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ProcessCPUTime);
    let whole = Duration::from_secs(u64::try_from(tv_sec).unwrap_or_default());
    whole + Duration::from_nanos(u64::try_from(tv_nsec).unwrap_or_default())
}
