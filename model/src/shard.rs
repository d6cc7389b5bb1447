//! A shard, its replicas, and how the members of its Raft group come to be those that the map wants.

use crate::{CollectionId, Epoch, HashRange, NodeId, ReplicaId, ShardId};

/// A shard as the map holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Number, also that of its Raft group.
    pub id: ShardId,
    /// Collection it belongs to.
    pub collection: CollectionId,
    /// Part of the hash space it holds.
    pub range: HashRange,
    /// Its copies; the first of those that hold points should lead, if it is well.
    pub replicas: Vec<ShardReplica>,
    /// Members that its group began with, whoever is one today: what each of them starts from on an empty disk.
    pub founders: Vec<ReplicaId>,
    /// Map version at which this entry last changed; requests carry it.
    pub epoch: Epoch,
}

/// One copy of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardReplica {
    /// Member number in the shard's Raft group.
    pub id: ReplicaId,
    /// Where it lives.
    pub node: NodeId,
    /// Votes and keeps the log, and has no points.
    pub witness: bool,
    /// Whether it is to be a member of the group.
    pub standing: Standing,
}

/// Where a replica stands between the map and its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// A member with a vote.
    #[default]
    Member,
    /// To become one: a learner until it has caught up.
    Joining,
    /// To be one no more, as soon as those that join are members.
    Leaving,
}

/// What the leader of a shard's group does next for it to have the members that the map wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipStep {
    /// A replica becomes a learner.
    AddLearner(ReplicaId),
    /// Learners get a vote, and members go, all at once.
    Exchange {
        /// Learners that have caught up; the group refuses the step while one has not.
        promote: Vec<ReplicaId>,
        /// Members.
        remove: Vec<ReplicaId>,
    },
    /// The leader itself is to go: another takes the lead first.
    HandOver,
}

impl Shard {
    /// Its replicas that hold points.
    pub fn full_replicas(&self) -> impl Iterator<Item = &ShardReplica> {
        self.replicas.iter().filter(|replica| !replica.witness)
    }

    /// The replica on a node.
    #[must_use]
    pub fn replica_on(&self, node: NodeId) -> Option<&ShardReplica> {
        self.replicas.iter().find(|replica| replica.node == node)
    }

    /// The replica of a number.
    #[must_use]
    pub fn replica(&self, id: ReplicaId) -> Option<&ShardReplica> {
        self.replicas.iter().find(|replica| replica.id == id)
    }

    /// What `leader` does next, whose group has these `voters` and `learners`; `None` if all is as it should be.
    ///
    /// Nobody leaves before those that join have caught up, so the shard never has fewer copies than before.
    #[must_use]
    pub fn next_membership_step(
        &self,
        leader: ReplicaId,
        voters: &[ReplicaId],
        learners: &[ReplicaId],
    ) -> Option<MembershipStep> {
        let wanted = |id: &ReplicaId| self.replica(*id).is_some_and(|replica| replica.standing != Standing::Leaving);
        let joining = self.replicas.iter().filter(|replica| replica.standing != Standing::Leaving).map(|r| r.id);
        let missing = joining.filter(|id| !voters.contains(id)).collect::<Vec<_>>();
        if let Some(stranger) = missing.iter().find(|id| !learners.contains(id)) {
            return Some(MembershipStep::AddLearner(*stranger));
        }
        let gone = voters.iter().chain(learners).copied().filter(|id| !wanted(id));
        let (own, remove): (Vec<_>, Vec<_>) = gone.partition(|id| *id == leader);
        if !missing.is_empty() || !remove.is_empty() {
            return Some(MembershipStep::Exchange { promote: missing, remove });
        }
        (!own.is_empty()).then_some(MembershipStep::HandOver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(replicas: &[(u64, Standing)]) -> Shard {
        let replica = |&(id, standing): &(u64, Standing)| ShardReplica {
            id: ReplicaId(id),
            node: NodeId(id),
            witness: false,
            standing,
        };
        Shard {
            id: ShardId(1),
            collection: CollectionId(1),
            range: HashRange::FULL,
            replicas: replicas.iter().map(replica).collect(),
            founders: vec![],
            epoch: Epoch(1),
        }
    }

    #[test]
    fn members_come_to_be_those_of_the_map_step_by_step() {
        use Standing::{Joining, Leaving, Member};
        let ids = |numbers: &[u64]| numbers.iter().map(|n| ReplicaId(*n)).collect::<Vec<_>>();
        let exchange = |promote: &[u64], remove: &[u64]| {
            Some(MembershipStep::Exchange { promote: ids(promote), remove: ids(remove) })
        };
        let replaced = [(1, Member), (2, Member), (3, Leaving), (4, Joining)];
        for (name, map, voters, learners, want) in [
            ("as it should be", &[(1, Member), (2, Member)][..], &[1, 2][..], &[][..], None),
            ("one joins", &replaced, &[1, 2, 3], &[], Some(MembershipStep::AddLearner(ReplicaId(4)))),
            ("it has joined", &replaced, &[1, 2, 3], &[4], exchange(&[4], &[3])),
            ("and votes", &replaced, &[1, 2, 4], &[], None),
            ("one is not in the map", &[(1, Member)], &[1, 2], &[9], exchange(&[], &[2, 9])),
            ("the leader goes last", &[(1, Leaving), (2, Member)], &[1, 2], &[], Some(MembershipStep::HandOver)),
            ("after those it lets in", &[(1, Leaving), (2, Joining)], &[1], &[2], exchange(&[2], &[])),
        ] {
            assert_eq!(shard(map).next_membership_step(ReplicaId(1), &ids(voters), &ids(learners)), want, "{name}");
        }
    }
}
