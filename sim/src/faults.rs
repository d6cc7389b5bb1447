//! Trouble, as much as a cluster is to bear: at most one of the three copies of a shard is damaged or lost at a time, and
//! the next not before that is made good. Crashes, pauses and partitions come as they like.

use std::fmt;

use bytes::Bytes;
use rand::Rng;
use rand::seq::IndexedRandom;
use shoal_consensus::{Members, Role as Standing_};
use shoal_coordinator::simulation::{GROUP, stored};
use shoal_model::planted::{Bug, is_planted};
use shoal_model::{ShardId, ShardReplica, Standing, StoreId};
use shoal_node::simulation::group_of;
use shoal_runtime::Table;

use crate::event::Event;
use crate::network::Endpoint;
use crate::process::{Process, Role};
use crate::queue::{MS, SEC};
use crate::world::World;

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// A process loses power, and with it what it had not synced.
    Crash,
    /// All processes do, at once.
    PowerCut,
    /// A process stands still for a while, and finds old messages then.
    Pause,
    /// Two sides cannot reach each other.
    Partition,
    /// One side cannot be heard by the other.
    OneWay,
    /// Each process reaches its neighbours only.
    Ring,
    /// Many messages are lost.
    Loss,
    /// Many messages are late.
    Late,
    /// One process hears the others late, and out of order, while clients reach it as ever.
    Lag,
    /// A disk takes many times longer.
    SlowDisk,
    /// A node loses its disk, and comes back as another in its place.
    Wipe,
    /// A coordinator loses its disk, and comes back as another member.
    WipeCoordinator,
    /// A byte of a stored record changes.
    Damage,
    /// A replica is told that its content differs.
    Rebuild,
    /// Another replica is to lead.
    Transfer,
    /// A collection comes or goes.
    Churn,
}

/// Trouble that is over.
pub(crate) enum Mend {
    Links,
    Lag,
    Loss,
    Disk(usize),
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Crash,
        Self::PowerCut,
        Self::Pause,
        Self::Partition,
        Self::OneWay,
        Self::Ring,
        Self::Loss,
        Self::Late,
        Self::Lag,
        Self::SlowDisk,
        Self::Wipe,
        Self::WipeCoordinator,
        Self::Damage,
        Self::Rebuild,
        Self::Transfer,
        Self::Churn,
    ];
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl World {
    /// Makes some trouble, and plans the next.
    pub(crate) fn make_trouble(&mut self) {
        if self.is_over {
            return;
        }
        let kinds: Vec<FaultKind> = self.out.shape.faults.iter().copied().collect();
        let next = self.out.rng.random_range(0..2 * self.out.shape.fault_every_ns) / kinds.len().clamp(1, 4) as u64;
        self.out.after(next + 10 * MS, Event::Fault);
        let Some(kind) = kinds.choose(&mut self.out.rng).copied() else { return };
        if self.strike(kind) {
            self.out.trace.tell(self.out.now, || format!("trouble: {kind}"));
            self.out.trace.note(self.out.now, 2_000, kind as u64);
            *self.out.tally.faults.entry(kind).or_default() += 1;
        }
    }

    fn strike(&mut self, kind: FaultKind) -> bool {
        let victim = self.out.rng.random_range(0..self.processes.len());
        let lasts = self.out.rng.random_range(SEC / 2..15 * SEC);
        match kind {
            FaultKind::Crash => {
                let lasts = self.out.rng.random_range(SEC / 50..12 * SEC);
                self.crash(victim, lasts)
            }
            FaultKind::PowerCut => {
                for number in 0..self.processes.len() {
                    let lasts = self.out.rng.random_range(SEC / 50..5 * SEC);
                    self.crash(number, lasts);
                }
                true
            }
            FaultKind::Pause => {
                let is_due = self.processes[victim].is_up() && !self.processes[victim].paused;
                if is_due {
                    self.processes[victim].pause();
                    self.out.after(lasts, Event::Resume { process: victim });
                }
                is_due
            }
            FaultKind::Partition => self.part(true, lasts),
            FaultKind::OneWay => self.part(false, lasts),
            FaultKind::Ring => {
                let all: Vec<Endpoint> = (0..self.processes.len()).map(Endpoint::Process).collect();
                for (i, from) in all.iter().enumerate() {
                    for (j, to) in all.iter().enumerate() {
                        let apart = i.abs_diff(j).min(all.len() - i.abs_diff(j));
                        if apart > 1 {
                            self.out.network.cut.insert((*from, *to));
                        }
                    }
                }
                self.out.after(lasts, Event::Mend(Mend::Links));
                true
            }
            FaultKind::Loss => {
                self.out.network.loss = self.out.rng.random_range(0.1..0.6);
                self.out.after(lasts, Event::Mend(Mend::Loss));
                true
            }
            FaultKind::Late => {
                self.out.network.late = self.out.rng.random_range(0.1..0.7);
                self.out.network.late_ms = self.out.rng.random_range(100..4_000);
                self.out.after(lasts, Event::Mend(Mend::Loss));
                true
            }
            FaultKind::Lag => {
                let late = self.out.rng.random_range(300..4_000) * MS;
                let others = (0..self.processes.len()).filter(|number| *number != victim);
                let links = others.map(|other| (Endpoint::Process(other), Endpoint::Process(victim)));
                self.out.network.slow.extend(links.map(|link| (link, late)));
                self.out.after(lasts, Event::Mend(Mend::Lag));
                true
            }
            FaultKind::SlowDisk => {
                self.processes[victim].host.slow = self.out.rng.random_range(5..100);
                self.out.after(lasts, Event::Mend(Mend::Disk(victim)));
                true
            }
            FaultKind::Wipe => self.wipe(),
            FaultKind::WipeCoordinator => self.wipe_coordinator(),
            FaultKind::Damage => self.damage(),
            FaultKind::Rebuild => self.rebuild(),
            FaultKind::Transfer => self.transfer(),
            FaultKind::Churn => {
                self.admin.wants_churn += 1;
                true
            }
        }
    }

    pub(crate) fn crash(&mut self, victim: usize, lasts: u64) -> bool {
        if !self.processes[victim].is_up() {
            return false;
        }
        self.processes[victim].crash(&mut self.out);
        self.out.after(lasts, Event::Start { process: victim });
        true
    }

    fn part(&mut self, both_ways: bool, lasts: u64) -> bool {
        let all = (0..self.processes.len()).map(Endpoint::Process);
        let all = all.chain((0..=self.out.shape.clients).map(Endpoint::Client));
        let (mut one, mut other) = (Vec::new(), Vec::new());
        let share = self.out.rng.random_range(0.1..0.6);
        for endpoint in all {
            if self.out.rng.random_bool(share) { one.push(endpoint) } else { other.push(endpoint) }
        }
        self.out.network.part(&one, &other, both_ways);
        self.out.after(lasts, Event::Mend(Mend::Links));
        true
    }

    pub(crate) fn mend(&mut self, what: &Mend) {
        match what {
            Mend::Links => self.out.network.cut.clear(),
            Mend::Lag => self.out.network.slow.clear(),
            Mend::Loss => self.usual_network(),
            Mend::Disk(number) => self.processes[*number].host.slow = 1,
        }
    }

    pub(crate) fn usual_network(&mut self) {
        let (shape, network) = (&self.out.shape, &mut self.out.network);
        (network.loss, network.late, network.late_ms, network.doubled) =
            (shape.loss, shape.late, shape.late_ms, shape.doubled);
    }

    /// Whether every shard has all of its copies, whole and in their places, as far as anybody but the victim could tell.
    fn all_is_whole(&self) -> bool {
        let map = &self.out.truth.newest;
        let settled = map.shards.values().all(|shard| {
            shard.replicas.iter().all(|replica| {
                let process = map.nodes.get(&replica.node).and_then(|node| crate::node::process_at(&node.address));
                let holds = process.is_some_and(|number| self.holds(number, replica, shard.id));
                replica.standing == Standing::Member && holds
            })
        });
        settled && self.damaged.is_none() && map.nodes.values().all(|node| !node.replaced)
    }

    /// Whether a replica is open there, with its content if it is to have any.
    fn holds(&self, number: usize, replica: &ShardReplica, shard: ShardId) -> bool {
        let Role::Node(own) = &self.processes[number].role else { return false };
        let is_there = if replica.witness { own.witnesses.contains(&shard) } else { self.has_content(number, shard) };
        own.member == Some(replica.node) && is_there
    }

    /// Whether a replica that has points is open there, and waits for no snapshot of them: one whose content was damaged is
    /// open again after its next restart, and empty.
    fn has_content(&self, number: usize, shard: ShardId) -> bool {
        let Process { role: Role::Node(node), host, .. } = &self.processes[number] else { return false };
        let is_open = node.replicas.get(&shard).is_some_and(|replica| replica.mode.is_open());
        let status = host.core.as_ref().and_then(|core| core.status(group_of(shard)));
        is_open && status.is_some_and(|status| !status.starves)
    }

    /// A node that holds something.
    fn some_node(&mut self) -> Option<usize> {
        let nodes: Vec<usize> = (0..self.processes.len())
            .filter(|number| match &self.processes[*number].role {
                Role::Node(node) => !node.replicas.is_empty(),
                Role::Coordinator(_) => false,
            })
            .collect();
        nodes.choose(&mut self.out.rng).copied()
    }

    fn wipe(&mut self) -> bool {
        let Some(victim) = self.some_node().filter(|_| self.all_is_whole()) else { return false };
        let store = StoreId(self.out.rng.random());
        let lasts = self.out.rng.random_range(SEC / 10..8 * SEC);
        self.processes[victim].crash(&mut self.out);
        let folder = self.new_folder(victim);
        let process = &mut self.processes[victim];
        process.host.disk = Default::default();
        if let Role::Node(node) = &mut process.role {
            node.folder = folder;
            if !is_planted(Bug::EmptiedDiskKeepsIdentity) {
                node.replaces = Some(node.store_id);
                node.store_id = store;
                node.member = None;
            }
        }
        self.out.after(lasts, Event::Start { process: victim });
        true
    }

    /// Whether the coordinators are all members as what they are, as far as one that leads has agreed with others.
    fn coordinators_are_whole(&self) -> bool {
        let coordinators = &self.processes[..self.out.shape.coordinators];
        let is_whole = |members: &Members| {
            let has_vote = |process: &Process| {
                let replica = stored(&*process.host.disk).ok().flatten();
                replica.is_some_and(|replica| members.voters.contains(&replica))
            };
            members.learners.is_empty() && members.leaving.is_empty() && coordinators.iter().all(has_vote)
        };
        let statuses = coordinators.iter().filter_map(|process| process.host.core.as_ref()?.status(GROUP));
        let led = statuses.filter(|status| status.role == Standing_::Leader).max_by_key(|status| status.term);
        led.is_some_and(|status| is_whole(&status.members))
    }

    fn wipe_coordinator(&mut self) -> bool {
        if !self.coordinators_are_whole() {
            return false;
        }
        let victim = self.out.rng.random_range(0..self.out.shape.coordinators);
        let lasts = self.out.rng.random_range(SEC / 10..8 * SEC);
        self.processes[victim].crash(&mut self.out);
        self.processes[victim].host.disk = Default::default();
        self.out.after(lasts, Event::Start { process: victim });
        true
    }

    fn damage(&mut self) -> bool {
        let Some(victim) = self.some_node().filter(|_| self.all_is_whole()) else { return false };
        let Role::Node(node) = &self.processes[victim].role else { return false };
        let shards: Vec<ShardId> = node.replicas.keys().copied().collect();
        let Some(shard) = shards.choose(&mut self.out.rng).copied() else { return false };
        let copies = self.out.truth.newest.shards.get(&shard).map_or(0, |shard| shard.replicas.len());
        let table = if self.out.rng.random_bool(0.6) { Table::Vectors } else { Table::Payload };
        let bound = |number: u64| Bytes::copy_from_slice(&number.to_be_bytes());
        let keys = self.processes[victim].host.disk.keys(table, &bound(shard.0), &bound(shard.0 + 1));
        let Some(key) = keys.choose(&mut self.out.rng).filter(|_| copies >= 3) else { return false };
        let (byte, bit) = (self.out.rng.random_range(0..200), self.out.rng.random_range(0..8));
        if !self.processes[victim].host.disk.damage(table, key, byte, bit) {
            return false;
        }
        self.out.trace.tell(self.out.now, || format!("process {victim}: {table:?} of shard {shard} is damaged"));
        self.damaged = Some((victim, shard, self.processes[victim].host.boot));
        if self.out.rng.random_bool(0.6) {
            let lasts = self.out.rng.random_range(SEC / 50..5 * SEC);
            self.crash(victim, lasts);
        }
        true
    }

    /// Whether what was damaged is whole again: it was found at a start, and restored since.
    pub(crate) fn look_at_damage(&mut self) {
        let Some((victim, shard, boot)) = self.damaged else { return };
        let is_gone = !self.out.truth.newest.shards.contains_key(&shard);
        if is_gone || (self.processes[victim].host.boot > boot && self.has_content(victim, shard)) {
            self.damaged = None;
        }
    }

    fn rebuild(&mut self) -> bool {
        let Some(victim) = self.some_node().filter(|_| self.all_is_whole()) else { return false };
        let Process { host, role: Role::Node(node), .. } = &mut self.processes[victim] else { return false };
        let shards: Vec<ShardId> = node.replicas.keys().copied().collect();
        let Some(shard) = shards.choose(&mut self.out.rng).copied() else { return false };
        let Some(digest) = node.replicas.get(&shard).and_then(|replica| replica.digests.back().copied()) else {
            return false;
        };
        if node.peers_of(shard).len() < 2 {
            return false;
        }
        node.take_rebuild(shard, digest, host, &mut self.out);
        self.processes[victim].pump(&mut self.out);
        true
    }

    fn transfer(&mut self) -> bool {
        let Some(victim) = self.some_node() else { return false };
        let Process { host, role: Role::Node(node), .. } = &mut self.processes[victim] else { return false };
        let Some(core) = &mut host.core else { return false };
        for shard in node.replicas.keys() {
            let Some(status) = core.status(group_of(*shard)).filter(|status| status.role == Standing_::Leader) else {
                continue;
            };
            let others: Vec<_> = status.members.voters.iter().copied().filter(|id| *id != status.me).collect();
            if let Some(heir) = others.choose(&mut self.out.rng) {
                let taken = core.transfer_leader(group_of(*shard), *heir).is_ok();
                self.processes[victim].pump(&mut self.out);
                return taken;
            }
        }
        false
    }
}
