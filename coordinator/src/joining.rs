//! Making a coordinator a member whose store is new to the cluster.
//!
//! It says again and again, to any other coordinator, that it wishes to be one, until it is. The leader keeps wishes in
//! memory for a moment and fulfils them one at a time: the replica comes in as a learner; once it has caught up, one joint
//! change gives it a vote and takes that of its coordinator's replica before, whose store is lost. A leader that is lost in
//! between costs nothing, as the next one hears the same wish and sees the members as they are.
//!
//! A coordinator of which the others know another replica must not go on with the one it has: its store was given up.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoal_consensus::{GroupStatus, MemberChange, Members};
use shoal_model::{InputError, ReplicaId};
use shoal_proto::internal::v1::coordinator_service_client::CoordinatorServiceClient;
use shoal_proto::internal::v1::{JoinCoordinatorsRequest, JoinCoordinatorsResponse};
use shoal_runtime::Failure;
use tonic::Request;

use crate::CoordinatorError;
use crate::beginning::{coordinator_of, founder};
use crate::leadership::{Attempt, Shared};
use crate::machine::GROUP;

/// How often one that has no vote says that it wishes for one.
const WISH_EVERY: Duration = Duration::from_millis(500);
/// How long a wish counts.
const WISH_LASTS: Duration = Duration::from_secs(5);
/// How long another coordinator may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long a change of members may take before it is looked at again.
const STEP_WITHIN: Duration = Duration::from_secs(5);
/// How long a member knows of no leader before it asks whether it still is one.
const LEADERLESS: Duration = Duration::from_secs(5);
/// How often it is told what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What one waits for that nobody has heard.
pub(crate) const NEEDS_LEADER: &str = "the coordinators' leader to take it in: most of those that have a vote must run";

/// Replicas that wish to be members, by their coordinators.
#[derive(Debug, Default)]
pub(crate) struct Wishes(Mutex<BTreeMap<u64, (ReplicaId, Instant)>>);

impl Wishes {
    fn note(&self, replica: ReplicaId, now: Instant) {
        // The map is whole at every moment, so a panic elsewhere leaves it usable.
        let mut wishes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wishes.insert(coordinator_of(replica), (replica, now));
    }

    /// Those that count, in order.
    fn lately(&self, now: Instant) -> Vec<ReplicaId> {
        let mut wishes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wishes.retain(|_, (_, at)| now.saturating_duration_since(*at) < WISH_LASTS);
        wishes.values().map(|(replica, _)| *replica).collect()
    }
}

/// What the leader does next for a replica that wishes to be a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is one, and the only one of its coordinator.
    Done,
    /// Nothing yet, and why.
    Wait(&'static str),
    /// A change of members.
    Change(Vec<MemberChange>),
}

/// Whether a replica is a member for good: its vote counts, and that of no lost one beside it. While an exchange is under
/// way a newcomer has a vote, and so have all that were there before, of which most are needed still.
#[must_use]
pub fn is_settled(replica: ReplicaId, members: &Members) -> bool {
    members.voters.contains(&replica) && (members.leaving.is_empty() || members.leaving.contains(&replica))
}

/// What the leader of the group with this `status` does next for `wish`.
#[must_use]
pub fn next_step(wish: ReplicaId, status: &GroupStatus) -> Step {
    let members = &status.members;
    if !members.leaving.is_empty() {
        return Step::Wait("a change of members that is under way");
    }
    let (has_vote, is_learner) = (members.voters.contains(&wish), members.learners.contains(&wish));
    let all = members.voters.iter().chain(&members.learners).copied();
    let before: Vec<ReplicaId> = all.filter(|id| *id != wish && coordinator_of(*id) == coordinator_of(wish)).collect();
    let is_heard = |id: &ReplicaId| status.progress.iter().any(|of| of.member == *id && of.active);
    if has_vote && before.is_empty() {
        Step::Done
    } else if before.contains(&status.me) {
        Step::Wait("the coordinator that leads to end: it runs under the same number, which no two may have")
    } else if before.iter().any(is_heard) {
        Step::Wait("its replica before to fall silent: no two coordinators may run under one number")
    } else if !has_vote && !is_learner {
        Step::Change(vec![MemberChange::AddLearner(wish)])
    } else {
        let stay = members.voters.iter().filter(|id| **id != wish && !before.contains(id));
        let voters: Vec<ReplicaId> = stay.copied().chain([wish]).collect();
        if 2 * voters.iter().filter(|id| is_heard(id)).count() <= voters.len() {
            return Step::Wait("most coordinators to be in reach");
        }
        let promote = (!has_vote).then_some(MemberChange::Promote(wish));
        Step::Change(promote.into_iter().chain(before.into_iter().map(MemberChange::Remove)).collect())
    }
}

/// Fulfils wishes, one step at a time. Call it on the leader.
pub(crate) async fn admit(shared: &Shared) {
    for wish in shared.wishes.lately(Instant::now()) {
        let Some(status) = shared.consensus.status(GROUP) else { return };
        let Step::Change(changes) = next_step(wish, &status) else { continue };
        let by = tokio::time::Instant::now() + STEP_WITHIN;
        match shared.consensus.change_membership(GROUP, changes.clone(), by).await {
            Ok(()) => tracing::info!(coordinator = coordinator_of(wish), ?changes, "coordinators have other members"),
            Err(error) => tracing::debug!(?changes, %error, "a change of coordinators has to wait"),
        }
        // One after another: each exchange is to find all others whole.
        return;
    }
}

impl Shared {
    /// Takes note of a wish, and says how far it is. Call it on the leader.
    pub(crate) async fn hear_wish(
        &self,
        request: JoinCoordinatorsRequest,
        attempt: Attempt,
    ) -> Result<JoinCoordinatorsResponse, CoordinatorError> {
        let wish = ReplicaId(request.member);
        if coordinator_of(wish) != request.id || self.config.address_of(wish).is_none() {
            let problem = format!("coordinator {} is not among coordinator.peers of {}", request.id, self.config.id);
            return Err(InputError::new("id", problem).into());
        }
        // The members are those that were agreed on before the call, since the lead is confirmed after it.
        self.fresh_map(attempt.deadline).await?;
        let status = self.consensus.status(GROUP).ok_or(CoordinatorError::NoLeader)?;
        let answer = JoinCoordinatorsResponse::default();
        if is_settled(wish, &status.members) {
            return Ok(JoinCoordinatorsResponse { is_member: true, ..answer });
        }
        if request.was_member && !status.members.voters.contains(&wish) {
            return Ok(JoinCoordinatorsResponse { is_replaced: true, ..answer });
        }
        self.wishes.note(wish, Instant::now());
        let waits_for = match next_step(wish, &status) {
            Step::Wait(reason) => reason,
            Step::Done | Step::Change(_) => "the map of the cluster, which is on its way",
        };
        Ok(JoinCoordinatorsResponse { waits_for: waits_for.to_owned(), ..answer })
    }

    /// Asks the others until one passes this on to the leader.
    async fn wish(&self, was_member: bool) -> Option<JoinCoordinatorsResponse> {
        let member = self.me()?.0;
        for (_, channel) in &self.peers {
            let message = JoinCoordinatorsRequest { id: self.config.id, member, was_member };
            let mut request = Request::new(message);
            request.set_timeout(ANSWER_WITHIN);
            let mut client = CoordinatorServiceClient::new(channel.clone());
            match tokio::time::timeout(ANSWER_WITHIN, client.join_coordinators(request)).await {
                Ok(Ok(answer)) => return Some(answer.into_inner()),
                Ok(Err(status)) => tracing::debug!(%status, "a coordinator cannot say how the wish to join stands"),
                Err(_) => {}
            }
        }
        None
    }
}

/// Wishes for a vote while this coordinator has none; and finds out, when it knows of no leader, whether another replica
/// has taken its place, which ends it. Until dropped.
pub(crate) async fn follow(shared: &Shared, failure: &Failure) {
    let (mut led_at, mut tell_at) = (Instant::now(), Instant::now() + TELL_EVERY);
    let (mut has_voted, mut has_wished) = (false, false);
    loop {
        tokio::time::sleep(WISH_EVERY).await;
        let Some(me) = shared.me() else { continue };
        let is_member = shared.is_member();
        has_voted |= is_member || me == founder(shared.config.id);
        if is_member && std::mem::take(&mut has_wished) {
            tracing::info!(id = shared.config.id, replica = me.0, "this coordinator has joined the others");
        }
        if is_member && shared.leader().is_some() {
            led_at = Instant::now();
            shared.wait_for(String::new());
            continue;
        }
        if has_voted && led_at.elapsed() < LEADERLESS {
            continue;
        }
        has_wished = !has_voted;
        match shared.wish(has_voted).await {
            Some(answer) if answer.is_replaced => return failure.tell(CoordinatorError::Replaced),
            Some(answer) => shared.wait_for(answer.waits_for),
            None => shared.wait_for(NEEDS_LEADER.to_owned()),
        }
        if has_wished && Instant::now() >= tell_at {
            tracing::warn!(id = shared.config.id, "this coordinator joins, and waits for {}", shared.waits_for());
            tell_at = Instant::now() + TELL_EVERY;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shoal_consensus::{MemberProgress, Members, Role};
    use shoal_model::LogIndex;

    use super::*;
    use crate::beginning::newcomer;

    /// A group as replica 1 sees it, which leads.
    fn led(voters: &[ReplicaId], learners: &[ReplicaId], leaving: &[ReplicaId], heard: &[ReplicaId]) -> GroupStatus {
        let at = LogIndex(9);
        let all = voters.iter().chain(learners);
        let progress = all.map(|id| MemberProgress {
            member: *id,
            matched: at,
            committed: at,
            active: heard.contains(id),
            gets_snapshot: false,
        });
        GroupStatus {
            group: GROUP,
            me: ReplicaId(1),
            role: Role::Leader,
            leader: Some(ReplicaId(1)),
            term: 2,
            committed: at,
            applied: at,
            starves: false,
            sleeps: false,
            first: LogIndex(2),
            last: at,
            log_bytes: 0,
            members: Arc::new(Members {
                voters: voters.to_vec(),
                learners: learners.to_vec(),
                leaving: leaving.to_vec(),
            }),
            progress: progress.collect(),
        }
    }

    #[test]
    fn a_replica_takes_its_coordinators_place_step_by_step() {
        use MemberChange::{AddLearner, Promote, Remove};
        let [one, two, three] = [1, 2, 3].map(ReplicaId);
        let (new, newer) = (newcomer(3, 5 << 16), newcomer(3, 6 << 16));
        let change = |changes: &[MemberChange]| Some(changes.to_vec());
        let founders = &[one, two, three][..];
        for (name, voters, learners, heard, want) in [
            ("it is not known", founders, &[][..], &[one, two][..], change(&[AddLearner(new)])),
            ("it has come", founders, &[new], &[one, two, new], change(&[Promote(new), Remove(three)])),
            ("it has a vote", &[one, two, new], &[], &[one, two, new], change(&[])),
            ("nobody else is there", founders, &[new], &[one], None),
            ("it and the leader are a majority", founders, &[new], &[one, new], change(&[Promote(new), Remove(three)])),
            ("who was before is alive", founders, &[], founders, None),
            ("one came and lost its disk again", founders, &[newer], &[one, two], change(&[AddLearner(new)])),
            ("and left traces", founders, &[newer, new], &[one, two, new], {
                change(&[Promote(new), Remove(three), Remove(newer)])
            }),
            ("it has no replica before", &[one, two], &[new], &[one, two, new], change(&[Promote(new)])),
        ] {
            let step = match next_step(new, &led(voters, learners, &[], heard)) {
                Step::Done => Some(vec![]),
                Step::Change(changes) => Some(changes),
                Step::Wait(_) => None,
            };
            assert_eq!(step, want, "{name}");
        }
        let of_leader = next_step(newcomer(1, 5 << 16), &led(founders, &[], &[], founders));
        assert!(matches!(of_leader, Step::Wait(_)), "nobody takes the place of who leads");
        let joint = next_step(new, &led(&[one, two, new], &[], founders, &[one, two, new]));
        assert!(matches!(joint, Step::Wait(_)), "one change at a time");
    }

    #[test]
    fn a_newcomer_counts_once_nobody_leaves_any_more() {
        let ids = |ids: &[u64]| ids.iter().copied().map(ReplicaId).collect();
        for (name, replica, voters, leaving, want) in [
            ("a founder", 1, &[1, 2, 3][..], &[][..], true),
            ("a learner", 9, &[1, 2, 3], &[], false),
            ("one that comes, while another goes", 9, &[1, 2, 9], &[1, 2, 3], false),
            ("one that stays meanwhile", 2, &[1, 2, 9], &[1, 2, 3], true),
            ("one that goes", 3, &[1, 2, 9], &[1, 2, 3], false),
            ("one that has come", 9, &[1, 2, 9], &[], true),
        ] {
            let members = Members { voters: ids(voters), learners: Vec::new(), leaving: ids(leaving) };
            assert_eq!(is_settled(ReplicaId(replica), &members), want, "{name}");
        }
    }

    #[test]
    fn wishes_are_forgotten() {
        let (wishes, now) = (Wishes::default(), Instant::now());
        wishes.note(newcomer(3, 5 << 16), now);
        wishes.note(newcomer(2, 5 << 16), now);
        wishes.note(newcomer(3, 6 << 16), now);
        assert_eq!(wishes.lately(now), [newcomer(2, 5 << 16), newcomer(3, 6 << 16)], "the newest of each");
        assert_eq!(wishes.lately(now + WISH_LASTS), []);
    }
}
