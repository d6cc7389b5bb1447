//! Postings: the sorted offsets that hold one payload value.
//!
//! A posting is named by a number, its *reference*, so that those of one point need nothing else:
//!
//! ```text
//! reference = 0                 no point
//!           | 2 * offset + 1    one point
//!           | 2 * at + 2        more: a record `at` bytes into the heap
//! record    = header body       header in LEB128: twice the number of offsets, plus 1 if the body is Roaring
//! body      = { offset }        each as wide as the segment's largest offset
//!           | a Roaring bitmap in its portable serialisation, where that is smaller
//! ```
//!
//! The `roaring` crate writes the bitmaps. It cannot read without decoding, so [`super::containers`] walks them
//! where they lie.

use ::roaring::RoaringBitmap;

use super::column::{Column, width_of, write_numbers};
use super::containers::{self, add};
use crate::packed::{Reader, write_leb128};

/// Bytes of an offset in a segment of `points`.
fn offset_width(points: u32) -> usize {
    width_of(u128::from(points.saturating_sub(1)))
}

/// Writes a posting of ascending offsets below `points` to the heap, if it needs to; returns its reference.
pub(super) fn write(heap: &mut Vec<u8>, offsets: &[u32], points: u32) -> u64 {
    match *offsets {
        [] => return 0,
        [offset] => return 2 * u64::from(offset) + 1,
        _ => {}
    }
    let reference = 2 * heap.len() as u64 + 2;
    let mut bitmap: RoaringBitmap = offsets.iter().copied().collect();
    bitmap.optimize();
    let width = offset_width(points);
    let is_roaring = bitmap.serialized_size() < offsets.len() * width;
    write_leb128(heap, 2 * offsets.len() as u64 + u64::from(is_roaring));
    if is_roaring {
        bitmap.serialize_into(heap).expect("a vector takes all that is written to it");
    } else {
        write_numbers(heap, width, offsets.iter().map(|&offset| u128::from(offset)));
    }
    reference
}

/// A posting, not read yet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Posting<'a> {
    None,
    One(u32),
    Short(Column<'a>),
    Roaring { count: u32, bytes: &'a [u8] },
}

impl<'a> Posting<'a> {
    /// Finds the posting that `reference` names.
    pub(super) fn open(heap: &'a [u8], reference: u64, points: u32) -> Option<Self> {
        if reference == 0 {
            return Some(Self::None);
        }
        if reference % 2 == 1 {
            let offset = u32::try_from(reference / 2).ok()?;
            return (offset < points).then_some(Self::One(offset));
        }
        let mut reader = Reader::new(heap.get(usize::try_from(reference / 2 - 1).ok()?..)?);
        let header = reader.leb128()?;
        let count = u32::try_from(header / 2).ok().filter(|&count| count <= points)?;
        if header % 2 == 1 {
            return Some(Self::Roaring { count, bytes: reader.rest() });
        }
        Some(Self::Short(Column::take(&mut reader, count as usize, offset_width(points))?))
    }

    /// How many offsets it has.
    pub(super) fn count(&self) -> u32 {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            // Checked by `open`.
            Self::Short(offsets) => u32::try_from(offsets.len()).unwrap_or(u32::MAX),
            Self::Roaring { count, .. } => *count,
        }
    }

    /// Sets the bits of its offsets. Offsets that `bits` has no word for are malformed.
    pub(super) fn add_to(&self, bits: &mut [u64]) -> Option<()> {
        match self {
            Self::None => Some(()),
            Self::One(offset) => add(bits, u64::from(*offset)),
            Self::Short(offsets) => offsets.scan(0..offsets.len(), |offset| add(bits, offset)),
            Self::Roaring { bytes, .. } => containers::for_each(bytes, |key, container| container.add_to(bits, key)),
        }
    }

    /// Calls `seen` with its offsets in turn, until it answers `None`. More offsets than it says are malformed.
    pub(super) fn for_each(&self, seen: &mut impl FnMut(u32) -> Option<()>) -> Option<()> {
        match self {
            Self::None => Some(()),
            Self::One(offset) => seen(*offset),
            Self::Short(offsets) => offsets.scan(0..offsets.len(), |offset| seen(u32::try_from(offset).ok()?)),
            Self::Roaring { count, bytes } => {
                let mut left = *count;
                containers::for_each(bytes, |key, container| {
                    container.for_each(&mut |low| {
                        left = left.checked_sub(1)?;
                        seen(u32::from(key) << 16 | u32::from(low))
                    })
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload_index::matches::words;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const POINTS: u32 = 300_000;

    /// Few, many, in runs, and in every container.
    fn offsets() -> impl Strategy<Value = BTreeSet<u32>> {
        let run = (0..POINTS - 9_000, 0_u32..9_000).prop_map(|(first, more)| (first..=first + more).collect());
        let step = (0..999_u32, 1_usize..400).prop_map(|(first, step)| (first..POINTS).step_by(step).collect());
        let few = prop::collection::btree_set(0..POINTS, 0..40);
        prop::collection::vec(prop_oneof![few, run, step], 1..3).prop_map(|sets| sets.into_iter().flatten().collect())
    }

    fn read(heap: &[u8], reference: u64) -> Option<(Vec<u64>, Vec<u32>)> {
        let posting = Posting::open(heap, reference, POINTS)?;
        let (mut bits, mut list) = (vec![0; words(POINTS)], vec![]);
        posting.add_to(&mut bits)?;
        posting.for_each(&mut |offset| {
            list.push(offset);
            Some(())
        })?;
        Some((bits, list))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn postings_read_back(offsets in offsets()) {
            let list: Vec<_> = offsets.into_iter().collect();
            let mut heap = vec![7];
            let reference = write(&mut heap, &list, POINTS);
            let (bits, got) = read(&heap, reference).expect("a posting that was just written");
            prop_assert_eq!(bits.iter().map(|word| word.count_ones() as usize).sum::<usize>(), list.len());
            prop_assert!(list.iter().all(|&offset| bits[offset as usize / 64] >> (offset % 64) & 1 == 1));
            prop_assert_eq!(got, list);
        }

        #[test]
        fn damaged_postings_do_not_panic(offsets in offsets(), at in any::<prop::sample::Index>(), to: u8, header in 0_usize..40) {
            let mut heap = vec![];
            let reference = write(&mut heap, &offsets.into_iter().collect::<Vec<_>>(), POINTS);
            if heap.is_empty() {
                return Ok(());
            }
            for at in [at.index(heap.len()), header.min(heap.len() - 1)] {
                let mut heap = heap.clone();
                heap[at] = to;
                let _ = read(&heap, reference);
                heap.truncate(at);
                let _ = read(&heap, reference);
            }
        }
    }

    #[test]
    fn the_smallest_form_is_taken() {
        let form = |offsets: Vec<u32>| {
            let mut heap = vec![];
            let reference = write(&mut heap, &offsets, POINTS);
            (Posting::open(&heap, reference, POINTS).map(|p| matches!(p, Posting::Roaring { .. })), heap.len())
        };
        assert_eq!(form(vec![]), (Some(false), 0), "no point");
        assert_eq!(form(vec![POINTS - 1]), (Some(false), 0), "one point needs no record");
        assert_eq!(form(vec![1, 70_000, 299_999]), (Some(false), 10), "a few points");
        assert_eq!(form((0..POINTS).collect()).0, Some(true), "all points");
        assert!(form((0..POINTS).collect()).1 < 80, "all points are a run in each container");
        assert_eq!(form((0..POINTS).step_by(2).collect()).0, Some(true), "every other point");
    }

    #[test]
    fn references_out_of_bounds_are_refused() {
        for (name, heap, reference) in [
            ("offset", &[][..], 2 * u64::from(POINTS) + 1),
            ("offset of 64 bits", &[], u64::MAX),
            ("record", &[], 2),
            ("far record", &[], u64::MAX - 1),
            ("more offsets than points", &[0xff, 0xff, 0xff, 0xff, 0x0f], 2),
            ("offsets beyond the end", &[0x06, 1, 0, 0], 2),
            ("offset that is no point", &[0x02, 0xff, 0xff, 0xff], 2),
        ] {
            assert_eq!(read(heap, reference), None, "{name}");
        }
    }
}
