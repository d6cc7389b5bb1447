//! Whether replicas of a shard are the same: equal applied position, equal content.

use std::collections::BTreeMap;
use std::fmt;

use shoal_model::{LogIndex, ReplicaId, ShardId};

/// What one replica said of its content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Observation {
    /// The shard.
    pub shard: ShardId,
    /// The last position that it had applied.
    pub applied: LogIndex,
    /// The replica.
    pub replica: ReplicaId,
    /// Digest of its content at that position.
    pub digest: Vec<u8>,
}

/// Replicas that differ at one position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The shard.
    pub shard: ShardId,
    /// The position.
    pub applied: LogIndex,
    /// Replicas by what they hold, most of them first; of as many, that with the smallest replica. A replica that
    /// said two things is in two groups.
    pub groups: Vec<Vec<ReplicaId>>,
}

/// What was observed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DigestReport {
    /// Observations compared.
    pub observations: u64,
    /// Positions of shards at which two observations or more could be compared.
    pub positions: u64,
    /// Those of them at which they differ, by shard and position.
    pub differences: Vec<Difference>,
}

/// Compares all observations of one shard at one position.
#[must_use]
pub fn check(observations: &[Observation]) -> DigestReport {
    let mut positions: BTreeMap<(ShardId, LogIndex), Vec<&Observation>> = BTreeMap::new();
    for observation in observations {
        positions.entry((observation.shard, observation.applied)).or_default().push(observation);
    }
    let compared = positions.iter().filter(|(_, observations)| observations.len() > 1);
    DigestReport {
        observations: observations.len() as u64,
        positions: compared.clone().count() as u64,
        differences: compared.filter_map(|(at, observations)| difference(*at, observations)).collect(),
    }
}

fn difference((shard, applied): (ShardId, LogIndex), observations: &[&Observation]) -> Option<Difference> {
    let mut by_digest: BTreeMap<&[u8], Vec<ReplicaId>> = BTreeMap::new();
    for observation in observations {
        by_digest.entry(&observation.digest).or_default().push(observation.replica);
    }
    let mut groups: Vec<Vec<ReplicaId>> = by_digest.into_values().collect();
    for group in &mut groups {
        group.sort_unstable();
        group.dedup();
    }
    groups.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    (groups.len() > 1).then_some(Difference { shard, applied, groups })
}

impl Difference {
    /// Replicas that hold something else than most do; `None` if no group is larger than every other.
    #[must_use]
    pub fn minority(&self) -> Option<Vec<ReplicaId>> {
        let [first, others @ ..] = &self.groups[..] else { return None };
        let is_majority = others.iter().all(|group| group.len() < first.len());
        is_majority.then(|| others.concat())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |group: &[ReplicaId]| group.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "shard {} at position {}: ", self.shard, self.applied)?;
        match self.minority() {
            Some(minority) => write!(f, "replicas {} differ from {}", names(&minority), names(&self.groups[0])),
            None => {
                let groups: Vec<String> = self.groups.iter().map(|group| names(group)).collect();
                write!(f, "no majority among replicas {}", groups.join(" | "))
            }
        }
    }
}

impl DigestReport {
    /// Whether no two differ.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        self.differences.is_empty()
    }
}

#[cfg(test)]
mod tests;
