//! Keys of a node's records. Every key of a shard begins with its number, so that a shard is dropped by range.

use bytes::Bytes;
use shoal_model::{PointId, ShardId};

/// Identity of this data folder.
pub(crate) const IDENTITY: &[u8] = b"node/identity";
/// The newest cluster map this node has seen.
pub(crate) const MAP: &[u8] = b"node/map";

/// Log position that the shard's stored points reflect.
pub(crate) fn applied(shard: ShardId) -> Bytes {
    [&b"node/applied/"[..], &shard.0.to_be_bytes()].concat().into()
}

/// First key and first key after all of [`applied`].
pub(crate) const ALL_APPLIED: (&[u8], &[u8]) = (b"node/applied/", b"node/applied0");

/// The shard in a key made by [`applied`].
pub(crate) fn shard_of_applied(key: &[u8]) -> Option<ShardId> {
    let number = key.strip_prefix(ALL_APPLIED.0)?.try_into().ok()?;
    Some(ShardId(u64::from_be_bytes(number)))
}

/// Checksum of a segment that holds points of the shard, by its number.
pub(crate) fn segment(shard: ShardId, number: u64) -> Bytes {
    [&b"node/segment/"[..], &shard.0.to_be_bytes(), &number.to_be_bytes()].concat().into()
}

/// First key of [`segment`] of a shard, and first key after them.
pub(crate) fn segments(shard: ShardId) -> (Bytes, Bytes) {
    let bound = |number: u64| [&b"node/segment/"[..], &number.to_be_bytes()].concat().into();
    (bound(shard.0), bound(shard.0.saturating_add(1)))
}

/// The number in a key made by [`segment`].
pub(crate) fn number_of_segment(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*key.last_chunk()?))
}

/// A point's record, in the tables of vectors and of payload.
pub(crate) fn point(shard: ShardId, id: &PointId) -> Bytes {
    [&shard.0.to_be_bytes()[..], &id.to_key()].concat().into()
}

/// The point id in a key made by [`point`].
pub(crate) fn id_part(key: &[u8]) -> &[u8] {
    key.get(8..).unwrap_or_default()
}

/// First key of a shard's points, and first key after them.
pub(crate) fn points(shard: ShardId) -> (Bytes, Bytes) {
    let bound = |number: u64| Bytes::copy_from_slice(&number.to_be_bytes());
    // Shards are numbered from 1 by a counter that cannot reach the end.
    (bound(shard.0), bound(shard.0.saturating_add(1)))
}
