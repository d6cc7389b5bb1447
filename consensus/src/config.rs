//! Settings of the groups of one process.

use std::time::Duration;

use crate::{ConsensusError, ProcessId};

const MIB: usize = 1 << 20;

/// How the time until an election differs between replicas, so that they seldom stand at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElectionJitter {
    /// Between 1 and this many ticks on top of `election_ticks`, drawn anew each time.
    Random {
        /// Most ticks on top.
        ticks_max: usize,
    },
    /// Always this many ticks on top. For simulation: raft draws from the thread's generator otherwise. Give each
    /// process another number.
    Fixed {
        /// Ticks on top.
        ticks: usize,
    },
}

/// Settings of the groups of one process. Those of the members of a group should agree.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// Differs at each start of the process; random. Without it a read could be answered by the echo of another one
    /// from before the restart.
    pub boot_nonce: u64,
    /// Which process this is. With it, groups fall asleep that nobody uses: the transport must carry messages of
    /// [`BEACON_GROUP`](crate::BEACON_GROUP) to the process that they name as their receiver. Without it only groups of
    /// one member do.
    pub process: Option<ProcessId>,
    /// Time between two ticks. The core does not know it; the shell does.
    pub tick_interval: Duration,
    /// Ticks for which a follower is loyal to a silent leader, and a leader keeps its lead without a quorum.
    pub election_ticks: usize,
    /// What is added to that before an election.
    pub election_jitter: ElectionJitter,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Ticks without anything to do after which a group falls asleep.
    pub idle_ticks: u64,
    /// Bytes of entries in one append message; one entry larger than that travels alone.
    pub append_bytes_max: usize,
    /// Append messages to one follower that may be unanswered.
    pub appends_in_flight_max: usize,
    /// Bytes of committed entries that one round hands out for one group.
    pub committed_bytes_per_round: usize,
    /// Bytes of one proposal.
    pub proposal_bytes_max: usize,
    /// Proposals of a group that may be uncommitted.
    pub proposals_in_flight_max: usize,
    /// Bytes of uncommitted entries of a group.
    pub uncommitted_bytes_max: usize,
    /// Bytes of committed entries that the state machine may lag behind, before a leader takes no more proposals and
    /// a follower hands out no more: they wait in its log.
    pub backlog_bytes_max: usize,
    /// Linearizable reads of a group that may be unanswered.
    pub reads_in_flight_max: usize,
    /// Ticks after which an unanswered read asks again, under a new context.
    pub read_retry_ticks: u64,
    /// Ticks after which an unanswered read is given up.
    pub read_ticks_max: u64,
    /// Entries that stay in a log after they were applied, for followers that lag.
    pub log_keep_entries: usize,
    /// Bytes of them.
    pub log_keep_bytes: usize,
    /// Bytes of a log above which it no longer waits for the slowest follower. Where there is a witness, it always waits.
    pub log_bytes_max: usize,
    /// Bytes of applied entries kept in memory per group that has followers.
    pub cache_bytes: usize,
    /// Ticks after which an unanswered snapshot is taken for lost.
    pub snapshot_retry_ticks: u64,
    /// Entries that a learner may lag behind when it is promoted.
    pub promotion_lag_max: u64,
    /// Work items that wait in the mailbox of a state machine; the shell holds back the rest.
    pub mailbox_capacity: usize,
    /// Calls that wait for the consensus thread.
    pub inbox_calls_max: usize,
    /// Bytes of messages from the network that wait for the consensus thread.
    pub inbox_bytes_max: usize,
}

impl RaftConfig {
    /// The usual settings: a lost leader is replaced in about 1 to 1.3 seconds.
    #[must_use]
    pub fn new(boot_nonce: u64) -> Self {
        Self {
            boot_nonce,
            process: None,
            tick_interval: Duration::from_millis(100),
            election_ticks: 8,
            election_jitter: ElectionJitter::Random { ticks_max: 4 },
            heartbeat_ticks: 2,
            idle_ticks: 10,
            append_bytes_max: MIB,
            appends_in_flight_max: 64,
            committed_bytes_per_round: 4 * MIB,
            proposal_bytes_max: 16 * MIB,
            proposals_in_flight_max: 4_096,
            uncommitted_bytes_max: 64 * MIB,
            backlog_bytes_max: 64 * MIB,
            reads_in_flight_max: 65_536,
            read_retry_ticks: 5,
            read_ticks_max: 100,
            log_keep_entries: 4_096,
            log_keep_bytes: 8 * MIB,
            log_bytes_max: 256 * MIB,
            cache_bytes: MIB / 4,
            snapshot_retry_ticks: 100,
            promotion_lag_max: 1_024,
            mailbox_capacity: 1_024,
            inbox_calls_max: 65_536,
            inbox_bytes_max: 64 * MIB,
        }
    }

    /// Names the first setting that cannot work.
    pub fn validate(&self) -> Result<(), ConsensusError> {
        let rules = [
            (self.tick_interval.is_zero(), "tick_interval", "must not be zero"),
            (self.heartbeat_ticks == 0, "heartbeat_ticks", "must not be zero"),
            (self.idle_ticks == 0, "idle_ticks", "must not be zero"),
            (self.election_ticks <= self.heartbeat_ticks, "election_ticks", "must be more than heartbeat_ticks"),
            (self.append_bytes_max == 0, "append_bytes_max", "must not be zero"),
            (self.appends_in_flight_max == 0, "appends_in_flight_max", "must not be zero"),
            (
                self.uncommitted_bytes_max < self.append_bytes_max.max(self.proposal_bytes_max),
                "uncommitted_bytes_max",
                "must be at least append_bytes_max and proposal_bytes_max",
            ),
            (self.log_bytes_max < self.log_keep_bytes, "log_bytes_max", "must be at least log_keep_bytes"),
            (self.read_retry_ticks == 0, "read_retry_ticks", "must not be zero"),
            (self.mailbox_capacity == 0, "mailbox_capacity", "must not be zero"),
        ];
        match rules.into_iter().find(|(broken, ..)| *broken) {
            Some((_, field, problem)) => Err(ConsensusError::Config { field, problem }),
            None => Ok(()),
        }
    }

    /// raft's own settings for one replica. Its defaults would send one entry per message, without limits, without
    /// pre-vote.
    ///
    /// A witness stands after all others: it can only lead until it can hand over, and is needed for no more than
    /// entries that no full replica has.
    pub(crate) fn raft(&self, me: u64, applied: u64, is_witness: bool) -> raft::Config {
        let (first, width) = match self.election_jitter {
            ElectionJitter::Random { ticks_max } if is_witness => (1 + ticks_max.max(1), ticks_max.max(1)),
            ElectionJitter::Random { ticks_max } => (1, ticks_max.max(1)),
            ElectionJitter::Fixed { ticks } if is_witness => (2 * ticks, 1),
            ElectionJitter::Fixed { ticks } => (ticks, 1),
        };
        let min_election_tick = self.election_ticks + first;
        let max_election_tick = min_election_tick + width;
        raft::Config {
            id: me,
            applied,
            election_tick: self.election_ticks,
            min_election_tick,
            max_election_tick,
            heartbeat_tick: self.heartbeat_ticks,
            max_size_per_msg: self.append_bytes_max as u64,
            max_inflight_msgs: self.appends_in_flight_max,
            max_uncommitted_size: self.uncommitted_bytes_max as u64,
            max_committed_size_per_ready: self.committed_bytes_per_round as u64,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            read_only_option: raft::ReadOnlyOption::Safe,
            ..raft::Config::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_settings_work_and_broken_ones_are_named() {
        let usual = RaftConfig::new(1);
        usual.validate().expect("usual settings are valid");
        usual.raft(1, 0, false).validate().expect("raft accepts them");
        let broken = RaftConfig { election_ticks: 2, ..usual };
        let refused = broken.validate().expect_err("as long as a heartbeat");
        assert!(refused.to_string().starts_with("election_ticks"), "{refused}");
    }
}
