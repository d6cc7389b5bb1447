//! What a group tells about itself.

use std::sync::Arc;

use raft::{ProgressState, StateRole};
use shoal_model::{LogIndex, ReplicaId};

use super::Group;
use super::feed::Feed;
use crate::{GroupStatus, MemberProgress, RaftConfig, Role};

impl Group {
    /// How the group stands at `tick`.
    pub(crate) fn status(&self, tick: u64, config: &RaftConfig) -> GroupStatus {
        let raft = &self.raft.raft;
        let log = self.raft.store();
        GroupStatus {
            group: self.id,
            me: self.me,
            role: match raft.state {
                StateRole::Leader => Role::Leader,
                StateRole::Follower => Role::Follower,
                StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            },
            leader: self.leader(),
            term: raft.term,
            committed: LogIndex(raft.raft_log.committed),
            applied: LogIndex(self.applied),
            starves: matches!(self.feed, Feed::Snapshot { .. }),
            sleeps: self.sleeps_on().is_some(),
            first: LogIndex(log.start().index + 1),
            last: LogIndex(raft.raft_log.last_index()),
            log_bytes: log.bytes(),
            members: Arc::clone(&self.members),
            progress: if self.leads() { self.progress(tick, config) } else { Vec::new() },
        }
    }

    /// Notes the status, and says whether it differs from what was last noted.
    pub(crate) fn status_changed(&mut self, tick: u64, config: &RaftConfig) -> bool {
        let status = Some(self.status(tick, config));
        let changed = self.reported != status;
        self.reported = status;
        changed
    }

    fn progress(&self, tick: u64, config: &RaftConfig) -> Vec<MemberProgress> {
        let raft = &self.raft.raft;
        let of = |(id, progress): (&u64, &raft::Progress)| {
            let is_self = *id == self.me.0;
            MemberProgress {
                member: ReplicaId(*id),
                matched: LogIndex(progress.matched),
                committed: LogIndex(if is_self { raft.raft_log.committed } else { progress.committed_index }),
                active: is_self || self.is_vouched_for(ReplicaId(*id)) || self.was_heard(*id, tick, config),
                gets_snapshot: progress.state == ProgressState::Snapshot || self.asked.by(*id),
            }
        };
        let mut all: Vec<_> = raft.prs().iter().map(of).collect();
        all.sort_unstable_by_key(|progress| progress.member);
        all
    }

    /// Whether a peer was heard of late.
    pub(super) fn was_heard(&self, peer: u64, tick: u64, config: &RaftConfig) -> bool {
        let patience = 2 * config.election_ticks as u64;
        self.heard.get(&peer).is_some_and(|since| tick <= since + patience)
    }
}
