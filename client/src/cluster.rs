//! Answers about collections and the cluster. They serialise as they are, for programs that read JSON.

use serde::{Serialize, Serializer};
use shoal_model::{GraphSpec, HashRange, Metric};
use shoal_proto::{convert, v1};

use crate::error::{ClientError, malformed};

/// A collection with its shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Collection {
    /// Number, never reused.
    pub id: u64,
    /// Name.
    pub name: String,
    /// Components of each vector.
    pub dim: u32,
    /// How nearness is measured.
    pub metric: Metric,
    /// Fingerprint of the model that made the vectors; may be empty.
    pub embedding: String,
    /// How the graphs of its segments are built.
    pub graph: GraphSpec,
    /// Version that answers searches.
    pub active_version: u32,
    /// Version being rolled out, if any.
    pub candidate_version: Option<u32>,
    /// Replicas with points that each shard should have.
    pub replicas: u32,
    /// Whether each has a witness beside them.
    pub witness: bool,
    /// In order of their ranges.
    pub shards: Vec<Shard>,
}

impl Collection {
    /// Live points as the replicas that lead last reported them: near the truth, and behind it while writes come in. `None`
    /// while a shard has no leader that tells of its own.
    #[must_use]
    pub fn points_reported(&self) -> Option<u64> {
        self.shards.iter().map(|shard| shard.leader().map(|report| report.points)).sum()
    }
}

/// A shard and its replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shard {
    /// Number, never reused.
    pub id: u64,
    /// Its part of the hash space.
    #[serde(serialize_with = "as_text")]
    pub range: HashRange,
    /// Map version at which it last changed.
    pub epoch: u64,
    /// What can be expected of it.
    pub health: Health,
    /// Its copies.
    pub replicas: Vec<Replica>,
}

/// What can be expected of a shard, as the coordinators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It is served, by all its replicas.
    Healthy,
    /// It is served, by fewer replicas than it should have.
    Degraded,
    /// It was made, or lost its leader, a moment ago, or its nodes open it: somebody will lead it.
    Starting,
    /// Nobody serves it.
    Unavailable,
    /// The coordinators cannot say yet: one of them has just begun to lead.
    Unknown,
}

fn as_text<S: Serializer>(range: &HashRange, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(range)
}

impl Shard {
    /// What its leader last reported; `None` while it has no leader within reach.
    #[must_use]
    pub fn leader(&self) -> Option<&ReplicaReport> {
        self.replicas.iter().filter_map(|replica| replica.report.as_ref()).find(|report| report.leader)
    }

    /// Replicas whose nodes are within reach.
    #[must_use]
    pub fn replicas_alive(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.report.is_some()).count()
    }
}

/// One copy of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replica {
    /// Number, never reused.
    pub id: u64,
    /// Node that holds it.
    pub node_id: u64,
    /// Votes and keeps the log, and has no points.
    pub witness: bool,
    /// Whether it has come to stay.
    pub standing: Standing,
    /// What its node last reported; absent while the node is out of reach.
    pub report: Option<ReplicaReport>,
}

/// Where a replica stands while its shard gets other members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It has a vote: what it holds counts for what is acknowledged.
    #[default]
    Member,
    /// It will have one when it has caught up.
    Joining,
    /// It goes when those that join have caught up.
    Leaving,
}

/// What a node says of one of its replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplicaReport {
    /// Whether it leads its shard.
    pub leader: bool,
    /// Log position that its answers reflect.
    pub applied_index: u64,
    /// Log position known to be agreed.
    pub commit_index: u64,
    /// Live points.
    pub points: u64,
    /// Memory of its index, in bytes; segment files that are mapped are not in it.
    pub memory_bytes: u64,
    /// Segments that its points are in, but for those below.
    pub segments: u64,
    /// Points that are in no segment yet: searches compare with each of them.
    pub delta_points: u64,
    /// Those of them that wait to be built into a segment.
    pub waiting_points: u64,
    /// Bytes of segments.
    pub segment_bytes: u64,
    /// Builds and merges that run or wait for their turn, in words.
    pub jobs: Vec<String>,
    /// Why builds or merges failed last, in words; none if the last went well.
    pub job_failures: Vec<String>,
    /// Segments whose files are missing there; their points are found all the same.
    pub missing_segments: u64,
}

/// The cluster as its coordinators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClusterStatus {
    /// Identity of the cluster, a UUID.
    pub cluster_id: String,
    /// Version of the cluster map.
    pub epoch: u64,
    /// Members that keep the map.
    pub coordinators: Vec<CoordinatorStatus>,
    /// Processes that hold replicas.
    pub nodes: Vec<NodeStatus>,
    /// Collections by name.
    pub collections: Vec<Collection>,
    /// What needs attention, the most urgent first.
    pub warnings: Vec<Warning>,
    /// No coordinator leads, and this is what one of them last knew: changes wait, searches and writes go on.
    pub stale: bool,
}

impl ClusterStatus {
    /// Whether most coordinators have a vote and are in reach, and one of them leads.
    #[must_use]
    pub fn has_quorum(&self) -> bool {
        let is_member = |member: &&CoordinatorStatus| member.standing == CoordinatorStanding::Member;
        let votes = self.coordinators.iter().filter(is_member).count();
        !self.stale && votes > self.coordinators.len() / 2
    }

    /// The shards that are so, with the names of their collections.
    #[must_use]
    pub fn shards_that_are(&self, health: Health) -> Vec<(&str, u64)> {
        let of = |collection: &'_ Collection| {
            let those = collection.shards.iter().filter(|shard| shard.health == health);
            those.map(|shard| shard.id).collect::<Vec<_>>()
        };
        let all = self.collections.iter();
        all.flat_map(|one| of(one).into_iter().map(|shard| (one.name.as_str(), shard))).collect()
    }
}

/// A coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CoordinatorStatus {
    /// Number in the configuration.
    pub id: u64,
    /// Where it listens.
    pub address: String,
    /// Whether it leads.
    pub leader: bool,
    /// Whether it answers.
    pub reachable: bool,
    /// Log position it has applied; 0 if out of reach.
    pub applied_index: u64,
    /// Where it stands among them.
    pub standing: CoordinatorStanding,
    /// What it waits for while it has no vote; empty if it has one, or is out of reach.
    pub waits_for: String,
}

/// Where a coordinator stands among the coordinators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CoordinatorStanding {
    /// It is out of reach.
    Unknown,
    /// It has a vote.
    Member,
    /// Its store is new to the cluster: it gets a vote when it has caught up.
    Joining,
    /// Its store is empty, and it does not know yet whether the cluster exists.
    Asking,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Number, never reused.
    pub id: u64,
    /// Name in its configuration.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Failure domain in its configuration.
    pub zone: String,
    /// Whether it was heard of within the last few heartbeats.
    pub alive: bool,
    /// It was not heard of, and the coordinators' leader has not listened for long enough to say whether it lives.
    pub awaited: bool,
    /// Time since it was last heard of, if ever since the coordinators' leader took office.
    pub silent_ms: Option<u64>,
    /// Replicas the map gives it.
    pub replicas: u32,
    /// Bytes its store has on disk, if it was heard of.
    pub disk_bytes: Option<u64>,
    /// Bytes that are free on that disk, if it was heard of.
    pub disk_free_bytes: Option<u64>,
    /// Whether that disk has room for writes, as far as is known.
    pub has_room: bool,
}

/// Something that needs attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// What.
    pub text: String,
    /// What to type or do next.
    pub next_step: String,
}

pub(crate) fn collection(collection: Option<v1::Collection>) -> Result<Collection, ClientError> {
    let missing = || ClientError::Malformed("it holds no collection".to_owned());
    let collection = collection.ok_or_else(missing)?;
    let index = collection.index.unwrap_or_default();
    Ok(Collection {
        id: collection.id,
        name: collection.name,
        dim: index.dim,
        metric: convert::metric(index.metric).map_err(|e| malformed(&e))?,
        embedding: index.embedding,
        graph: convert::graph(index.graph).map_err(|e| malformed(&e))?,
        active_version: collection.active_version,
        candidate_version: Some(collection.candidate_version).filter(|version| *version > 0),
        replicas: collection.replicas,
        witness: collection.witness,
        shards: collection.shards.into_iter().map(shard).collect(),
    })
}

pub(crate) fn collections(list: Vec<v1::Collection>) -> Result<Vec<Collection>, ClientError> {
    list.into_iter().map(|item| collection(Some(item))).collect()
}

fn shard(shard: v1::Shard) -> Shard {
    let replica = |replica: v1::Replica| Replica {
        standing: match replica.standing() {
            v1::ReplicaStanding::Joining => Standing::Joining,
            v1::ReplicaStanding::Leaving => Standing::Leaving,
            v1::ReplicaStanding::Member | v1::ReplicaStanding::Unspecified => Standing::Member,
        },
        id: replica.id,
        node_id: replica.node_id,
        witness: replica.witness,
        report: replica.report.map(|report| ReplicaReport {
            leader: report.leader,
            applied_index: report.applied_index,
            commit_index: report.commit_index,
            points: report.points,
            memory_bytes: report.memory_bytes,
            segments: report.segments,
            delta_points: report.delta_points,
            waiting_points: report.waiting_points,
            segment_bytes: report.segment_bytes,
            jobs: report.jobs,
            job_failures: report.job_failures,
            missing_segments: report.missing_segments,
        }),
    };
    Shard {
        id: shard.id,
        range: HashRange { first: shard.range_first, last: shard.range_last },
        epoch: shard.epoch,
        health: match shard.health() {
            v1::ShardHealth::Healthy => Health::Healthy,
            v1::ShardHealth::Degraded => Health::Degraded,
            v1::ShardHealth::Starting => Health::Starting,
            v1::ShardHealth::Unavailable => Health::Unavailable,
            v1::ShardHealth::Unspecified | v1::ShardHealth::Unknown => Health::Unknown,
        },
        replicas: shard.replicas.into_iter().map(replica).collect(),
    }
}

pub(crate) fn status(response: v1::GetStatusResponse) -> Result<ClusterStatus, ClientError> {
    let coordinator = |member: v1::CoordinatorStatus| CoordinatorStatus {
        id: member.id,
        leader: member.leader,
        reachable: member.reachable,
        applied_index: member.applied_index,
        standing: match member.standing() {
            v1::CoordinatorStanding::Joining => CoordinatorStanding::Joining,
            v1::CoordinatorStanding::Asking => CoordinatorStanding::Asking,
            v1::CoordinatorStanding::Unspecified if !member.reachable => CoordinatorStanding::Unknown,
            v1::CoordinatorStanding::Member | v1::CoordinatorStanding::Unspecified => CoordinatorStanding::Member,
        },
        waits_for: member.waits_for.clone(),
        address: member.address,
    };
    let node = |node: v1::NodeStatus| NodeStatus {
        id: node.id,
        name: node.name,
        address: node.address,
        zone: node.zone,
        alive: node.alive,
        awaited: node.awaited,
        silent_ms: node.silent_ms,
        replicas: node.replicas,
        disk_bytes: node.disk_bytes,
        disk_free_bytes: node.disk.as_ref().map(|disk| disk.free_bytes),
        has_room: node.disk.is_none_or(|disk| !matches!(disk.room(), v1::Room::Low | v1::Room::Exhausted)),
    };
    let warning = |warning: v1::Warning| Warning { text: warning.text, next_step: warning.next_step };
    Ok(ClusterStatus {
        cluster_id: response.cluster_id,
        epoch: response.epoch,
        coordinators: response.coordinators.into_iter().map(coordinator).collect(),
        nodes: response.nodes.into_iter().map(node).collect(),
        collections: collections(response.collections)?,
        warnings: response.warnings.into_iter().map(warning).collect(),
        stale: response.stale,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_known_once_each_shard_tells_of_its_own() {
        let replica = |leader, points| v1::Replica {
            report: Some(v1::ReplicaReport { leader, points, ..Default::default() }),
            ..Default::default()
        };
        let shard = |replicas| v1::Shard { replicas, ..Default::default() };
        for (name, shards, want) in [
            ("both", vec![shard(vec![replica(false, 9), replica(true, 3)]), shard(vec![replica(true, 4)])], Some(7)),
            ("one has no leader", vec![shard(vec![replica(true, 3)]), shard(vec![replica(false, 4)])], None),
            ("one is out of reach", vec![shard(vec![v1::Replica::default()])], None),
        ] {
            let index = v1::IndexSpec { dim: 2, metric: v1::Metric::Dot.into(), ..Default::default() };
            let told = v1::Collection { index: Some(index), shards, ..Default::default() };
            assert_eq!(collection(Some(told)).expect("well-formed").points_reported(), want, "{name}");
        }
    }
}
