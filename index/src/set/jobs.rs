//! Jobs: parts in, one segment out.
//!
//! What a job reads never changes. What dies in its parts meanwhile is written down by id and is dead in the segment
//! when that takes their place, all within [`PointSet::install`]; a point that died cannot come back into these parts,
//! as new versions go to the active delta.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use shoal_model::planted::{Bug, is_planted};
use shoal_model::{Metric, PointId};

use super::error::{self, SetError};
use super::frozen::Frozen;
use super::live::Live;
use super::part::{JobId, PartId};
use super::plan::Job;
use super::point_set::{Held, PointSet};
use super::view::View;
use crate::delta::{Delta, DeltaRow, DeltaView};
use crate::segment::{BuildError, MergePart, Parameters, Rows, Segment, Target};

/// Jobs are numbered through all sets of the process: a set may take another's place while a job of that one still runs,
/// whose product must not pass for one of its own jobs.
static LAST_JOB: AtomicU64 = AtomicU64::new(0);

/// A job that runs, as the writer knows it.
#[derive(Debug)]
pub(super) struct Running {
    job: Job,
    /// Points that were given to it and have died since, in that order.
    pub(super) died: Vec<PointId>,
}

/// The parts of a job as they were when it began. Everything in it is immutable and may be read on any thread.
#[derive(Debug)]
pub struct JobInput {
    id: JobId,
    token: Arc<()>,
    dim: u32,
    metric: Metric,
    job: Job,
    deltas: Vec<Arc<DeltaView>>,
    segments: Vec<Frozen>,
}

/// What a job made of its input.
#[derive(Debug)]
pub struct Product {
    id: JobId,
    token: Arc<()>,
    /// `None` if there was nothing left to make it of. Its number comes when it is installed.
    pub(super) segment: Option<Frozen>,
    /// How many of the job's dead it knows.
    buried: usize,
}

/// Why a job came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The segment could not be made.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The segment is not what was asked for.
    #[error(transparent)]
    Set(#[from] SetError),
}

/// Points of a job that died since it began, but for those that its product knew.
#[derive(Debug)]
pub struct Died {
    job: JobId,
    first: usize,
    ids: Vec<PointId>,
}

/// What [`PointSet::install`] changed.
#[derive(Debug)]
pub struct Installed {
    /// The new segment; `None` if none of its points lives, so that it is no part.
    pub part: Option<PartId>,
    /// The parts that it replaced.
    pub replaced: Vec<PartId>,
    /// What is left of them, to be dropped where that may take its time.
    pub retired: Retired,
}

/// Parts that are no more, kept so that no reader of an older view is the one to give their memory back.
#[derive(Debug, Default)]
pub struct Retired {
    deltas: Vec<Delta>,
    segments: Vec<Arc<Segment>>,
    views: Vec<Weak<View>>,
}

impl PointSet {
    /// Begins a job, such as [`PointSet::plan`] names: its parts are in no other until it ends.
    ///
    /// Errors: `NoSuchPart`, `Busy`.
    pub fn begin(&mut self, job: Job) -> Result<JobInput, SetError> {
        self.check_job(&job)?;
        let id = JobId(LAST_JOB.fetch_add(1, Ordering::Relaxed) + 1);
        let (mut deltas, mut segments) = (Vec::new(), Vec::new());
        for sealed in self.sealed.iter_mut().filter(|sealed| job.parts().contains(&sealed.id)) {
            sealed.job = Some(id);
            deltas.push(sealed.show().points);
        }
        for held in self.segments.iter_mut().filter(|held| job.parts().contains(&held.part.id)) {
            held.job = Some(id);
            segments.push(held.part.clone());
        }
        self.jobs.insert(id, Running { job: job.clone(), died: Vec::new() });
        let token = Arc::clone(&self.token);
        Ok(JobInput { id, token, dim: self.dim, metric: self.metric, job, deltas, segments })
    }

    fn check_job(&self, job: &Job) -> Result<(), SetError> {
        for (i, part) in job.parts().iter().enumerate() {
            let sealed = || self.sealed.iter().find(|sealed| sealed.id == *part).map(|sealed| sealed.job);
            let segment = || self.segments.iter().find(|held| held.part.id == *part).map(|held| held.job);
            let taken = match job {
                Job::Build { .. } => sealed(),
                Job::Merge { .. } | Job::Rewrite { .. } => segment(),
                Job::Gather { .. } => sealed().or_else(segment),
            };
            let taken = taken.ok_or(SetError::NoSuchPart { part: *part })?;
            if taken.is_some() || job.parts()[..i].contains(part) {
                return Err(SetError::Busy { part: *part });
            }
        }
        Ok(())
    }

    /// Puts a product in the place of its job's parts, for all views published from now on.
    ///
    /// Looks up each point that died since the job began, some microseconds each; [`PointSet::died`] lets another thread
    /// do that for most of them before.
    /// Errors: `NoSuchJob` if it was abandoned, or is of another set.
    pub fn install(&mut self, mut product: Product) -> Result<Installed, SetError> {
        let id = product.id;
        self.running(&product)?;
        let Running { job, died } = self.jobs.remove(&id).ok_or(SetError::NoSuchJob { job: id })?;
        if !is_planted(Bug::ForgetDiedDuringJob) {
            product.bury_all(&died[product.buried.min(died.len())..]);
        }
        let retired = self.retire(id);
        let part = product.segment.filter(|part| part.live.count() > 0).map(|mut part| {
            let id = self.next_part();
            part.id = id;
            self.segments.push(Held { part, job: None });
            id
        });
        Ok(Installed { part, replaced: job.parts().to_vec(), retired })
    }

    /// Ends a job without a product; its parts are free for others. Errors: `NoSuchJob`.
    pub fn abandon(&mut self, job: JobId) -> Result<(), SetError> {
        self.jobs.remove(&job).ok_or(SetError::NoSuchJob { job })?;
        let of_job = |taken: &&mut Option<JobId>| **taken == Some(job);
        let sealed = self.sealed.iter_mut().map(|sealed| &mut sealed.job);
        let segments = self.segments.iter_mut().map(|held| &mut held.job);
        sealed.chain(segments).filter(of_job).for_each(|taken| *taken = None);
        Ok(())
    }

    /// What has died that a product does not know yet, for [`Product::bury`]. Errors: `NoSuchJob`.
    pub fn died(&self, product: &Product) -> Result<Died, SetError> {
        let (job, first) = (product.id, product.buried);
        let died = &self.running(product)?.died;
        Ok(Died { job, first, ids: died[first.min(died.len())..].to_vec() })
    }

    fn running(&self, product: &Product) -> Result<&Running, SetError> {
        let job = product.id;
        let own = Some(job).filter(|_| Arc::ptr_eq(&product.token, &self.token));
        own.and_then(|job| self.jobs.get(&job)).ok_or(SetError::NoSuchJob { job })
    }

    /// Takes the parts of a job out.
    fn retire(&mut self, job: JobId) -> Retired {
        let sealed = self.sealed.extract_if(.., |sealed| sealed.job == Some(job));
        let deltas = sealed.map(|sealed| sealed.delta).collect();
        let segments = self.segments.extract_if(.., |held| held.job == Some(job));
        let segments = segments.map(|held| held.part.segment).collect();
        Retired { deltas, segments, views: self.views.clone() }
    }
}

impl JobInput {
    /// The job's number.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// What the job is.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// How many points it is about.
    #[must_use]
    pub fn len(&self) -> usize {
        let deltas: usize = self.deltas.iter().map(|delta| delta.len()).sum();
        deltas + self.segments.iter().map(|part| part.live.count() as usize).sum::<usize>()
    }

    /// Whether nothing lives in the parts: [`JobInput::nothing`] drops them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The segments, and what of them lived, for a merge that reads them in their frozen form.
    #[must_use]
    pub fn segments(&self) -> &[Frozen] {
        &self.segments
    }

    /// All points, for a build from scratch. Memory: a copy of every vector, and of the payload of segments.
    #[must_use]
    pub fn rows(&self) -> Rows {
        let mut rows = Rows::with_capacity(self.dim, self.len());
        for delta in &self.deltas {
            for DeltaRow { id, version, vector, payload } in delta.rows() {
                rows.push(id.clone(), version, vector, payload.clone());
            }
        }
        let mut vector = vec![0.0; self.dim as usize];
        for Frozen { segment, live, .. } in &self.segments {
            for offset in live.offsets() {
                segment.read_vector(offset, &mut vector);
                let payload = Bytes::copy_from_slice(segment.payload(offset));
                rows.push(segment.id(offset), segment.versions()[offset as usize], &vector, payload);
            }
        }
        rows
    }

    /// Does the job, on the threads of the current rayon pool: makes a segment of what lives in the parts, writes it to
    /// `target`, and looks it through.
    ///
    /// Errors: all of [`JobError`]; files may be left behind then.
    pub fn execute(
        &self,
        parameters: &Parameters,
        target: &Target,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Product, JobError> {
        if self.is_empty() {
            return Ok(self.nothing()?);
        }
        if let Job::Gather { .. } = self.job {
            // A merge does that by itself: damage must not be written with good checksums.
            self.segments.iter().try_for_each(|part| part.segment.verify()).map_err(BuildError::Part)?;
        }
        let segment = match self.job {
            Job::Build { .. } | Job::Gather { .. } => Segment::build(&self.rows(), parameters, target, stop),
            Job::Merge { .. } | Job::Rewrite { .. } => Segment::merge(&self.merge_parts(), parameters, target, stop),
        };
        Ok(self.product(segment?)?)
    }

    fn merge_parts(&self) -> Vec<MergePart<'_>> {
        let parts = self.segments.iter();
        parts.map(|part| MergePart { segment: &part.segment, live: part.live.tombstoned() }).collect()
    }

    /// A segment that was made of this input, looked through: it has every point in the version that was given, and
    /// no other. Takes some microseconds a point. Errors: `Shape`, `Count`, `Lost`.
    pub fn product(&self, segment: Segment) -> Result<Product, SetError> {
        error::check_shape(self.dim, self.metric, &segment)?;
        let (job, want, got) = (self.id, self.len(), segment.len() as usize);
        if want != got {
            return Err(SetError::Count { job, want, got });
        }
        // As many points as were given, each id of them once: none can be there that was not given.
        let versions = segment.versions();
        let check = |id: &PointId, version: u64| match segment.find(id) {
            Some(offset) if versions[offset as usize] == version => Ok(()),
            _ => Err(SetError::Lost { job, id: id.clone() }),
        };
        for delta in &self.deltas {
            delta.rows().try_for_each(|row| check(row.id, row.version))?;
        }
        for Frozen { segment, live, .. } in &self.segments {
            let versions = segment.versions();
            live.offsets().try_for_each(|offset| check(&segment.id(offset), versions[offset as usize]))?;
        }
        let live = Live::all(segment.len());
        Ok(self.product_of(Some(Frozen::new(PartId(0), segment, live))))
    }

    /// A segment that was made elsewhere of the same parts, at an earlier moment: what has died since is dead in it. Looked
    /// through as by [`JobInput::product`]. Errors: `Shape`, `Lost`.
    pub fn adopt(&self, segment: Segment) -> Result<Product, SetError> {
        error::check_shape(self.dim, self.metric, &segment)?;
        let len = segment.len();
        let mut live = if is_planted(Bug::AdoptTheDead) { Live::all(len) } else { Live::none(len) };
        let versions = segment.versions();
        let mut raise = |id: &PointId, version: u64| match segment.find(id) {
            Some(offset) if versions[offset as usize] == version => {
                live.raise(offset);
                Ok(())
            }
            _ => Err(SetError::Lost { job: self.id, id: id.clone() }),
        };
        for delta in &self.deltas {
            delta.rows().try_for_each(|row| raise(row.id, row.version))?;
        }
        for Frozen { segment, live, .. } in &self.segments {
            let versions = segment.versions();
            live.offsets().try_for_each(|offset| raise(&segment.id(offset), versions[offset as usize]))?;
        }
        Ok(self.product_of(Some(Frozen::new(PartId(0), segment, live))))
    }

    /// The product of an input without points. Errors: `Count` if it has some.
    pub fn nothing(&self) -> Result<Product, SetError> {
        match self.len() {
            0 => Ok(self.product_of(None)),
            want => Err(SetError::Count { job: self.id, want, got: 0 }),
        }
    }

    fn product_of(&self, segment: Option<Frozen>) -> Product {
        Product { id: self.id, token: Arc::clone(&self.token), segment, buried: 0 }
    }
}

impl Died {
    /// How many points that are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

impl Product {
    /// The job whose parts it takes the place of.
    #[must_use]
    pub fn job(&self) -> JobId {
        self.id
    }

    /// The segment that was made; `None` if there was nothing left to make it of.
    #[must_use]
    pub fn segment(&self) -> Option<&Arc<Segment>> {
        self.segment.as_ref().map(|part| &part.segment)
    }

    /// Tombstones points that died since the job began, so that the install need not look them up.
    pub fn bury(&mut self, died: &Died) {
        if died.job == self.id && died.first <= self.buried {
            self.bury_all(&died.ids);
            self.buried = self.buried.max(died.first + died.ids.len());
        }
    }

    fn bury_all(&mut self, ids: &[PointId]) {
        let Some(part) = &mut self.segment else { return };
        for offset in ids.iter().filter_map(|id| part.segment.find(id)) {
            part.live.bury(offset);
        }
    }
}

impl Retired {
    /// Whether no view shows these parts any more, so that dropping them gives their memory back here and now.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.views.iter().all(|view| view.strong_count() == 0)
    }

    /// How many parts there are.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.deltas.len() + self.segments.len()
    }
}
