//! Changes of membership: checked before they are proposed, since raft turns a change it does not like into an empty
//! entry without a word.

use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType};
use raft::{Changer, Progress, ProgressState};
use shoal_model::ReplicaId;
use shoal_model::failpoints::{Failpoint, meet};

use super::Group;
use crate::core::records::encode;
use crate::{Answer, ConsensusError, MemberChange, Members, RaftConfig, RequestId};

/// A change proposed here.
pub(super) struct PendingChange {
    index: u64,
    term: u64,
    pub(super) request: RequestId,
}

/// The members that raft's own form describes.
pub(super) fn members(conf: &ConfState) -> Members {
    let sorted = |ids: &[u64]| {
        let mut ids: Vec<_> = ids.iter().copied().map(ReplicaId).collect();
        ids.sort_unstable();
        ids
    };
    let learners = [conf.get_learners(), conf.get_learners_next()].concat();
    Members {
        voters: sorted(conf.get_voters()),
        learners: sorted(&learners),
        leaving: sorted(conf.get_voters_outgoing()),
    }
}

impl Group {
    /// Proposes changes that take effect together; more than one pass through a joint membership, which the group
    /// leaves by itself. Answered with [`Answer::Changed`] once that is done.
    pub(crate) fn change_membership(
        &mut self,
        changes: &[MemberChange],
        request: RequestId,
        config: &RaftConfig,
    ) -> Result<(), ConsensusError> {
        self.check_leads()?;
        let unanswered = self.change.is_some() || self.unpersisted.iter().any(|round| round.change.is_some());
        let under_way = self.raft.raft.has_pending_conf() || !self.members.leaving.is_empty() || unanswered;
        if under_way {
            return Err(ConsensusError::ChangePending { group: self.id });
        }
        let refuse = |problem| ConsensusError::BadChange { group: self.id, problem };
        for change in changes {
            self.check_change(*change, config).map_err(refuse)?;
        }
        let proposal = proposal(changes);
        self.try_change(&proposal).map_err(refuse)?;
        meet(Failpoint::ConsensusChange)?;
        let entry =
            Entry { entry_type: EntryType::EntryConfChangeV2, data: encode(&proposal).into(), ..Entry::default() };
        let (index, term) = self.append(entry)?;
        self.change = Some(PendingChange { index, term, request });
        Ok(())
    }

    fn check_change(&self, change: MemberChange, config: &RaftConfig) -> Result<(), String> {
        let is_voter = |id| self.members.voters.contains(&id);
        let is_learner = |id| self.members.learners.contains(&id);
        match change {
            MemberChange::AddLearner(ReplicaId(0)) => Err("replica 0 cannot be".into()),
            MemberChange::AddLearner(id) if is_voter(id) || is_learner(id) => {
                Err(format!("replica {id} is a member already"))
            }
            MemberChange::AddLearner(_) => Ok(()),
            MemberChange::Promote(id) if !is_learner(id) => {
                Err(format!("replica {id} is not a learner; a new member starts as one"))
            }
            MemberChange::Promote(id) => self.check_caught_up(id, config),
            MemberChange::Remove(id) if id == self.me => {
                Err(format!("replica {id} leads; hand over the lead before removing it"))
            }
            MemberChange::Remove(id) if !is_voter(id) && !is_learner(id) => Err(format!("replica {id} is no member")),
            MemberChange::Remove(_) => Ok(()),
        }
    }

    /// A voter that lags would be counted on before it can help, and so would one whose state is on its way.
    fn check_caught_up(&self, id: ReplicaId, config: &RaftConfig) -> Result<(), String> {
        let last = self.raft.raft.raft_log.last_index();
        // After a snapshot raft probes until the next entry, which may never come.
        let follows = |progress: &&Progress| progress.state != ProgressState::Snapshot && progress.matched > 0;
        let matched = self.raft.raft.prs().get(id.0).filter(follows);
        match matched.map(|progress| last.saturating_sub(progress.matched)) {
            Some(_) if !self.whole.contains(&id.0) => Err(format!("replica {id} has not told that its state is whole")),
            Some(lag) if lag <= config.promotion_lag_max => Ok(()),
            Some(lag) => {
                Err(format!("replica {id} is {lag} entries behind; it may be at most {}", config.promotion_lag_max))
            }
            None => Err(format!("replica {id} has not caught up yet")),
        }
    }

    /// Whether the result would be a membership: the same code decides when the entry is applied.
    fn try_change(&self, proposal: &ConfChangeV2) -> Result<(), String> {
        if proposal.changes.is_empty() {
            return Err("a change must change something".into());
        }
        let mut changer = Changer::new(self.raft.raft.prs());
        let result = match proposal.enter_joint() {
            Some(auto_leave) => changer.enter_joint(auto_leave, &proposal.changes),
            None => changer.simple(&proposal.changes),
        };
        result.map(drop).map_err(|error| error.to_string())
    }

    /// A committed change takes effect.
    pub(super) fn apply_change(&mut self, entry: &Entry) -> Result<(), ConsensusError> {
        let internal = |what: String| ConsensusError::Internal(format!("entry {}: {what}", entry.index));
        if entry.get_entry_type() == EntryType::EntryConfChange {
            return Err(internal("a kind of change that nobody proposes".into()));
        }
        let change = ConfChangeV2::parse_from_bytes(&entry.data).map_err(|error| internal(error.to_string()))?;
        meet(Failpoint::ConsensusChangeApply)?;
        let conf = self.raft.apply_conf_change(&change).map_err(|error| internal(error.to_string()))?;
        self.raft.mut_store().confs.push(entry.index, conf.clone());
        self.confs_are_dirty = true;
        self.set_members(&conf);
        let still_votes = self.members.voters.contains(&self.me) || self.members.leaving.contains(&self.me);
        if self.leads() && !still_votes {
            self.step_aside();
        }
        Ok(())
    }

    pub(super) fn set_members(&mut self, conf: &ConfState) {
        self.members = members(conf).into();
    }

    /// A leader without a vote would stay leader, drop proposals, and panic in raft at its next commit: it asks the
    /// most advanced voter to stand, and follows.
    fn step_aside(&mut self) {
        let raft = &mut self.raft.raft;
        let matched = |id: &ReplicaId| raft.prs().get(id.0).map_or(0, |progress| progress.matched);
        let fitness = |id: &ReplicaId| (!raft.store().witnesses.contains(&id.0), matched(id));
        if let Some(heir) = self.members.voters.iter().copied().max_by_key(fitness) {
            raft.send_timeout_now(heir.0);
        }
        let term = raft.term;
        raft.become_follower(term, raft::INVALID_ID);
    }

    /// Answers a change that was applied and is no longer joint, once this replica cannot forget that it is committed:
    /// those it leaves out may be destroyed then, and must not be needed for a quorum after a crash.
    pub(super) fn settle_change(&mut self) {
        let (handed_out, joint) = (self.handed_out, !self.members.leaving.is_empty());
        if let Some(change) = self.change.take_if(|change| change.index <= handed_out && !joint) {
            match self.unpersisted.back_mut() {
                Some(round) => round.change = Some(change.request),
                None => self.answers.push((change.request, Answer::Changed)),
            }
        }
    }

    /// The lead it was proposed under is over, unless it is that of `term`.
    pub(super) fn lose_change(&mut self, term: Option<u64>) {
        if let Some(change) = self.change.take_if(|change| Some(change.term) != term) {
            self.answers.push((change.request, Answer::Unknown));
        }
    }
}

fn proposal(changes: &[MemberChange]) -> ConfChangeV2 {
    let single = |change: &MemberChange| {
        let (change_type, id) = match *change {
            MemberChange::AddLearner(id) => (ConfChangeType::AddLearnerNode, id),
            MemberChange::Promote(id) => (ConfChangeType::AddNode, id),
            MemberChange::Remove(id) => (ConfChangeType::RemoveNode, id),
        };
        ConfChangeSingle { change_type, node_id: id.0, ..ConfChangeSingle::default() }
    };
    let mut proposal = ConfChangeV2::default();
    proposal.set_changes(changes.iter().map(single).collect());
    proposal
}
