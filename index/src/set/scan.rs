//! Comparing points of a segment one by one: exact, whatever they are.
//!
//! As in the scan of a delta, a distance in `f32` brackets each score, and those too close to call are settled in `f64`.

use std::cmp::Ordering;

use shoal_model::PointId;

use crate::IndexError;
use crate::delta::SearchStats;
use crate::delta::bound::Bound;
use crate::delta::candidates::{Candidate, Candidates};
use crate::kernels::{Kernels, Query};
use crate::score::Exact;
use crate::segment::{Hit, Segment};

/// Bytes of vectors between two questions whether the answer is still wanted: some 50 µs.
const PATIENCE_BYTES: usize = 256 << 10;

/// What is looked for.
pub(super) struct Wanted<'a> {
    pub(super) vector: &'a [f32],
    /// At least 1.
    pub(super) k: usize,
    pub(super) score_limit: Option<f32>,
    pub(super) stop: &'a (dyn Fn() -> bool + Sync),
}

/// The nearest of the points at `offsets`, nearest first, ties by id. Every vector is held against its checksum: one that is
/// damaged may be that of a point that is near. Errors: `Cancelled`, `Damaged`.
pub(super) fn scan(
    segment: &Segment,
    offsets: &[u32],
    wanted: &Wanted<'_>,
) -> Result<(Vec<(PointId, Hit)>, SearchStats), IndexError> {
    let metric = segment.metric();
    let bound = Bound::new(metric, wanted.vector);
    let query = Query::new(bound.query());
    let floor = wanted.score_limit.map_or(f64::NEG_INFINITY, |limit| Bound::nearness_of_score(metric, limit));
    let mut candidates = Candidates::new(wanted.k, floor);
    let (kernels, vectors) = (Kernels::best(), segment.sent());
    for batch in wanted.batches(offsets) {
        wanted.ask()?;
        for &offset in batch {
            let (compared, scale) = vectors.compare(kernels, &query, offset).ok_or_else(|| damaged(segment))?;
            let interval = bound.interval(compared, scale);
            if candidates.admit(interval) {
                candidates.push(interval, offset);
            }
        }
    }
    let candidates: Vec<u32> = candidates.into_rows().into_iter().map(|Candidate { row, .. }| row).collect();
    let stats =
        SearchStats { scanned: offsets.len() as u64, rescored: candidates.len() as u64, ..SearchStats::default() };
    Ok((settle(segment, &candidates, wanted)?, stats))
}

pub(super) fn damaged(segment: &Segment) -> IndexError {
    IndexError::Damaged { segment: segment.graph_image().checksum() }
}

/// Scores the candidates exactly and keeps the nearest `k` within the limit, in order.
fn settle(segment: &Segment, candidates: &[u32], wanted: &Wanted<'_>) -> Result<Vec<(PointId, Hit)>, IndexError> {
    let (metric, k) = (segment.metric(), wanted.k);
    let exact = Exact::new(metric, wanted.vector);
    let mut vector = vec![0.0; wanted.vector.len()];
    let mut hits = Vec::with_capacity(candidates.len());
    for batch in wanted.batches(candidates) {
        wanted.ask()?;
        for &offset in batch {
            segment.read_vector(offset, &mut vector);
            hits.push(Hit { offset, score: exact.score(&vector) });
        }
    }
    let beyond = |hit: &Hit, limit: f32| metric.compare(hit.score, limit) == Ordering::Greater;
    hits.retain(|hit| wanted.score_limit.is_none_or(|limit| !beyond(hit, limit)));
    if hits.len() > k {
        let (_, last, _) = hits.select_nth_unstable_by(k - 1, |a, b| metric.compare(a.score, b.score));
        let limit = last.score;
        hits.retain(|hit| !beyond(hit, limit));
    }
    let mut hits: Vec<(PointId, Hit)> = hits.into_iter().map(|hit| (segment.id(hit.offset), hit)).collect();
    hits.sort_unstable_by(|a, b| metric.compare(a.1.score, b.1.score).then_with(|| a.0.cmp(&b.0)));
    hits.truncate(k);
    Ok(hits)
}

impl Wanted<'_> {
    /// Points in batches, of so many that it is time to ask again.
    fn batches<'o>(&self, offsets: &'o [u32]) -> std::slice::Chunks<'o, u32> {
        offsets.chunks((PATIENCE_BYTES / size_of_val(self.vector)).max(1))
    }

    /// Errors: `Cancelled`.
    fn ask(&self) -> Result<(), IndexError> {
        if (self.stop)() { Err(IndexError::Cancelled) } else { Ok(()) }
    }
}
