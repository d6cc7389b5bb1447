//! Which shard holds an id, and dividing a batch among shards.

use std::collections::BTreeMap;

use shoal_model::{ErrorKind, PointId, ShardId};
use shoal_proto::status::RemoteError;

use crate::RouterError;
use crate::lookup::Located;

/// Divides items among the shards that hold their ids; each part keeps the order of the batch.
pub(crate) fn by_shard<T>(
    located: &Located,
    ids: &[PointId],
    items: Vec<T>,
) -> Result<BTreeMap<ShardId, Vec<T>>, RouterError> {
    // Shards come in the order of their ranges.
    let shards: Vec<_> = located.map.shards_of(located.collection()).map(|shard| (shard.range, shard.id)).collect();
    let mut parts: BTreeMap<ShardId, Vec<T>> = BTreeMap::new();
    for (id, item) in ids.iter().zip(items) {
        let hash = id.hash();
        let at = shards.partition_point(|(range, _)| range.last < hash);
        let held = shards.get(at).filter(|(range, _)| range.contains(hash));
        let (_, shard) = held.ok_or_else(|| homeless(located))?;
        parts.entry(*shard).or_default().push(item);
    }
    Ok(parts)
}

/// The map breaks its own invariant, which is a bug.
fn homeless(located: &Located) -> RouterError {
    RouterError::Remote(RemoteError {
        kind: ErrorKind::Internal,
        field: String::new(),
        message: format!("no shard of collection {:?} holds a hash", located.collection().name),
    })
}
