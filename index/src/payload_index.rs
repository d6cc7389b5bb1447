//! The payload index of one segment: which points have which values, so that a filter is answered without payload.
//!
//! [`PayloadIndex::build`] makes it of the packed payloads, [`PayloadIndex::open`] reads it where it lies in the
//! segment's file. [`PayloadIndex::evaluate`] gives the points for which `shoal_model::Filter::matches` holds, all
//! kinds of values and paths included; [`PayloadIndex::estimate`] bounds their number in a microsecond or two.
//!
//! ```text
//! section   = format (u32) points (u32) names ends { field }
//! names     = column of the hashed keys of all fields, ascending
//! ends      = column of where each field's record ends, counted from the first
//! ```
//!
//! A key of a filter leads to one field: `a.b` is a field of its own, whichever way payloads spell it (`walk`).
//! The modules `field`, `dictionary`, `posting` and `column` say what is inside. Merged segments build theirs anew.
//!
//! Names and texts are kept as 96 bits of their XXH3-128, so their length costs nothing. That two of 10^9 texts in a
//! field are taken for one has a chance below 10^-11. XXH3 is no secret: who can choose values may construct a pair.
//! Where that matters, check the points that are found against their payload ([`crate::CompiledFilter`]).
//!
//! Bytes for each point that has the field, with 2^16 points (2^24: about 1 more):
//!
//! | values | bytes |
//! |---|---|
//! | presence, true or false | 1/8 at most; none where all points have the field or none has |
//! | texts of few kinds | 1/8 for each that many have, 2 for each mention otherwise |
//! | texts all different | 15: the hash and the offset |
//! | numbers of few kinds | as texts |
//! | numbers all different | 3 for the offset, 2 for the buckets, and as many as their spread needs: 3 to 6 mostly |
//!
//! The bytes are not trusted. Opening checks structure, reads check what they touch, and bytes that no build makes
//! give [`PayloadIndexError`] or some set of offsets, all of them below the number of points; never a panic.

mod build;
mod column;
mod containers;
mod dictionary;
mod estimate;
mod evaluate;
mod field;
mod matches;
mod number;
mod posting;
mod select;
mod verify;
mod walk;

#[cfg(test)]
mod tests;

pub use estimate::Estimate;
pub use matches::Matches;

use shoal_model::{Classify, ErrorKind, Filter, PointId};

use crate::packed::Reader;
use column::Column;
use field::Field;

const FORMAT: u32 = 1;

/// Bytes that are not the payload index of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadIndexError {
    /// Of another format.
    #[error("payload index has format {found}, this program reads {FORMAT}")]
    Format {
        /// What the bytes say.
        found: u32,
    },
    /// Of another segment.
    #[error("payload index is of {found} points, the segment has {want}")]
    Points {
        /// How many the segment has.
        want: u32,
        /// What the bytes say.
        found: u32,
    },
    /// Damaged.
    #[error("payload index is malformed")]
    Malformed,
}

impl Classify for PayloadIndexError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Corruption
    }
}

/// An open payload index: `B` holds its bytes, such as a slice or a part of a mapped file.
#[derive(Clone, Copy, Debug)]
pub struct PayloadIndex<B> {
    bytes: B,
    points: u32,
}

impl PayloadIndex<Vec<u8>> {
    /// Builds the index of a segment whose point at offset `i` has the `i`-th packed payload; returns its bytes.
    ///
    /// Equal payloads give equal bytes. Takes 16 bytes of memory for each value, and 4 for each key of each point.
    /// Packed payload that is damaged is indexed as far as it can be read.
    ///
    /// # Panics
    /// On 2^32 points.
    #[must_use]
    pub fn build<'a>(payloads: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        build::build(payloads)
    }
}

impl<B: AsRef<[u8]>> PayloadIndex<B> {
    /// Opens the index of a segment of `points`. Looks at each field's head, at no posting.
    pub fn open(bytes: B, points: u32) -> Result<Self, PayloadIndexError> {
        let view = View::open(bytes.as_ref(), points)?;
        let fields = (0..view.fields()).try_for_each(|at| view.field_at(at).map(|_| ()));
        fields.ok_or(PayloadIndexError::Malformed)?;
        Ok(Self { bytes, points })
    }

    /// How many points the segment has.
    #[must_use]
    pub fn points(&self) -> u32 {
        self.points
    }

    /// The points that pass a filter: those whose payload `shoal_model::Filter::matches`.
    ///
    /// `filter` passed `Filter::check`. `offset_of` tells where the segment has a point; offsets that are no point
    /// are passed over.
    pub fn evaluate(
        &self,
        filter: &Filter,
        offset_of: &dyn Fn(&PointId) -> Option<u32>,
    ) -> Result<Matches, PayloadIndexError> {
        let set = evaluate::evaluate(&self.view()?, filter, offset_of).ok_or(PayloadIndexError::Malformed)?;
        Ok(Matches::new(set, self.points))
    }

    /// How many points pass a filter that passed `Filter::check`, told from counts; no posting is read.
    ///
    /// Exact for one condition, except for a range or several values where some point has more than one number or
    /// text, for values of several kinds, and for ids: those are taken to be in the segment.
    pub fn estimate(&self, filter: &Filter) -> Result<Estimate, PayloadIndexError> {
        evaluate::estimate(&self.view()?, filter).ok_or(PayloadIndexError::Malformed)
    }

    /// Reads everything, which takes some milliseconds a megabyte: whether what it holds is in order and in bounds.
    pub fn verify(&self) -> Result<(), PayloadIndexError> {
        verify::verify(&self.view()?).ok_or(PayloadIndexError::Malformed)
    }

    fn view(&self) -> Result<View<'_>, PayloadIndexError> {
        View::open(self.bytes.as_ref(), self.points)
    }
}

/// Does all that can be done with `bytes`: the entry for fuzzing. Tells how many points pass.
///
/// Never panics, and never finds a point that is none, whatever the bytes. Hostile postings may share bytes: the work
/// is bounded by `points` times the bytes, so both should be small.
pub fn evaluate_untrusted(bytes: &[u8], points: u32, filter: &Filter) -> Result<u32, PayloadIndexError> {
    let index = PayloadIndex::open(bytes, points)?;
    let estimate = index.estimate(filter)?;
    assert!(estimate.low <= estimate.high && estimate.high <= points, "an estimate out of bounds: {estimate:?}");
    let matches =
        index.evaluate(filter, &|id| if let PointId::Number(id) = id { u32::try_from(*id).ok() } else { None })?;
    assert!(matches.iter().all(|offset| offset < points), "a point that is none passes");
    assert_eq!(matches.iter().count(), matches.len() as usize, "points are miscounted");
    // Fields that no filter names are read as well; whether they are in order is not asked.
    let _ = index.verify();
    Ok(matches.len())
}

/// The parts of a section.
#[derive(Clone, Copy, Debug)]
struct View<'a> {
    points: u32,
    names: Column<'a>,
    ends: Column<'a>,
    records: &'a [u8],
}

impl<'a> View<'a> {
    fn open(bytes: &'a [u8], points: u32) -> Result<Self, PayloadIndexError> {
        let mut reader = Reader::new(bytes);
        let mut number = || Some(u32::from_le_bytes(*reader.take(4)?.first_chunk()?));
        let (found_format, found) = number().zip(number()).ok_or(PayloadIndexError::Malformed)?;
        if found_format != FORMAT {
            return Err(PayloadIndexError::Format { found: found_format });
        }
        if found != points {
            return Err(PayloadIndexError::Points { want: points, found });
        }
        Self::read(reader, points).ok_or(PayloadIndexError::Malformed)
    }

    fn read(mut reader: Reader<'a>, points: u32) -> Option<Self> {
        let names = Column::read(&mut reader)?;
        let ends = Column::read(&mut reader)?;
        (names.len() == ends.len()).then_some(Self { points, names, ends, records: reader.rest() })
    }

    fn fields(&self) -> usize {
        self.names.len()
    }

    /// The field that a key leads to. `None` if it is malformed.
    fn field(&self, key: &str) -> Option<Field<'a>> {
        self.names.find(field::hash(key.as_bytes())).map_or_else(|| Some(Field::missing()), |at| self.field_at(at))
    }

    fn field_at(&self, at: usize) -> Option<Field<'a>> {
        let start = if at == 0 { 0 } else { self.ends.get_usize(at - 1)? };
        Field::read(self.records.get(start..self.ends.get_usize(at)?)?, self.points)
    }

    fn is_ordered(&self) -> bool {
        (0..self.fields()).is_sorted_by(|&a, &b| self.names.get(a) < self.names.get(b))
    }
}
