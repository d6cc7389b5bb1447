//! The core step by step: promises that a simulation meets too seldom.

use std::sync::Arc;

use shoal_consensus::{
    Answer, BEACON_GROUP, ConsensusError, ElectionJitter, GroupSpec, MemberChange, MultiRaft, Output, ProcessId,
    RaftConfig, RequestId, Role, StateMachine, Work,
};
use shoal_model::{GroupId, LogIndex, ReplicaId};
use shoal_runtime::{Envelope, MemoryStore, Store, Table};

const GROUP: GroupId = GroupId(3);

fn config() -> RaftConfig {
    RaftConfig {
        election_jitter: ElectionJitter::Fixed { ticks: 1 },
        log_keep_entries: 10,
        proposals_in_flight_max: 5,
        proposal_bytes_max: 1_000,
        cache_bytes: 0,
        ..RaftConfig::new(1)
    }
}

fn open(store: &Arc<MemoryStore>, me: u64, voters: &[u64], applied: u64) -> MultiRaft {
    open_as(config(), store, me, voters, applied)
}

fn open_as(config: RaftConfig, store: &Arc<MemoryStore>, me: u64, voters: &[u64], applied: u64) -> MultiRaft {
    let mut core = MultiRaft::new(store.clone(), config).expect("settings are valid");
    let voters = voters.iter().copied().map(ReplicaId).collect();
    let (me, applied) = (ReplicaId(me), LogIndex(applied));
    let spec = GroupSpec {
        group: GROUP,
        me,
        voters,
        witnesses: Vec::new(),
        applied,
        state_machine: StateMachine::Stored,
        state_lost: false,
    };
    core.open_group(&spec).expect("it opens");
    core
}

/// Carries out one output as a process does.
fn carry_out(core: &mut MultiRaft, store: &MemoryStore, out: &mut Output) {
    store.write(std::mem::take(&mut out.batch)).expect("memory does not fail");
    if out.must_sync {
        store.sync().expect("memory does not fail");
    }
    core.persisted(out.ticket);
}

/// Carries out all that is ready, and returns messages, work and answers.
fn settle(core: &mut MultiRaft, store: &MemoryStore) -> Output {
    let mut all = Output::default();
    loop {
        let mut out = core.ready();
        if out.is_empty() {
            return all;
        }
        carry_out(core, store, &mut out);
        all.messages.append(&mut out.messages);
        all.work.append(&mut out.work);
        all.answers.append(&mut out.answers);
        all.failed.append(&mut out.failed);
    }
}

/// Passes messages between two cores until none is left; returns the work of the second, which is reported as done.
fn converse<'a>(mut a: (&'a mut MultiRaft, &'a MemoryStore), mut b: (&'a mut MultiRaft, &'a MemoryStore)) -> Vec<Work> {
    let mut done = Vec::new();
    let mut messages: Vec<Envelope> = Vec::new();
    for _ in 0..100 {
        let mut work_of_last = Vec::new();
        for message in std::mem::take(&mut messages) {
            let is_for_a = a.0.status(GROUP).is_some_and(|status| status.me == message.to);
            let core = if is_for_a { &mut *a.0 } else { &mut *b.0 };
            core.step(&message).expect("a replica takes the other's messages");
        }
        for (core, store) in [&mut a, &mut b] {
            let out = settle(core, store);
            for work in &out.work {
                match work {
                    Work::Entry { index, .. } | Work::Restore { index, .. } => core.applied(GROUP, *index),
                    Work::Snapshot { .. } => {
                        let applied = core.status(GROUP).expect("it is open").applied;
                        core.snapshot_made(GROUP, applied, vec![1].into()).expect("it is in time");
                    }
                }
            }
            messages.extend(out.messages);
            work_of_last = out.work;
        }
        done.append(&mut work_of_last);
        a.0.tick();
        b.0.tick();
    }
    done
}

#[test]
fn a_single_voter_tells_learners_nothing_of_a_term_that_is_not_on_disk() {
    let (store, other_store) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let (mut core, mut learner) = (open(&store, 1, &[1], 0), open(&other_store, 2, &[], 0));
    settle(&mut core, &store);
    core.change_membership(GROUP, &[MemberChange::AddLearner(ReplicaId(2))], RequestId(1)).expect("a learner may come");
    converse((&mut core, &store), (&mut learner, &other_store));
    let (at, status) = (core.status(GROUP), learner.status(GROUP));
    let (at, status) = (at.expect("it is open"), status.expect("it is open"));
    assert_eq!((status.applied, status.members), (at.applied, at.members), "the learner caught up by a snapshot");

    let mut core = open(&store, 1, &[1], at.applied.0);
    let mut out = core.ready();
    assert_eq!(core.status(GROUP).expect("it is open").role, Role::Leader, "a single voter leads at once");
    assert!(out.must_sync, "its new term must be on disk");
    assert_eq!(out.messages, [], "before anybody hears of it: after a crash it would lead that term again");
    carry_out(&mut core, &store, &mut out);
    assert!(!core.ready().messages.is_empty(), "then the learner is told");
}

#[test]
fn the_log_is_only_cut_behind_what_was_applied_before_a_sync_began() {
    let store = Arc::new(MemoryStore::new());
    let mut core = open(&store, 1, &[1], 0);
    settle(&mut core, &store);
    for number in 0..50 {
        core.propose(GROUP, vec![1; 20].into(), RequestId(number)).expect("there is room");
        settle(&mut core, &store);
    }
    let first = |core: &MultiRaft| core.status(GROUP).expect("it is open").first;
    core.tick();
    assert_eq!(first(&core), LogIndex(2), "nothing is applied");
    core.propose(GROUP, vec![1; 20].into(), RequestId(50)).expect("there is room");
    let mut out = core.ready();
    core.applied(GROUP, LogIndex(50));
    carry_out(&mut core, &store, &mut out);
    core.tick();
    assert_eq!(first(&core), LogIndex(2), "the sync began before the report");
    settle(&mut core, &store);
    core.propose(GROUP, vec![1; 20].into(), RequestId(51)).expect("there is room");
    settle(&mut core, &store);
    core.tick();
    assert_eq!(first(&core), LogIndex(45), "ten entries stay");
    settle(&mut core, &store);
    drop(core);
    let too_old = GroupSpec {
        group: GROUP,
        me: ReplicaId(1),
        voters: vec![],
        witnesses: Vec::new(),
        applied: LogIndex(20),
        state_machine: StateMachine::Stored,
        state_lost: false,
    };
    let mut core = MultiRaft::new(store, config()).expect("settings are valid");
    let refused = core.open_group(&too_old).expect_err("the log does not reach back that far");
    assert!(matches!(refused, ConsensusError::Corruption { .. }), "{refused}");
    let other = GroupSpec { me: ReplicaId(2), applied: LogIndex(50), ..too_old };
    let refused = core.open_group(&other).expect_err("it belongs to another");
    assert!(matches!(refused, ConsensusError::OtherReplica { stored: ReplicaId(1), .. }), "{refused}");
}

#[test]
fn proposals_that_cannot_be_taken_are_refused() {
    let store = Arc::new(MemoryStore::new());
    let mut core = open(&store, 1, &[1], 0);
    settle(&mut core, &store);
    let mut propose = |group, bytes| core.propose(group, vec![1; bytes].into(), RequestId(bytes as u64));
    assert!(matches!(propose(GroupId(9), 1), Err(ConsensusError::UnknownGroup { .. })));
    assert!(matches!(propose(GROUP, 0), Err(ConsensusError::EmptyProposal)));
    assert!(matches!(propose(GROUP, 1_001), Err(ConsensusError::TooLarge { got: 1_001, most: 1_000 })));
    for bytes in 1..=5 {
        propose(GROUP, bytes).expect("there is room");
    }
    assert!(matches!(propose(GROUP, 6), Err(ConsensusError::Overloaded { .. })));
    let done = settle(&mut core, &store).work;
    let requests = done.iter().filter_map(|work| match work {
        Work::Entry { request, .. } => *request,
        _ => None,
    });
    assert!(requests.eq((1..=5).map(RequestId)), "they come back in order");
}

#[test]
fn a_group_that_cannot_be_read_is_closed_and_others_go_on() {
    let store = Arc::new(MemoryStore::new());
    let mut core = open(&store, 1, &[1], 0);
    settle(&mut core, &store);
    for number in 1..4 {
        core.propose(GROUP, vec![1; 20].into(), RequestId(number)).expect("there is room");
    }
    settle(&mut core, &store);
    // Not applied, so a restart reads them again: the first reading is on open, the second when they are handed out.
    let other = GroupSpec {
        group: GroupId(4),
        me: ReplicaId(1),
        voters: vec![ReplicaId(1)],
        witnesses: Vec::new(),
        applied: LogIndex(0),
        state_machine: StateMachine::Stored,
        state_lost: false,
    };
    let mut core = open(&store, 1, &[1], 0);
    core.open_group(&other).expect("it opens");
    let mut batch = shoal_runtime::Batch::default();
    batch.delete_range(Table::Log, vec![0; 16], vec![0xff; 16]);
    store.write(batch).expect("memory does not fail");
    core.read_index(GROUP, RequestId(8)).expect("it is open");
    let out = settle(&mut core, &store);
    assert!(matches!(out.failed[..], [(GROUP, ConsensusError::Corruption { .. })]), "{:?}", out.failed);
    assert!(out.answers.contains(&(RequestId(8), Answer::ReadExpired)), "who waits is told: {:?}", out.answers);
    assert_eq!(core.status(GROUP), None);
    assert_eq!(core.status(GroupId(4)).expect("the other group is well").role, Role::Leader);
}

#[test]
fn a_destroyed_group_can_begin_anew_once_that_is_on_disk() {
    let store = Arc::new(MemoryStore::new());
    let mut core = open(&store, 1, &[1], 0);
    settle(&mut core, &store);
    core.propose(GROUP, vec![1].into(), RequestId(1)).expect("there is room");
    core.close_group(GROUP, true).expect("it closes");
    let spec = GroupSpec {
        group: GROUP,
        me: ReplicaId(7),
        voters: vec![ReplicaId(7)],
        witnesses: Vec::new(),
        applied: LogIndex(0),
        state_machine: StateMachine::Stored,
        state_lost: false,
    };
    assert!(matches!(core.open_group(&spec), Err(ConsensusError::AlreadyOpen { .. })), "its records are still there");
    let out = settle(&mut core, &store);
    assert_eq!(out.answers, [(RequestId(1), Answer::Unknown)], "the proposal's fate is not known");
    core.open_group(&spec).expect("it begins anew");
    settle(&mut core, &store);
    assert_eq!(core.status(GROUP).expect("it is open").last, LogIndex(2), "with an empty log and its first leader");
}

#[test]
fn a_leader_tells_how_far_each_member_has_come() {
    let (store, other_store) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let (mut core, mut learner) = (open(&store, 1, &[1], 0), open(&other_store, 2, &[], 0));
    settle(&mut core, &store);
    let progress = |core: &MultiRaft| core.status(GROUP).expect("it is open").progress;
    assert_eq!(progress(&learner), [], "only a leader knows");
    core.change_membership(GROUP, &[MemberChange::AddLearner(ReplicaId(2))], RequestId(1)).expect("a learner may come");
    converse((&mut core, &store), (&mut learner, &other_store));
    let last = core.status(GROUP).expect("it is open").last;
    for member in progress(&core) {
        assert_eq!((member.matched, member.committed), (last, last), "all have come to the end");
        assert!(member.active && !member.gets_snapshot, "{member:?}");
    }
    for _ in 0..17 {
        core.tick();
    }
    let active: Vec<bool> = progress(&core).iter().map(|member| member.active).collect();
    assert_eq!(active, [true, false], "a member that falls silent is not active");
}

#[test]
fn a_damaged_state_is_replaced_and_the_log_is_kept() {
    let (store, other_store) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let (mut core, mut other) = (open(&store, 1, &[1, 2], 0), open(&other_store, 2, &[1, 2], 0));
    assert!(
        matches!(other.request_snapshot(GROUP), Err(ConsensusError::NobodyToAsk { leads: false, .. })),
        "there is no leader yet"
    );
    for _ in 0..12 {
        core.tick();
    }
    converse((&mut core, &store), (&mut other, &other_store));
    assert!(
        matches!(core.request_snapshot(GROUP), Err(ConsensusError::NobodyToAsk { leads: true, .. })),
        "a leader has nobody to ask"
    );
    core.propose(GROUP, vec![1; 20].into(), RequestId(1)).expect("there is room");
    converse((&mut core, &store), (&mut other, &other_store));
    let before = other.status(GROUP).expect("it is open");

    other.request_snapshot(GROUP).expect("there is a leader");
    settle(&mut other, &other_store);
    let mut other = open(&other_store, 2, &[1, 2], before.applied.0);
    assert!(other.status(GROUP).expect("it is open").starves, "a restart does not forget the request");
    core.propose(GROUP, vec![2; 20].into(), RequestId(2)).expect("there is room");
    let work = converse((&mut core, &store), (&mut other, &other_store));
    let after = other.status(GROUP).expect("it is open");
    let Some((Work::Restore { index, .. }, entries)) = work.split_first() else { panic!("first a snapshot: {work:?}") };
    assert!(*index >= before.applied, "{index} is not before what was applied");
    let places = entries.iter().map(|work| match work {
        Work::Entry { index, .. } => index.0,
        other => panic!("then entries: {other:?}"),
    });
    assert!(places.eq(index.0 + 1..=after.committed.0), "all that follow, without gaps: {work:?}");
    assert_eq!((after.first, after.applied, after.starves), (before.first, after.committed, false), "the log is kept");
    let other = open(&other_store, 2, &[1, 2], after.applied.0);
    assert!(!other.status(GROUP).expect("it is open").starves, "the request is fulfilled");
}

#[test]
fn a_witness_follows_without_state_and_does_not_stay_leader() {
    let (store, other_store) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let mut core = open(&store, 1, &[1], 0);
    settle(&mut core, &store);
    for number in 0..50 {
        core.propose(GROUP, vec![1; 20].into(), RequestId(number)).expect("there is room");
        settle(&mut core, &store);
        core.applied(GROUP, core.status(GROUP).expect("it is open").committed);
        core.tick();
    }
    assert!(core.status(GROUP).expect("it is open").first > LogIndex(2), "the log is cut");
    let mut witness = MultiRaft::new(other_store.clone(), config()).expect("settings are valid");
    let spec = GroupSpec {
        group: GROUP,
        me: ReplicaId(2),
        voters: vec![],
        witnesses: vec![],
        applied: LogIndex(0),
        state_machine: StateMachine::Witness,
        state_lost: false,
    };
    witness.open_group(&spec).expect("it opens");
    core.set_witnesses(GROUP, &[ReplicaId(2)]).expect("it is open");
    core.change_membership(GROUP, &[MemberChange::AddLearner(ReplicaId(2))], RequestId(50)).expect("it may come");
    let work = converse((&mut witness, &other_store), (&mut core, &store));
    assert!(!work.iter().any(|work| matches!(work, Work::Snapshot { .. })), "no state is made for a witness: {work:?}");
    core.change_membership(GROUP, &[MemberChange::Promote(ReplicaId(2))], RequestId(51)).expect("it has caught up");
    let work = converse((&mut core, &store), (&mut witness, &other_store));
    assert_eq!(work, [], "a witness has nothing to apply");
    let (led, kept) = (core.status(GROUP).expect("it is open"), witness.status(GROUP).expect("it is open"));
    assert_eq!((kept.last, kept.committed, kept.applied), (led.last, led.committed, led.committed), "it has all");

    let refused = core.transfer_leader(GROUP, ReplicaId(2)).expect_err("a witness cannot lead for long");
    assert!(matches!(refused, ConsensusError::BadChange { .. }), "{refused}");
    let refused = witness.read_index(GROUP, RequestId(60)).expect_err("it has nothing to read");
    assert!(matches!(refused, ConsensusError::NotLeader { leader: Some(ReplicaId(1)), .. }), "{refused}");
    let refused = witness.request_snapshot(GROUP).expect_err("it has no state to replace");
    assert!(matches!(refused, ConsensusError::BadChange { .. }), "{refused}");
    core.set_witnesses(GROUP, &[]).expect("it is open");
    core.transfer_leader(GROUP, ReplicaId(2)).expect("a leader that does not know hands over");
    converse((&mut core, &store), (&mut witness, &other_store));
    let back = core.status(GROUP).expect("it is open");
    assert_eq!((back.role, back.term), (Role::Leader, led.term + 2), "and is handed the lead back");
}

/// Three processes with one member each, of the same number.
struct Trio {
    processes: Vec<(MultiRaft, Arc<MemoryStore>)>,
    down: Option<ReplicaId>,
    sent: Vec<Envelope>,
}

impl Trio {
    fn new() -> Self {
        Self::of(|me| RaftConfig { process: Some(ProcessId(me)), ..RaftConfig::new(me) }, None)
    }

    /// Of which one may be a witness.
    fn of(config: impl Fn(u64) -> RaftConfig, witness: Option<u64>) -> Self {
        let start = |me: u64| {
            let jitter = ElectionJitter::Fixed { ticks: 1 + (me as usize - 1) };
            let config = RaftConfig { election_jitter: jitter, ..config(me) };
            let store = Arc::new(MemoryStore::new());
            let mut core = MultiRaft::new(store.clone(), config).expect("settings are valid");
            let spec = GroupSpec {
                group: GROUP,
                me: ReplicaId(me),
                voters: [1, 2, 3].map(ReplicaId).to_vec(),
                witnesses: witness.map(ReplicaId).into_iter().collect(),
                applied: LogIndex(0),
                state_machine: if witness == Some(me) { StateMachine::Witness } else { StateMachine::Stored },
                state_lost: false,
            };
            core.open_group(&spec).expect("it opens");
            (core, store)
        };
        Self { processes: (1..=3).map(start).collect(), down: None, sent: Vec::new() }
    }

    /// One tick everywhere, with all messages that come of it; returns how many there were that are no beacons.
    fn tick(&mut self) -> usize {
        let is_up = |me: usize, down: Option<ReplicaId>| down != Some(ReplicaId(me as u64 + 1));
        for (i, (core, _)) in self.processes.iter_mut().enumerate().filter(|(i, _)| is_up(*i, self.down)) {
            core.tick();
            assert!(core.status(GROUP).is_some(), "member {} is open", i + 1);
        }
        let mut count = 0;
        loop {
            for (i, (core, store)) in self.processes.iter_mut().enumerate().filter(|(i, _)| is_up(*i, self.down)) {
                let out = settle(core, store);
                assert!(out.failed.is_empty(), "member {} is well", i + 1);
                for work in &out.work {
                    let Work::Entry { index, .. } = work else { panic!("entries only: {work:?}") };
                    core.applied(GROUP, *index);
                }
                self.sent.extend(out.messages);
            }
            if self.sent.is_empty() {
                return count;
            }
            for message in std::mem::take(&mut self.sent) {
                count += usize::from(message.group != BEACON_GROUP);
                if is_up(message.to.0 as usize - 1, self.down) {
                    self.processes[message.to.0 as usize - 1].0.step(&message).expect("it is a good message");
                }
            }
        }
    }

    /// So many ticks.
    fn pass(&mut self, ticks: usize) {
        for _ in 0..ticks {
            self.tick();
        }
    }

    fn status(&self, me: u64) -> shoal_consensus::GroupStatus {
        self.processes[me as usize - 1].0.status(GROUP).expect("it is open")
    }
}

#[test]
fn a_sleeping_group_sends_nothing_and_replaces_its_leader_as_fast_as_any() {
    let mut trio = Trio::new();
    for _ in 0..60 {
        trio.tick();
    }
    assert_eq!(trio.status(1).role, Role::Leader, "it stands first");
    assert!((1..=3).all(|me| trio.status(me).sleeps), "nobody uses it");
    assert!(trio.status(1).progress.iter().all(|member| member.active), "a leader that sleeps vouches for all");
    let sent: usize = (0..100).map(|_| trio.tick()).sum();
    assert_eq!(sent, 0, "only beacons go round");

    trio.processes[1].0.read_index(GROUP, RequestId(1)).expect("a follower can be asked");
    trio.processes[0].0.propose(GROUP, vec![1].into(), RequestId(2)).expect("a leader takes proposals");
    assert!(trio.tick() > 0, "both wake it");
    assert_eq!(trio.status(2).committed, trio.status(1).last, "at once");
    for _ in 0..30 {
        trio.tick();
    }
    assert!((1..=3).all(|me| trio.status(me).sleeps), "and it falls asleep again");

    trio.down = Some(ReplicaId(1));
    let ticks = (1..).find(|_| {
        trio.tick();
        trio.status(2).role == Role::Leader
    });
    let ticks = ticks.expect("it is found");
    assert!((9..=11).contains(&ticks), "without sleep an election comes after 9 to 10 ticks, and here after {ticks}");
    for _ in 0..30 {
        trio.tick();
    }
    assert!(!trio.status(2).sleeps && !trio.status(3).sleeps, "with a member down a group stays awake");
    trio.processes[1].0.close_group(GROUP, false).expect("it is open");
}

#[test]
fn a_sleeping_follower_is_told_that_its_leader_is_closed() {
    let mut trio = Trio::new();
    for _ in 0..60 {
        trio.tick();
    }
    assert!((1..=3).all(|me| trio.status(me).sleeps), "nobody uses it");
    trio.processes[0].0.close_group(GROUP, false).expect("it is open");
    let spec = GroupSpec {
        group: GroupId(9),
        me: ReplicaId(1),
        voters: vec![ReplicaId(1)],
        witnesses: vec![],
        applied: LogIndex(0),
        state_machine: StateMachine::Stored,
        state_lost: false,
    };
    trio.processes[0].0.open_group(&spec).expect("the process lives on");
    let beacons = |trio: &mut Trio| {
        for i in 0..3 {
            let (core, store) = &mut trio.processes[i];
            core.tick();
            trio.sent.extend(settle(core, store).messages);
        }
        for message in std::mem::take(&mut trio.sent) {
            // What is for the closed group is refused.
            drop(trio.processes[message.to.0 as usize - 1].0.step(&message));
        }
    };
    let ticks = (1..40).find(|_| {
        beacons(&mut trio);
        (2..=3).any(|me| trio.status(me).role == Role::Leader)
    });
    assert!(ticks.is_some_and(|ticks| ticks < 13), "another leads soon: {ticks:?}");
}

#[test]
fn a_follower_without_room_takes_no_data_and_catches_up_later() {
    let (store, other_store) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let later = RaftConfig { election_jitter: ElectionJitter::Fixed { ticks: 9 }, ..config() };
    let (mut leader, mut follower) = (open(&store, 1, &[1, 2], 0), open_as(later, &other_store, 2, &[1, 2], 0));
    follower.set_room(false);
    converse((&mut leader, &store), (&mut follower, &other_store));
    let status = |core: &MultiRaft| core.status(GROUP).expect("it is open");
    assert_eq!(status(&leader).role, Role::Leader, "its vote is given, and the entry that begins a term is taken");
    assert_eq!(status(&leader).committed, status(&leader).last, "so that reads can be confirmed");

    let before = status(&follower);
    leader.propose(GROUP, vec![7; 100].into(), RequestId(1)).expect("a leader appends");
    converse((&mut leader, &store), (&mut follower, &other_store));
    assert_eq!((status(&follower).last, status(&follower).term), (before.last, before.term), "nothing is appended");
    assert!(status(&leader).committed < status(&leader).last, "nor acknowledged");
    assert_eq!(status(&leader).role, Role::Leader, "and the lead stays");

    follower.set_room(true);
    let work = converse((&mut leader, &store), (&mut follower, &other_store));
    assert!(work.iter().any(|work| matches!(work, Work::Entry { data, .. } if data.len() == 100)), "sent again");
    assert_eq!(status(&leader).committed, status(&leader).last);
}

#[test]
fn a_witness_keeps_what_a_full_replica_lacks_whatever_the_cap() {
    let small = |me| RaftConfig {
        log_keep_bytes: 1_000,
        log_bytes_max: 4_000,
        ..RaftConfig { process: None, boot_nonce: me, ..config() }
    };
    let mut trio = Trio::of(small, Some(3));
    let write = |trio: &mut Trio, leader: usize| {
        for number in 0..100 {
            trio.processes[leader].0.propose(GROUP, vec![1; 100].into(), RequestId(number)).expect("it leads");
            trio.tick();
        }
    };
    let led = |trio: &Trio, members: &[u64]| {
        members.iter().copied().find(|me| trio.status(*me).role == Role::Leader && trio.status(*me).leader.is_some())
    };
    while led(&trio, &[1, 2]).is_none() {
        trio.tick();
    }
    let leader = led(&trio, &[1, 2]).expect("just seen");
    let away = 3 - leader;
    write(&mut trio, leader as usize - 1);
    trio.pass(20);
    assert!(trio.status(3).first > LogIndex(50), "what both have is cut: {}", trio.status(3).first);

    trio.down = Some(ReplicaId(away));
    let before = trio.status(away).last;
    write(&mut trio, leader as usize - 1);
    let acknowledged = trio.status(leader).committed;
    for keeps in [leader, 3] {
        let first = trio.status(keeps).first;
        assert!(first <= before.next(), "{keeps} keeps all that one lacks, which so needs no snapshot: {first}");
    }

    // The only one with all of the state is lost; the witness gives the other the rest.
    trio.down = Some(ReplicaId(leader));
    trio.pass(200);
    let back = trio.status(away);
    assert_eq!(back.role, Role::Leader, "a full replica leads in the end");
    assert!(back.applied >= acknowledged, "with all that was acknowledged: {} of {acknowledged}", back.applied);
    trio.pass(20);
    assert!(trio.status(3).first <= acknowledged.next(), "the lost one may come back: it lacks what was written since");
}

#[test]
fn a_restore_that_takes_long_under_writes_ends() {
    let (store, other_store) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let small = RaftConfig { backlog_bytes_max: 4_000, log_keep_bytes: 1_000, log_bytes_max: 16_000, ..config() };
    let (mut leader, mut learner) =
        (open_as(small.clone(), &store, 1, &[1], 0), open_as(small, &other_store, 2, &[], 0));
    settle(&mut leader, &store);
    leader
        .change_membership(GROUP, &[MemberChange::AddLearner(ReplicaId(2))], RequestId(1))
        .expect("a learner may come");
    let status = |core: &MultiRaft| core.status(GROUP).expect("it is open");
    let (mut messages, mut waits) = (Vec::<Envelope>::new(), std::collections::VecDeque::new());
    let (mut restores, mut restored_at) = (0, None);
    for round in 0..2_000_u64 {
        for message in std::mem::take(&mut messages) {
            let core = if message.to == ReplicaId(1) { &mut leader } else { &mut learner };
            core.step(&message).expect("a replica takes the other's messages");
        }
        if (50..1_500).contains(&round) {
            leader.propose(GROUP, vec![1; 100].into(), RequestId(round)).expect("a leader appends");
        }
        let out = settle(&mut leader, &store);
        for work in &out.work {
            match work {
                Work::Snapshot { .. } => {
                    let applied = status(&leader).applied;
                    leader.snapshot_made(GROUP, applied, vec![1].into()).expect("it is in time");
                }
                Work::Entry { index, .. } | Work::Restore { index, .. } => leader.applied(GROUP, *index),
            }
        }
        messages.extend(out.messages);
        let out = settle(&mut learner, &other_store);
        messages.extend(out.messages);
        restores += out.work.iter().filter(|work| matches!(work, Work::Restore { .. })).count();
        waits.extend(out.work);
        if restores > 0 {
            // In which the leader writes twice what it keeps.
            let until = *restored_at.get_or_insert(round + 400);
            while round >= until
                && let Some(work) = waits.pop_front()
            {
                let (Work::Entry { index, .. } | Work::Restore { index, .. }) = work else { continue };
                learner.applied(GROUP, index);
            }
        }
        if restores > 0 && restored_at.is_some_and(|until| round < until) && round.is_multiple_of(100) {
            let refused = leader.change_membership(GROUP, &[MemberChange::Promote(ReplicaId(2))], RequestId(9_999));
            assert!(
                matches!(refused, Err(ConsensusError::BadChange { .. })),
                "it has the log, and no state: {refused:?}"
            );
        }
        assert!(waits.len() < 100, "what is handed out to one that does not take it is bounded");
        if round.is_multiple_of(5) {
            leader.tick();
            learner.tick();
        }
    }
    assert_eq!(restores, 1, "one snapshot is enough: the rest comes from the log");
    assert_eq!(status(&learner).applied, status(&leader).last, "and all of it does");
    leader.change_membership(GROUP, &[MemberChange::Promote(ReplicaId(2))], RequestId(9_999)).expect("it is whole");
}
