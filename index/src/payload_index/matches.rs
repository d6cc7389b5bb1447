//! The offsets that pass a filter: a bit for each point where many pass, a list where few do.

use crate::bits::is_set;

/// Above one in this many points a set is kept as bits: a list of 4-byte offsets would be larger.
pub(super) const LIST_SHARE: u64 = 32;

/// Sorted point offsets of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matches {
    set: Set,
    points: u32,
    len: u32,
}

/// As [`Matches`], not counted yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Set {
    /// Bit `i % 64` of word `i / 64` is set for offset `i`; bits from the number of points on are zero.
    Bits(Vec<u64>),
    /// Ascending, each once.
    List(Vec<u32>),
}

impl Matches {
    /// `set` lies within `points`.
    pub(super) fn new(set: Set, points: u32) -> Self {
        let len = set.count();
        let is_narrow = u64::from(len) * LIST_SHARE <= u64::from(points);
        let set = match set {
            Set::Bits(bits) if is_narrow => Set::List(offsets(&bits).collect()),
            Set::List(_) if !is_narrow => Set::Bits(set.into_bits(points)),
            set => set,
        };
        Self { set, points, len }
    }

    /// How many points pass.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether none passes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many points the segment has.
    #[must_use]
    pub fn points(&self) -> u32 {
        self.points
    }

    /// Whether a point passes: one bit where many do, a binary search where few do.
    #[inline]
    #[must_use]
    pub fn contains(&self, offset: u32) -> bool {
        self.set.contains(offset)
    }

    /// The offsets, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let (bits, list) = match &self.set {
            Set::Bits(bits) => (&bits[..], &[][..]),
            Set::List(list) => (&[][..], &list[..]),
        };
        offsets(bits).chain(list.iter().copied())
    }

    /// Bit `i % 64` of word `i / 64` for offset `i`, if it is kept so: more than one in 32 points pass.
    #[must_use]
    pub fn bits(&self) -> Option<&[u64]> {
        if let Set::Bits(bits) = &self.set { Some(bits) } else { None }
    }

    /// The offsets, ascending, if they are kept so: at most one in 32 points passes.
    #[must_use]
    pub fn list(&self) -> Option<&[u32]> {
        if let Set::List(list) = &self.set { Some(list) } else { None }
    }

    /// Bytes that it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        match &self.set {
            Set::Bits(bits) => size_of_val(&bits[..]),
            Set::List(list) => size_of_val(&list[..]),
        }
    }

    /// As bits, whichever way it is kept.
    #[must_use]
    pub fn into_bits(self) -> Vec<u64> {
        self.set.into_bits(self.points)
    }
}

impl Set {
    pub(super) fn none() -> Self {
        Self::List(vec![])
    }

    pub(super) fn all(points: u32) -> Self {
        let mut bits = vec![u64::MAX; words(points)];
        if let Some(last) = bits.last_mut() {
            *last &= last_word(points);
        }
        Self::Bits(bits)
    }

    /// Sorts offsets into a set.
    pub(super) fn from_unsorted(mut offsets: Vec<u32>) -> Self {
        offsets.sort_unstable();
        offsets.dedup();
        Self::List(offsets)
    }

    /// Whether it is a list without offsets.
    pub(super) fn is_plainly_empty(&self) -> bool {
        matches!(self, Self::List(list) if list.is_empty())
    }

    #[inline]
    fn contains(&self, offset: u32) -> bool {
        match self {
            Self::Bits(bits) => is_set(bits, offset),
            Self::List(list) => list.binary_search(&offset).is_ok(),
        }
    }

    fn count(&self) -> u32 {
        match self {
            Self::Bits(bits) => bits.iter().map(|word| word.count_ones()).sum(),
            // Offsets are `u32` and each is there once.
            Self::List(list) => u32::try_from(list.len()).unwrap_or(u32::MAX),
        }
    }

    fn into_bits(self, points: u32) -> Vec<u64> {
        match self {
            Self::Bits(bits) => bits,
            Self::List(list) => {
                let mut bits = vec![0; words(points)];
                set_bits(&mut bits, &list);
                bits
            }
        }
    }

    /// Both hold `points` points.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Bits(mut bits), Self::Bits(other)) => {
                bits.iter_mut().zip(&other).for_each(|(word, other)| *word &= other);
                Self::Bits(bits)
            }
            (Self::List(mut list), other) | (other, Self::List(mut list)) => {
                list.retain(|&offset| other.contains(offset));
                Self::List(list)
            }
        }
    }

    pub(super) fn or(self, other: Self, points: u32) -> Self {
        match (self, other) {
            (Self::List(mut list), Self::List(other))
                if (list.len() + other.len()) as u64 * LIST_SHARE <= u64::from(points) =>
            {
                list.extend(other);
                Self::from_unsorted(list)
            }
            (Self::Bits(mut bits), Self::Bits(other)) => {
                bits.iter_mut().zip(&other).for_each(|(word, other)| *word |= other);
                Self::Bits(bits)
            }
            (Self::List(list), other) | (other, Self::List(list)) => {
                let mut bits = other.into_bits(points);
                set_bits(&mut bits, &list);
                Self::Bits(bits)
            }
        }
    }

    pub(super) fn and_not(self, other: &Self) -> Self {
        match (self, other) {
            (Self::List(mut list), _) => {
                list.retain(|&offset| !other.contains(offset));
                Self::List(list)
            }
            (Self::Bits(mut bits), Self::Bits(other)) => {
                bits.iter_mut().zip(other).for_each(|(word, other)| *word &= !other);
                Self::Bits(bits)
            }
            (Self::Bits(mut bits), Self::List(other)) => {
                for &offset in other {
                    if let Some(word) = bits.get_mut(offset as usize / 64) {
                        *word &= !(1 << (offset % 64));
                    }
                }
                Self::Bits(bits)
            }
        }
    }
}

/// Words of a bit for each point.
pub(super) fn words(points: u32) -> usize {
    points.div_ceil(64) as usize
}

/// The bits of the last word that stand for points.
pub(super) fn last_word(points: u32) -> u64 {
    if points.is_multiple_of(64) { u64::MAX } else { (1 << (points % 64)) - 1 }
}

fn set_bits(bits: &mut [u64], list: &[u32]) {
    for &offset in list {
        if let Some(word) = bits.get_mut(offset as usize / 64) {
            *word |= 1 << (offset % 64);
        }
    }
}

fn offsets(bits: &[u64]) -> impl Iterator<Item = u32> {
    // Counting up in `u32` cannot overflow: there are at most 2^26 words.
    (0_u32..).step_by(64).zip(bits).flat_map(|(first, &word)| {
        let mut left = word;
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros())?;
            left &= left - 1;
            Some(first + bit)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const POINTS: u32 = 200;

    fn set() -> impl Strategy<Value = (Set, BTreeSet<u32>)> {
        let offsets =
            prop_oneof![prop::collection::btree_set(0..POINTS, 0..6), prop::collection::btree_set(0..POINTS, 0..200),];
        (offsets, any::<bool>()).prop_map(|(offsets, as_bits)| {
            let list = Set::List(offsets.iter().copied().collect());
            (if as_bits { Set::Bits(list.into_bits(POINTS)) } else { list }, offsets)
        })
    }

    proptest! {
        #[test]
        fn sets_join_as_sets_do((a, plain_a) in set(), (b, plain_b) in set()) {
            for (what, got, want) in [
                ("and", a.clone().and(b.clone()), &plain_a & &plain_b),
                ("or", a.clone().or(b.clone(), POINTS), &plain_a | &plain_b),
                ("and not", a.clone().and_not(&b), &plain_a - &plain_b),
                ("not", Set::all(POINTS).and_not(&b), &(0..POINTS).collect() - &plain_b),
            ] {
                let got = Matches::new(got, POINTS);
                prop_assert_eq!(got.iter().collect::<BTreeSet<_>>(), want.clone(), "{}", what);
                prop_assert!(got.iter().is_sorted(), "{}: offsets ascend", what);
                prop_assert_eq!(got.len() as usize, want.len(), "{}: the count", what);
                prop_assert!((0..POINTS + 70).all(|offset| got.contains(offset) == want.contains(&offset)), "{}", what);
                prop_assert_eq!(got.list().is_some(), want.len() as u64 * LIST_SHARE <= 200, "{}: the form", what);
                let bits = got.clone().into_bits();
                prop_assert_eq!(got.bits().unwrap_or(&bits), &bits[..]);
            }
        }
    }
}
