//! Writing points by clients at a time, each with a connection of its own, each waiting for its acknowledgement.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use shoal_client::Client;
use shoal_model::{Point, PointId};
use tokio::task::JoinSet;

use crate::error::BenchError;
use crate::npy::Matrix;

/// Points of a write.
pub(super) const BATCH: usize = 64;
/// Clients that write at a time.
pub(super) const CLIENTS: usize = 8;

/// How far copies of a vector lie towards another one.
const DRIFT: f32 = 0.15;

/// Points to write: the rows of a set in an order drawn by seed, and as often again as is wanted, under other ids, each
/// copy drawn a little towards another row, as no two texts are the same.
pub(super) struct Source {
    base: Matrix<f32>,
    order: Vec<usize>,
    /// For each row the distance in `order` to the row that its copies are drawn to.
    step: usize,
    len: usize,
}

impl Source {
    /// `passes` over the rows of `base`.
    pub(super) fn new(base: Matrix<f32>, passes: usize, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut order: Vec<usize> = (0..base.len()).collect();
        order.shuffle(&mut random);
        let step = if base.len() > 1 { random.random_range(1..base.len()) } else { 0 };
        let len = passes * base.len();
        Self { base, order, step, len }
    }

    /// How many points there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A point of the passes that come after all of them, which is none of theirs.
    pub(super) fn point_beyond(&self, number: u64) -> Point {
        self.point(self.len + usize::try_from(number).expect("it counts points that were written one by one"))
    }

    /// A point by its number, which is its id.
    fn point(&self, number: usize) -> Point {
        let (copy, at) = (number / self.order.len(), number % self.order.len());
        let mut vector = self.base.row(self.order[at]).to_vec();
        if copy > 0 {
            let other = self.base.row(self.order[(at + copy * self.step) % self.order.len()]);
            vector.iter_mut().zip(other).for_each(|(own, other)| *own += DRIFT * (other - *own));
        }
        Point { id: PointId::Number(number as u64), vector, payload: BTreeMap::new() }
    }

    fn batch(&self, first: usize, to: usize) -> Vec<Point> {
        (first..(first + BATCH).min(to)).map(|number| self.point(number)).collect()
    }
}

/// What a load came to.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) seconds: f64,
    /// From a write's call to its acknowledgement.
    pub(super) acknowledged: Vec<Duration>,
}

/// Writes points `from` up to `to`, as fast as that goes or so many a second; `done` is told how many are acknowledged.
pub(super) async fn load(
    router: &str,
    collection: &str,
    source: &Arc<Source>,
    (from, to): (usize, usize),
    pace: Option<usize>,
    done: impl Fn(usize) + Clone + Send + Sync + 'static,
) -> Result<Loaded, BenchError> {
    let next = Arc::new(AtomicUsize::new(from));
    #[allow(clippy::cast_precision_loss, reason = "a share of a second")]
    let every = pace.map(|pace| Duration::from_secs_f64((BATCH * CLIENTS) as f64 / pace as f64));
    let mut clients = JoinSet::new();
    let began = Instant::now();
    for _ in 0..CLIENTS {
        let writer = Writer {
            client: Client::connect(&[router])?,
            collection: collection.to_owned(),
            source: source.clone(),
            next: next.clone(),
            to,
            every,
        };
        let done = done.clone();
        clients.spawn(async move { writer.run(&done).await });
    }
    let mut acknowledged = Vec::new();
    while let Some(ended) = clients.join_next().await {
        acknowledged.extend(ended.map_err(|error| BenchError::Task(error.to_string()))??);
    }
    Ok(Loaded { seconds: began.elapsed().as_secs_f64(), acknowledged })
}

/// One client: takes the next batch once its last is acknowledged.
struct Writer {
    client: Client,
    collection: String,
    source: Arc<Source>,
    next: Arc<AtomicUsize>,
    to: usize,
    /// Between two writes of this client, if not as soon as the last is acknowledged.
    every: Option<Duration>,
}

impl Writer {
    async fn run(&self, done: &impl Fn(usize)) -> Result<Vec<Duration>, BenchError> {
        let mut acknowledged = Vec::new();
        let mut due = self.every.map(tokio::time::interval);
        loop {
            if let Some(due) = &mut due {
                due.tick().await;
            }
            let first = self.next.fetch_add(BATCH, Ordering::Relaxed);
            if first >= self.to {
                return Ok(acknowledged);
            }
            let points = self.source.batch(first, self.to);
            let count = points.len();
            let began = Instant::now();
            self.client.upsert(&self.collection, points).await?;
            acknowledged.push(began.elapsed());
            done(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_comes_once_in_each_pass_and_copies_differ() {
        #[allow(clippy::cast_precision_loss, reason = "small numbers")]
        let base = Matrix::new(2, (0..200).map(|i| i as f32).collect());
        let source = Source::new(base, 2, 7);
        assert_eq!(source.len(), 200);
        let points: Vec<Point> =
            (0..source.len()).step_by(BATCH).flat_map(|first| source.batch(first, source.len())).collect();
        let ids: Vec<PointId> = (0..200).map(PointId::Number).collect();
        assert_eq!(points.iter().map(|point| point.id.clone()).collect::<Vec<_>>(), ids);
        let mut first: Vec<f32> = points[..100].iter().map(|point| point.vector[0]).collect();
        first.sort_by(f32::total_cmp);
        assert_eq!(first, (0..100).map(|i| 2.0 * f32::from(i as u8)).collect::<Vec<_>>());
        assert!((0..100).all(|i| points[i].vector != points[i + 100].vector), "a copy is another point");
        let again = Source::new(Matrix::new(2, vec![1.0, 2.0, 3.0, 4.0]), 1, 7);
        assert_eq!(again.order, Source::new(Matrix::new(2, vec![1.0; 4]), 1, 7).order, "a seed gives one order");
    }
}
