//! The members of the groups that this node's replicas lead, as the cluster map wants them.
//!
//! The map says which replicas a shard should have; its leader brings the group there a step at a time
//! (`shoal_model::MembershipStep`) and reports who has a vote, of which the coordinators take note in the map. Nothing here
//! is kept: whoever leads next looks at the same map and group, and goes on.
//!
//! Beside that, leads go to where the map spreads them: the first replica of a shard should lead it, once it is well and has
//! all entries.

use std::sync::Arc;
use std::time::Duration;

use shoal_consensus::{Consensus, ConsensusError, GroupStatus, MemberChange, Role};
use shoal_model::{ClusterMap, MembershipStep, ReplicaId, Shard, Standing};
use tokio::time::Instant;

use crate::replica::{Replica, group_of};
use crate::replicas::Replicas;
use crate::shard::machine::Applied;

/// How often groups are compared with the map.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a step may take before it is looked at again.
const STEP_WITHIN: Duration = Duration::from_secs(5);

/// Follows the map until dropped. `map` gives the newest one.
pub(crate) async fn follow(
    replicas: Arc<Replicas>,
    consensus: Consensus<Applied>,
    map: impl Fn() -> Arc<ClusterMap> + Send,
) {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let map = map();
        for replica in replicas.all() {
            let Some(status) = replica.group_status().filter(|status| status.role == Role::Leader) else { continue };
            let Some(shard) = map.shards.get(&replica.shard) else { continue };
            let step = next_step(shard, &status).or_else(|| better_leader(shard, &status));
            if let Some(step) = step
                && let Err(error) = take(&consensus, shard, &replica, &status, &step).await
            {
                tracing::debug!(shard = shard.id.0, ?step, %error, "a change of members has to wait");
            }
        }
    }
}

/// Whether the shard's first replica can take the lead from this one, whose group is as it should be.
fn better_leader(shard: &Shard, status: &GroupStatus) -> Option<MembershipStep> {
    let first = shard.full_replicas().find(|replica| replica.standing == Standing::Member)?.id;
    let progress = status.progress.iter().find(|progress| progress.member == first)?;
    let is_well = progress.active && !progress.gets_snapshot && progress.matched == status.last;
    (first != status.me && is_well).then_some(MembershipStep::HandOver)
}

/// What is to be done next; nothing while a change is under way.
pub fn next_step(shard: &Shard, status: &GroupStatus) -> Option<MembershipStep> {
    let members = &status.members;
    if !members.leaving.is_empty() {
        return None;
    }
    shard.next_membership_step(status.me, &members.voters, &members.learners)
}

async fn take(
    consensus: &Consensus<Applied>,
    shard: &Shard,
    replica: &Replica,
    status: &GroupStatus,
    step: &MembershipStep,
) -> Result<(), ConsensusError> {
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
        MembershipStep::HandOver => match heir(shard, &status.members.voters) {
            Some(heir) => consensus.transfer_leader(group, heir, deadline).await,
            None => Ok(()),
        },
    }
}

/// Who is to lead instead of one that leaves.
pub fn heir(shard: &Shard, voters: &[ReplicaId]) -> Option<ReplicaId> {
    let members = shard.full_replicas().filter(|replica| replica.standing == Standing::Member);
    members.map(|replica| replica.id).find(|id| voters.contains(id))
}

/// Who is to lead instead of one that has no content: the most advanced voter with points that was heard of late.
pub fn successor(shard: &Shard, status: &GroupStatus) -> Option<ReplicaId> {
    let has_points = |id: ReplicaId| shard.full_replicas().any(|replica| replica.id == id);
    let others = status.progress.iter().filter(|other| other.member != status.me && other.active);
    let fit = others.filter(|other| status.members.voters.contains(&other.member) && has_points(other.member));
    fit.max_by_key(|other| other.matched).map(|other| other.member)
}
