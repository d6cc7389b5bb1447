//! What may differ from node to node.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_index::set::Policy;
use shoal_model::{InputError, Limits};
use shoal_runtime::Reserve;

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
    /// Threads that build segments, at the lowest priority; 0 takes half of the cores, at least one.
    #[serde(default)]
    pub build_threads: u32,
    /// Points at which a delta is sealed, to become a segment. Every search scans what is in deltas.
    #[serde(default = "default_delta_points_max")]
    pub delta_points_max: u32,
    /// Memory at which a delta is sealed, if that comes first.
    #[serde(default = "default_delta_bytes_max")]
    pub delta_bytes_max: u64,
    /// Sealed deltas of a shard that wait to be built before its writes are pushed back.
    #[serde(default = "default_deltas_waiting_max")]
    pub deltas_waiting_max: u32,
    /// Milliseconds without a write after which a shard makes fewer, larger segments than writes leave time for.
    #[serde(default = "default_quiet_after_ms")]
    pub quiet_after_ms: u32,
    /// Bytes of segments and snapshots that it sends to other nodes in a second at most, all together.
    #[serde(default = "default_transfer_bytes_per_second")]
    pub transfer_bytes_per_second: u64,
    /// Bytes that are read in a second at most to see whether disks have spoilt them; 0 turns that off.
    #[serde(default = "default_scrub_bytes_per_second")]
    pub scrub_bytes_per_second: u64,
    /// Milliseconds between the end of one such pass over everything and the next.
    #[serde(default = "default_scrub_every_ms")]
    pub scrub_every_ms: u32,
    /// Points that no merge of segments exceeds. A merge needs some 20 bytes of memory for each component.
    #[serde(default = "default_segment_points_max")]
    pub segment_points_max: u32,
    /// Bytes of its disk that it leaves free: with less, writes are refused, and nothing is built, until there is more. 0
    /// watches nothing, and writes go on until the disk is full.
    #[serde(default = "default_disk_reserve_bytes")]
    pub disk_reserve_bytes: u64,
    /// The same in percent of the disk; the smaller of the two counts.
    #[serde(default = "default_disk_reserve_percent")]
    pub disk_reserve_percent: u32,
}

/// Fewer would seal a delta for every few points of many components.
const DELTA_BYTES_MIN: u64 = 1 << 20;

/// Slower than that a pass would take longer than a disk lives.
const SCRUB_MIN: u64 = 1 << 16;

/// Slower than that a follower would never catch up.
const TRANSFER_MIN: u64 = 1 << 20;

fn default_heartbeat_ms() -> u32 {
    1_000
}

fn default_search_queue_max() -> u32 {
    1_024
}

/// 20,000 points of 768 components are scanned in 0.3 ms.
fn default_delta_points_max() -> u32 {
    20_000
}

/// About as many bytes as those points have.
fn default_delta_bytes_max() -> u64 {
    128 << 20
}

/// A backlog of 320,000 points, which adds some 5 ms to a search that finds one thread.
fn default_deltas_waiting_max() -> u32 {
    16
}

fn default_quiet_after_ms() -> u32 {
    1_000
}

/// A quarter of what a network of ten gigabits carries.
fn default_transfer_bytes_per_second() -> u64 {
    256 << 20
}

/// A hundredth of what a disk reads, and of what a core verifies.
fn default_scrub_bytes_per_second() -> u64 {
    16 << 20
}

/// Six hours: less than passes take where they are long.
fn default_scrub_every_ms() -> u32 {
    21_600_000
}

fn default_segment_points_max() -> u32 {
    1_000_000
}

/// What the store writes unasked: its log of 256 MiB, write buffers of 128 MiB, and a compaction.
fn default_disk_reserve_bytes() -> u64 {
    1 << 30
}

/// For disks so small that the above would be most of them.
fn default_disk_reserve_percent() -> u32 {
    5
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
        for (field, value) in [
            ("node.delta_points_max", self.delta_points_max),
            ("node.deltas_waiting_max", self.deltas_waiting_max),
            ("node.quiet_after_ms", self.quiet_after_ms),
            ("node.scrub_every_ms", self.scrub_every_ms),
        ] {
            if value == 0 {
                return Err(InputError::new(field, "must be at least 1"));
            }
        }
        if self.scrub_bytes_per_second > 0 && self.scrub_bytes_per_second < SCRUB_MIN {
            let problem = format!("must be at least {SCRUB_MIN}, or 0 to turn it off");
            return Err(InputError::new("node.scrub_bytes_per_second", problem));
        }
        if self.transfer_bytes_per_second < TRANSFER_MIN {
            return Err(InputError::new("node.transfer_bytes_per_second", format!("must be at least {TRANSFER_MIN}")));
        }
        if self.delta_bytes_max < DELTA_BYTES_MIN {
            return Err(InputError::new("node.delta_bytes_max", format!("must be at least {DELTA_BYTES_MIN}")));
        }
        if self.segment_points_max < self.delta_points_max || self.segment_points_max > i32::MAX as u32 {
            let problem = "must be at least node.delta_points_max and below 2^31";
            return Err(InputError::new("node.segment_points_max", problem));
        }
        if self.disk_reserve_percent > 90 {
            return Err(InputError::new("node.disk_reserve_percent", "must be at most 90"));
        }
        self.limits.validate().map_err(|e| e.within("node"))
    }

    /// What is kept free of its disk.
    pub(crate) fn disk_reserve(&self) -> Reserve {
        Reserve { bytes: self.disk_reserve_bytes, percent: self.disk_reserve_percent }
    }

    /// The address that others are told, of a node that listens at `bound`.
    ///
    /// Errors: none was given, and `bound` is every address of this machine, which no other machine can call.
    pub(crate) fn address_where(&self, bound: SocketAddr) -> Result<String, InputError> {
        match &self.address {
            Some(address) => Ok(address.clone()),
            None if bound.ip().is_unspecified() => {
                let problem = format!("must be given where a node listens on {bound}: others cannot call that");
                Err(InputError::new("node.address", problem))
            }
            None => Ok(format!("http://{bound}")),
        }
    }

    /// Threads that search at a time.
    pub(crate) fn search_threads(&self) -> usize {
        match self.search_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads as usize,
        }
    }

    /// Threads that build.
    pub(crate) fn build_threads(&self) -> usize {
        match self.build_threads {
            0 => std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1)),
            threads => threads as usize,
        }
    }

    /// How long nothing is written before a shard makes fewer, larger segments.
    pub(crate) fn quiet_after(&self) -> Duration {
        Duration::from_millis(self.quiet_after_ms.into())
    }

    /// From the end of one pass of the scrub to the next.
    pub(crate) fn scrub_every(&self) -> Duration {
        Duration::from_millis(self.scrub_every_ms.into())
    }

    /// Sizes of parts of an index.
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            delta_points_max: self.delta_points_max as usize,
            delta_bytes_max: usize::try_from(self.delta_bytes_max).unwrap_or(usize::MAX),
            segment_points_max: self.segment_points_max as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> NodeConfig {
        NodeConfig {
            name: "node-1".to_owned(),
            address: None,
            zone: String::new(),
            coordinators: vec!["http://127.0.0.1:7901".to_owned()],
            limits: Limits::default(),
            heartbeat_ms: default_heartbeat_ms(),
            search_threads: 0,
            search_queue_max: default_search_queue_max(),
            build_threads: 0,
            delta_points_max: default_delta_points_max(),
            delta_bytes_max: default_delta_bytes_max(),
            deltas_waiting_max: default_deltas_waiting_max(),
            quiet_after_ms: default_quiet_after_ms(),
            transfer_bytes_per_second: default_transfer_bytes_per_second(),
            scrub_bytes_per_second: default_scrub_bytes_per_second(),
            scrub_every_ms: default_scrub_every_ms(),
            segment_points_max: default_segment_points_max(),
            disk_reserve_bytes: default_disk_reserve_bytes(),
            disk_reserve_percent: default_disk_reserve_percent(),
        }
    }

    #[test]
    fn others_are_told_an_address_that_they_can_call() {
        let at = |address: &str| good().address_where(address.parse().expect("an address"));
        assert_eq!(at("10.0.0.7:7801"), Ok("http://10.0.0.7:7801".to_owned()));
        assert_eq!(at("[::1]:7801"), Ok("http://[::1]:7801".to_owned()));
        for all in ["0.0.0.0:7801", "[::]:7801"] {
            assert_eq!(at(all).expect_err("no other machine can call that").field, "node.address");
            let told = NodeConfig { address: Some("http://node-1:7801".to_owned()), ..good() };
            assert_eq!(told.address_where(all.parse().expect("an address")), Ok("http://node-1:7801".to_owned()));
        }
    }

    #[test]
    fn what_could_not_work_is_refused_by_field() {
        assert_eq!(good().validate(), Ok(()));
        for (want, config) in [
            ("node.name", NodeConfig { name: String::new(), ..good() }),
            ("node.heartbeat_ms", NodeConfig { heartbeat_ms: 0, ..good() }),
            ("node.delta_points_max", NodeConfig { delta_points_max: 0, ..good() }),
            ("node.delta_bytes_max", NodeConfig { delta_bytes_max: 1_000, ..good() }),
            ("node.deltas_waiting_max", NodeConfig { deltas_waiting_max: 0, ..good() }),
            ("node.quiet_after_ms", NodeConfig { quiet_after_ms: 0, ..good() }),
            ("node.scrub_bytes_per_second", NodeConfig { scrub_bytes_per_second: 1, ..good() }),
            ("node.scrub_every_ms", NodeConfig { scrub_every_ms: 0, ..good() }),
            ("node.segment_points_max", NodeConfig { segment_points_max: 19_999, ..good() }),
            ("node.segment_points_max", NodeConfig { segment_points_max: 1 << 31, ..good() }),
            ("node.disk_reserve_percent", NodeConfig { disk_reserve_percent: 91, ..good() }),
        ] {
            assert_eq!(config.validate().map_err(|error| error.field), Err(want.to_owned()));
        }
    }
}
