//! Arrays of whole numbers in as few bytes as the largest of them needs, read in place.
//!
//! ```text
//! column = len [ width { number } ]      len in LEB128; width in bytes, 1 to 16; numbers little-endian
//! ```

use std::ops::Range;

use crate::packed::{Reader, write_leb128};

const WIDTH_MAX: usize = size_of::<u128>();

/// Numbers of one width.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Column<'a> {
    bytes: &'a [u8],
    width: usize,
    len: usize,
}

/// Bytes that `number` needs; 1 for zero.
pub(super) fn width_of(number: u128) -> usize {
    (u128::BITS - (number | 1).leading_zeros()).div_ceil(8) as usize
}

/// Appends numbers, each in `width` bytes.
pub(super) fn write_numbers(out: &mut Vec<u8>, width: usize, numbers: impl Iterator<Item = u128>) {
    numbers.for_each(|number| out.extend_from_slice(&number.to_le_bytes()[..width]));
}

/// Appends a column.
pub(super) fn write(out: &mut Vec<u8>, numbers: &[u128]) {
    write_leb128(out, numbers.len() as u64);
    if let Some(&most) = numbers.iter().max() {
        let width = width_of(most);
        out.extend(u8::try_from(width));
        write_numbers(out, width, numbers.iter().copied());
    }
}

impl<'a> Column<'a> {
    /// Reads back [`write()`].
    pub(super) fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let len = usize::try_from(reader.leb128()?).ok()?;
        if len == 0 {
            return Some(Self::default());
        }
        let width = usize::from(*reader.take(1)?.first()?);
        Self::take(reader, len, width)
    }

    /// Reads `len` numbers of `width` bytes.
    pub(super) fn take(reader: &mut Reader<'a>, len: usize, width: usize) -> Option<Self> {
        let widths = 1..=WIDTH_MAX;
        let bytes = widths.contains(&width).then(|| len.checked_mul(width))??;
        Some(Self { bytes: reader.take(bytes)?, width, len })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, index: usize) -> Option<u128> {
        let start = index.checked_mul(self.width)?;
        let number = self.bytes.get(start..)?.get(..self.width).filter(|number| !number.is_empty())?;
        let mut wide = [0; WIDTH_MAX];
        wide[..number.len()].copy_from_slice(number);
        Some(u128::from_le_bytes(wide))
    }

    pub(super) fn get_u64(&self, index: usize) -> Option<u64> {
        u64::try_from(self.get(index)?).ok()
    }

    pub(super) fn get_usize(&self, index: usize) -> Option<usize> {
        usize::try_from(self.get(index)?).ok()
    }

    /// How many numbers of an ascending column are less than `bound`.
    pub(super) fn count_below(&self, bound: u128) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low.midpoint(high);
            if self.get(middle).is_some_and(|number| number < bound) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Position of `number` in an ascending column.
    pub(super) fn find(&self, number: u128) -> Option<usize> {
        let at = self.count_below(number);
        (self.get(at)? == number).then_some(at)
    }

    /// Calls `seen` with the numbers of `range` in turn, until it answers `None`. Those over 64 bits are malformed.
    #[inline]
    pub(super) fn scan(&self, range: Range<usize>, mut seen: impl FnMut(u64) -> Option<()>) -> Option<()> {
        let at = |index: usize| index.checked_mul(self.width);
        let bytes = self.bytes.get(at(range.start)?..at(range.end)?)?;
        // One loop for each usual width: a copy of constant length is one or two loads.
        match self.width {
            1 => scan_wide::<1>(bytes, seen),
            2 => scan_wide::<2>(bytes, seen),
            3 => scan_wide::<3>(bytes, seen),
            4 => scan_wide::<4>(bytes, seen),
            _ => range.into_iter().try_for_each(|index| seen(self.get_u64(index)?)),
        }
    }
}

#[inline]
fn scan_wide<const WIDTH: usize>(bytes: &[u8], seen: impl FnMut(u64) -> Option<()>) -> Option<()> {
    let wide = |number: &[u8; WIDTH]| {
        let mut wide = [0; 8];
        wide[..WIDTH].copy_from_slice(number);
        u64::from_le_bytes(wide)
    };
    bytes.as_chunks::<WIDTH>().0.iter().map(wide).try_for_each(seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn columns_read_back(numbers in prop::collection::vec((any::<u128>(), 0_u32..128).prop_map(|(n, s)| n >> s), 0..40)) {
            let mut sorted = numbers;
            sorted.sort_unstable();
            sorted.dedup();
            let mut bytes = vec![];
            write(&mut bytes, &sorted);
            let mut reader = Reader::new(&bytes);
            let column = Column::read(&mut reader).expect("a column that was just written");
            prop_assert!(reader.is_at_end(), "a column says where it ends");
            prop_assert_eq!(column.len(), sorted.len());
            for (at, &number) in sorted.iter().enumerate() {
                prop_assert_eq!(column.get(at), Some(number));
                prop_assert_eq!(column.find(number), Some(at));
            }
            prop_assert_eq!(column.get(sorted.len()), None);
            let mut seen = vec![];
            let whole = column.scan(0..sorted.len(), |number| { seen.push(u128::from(number)); Some(()) });
            let small = sorted.iter().all(|&number| number <= u128::from(u64::MAX));
            prop_assert_eq!(whole.is_some(), small, "numbers over 64 bits are not scanned");
            prop_assert!(sorted.starts_with(&seen));
        }
    }
}
