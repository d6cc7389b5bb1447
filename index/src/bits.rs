//! Sets of points as bits, by offset.

/// Whether a point's bit is set. A file may name points that are not there: theirs is not.
#[inline]
pub(crate) fn is_set(words: &[u64], offset: u32) -> bool {
    words.get(offset as usize / 64).is_some_and(|word| word >> (offset % 64) & 1 == 1)
}
