//! What is configured on a router.

use serde::{Deserialize, Serialize};
use shoal_model::{InputError, Limits};

/// Configuration of a router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterConfig {
    /// URIs of the coordinators; any of them will do, all of them are better.
    pub coordinators: Vec<String>,
    /// Caps on requests.
    #[serde(default)]
    pub limits: Limits,
    /// Requests served at once; one more is refused with `RESOURCE_EXHAUSTED`.
    #[serde(default = "default_in_flight_max")]
    pub in_flight_max: u32,
    /// How far behind a replica may be that answers an eventual read which names no bound.
    #[serde(default = "default_staleness_ms_max")]
    pub staleness_ms_max: u32,
}

/// Longer than most failures last: while a shard has no majority, what is left of it answers for so long.
fn default_staleness_ms_max() -> u32 {
    30_000
}

fn default_in_flight_max() -> u32 {
    1_024
}

impl RouterConfig {
    /// A router of these coordinators, with defaults for the rest.
    #[must_use]
    pub fn new(coordinators: Vec<String>) -> Self {
        Self {
            coordinators,
            limits: Limits::default(),
            in_flight_max: default_in_flight_max(),
            staleness_ms_max: default_staleness_ms_max(),
        }
    }

    /// Refuses what could not work, naming the field.
    pub fn validate(&self) -> Result<(), InputError> {
        if self.coordinators.is_empty() {
            return Err(InputError::new("router.coordinators", "names none; a router follows their map"));
        }
        for (i, address) in self.coordinators.iter().enumerate() {
            let within = |e: InputError| e.within(&format!("router.coordinators[{i}]"));
            shoal_proto::server::check_address(address).map_err(within)?;
        }
        if self.in_flight_max == 0 {
            return Err(InputError::new("router.in_flight_max", "must be at least 1"));
        }
        if self.staleness_ms_max == 0 {
            return Err(InputError::new("router.staleness_ms_max", "must be at least 1"));
        }
        self.limits.validate().map_err(|e| e.within("router"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_work_is_refused_by_field() {
        let good = RouterConfig::new(vec!["http://127.0.0.1:7901".into()]);
        assert_eq!(good.validate(), Ok(()));
        let no_k = Limits { k_max: 0, ..Limits::default() };
        for (want, config) in [
            ("router.coordinators", RouterConfig::new(vec![])),
            ("router.coordinators[1]", RouterConfig::new(vec!["http://127.0.0.1:1".into(), "nonsense".into()])),
            ("router.in_flight_max", RouterConfig { in_flight_max: 0, ..good.clone() }),
            ("router.limits.k_max", RouterConfig { limits: no_k, ..good }),
        ] {
            assert_eq!(config.validate().map_err(|e| e.field), Err(want.to_owned()));
        }
    }
}
