//! The token of an acknowledged write: which log positions a later read must have seen.

use std::collections::BTreeMap;

use crate::{Classify, ErrorKind, LogIndex, ShardId};

/// Positions in the logs of shards. Clients carry it as opaque bytes and merge nothing themselves:
/// they send the last token back and get one that covers both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token(BTreeMap<ShardId, LogIndex>);

/// Bytes that are not a token of this cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("token: is not one that a write has returned; send it back unchanged")]
pub struct TokenError;

impl Classify for TokenError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }

    fn field(&self) -> &str {
        "token"
    }
}

const FORMAT: u8 = 1;

impl Token {
    /// Asks that `shard` has applied at least `index`; keeps the higher of two.
    pub fn raise(&mut self, shard: ShardId, index: LogIndex) {
        let at = self.0.entry(shard).or_default();
        *at = (*at).max(index);
    }

    /// A token that asks for what both ask for.
    #[must_use]
    pub fn merge(mut self, other: &Self) -> Self {
        for (shard, index) in &other.0 {
            self.raise(*shard, *index);
        }
        self
    }

    /// What must be applied on `shard`; zero if the token says nothing about it.
    #[must_use]
    pub fn index_of(&self, shard: ShardId) -> LogIndex {
        self.0.get(&shard).copied().unwrap_or_default()
    }

    /// Opaque bytes: a format byte, then shard and index of each entry as LEB128, shards as differences.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        let mut previous = 0;
        for (shard, index) in &self.0 {
            write_leb128(&mut bytes, shard.0 - previous);
            write_leb128(&mut bytes, index.0);
            previous = shard.0;
        }
        bytes
    }

    /// Reads back [`Token::encode`]. Empty bytes are the token that asks for nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, TokenError> {
        let mut rest = match bytes.split_first() {
            None => return Ok(Self::default()),
            Some((&FORMAT, rest)) => rest,
            Some(_) => return Err(TokenError),
        };
        let mut token = Self::default();
        let mut shard = 0_u64;
        while !rest.is_empty() {
            shard = shard.checked_add(read_leb128(&mut rest)?).ok_or(TokenError)?;
            token.raise(ShardId(shard), LogIndex(read_leb128(&mut rest)?));
        }
        Ok(token)
    }
}

fn write_leb128(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn read_leb128(bytes: &mut &[u8]) -> Result<u64, TokenError> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(TokenError)?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        number |= bits.checked_shl(shift).filter(|n| n >> shift == bits).ok_or(TokenError)?;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(TokenError)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(entries: &[(u64, u64)]) -> Token {
        Token(entries.iter().map(|(s, i)| (ShardId(*s), LogIndex(*i))).collect())
    }

    #[test]
    fn tokens_read_back_and_merge_to_the_higher() {
        for entries in [&[][..], &[(1, 1)], &[(0, 0), (7, 300), (u64::MAX, u64::MAX)]] {
            assert_eq!(Token::decode(&token(entries).encode()), Ok(token(entries)));
        }
        assert_eq!(Token::decode(b""), Ok(Token::default()));
        let merged = token(&[(1, 5), (2, 1)]).merge(&token(&[(1, 3), (2, 9), (3, 1)]));
        assert_eq!(merged, token(&[(1, 5), (2, 9), (3, 1)]));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [
            &b"\x02"[..],
            b"hello",
            b"\x01\x80",
            b"\x01\x05",
            &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1],
        ] {
            assert_eq!(Token::decode(bytes), Err(TokenError), "{bytes:?}");
        }
    }
}
