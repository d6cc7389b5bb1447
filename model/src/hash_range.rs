//! Ranges of the 64-bit hash space of point ids.

use std::fmt;

/// A contiguous, non-empty range of the hash space; both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HashRange {
    /// First hash of the range.
    pub first: u64,
    /// Last hash of the range.
    pub last: u64,
}

impl HashRange {
    /// The whole hash space.
    pub const FULL: Self = Self { first: 0, last: u64::MAX };

    /// Whether `hash` lies in the range.
    #[must_use]
    pub const fn contains(self, hash: u64) -> bool {
        self.first <= hash && hash <= self.last
    }

    /// Divides the whole space into `count` ranges whose sizes differ by at most one.
    ///
    /// `count` of 0 gives no range.
    #[must_use]
    pub fn divide(count: u32) -> Vec<Self> {
        let bound = |i: u32| (u128::from(i) << 64) / u128::from(count);
        (0..count)
            .map(|i| Self {
                first: u64::try_from(bound(i)).unwrap_or(u64::MAX),
                last: u64::try_from(bound(i + 1) - 1).unwrap_or(u64::MAX),
            })
            .collect()
    }
}

impl fmt::Display for HashRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}..{:016x}", self.first, self.last)
    }
}

/// Whether `ranges` cover the hash space without gap or overlap, which holds at every map version.
#[must_use]
pub fn partitions_exactly(ranges: &[HashRange]) -> bool {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut next = Some(0);
    for range in sorted {
        if next != Some(range.first) || range.last < range.first {
            return false;
        }
        next = range.last.checked_add(1);
    }
    next.is_none() && !ranges.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divided_space_is_partitioned_evenly() {
        for count in [1, 2, 3, 7, 64, 1000] {
            let ranges = HashRange::divide(count);
            assert!(partitions_exactly(&ranges), "{count} ranges");
            let sizes: Vec<u64> = ranges.iter().map(|r| r.last - r.first).collect();
            let (min, max) = (sizes.iter().min(), sizes.iter().max());
            assert!(max.zip(min).is_some_and(|(max, min)| max - min <= 1), "{count} ranges of equal size");
        }
    }

    #[test]
    fn gaps_and_overlaps_are_seen() {
        let half = u64::MAX / 2;
        let (low, high) = (HashRange { first: 0, last: half }, HashRange { first: half + 1, last: u64::MAX });
        for (name, ranges, want) in [
            ("none", vec![], false),
            ("full", vec![HashRange::FULL], true),
            ("two, unsorted", vec![high, low], true),
            ("missing end", vec![low], false),
            ("missing start", vec![high], false),
            ("overlap", vec![low, HashRange { first: half, last: u64::MAX }], false),
            ("gap", vec![low, HashRange { first: half + 2, last: u64::MAX }], false),
            ("twice", vec![HashRange::FULL, HashRange::FULL], false),
        ] {
            assert_eq!(partitions_exactly(&ranges), want, "{name}");
        }
    }
}
