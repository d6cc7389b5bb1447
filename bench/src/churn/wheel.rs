//! A set through which the rows of a data set rotate: five sixths live in it, the others wait to come back.

use std::sync::Arc;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rayon::ThreadPool;
use shoal_index::segment::Target;
use shoal_index::set::{Job, JobError, PointSet, Policy, View};
use shoal_model::PointId;

use crate::error::BenchError;
use crate::segment::{Tier, dim, parameters};
use crate::set::Set;

/// Decides which rows come and go.
pub(super) const SEED: u64 = 1;

/// One row in so many waits: a fifth of those that live.
const WAITING: usize = 6;

/// The sizes of nodes that were told nothing.
const POLICY: Policy = Policy { delta_points_max: 20_000, delta_bytes_max: 128 << 20, segment_points_max: 1_000_000 };

pub(super) struct Wheel<'a> {
    rows: &'a Set,
    tier: Tier,
    rng: StdRng,
    points: PointSet,
    /// Rows that live, and rows that wait.
    living: Vec<usize>,
    waiting: Vec<usize>,
    version: u64,
    /// How many jobs of each kind were done.
    builds: usize,
    merges: usize,
    rewrites: usize,
}

impl<'a> Wheel<'a> {
    /// All rows wait.
    pub(super) fn new(rows: &'a Set, tier: Tier) -> Self {
        let mut rng = StdRng::seed_from_u64(SEED);
        let mut waiting: Vec<usize> = (0..rows.base.len()).collect();
        waiting.shuffle(&mut rng);
        let points = PointSet::new(dim(rows), rows.metric, POLICY);
        Self { rows, tier, rng, points, living: Vec::new(), waiting, version: 0, builds: 0, merges: 0, rewrites: 0 }
    }

    /// Lets five sixths of the rows come.
    pub(super) fn fill(&mut self, pool: &ThreadPool) -> Result<(), BenchError> {
        self.come(self.waiting.len() - self.waiting.len() / WAITING, pool)
    }

    /// A fifth of the points, drawn by lot, goes, and the rows that wait come.
    pub(super) fn turn(&mut self, pool: &ThreadPool) -> Result<(), BenchError> {
        let count = self.waiting.len();
        self.living.shuffle(&mut self.rng);
        for row in self.living.drain(..count) {
            self.points.delete(&PointId::Number(row as u64));
            self.waiting.push(row);
        }
        self.come(count, pool)
    }

    /// Lets rows come, those first that have waited longest, and does all jobs, so that every point is in a graph.
    fn come(&mut self, count: usize, pool: &ThreadPool) -> Result<(), BenchError> {
        for row in self.waiting.drain(..count) {
            self.version += 1;
            let id = PointId::Number(row as u64);
            self.points.upsert(id, self.version, self.rows.base.row(row), Bytes::new());
            self.living.push(row);
            if self.points.is_full() {
                self.points.seal(self.points.center());
            }
        }
        self.points.seal(self.points.center());
        while let Some(job) = self.points.plan() {
            self.work(job, pool)?;
        }
        Ok(())
    }

    fn work(&mut self, job: Job, pool: &ThreadPool) -> Result<(), BenchError> {
        match job {
            Job::Build { .. } => self.builds += 1,
            Job::Merge { .. } => self.merges += 1,
            Job::Rewrite { .. } => self.rewrites += 1,
            Job::Gather { .. } => {}
        }
        let input = self.points.begin(job).map_err(JobError::from)?;
        let product = pool.install(|| input.execute(&parameters(self.rows, self.tier), &Target::Memory, &|| false))?;
        self.points.install(product).map_err(JobError::from)?;
        Ok(())
    }

    pub(super) fn view(&mut self) -> Arc<View> {
        self.points.publish()
    }

    /// Jobs done so far, for people.
    pub(super) fn done(&self) -> String {
        let Self { builds, merges, rewrites, .. } = self;
        format!("{builds} builds, {merges} merges and {rewrites} rewrites so far")
    }
}
