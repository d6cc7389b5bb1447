//! Searches whose time is taken.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use shoal_client::{Answer, Client, SearchOptions};
use shoal_model::PointId;
use tokio::runtime::Runtime;

use crate::curve::recall;
use crate::error::BenchError;
use crate::npy::Matrix;
use crate::segment::Frozen;
use crate::set::Set;

/// Between two searches that run beside something else: a load that leaves the machine time for it.
const PACE: Duration = Duration::from_millis(10);

/// Fewer searches have no 99th percentile worth the name.
const SAMPLES_MIN: usize = 300;

/// A search that runs beside something else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) due: Instant,
    /// From then until it was answered.
    pub(super) time: Duration,
    /// What of that nodes searched, as the answer says.
    pub(super) searching: Duration,
}

/// Times of searches.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies {
    times: Vec<Duration>,
    searching: Vec<Duration>,
}

impl<'a> FromIterator<&'a Asked> for Latencies {
    fn from_iter<I: IntoIterator<Item = &'a Asked>>(asked: I) -> Self {
        let (times, searching) = asked.into_iter().map(|asked| (asked.time, asked.searching)).unzip();
        Self { times, searching }
    }
}

impl Latencies {
    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    /// The time within which this share of searches was answered; `None` if there were too few.
    pub(super) fn millis_at(&self, share: f64) -> Option<f64> {
        Self::at(&self.times, share)
    }

    /// The time within which nodes were done with this share of searches; `None` if that is not known of enough.
    pub(super) fn searching_millis_at(&self, share: f64) -> Option<f64> {
        Self::at(&self.searching, share)
    }

    fn at(times: &[Duration], share: f64) -> Option<f64> {
        if times.len() < SAMPLES_MIN {
            return None;
        }
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "rank")]
        let rank = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len());
        Some(sorted[rank - 1].as_secs_f64() * 1e3)
    }
}

/// Asks the queries of a set.
pub(super) struct Probe<'a> {
    pub(super) client: &'a Client,
    pub(super) set: &'a Set,
    pub(super) k: usize,
}

impl Probe<'_> {
    /// All queries, one after the other, of a segment in this process.
    pub(super) fn in_process(&self, frozen: &mut Frozen, recall: f64, into: &mut Latencies) -> Result<(), BenchError> {
        for vector in self.set.queries.rows() {
            let started = Instant::now();
            frozen.search_one(vector, recall)?;
            into.times.push(started.elapsed());
        }
        Ok(())
    }

    /// All queries, one after the other, of a collection. Returns the recall.
    pub(super) async fn pass(&self, collection: &str, into: &mut Latencies) -> Result<f64, BenchError> {
        let mut ids = Vec::with_capacity(self.set.queries.len() * self.k);
        for vector in self.set.queries.rows() {
            let started = Instant::now();
            let answer = self.search(collection, vector).await?;
            into.times.push(started.elapsed());
            into.searching.push(searching(&answer));
            ids.extend(self.rows(&answer));
        }
        Ok(recall(&self.set.truth, &Matrix::new(self.k, ids), self.k))
    }

    /// Queries at a steady pace, by a thread and a client of their own, while `work` goes on.
    pub(super) fn during(
        &self,
        router: &str,
        collection: &str,
        into: &mut Vec<Asked>,
        work: impl FnOnce() -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let asking = scope.spawn(|| pace(self.set, self.k, router, collection, &done));
            let worked = work();
            done.store(true, Ordering::Relaxed);
            into.extend(asking.join().expect("the thread that asks does not panic")?);
            worked
        })
    }

    async fn search(&self, collection: &str, vector: &[f32]) -> Result<Answer, BenchError> {
        let k = u32::try_from(self.k).expect("k is small");
        Ok(self.client.search(collection, vector, &SearchOptions { k, ..SearchOptions::default() }).await?)
    }

    /// The rows found; −1 where there are fewer than `k`.
    fn rows(&self, answer: &Answer) -> Vec<i64> {
        let row = |id: &PointId| match id {
            PointId::Number(number) => i64::try_from(*number).unwrap_or(-1),
            _ => -1,
        };
        let mut rows: Vec<i64> = answer.hits.iter().map(|hit| row(&hit.id)).collect();
        rows.resize(self.k, -1);
        rows
    }
}

/// Asks at a steady pace until told that it is `done`.
fn pace(set: &Set, k: usize, router: &str, collection: &str, done: &AtomicBool) -> Result<Vec<Asked>, BenchError> {
    let runtime = threads()?;
    let client = runtime.block_on(async { Client::connect(&[router]) })?;
    let probe = Probe { client: &client, set, k };
    let (mut asked, mut due) = (Vec::new(), Instant::now());
    for vector in set.queries.rows().cycle() {
        if done.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let answer = runtime.block_on(probe.search(collection, vector))?;
        asked.push(Asked { due, time: due.elapsed(), searching: searching(&answer) });
        due += PACE;
    }
    Ok(asked)
}

/// A runtime of one thread.
pub(super) fn threads() -> Result<Runtime, BenchError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BenchError::io("start threads"))
}

fn searching(answer: &Answer) -> Duration {
    Duration::from_micros(answer.info.timings.search_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_ranks_and_want_enough_samples() {
        let times = |count: u64| (1..=count).rev().map(Duration::from_millis).collect();
        let millis = |count: u64| Latencies { times: times(count), searching: vec![] };
        assert_eq!(millis(299).millis_at(0.99), None);
        let latencies = millis(1_000);
        let near = |share: f64, want: f64| (latencies.millis_at(share).expect("enough") - want).abs() < 1e-6;
        assert!(near(0.5, 500.0) && near(0.99, 990.0) && near(1.0, 1_000.0) && near(0.0, 1.0));
    }
}
