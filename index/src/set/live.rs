//! Which points of a segment live.

use std::sync::Arc;

use crate::bits::is_set;

/// A bit for each point of a segment. Cloning shares them; a change to shared ones copies them first.
///
/// A copy of a million is 125 KB: some 10 µs, once after each publish for each segment that loses a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    words: Arc<Vec<u64>>,
    points: u32,
    count: u32,
}

impl Live {
    /// All `points` live.
    #[must_use]
    pub fn all(points: u32) -> Self {
        let mut words = vec![u64::MAX; points.div_ceil(64) as usize];
        if let Some(last) = words.last_mut()
            && !points.is_multiple_of(64)
        {
            *last = (1 << (points % 64)) - 1;
        }
        Self { words: Arc::new(words), points, count: points }
    }

    /// None of `points` lives.
    #[must_use]
    pub fn none(points: u32) -> Self {
        Self { words: Arc::new(vec![0; points.div_ceil(64) as usize]), points, count: 0 }
    }

    /// Whether a point lives.
    #[inline]
    #[must_use]
    pub fn contains(&self, offset: u32) -> bool {
        is_set(&self.words, offset)
    }

    /// How many live.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many there are, dead ones included.
    #[must_use]
    pub fn points(&self) -> u32 {
        self.points
    }

    /// Bit `i % 64` of word `i / 64` for offset `i`; `None` if all live, so that nobody needs to ask.
    #[must_use]
    pub fn tombstoned(&self) -> Option<&[u64]> {
        (self.count < self.points).then_some(&self.words)
    }

    /// Bit `i % 64` of word `i / 64` for offset `i`.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Offsets that live, ascending.
    pub fn offsets(&self) -> impl Iterator<Item = u32> {
        (0..self.points).filter(|offset| self.contains(*offset))
    }

    /// Tombstones a point. Tells whether it lived.
    pub(super) fn bury(&mut self, offset: u32) -> bool {
        let lived = self.contains(offset);
        if lived {
            Arc::make_mut(&mut self.words)[offset as usize / 64] &= !(1 << (offset % 64));
            self.count -= 1;
        }
        lived
    }

    /// Lets a point live that is one of [`Live::points`]. Tells whether it was dead.
    pub(super) fn raise(&mut self, offset: u32) -> bool {
        assert!(offset < self.points, "offset {offset} of {} points", self.points);
        let dead = !self.contains(offset);
        if dead {
            Arc::make_mut(&mut self.words)[offset as usize / 64] |= 1 << (offset % 64);
            self.count += 1;
        }
        dead
    }

    /// Memory held, shared or not.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&self.words[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_counted_and_copied_when_shared() {
        for points in [0, 1, 63, 64, 65, 200] {
            let (mut all, mut none) = (Live::all(points), Live::none(points));
            assert_eq!((all.count(), none.count(), all.points()), (points, 0, points));
            assert_eq!(all.offsets().collect::<Vec<_>>(), (0..points).collect::<Vec<_>>());
            assert_eq!((all.tombstoned(), none.tombstoned().is_some()), (None, points > 0));
            assert!(!all.contains(points) && !all.bury(points), "there is no such point");
            let before = all.clone();
            for offset in (0..points).step_by(3) {
                assert!(all.bury(offset) && !all.bury(offset), "a point dies once");
                assert!(none.raise(offset) && !none.raise(offset), "and rises once");
            }
            assert_eq!(before, Live::all(points), "what is shared does not change");
            assert_eq!(all.count() + none.count(), points);
            assert!((0..points).all(|offset| all.contains(offset) != none.contains(offset)));
        }
    }
}
