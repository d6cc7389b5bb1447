//! Keys of a node's records. Every key of a shard begins with its number, so that a shard is dropped by range.

use bytes::Bytes;
use shoal_model::{LogIndex, PointId, ShardId};

/// Identity of this data folder.
pub(crate) const IDENTITY: &[u8] = b"node/identity";
/// The newest cluster map this node has seen.
pub(crate) const MAP: &[u8] = b"node/map";

/// What the shard's stored content comes to, and the log position that it reflects.
pub(crate) fn state(shard: ShardId) -> Bytes {
    [&b"node/state/"[..], &shard.0.to_be_bytes()].concat().into()
}

/// First key and first key after all of [`state`].
pub(crate) const ALL_STATES: (&[u8], &[u8]) = (b"node/state/", b"node/state0");

/// The shard in a key made by [`state`].
pub(crate) fn shard_of_state(key: &[u8]) -> Option<ShardId> {
    let number = key.strip_prefix(ALL_STATES.0)?.try_into().ok()?;
    Some(ShardId(u64::from_be_bytes(number)))
}

/// A part of the shard's index, by its name.
pub(crate) fn part(shard: ShardId, name: u64) -> Bytes {
    numbered(b"node/part/", shard, name)
}

/// First key of [`part`] of a shard, and first key after them.
pub(crate) fn parts(shard: ShardId) -> (Bytes, Bytes) {
    all_numbered(b"node/part/", shard)
}

/// What codes of the shard's active delta are made around.
pub(crate) fn center(shard: ShardId) -> Bytes {
    [&b"node/center/"[..], &shard.0.to_be_bytes()].concat().into()
}

/// An operation that the shard has applied, by its position.
pub(crate) fn operation(shard: ShardId, index: LogIndex) -> Bytes {
    numbered(b"node/operation/", shard, index.0)
}

/// First key of [`operation`] of a shard, and first key after them.
pub(crate) fn operations(shard: ShardId) -> (Bytes, Bytes) {
    all_numbered(b"node/operation/", shard)
}

/// The number at the end of a key made by [`part`] or [`operation`].
pub(crate) fn number_at_end(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*key.last_chunk()?))
}

fn numbered(prefix: &[u8], shard: ShardId, number: u64) -> Bytes {
    [prefix, &shard.0.to_be_bytes(), &number.to_be_bytes()].concat().into()
}

fn all_numbered(prefix: &[u8], shard: ShardId) -> (Bytes, Bytes) {
    let bound = |number: u64| [prefix, &number.to_be_bytes()].concat().into();
    (bound(shard.0), bound(shard.0.saturating_add(1)))
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
