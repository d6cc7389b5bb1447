//! Caps on what a request may ask for. They are configuration, and every refusal quotes the one it met.

use serde::{Deserialize, Serialize};

use crate::InputError;

/// Caps of a router or node. A node's must be at least those of the routers before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Highest dimension of a collection.
    pub dim_max: u32,
    /// Highest `k` of a search.
    pub k_max: u32,
    /// Highest `ef_search` of a search.
    pub ef_search_max: u32,
    /// Points or ids in one write or lookup.
    pub batch_points_max: u32,
    /// Queries in one batched search.
    pub batch_queries_max: u32,
    /// Size of one point's payload, as [`crate::size_bytes`] counts it.
    pub payload_bytes_max: u32,
    /// Nesting of one point's payload.
    pub payload_depth_max: u32,
    /// Nesting of a filter.
    pub filter_depth_max: u32,
    /// Conditions in a filter, all levels together.
    pub filter_conditions_max: u32,
    /// Values or ids in one condition.
    pub filter_values_max: u32,
    /// Shards of one collection.
    pub shards_max: u32,
    /// Replicas of one shard.
    pub replicas_max: u32,
    /// Collections of a cluster.
    pub collections_max: u32,
    /// Longest deadline a caller may ask for.
    pub timeout_ms_max: u32,
    /// Deadline of a call that names none.
    pub timeout_ms_default: u32,
    /// Size of one request on the wire.
    pub message_bytes_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            dim_max: 65_536,
            k_max: 10_000,
            ef_search_max: 10_000,
            batch_points_max: 4_096,
            batch_queries_max: 1_024,
            payload_bytes_max: 1 << 20,
            payload_depth_max: 16,
            filter_depth_max: 16,
            filter_conditions_max: 1_024,
            filter_values_max: 65_536,
            shards_max: 1_024,
            replicas_max: 7,
            collections_max: 10_000,
            timeout_ms_max: 60_000,
            timeout_ms_default: 10_000,
            message_bytes_max: 64 << 20,
        }
    }
}

impl Limits {
    /// Highest cap on nesting that payload may be given; its stored form holds no more.
    pub const PAYLOAD_DEPTH_MAX: u32 = 32;

    /// Refuses caps that would leave nothing to be served.
    pub fn validate(&self) -> Result<(), InputError> {
        for (field, value) in [
            ("limits.dim_max", self.dim_max),
            ("limits.k_max", self.k_max),
            ("limits.ef_search_max", self.ef_search_max),
            ("limits.batch_points_max", self.batch_points_max),
            ("limits.batch_queries_max", self.batch_queries_max),
            ("limits.shards_max", self.shards_max),
            ("limits.replicas_max", self.replicas_max),
            ("limits.timeout_ms_max", self.timeout_ms_max),
            ("limits.timeout_ms_default", self.timeout_ms_default),
        ] {
            if value == 0 {
                return Err(InputError::new(field, "must be at least 1"));
            }
        }
        if self.payload_depth_max > Self::PAYLOAD_DEPTH_MAX {
            let problem = format!("must be at most {}, which stored payload can hold", Self::PAYLOAD_DEPTH_MAX);
            return Err(InputError::new("limits.payload_depth_max", problem));
        }
        if self.message_bytes_max < 1 << 16 {
            return Err(InputError::new("limits.message_bytes_max", "must be at least 65536"));
        }
        Ok(())
    }
}
