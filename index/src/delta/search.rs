//! Search: find what may be among the nearest, with bounds, then settle what is too close to call.
//!
//! Source of the idea: filter and refine, as in Weber, Schek and Blott, VLDB 1998 (VA-file). The approximation is a
//! code of a bit for each dimension, with a bound that holds all but always, and then `f32` arithmetic, with the bound
//! of its rounding; an exact search does without the codes.

use std::cmp::Ordering;
use std::ops::Range;

use shoal_model::{Metric, PointId, Scored};

use super::bound::Bound;
use super::candidates::{Candidate, Candidates};
use super::chunk::Slot;
use super::codes::Frame;
use super::pace::Pace;
use super::probe::{Probe, SIGMAS_LIKELY, SIGMAS_SURE};
use super::scan::{Looked, Scan};
use super::sieve::sieve;
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
    /// How sure to find the nearest.
    pub certainty: Certainty,
    /// Asked as the search goes; once it says yes, the search ends with `Cancelled`.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// How sure a search is to find the nearest. What is missed depends on the query, the points and the centre of their delta
/// alone: in whatever order points came, one certainty finds the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Every vector is compared.
    Exact,
    /// Codes tell which vectors are compared. It takes a seventh of the time, and misses one in a million of the nearest.
    Sure,
    /// The same, for one in 2,000 of the nearest, at half the time of that or less where the nearest hardly stand out.
    Likely,
}

/// A point that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found<R = RowRef> {
    /// Id of the point.
    pub id: PointId,
    /// The metric's quantity between query and point, computed in `f64` and rounded once.
    pub score: f32,
    /// By which a search keeps the nearest, those that have more of it: that of the score, or less where codes do not allow
    /// that much.
    pub nearness: f64,
    /// Where its vector and payload are.
    pub row: R,
}

impl<R> Scored for Found<R> {
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
    /// Points whose nearness was estimated from their code.
    pub estimated: u64,
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
        self.estimated += other.estimated;
        self.scanned += other.scanned;
        self.filtered += other.filtered;
        self.rescored += other.rescored;
    }
}

/// Searches the chunks of `range`, by their codes if there is a `frame` of them and the query leaves the choice.
pub(super) fn search(
    metric: Metric,
    frame: Option<&Frame>,
    slots: &[Slot],
    range: Range<usize>,
    query: &Query<'_>,
) -> Result<(Vec<Found>, SearchStats), IndexError> {
    let k = query.k.min(slots[range.clone()].iter().map(Slot::len).sum());
    if k == 0 {
        return Ok((Vec::new(), SearchStats::default()));
    }
    let floor = query.score_limit.map_or(f64::NEG_INFINITY, |limit| Bound::nearness_of_score(metric, limit));
    let bound = Bound::new(metric, query.vector);
    let sigmas = match query.certainty {
        Certainty::Exact => None,
        Certainty::Sure => Some(SIGMAS_SURE),
        Certainty::Likely => Some(SIGMAS_LIKELY),
    };
    let probe = frame.zip(sigmas).and_then(|(frame, sigmas)| Probe::new(metric, frame, bound.query(), sigmas));
    let mut scan = Scan::new(bound, query.filter, Candidates::new(k, floor), Pace::new(query.stop));
    if let Some(probe) = probe {
        sieve(&mut scan, &probe, slots, range)?;
    } else {
        let mut rows = Vec::new();
        for number in range {
            scan.chunk(number, &slots[number], &mut rows)?;
        }
    }
    let Scan { candidates, mut pace, mut stats, .. } = scan;
    let candidates = candidates.into_rows();
    stats.rescored = candidates.len() as u64;
    let found = settle(metric, slots, query, k, &candidates, &mut pace)?;
    Ok((found, stats))
}

/// Scores the candidates exactly and keeps the nearest `k` within the limit, in order.
fn settle(
    metric: Metric,
    slots: &[Slot],
    query: &Query<'_>,
    k: usize,
    candidates: &[Candidate<Looked>],
    pace: &mut Pace<'_>,
) -> Result<Vec<Found>, IndexError> {
    let exact = Exact::new(metric, query.vector);
    let mut scored = Vec::with_capacity(candidates.len());
    for Candidate { row: Looked { row, ceiling }, .. } in candidates {
        let chunk = slots[row.chunk()].chunk();
        let vector = chunk.vector(row.row());
        pace.work(8 * size_of_val(vector))?;
        let score = exact.score(vector);
        let within = |limit| {
            metric.compare(score, limit) != Ordering::Greater && *ceiling >= Bound::nearness_of_score(metric, limit)
        };
        if query.score_limit.is_none_or(within) {
            let nearness = Bound::nearness_of_score(metric, score).min(*ceiling) + 0.0;
            scored.push(Ranked { id: &chunk.label(row.row()).id, score, nearness, row: *row });
        }
    }
    keep_nearest(metric, k, &mut scored);
    let found = |Ranked { id, score, nearness, row }: Ranked<'_>| Found { id: id.clone(), score, nearness, row };
    Ok(scored.into_iter().map(found).collect())
}

/// A point that may be kept: what there is to know before its id is worth a copy.
struct Ranked<'a> {
    id: &'a PointId,
    score: f32,
    nearness: f64,
    row: RowRef,
}

/// What a search keeps the nearest of.
trait Near: Scored {
    /// See [`Found::nearness`].
    fn nearness(&self) -> f64;
}

impl Scored for Ranked<'_> {
    fn score(&self) -> f32 {
        self.score
    }

    fn id(&self) -> &PointId {
        self.id
    }
}

impl Near for Ranked<'_> {
    fn nearness(&self) -> f64 {
        self.nearness
    }
}

impl<R> Near for Found<R> {
    fn nearness(&self) -> f64 {
        self.nearness
    }
}

impl<R> Found<R> {
    /// What a search of all of a view finds, of what searches of its parts found. No point is in two of them.
    #[must_use]
    pub fn merge(metric: Metric, k: usize, lists: Vec<Vec<Self>>) -> Vec<Self> {
        let mut all = lists.into_iter().flatten().collect();
        keep_nearest(metric, k, &mut all);
        all
    }
}

/// Keeps the `k` nearest, ties by id, and puts them in the order of their scores, ties by id. No id comes twice.
fn keep_nearest<T: Near>(metric: Metric, k: usize, found: &mut Vec<T>) {
    if k == 0 {
        found.clear();
    } else if found.len() > k {
        let nearest_first = |a: &T, b: &T| b.nearness().total_cmp(&a.nearness()).then_with(|| a.id().cmp(b.id()));
        found.select_nth_unstable_by(k - 1, nearest_first);
        found.truncate(k);
    }
    found.sort_unstable_by(|a, b| metric.compare(a.score(), b.score()).then_with(|| a.id().cmp(b.id())));
}
