//! Asking a segment.

use std::cmp::Ordering;

use shoal_model::Metric;
use zerocopy::IntoBytes;

use super::calibration;
use super::entries;
use super::form::Form;
use super::frozen::Segment;
use super::layout::{DEGREE, Precision};
use super::queue::Waiting;
use super::sieve::{Wanted, sieve, starts};
use super::walk::{Breadth, Cancelled, Near, Scratch};
use crate::IndexError;
use crate::kernels::Kernels;
use crate::payload_index::Matches;
use crate::score::Exact;

/// Share of wanted points below which a scan of near cells finds them faster, or more surely, than a walk.
const NARROW: f64 = 0.1;

/// What the estimates of points that are not wanted are multiplied by: they are visited as bridges only.
const HANDICAP: f32 = 1.3;

/// Points that are looked for first where a score limits them.
const WITHIN_FIRST: usize = 32;

/// How many times as many are looked for next, while all that were found are near enough.
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

impl Segment {
    /// The nearest `k` points, nearly all of them, nearest first, ties by offset.
    ///
    /// With a score limit a large `k` costs no more than what lies within the limit: few are looked for at first, and
    /// more as long as all that were found are near enough.
    /// `scratch` is one of the thread's own and serves all segments; once it has grown, a search allocates its answer.
    /// Errors: `Dimension`; `Cancelled` within 200 µs of `stop` saying so.
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
            if hits.len() < k || k == k_max {
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
        let wanted = Wanted { live: query.live, filter: query.filter };
        let mut stats = if self.is_narrow(&wanted) {
            let cells = self.cells();
            let (estimated, hops) = sieve(cells, scratch, wanted, cells.form.width(k), query.stop)?;
            scratch.met.clear();
            scratch.met.extend(&scratch.nearest);
            WalkStats { hops, estimated, refined: 0 }
        } else {
            self.walk(scratch, query, k)?
        };
        let (hits, refined) = self.settle(scratch, query, k);
        stats.refined = refined;
        Ok((hits, stats))
    }

    /// Whether so few points are wanted that a scan finds them faster than a walk.
    fn is_narrow(&self, wanted: &Wanted<'_>) -> bool {
        let share = |count: u32| f64::from(count) / f64::from(self.len());
        wanted.filter.is_some_and(|filter| share(filter.len()) < NARROW)
    }

    fn walk(&self, scratch: &mut Scratch, query: &SegmentQuery<'_>, k: usize) -> Result<WalkStats, Cancelled> {
        let (form, entries, stop) = (self.form(), self.entries(), query.stop);
        let breadth = self.breadth(query.effort, k);
        let wanted = Wanted { live: query.live, filter: query.filter };
        let entry = entries::nearest(entries, &scratch.place).map(Waiting::start);
        let entry = entry.as_slice();
        let lives = |live: &[u64], offset: u32| live[offset as usize / 64] >> (offset % 64) & 1 == 1;
        let hops = match (query.live, query.filter) {
            (None, None) => form.walk(scratch, entry, breadth, |_| 1.0, |_| true, stop),
            // The dead are few: segments that have many are rewritten.
            (Some(live), None) => form.walk(scratch, entry, breadth, |_| 1.0, |offset| lives(live, offset), stop),
            (_, Some(_)) => self.walk_among(scratch, wanted, breadth, stop),
        }?;
        let estimated = (hops + entries.len() as u64) * DEGREE as u64;
        Ok(WalkStats { hops, estimated, refined: 0 })
    }

    /// Walks from wanted points, others being visited as bridges only.
    fn walk_among(
        &self,
        scratch: &mut Scratch,
        wanted: Wanted<'_>,
        breadth: Breadth,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<u64, Cancelled> {
        wanted.write(self.len() as usize, &mut scratch.sieve.wanted);
        starts(self.cells(), scratch, stop)?;
        let (bits, starts) = (std::mem::take(&mut scratch.sieve.wanted), std::mem::take(&mut scratch.sieve.starts));
        let has = |offset: u32| bits[offset as usize / 64] >> (offset % 64) & 1 == 1;
        let handicap = |offset| if has(offset) { 1.0 } else { HANDICAP };
        let walked = self.form().walk(scratch, &starts, breadth, handicap, has, stop);
        (scratch.sieve.wanted, scratch.sieve.starts) = (bits, starts);
        walked
    }

    fn breadth(&self, effort: Effort, k: usize) -> Breadth {
        let sample = match effort {
            Effort::Recall(recall) => calibration::for_recall(&self.samples, recall),
            #[allow(clippy::cast_precision_loss, reason = "beams are far below 2^24")]
            Effort::Beam(beam) => calibration::for_hops(&self.samples, beam as f32),
        };
        sample.map_or(Breadth::beam(k), |sample| sample.breadth(k))
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
        sort(metric, &mut hits);
        hits.truncate(k);
        (hits, refined)
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

fn sort(metric: Metric, hits: &mut [Hit]) {
    hits.sort_unstable_by(|a, b| metric.compare(a.score, b.score).then(a.offset.cmp(&b.offset)));
}
