//! Identifiers as newtypes, so that a shard is never taken for a node.

use std::fmt;

macro_rules! id_u64 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! id_u128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }
    };
}

id_u64!(
    /// A node of the cluster, numbered by the coordinator when its store first registers. Never reused.
    NodeId
);
id_u64!(
    /// A shard, numbered by the coordinator across all collections. Never reused.
    ShardId
);
id_u64!(
    /// A collection, numbered by the coordinator. Never reused, so a new collection may take an old name.
    CollectionId
);
id_u64!(
    /// One copy of a shard; also its member number in the shard's Raft group. A wiped replica gets a new one.
    ReplicaId
);
id_u64!(
    /// A Raft group of one process: the coordinators' own group, or one per shard.
    GroupId
);
id_u64!(
    /// Version of the cluster map, or of the part of it that describes one shard. Only grows.
    Epoch
);
id_u64!(
    /// Position in a Raft group's log.
    LogIndex
);
id_u128!(
    /// Random identity of a cluster, drawn once by the first coordinator leader.
    ClusterId
);
id_u128!(
    /// Random identity of one data folder of a node. A replaced disk has another one and is another node.
    StoreId
);
id_u128!(
    /// Random identity of one intent of a caller; a retry carries the same one and changes nothing.
    OperationId
);

/// Numbered, immutable specification of how a collection is embedded and indexed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexVersion(pub u32);

impl fmt::Display for IndexVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl LogIndex {
    /// The next position.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Epoch {
    /// The next version.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
