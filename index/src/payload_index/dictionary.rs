//! The distinct values of one kind in one field, in order, each with its posting.
//!
//! ```text
//! dictionary = keys [ base shift references pairs points counts bucket_ends bucket_references ]
//! ```
//!
//! A key is 96 bits, of a text (its hash) or of a number ([`super::number`]). The column `keys` holds what each is
//! above `base`, less `shift` bits that are zero in all. The rest is absent when there are no keys:
//!
//! - `pairs`: how many (value, point) there are; `points`: how many points have a value. Equal if none has two.
//! - `counts`, of numbers alone: the pairs below every 64th entry, so that a range is counted without reading it.
//! - buckets, of numbers alone: the column cut into up to 14 spans of as many pairs, each with the posting of all
//!   its points. A range sets the bits of whole buckets by words, and those of single entries at its ends only.

use std::ops::Range;

use super::column::{self, Column};
use super::containers::add;
use super::posting::{self, Posting};
use crate::packed::{Reader, write_leb128};

/// Bits of a key.
pub(super) const KEY_BITS: u32 = 96;

/// Entries between two counts.
const COUNT_STEP: usize = 64;

/// Spans that a sorted column is cut into. With one in 14 points, a Roaring container is a bitmap (above 4,096 offsets
/// of 65,536), which is joined by words.
const BUCKETS: usize = 14;

/// Fewer entries than this are joined one by one.
const BUCKETS_FROM: usize = 4 * BUCKETS;

/// Gathers the values of one kind in one field.
#[derive(Debug, Default)]
pub(super) struct Builder {
    /// Key and point offset, as 96 and 32 bits.
    pairs: Vec<u128>,
    points: u32,
    last: Option<u32>,
}

impl Builder {
    /// Adds a value of a point. Points come in ascending order.
    pub(super) fn add(&mut self, key: u128, offset: u32) {
        self.pairs.push(key << 32 | u128::from(offset));
        self.points += u32::from(self.last.replace(offset) != Some(offset));
    }

    /// Writes the dictionary to `out` and its postings to `heap`.
    pub(super) fn write(mut self, out: &mut Vec<u8>, heap: &mut Vec<u8>, points: u32, is_sorted_column: bool) {
        self.pairs.sort_unstable();
        self.pairs.dedup();
        let entries: Vec<_> = self.pairs.chunk_by(|a, b| a >> 32 == b >> 32).collect();
        let Some(first) = entries.first() else { return column::write(out, &[]) };
        let base = first[0] >> 32;
        let above = |entry: &[u128]| (entry[0] >> 32) - base;
        let used = entries.iter().fold(0, |bits, entry| bits | above(entry));
        let shift = if used == 0 { 0 } else { used.trailing_zeros() };
        column::write(out, &entries.iter().map(|entry| above(entry) >> shift).collect::<Vec<_>>());
        out.extend_from_slice(&base.to_le_bytes()[..KEY_BITS as usize / 8]);
        out.extend(u8::try_from(shift));
        let references: Vec<_> = entries.iter().map(|entry| write_posting(heap, entry, points)).collect();
        column::write(out, &references);
        write_leb128(out, self.pairs.len() as u64);
        write_leb128(out, u64::from(self.points));
        let counts = if is_sorted_column { counts(&entries) } else { vec![] };
        column::write(out, &counts);
        let ends = if is_sorted_column { bucket_ends(&entries, self.pairs.len()) } else { vec![] };
        column::write(out, &ends.iter().map(|&end| end as u128).collect::<Vec<_>>());
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let buckets = starts.zip(&ends).map(|(start, &end)| write_posting(heap, &entries[start..end].concat(), points));
        column::write(out, &buckets.collect::<Vec<_>>());
    }
}

/// Writes the posting of the points of some pairs.
fn write_posting(heap: &mut Vec<u8>, pairs: &[u128], points: u32) -> u128 {
    #[allow(clippy::cast_possible_truncation, reason = "the lower 32 bits are the offset")]
    let mut offsets: Vec<_> = pairs.iter().map(|&pair| pair as u32).collect();
    offsets.sort_unstable();
    offsets.dedup();
    posting::write(heap, &offsets, points).into()
}

/// Pairs below every [`COUNT_STEP`]-th entry, the first included.
fn counts(entries: &[&[u128]]) -> Vec<u128> {
    let mut counts = vec![0];
    let mut sum = 0;
    for step in entries.chunks_exact(COUNT_STEP) {
        sum += step.iter().map(|entry| entry.len() as u128).sum::<u128>();
        counts.push(sum);
    }
    counts
}

/// Where each bucket ends.
fn bucket_ends(entries: &[&[u128]], pairs: usize) -> Vec<usize> {
    if entries.len() < BUCKETS_FROM {
        return vec![];
    }
    let (mut ends, mut sum, mut full) = (vec![], 0, 0);
    for (at, entry) in entries.iter().enumerate() {
        sum += entry.len();
        // An entry of many points fills more than one bucket, and is not cut.
        let now_full = sum * BUCKETS / pairs;
        if now_full > full {
            ends.push(at + 1);
            full = now_full;
        }
    }
    ends
}

/// What all entries come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    /// Pairs of value and point.
    pub(super) pairs: u64,
    /// Points that have a value.
    pub(super) points: u32,
}

/// A dictionary, read in place.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dictionary<'a> {
    keys: Column<'a>,
    base: u128,
    shift: u32,
    references: Column<'a>,
    pub(super) totals: Totals,
    counts: Column<'a>,
    bucket_ends: Column<'a>,
    bucket_references: Column<'a>,
    /// Records of postings.
    pub(super) heap: &'a [u8],
    segment_points: u32,
}

impl<'a> Dictionary<'a> {
    /// Reads what [`Builder::write`] wrote to `out`; the heap is to be set.
    pub(super) fn read(reader: &mut Reader<'a>, segment_points: u32) -> Option<Self> {
        let keys = Column::read(reader)?;
        if keys.len() == 0 {
            return Some(Self::default());
        }
        let base = Column::take(reader, 1, KEY_BITS as usize / 8)?.get(0)?;
        let shift = u32::from(*reader.take(1)?.first()?);
        let references = Column::read(reader)?;
        let pairs = reader.leb128()?;
        let points = u32::try_from(reader.leb128()?).ok()?;
        let counts = Column::read(reader)?;
        let bucket_ends = Column::read(reader)?;
        let bucket_references = Column::read(reader)?;
        let fits = shift < KEY_BITS
            && references.len() == keys.len()
            && (counts.len() == 0 || counts.len() == keys.len() / COUNT_STEP + 1)
            && bucket_ends.len() == bucket_references.len()
            && points <= segment_points
            && pairs >= u64::from(points);
        let heap = &[][..];
        fits.then_some(Self {
            keys,
            base,
            shift,
            references,
            totals: Totals { pairs, points },
            counts,
            bucket_ends,
            bucket_references,
            heap,
            segment_points,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The posting of one value.
    pub(super) fn posting(&self, key: u128) -> Option<Posting<'a>> {
        let above = key.checked_sub(self.base).filter(|above| above & ((1 << self.shift) - 1) == 0);
        match above.and_then(|above| self.keys.find(above >> self.shift)) {
            Some(entry) => self.entry(entry),
            None => Some(Posting::None),
        }
    }

    /// The posting of one entry.
    pub(super) fn entry(&self, entry: usize) -> Option<Posting<'a>> {
        self.open(self.references.get_u64(entry)?)
    }

    /// Entries whose keys are `least` or more, and less than `end`.
    pub(super) fn span(&self, least: u128, end: u128) -> Range<usize> {
        let below = |key: u128| match key.checked_sub(self.base) {
            Some(above) => self.keys.count_below(above.div_ceil(1 << self.shift)),
            None => 0,
        };
        let end = below(end);
        below(least).min(end)..end
    }

    /// How many pairs the entries of a span have, at most some 128 of them read.
    pub(super) fn count_span(&self, span: &Range<usize>) -> Option<u64> {
        self.count_below(span.end)?.checked_sub(self.count_below(span.start)?)
    }

    fn count_below(&self, entry: usize) -> Option<u64> {
        let step = entry / COUNT_STEP;
        let mut count = if self.counts.len() == 0 { 0 } else { self.counts.get_u64(step)? };
        let start = if self.counts.len() == 0 { 0 } else { step * COUNT_STEP };
        self.references.scan(start..entry, |reference| {
            count = count.checked_add(self.open(reference)?.count().into())?;
            Some(())
        })?;
        Some(count)
    }

    /// Sets the bits of the points of a span.
    pub(super) fn add_span_to(&self, span: &Range<usize>, bits: &mut [u64]) -> Option<()> {
        let whole = self.buckets_within(span)?;
        if whole.is_empty() {
            return self.add_entries_to(span.clone(), bits);
        }
        let (start, end) = (self.bucket_start(whole.start)?, self.bucket_start(whole.end)?);
        self.add_entries_to(span.start..start, bits)?;
        self.bucket_references.scan(whole, |reference| self.open(reference)?.add_to(bits))?;
        self.add_entries_to(end..span.end, bits)
    }

    /// Calls `seen` with the points of each entry of a span in turn.
    pub(super) fn for_each_in(&self, span: &Range<usize>, seen: &mut impl FnMut(u32) -> Option<()>) -> Option<()> {
        self.references.scan(span.clone(), |reference| self.open(reference)?.for_each(seen))
    }

    /// The postings of all buckets.
    pub(super) fn buckets(&self) -> impl Iterator<Item = Option<(Range<usize>, Posting<'a>)>> {
        (0..self.bucket_references.len()).map(|bucket| {
            let span = self.bucket_start(bucket)?..self.bucket_start(bucket + 1)?;
            Some((span, self.open(self.bucket_references.get_u64(bucket)?)?))
        })
    }

    fn add_entries_to(&self, entries: Range<usize>, bits: &mut [u64]) -> Option<()> {
        self.references.scan(entries, |reference| match reference % 2 {
            1 => add(bits, reference / 2),
            _ => self.open(reference)?.add_to(bits),
        })
    }

    /// The buckets that lie in a span. `None` if buckets do not ascend there.
    fn buckets_within(&self, span: &Range<usize>) -> Option<Range<usize>> {
        let starts_below = |entry: usize| match entry {
            0 => 0,
            _ => 1 + self.bucket_ends.count_below(entry as u128),
        };
        let first = starts_below(span.start);
        let end = self.bucket_ends.count_below(span.end as u128 + 1);
        if first >= end {
            return Some(0..0);
        }
        let ascend = span.start <= self.bucket_start(first)? && self.bucket_start(end)? <= span.end;
        ascend.then_some(first..end)
    }

    fn bucket_start(&self, bucket: usize) -> Option<usize> {
        if bucket == 0 { Some(0) } else { self.bucket_ends.get_usize(bucket - 1) }
    }

    /// Whether keys ascend.
    pub(super) fn is_ordered(&self) -> bool {
        (0..self.len()).is_sorted_by(|&a, &b| self.keys.get(a) < self.keys.get(b))
    }

    #[inline]
    fn open(&self, reference: u64) -> Option<Posting<'a>> {
        Posting::open(self.heap, reference, self.segment_points)
    }
}
