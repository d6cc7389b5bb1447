//! A coordinator: the map behind its log, and what is asked of it. Mirrors `shoal_coordinator`'s `machine::apply_all`,
//! `beginning`, `joining`, `leadership`, `collections`, `internal` and `coordinator::duties`.

use std::collections::{BTreeMap, VecDeque};

use rand::Rng;
use rand::seq::IndexedRandom;
use shoal_consensus::{Answer as Fate, ConsensusError, GroupSpec, Role as Standing, StateMachine};
use shoal_coordinator::simulation::{
    Beginning, GROUP, MapMachine, Step, Voters, coordinator_of, decide, founder, has_begun, is_settled, newcomer,
    next_step, note, settled, stored,
};
use shoal_model::{
    ClusterId, CollectionSpec, Command, LogIndex, MapError, NodeId, OperationId, ReplicaId, Reply, ShardId, StoreId,
    placement,
};
use shoal_proto::map::encode_command;

use crate::event::{Answer, Call, CallId, Failure, Outside, Own};
use crate::network::Endpoint;
use crate::process::{Host, Item, Waiting};
use crate::queue::{MS, Ns, SEC};

/// How often a leader takes stock.
const LOOK_EVERY: Ns = 250 * MS;
/// Silence after which what a node said is no news.
const HEARTBEAT_TIMEOUT: Ns = 3 * SEC;
/// How long others may take to say whether the cluster has begun, before all are asked again.
const ASK_EVERY: Ns = 300 * MS;
/// How long a wish to be a member counts.
const WISH_LASTS: Ns = 5 * SEC;
/// Plans that may go stale before a creation gives up.
const PLANS_MAX: u32 = 5;

/// Something that ends with a command.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    Register { to: (Endpoint, CallId), store: StoreId, replaces: Option<StoreId>, address: String },
    Create { to: (Endpoint, CallId), operation: OperationId, spec: CollectionSpec, plans: u32 },
    Drop { to: (Endpoint, CallId), operation: OperationId, name: String },
    Name,
    Settle,
}

pub(crate) struct Coordinator {
    members: usize,
    machine: MapMachine,
    inbox: VecDeque<Item>,
    applying: bool,
    /// What nodes that lead groups have said, and when.
    heard: BTreeMap<NodeId, (Ns, Voters)>,
    /// Tasks that wait for a position to be applied.
    parked: Vec<(LogIndex, Task)>,
    naming: bool,
    settling: usize,
    /// The replica that its store is; none while it has to find out.
    pub(crate) replica: Option<ReplicaId>,
    /// Who was asked whether the cluster has begun, and what they have said in this round.
    asked: BTreeMap<CallId, u64>,
    said: BTreeMap<u64, bool>,
    /// Replicas that wish to be members, by their coordinators.
    wishes: BTreeMap<u64, (ReplicaId, Ns)>,
}

impl Coordinator {
    pub(crate) fn new(members: usize) -> Self {
        Self {
            members,
            machine: MapMachine::default(),
            inbox: VecDeque::new(),
            applying: false,
            heard: BTreeMap::new(),
            parked: Vec::new(),
            naming: false,
            settling: 0,
            replica: None,
            asked: BTreeMap::new(),
            said: BTreeMap::new(),
            wishes: BTreeMap::new(),
        }
    }

    pub(crate) fn lose_power(&mut self) {
        *self = Self::new(self.members);
    }

    pub(crate) fn start(&mut self, host: &mut Host, out: &mut Outside) {
        let machine = MapMachine::open(&*host.disk);
        self.machine = machine.expect("what was written is read back");
        match stored(&*host.disk).expect("what was written is read back") {
            Some(replica) => self.open(replica, host, out),
            None => self.begin(host, out),
        }
        out.own(host.id(), LOOK_EVERY, Own::Duties);
    }

    /// Mirrors `coordinator::open`.
    fn open(&mut self, replica: ReplicaId, host: &mut Host, out: &mut Outside) {
        let founders = (1..=self.members as u64).map(founder);
        let spec = GroupSpec {
            group: GROUP,
            me: replica,
            voters: founders.filter(|_| replica == founder(own_number(host))).collect(),
            witnesses: Vec::new(),
            applied: self.machine.applied(),
            state_machine: StateMachine::Stored,
            state_lost: false,
        };
        if let Some(core) = &mut host.core
            && let Err(error) = core.open_group(&spec)
        {
            out.truth.breaks(format!("coordinator {} cannot open its group: {error}", host.number));
        }
        self.replica = Some(replica);
    }

    /// Mirrors `beginning::find_out` and `coordinator::begin`: one round of asking.
    fn begin(&mut self, host: &mut Host, out: &mut Outside) {
        let me = own_number(host);
        let others: Vec<u64> = (1..=self.members as u64).filter(|id| *id != me).collect();
        match decide(&others, &self.said) {
            Beginning::Found => self.open(founder(me), host, out),
            Beginning::Join => {
                let replica = newcomer(me, out.rng.random());
                out.trace.tell(out.now, || format!("coordinator {} joins as replica {replica}", host.number));
                note(&*host.disk, replica).expect("the simulated disk does not fail");
                self.open(replica, host, out);
            }
            Beginning::Wait(_) => {
                self.said.clear();
                for other in others {
                    let call = out.call(host.me(), process_of(founder(other)), Call::Beginning);
                    self.asked.insert(call, other);
                }
                out.own(host.id(), ASK_EVERY, Own::Begin);
            }
        }
    }

    pub(crate) fn answered(&mut self, id: CallId, answer: &Answer) {
        if let (Some(who), Answer::HasBegun(has_begun)) = (self.asked.remove(&id), answer) {
            self.said.insert(who, *has_begun);
        }
    }

    pub(crate) fn own(&mut self, own: &Own, host: &mut Host, out: &mut Outside) {
        match own {
            Own::Begin if self.replica.is_none() => self.begin(host, out),
            Own::MapApply => self.apply(host, out),
            Own::MapSnapshot => {
                if let Some(core) = &mut host.core {
                    // Too late is no error: the log may have moved on.
                    drop(core.snapshot_made(GROUP, self.machine.applied(), self.machine.encode()));
                }
            }
            Own::Duties => {
                self.duties(host, out);
                out.own(host.id(), LOOK_EVERY, Own::Duties);
            }
            _ => {}
        }
    }

    pub(crate) fn hand(&mut self, item: Item, host: &mut Host, out: &mut Outside) {
        if matches!(item, Item::Snapshot) {
            let delay = out.short(20 * MS);
            out.own(host.id(), delay, Own::MapSnapshot);
            return;
        }
        self.inbox.push_back(item);
        self.apply_soon(host, out);
    }

    fn apply_soon(&mut self, host: &Host, out: &mut Outside) {
        if !std::mem::replace(&mut self.applying, true) {
            let delay = out.short(out.shape.apply_ns);
            out.own(host.id(), delay, Own::MapApply);
        }
    }

    /// Mirrors one turn of `machine::apply_all`.
    fn apply(&mut self, host: &mut Host, out: &mut Outside) {
        self.applying = false;
        let Some(item) = self.inbox.pop_front() else { return };
        let mut answer = None;
        match item {
            Item::Entry { index, data, waiting } => match self.machine.apply(index, data) {
                Ok(applied) => answer = waiting.zip(applied),
                Err(error) => out.truth.breaks(format!("coordinator {} stops: {error}", host.number)),
            },
            Item::Restore { data, .. } => match MapMachine::decode(&data) {
                Ok(machine) => self.machine = machine,
                Err(error) => out.truth.breaks(format!("coordinator {} stops: {error}", host.number)),
            },
            Item::Snapshot => {}
        }
        if let Err(error) = self.machine.save(&*host.disk) {
            out.truth.breaks(format!("coordinator {} stops: {error}", host.number));
        }
        out.truth.map(self.machine.applied(), &self.machine.map(), &self.machine.encode());
        if let Some(core) = &mut host.core {
            core.applied(GROUP, self.machine.applied());
        }
        if let Some((waiting, applied)) = answer {
            self.finish(waiting, applied.reply, host, out);
        }
        let at = self.machine.applied();
        for (_, task) in self.parked.extract_if(.., |(index, _)| *index <= at).collect::<Vec<_>>() {
            self.go_on(task, host, out);
        }
        if !self.inbox.is_empty() {
            self.apply_soon(host, out);
        }
    }

    /// A command was applied here.
    fn finish(&mut self, waiting: Waiting, reply: Result<Reply, MapError>, host: &mut Host, out: &mut Outside) {
        let Waiting::Command(task) = waiting else { return };
        match task {
            Task::Create { to, operation, spec, plans }
                if reply == Err(MapError::StalePlacement) && plans < PLANS_MAX =>
            {
                self.ask_fresh(Task::Create { to, operation, spec, plans: plans + 1 }, host, out);
            }
            Task::Register { to, .. } | Task::Create { to, .. } | Task::Drop { to, .. } => {
                out.answer(host.number, to, Answer::Replied(reply));
            }
            Task::Name => self.naming = false,
            Task::Settle => self.settling -= 1,
        }
    }

    /// A proposal or read has ended without being applied.
    pub(crate) fn decided(&mut self, waiting: Waiting, fate: Fate, host: &mut Host, out: &mut Outside) {
        match (waiting, fate) {
            (Waiting::Fresh(task), Fate::ReadAt(index)) if self.machine.applied() >= index => {
                self.go_on(task, host, out);
            }
            (Waiting::Fresh(task), Fate::ReadAt(index)) => self.parked.push((index, task)),
            (Waiting::Fresh(task) | Waiting::Command(task), _) => self.give_up(&task, host, out),
            (Waiting::Change, Fate::Changed) => out.tally.coordinator_changes += 1,
            _ => {}
        }
    }

    fn give_up(&mut self, task: &Task, host: &Host, out: &mut Outside) {
        match task {
            Task::Register { to, .. } | Task::Create { to, .. } | Task::Drop { to, .. } => {
                out.answer(host.number, *to, Answer::Failed(Failure::Unknown));
            }
            Task::Name => self.naming = false,
            Task::Settle => self.settling -= 1,
        }
    }

    /// Mirrors `leadership::Shared::fresh_map`.
    fn ask_fresh(&mut self, task: Task, host: &mut Host, out: &mut Outside) {
        if let Err((_, Waiting::Fresh(task))) = host.read_index(GROUP, Waiting::Fresh(task)) {
            self.give_up(&task, host, out);
        }
    }

    /// The map has all that was acknowledged before the task began.
    fn go_on(&mut self, task: Task, host: &mut Host, out: &mut Outside) {
        let map = self.machine.map();
        let command = match &task {
            // The new leader names the cluster first.
            Task::Register { .. } if map.cluster == ClusterId::default() => return self.give_up(&task, host, out),
            Task::Register { store, replaces, address, .. } => Command::RegisterNode {
                store: *store,
                name: "node".to_owned(),
                address: address.clone(),
                zone: String::new(),
                replaces: *replaces,
            },
            Task::Create { operation, spec, .. } => {
                let Ok(placement) = placement::place(&map, spec.shards, spec.copies()) else {
                    return self.give_up(&task, host, out);
                };
                Command::CreateCollection { operation: *operation, spec: spec.clone(), placement }
            }
            Task::Drop { operation, name, .. } => {
                let collection = map.collection(name).map(|collection| collection.id);
                Command::DropCollection { operation: *operation, name: name.clone(), collection }
            }
            Task::Name | Task::Settle => return,
        };
        self.execute(&command, task, host, out);
    }

    fn execute(&mut self, command: &Command, task: Task, host: &mut Host, out: &mut Outside) {
        out.trace.tell(out.now, || format!("coordinator {} proposes {command:?}", host.number));
        if let Err((error, Waiting::Command(task))) =
            host.propose(GROUP, encode_command(command), Waiting::Command(task))
        {
            match (task, error) {
                (
                    Task::Register { to, .. } | Task::Create { to, .. } | Task::Drop { to, .. },
                    ConsensusError::NotLeader { leader, .. },
                ) => out.answer(host.number, to, Answer::AskLeader(leader.map(process_of))),
                (task, _) => self.give_up(&task, host, out),
            }
        }
    }

    fn leader(&self, host: &Host) -> Option<ReplicaId> {
        host.core.as_ref()?.status(GROUP)?.leader
    }

    fn leads(&self, host: &Host) -> bool {
        let status = host.core.as_ref().and_then(|core| core.status(GROUP));
        status.is_some_and(|status| status.role == Standing::Leader)
    }

    pub(crate) fn call(&mut self, from: Endpoint, id: CallId, call: &Call, host: &mut Host, out: &mut Outside) {
        let to = (from, id);
        let task = match call {
            Call::Beginning => {
                let status = host.core.as_ref().and_then(|core| core.status(GROUP));
                if let Some(has_begun) = has_begun(self.replica, status.as_ref()) {
                    out.answer(host.number, to, Answer::HasBegun(has_begun));
                }
                return;
            }
            Call::Join { member, forwarded } => {
                if self.leads(host) {
                    self.wishes.insert(coordinator_of(*member), (*member, out.now));
                } else if let Some(leader) = self.leader(host).filter(|_| !forwarded) {
                    out.call(host.me(), process_of(leader), Call::Join { member: *member, forwarded: true });
                }
                return;
            }
            // It has no vote yet, and may know less than others.
            Call::Watch { .. } | Call::Heartbeat { .. } if !self.is_member(host) => {
                return out.answer(host.number, to, Answer::Failed(Failure::Refused));
            }
            Call::Watch { epoch } => {
                let map = self.machine.map();
                // One that is ahead of us is sent nothing.
                let news = (map.epoch > *epoch).then_some(map);
                return out.answer(host.number, to, Answer::Map(news));
            }
            Call::Heartbeat { node, voters, forwarded } => {
                if self.machine.map().nodes.contains_key(node) {
                    self.heard.insert(*node, (out.now, voters.clone()));
                }
                let leader = self.leader(host).map(process_of).filter(|leader| *leader != host.number);
                if let Some(leader) = leader.filter(|_| !forwarded) {
                    let call = Call::Heartbeat { node: *node, voters: voters.clone(), forwarded: true };
                    out.call(host.me(), leader, call);
                }
                return;
            }
            Call::Register { store, replaces, address } => {
                Task::Register { to, store: *store, replaces: *replaces, address: address.clone() }
            }
            Call::Create { operation, spec } => {
                Task::Create { to, operation: *operation, spec: spec.clone(), plans: 0 }
            }
            Call::Drop { operation, name } => Task::Drop { to, operation: *operation, name: name.clone() },
            _ => return,
        };
        if self.leads(host) {
            self.ask_fresh(task, host, out);
        } else {
            let leader = self.leader(host).map(process_of).filter(|leader| *leader != host.number);
            out.answer(host.number, to, Answer::AskLeader(leader));
        }
    }

    /// Whether it has a vote, as far as it knows.
    pub(crate) fn is_member(&self, host: &Host) -> bool {
        let status = host.core.as_ref().and_then(|core| core.status(GROUP));
        status.is_some_and(|status| is_settled(status.me, &status.members))
    }

    /// Mirrors `joining::follow`.
    fn wish(&self, host: &Host, out: &mut Outside) {
        if let Some(member) = self.replica.filter(|_| !self.is_member(host)) {
            let others: Vec<usize> = (0..self.members).filter(|number| *number != host.number).collect();
            if let Some(other) = others.choose(&mut out.rng) {
                out.call(host.me(), *other, Call::Join { member, forwarded: false });
            }
        }
    }

    /// Mirrors `joining::admit`.
    fn admit(&mut self, host: &mut Host, out: &mut Outside) {
        self.wishes.retain(|_, (_, at)| out.now - *at < WISH_LASTS);
        for (wish, _) in self.wishes.values() {
            let Some(status) = host.core.as_ref().and_then(|core| core.status(GROUP)) else { return };
            if let Step::Change(changes) = next_step(*wish, &status) {
                let taken = host.change(GROUP, &changes, Waiting::Change);
                out.trace.tell(out.now, || format!("coordinator {} changes {changes:?}: {taken}", host.number));
                return;
            }
        }
    }

    /// Mirrors `coordinator::duties` and `settle`.
    fn duties(&mut self, host: &mut Host, out: &mut Outside) {
        self.wish(host, out);
        if !self.leads(host) {
            return;
        }
        self.admit(host, out);
        let map = self.machine.map();
        if map.cluster == ClusterId::default() && !std::mem::replace(&mut self.naming, true) {
            let cluster = ClusterId(out.rng.random());
            self.execute(&Command::NameCluster { cluster }, Task::Name, host, out);
        }
        if self.settling > 0 {
            return;
        }
        let lately = self.heard.iter().filter(|(_, (at, _))| out.now - at <= HEARTBEAT_TIMEOUT);
        let lately: BTreeMap<NodeId, Voters> = lately.map(|(node, (_, voters))| (*node, voters.clone())).collect();
        let due: Vec<(ShardId, Vec<ReplicaId>)> = settled(&map, &lately);
        for (shard, voters) in due {
            self.settling += 1;
            out.tally.member_changes += 1;
            self.execute(&Command::SettleShard { shard, voters }, Task::Settle, host, out);
        }
    }
}

/// Coordinators are the first processes, and number `n + 1` is process `n`.
pub(crate) fn process_of(member: ReplicaId) -> usize {
    usize::try_from(coordinator_of(member)).unwrap_or(usize::MAX).wrapping_sub(1)
}

fn own_number(host: &Host) -> u64 {
    host.number as u64 + 1
}
