//! Ids of points: a number, a UUID or a short string, with one order and one hash for the whole cluster.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

/// Id of a point, chosen by its owner. Ordered: numbers, then UUIDs, then strings, each by value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PointId {
    /// An unsigned number.
    Number(u64),
    /// A UUID, as its 128 bits.
    Uuid(u128),
    /// UTF-8 text of 1 to [`PointId::MAX_TEXT_BYTES`] bytes.
    Text(Box<str>),
}

/// Bytes that are not the key of a point id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stored point id is malformed")]
pub struct PointIdError;

const TAG_NUMBER: u8 = 1;
const TAG_UUID: u8 = 2;
const TAG_TEXT: u8 = 3;

impl PointId {
    /// Longest text id, in bytes.
    pub const MAX_TEXT_BYTES: usize = 128;

    /// Position in the 64-bit hash space that shards divide: XXH3 (seed 0) over [`PointId::to_key`].
    ///
    /// Stored data depends on it: it can never change.
    #[must_use]
    pub fn hash(&self) -> u64 {
        xxh3_64(&self.to_key())
    }

    /// Bytes whose order is the order of ids.
    #[must_use]
    pub fn to_key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(1 + 16);
        match self {
            Self::Number(number) => {
                key.push(TAG_NUMBER);
                key.extend_from_slice(&number.to_be_bytes());
            }
            Self::Uuid(uuid) => {
                key.push(TAG_UUID);
                key.extend_from_slice(&uuid.to_be_bytes());
            }
            Self::Text(text) => {
                key.push(TAG_TEXT);
                key.extend_from_slice(text.as_bytes());
            }
        }
        key
    }

    /// Reads back [`PointId::to_key`].
    pub fn from_key(key: &[u8]) -> Result<Self, PointIdError> {
        let (tag, rest) = key.split_first().ok_or(PointIdError)?;
        match *tag {
            TAG_NUMBER => Ok(Self::Number(u64::from_be_bytes(rest.try_into().map_err(|_| PointIdError)?))),
            TAG_UUID => Ok(Self::Uuid(u128::from_be_bytes(rest.try_into().map_err(|_| PointIdError)?))),
            TAG_TEXT if (1..=Self::MAX_TEXT_BYTES).contains(&rest.len()) => {
                Ok(Self::Text(std::str::from_utf8(rest).map_err(|_| PointIdError)?.into()))
            }
            _ => Err(PointIdError),
        }
    }
}

/// Numbers as digits, UUIDs in their hyphenated form, text as it is.
impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
            Self::Uuid(uuid) => {
                let hex = format!("{uuid:032x}");
                write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<PointId> {
        vec![
            PointId::Number(0),
            PointId::Number(255),
            PointId::Number(256),
            PointId::Number(u64::MAX),
            PointId::Uuid(1),
            PointId::Uuid(u128::MAX),
            PointId::Text("a".into()),
            PointId::Text("ab".into()),
            PointId::Text("é".into()),
        ]
    }

    #[test]
    fn keys_read_back_and_keep_the_order_of_ids() {
        let ids = samples();
        let keys: Vec<_> = ids.iter().map(PointId::to_key).collect();
        assert!(keys.is_sorted(), "byte order of keys must be the order of ids");
        for (id, key) in ids.iter().zip(&keys) {
            assert_eq!(PointId::from_key(key).as_ref(), Ok(id));
        }
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let long = [&[TAG_TEXT][..], &[b'x'; 129]].concat();
        for (name, key) in [
            ("empty", &b""[..]),
            ("unknown tag", b"\x09abc"),
            ("short number", b"\x01\x00"),
            ("empty text", b"\x03"),
            ("not UTF-8", b"\x03\xff"),
            ("long text", &long),
        ] {
            assert_eq!(PointId::from_key(key), Err(PointIdError), "{name}");
        }
    }

    #[test]
    fn hashes_are_those_of_stored_data() {
        // A change here would send every stored point to another shard.
        assert_eq!(PointId::Number(0).hash(), 0x313c_2dd2_ec99_6e80);
        assert_eq!(PointId::Text("a".into()).hash(), 0x14f1_ec51_356e_7e9e, "{:#x}", PointId::Text("a".into()).hash());
    }
}
