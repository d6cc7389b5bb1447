//! Asking a segment.

use std::cmp::Ordering;

use shoal_model::Metric;
use zerocopy::IntoBytes;

use super::bounds::{self, Bounds};
use super::calibration::{self, Sample};
use super::entries;
use super::form::Form;
use super::frozen::Segment;
use super::layout::{DEGREE, Precision};
use super::packed::Packed;
use super::queue::Waiting;
use super::sieve::{Among, SKETCH_NS, Scan, Wanted, Work, compare_all, point_ns};
use super::walk::{Breadth, Cancelled, Near, Path, Scratch};
use crate::IndexError;
use crate::bits::is_set;
use crate::kernels::Kernels;
use crate::payload_index::Matches;
use crate::score::Exact;

/// Where more than one in so many points passes a filter, a walk is tried before a scan, if a scan of all that passes would
/// take longer.
const WIDE_SHARE: u32 = 10;

/// What a hop takes, in nanoseconds: see `sieve`.
const HOP_NS: f32 = 700.0;

/// A walk among a share of the points takes as many hops as one among all, over the share to this power.
const THINNING: f32 = 0.7;

/// Where one in so many of the points that a walk visited is dead, they may be why it found too few.
const DEAD_SHARE: u64 = 8;

/// Points that are looked for first where a score limits them.
const WITHIN_FIRST: usize = 32;

/// How many times as many are looked for next, while most that were found are near enough.
const WITHIN_STEP: usize = 4;

/// How hard to look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effort {
    /// As hard as it takes to find this share of the nearest, by the segment's own calibration.
    Recall(f32),
    /// As hard as visiting so many points on average: the `ef` of other indexes.
    Beam(usize),
}

/// What is looked for in one segment.
pub struct SegmentQuery<'a> {
    /// As many components as the segment has dimensions; passed `shoal_model::check_vector`.
    pub vector: &'a [f32],
    /// How many points are wanted at most.
    pub k: usize,
    /// How hard to look.
    pub effort: Effort,
    /// Which points live, a bit each, by offset; `None` if all do.
    pub live: Option<&'a [u64]>,
    /// Only points among them.
    pub filter: Option<&'a Matches>,
    /// The same points, as this segment packed them: worth it if many queries have this filter.
    pub packed: Option<&'a Packed>,
    /// Only points at least this near: a lowest score for cosine and dot, a highest for euclidean.
    pub score_limit: Option<f32>,
    /// Asked as the search goes; once it says yes, the search ends with `Cancelled`.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// A point that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Where it is in its segment.
    pub offset: u32,
    /// The metric's quantity between query and vector, in `f64`, rounded once.
    pub score: f32,
}

/// What a search of a segment did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalkStats {
    /// Points visited: their vectors were compared with the query.
    pub hops: u64,
    /// Distances estimated from codes.
    pub estimated: u64,
    /// Points that were scored again in `f64`.
    pub refined: u64,
}

impl WalkStats {
    /// Adds what another search did.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.hops += other.hops;
        self.estimated += other.estimated;
        self.refined += other.refined;
    }
}

impl From<Cancelled> for IndexError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl From<Work> for WalkStats {
    fn from(work: Work) -> Self {
        Self { hops: work.compared, estimated: work.estimated, refined: 0 }
    }
}

impl Segment {
    /// The nearest `k` points, nearly all of them, nearest first, ties by id.
    ///
    /// With a score limit a large `k` costs no more than what lies within the limit: few are looked for at first, and
    /// more as long as most that were found are near enough.
    /// `scratch` is one of the thread's own and serves all segments; once it has grown, a search allocates its answer.
    /// Errors: `Dimension`; `Cancelled` within 200 µs of `stop` saying so.
    ///
    /// # Panics
    /// If points were packed by another segment.
    pub fn search(&self, scratch: &mut Scratch, query: &SegmentQuery<'_>) -> Result<(Vec<Hit>, WalkStats), IndexError> {
        if query.vector.len() != self.space.dim() {
            let got = u32::try_from(query.vector.len()).unwrap_or(u32::MAX);
            return Err(IndexError::Dimension { want: self.dim(), got });
        }
        scratch.place.set(&self.space, &self.rotation, &self.center, query.vector);
        if self.precision() == Precision::Compact {
            scratch.place.narrow();
        }
        let k_max = query.k.min(self.len() as usize);
        let mut k = if query.score_limit.is_some() { k_max.min(WITHIN_FIRST) } else { k_max };
        let mut stats = WalkStats::default();
        loop {
            let (hits, work) = self.search_place(scratch, query, k)?;
            stats.merge(&work);
            // A few that are beyond the limit may be there for others within it that were missed.
            if 2 * hits.len() < k || k == k_max {
                return Ok((hits, stats));
            }
            k = k_max.min(WITHIN_STEP * k);
        }
    }

    /// The nearest `k` points to the place that is set.
    fn search_place(
        &self,
        scratch: &mut Scratch,
        query: &SegmentQuery<'_>,
        k: usize,
    ) -> Result<(Vec<Hit>, WalkStats), IndexError> {
        if k == 0 {
            return Ok(Default::default());
        }
        let mut stats = match query.filter {
            Some(filter) => self.among(scratch, query, Wanted { live: query.live, filter }, k)?,
            None => self.walk(scratch, query, k)?,
        };
        let (hits, refined) = self.settle(scratch, query, k);
        stats.refined = refined;
        Ok((hits, stats))
    }

    fn walk(&self, scratch: &mut Scratch, query: &SegmentQuery<'_>, k: usize) -> Result<WalkStats, Cancelled> {
        let (form, entries, stop) = (self.form(), self.entries(), query.stop);
        let breadth = self.breadth(query.effort, k);
        let entry = entries::nearest(entries, &scratch.place).map(Waiting::start);
        let entry = entry.as_slice();
        let mut dead = 0;
        let Path { visited, is_cut, .. } = match query.live {
            None => form.walk(scratch, entry, breadth, |_| 1.0, |_| true, stop),
            Some(live) => {
                let lives = |offset: u32| {
                    let lives = is_set(live, offset);
                    dead += u64::from(!lives);
                    lives
                };
                form.walk(scratch, entry, breadth, |_| 1.0, lives, stop)
            }
        }?;
        let estimated = (visited + entries.len() as u64) * DEGREE as u64;
        let mut stats = WalkStats { hops: visited, estimated, refined: 0 };
        // All of a region may be dead, however few that are of the segment: the living behind it are looked for as what
        // passes a filter is.
        if let Some(live) = query.live
            && is_cut
            && DEAD_SHARE * dead >= visited
        {
            let among = Among { wanted: live, packed: None, is_whole: true };
            stats.merge(&self.among_bits(scratch, query, among, k)?);
        }
        Ok(stats)
    }

    /// Looks for wanted points only: compares all if they are few; walks if they are many; else scans near cells, or walks
    /// from what it found in the nearest, whichever seems to cost less. A walk that leads nowhere ends in a scan.
    ///
    /// Whether points are packed decides none of it, so that the answer does not depend on what was asked before.
    fn among(
        &self,
        scratch: &mut Scratch,
        query: &SegmentQuery<'_>,
        wanted: Wanted<'_>,
        k: usize,
    ) -> Result<WalkStats, Cancelled> {
        let is_own = query.packed.is_none_or(|packed| packed.points() == self.len());
        assert!(is_own, "points are packed by the segment that is searched");
        if let Some(few) = wanted.few() {
            return Ok(compare_all(self.form(), scratch, few, self.form().width(k)).into());
        }
        let mut bits = std::mem::take(&mut scratch.sieve.wanted);
        let found = {
            let wanted = wanted.write(self.len() as usize, &mut bits);
            let among = Among { wanted, packed: query.packed, is_whole: query.live.is_none() };
            self.among_bits(scratch, query, among, k)
        };
        scratch.sieve.wanted = bits;
        found
    }

    fn among_bits(
        &self,
        scratch: &mut Scratch,
        query: &SegmentQuery<'_>,
        among: Among<'_>,
        k: usize,
    ) -> Result<WalkStats, Cancelled> {
        let mut stats = WalkStats::default();
        let passing = self.passing(query);
        let all_ns = passing as f32 * point_ns(passing);
        if is_wide(passing, self.len()) && self.walk_ns(query.effort, k, self.share(query)) < all_ns {
            let entry = entries::nearest(self.entries(), &scratch.place).map(Waiting::start);
            let visits_max = visits_for(passing as f32 * SKETCH_NS);
            if self.walk_among(scratch, query, among.wanted, (entry.as_slice(), visits_max), k, &mut stats)? {
                return Ok(stats);
            }
        }
        let (bounds, width) = (self.bounds(query.effort), self.form().width(k));
        let scan = Scan::begin(self.cells(), scratch, among, width, bounds, query.stop)?;
        let outlook = scan.outlook();
        let scan_ns = outlook.ns(point_ns(passing));
        let is_last = outlook.is_all || stats != WalkStats::default();
        if is_last || scan_ns <= self.walk_ns(query.effort, k, outlook.share) {
            stats.merge(&scan.finish()?.into());
            return Ok(stats);
        }
        stats.merge(&scan.stop().into());
        let starts = starts(scratch);
        let visits_max = visits_for(2.0 * scan_ns);
        let arrived = self.walk_among(scratch, query, among.wanted, (&starts, visits_max), k, &mut stats);
        scratch.sieve.starts = starts;
        if !arrived? {
            let scan = Scan::begin(self.cells(), scratch, among, width, bounds, query.stop)?;
            stats.merge(&scan.finish()?.into());
        }
        Ok(stats)
    }

    /// Walks among wanted points, with so many visits at most. Tells whether that led anywhere: it does not where what
    /// passes lies so far from the query, or so far apart, that a scan takes less.
    fn walk_among(
        &self,
        scratch: &mut Scratch,
        query: &SegmentQuery<'_>,
        wanted: &[u64],
        (starts, hops_max): (&[Waiting], u64),
        k: usize,
        stats: &mut WalkStats,
    ) -> Result<bool, Cancelled> {
        let breadth = Breadth { hops_max, ..self.breadth_among(query.effort, self.share(query), k) };
        let path = self.form().walk_among(scratch, starts, breadth, |offset| is_set(wanted, offset), query.stop)?;
        stats.merge(&WalkStats { hops: path.compared, estimated: path.visited * DEGREE as u64, refined: 0 });
        Ok(!path.is_cut)
    }

    /// How many points pass a filter, dead ones included.
    fn passing(&self, query: &SegmentQuery<'_>) -> u32 {
        query.filter.map_or(self.len(), Matches::len)
    }

    /// The share of all points that passes.
    fn share(&self, query: &SegmentQuery<'_>) -> f32 {
        self.passing(query) as f32 / self.len() as f32
    }

    /// What a walk among such a share of the points takes, in nanoseconds.
    fn walk_ns(&self, effort: Effort, k: usize, share: f32) -> f32 {
        HOP_NS * self.hops(effort, k) / share.powf(THINNING)
    }

    fn bounds(&self, effort: Effort) -> Bounds {
        bounds::for_recall(&self.bounds, bounds::cautious(self.recall(effort)))
    }

    fn recall(&self, effort: Effort) -> f32 {
        match effort {
            Effort::Recall(recall) => recall,
            Effort::Beam(_) => self.sample(effort).map_or(1.0, |sample| sample.recall),
        }
    }

    /// What a walk among all points takes.
    fn hops(&self, effort: Effort, k: usize) -> f32 {
        let sample = self.sample(effort).map_or(f32::MAX, |sample| sample.hops);
        sample * (k as f32 / calibration::K as f32).max(1.0).powf(THINNING)
    }

    fn sample(&self, effort: Effort) -> Option<Sample> {
        match effort {
            Effort::Recall(recall) => calibration::for_recall(&self.samples, calibration::careful(recall)),
            #[allow(clippy::cast_precision_loss, reason = "beams are far below 2^24")]
            Effort::Beam(beam) => calibration::for_hops(&self.samples, beam as f32),
        }
    }

    fn breadth(&self, effort: Effort, k: usize) -> Breadth {
        self.sample(effort).map_or(Breadth::beam(k), |sample| sample.breadth(k))
    }

    /// The same of walks among so large a share of the points: between what all take and what few take.
    fn breadth_among(&self, effort: Effort, share: f32, k: usize) -> Breadth {
        let breadth = self.breadth(effort, k);
        let few = calibration::for_recall(&self.among, bounds::cautious(self.recall(effort)));
        let more = few.map_or(0.0, |few| few.slack - breadth.slack).max(0.0);
        let missing = (1.0 / share - 1.0) / (calibration::SPARSE as f32 - 1.0);
        Breadth { slack: breadth.slack + more * missing.sqrt().min(1.0), ..breadth }
    }

    /// Scores what the walk left in `scratch`, nearest first, and how many that were.
    fn settle(&self, scratch: &mut Scratch, query: &SegmentQuery<'_>, k: usize) -> (Vec<Hit>, u64) {
        let metric = self.space.metric();
        let form = self.form();
        let mut hits =
            if form.is_coded() { self.score_met(form, scratch, query, k) } else { self.score_nearest(scratch, query) };
        let refined = hits.len() as u64;
        if let Some(limit) = query.score_limit {
            hits.retain(|hit| metric.compare(hit.score, limit) != Ordering::Greater);
        }
        hits.sort_unstable_by(|a, b| metric.compare(a.score, b.score).then(a.offset.cmp(&b.offset)));
        self.order_ties(metric, &mut hits);
        hits.truncate(k);
        (hits, refined)
    }

    /// Puts hits of one score in the order of their ids, which are read for no others.
    fn order_ties(&self, metric: Metric, hits: &mut [Hit]) {
        for tied in hits.chunk_by_mut(|a, b| metric.compare(a.score, b.score) == Ordering::Equal) {
            if tied.len() > 1 {
                tied.sort_by_cached_key(|hit| self.id(hit.offset));
            }
        }
    }

    /// Scores the nearest, whose distances are as good as their vectors.
    fn score_nearest(&self, scratch: &mut Scratch, query: &SegmentQuery<'_>) -> Vec<Hit> {
        let exact = Exact::new(self.space.metric(), query.vector);
        scratch.row.resize(self.space.dim(), 0.0);
        let row = &mut scratch.row;
        let score = |near: Near| {
            self.read_vector(near.offset, row);
            Hit { offset: near.offset, score: exact.score(row) }
        };
        scratch.nearest.drain().map(score).collect()
    }

    /// Scores those points that were met and may be among the nearest `k`, by the vectors that are stored.
    fn score_met(&self, form: Form<'_>, scratch: &mut Scratch, query: &SegmentQuery<'_>, k: usize) -> Vec<Hit> {
        let exact = Exact::new(self.space.metric(), query.vector);
        let mut hits = Vec::with_capacity(2 * k);
        let vectors = self.stored_vectors();
        let dim = self.space.dim();
        let vector = |offset: u32| &vectors[offset as usize * dim..][..dim];
        let prefetch = |offset| Kernels::prefetch(vector(offset).as_bytes());
        form.refine(scratch, k, prefetch, |place, near| {
            let vector = vector(near.offset);
            hits.push(Hit { offset: near.offset, score: exact.score(vector) });
            place.distance_of(vector, form.vector_scale(near.offset))
        });
        hits
    }
}

/// Where a walk starts after a scan of the nearest cells: from the nearest of their points, in the order of their distances
/// whatever order they came in.
fn starts(scratch: &mut Scratch) -> Vec<Waiting> {
    let mut starts = std::mem::take(&mut scratch.sieve.starts);
    starts.clear();
    starts.extend(scratch.nearest.drain().map(|near| Waiting { estimate: near.distance, offset: near.offset }));
    starts.sort_unstable_by(|a, b| a.estimate.total_cmp(&b.estimate).then(a.offset.cmp(&b.offset)));
    starts
}

/// Visits that take so long.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rough, and casts saturate")]
fn visits_for(ns: f32) -> u64 {
    (ns / HOP_NS) as u64
}

/// Whether so many points pass that a walk among them may be tried first.
fn is_wide(passing: u32, points: u32) -> bool {
    passing > points / WIDE_SHARE
}
