//! Writing a set into a collection, and waiting until nothing more is to be built.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shoal_client::{Client, ClientError, NewCollection};
use shoal_model::{Point, PointId};
use tokio::task::JoinSet;

use crate::error::BenchError;
use crate::set::Set;
use crate::settle::{ASK_EVERY, reports, settle};

/// Points of a write.
const BATCH: usize = 256;
/// Writes at a time.
const CONCURRENCY: usize = 4;
/// Points a second of a service whose collection changes, and how many a write of it has.
const STEADY_RATE: usize = 1_000;
const STEADY_BATCH: usize = 50;

/// Moments, ascending, and whether jobs were under way then.
#[derive(Debug, Default)]
pub(super) struct Jobs(pub(super) Vec<(Instant, bool)>);

impl Jobs {
    /// Whether some were under way at a moment, by the first report after it.
    pub(super) fn under_way_at(&self, moment: Instant) -> bool {
        let after = self.0.partition_point(|(at, _)| *at < moment);
        self.0.get(after).or(self.0.last()).is_some_and(|(_, is_busy)| *is_busy)
    }
}

/// Writes the points of a set.
pub(super) struct Loader<'a> {
    pub(super) client: &'a Client,
    pub(super) set: &'a Set,
}

impl Loader<'_> {
    /// Makes a collection for the set.
    pub(super) async fn create(&self, name: &str, shards: u32) -> Result<(), BenchError> {
        let dim = u32::try_from(self.set.base.columns()).expect("a dimension is no larger than a file's header says");
        let collection = NewCollection { shards, replicas: 1, ..NewCollection::new(name, dim, self.set.metric) };
        self.client.create_collection(collection).await?;
        Ok(())
    }

    /// Writes one point.
    pub(super) async fn first_point(&self, collection: &str) -> Result<(), BenchError> {
        self.client.upsert(collection, self.points(0, 1)).await?;
        Ok(())
    }

    /// Writes every point, replacing what is there.
    async fn all(&self, collection: &str) -> Result<(), BenchError> {
        let mut writes = JoinSet::new();
        for first in (0..self.set.base.len()).step_by(BATCH) {
            if writes.len() == CONCURRENCY {
                finish(&mut writes).await?;
            }
            let (client, name, points) = (self.client.clone(), collection.to_owned(), self.points(first, BATCH));
            writes.spawn(async move { client.upsert(&name, points).await.map(drop) });
        }
        while !writes.is_empty() {
            finish(&mut writes).await?;
        }
        Ok(())
    }

    /// Writes every point, and waits until all is built.
    pub(super) async fn all_and_settle(&self, collection: &str) -> Result<(), BenchError> {
        self.all(collection).await?;
        settle(self.client, collection).await
    }

    /// Writes one of `parts` of all points again, as many a second as a service would.
    pub(super) async fn steadily(&self, collection: &str, part: usize, parts: usize) -> Result<(), BenchError> {
        let mut due =
            tokio::time::interval(Duration::from_secs(1) / u32::try_from(STEADY_RATE / STEADY_BATCH).unwrap_or(1));
        let len = self.set.base.len();
        for first in (part * len / parts..(part + 1) * len / parts).step_by(STEADY_BATCH) {
            due.tick().await;
            self.client.upsert(collection, self.points(first, STEADY_BATCH)).await?;
        }
        Ok(())
    }

    /// Writes, waits until all is built, and notes meanwhile when the collection's replicas have jobs under way.
    pub(super) async fn watched(
        &self,
        collection: &str,
        jobs: &mut Jobs,
        write: impl Future<Output = Result<(), BenchError>>,
    ) -> Result<(), BenchError> {
        let work = async {
            write.await?;
            settle(self.client, collection).await
        };
        tokio::select! {
            done = work => done,
            failed = self.watch(collection, jobs) => failed,
        }
    }

    /// Notes when jobs are under way, until it is dropped: reports come once a second.
    async fn watch(&self, collection: &str, jobs: &mut Jobs) -> Result<(), BenchError> {
        loop {
            let is_busy = reports(self.client, collection).await?.iter().any(|report| !report.jobs.is_empty());
            jobs.0.push((Instant::now(), is_busy));
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    fn points(&self, first: usize, count: usize) -> Vec<Point> {
        let rows = self.set.base.rows().enumerate().skip(first).take(count);
        let point = |(row, vector): (usize, &[f32])| Point {
            id: PointId::Number(row as u64),
            vector: vector.to_vec(),
            payload: BTreeMap::new(),
        };
        rows.map(point).collect()
    }
}

async fn finish(writes: &mut JoinSet<Result<(), ClientError>>) -> Result<(), BenchError> {
    match writes.join_next().await {
        Some(written) => Ok(written.map_err(|error| BenchError::Task(error.to_string()))??),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_judged_by_the_report_after_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let jobs = Jobs(vec![(at(1), false), (at(2), true), (at(3), false)]);
        let told = [0, 1, 2, 3, 4].map(|seconds| jobs.under_way_at(at(seconds)));
        assert_eq!(told, [false, false, true, false, false]);
        assert!(!Jobs::default().under_way_at(start));
    }
}
