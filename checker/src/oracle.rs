//! Whether the answers of searches follow from what was acknowledged.
//!
//! Of each hit: the id was there, with just the value shown, at some moment of the search's window; the score is that
//! of the value's vector, bit for bit; the filter lets it pass. Of the list: nearest first, ties by id, no id twice,
//! no more than `k`.
//!
//! Of an exact search also that nothing is missing. The answer should be the exact top `k` of some state, but shards
//! are read at different moments, and there may be very many states; what is checked is what holds for all of them.
//! A point that was there throughout the window with one value is in every state. So such a point that passes the
//! filter and is nearer than the last of `k` hits must be a hit, and if there are fewer than `k` hits, each such
//! point must be one.

use std::collections::HashSet;

use shoal_model::{Metric, PointId};

use crate::explain;
use crate::finding::Findings;
use crate::history::{Call, FoundHit, Search, Write};
use crate::ledger::{Key, Ledger, Place};
use crate::lifetime::Lifetimes;

/// How many problems of one answer are told.
const PROBLEMS_SHOWN_MAX: usize = 5;

/// What the checker has to know of the points that were written.
pub struct SearchRules<'a> {
    /// The metric of the collection.
    pub metric: Metric,
    /// The score between a query and what a write gave a point, as the cluster computes it.
    pub score: &'a dyn Fn(u64, &PointId, Write) -> f32,
    /// Whether a filter lets a point pass, as a write left it.
    pub passes: &'a dyn Fn(u64, &PointId, Write) -> bool,
    /// How far a score may be off.
    pub tolerance: Tolerance,
}

/// Allowed difference of two scores: `absolute + relative * |expected|`. Zero, the default: the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tolerance {
    /// Whatever the score.
    pub absolute: f32,
    /// As a share of the score.
    pub relative: f32,
}

/// What searches answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchReport {
    /// Answers checked.
    pub searches: u64,
    /// Those of them for which nothing may be missing.
    pub exact: u64,
    /// Hits checked.
    pub hits: u64,
    /// Wrong answers, each told once with what is wrong about it.
    pub wrong: Findings,
}

/// Checks the answer of every search.
#[must_use]
pub fn check(ledger: &Ledger, rules: &SearchRules<'_>) -> SearchReport {
    check_with(ledger, &Lifetimes::new(ledger), rules)
}

pub(crate) fn check_with(ledger: &Ledger, lifetimes: &Lifetimes<'_>, rules: &SearchRules<'_>) -> SearchReport {
    let mut report = SearchReport::default();
    let oracle = Oracle { ledger, lifetimes, rules };
    for (place, operation) in ledger.operations.iter().enumerate() {
        let Call::Search(search) = &operation.call else { continue };
        if !operation.is_ok() {
            continue;
        }
        report.searches += 1;
        report.exact += u64::from(search.exact);
        report.hits += search.hits.len() as u64;
        let problems = oracle.problems(place, search);
        if !problems.is_empty() {
            report.wrong.add(|| oracle.tell(place, search, &problems));
        }
    }
    report
}

impl SearchReport {
    /// Whether no answer is wrong.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        self.wrong.is_empty()
    }
}

struct Oracle<'a> {
    ledger: &'a Ledger,
    lifetimes: &'a Lifetimes<'a>,
    rules: &'a SearchRules<'a>,
}

impl Oracle<'_> {
    fn problems(&self, place: Place, search: &Search) -> Vec<String> {
        let keys: Vec<Key> = search.hits.iter().map(|hit| self.ledger.keys[&hit.id]).collect();
        let mut problems = self.list_problems(search);
        for (hit, key) in search.hits.iter().zip(&keys) {
            problems.extend(self.hit_problems(place, search, hit, *key));
        }
        if search.exact {
            problems.extend(self.missing(place, search, &keys.into_iter().collect()));
        }
        problems
    }

    fn list_problems(&self, search: &Search) -> Vec<String> {
        let mut problems = Vec::new();
        if search.hits.len() > search.k {
            problems.push(format!("{} hits, {} were asked for", search.hits.len(), search.k));
        }
        let mut seen = HashSet::new();
        let twice = search.hits.iter().filter(|hit| !seen.insert(&hit.id));
        problems.extend(twice.map(|hit| format!("{} is a hit twice", explain::point(&hit.id))));
        let out_of_order = search.hits.windows(2).filter(|pair| !self.is_nearer(&pair[0], &pair[1]));
        problems.extend(out_of_order.map(|pair| {
            let [a, b] = [&pair[0], &pair[1]].map(|hit| format!("{} ({})", explain::point(&hit.id), hit.score));
            format!("{a} comes before {b}")
        }));
        problems
    }

    /// Equal hits are reported as repeated, not as out of order.
    fn is_nearer(&self, a: &FoundHit, b: &FoundHit) -> bool {
        self.rules.metric.compare(a.score, b.score).then_with(|| a.id.cmp(&b.id)).is_le()
    }

    fn hit_problems(&self, place: Place, search: &Search, hit: &FoundHit, key: Key) -> Option<String> {
        let (life, window) = (self.lifetimes.of(key), self.lifetimes.window(key, place));
        let point = format!("{} with write {}", explain::point(&hit.id), hit.write);
        if !life.was_written(hit.write) {
            return Some(format!("{point} is a phantom: nobody wrote it, or its write failed"));
        }
        if !life.can_show(hit.write, window) {
            return Some(format!(
                "{point} was not there between {} and {}",
                explain::time(window.from),
                explain::time(window.to)
            ));
        }
        if search.filter.is_some_and(|filter| !(self.rules.passes)(filter, &hit.id, hit.write)) {
            return Some(format!("{point} does not pass the filter"));
        }
        let want = (self.rules.score)(search.query, &hit.id, hit.write);
        (!self.rules.tolerance.allows(hit.score, want))
            .then(|| format!("{point} has a score of {}, and should have {want}", hit.score))
    }

    /// Points that no state of the window lacks and that should have been hits.
    fn missing(&self, place: Place, search: &Search, hits: &HashSet<Key>) -> Vec<String> {
        let last = if search.hits.len() < search.k { None } else { search.hits.last() };
        let missing = (0..self.ledger.ids.len()).filter(|key| !hits.contains(key)).filter_map(|key| {
            let write = self.lifetimes.of(key).certain(self.lifetimes.window(key, place))?;
            let id = &self.ledger.ids[key];
            let passes = search.filter.is_none_or(|filter| (self.rules.passes)(filter, id, write));
            let score = passes.then(|| (self.rules.score)(search.query, id, write))?;
            let is_due = last.is_none_or(|last| self.beats(score, id, last));
            is_due.then(|| format!("{} with write {write} and a score of {score} is missing", explain::point(id)))
        });
        if search.k == 0 { Vec::new() } else { missing.collect() }
    }

    /// Whether a point of this score certainly belongs before the last hit.
    fn beats(&self, score: f32, id: &PointId, last: &FoundHit) -> bool {
        let Self { rules: SearchRules { metric, tolerance, .. }, .. } = self;
        match metric.compare(score, last.score) {
            order if tolerance.is_zero() => order.then_with(|| id.cmp(&last.id)).is_lt(),
            order => order.is_lt() && !tolerance.allows(last.score, score),
        }
    }

    fn tell(&self, place: Place, search: &Search, problems: &[String]) -> String {
        let kind = if search.exact { "exact search" } else { "search" };
        let asked = format!("{kind} of query {} for {}", search.query, search.k);
        let mut text = format!("{asked} is wrong\n    {}", explain::name(&self.ledger.operations[place]));
        for problem in problems.iter().take(PROBLEMS_SHOWN_MAX) {
            text += &format!("\n    {problem}");
        }
        let more = problems.len().saturating_sub(PROBLEMS_SHOWN_MAX);
        if more > 0 { text + &format!("\n    and {more} more") } else { text }
    }
}

impl Tolerance {
    fn is_zero(self) -> bool {
        self.absolute == 0.0 && self.relative == 0.0
    }

    fn allows(self, got: f32, want: f32) -> bool {
        let is_near = || (got - want).abs() <= self.absolute + self.relative * want.abs();
        got.to_bits() == want.to_bits() || (!self.is_zero() && is_near())
    }
}

#[cfg(test)]
mod tests;
