//! Points as the store has them.
//!
//! A point is two records under one key: its vector and its payload. Each is the position of the write that made it, a
//! checksum of key, position and content, and the content. Both carry the same position, so that a reader notices when it
//! read one before and one after a write; the checksum finds what the store itself does not: a record under another's key,
//! or a byte that changed in memory.

use bytes::Bytes;
use shoal_model::LogIndex;
use xxhash_rust::xxh3::Xxh3;

/// A record of `key`.
pub(crate) fn record(key: &[u8], index: LogIndex, content: &[u8]) -> Bytes {
    [&index.0.to_be_bytes()[..], &checksum(key, index, content).to_le_bytes(), content].concat().into()
}

/// The position and content of a record of `key`; `None` if it is not what was written there.
pub(crate) fn split_record<'a>(key: &[u8], record: &'a [u8]) -> Option<(LogIndex, &'a [u8])> {
    let (index, rest) = record.split_first_chunk()?;
    let (sum, content) = rest.split_first_chunk()?;
    let index = LogIndex(u64::from_be_bytes(*index));
    (checksum(key, index, content) == u64::from_le_bytes(*sum)).then_some((index, content))
}

fn checksum(key: &[u8], index: LogIndex, content: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(key);
    hash.update(&index.0.to_le_bytes());
    hash.update(content);
    hash.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_under_its_own_key_alone() {
        let made = record(b"key", LogIndex(7), b"content");
        assert_eq!(split_record(b"key", &made), Some((LogIndex(7), &b"content"[..])));
        assert_eq!(split_record(b"kex", &made), None);
        for at in 0..made.len() {
            let mut flipped = made.to_vec();
            flipped[at] ^= 1;
            assert_eq!(split_record(b"key", &flipped), None, "byte {at}");
            assert_eq!(split_record(b"key", &made[..at]), None, "cut at {at}");
        }
    }
}
