//! The nearest points of all parts.

use std::ops::Range;

use super::filtered::{ViewFilter, Way, way};
use super::frozen::Frozen;
use super::scan::{Wanted, scan};
use super::view::{Row, View};
use crate::IndexError;
use crate::delta::bound::Bound;
use crate::delta::{self, Certainty, Query, SearchStats};
use crate::segment::{Effort, Scratch, SegmentQuery, WalkStats};

/// Searches that want more than this of the nearest are sure of those in deltas; others may miss one in 2,000 there.
const LIKELY_RECALL_MAX: f32 = 0.999;

/// How points are looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Look {
    /// At every one: the answer is the true one.
    Exact,
    /// By walking the graph of each segment so far, and by the codes of deltas, which miss one in a million.
    Walk(Effort),
}

/// What is looked for.
pub struct SetQuery<'a> {
    /// As many components as the view has dimensions; passed `shoal_model::check_vector`.
    pub vector: &'a [f32],
    /// How many points are wanted at most.
    pub k: usize,
    /// How hard to look.
    pub look: Look,
    /// Only points that pass; prepared for the view that is searched.
    pub filter: Option<&'a ViewFilter>,
    /// Only points at least this near: a lowest score for cosine and dot, a highest for euclidean. What is not within it
    /// costs little, however large `k` is.
    pub score_limit: Option<f32>,
    /// Asked as the search goes; once it says yes, the search ends with `Cancelled`.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// All points within a limit, or as many as were wanted at most.
#[derive(Clone, Debug, PartialEq)]
pub struct Within {
    /// Nearest first, ties by id.
    pub found: Vec<Found>,
    /// Whether there are more points within the limit.
    pub is_cut: bool,
    /// What the search did.
    pub stats: SetStats,
}

/// A point that was found.
pub type Found = delta::Found<Row>;

/// What a search did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetStats {
    /// Points compared one by one, in deltas and segments.
    pub scan: SearchStats,
    /// Walks in segments, together.
    pub walk: WalkStats,
    /// How many walks that were.
    pub walks: u64,
}

impl SetStats {
    /// Adds what another search, or another part of this one, did.
    pub fn merge(&mut self, other: &Self) {
        self.scan.merge(&other.scan);
        self.add_walk(&other.walk);
        self.walks += other.walks;
    }

    fn add_walk(&mut self, other: &WalkStats) {
        self.walk.merge(other);
    }
}

impl View {
    /// The nearest `k` points, nearest first: by score, ties by id, each once.
    ///
    /// `scratch` is one of the thread's own and serves all searches.
    /// Errors: `Dimension`; `Cancelled` within about 200 µs of `stop` saying so, except that filters are evaluated, and
    /// ten thousands of points too close to call selected from, without asking; `PayloadIndex` for hostile files; `Damaged` if
    /// the file of a segment has changed and a point that would be returned, or if the look is exact any point, is not what
    /// was written.
    ///
    /// # Panics
    /// If the filter was prepared for another view.
    pub fn search(&self, scratch: &mut Scratch, query: &SetQuery<'_>) -> Result<(Vec<Found>, SetStats), IndexError> {
        self.search_part(0, 1, scratch, query)
    }

    /// All points within the query's score limit, nearest first, of more than `k` the nearest. Without a limit all points
    /// are within.
    ///
    /// As with [`View::search`], walks miss the share of points that their effort allows. Errors and panics: as there.
    pub fn within(&self, scratch: &mut Scratch, query: &SetQuery<'_>) -> Result<Within, IndexError> {
        let SetQuery { vector, k, look, filter, score_limit, stop } = *query;
        // One more than wanted tells whether there are more.
        let beyond = SetQuery { vector, k: k.saturating_add(1), look, filter, score_limit, stop };
        let (mut found, stats) = self.search(scratch, &beyond)?;
        let is_cut = found.len() > k;
        found.truncate(k);
        Ok(Within { found, is_cut, stats })
    }

    /// [`View::search`] over the `part`-th of `parts` shares, for a thread each: an equal share of the points of each
    /// delta, and of segments if they are scanned; walks in turn.
    ///
    /// [`Found::merge`] over the answers of all parts is what `search` returns, however many there are. Errors: as there.
    pub fn search_part(
        &self,
        part: usize,
        parts: usize,
        scratch: &mut Scratch,
        query: &SetQuery<'_>,
    ) -> Result<(Vec<Found>, SetStats), IndexError> {
        assert!(part < parts, "part {part} of {parts}");
        if query.vector.len() != self.dim as usize {
            let got = u32::try_from(query.vector.len()).unwrap_or(u32::MAX);
            return Err(IndexError::Dimension { want: self.dim, got });
        }
        if query.k == 0 {
            return Ok(Default::default());
        }
        let limit = query.score_limit;
        let mut search = Search { view: self, query, part, parts, limit, lists: vec![], stats: SetStats::default() };
        // Segments first: what they find tells the scans of deltas how near a point must be.
        (0..self.segments.len()).try_for_each(|number| search.segment(number, scratch))?;
        (0..self.deltas.len()).try_for_each(|number| search.delta(number))?;
        let found = Found::merge(self.metric, query.k, search.lists);
        if let Look::Walk(_) = query.look {
            // What came of a scan was checked there.
            found.iter().try_for_each(|found| self.check_vector(found.row))?;
        }
        Ok((found, search.stats))
    }

    /// Points that a search compares one by one, which is the work that more parts make shorter; at most, if filtered.
    #[must_use]
    pub fn points_scanned(&self, look: Look) -> usize {
        match look {
            Look::Exact => self.len(),
            Look::Walk(_) => self.deltas.iter().map(|delta| delta.points.len()).sum(),
        }
    }
}

/// A search that is under way.
struct Search<'a> {
    view: &'a View,
    query: &'a SetQuery<'a>,
    part: usize,
    parts: usize,
    /// The query's, or the score of the last of `k` points that were found, which those of deltas that come after have to
    /// reach. Walks find other points under another limit, and would depend on what else a part has to search.
    limit: Option<f32>,
    lists: Vec<Vec<Found>>,
    stats: SetStats,
}

impl Search<'_> {
    fn segment(&mut self, number: usize, scratch: &mut Scratch) -> Result<(), IndexError> {
        let part = &self.view.segments[number];
        if part.live.count() == 0 {
            return Ok(());
        }
        let range = match self.query.look {
            Look::Exact => self.share(part.live.points()),
            Look::Walk(_) if number % self.parts == self.part => 0..part.live.points(),
            Look::Walk(_) => return Ok(()),
        };
        let found = match way(part, range, self.query.filter, self.query.look)? {
            Way::Scan(offsets) => self.scan(number, part, &offsets)?,
            Way::Walk(effort, passing) => {
                // The limit is the query's: what other segments found depends on how parts are shared out, and how hard a
                // segment is looked through would depend on it.
                let SetQuery { vector, k, score_limit, stop, .. } = *self.query;
                let live = part.live.tombstoned();
                let filter = passing.map(|passing| &passing.matches);
                let packed = passing.and_then(|passing| passing.packed(&part.segment));
                let query = SegmentQuery { vector, k, effort, live, filter, packed, score_limit, stop };
                self.walk(number, part, &query, scratch)?
            }
        };
        self.add(found);
        Ok(())
    }

    /// The offsets that this part looks at.
    fn share(&self, points: u32) -> Range<u32> {
        let end = |part: usize| {
            let end = u128::from(points) * part as u128 / self.parts as u128;
            u32::try_from(end).unwrap_or(points)
        };
        end(self.part)..end(self.part + 1)
    }

    fn scan(&mut self, number: usize, part: &Frozen, offsets: &[u32]) -> Result<Vec<Found>, IndexError> {
        let SetQuery { vector, k, stop, .. } = *self.query;
        let (hits, stats) = scan(&part.segment, offsets, &Wanted { vector, k, score_limit: self.limit, stop })?;
        self.stats.scan.merge(&stats);
        let found = hits.into_iter().map(|(id, hit)| {
            let row = Row::of_segment(number, hit.offset);
            Found { id, score: hit.score, nearness: self.nearness(hit.score), row }
        });
        Ok(found.collect())
    }

    fn walk(
        &mut self,
        number: usize,
        part: &Frozen,
        query: &SegmentQuery<'_>,
        scratch: &mut Scratch,
    ) -> Result<Vec<Found>, IndexError> {
        let (hits, stats) = part.segment.search(scratch, query)?;
        self.stats.add_walk(&stats);
        self.stats.walks += 1;
        let found = hits.into_iter().map(|hit| {
            let (id, row) = (part.segment.id(hit.offset), Row::of_segment(number, hit.offset));
            Found { id, score: hit.score, nearness: self.nearness(hit.score), row }
        });
        Ok(found.collect())
    }

    fn delta(&mut self, number: usize) -> Result<(), IndexError> {
        let SetQuery { vector, k, filter, stop, .. } = *self.query;
        let filter = filter.map(|filter| &filter.shared.compiled);
        let certainty = match self.query.look {
            Look::Exact => Certainty::Exact,
            Look::Walk(Effort::Recall(recall)) if recall > LIKELY_RECALL_MAX => Certainty::Sure,
            Look::Walk(_) => Certainty::Likely,
        };
        let query = Query { vector, k, filter, score_limit: self.limit, certainty, stop };
        let (found, stats) = self.view.deltas[number].points.search_part(self.part, self.parts, &query)?;
        self.stats.scan.merge(&stats);
        let found = found.into_iter().map(|found| {
            let row = Row::of_delta(number, found.row);
            Found { id: found.id, score: found.score, nearness: found.nearness, row }
        });
        self.add(found.collect());
        Ok(())
    }

    fn nearness(&self, score: f32) -> f64 {
        Bound::nearness_of_score(self.view.metric, score)
    }

    /// Takes in what a part found. A point that is farther than each of `k` others is not among the nearest `k` of all, as
    /// points are in one part only.
    fn add(&mut self, found: Vec<Found>) {
        if found.len() >= self.query.k {
            let last = found.iter().map(|found| found.nearness).fold(f64::INFINITY, f64::min);
            let score = Bound::score_beyond(self.view.metric, last);
            let is_nearer = |limit: &f32| self.nearness(*limit) >= self.nearness(score);
            self.limit = Some(self.limit.filter(is_nearer).unwrap_or(score));
        }
        self.lists.push(found);
    }
}
