//! The members of the groups that this node's replicas lead, as the cluster map wants them.
//!
//! The map says which replicas a shard should have; its leader brings the group there a step at a time
//! (`shoal_model::MembershipStep`) and reports who has a vote, of which the coordinators take note in the map. Nothing here
//! is kept: whoever leads next looks at the same map and group, and goes on.
//!
//! Beside that, leads go to where the map spreads them: the first replica of a shard should lead it, once it is well and has
//! all entries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use shoal_consensus::{Consensus, ConsensusError, GroupStatus, MemberChange, MemberProgress, Role};
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{ClusterMap, MembershipStep, NodeId, ReplicaId, Shard, ShardId, ShardReplica, Standing};
use tokio::time::Instant;

use crate::disks::Disks;
use crate::replica::{Replica, group_of};
use crate::replicas::Replicas;
use crate::shard::machine::Applied;

/// How often groups are compared with the map.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a step may take before it is looked at again.
const STEP_WITHIN: Duration = Duration::from_secs(5);

/// How long a leader stays that has just begun, before the lead goes to the map's first: it may not know yet that the
/// content of that one is damaged, and would get the lead back at once.
const LEADS_FIRST: Duration = Duration::from_secs(3);

/// How long the terms have lasted that are led here.
#[derive(Debug, Default)]
pub struct Reigns(BTreeMap<ShardId, (u64, Duration)>);

impl Reigns {
    /// How long a term has been led at `now`, by a clock that only grows, since this was first asked.
    pub fn length(&mut self, shard: ShardId, term: u64, now: Duration) -> Duration {
        let reign = self.0.entry(shard).or_insert((term, now));
        if reign.0 != term {
            *reign = (term, now);
        }
        now.saturating_sub(reign.1)
    }

    /// Forgets shards that are gone.
    pub fn retain(&mut self, map: &ClusterMap) {
        self.0.retain(|shard, _| map.shards.contains_key(shard));
    }
}

/// Follows the map until dropped. `map` gives the newest one.
pub(crate) async fn follow(
    replicas: Arc<Replicas>,
    consensus: Consensus<Applied>,
    disks: Arc<Disks>,
    map: impl Fn() -> Arc<ClusterMap> + Send,
) {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (began, mut reigns) = (Instant::now(), Reigns::default());
    loop {
        interval.tick().await;
        let map = map();
        reigns.retain(&map);
        let lacking = disks.lacking();
        for replica in replicas.all() {
            let Some(status) = replica.group_status().filter(|status| status.role == Role::Leader) else { continue };
            let Some(shard) = map.shards.get(&replica.shard) else { continue };
            let reign = reigns.length(shard.id, status.term, began.elapsed());
            if let Some(step) = next_step(shard, &status, reign, &lacking)
                && let Err(error) = take(&consensus, shard, &replica, &status, &step, &lacking).await
            {
                tracing::debug!(shard = shard.id.0, ?step, %error, "a change of members has to wait");
            }
        }
    }
}

/// What is to be done next by one that has led for as long as `reign`; nothing while a change is under way. `lacking`: nodes
/// without room on their disks.
pub fn next_step(
    shard: &Shard,
    status: &GroupStatus,
    reign: Duration,
    lacking: &BTreeSet<NodeId>,
) -> Option<MembershipStep> {
    let members = &status.members;
    if !members.leaving.is_empty() {
        return None;
    }
    let step = shard.next_membership_step(status.me, &members.voters, &members.learners);
    let is_for_another =
        || another_has_room(shard, status, lacking) || reign >= LEADS_FIRST && first_can_lead(shard, status, lacking);
    step.or_else(|| is_for_another().then_some(MembershipStep::HandOver))
}

/// Whether the leader's disk has no room, and another's has.
fn another_has_room(shard: &Shard, status: &GroupStatus, lacking: &BTreeSet<NodeId>) -> bool {
    let has_room = |id| shard.replica(id).is_some_and(|replica| !lacking.contains(&replica.node));
    !has_room(status.me) && heir(shard, status, lacking).is_some_and(has_room)
}

/// Whether another leads than the map has first, and that one is well and has room and all entries.
fn first_can_lead(shard: &Shard, status: &GroupStatus, lacking: &BTreeSet<NodeId>) -> bool {
    let first = shard.full_replicas().find(|replica| replica.standing == Standing::Member);
    let first = first.filter(|first| !lacking.contains(&first.node));
    let is_heir = first.is_some_and(|first| heir(shard, status, lacking) == Some(first.id));
    let has_all = |first: &ShardReplica| {
        status.progress.iter().any(|progress| progress.member == first.id && progress.matched == status.last)
    };
    is_heir && first.is_some_and(has_all)
}

/// Who is to lead instead of this one: of the others with a vote and points that are well and come to stay, who has room on
/// its disk; of those, who has most entries; of equals, whom the map has first.
pub fn heir(shard: &Shard, status: &GroupStatus, lacking: &BTreeSet<NodeId>) -> Option<ReplicaId> {
    let stays = |replica: &&ShardReplica| replica.standing != Standing::Leaving && replica.id != status.me;
    let progress = |replica: &ShardReplica| {
        let is_well = |of: &&MemberProgress| of.member == replica.id && of.active && !of.gets_snapshot;
        let rank = |progress: &MemberProgress| (!lacking.contains(&replica.node), progress.matched);
        status.progress.iter().find(is_well).map(|progress| (rank(progress), replica.id))
    };
    let voters = shard.full_replicas().filter(stays).filter(|replica| status.members.voters.contains(&replica.id));
    let best = voters.filter_map(progress).reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map(|(_, id)| id)
}

async fn take(
    consensus: &Consensus<Applied>,
    shard: &Shard,
    replica: &Replica,
    status: &GroupStatus,
    step: &MembershipStep,
    lacking: &BTreeSet<NodeId>,
) -> Result<(), ConsensusError> {
    meet(Failpoint::NodeMembersStep)?;
    let (group, deadline) = (group_of(replica.shard), Instant::now() + STEP_WITHIN);
    match step {
        MembershipStep::AddLearner(id) => {
            consensus.change_membership(group, vec![MemberChange::AddLearner(*id)], deadline).await
        }
        MembershipStep::Exchange { promote, remove } => {
            let promote = promote.iter().copied().map(MemberChange::Promote);
            let changes = promote.chain(remove.iter().copied().map(MemberChange::Remove)).collect();
            consensus.change_membership(group, changes, deadline).await
        }
        MembershipStep::HandOver => match heir(shard, status, lacking) {
            Some(heir) => consensus.transfer_leader(group, heir, deadline).await,
            None => Ok(()),
        },
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use shoal_consensus::Members;
    use shoal_model::{CollectionId, Epoch, GroupId, HashRange, LogIndex};

    use super::*;

    /// A shard, and its group as replica 1 sees it, which leads; all replicas have a vote.
    pub(crate) fn led_by_first(replicas: Vec<ShardReplica>, progress: Vec<MemberProgress>) -> (Shard, GroupStatus) {
        let voters = replicas.iter().map(|replica| replica.id).collect();
        let shard = Shard {
            id: ShardId(7),
            collection: CollectionId(1),
            range: HashRange::FULL,
            replicas,
            founders: vec![],
            epoch: Epoch(1),
        };
        let status = GroupStatus {
            group: GroupId(7),
            me: ReplicaId(1),
            role: Role::Leader,
            leader: Some(ReplicaId(1)),
            term: 1,
            committed: LogIndex(9),
            applied: LogIndex(9),
            starves: false,
            sleeps: false,
            first: LogIndex(1),
            last: LogIndex(9),
            log_bytes: 0,
            members: Arc::new(Members { voters, ..Members::default() }),
            progress,
        };
        (shard, status)
    }

    #[test]
    fn the_lead_goes_to_who_is_well_and_has_most() {
        use Standing::{Leaving, Member};
        let id = ReplicaId;
        let all = [(9, true), (9, true), (9, true)];
        for (name, standings, progress, lacking, want) in [
            ("the first of equals", [Leaving, Member, Member, Member], all, &[][..], Some(2)),
            (
                "one is out of reach",
                [Leaving, Member, Member, Member],
                [(9, false), (8, true), (9, true)],
                &[],
                Some(4),
            ),
            ("one leaves as well", [Leaving, Leaving, Member, Member], all, &[], Some(3)),
            ("nobody", [Leaving, Leaving, Member, Leaving], [(9, true), (9, false), (9, true)], &[], None),
            ("one has no room", [Member; 4], all, &[2], Some(3)),
            ("one has room and lags", [Member; 4], [(9, true), (9, true), (8, true)], &[2, 3], Some(4)),
            ("none has room", [Member; 4], all, &[1, 2, 3, 4], Some(2)),
        ] {
            let lacking: BTreeSet<NodeId> = lacking.iter().copied().map(NodeId).collect();
            let replicas = (1..).zip(standings).map(|(number, standing)| ShardReplica {
                id: id(number),
                node: NodeId(number),
                witness: false,
                standing,
            });
            let of = |(number, (matched, active)): (u64, (u64, bool))| MemberProgress {
                member: id(number),
                matched: LogIndex(matched),
                committed: LogIndex(matched),
                active,
                gets_snapshot: false,
            };
            let (shard, status) = led_by_first(replicas.collect(), (2..).zip(progress).map(of).collect());
            assert_eq!(heir(&shard, &status, &lacking), want.map(id), "{name}");
        }
    }
}
