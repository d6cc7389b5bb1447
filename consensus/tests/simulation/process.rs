//! One simulated process: a core, a store that can lose power, and its state machines.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::SmallRng;
use shoal_consensus::{
    Answer, ConsensusError, ElectionJitter, GroupSpec, MultiRaft, Output, ProcessId, RaftConfig, RequestId,
    StateMachine, Ticket, Work,
};
use shoal_model::{GroupId, LogIndex, ReplicaId};
use shoal_runtime::{Envelope, MemoryStore, Store};

use crate::machine::{Job, Machine};

/// What a process tells the world.
pub(crate) enum Event {
    Send(Envelope),
    Answer(RequestId, Answer),
    Applied { group: GroupId, index: LogIndex, data: Bytes, request: Option<RequestId> },
}

/// A replica that lives in a process.
pub(crate) struct Replica {
    pub(crate) me: ReplicaId,
    /// First voters of its group; none for one that joins.
    pub(crate) voters: Vec<ReplicaId>,
    /// Members without state.
    pub(crate) witnesses: Vec<ReplicaId>,
}

impl Replica {
    pub(crate) fn is_witness(&self) -> bool {
        self.witnesses.contains(&self.me)
    }
}

pub(crate) struct Process {
    pub(crate) number: usize,
    pub(crate) store: Arc<MemoryStore>,
    /// Replicas that live here, running or not.
    pub(crate) specs: BTreeMap<GroupId, Replica>,
    pub(crate) core: Option<MultiRaft>,
    pub(crate) machines: BTreeMap<GroupId, Machine>,
    /// Outputs whose sync is under way, and when it ends.
    syncs: VecDeque<(u64, Ticket)>,
    boots: u64,
    pub(crate) restores: usize,
}

/// Groups of both kinds.
pub(crate) fn kind(group: GroupId) -> StateMachine {
    if group.0.is_multiple_of(2) { StateMachine::Stored } else { StateMachine::InMemory }
}

impl Process {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            number,
            store: Arc::default(),
            specs: BTreeMap::new(),
            core: None,
            machines: BTreeMap::new(),
            syncs: VecDeque::new(),
            boots: 0,
            restores: 0,
        }
    }

    /// Small limits, so that a short run meets all of them.
    fn config(&self) -> RaftConfig {
        RaftConfig {
            process: Some(ProcessId(1 + self.number as u64)),
            idle_ticks: 4,
            tick_interval: Duration::from_millis(100),
            election_jitter: ElectionJitter::Fixed { ticks: 1 + 2 * self.number },
            append_bytes_max: 600,
            appends_in_flight_max: 4,
            committed_bytes_per_round: 800,
            proposal_bytes_max: 4_096,
            uncommitted_bytes_max: 8_192,
            backlog_bytes_max: 2_000,
            log_keep_entries: 24,
            log_keep_bytes: 3_000,
            log_bytes_max: 12_000,
            cache_bytes: 400,
            snapshot_retry_ticks: 20,
            promotion_lag_max: 10,
            ..RaftConfig::new(self.boots << 8 | self.number as u64)
        }
    }

    pub(crate) fn start(&mut self) {
        self.boots += 1;
        self.store.sync().expect("memory does not fail");
        self.core = Some(MultiRaft::new(self.store.clone(), self.config()).expect("settings are valid"));
        for group in self.specs.keys().copied().collect::<Vec<_>>() {
            self.open(group);
        }
    }

    fn open(&mut self, group: GroupId) {
        assert!(self.try_open(group), "what is stored can be opened");
    }

    /// Opens a replica; not while what was destroyed of an earlier one is still on disk.
    pub(crate) fn try_open(&mut self, group: GroupId) -> bool {
        let core = self.core.as_mut().expect("it runs");
        let replica = &self.specs[&group];
        let (me, voters, witnesses) = (replica.me, replica.voters.clone(), replica.witnesses.clone());
        let mut machine = Machine::open(group, kind(group), &self.store);
        // The core remembers that a damaged state waits for a snapshot, so it is not told each time.
        let state_lost = machine.damaged && group.0.is_multiple_of(4);
        if state_lost {
            machine.applied = LogIndex(0);
        }
        let applied = machine.applied;
        let state_machine = if replica.is_witness() { StateMachine::Witness } else { kind(group) };
        let spec = GroupSpec { group, me, voters, witnesses, applied, state_machine, state_lost };
        match core.open_group(&spec) {
            Ok(()) if replica.is_witness() => {}
            Ok(()) => drop(self.machines.insert(group, machine)),
            Err(ConsensusError::AlreadyOpen { .. }) => return false,
            Err(ConsensusError::OtherReplica { .. }) => {
                // A power cut undid the end of an earlier replica.
                core.close_group(group, true).expect("it can be destroyed");
                Machine::forget(group, &self.store);
                return false;
            }
            Err(error) => panic!("what is stored can be opened: {error}"),
        };
        true
    }

    /// Damages the state of a replica that has somebody to ask for another.
    pub(crate) fn damage(&mut self, group: GroupId) -> bool {
        let Some((core, machine)) = self.core.as_mut().zip(self.machines.get_mut(&group)) else { return false };
        match core.request_snapshot(group) {
            Ok(()) => machine.damaged = true,
            Err(ConsensusError::NobodyToAsk { .. }) => return false,
            Err(error) => panic!("a snapshot can be asked for: {error}"),
        }
        true
    }

    pub(crate) fn destroy(&mut self, group: GroupId) {
        self.specs.remove(&group);
        self.machines.remove(&group);
        if let Some(core) = &mut self.core {
            core.close_group(group, true).expect("it can be destroyed");
            Machine::forget(group, &self.store);
        }
    }

    /// Loses power: of what was written since the last sync only a part survives.
    pub(crate) fn crash(&mut self, rng: &mut SmallRng) {
        self.core = None;
        self.machines.clear();
        self.syncs.clear();
        let unsynced = self.store.unsynced_batches();
        self.store.crash(rng.random_range(0..=unsynced));
    }

    /// Carries out all that is due at `now`.
    pub(crate) fn pump(&mut self, now: u64, rng: &mut SmallRng, events: &mut Vec<Event>) {
        if self.core.is_none() {
            return;
        }
        self.finish_syncs(now);
        self.run_machines(rng, events);
        while let Some(out) = self.core.as_mut().map(MultiRaft::ready).filter(|out| !out.is_empty()) {
            self.carry_out(out, now, rng, events);
        }
    }

    fn finish_syncs(&mut self, now: u64) {
        while let Some((_, ticket)) = self.syncs.pop_front_if(|(at, _)| *at <= now) {
            self.store.sync().expect("memory does not fail");
            self.core.as_mut().expect("it runs").persisted(ticket);
        }
    }

    fn carry_out(&mut self, out: Output, now: u64, rng: &mut SmallRng, events: &mut Vec<Event>) {
        assert!(out.failed.is_empty(), "no group fails: {:?}", out.failed);
        events.extend(out.messages.into_iter().map(Event::Send));
        self.store.write(out.batch).expect("memory does not fail");
        // Only now, as the core remembers over a crash what it has written.
        self.machines.values_mut().filter(|machine| machine.damaged).for_each(|machine| machine.damage(&self.store));
        for work in out.work {
            self.take_work(work);
        }
        events.extend(out.answers.into_iter().map(|(request, answer)| Event::Answer(request, answer)));
        // Syncs overlap with everything else, but end in order.
        let busy_until = self.syncs.back().map_or(now, |(at, _)| *at);
        let lasts = if out.must_sync { rng.random_range(0..25) } else { 0 };
        self.syncs.push_back((busy_until.max(now + lasts), out.ticket));
        if !out.must_sync && self.syncs.len() == 1 {
            self.syncs.clear();
            self.core.as_mut().expect("it runs").persisted(out.ticket);
        }
    }

    fn take_work(&mut self, work: Work) {
        let (group, job) = match work {
            Work::Entry { group, index, data, request } => (group, Job::Entry { index, data, request }),
            Work::Restore { group, index, data } => (group, Job::Restore { index, data }),
            Work::Snapshot { group } => (group, Job::Snapshot),
        };
        match self.machines.get_mut(&group) {
            Some(machine) => machine.inbox.push_back(job),
            None => assert!(!self.specs.contains_key(&group), "a witness gets no work"),
        }
    }

    /// State machines do some of their work: sometimes none, sometimes a lot.
    fn run_machines(&mut self, rng: &mut SmallRng, events: &mut Vec<Event>) {
        let core = self.core.as_mut().expect("it runs");
        for (&group, machine) in &mut self.machines {
            let jobs = if rng.random_bool(0.2) { 0 } else { rng.random_range(0..20) };
            for _ in 0..jobs {
                let Some(job) = machine.inbox.pop_front() else { break };
                match job {
                    Job::Entry { index, data, request } => {
                        machine.apply(index, &data, &self.store);
                        events.push(Event::Applied { group, index, data, request });
                        core.applied(group, index);
                    }
                    Job::Restore { index, data } => {
                        machine.restore(index, &data, &self.store);
                        self.restores += 1;
                        core.applied(group, index);
                    }
                    // Too late is no error: the log may have moved on.
                    Job::Snapshot => drop(core.snapshot_made(group, machine.applied, machine.encode())),
                }
            }
        }
    }
}
