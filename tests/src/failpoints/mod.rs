//! Every failpoint, fired as a panic, as an error and as a pause in a cluster of real processes, which must come back by
//! itself each time, with all that was acknowledged.
//!
//! | file | does |
//! |---|---|
//! | `course` | how each point is reached, and in which process |
//! | `rig` | a cluster whose processes are started again when they end, and a client that counts what is acknowledged |
//! | `drive` | carries out a course |
//! | `episode` | one point, one kind: fire, come back, check |
//!
//! Several clusters share the episodes, as most of the time goes by in waiting for elections.

mod course;
mod drive;
mod episode;
mod rig;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use shoal_model::failpoints::Failpoint;

pub use episode::Kind;

use episode::run_one;
use rig::Rig;

/// Clusters that run episodes at a time.
const CLUSTERS: usize = 4;

/// Episodes that take longer are told of.
const SLOW_SECONDS: f64 = 5.0;

/// Runs every kind of episode at each of `points`; tells what went wrong.
#[must_use]
pub fn run(points: &[Failpoint], kinds: &[Kind]) -> Vec<String> {
    let episodes = points.iter().flat_map(|point| kinds.iter().map(|kind| (*point, *kind)));
    let mut episodes: Vec<_> = episodes.collect();
    // The long ones first, so that the clusters end together.
    episodes.sort_by_key(|(point, _)| std::cmp::Reverse(course::of(*point).0));
    let episodes = Mutex::new(VecDeque::from(episodes));
    let next = || episodes.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..CLUSTERS {
            scope.spawn(|| {
                let done = catch_unwind(AssertUnwindSafe(|| run_queue(next)));
                let told =
                    done.unwrap_or_else(|_| vec!["a cluster could not be made, or ended with a panic".to_owned()]);
                failures.lock().unwrap_or_else(PoisonError::into_inner).extend(told);
            });
        }
    });
    failures.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Takes episodes until there are none. A cluster that did not come back is given up for another.
fn run_queue(next: impl Fn() -> Option<(Failpoint, Kind)>) -> Vec<String> {
    let (mut failures, mut rig) = (Vec::new(), None);
    while let Some((point, kind)) = next() {
        let used = rig.get_or_insert_with(Rig::start);
        let started = Instant::now();
        let ended = run_one(used, point, kind);
        let seconds = started.elapsed().as_secs_f64();
        match ended {
            Ok(story) if seconds > SLOW_SECONDS => println!("{:<24} {kind:?}: {seconds:.1} s{story}", point.name()),
            Ok(_) => {}
            Err(problem) => {
                println!("{:<24} {kind:?}: {seconds:.1} s: FAILED: {problem}", point.name());
                failures.push(format!("{} as {kind:?}: {problem}", point.name()));
                used.keep();
                rig = None;
            }
        }
    }
    let read_back = rig.as_mut().map_or(Ok(()), Rig::read_everything);
    failures.extend(read_back.err());
    failures
}
