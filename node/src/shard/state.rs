//! What a replica's content comes to at a position.
//!
//! Two digests, each moved on by every entry at a cost that does not grow with the shard: of the log, a chain over all
//! entries in order; and of the points, a sum over the ids and versions of those that live. A version is the position of the
//! write that made it, so the log's digest speaks for the content of each. Two replicas with the same digests at the same
//! position hold the same points, unless a record changed in the store afterwards: records carry checksums for that.
//!
//! Source of the sum: multiset hashing by addition, Bellare and Micciancio, EUROCRYPT 1997. It guards against faults, not
//! against an adversary.

use bytes::Bytes;
use prost::Message as _;
use shoal_model::{LogIndex, PointId};
use shoal_proto::internal::v1 as wire;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Position, digests, and what else of the state is a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardState {
    /// The position that the content reflects.
    pub applied: LogIndex,
    /// Of all entries so far, in order.
    pub(crate) log_digest: u128,
    /// Of ids and versions of the points that live, in no order.
    pub(crate) points_digest: u128,
    /// How many points live.
    pub(crate) points: u64,
    /// Name of the newest delta that was sealed.
    pub(crate) last_seal: u64,
}

impl ShardState {
    /// An entry was applied.
    pub(crate) fn note_entry(&mut self, index: LogIndex, entry: &[u8]) {
        let mut hash = Xxh3::new();
        hash.update(&self.log_digest.to_le_bytes());
        hash.update(&index.0.to_le_bytes());
        hash.update(entry);
        self.log_digest = hash.digest128();
        self.applied = index;
    }

    /// A point lives in a version.
    pub(crate) fn add_point(&mut self, id: &PointId, version: u64) {
        self.points_digest = self.points_digest.wrapping_add(digest_of(id, version));
        self.points += 1;
    }

    /// A point lives no more that did in that version.
    pub(crate) fn remove_point(&mut self, id: &PointId, version: u64) {
        self.points_digest = self.points_digest.wrapping_sub(digest_of(id, version));
        self.points -= 1;
    }

    /// Whether both have the same points, wherever their logs are.
    pub(crate) fn has_points_of(&self, other: &Self) -> bool {
        (self.points, self.points_digest) == (other.points, other.points_digest)
    }

    pub(crate) fn to_wire(self) -> wire::ShardState {
        wire::ShardState {
            applied_index: self.applied.0,
            log_digest: Bytes::copy_from_slice(&self.log_digest.to_be_bytes()),
            points_digest: Bytes::copy_from_slice(&self.points_digest.to_be_bytes()),
            points: self.points,
            last_seal: self.last_seal,
        }
    }

    pub(crate) fn from_wire(state: &wire::ShardState) -> Option<Self> {
        let digest = |bytes: &Bytes| Some(u128::from_be_bytes(bytes[..].try_into().ok()?));
        Some(Self {
            applied: LogIndex(state.applied_index),
            log_digest: digest(&state.log_digest)?,
            points_digest: digest(&state.points_digest)?,
            points: state.points,
            last_seal: state.last_seal,
        })
    }

    /// As it is stored: a checksum, then the state.
    pub(crate) fn encode(self) -> Bytes {
        let body = self.to_wire().encode_to_vec();
        [&xxh3_64(&body).to_le_bytes()[..], &body].concat().into()
    }

    /// Reads back [`ShardState::encode`]; `None` if that is not what was written.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (checksum, body) = bytes.split_first_chunk()?;
        let is_whole = xxh3_64(body) == u64::from_le_bytes(*checksum);
        is_whole.then(|| Self::from_wire(&wire::ShardState::decode(body).ok()?)).flatten()
    }
}

fn digest_of(id: &PointId, version: u64) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&id.to_key());
    hash.update(&version.to_le_bytes());
    hash.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_of_what_lives_and_of_the_way_there() {
        let id = |number| PointId::Number(number);
        let (mut one, mut other) = (ShardState::default(), ShardState::default());
        one.add_point(&id(1), 5);
        one.add_point(&id(2), 6);
        other.add_point(&id(2), 4);
        other.add_point(&id(1), 5);
        assert!(!one.has_points_of(&other), "2 is of another version");
        other.remove_point(&id(2), 4);
        other.add_point(&id(2), 6);
        assert!(one.has_points_of(&other), "in whatever order they came");
        one.note_entry(LogIndex(6), b"entry");
        other.note_entry(LogIndex(6), b"entrY");
        assert_ne!(one.log_digest, other.log_digest);
        assert_eq!(ShardState::decode(&one.encode()), Some(one));
        let mut flipped = one.encode().to_vec();
        for at in 0..flipped.len() {
            flipped[at] ^= 4;
            assert_eq!(ShardState::decode(&flipped), None, "byte {at}");
            flipped[at] ^= 4;
        }
    }
}
