//! Signs of 32 rows, interleaved so that one instruction looks up four dimensions of many rows.

use super::{BATCH, BLOCK_BYTES, BLOCK_DIMS};

/// Half of the rows of a batch: those in the low nibbles.
const HALF: usize = BATCH / 2;

/// The lower one of each two nibbles.
const EVEN: u64 = 0x0f0f_0f0f_0f0f_0f0f;

/// Interleaves the signs of up to 32 rows, as [`super::encode`] writes them; rows that lack have none set.
///
/// # Panics
/// If there are more than 32 rows, or `codes` has not 256 bytes for each word of a row.
pub fn pack(rows: &[&[u64]], codes: &mut [u8]) {
    assert!(rows.len() <= BATCH, "{} rows for a batch of {BATCH}", rows.len());
    assert!(rows.iter().all(|row| row.len() * BLOCK_BYTES == codes.len()), "words of each row fit the codes");
    let word = |row: usize, word: usize| rows.get(row).map_or(0, |row| row[word]);
    for (at, codes) in codes.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut().enumerate() {
        let pairs = codes.as_chunks_mut::<{ 2 * HALF }>().0;
        for row in 0..HALF {
            let (low, high) = (word(row, at), word(row + HALF, at));
            // Bytes of the groups 0, 2, 4 and so on, and of 1, 3, 5.
            let even = (low & EVEN | (high & EVEN) << 4).to_le_bytes();
            let odd = (low >> 4 & EVEN | high & !EVEN).to_le_bytes();
            for (i, pair) in pairs.iter_mut().enumerate() {
                (pair[row], pair[row + HALF]) = (even[i], odd[i]);
            }
        }
    }
}

/// Puts the signs of one row into a batch, over what was there.
///
/// # Panics
/// If there is no such row, or `codes` has not 256 bytes for each word.
pub fn insert(codes: &mut [u8], row: usize, bits: &[u64]) {
    assert!(row < BATCH, "row {row} of a batch of {BATCH}");
    assert_eq!(bits.len() * BLOCK_BYTES, codes.len(), "words of the row fit the codes");
    let (keep, shift) = if row < HALF { (0xf0, 0) } else { (0x0f, 4) };
    let groups = codes.as_chunks_mut::<HALF>().0;
    for (word, groups) in bits.iter().zip(groups.chunks_exact_mut(BLOCK_DIMS / 4)) {
        for (i, group) in groups.iter_mut().enumerate() {
            let byte = &mut group[row % HALF];
            *byte = *byte & keep | ((word >> (4 * i) & 15) as u8) << shift;
        }
    }
}
