//! What may differ from node to node.

use serde::{Deserialize, Serialize};
use shoal_model::{InputError, Limits};

/// Configuration of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Name for people, such as the host's.
    pub name: String,
    /// URI under which routers and other nodes reach it; by default the address it listens on.
    #[serde(default)]
    pub address: Option<String>,
    /// Failure domain; replicas of a shard avoid sharing one.
    #[serde(default)]
    pub zone: String,
    /// URIs of the coordinators; any of them may be asked.
    pub coordinators: Vec<String>,
    /// Caps on requests; at least those of the routers.
    #[serde(default)]
    pub limits: Limits,
    /// How often it tells the coordinators that it lives.
    #[serde(default = "default_heartbeat_ms")]
    pub heartbeat_ms: u32,
    /// Threads that search at a time; 0 takes one for each core.
    #[serde(default)]
    pub search_threads: u32,
    /// Searches that wait for a thread before more are pushed back.
    #[serde(default = "default_search_queue_max")]
    pub search_queue_max: u32,
}

fn default_heartbeat_ms() -> u32 {
    1_000
}

fn default_search_queue_max() -> u32 {
    1_024
}

impl NodeConfig {
    /// Refuses what could not work, naming the field.
    pub fn validate(&self) -> Result<(), InputError> {
        if self.name.is_empty() || self.name.len() > 128 {
            return Err(InputError::new("node.name", "must have 1 to 128 bytes"));
        }
        if self.coordinators.is_empty() {
            return Err(InputError::new("node.coordinators", "must name at least one coordinator"));
        }
        for (i, address) in self.coordinators.iter().enumerate() {
            shoal_proto::server::check_address(address).map_err(|e| e.within(&format!("node.coordinators[{i}]")))?;
        }
        if self.heartbeat_ms == 0 {
            return Err(InputError::new("node.heartbeat_ms", "must be at least 1"));
        }
        if self.search_queue_max == 0 {
            return Err(InputError::new("node.search_queue_max", "must be at least 1"));
        }
        self.limits.validate().map_err(|e| e.within("node"))
    }

    /// Threads that search at a time.
    pub(crate) fn search_threads(&self) -> usize {
        match self.search_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads as usize,
        }
    }
}
