//! What a condition on a field selects: postings and a span of the sorted column, counted and then joined.

use std::ops::Range;

use shoal_model::{Predicate, Scalar};

use super::dictionary::{Dictionary, Totals};
use super::estimate::Estimate;
use super::field::{self, Field};
use super::matches::{LIST_SHARE, Set, last_word, words};
use super::number;
use super::posting::Posting;

/// Below one pair in so many points, sorting them costs less than a bit for each point.
const SORT_SHARE: u64 = 2_048;

/// The points of some postings and of a span of the numbers, or all others.
#[derive(Debug)]
pub(super) struct Selection<'a> {
    points: u32,
    postings: Vec<Posting<'a>>,
    numbers: Dictionary<'a>,
    span: Range<usize>,
    is_complement: bool,
    /// Offsets in the postings and the span, together.
    pairs: u64,
    /// Bounds of the points that are selected, before the complement.
    low: u64,
    high: u64,
    /// Share of the points that are not, were the postings independent.
    missed: f64,
}

impl<'a> Selection<'a> {
    /// What `predicate` selects of the `points` of a segment; `None` if the field is malformed.
    pub(super) fn new(field: &Field<'a>, predicate: &Predicate, points: u32) -> Option<Self> {
        let mut selection = Self {
            points,
            postings: vec![],
            numbers: field.numbers,
            span: 0..0,
            is_complement: false,
            pairs: 0,
            low: 0,
            high: 0,
            missed: 1.0,
        };
        match predicate {
            Predicate::Match(value) => selection.add_values(field, std::slice::from_ref(value))?,
            Predicate::Any(values) => selection.add_values(field, values)?,
            Predicate::Range(range) => {
                if let Some((least, end)) = number::of_range(range) {
                    selection.span = field.numbers.span(least, end);
                    let pairs = field.numbers.count_span(&selection.span)?;
                    // Pairs, not points: one point may have several numbers in the range.
                    selection.add_bounds(&[pairs], pairs.min(1), field.numbers.totals);
                }
            }
            Predicate::IsNull(is_complement) => {
                selection.add_exact(field.present);
                selection.is_complement = *is_complement;
            }
        }
        selection.high = selection.high.min(field.present.count().into());
        Some(selection)
    }

    fn add_values(&mut self, field: &Field<'a>, values: &[Scalar]) -> Option<()> {
        for (wanted, posting) in [false, true].into_iter().zip(field.bools) {
            if values.contains(&Scalar::Bool(wanted)) {
                self.add_exact(posting);
            }
        }
        let texts = values.iter().filter_map(|value| match value {
            Scalar::Text(text) => Some(field::hash(text.as_bytes())),
            Scalar::Bool(_) | Scalar::Integer(_) | Scalar::Double(_) => None,
        });
        self.add_keys(&field.texts, texts.collect())?;
        self.add_keys(&field.numbers, values.iter().filter_map(number::of_scalar).collect())
    }

    fn add_keys(&mut self, dictionary: &Dictionary<'a>, mut keys: Vec<u128>) -> Option<()> {
        keys.sort_unstable();
        keys.dedup();
        let postings = keys.into_iter().map(|key| dictionary.posting(key)).collect::<Option<Vec<_>>>()?;
        let counts: Vec<_> = postings.iter().map(|posting| u64::from(posting.count())).collect();
        self.add_bounds(&counts, counts.iter().copied().max().unwrap_or(0), dictionary.totals);
        self.postings.extend(postings);
        Some(())
    }

    /// Adds a posting that belongs to no dictionary.
    fn add_exact(&mut self, posting: Posting<'a>) {
        let (points, pairs) = (posting.count(), posting.count().into());
        self.add_bounds(&[pairs], pairs, Totals { pairs, points });
        self.postings.push(posting);
    }

    /// Counts what some values of a dictionary select: `least` points, and no more than `counts` together.
    ///
    /// A point that has a value and is not selected has a pair that is not; so all points less those pairs are
    /// selected at least. Where no point has two values that makes the count exact.
    fn add_bounds(&mut self, counts: &[u64], least: u64, totals: Totals) {
        let points = u64::from(totals.points);
        let sum = counts.iter().fold(0, |sum: u64, &count| sum.saturating_add(count));
        let others = totals.pairs.saturating_sub(sum);
        self.low = self.low.max(least).max(points.saturating_sub(others));
        self.high = self.high.saturating_add(sum.min(points));
        self.pairs = self.pairs.saturating_add(sum);
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        let share = |count: u64| count as f64 / f64::from(self.points.max(1));
        self.missed *= counts.iter().map(|&count| 1.0 - share(count).min(1.0)).product::<f64>();
    }

    /// How many points are selected.
    pub(super) fn estimate(&self) -> Estimate {
        let points = f64::from(self.points);
        let low = u32::try_from(self.low).unwrap_or(u32::MAX).min(self.points);
        let high = u32::try_from(self.high).unwrap_or(u32::MAX).clamp(low, self.points);
        let estimate = Estimate::new(low, high, points * (1.0 - self.missed));
        if self.is_complement { estimate.complement(self.points) } else { estimate }
    }

    /// The points that are selected; `None` if a posting is malformed.
    pub(super) fn collect(&self) -> Option<Set> {
        let selected = self.collect_positive()?;
        Some(if self.is_complement { Set::all(self.points).and_not(&selected) } else { selected })
    }

    fn collect_positive(&self) -> Option<Set> {
        let points = u64::from(self.points);
        let is_one = self.postings.len() == 1 && self.span.is_empty();
        if (is_one && self.pairs.saturating_mul(LIST_SHARE) <= points)
            || self.pairs.saturating_mul(SORT_SHARE) <= points
        {
            return self.collect_list(is_one);
        }
        let mut bits = vec![0; words(self.points)];
        self.postings.iter().try_for_each(|posting| posting.add_to(&mut bits))?;
        if !self.span.is_empty() {
            self.numbers.add_span_to(&self.span, &mut bits)?;
        }
        // A bit that stands for no point comes from a malformed posting.
        bits.last().is_none_or(|last| last & !last_word(self.points) == 0).then_some(Set::Bits(bits))
    }

    fn collect_list(&self, is_one: bool) -> Option<Set> {
        let mut offsets = vec![];
        // Counts that lie must not fill the memory.
        let mut left = self.pairs;
        let mut seen = |offset| {
            left = left.checked_sub(1)?;
            offsets.push(offset);
            Some(())
        };
        self.postings.iter().try_for_each(|posting| posting.for_each(&mut seen))?;
        if !self.span.is_empty() {
            self.numbers.for_each_in(&self.span, &mut seen)?;
        }
        if !is_one {
            offsets.sort_unstable();
            offsets.dedup();
        }
        let sound = offsets.is_sorted_by(|a, b| a < b) && offsets.last().is_none_or(|&last| last < self.points);
        sound.then_some(Set::List(offsets))
    }
}
