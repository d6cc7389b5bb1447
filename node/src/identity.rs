//! Who this node is.
//!
//! A data folder draws a random store id once. The coordinator knows the node by it, so a folder that was moved
//! is the same node, and an empty one is a new node, whatever its name and address say.

use bytes::Bytes;
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{ClusterId, NodeId, ShardId, StoreId};
use shoal_runtime::{Batch, Store, Table};

use crate::NodeError;
use crate::shard::keys;

/// Identity of a data folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) store: StoreId,
    /// The cluster it belongs to and its number there, once registered.
    pub(crate) member: Option<(ClusterId, NodeId)>,
}

const FORMAT: u8 = 1;

impl Identity {
    /// The folder's identity, drawn if it has none.
    pub(crate) fn load(store: &dyn Store) -> Result<Self, NodeError> {
        if let Some(bytes) = store.get(Table::Meta, keys::IDENTITY)? {
            let malformed = NodeError::Malformed { shard: ShardId::default(), what: "node identity" };
            return Self::decode(&bytes).ok_or(malformed);
        }
        let identity = Self { store: StoreId(uuid::Uuid::new_v4().as_u128()), member: None };
        identity.save(store)?;
        Ok(identity)
    }

    /// Makes the identity durable.
    pub(crate) fn save(&self, store: &dyn Store) -> Result<(), NodeError> {
        meet(Failpoint::NodeIdentity)?;
        let mut batch = Batch::default();
        batch.put(Table::Meta, keys::IDENTITY, self.encode());
        store.write(batch)?;
        Ok(store.sync()?)
    }

    /// Refuses another number than the one it has: its replicas are those of that one.
    pub(crate) fn check_same(&self, given: NodeId) -> Result<(), NodeError> {
        match self.member {
            Some((_, own)) if own != given => Err(NodeError::GivenUp { own, given }),
            _ => Ok(()),
        }
    }

    fn encode(&self) -> Bytes {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&self.store.0.to_be_bytes());
        if let Some((cluster, node)) = self.member {
            bytes.extend_from_slice(&cluster.0.to_be_bytes());
            bytes.extend_from_slice(&node.0.to_be_bytes());
        }
        bytes.into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&format, rest) = bytes.split_first()?;
        let (store, rest) = rest.split_first_chunk()?;
        let member = match rest.split_first_chunk() {
            None if rest.is_empty() => None,
            None => return None,
            Some((cluster, node)) => {
                let node = NodeId(u64::from_be_bytes(node.try_into().ok()?));
                Some((ClusterId(u128::from_be_bytes(*cluster)), node))
            }
        };
        (format == FORMAT).then_some(Self { store: StoreId(u128::from_be_bytes(*store)), member })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_runtime::MemoryStore;

    #[test]
    fn identity_is_drawn_once_and_survives_power_loss() {
        let store = MemoryStore::new();
        let mut identity = Identity::load(&store).expect("drawn");
        store.crash(0);
        assert_eq!(Identity::load(&store).expect("kept"), identity);
        identity.member = Some((ClusterId(3), NodeId(4)));
        identity.save(&store).expect("saved");
        store.crash(0);
        assert_eq!(Identity::load(&store).expect("kept"), identity);
        assert_ne!(Identity::load(&MemoryStore::new()).expect("another folder").store, identity.store);
    }

    #[test]
    fn a_node_keeps_its_number() {
        let of = |member| Identity { store: StoreId(1), member };
        assert!(of(None).check_same(NodeId(4)).is_ok());
        assert!(of(Some((ClusterId(3), NodeId(4)))).check_same(NodeId(4)).is_ok());
        let ghost = of(Some((ClusterId(3), NodeId(4)))).check_same(NodeId(9));
        assert!(matches!(ghost, Err(NodeError::GivenUp { own: NodeId(4), given: NodeId(9) })));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [&b""[..], &[1; 5], &[2; 17], &[1; 18], &[1; 60]] {
            assert_eq!(Identity::decode(bytes), None, "{} bytes", bytes.len());
        }
    }
}
