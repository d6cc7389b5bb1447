//! Exact search: scan everything with bounds, then settle what is too close to call.
//!
//! Source of the idea: filter and refine, as in Weber, Schek and Blott, VLDB 1998 (VA-file); here the approximation
//! is `f32` arithmetic and the bound is that of its rounding.

use std::cmp::Ordering;
use std::ops::Range;

use shoal_model::{Metric, PointId, Scored};

use super::bound::{Bound, ROWS};
use super::candidates::{Candidate, Candidates};
use super::chunk::{Chunk, Slot};
use super::pace::{Pace, ROW_BYTES};
use super::view::RowRef;
use crate::score::Exact;
use crate::{CompiledFilter, IndexError};

/// What is looked for.
pub struct Query<'a> {
    /// As many components as the index has dimensions; passed `shoal_model::check_vector`.
    pub vector: &'a [f32],
    /// How many points are wanted at most.
    pub k: usize,
    /// Only points that pass.
    pub filter: Option<&'a CompiledFilter>,
    /// Only points at least this near: a lowest score for cosine and dot, a highest for euclidean.
    pub score_limit: Option<f32>,
    /// Asked as the search goes; once it says yes, the search ends with `Cancelled`.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// A point that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Id of the point.
    pub id: PointId,
    /// The metric's quantity between query and point.
    pub score: f32,
    /// Where its vector and payload are.
    pub row: RowRef,
}

impl Scored for Found {
    fn score(&self) -> f32 {
        self.score
    }

    fn id(&self) -> &PointId {
        &self.id
    }
}

/// What a search did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchStats {
    /// Points whose vector was compared with the query.
    pub scanned: u64,
    /// Points that the filter was asked about and turned away.
    pub filtered: u64,
    /// Points that were scored again in `f64`.
    pub rescored: u64,
}

impl SearchStats {
    /// Adds what another search, or another part of this one, did.
    pub fn merge(&mut self, other: &Self) {
        self.scanned += other.scanned;
        self.filtered += other.filtered;
        self.rescored += other.rescored;
    }
}

/// Searches the chunks of `range`.
pub(super) fn search(
    metric: Metric,
    slots: &[Slot],
    range: Range<usize>,
    query: &Query<'_>,
) -> Result<(Vec<Found>, SearchStats), IndexError> {
    let k = query.k.min(slots[range.clone()].iter().map(Slot::len).sum());
    if k == 0 {
        return Ok((Vec::new(), SearchStats::default()));
    }
    let floor = query.score_limit.map_or(f64::NEG_INFINITY, |limit| Bound::nearness_of_score(metric, limit));
    let mut scan = Scan {
        bound: Bound::new(metric, query.vector),
        filter: query.filter,
        candidates: Candidates::new(k, floor),
        pace: Pace::new(query.stop),
        stats: SearchStats::default(),
        filter_first: false,
    };
    let mut rows = Vec::new();
    for number in range {
        scan.chunk(number, &slots[number], &mut rows)?;
    }
    let Scan { candidates, mut pace, mut stats, .. } = scan;
    let candidates = candidates.into_rows();
    stats.rescored = candidates.len() as u64;
    let found = settle(metric, slots, query, k, &candidates, &mut pace)?;
    Ok((found, stats))
}

struct Scan<'a> {
    bound: Bound<'a>,
    filter: Option<&'a CompiledFilter>,
    candidates: Candidates,
    pace: Pace<'a>,
    stats: SearchStats,
    /// Whether the filter looks at rows before the bound does.
    filter_first: bool,
}

impl Scan<'_> {
    /// Looks at the rows of a chunk. `rows` is scratch space.
    fn chunk(&mut self, number: usize, slot: &Slot, rows: &mut Vec<usize>) -> Result<(), IndexError> {
        let chunk = slot.chunk();
        rows.clear();
        if self.filter_first {
            for row in slot.rows() {
                if self.passes(chunk, row)? {
                    rows.push(row);
                }
            }
        } else {
            rows.extend(slot.rows());
        }
        let mut near = 0;
        for group in rows.chunks(ROWS) {
            near += self.group(number, chunk, group)?;
        }
        self.choose_order(near, rows.len());
        Ok(())
    }

    /// Looks at up to [`ROWS`] rows; tells how many the bound let through.
    fn group(&mut self, number: usize, chunk: &Chunk, rows: &[usize]) -> Result<usize, IndexError> {
        // A group that is not full repeats its last row.
        let row = |i: usize| rows[i.min(rows.len() - 1)];
        let vectors: [&[f32]; ROWS] = std::array::from_fn(|i| chunk.vector(row(i)));
        self.pace.work(rows.len() * (ROW_BYTES + size_of_val(vectors[0])))?;
        let intervals = self.bound.intervals(vectors, std::array::from_fn(|i| chunk.scale(row(i))));
        self.stats.scanned += rows.len() as u64;
        let mut near = 0;
        for (row, interval) in rows.iter().zip(intervals) {
            if self.candidates.admit(interval) {
                near += 1;
                if self.filter_first || self.passes(chunk, *row)? {
                    self.candidates.push(interval, RowRef::new(number, *row));
                }
            }
        }
        Ok(near)
    }

    fn passes(&mut self, chunk: &Chunk, row: usize) -> Result<bool, IndexError> {
        let Some(filter) = self.filter else { return Ok(true) };
        let payload = chunk.payload(row);
        self.pace.work(filter.work_bytes(payload))?;
        let passes = filter.matches(chunk.id(row), payload);
        self.stats.filtered += u64::from(!passes);
        Ok(passes)
    }

    /// Chooses for the next chunk: the bound goes first unless it let most rows of this chunk through, for then the
    /// filter would look at nearly every row anyway and can spare the vectors of those it turns away.
    fn choose_order(&mut self, near: usize, scored: usize) {
        if self.filter.is_some() && scored > 0 {
            self.filter_first = 2 * near > scored;
        }
    }
}

/// Scores the candidates exactly and keeps the nearest `k` within the limit, in order.
fn settle(
    metric: Metric,
    slots: &[Slot],
    query: &Query<'_>,
    k: usize,
    candidates: &[Candidate],
    pace: &mut Pace<'_>,
) -> Result<Vec<Found>, IndexError> {
    let exact = Exact::new(metric, query.vector);
    let mut scored: Vec<(f32, &PointId, RowRef)> = Vec::with_capacity(candidates.len());
    for Candidate { row, .. } in candidates {
        let chunk = slots[row.chunk()].chunk();
        let vector = chunk.vector(row.row());
        pace.work(8 * size_of_val(vector))?;
        let score = exact.score(vector);
        if query.score_limit.is_none_or(|limit| metric.compare(score, limit) != Ordering::Greater) {
            scored.push((score, chunk.id(row.row()), *row));
        }
    }
    let nearest_first =
        |a: &(f32, &PointId, RowRef), b: &(f32, &PointId, RowRef)| metric.compare(a.0, b.0).then_with(|| a.1.cmp(b.1));
    if scored.len() > k {
        scored.select_nth_unstable_by(k - 1, nearest_first);
        scored.truncate(k);
    }
    scored.sort_unstable_by(nearest_first);
    Ok(scored.into_iter().map(|(score, id, row)| Found { id: id.clone(), score, row }).collect())
}
