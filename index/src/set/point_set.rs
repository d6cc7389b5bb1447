//! The writer.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use shoal_model::{Metric, PointId};

use super::error::SetError;
use super::frozen::Frozen;
use super::jobs::Running;
use super::known::Mark;
use super::part::{JobId, Part, PartId, PartKind};
use super::plan::{self, Job, Policy};
use super::restart::Restart;
use super::view::{Fresh, View};
use crate::delta::{Center, Delta, DeltaView};
use crate::segment::Segment;

/// All points, as one writer has them.
///
/// A call costs microseconds: an upsert asks sealed deltas and segments for the copy that it replaces, until one has it.
#[derive(Debug)]
pub struct PointSet {
    pub(super) dim: u32,
    pub(super) metric: Metric,
    pub(super) policy: Policy,
    active_id: PartId,
    active: Delta,
    /// The oldest first.
    pub(super) sealed: Vec<Sealed>,
    pub(super) segments: Vec<Held>,
    pub(super) jobs: BTreeMap<JobId, Running>,
    /// Shared with this set's jobs only, so that it knows them from those of another.
    pub(super) token: Arc<()>,
    /// Views that someone may still hold.
    pub(super) views: Vec<Weak<View>>,
    next: u64,
}

/// A delta that takes no new points.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) id: PartId,
    pub(super) delta: Delta,
    shown: Arc<DeltaView>,
    /// Whether points died since `shown`.
    is_stale: bool,
    pub(super) job: Option<JobId>,
}

/// A segment, and the job that it is in.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) part: Frozen,
    pub(super) job: Option<JobId>,
}

impl PointSet {
    /// An empty set of vectors of `dim` components, at least 1.
    #[must_use]
    pub fn new(dim: u32, metric: Metric, policy: Policy) -> Self {
        Self::around(dim, metric, policy, None)
    }

    /// The same with a centre for the codes of its active delta.
    fn around(dim: u32, metric: Metric, policy: Policy, center: Option<Center>) -> Self {
        Self {
            dim,
            metric,
            policy,
            active_id: PartId(0),
            active: Delta::around(dim, metric, center),
            sealed: Vec::new(),
            segments: Vec::new(),
            jobs: BTreeMap::new(),
            token: Arc::default(),
            views: Vec::new(),
            next: 1,
        }
    }

    /// A set that starts with segments of which nobody knows yet what still lives, and with sealed deltas to be filled, each
    /// around the centre it was given. They become parts in their order. `center` is that of the active delta.
    ///
    /// Errors: `Shape` if a segment is of another dimension or metric.
    pub fn with_segments(
        dim: u32,
        metric: Metric,
        policy: Policy,
        segments: Vec<Segment>,
        deltas: Vec<Option<Center>>,
        center: Option<Center>,
    ) -> Result<Restart, SetError> {
        Restart::new(Self::around(dim, metric, policy, center), segments, deltas)
    }

    /// Adds a point, or replaces the one of that id; tells the version of the one that it replaced.
    ///
    /// `version` is the log index of the write; `vector` passed `shoal_model::check_vector`; `payload` is packed. It is
    /// kept as it is given: a slice of a large buffer keeps all of that buffer.
    ///
    /// # Panics
    /// If the vector has not `dim` components: what is applied was checked before it was logged.
    pub fn upsert(&mut self, id: PointId, version: u64, vector: &[f32], payload: Bytes) -> Option<u64> {
        let point = id.clone();
        // If the active delta had it, nothing else has.
        self.active.upsert(id, version, vector, payload).or_else(|| self.bury(&point))
    }

    /// Removes a point; tells its version, if there was one.
    pub fn delete(&mut self, id: &PointId) -> Option<u64> {
        self.active.delete(id).or_else(|| self.bury(id))
    }

    /// What readers may see from now on: every point as it is at this moment.
    ///
    /// Costs a few `Arc` for each part and each chunk of a delta that changed, and once after it the copies that
    /// [`super::Live`] and `Delta` make of what is shared.
    pub fn publish(&mut self) -> Arc<View> {
        let active = Fresh { id: self.active_id, kind: PartKind::Active, points: self.active.publish() };
        let sealed = self.sealed.iter_mut().map(Sealed::show);
        let deltas = std::iter::once(active).chain(sealed).collect();
        let segments = self.segments.iter().map(|held| held.part.clone()).collect();
        let view = Arc::new(View::new(self.dim, self.metric, deltas, segments));
        self.views.retain(|view| view.strong_count() > 0);
        self.views.push(Arc::downgrade(&view));
        view
    }

    /// Whether the active delta is large enough to be sealed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.policy.is_full(self.active.len(), self.active.memory_bytes())
    }

    /// Whether the active delta is large enough to be sealed while nothing is written.
    #[must_use]
    pub fn is_worth_a_segment(&self) -> bool {
        self.policy.is_worth_a_segment(self.active.len(), self.active.memory_bytes())
    }

    /// Where points of the active delta lie on average: a centre for the next one. `None` if it has too few to tell, or codes
    /// are of no use. It depends on what else this set has seen: sets that are to answer alike are given one of them.
    #[must_use]
    pub fn center(&self) -> Option<Center> {
        self.active.center()
    }

    /// Has the active delta take no more points, and opens another with codes around `center`. `None` if it is empty, and then
    /// it stays as it is.
    pub fn seal(&mut self, center: Option<Center>) -> Option<PartId> {
        if self.active.is_empty() {
            return None;
        }
        let delta = std::mem::replace(&mut self.active, Delta::around(self.dim, self.metric, center));
        let next = self.next_part();
        let id = std::mem::replace(&mut self.active_id, next);
        self.sealed.push(Sealed::new(id, delta));
        Some(id)
    }

    /// The next job on parts that are in none.
    #[must_use]
    pub fn plan(&self) -> Option<Job> {
        plan::plan(&self.idle_parts(), &self.policy)
    }

    /// The next job on parts that are in none, while nothing is written.
    #[must_use]
    pub fn plan_quiet(&self) -> Option<Job> {
        plan::plan_quiet(&self.idle_parts(), &self.policy)
    }

    fn idle_parts(&self) -> Vec<Part> {
        let sealed = self.sealed.iter().filter(|sealed| sealed.job.is_none()).map(Sealed::part);
        let segments = self.segments.iter().filter(|held| held.job.is_none()).map(|held| held.part.part());
        sealed.chain(segments).collect()
    }

    /// How many points live.
    #[must_use]
    pub fn len(&self) -> usize {
        let sealed: usize = self.sealed.iter().map(|sealed| sealed.delta.len()).sum();
        let segments: usize = self.segments.iter().map(|held| held.part.live.count() as usize).sum();
        self.active.len() + sealed + segments
    }

    /// Whether no point lives.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory held, but for files that are mapped; what only views and jobs still hold is not.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let sealed: usize = self.sealed.iter().map(|sealed| sealed.delta.memory_bytes()).sum();
        let segments: usize = self.segments.iter().map(|held| held.part.memory_bytes()).sum();
        self.active.memory_bytes() + sealed + segments
    }

    /// The parts: the active delta, sealed ones, segments.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        let (live, bytes) = (self.active.len(), self.active.memory_bytes());
        let active = Part { id: self.active_id, kind: PartKind::Active, points: live, live, bytes };
        let sealed = self.sealed.iter().map(Sealed::part);
        std::iter::once(active).chain(sealed).chain(self.segments.iter().map(|held| held.part.part())).collect()
    }

    /// The segments.
    pub fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.iter().map(|held| &held.part.segment)
    }

    /// The segment whose graph has this checksum.
    #[must_use]
    pub fn segment_of(&self, checksum: u64) -> Option<PartId> {
        let is_it = |held: &&Held| held.part.segment.graph_image().checksum() == checksum;
        self.segments.iter().find(is_it).map(|held| held.part.id)
    }

    /// Tombstones a point outside of the active delta, and tells the job that has it. Returns its version.
    fn bury(&mut self, id: &PointId) -> Option<u64> {
        let mark = Mark::new(id);
        let sealed = self.sealed.iter_mut().find_map(|sealed| Some((sealed.bury(id)?, sealed.job)));
        let buried = sealed.or_else(|| self.segments.iter_mut().find_map(|held| held.bury(id, mark)));
        let (version, job) = buried?;
        if let Some(running) = job.and_then(|job| self.jobs.get_mut(&job)) {
            running.died.push(id.clone());
        }
        Some(version)
    }

    pub(super) fn next_part(&mut self) -> PartId {
        PartId(self.next_number())
    }

    pub(super) fn next_number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }
}

impl Sealed {
    pub(super) fn new(id: PartId, mut delta: Delta) -> Self {
        let shown = delta.publish();
        Self { id, delta, shown, is_stale: false, job: None }
    }

    fn bury(&mut self, id: &PointId) -> Option<u64> {
        let version = self.delta.delete(id);
        self.is_stale |= version.is_some();
        version
    }

    /// What readers may see of it.
    pub(super) fn show(&mut self) -> Fresh {
        if std::mem::take(&mut self.is_stale) {
            self.shown = self.delta.publish();
        }
        Fresh { id: self.id, kind: PartKind::Sealed, points: Arc::clone(&self.shown) }
    }

    fn part(&self) -> Part {
        let (live, bytes) = (self.delta.len(), self.delta.memory_bytes());
        Part { id: self.id, kind: PartKind::Sealed, points: live, live, bytes }
    }
}

impl Held {
    /// Tombstones a point; its version and the job that has it, if it lived here.
    fn bury(&mut self, id: &PointId, mark: Mark) -> Option<(u64, Option<JobId>)> {
        let offset = self.part.find(id, mark)?;
        let version = self.part.segment.versions()[offset as usize];
        self.part.live.bury(offset).then_some((version, self.job))
    }
}
