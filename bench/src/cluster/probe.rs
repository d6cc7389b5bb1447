//! Searches whose time is taken.

use std::time::{Duration, Instant};

use shoal_client::{Client, SearchOptions};
use shoal_model::PointId;

use crate::curve::recall;
use crate::error::BenchError;
use crate::npy::Matrix;
use crate::segment::Frozen;
use crate::set::Set;

/// Between two searches that run beside something else: a load that leaves the machine time for it.
const PACE: Duration = Duration::from_millis(10);

/// Fewer searches have no 99th percentile worth the name.
const SAMPLES_MIN: usize = 300;

/// Times of searches.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies(Vec<Duration>);

impl FromIterator<Duration> for Latencies {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        Self(times.into_iter().collect())
    }
}

impl Latencies {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The time within which this share of searches was answered; `None` if there were too few.
    pub(super) fn millis_at(&self, share: f64) -> Option<f64> {
        if self.0.len() < SAMPLES_MIN {
            return None;
        }
        let mut sorted = self.0.clone();
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
            into.0.push(started.elapsed());
        }
        Ok(())
    }

    /// All queries, one after the other, of a collection. Returns the recall.
    pub(super) async fn pass(&self, collection: &str, into: &mut Latencies) -> Result<f64, BenchError> {
        let mut ids = Vec::with_capacity(self.set.queries.len() * self.k);
        for vector in self.set.queries.rows() {
            let started = Instant::now();
            let found = self.search(collection, vector).await?;
            into.0.push(started.elapsed());
            ids.extend(found);
        }
        Ok(recall(&self.set.truth, &Matrix::new(self.k, ids), self.k))
    }

    /// Queries at a steady pace while `work` goes on: when each was due, and how long after that it was answered.
    pub(super) async fn during(
        &self,
        collection: &str,
        work: impl Future<Output = Result<(), BenchError>>,
        into: &mut Vec<(Instant, Duration)>,
    ) -> Result<(), BenchError> {
        let asking = async {
            let mut due = Instant::now();
            for vector in self.set.queries.rows().cycle() {
                tokio::time::sleep_until(due.into()).await;
                self.search(collection, vector).await?;
                into.push((due, due.elapsed()));
                due += PACE;
            }
            Ok(())
        };
        tokio::select! {
            done = work => done,
            failed = asking => failed,
        }
    }

    /// The rows found; −1 where there are fewer than `k`.
    async fn search(&self, collection: &str, vector: &[f32]) -> Result<Vec<i64>, BenchError> {
        let k = u32::try_from(self.k).expect("k is small");
        let answer = self.client.search(collection, vector, &SearchOptions { k, ..SearchOptions::default() }).await?;
        let row = |id: &PointId| match id {
            PointId::Number(number) => i64::try_from(*number).unwrap_or(-1),
            _ => -1,
        };
        let mut rows: Vec<i64> = answer.hits.iter().map(|hit| row(&hit.id)).collect();
        rows.resize(self.k, -1);
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_ranks_and_want_enough_samples() {
        let millis = |count: u64| Latencies((1..=count).rev().map(Duration::from_millis).collect());
        assert_eq!(millis(299).millis_at(0.99), None);
        let latencies = millis(1_000);
        let near = |share: f64, want: f64| (latencies.millis_at(share).expect("enough") - want).abs() < 1e-6;
        assert!(near(0.5, 500.0) && near(0.99, 990.0) && near(1.0, 1_000.0) && near(0.0, 1.0));
    }
}
