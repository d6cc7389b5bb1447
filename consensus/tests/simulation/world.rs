//! The simulated world: processes, a network that loses and reorders, clients, and what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use shoal_consensus::{Answer, BEACON_GROUP, GroupStatus, MemberChange, RequestId, Role};
use shoal_model::{GroupId, LogIndex, ReplicaId};
use shoal_runtime::Envelope;

use crate::process::{Event, Process, Replica};

const PROCESSES: usize = 5;
const GROUPS: u64 = 6;
/// Groups that begin with two full replicas and a witness.
const WITNESSED: [GroupId; 2] = [GroupId(5), GroupId(6)];

/// What a client waits for.
enum Call {
    Propose { group: GroupId, number: u64 },
    Read { group: GroupId, floor: LogIndex },
    Change { group: GroupId },
}

/// What is known of a group from outside.
#[derive(Default)]
struct Truth {
    /// The first that was applied at an index; all others must be the same.
    chosen: BTreeMap<LogIndex, Bytes>,
    /// Numbers whose proposals were acknowledged.
    acknowledged: BTreeSet<u64>,
    /// Numbers whose proposals were said not to have happened.
    refused: BTreeSet<u64>,
    /// Highest index that was acknowledged: a read that begins later must not be answered below.
    floor: LogIndex,
}

/// What a run met, so that a test can ask whether it met enough.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) acknowledged: usize,
    pub(crate) reads: usize,
    pub(crate) unknown: usize,
    pub(crate) superseded: usize,
    pub(crate) crashes: usize,
    pub(crate) restores: usize,
    pub(crate) changes: usize,
    pub(crate) damages: usize,
    pub(crate) leaders: usize,
    pub(crate) leading_witnesses: usize,
    pub(crate) sleepers_crashed: usize,
    pub(crate) sleeping_leaders_crashed: usize,
    /// Hash of everything that happened.
    pub(crate) trace: u64,
}

pub(crate) struct World {
    rng: SmallRng,
    now: u64,
    processes: Vec<Process>,
    /// Messages by arrival.
    network: BTreeMap<(u64, u64), (usize, Envelope)>,
    sent: u64,
    loss: f64,
    /// Processes on one side of a partition.
    cut_off: BTreeSet<usize>,
    /// Pairs of which the second does not hear the first.
    deaf: BTreeSet<(usize, usize)>,
    /// Until when nobody uses a group.
    quiet_until: BTreeMap<GroupId, u64>,
    down_until: BTreeMap<usize, u64>,
    homes: BTreeMap<(GroupId, ReplicaId), usize>,
    witnesses: BTreeMap<GroupId, Vec<ReplicaId>>,
    truth: BTreeMap<GroupId, Truth>,
    /// Open calls, and the process they were made to.
    calls: BTreeMap<RequestId, (usize, Call)>,
    next_id: u64,
    leaders: BTreeMap<(GroupId, u64), ReplicaId>,
    tally: Tally,
    trace: DefaultHasher,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: SmallRng::seed_from_u64(seed),
            now: 0,
            processes: (0..PROCESSES).map(Process::new).collect(),
            network: BTreeMap::new(),
            sent: 0,
            loss: 0.0,
            cut_off: BTreeSet::new(),
            deaf: BTreeSet::new(),
            quiet_until: BTreeMap::new(),
            down_until: BTreeMap::new(),
            homes: BTreeMap::new(),
            witnesses: BTreeMap::new(),
            truth: BTreeMap::new(),
            calls: BTreeMap::new(),
            next_id: 100,
            leaders: BTreeMap::new(),
            tally: Tally::default(),
            trace: DefaultHasher::new(),
        };
        for group in (1..=GROUPS).map(GroupId) {
            world.place(group);
        }
        world.processes.iter_mut().for_each(Process::start);
        world
    }

    /// Puts three members of a group somewhere, the first a witness in some groups.
    fn place(&mut self, group: GroupId) {
        self.truth.insert(group, Truth::default());
        let first = self.rng.random_range(0..PROCESSES);
        let homes: Vec<usize> = (0..3).map(|i| (first + i) % PROCESSES).collect();
        let members: Vec<ReplicaId> = homes.iter().map(|_| ReplicaId(self.take_id())).collect();
        let witnesses: Vec<ReplicaId> = members.iter().copied().take(usize::from(WITNESSED.contains(&group))).collect();
        self.witnesses.insert(group, witnesses.clone());
        for (&home, &me) in homes.iter().zip(&members) {
            let replica = Replica { me, voters: members.clone(), witnesses: witnesses.clone() };
            self.processes[home].specs.insert(group, replica);
            self.homes.insert((group, me), home);
        }
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Trouble for a while, then peace, then everything must be well.
    pub(crate) fn run(mut self, trouble_ms: u64) -> Tally {
        self.loss = self.rng.random_range(0.0..0.1);
        while self.now < trouble_ms {
            self.step(true);
        }
        self.make_peace();
        self.pass(12_000);
        self.check_end();
        self.check_sleep();
        self.tally.restores = self.processes.iter().map(|process| process.restores).sum();
        self.tally.leaders = self.leaders.len();
        self.tally.trace = self.trace.finish();
        self.tally
    }

    fn step(&mut self, trouble: bool) {
        let before = self.now;
        self.now += self.rng.random_range(1..12);
        self.deliver();
        self.tick(before);
        if trouble {
            self.make_trouble();
        }
        self.revive();
        self.call_clients(trouble);
        for i in 0..PROCESSES {
            let mut events = Vec::new();
            self.processes[i].pump(self.now, &mut self.rng, &mut events);
            for event in events {
                self.take_event(i, event);
            }
        }
        self.watch_leaders();
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.network.first_entry()
            && entry.key().0 <= self.now
        {
            let (to, envelope) = entry.remove();
            if let Some(core) = &mut self.processes[to].core {
                // A group that is gone, or a replica that was replaced, refuses; nothing else may.
                if let Err(error) = core.step(&envelope) {
                    let known = self.processes[to].specs.get(&envelope.group).map(|replica| replica.me);
                    assert_ne!(known, Some(envelope.to), "a replica's message is refused: {error}");
                }
            }
        }
    }

    fn tick(&mut self, before: u64) {
        for (i, process) in self.processes.iter_mut().enumerate() {
            let phase = 17 * i as u64;
            if let Some(core) = &mut process.core
                && (before + phase) / 100 != (self.now + phase) / 100
            {
                core.tick();
            }
        }
    }

    fn make_trouble(&mut self) {
        if self.rng.random_bool(0.002) {
            let victim = self.rng.random_range(0..PROCESSES);
            self.crash(victim);
        }
        if self.rng.random_bool(0.003) {
            self.deaf.clear();
            let pairs = self.rng.random_range(0..4);
            for _ in 0..pairs {
                self.deaf.insert((self.rng.random_range(0..PROCESSES), self.rng.random_range(0..PROCESSES)));
            }
        }
        if self.rng.random_bool(0.0005) {
            (0..PROCESSES).for_each(|victim| self.crash(victim));
        }
        if self.rng.random_bool(0.003) {
            self.cut_off.clear();
            if self.rng.random_bool(0.6) {
                let size = self.rng.random_range(1..3);
                self.cut_off = (0..size).map(|_| self.rng.random_range(0..PROCESSES)).collect();
            }
        }
        let group = GroupId(self.rng.random_range(1..=GROUPS));
        if self.rng.random_bool(0.005) {
            let lasts = self.rng.random_range(500..6_000);
            self.quiet_until.insert(group, self.now + lasts);
        }
        if self.is_quiet(group) {
            return;
        }
        if self.rng.random_bool(0.004) {
            self.transfer(group);
        }
        if self.rng.random_bool(0.01) {
            self.change_members(group);
        }
        if self.rng.random_bool(0.004) {
            self.damage(group);
        }
    }

    fn is_quiet(&self, group: GroupId) -> bool {
        self.quiet_until.get(&group).is_some_and(|until| self.now < *until)
    }

    fn crash(&mut self, victim: usize) {
        if let Some(core) = &self.processes[victim].core {
            let sleepers = (1..=GROUPS).filter_map(|group| core.status(GroupId(group))).filter(|status| status.sleeps);
            for status in sleepers {
                self.tally.sleepers_crashed += 1;
                self.tally.sleeping_leaders_crashed += usize::from(status.role == Role::Leader);
            }
            self.processes[victim].crash(&mut self.rng);
            self.calls.retain(|_, (process, _)| *process != victim);
            let lasts = self.rng.random_range(10..4_000);
            self.down_until.insert(victim, self.now + lasts);
            self.tally.crashes += 1;
            self.trace.write_u64(self.now);
        }
    }

    fn revive(&mut self) {
        let due: Vec<usize> =
            self.down_until.iter().filter(|(_, until)| **until <= self.now).map(|(victim, _)| *victim).collect();
        for victim in due {
            self.down_until.remove(&victim);
            self.processes[victim].start();
        }
    }

    fn make_peace(&mut self) {
        self.loss = 0.0;
        self.cut_off.clear();
        self.deaf.clear();
        self.quiet_until.clear();
        self.down_until.values_mut().for_each(|until| *until = 0);
    }

    fn call_clients(&mut self, trouble: bool) {
        let calls = self.rng.random_range(0..4);
        for _ in 0..calls {
            let group = GroupId(self.rng.random_range(1..=GROUPS));
            let process = self.rng.random_range(0..PROCESSES);
            if self.is_quiet(group) {
                continue;
            }
            let request = RequestId(self.take_id());
            let floor = self.truth[&group].floor;
            let ballast = if self.rng.random_bool(0.02) { 1_500 } else { self.rng.random_range(0..60) };
            let Some(core) = &mut self.processes[process].core else { continue };
            if self.rng.random_bool(0.3) {
                if core.read_index(group, request).is_ok() {
                    self.calls.insert(request, (process, Call::Read { group, floor }));
                }
            } else if trouble {
                let mut data = request.0.to_be_bytes().to_vec();
                data.resize(8 + ballast, 7);
                if core.propose(group, data.into(), request).is_ok() {
                    self.calls.insert(request, (process, Call::Propose { group, number: request.0 }));
                }
            }
        }
    }

    /// The leader of a group with the highest term, and where it is.
    fn leader(&self, group: GroupId) -> Option<(usize, GroupStatus)> {
        let all = self.processes.iter().filter_map(|process| {
            let status = process.core.as_ref()?.status(group)?;
            (status.role == Role::Leader).then_some((process.number, status))
        });
        all.max_by_key(|(_, status)| status.term)
    }

    fn transfer(&mut self, group: GroupId) {
        if let Some((at, status)) = self.leader(group) {
            let to = status.members.voters[self.rng.random_range(0..status.members.voters.len())];
            if let Some(core) = &mut self.processes[at].core {
                drop(core.transfer_leader(group, to));
            }
        }
    }

    /// Damages the state of one replica, which asks for a snapshot; another must be whole.
    fn damage(&mut self, group: GroupId) {
        let victim = self.rng.random_range(0..PROCESSES);
        let holds = |process: &Process| process.specs.get(&group).is_some_and(|replica| !replica.is_witness());
        let is_whole = |process: &Process| {
            let starves = process.core.as_ref().and_then(|core| core.status(group)).is_none_or(|status| status.starves);
            !starves && process.machines.get(&group).is_some_and(|machine| !machine.damaged)
        };
        let others_are_whole = self.processes.iter().filter(|process| holds(process)).all(is_whole);
        if others_are_whole && self.processes[victim].damage(group) {
            self.tally.damages += 1;
        }
    }

    /// Adds a learner, promotes one (perhaps in place of a voter), or removes a member.
    fn change_members(&mut self, group: GroupId) {
        let Some((at, status)) = self.leader(group) else { return };
        let members = &status.members;
        let others: Vec<ReplicaId> =
            members.voters.iter().chain(&members.learners).copied().filter(|id| *id != status.me).collect();
        let mut changes = Vec::new();
        if let Some(&learner) = members.learners.first() {
            if self.rng.random_bool(0.8) {
                changes.push(MemberChange::Promote(learner));
            }
            if members.voters.len() > 2 && self.rng.random_bool(0.6) {
                changes.extend(others.first().filter(|id| **id != learner).map(|id| MemberChange::Remove(*id)));
            }
        } else if members.voters.len() > 3 || (members.voters.len() > 1 && self.rng.random_bool(0.2)) {
            changes.push(MemberChange::Remove(others[self.rng.random_range(0..others.len())]));
        } else if let Some(learner) = self.new_learner(group, &status) {
            changes.push(MemberChange::AddLearner(learner));
        }
        let request = RequestId(self.take_id());
        let hand_over = self.rng.random_bool(0.3);
        let Some(core) = &mut self.processes[at].core else { return };
        if core.change_membership(group, &changes, request).is_ok() {
            self.calls.insert(request, (at, Call::Change { group }));
            // One that is on its way out may lead for a moment.
            if let (true, [_, MemberChange::Remove(leaving)]) = (hand_over, &changes[..])
                && !self.witnesses[&group].contains(leaving)
            {
                core.transfer_leader(group, *leaving).expect("it still has a vote");
            }
        }
    }

    /// A replica on a process that has no member yet.
    fn new_learner(&mut self, group: GroupId, status: &GroupStatus) -> Option<ReplicaId> {
        let is_member = |id: &ReplicaId| status.members.voters.contains(id) || status.members.learners.contains(id);
        let first = self.rng.random_range(0..PROCESSES);
        let home = (0..PROCESSES).map(|i| (first + i) % PROCESSES).find(|home| {
            let process = &self.processes[*home];
            process.core.is_some() && !process.specs.get(&group).is_some_and(|replica| is_member(&replica.me))
        })?;
        if let Some(replica) = self.processes[home].specs.get(&group) {
            return Some(replica.me);
        }
        let me = ReplicaId(self.take_id());
        self.homes.insert((group, me), home);
        if WITNESSED.contains(&group) && !self.witnesses[&group].iter().any(is_member) {
            self.name_witness(group, me);
        }
        let witnesses = self.witnesses[&group].clone();
        self.processes[home].specs.insert(group, Replica { me, voters: Vec::new(), witnesses });
        if !self.processes[home].try_open(group) {
            self.processes[home].specs.remove(&group);
            return None;
        }
        Some(me)
    }

    /// Tells all replicas of a group that one that is to join is a witness.
    fn name_witness(&mut self, group: GroupId, witness: ReplicaId) {
        let witnesses = self.witnesses.entry(group).or_default();
        witnesses.push(witness);
        for process in &mut self.processes {
            let Some(replica) = process.specs.get_mut(&group) else { continue };
            replica.witnesses.clone_from(witnesses);
            if let Some(core) = &mut process.core {
                // It may wait to be opened.
                drop(core.set_witnesses(group, witnesses));
            }
        }
    }

    fn take_event(&mut self, at: usize, event: Event) {
        match event {
            Event::Send(envelope) => self.send(at, envelope),
            Event::Answer(request, answer) => self.take_answer(at, request, answer),
            Event::Applied { group, index, data, request } => {
                self.trace.write_u64(self.now ^ index.0 << 32 ^ group.0 << 60);
                let truth = self.truth.get_mut(&group).expect("a known group");
                let chosen = truth.chosen.entry(index).or_insert_with(|| data.clone());
                assert_eq!(*chosen, data, "group {group} agrees on what is at {index}");
                let call = request.and_then(|request| self.calls.remove(&request));
                if let Some((_, Call::Propose { number, .. })) = call {
                    assert_eq!(number, crate::machine::number(&data), "a proposal is answered by its own entry");
                    truth.acknowledged.insert(number);
                    truth.floor = truth.floor.max(index);
                    self.tally.acknowledged += 1;
                }
            }
        }
    }

    fn take_answer(&mut self, at: usize, request: RequestId, answer: Answer) {
        let Some((_, call)) = self.calls.remove(&request) else { return };
        match (call, answer) {
            (Call::Read { group, floor }, Answer::ReadAt(index)) => {
                assert!(index >= floor, "read of group {group} at {index} misses what was acknowledged at {floor}");
                self.tally.reads += 1;
            }
            (Call::Read { .. }, Answer::ReadExpired) => {}
            (Call::Propose { .. }, Answer::Unknown) => self.tally.unknown += 1,
            (Call::Propose { group, number }, Answer::Superseded) => {
                self.tally.superseded += 1;
                self.truth.get_mut(&group).expect("a known group").refused.insert(number);
            }
            (Call::Change { group }, Answer::Changed) => {
                self.tally.changes += 1;
                self.clear_away(at, group);
            }
            (Call::Change { .. }, Answer::Unknown | Answer::Superseded) => {}
            (_, answer) => panic!("{answer:?} is no answer to that"),
        }
    }

    /// Destroys the replicas that a finished change has left out.
    fn clear_away(&mut self, at: usize, group: GroupId) {
        let status = self.processes[at].core.as_ref().and_then(|core| core.status(group)).expect("it just answered");
        for process in &mut self.processes {
            let Some(replica) = process.specs.get(&group) else { continue };
            let gone = !status.members.voters.contains(&replica.me) && !status.members.learners.contains(&replica.me);
            if gone && process.core.is_some() {
                process.destroy(group);
            }
        }
    }

    fn send(&mut self, from: usize, envelope: Envelope) {
        let home = match envelope.group {
            BEACON_GROUP => usize::try_from(envelope.to.0 - 1).ok(),
            group => self.homes.get(&(group, envelope.to)).copied(),
        };
        let Some(to) = home else { return };
        let parted = self.cut_off.contains(&from) != self.cut_off.contains(&to);
        if parted || self.deaf.contains(&(from, to)) || self.rng.random_bool(self.loss) {
            return;
        }
        self.sent += 1;
        let slowest = if self.rng.random_bool(0.05) { 400 } else { 20 };
        let delay = self.rng.random_range(1..slowest);
        self.network.insert((self.now + delay, self.sent), (to, envelope));
    }

    /// At most one leader per term, and what two replicas say of one term's leader agrees.
    fn watch_leaders(&mut self) {
        for process in &self.processes {
            let Some(core) = &process.core else { continue };
            for group in (1..=GROUPS).map(GroupId) {
                let Some(status) = core.status(group) else { continue };
                if let Some(leader) = status.leader {
                    let known = *self.leaders.entry((group, status.term)).or_insert_with(|| {
                        self.tally.leading_witnesses += usize::from(self.witnesses[&group].contains(&leader));
                        leader
                    });
                    assert_eq!(known, leader, "group {group} has one leader in term {}", status.term);
                }
            }
        }
    }

    /// Left alone, all members fall asleep; then a leader's process ends, and others take its groups over.
    fn check_sleep(&mut self) {
        self.quiet_until.extend((1..=GROUPS).map(|group| (GroupId(group), u64::MAX)));
        self.pass(5_000);
        for (process, status) in self.members() {
            assert!(status.sleeps, "in peace a member in process {process} falls asleep: {status:?}");
        }
        let (victim, _) = self.leader(GroupId(1)).expect("in peace every group has a leader");
        let with_quorum: Vec<GroupId> =
            (1..=GROUPS).map(GroupId).filter(|group| self.has_quorum_without(*group, victim)).collect();
        self.processes[victim].crash(&mut self.rng);
        // The slowest stands after 17 ticks, a witness after 26, and two may stand at once and try again.
        self.pass(6_000);
        for group in with_quorum {
            assert!(self.leader(group).is_some(), "group {group} has a leader again");
        }
        self.processes[victim].start();
        self.pass(6_000);
        for (process, status) in self.members() {
            assert!(status.sleeps, "with all back a member in process {process} sleeps: {status:?}");
        }
        self.quiet_until.clear();
        let reads = self.tally.reads;
        self.pass(1_500);
        assert!(self.tally.reads > reads + 20, "all answer at once");
        self.check_end();
    }

    fn has_quorum_without(&self, group: GroupId, victim: usize) -> bool {
        let (_, led) = self.leader(group).expect("in peace every group has a leader");
        let voters = &led.members.voters;
        2 * voters.iter().filter(|id| self.homes[&(group, **id)] != victim).count() > voters.len()
    }

    /// Lets time pass in peace.
    fn pass(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.now < until {
            self.step(false);
        }
    }

    /// Members that run, and their processes.
    fn members(&self) -> Vec<(usize, GroupStatus)> {
        let mut members = Vec::new();
        for group in (1..=GROUPS).map(GroupId) {
            let Some((_, led)) = self.leader(group) else { continue };
            for member in led.members.voters.iter().chain(&led.members.learners) {
                let process = &self.processes[self.homes[&(group, *member)]];
                let status = process.core.as_ref().and_then(|core| core.status(group));
                members.extend(status.map(|status| (process.number, status)));
            }
        }
        members
    }

    fn check_end(&self) {
        for group in (1..=GROUPS).map(GroupId) {
            let (at, status) = self.leader(group).expect("in peace every group has a leader");
            let machine = self.processes[at].machines.get(&group).expect("in peace a full replica leads");
            assert_eq!(machine.applied, status.committed, "in peace all is applied");
            let truth = &self.truth[&group];
            let numbers: BTreeSet<u64> = machine.numbers.iter().copied().collect();
            assert_eq!(numbers.len(), machine.numbers.len(), "no proposal of group {group} is applied twice");
            let lost: Vec<_> = truth.acknowledged.difference(&numbers).collect();
            assert!(lost.is_empty(), "group {group} lost acknowledged proposals {lost:?}");
            let undead: Vec<_> = truth.refused.intersection(&numbers).collect();
            assert!(undead.is_empty(), "group {group} applied refused proposals {undead:?}");
            self.check_members(group, &status);
        }
        let open = self.calls.values().filter(|(at, call)| self.is_read_of_member(*at, call)).count();
        assert!(open < 30, "in peace reads are answered but for the last ones, and {open} are open");
        let stuck = self.calls.values().filter(|(_, call)| matches!(call, Call::Propose { .. })).count();
        assert_eq!(stuck, 0, "in peace every proposal has an answer");
    }

    /// Replicas that are no longer members wait for a leader in vain.
    fn is_read_of_member(&self, at: usize, call: &Call) -> bool {
        let Call::Read { group, .. } = call else { return false };
        let (_, status) = self.leader(*group).expect("in peace every group has a leader");
        let me = self.processes[at].specs.get(group).map(|replica| replica.me);
        me.is_some_and(|me| status.members.voters.contains(&me) || status.members.learners.contains(&me))
    }

    fn check_members(&self, group: GroupId, led: &GroupStatus) {
        assert!(led.members.leaving.is_empty(), "in peace group {group} leaves its joint membership");
        for member in led.members.voters.iter().chain(&led.members.learners) {
            let process = &self.processes[self.homes[&(group, *member)]];
            let status = process.core.as_ref().and_then(|core| core.status(group)).expect("in peace all run");
            if process.specs[&group].is_witness() {
                assert_eq!(status.committed, led.committed, "witness {member} of group {group} caught up");
                continue;
            }
            let machine = &process.machines[&group];
            assert!(!status.starves && !machine.damaged, "replica {member} of group {group} is whole again");
            let leader = &self.processes[self.homes[&(group, led.me)]].machines[&group];
            assert_eq!(machine.applied, leader.applied, "replica {member} of group {group} caught up");
            assert_eq!(machine.numbers, leader.numbers, "replica {member} of group {group} has the same state");
        }
    }
}
