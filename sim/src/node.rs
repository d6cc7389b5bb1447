//! A node: which shards are open, following the map; what is asked of it and what it has asked. Mirrors `shoal_node`'s
//! `node::Node::start`, `replicas` and `membership::register`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use shoal_consensus::{Answer as Fate, BEACON_GROUP, ConsensusError, GroupStatus, StateMachine, Ticket};
use shoal_index::segment::Scratch;
use shoal_model::planted::{Bug, is_planted};
use shoal_model::{ClusterMap, Epoch, GroupId, NodeId, ReplicaId, Reply, Shard, ShardId, StoreId};
use shoal_node::simulation::{
    Reigns, erase, group_of, group_spec, note_witness, remove_files, save_map, saved_map, stored_shards, witnesses_of,
};
use shoal_runtime::Store;

use crate::event::{Answer, Call, CallId, Failure, Outside, Own};
use crate::network::Endpoint;
use crate::process::{ASK_AGAIN, Host, Item, Waiting};
use crate::queue::{MS, Ns, SEC};
use crate::replica::Replica;
use crate::serving::Reading;
use crate::upkeep::Comparing;

/// How long one coordinator is given before the next is asked.
const ASK_WITHIN: Ns = 2 * SEC;

/// A call that this node has made.
pub(crate) enum Pending {
    Register,
    Watch,
    Offer { shard: ShardId, install: u64, node: NodeId },
    Fetch { shard: ShardId, key: u64 },
    RestoreFile(ShardId),
    RestoreRecords(ShardId),
    Digests { shard: ShardId, node: NodeId },
}

/// A replica on its way out: its records go once the end of its log is on disk.
struct Dropping {
    after: Option<Ticket>,
    replica: Option<Replica>,
}

pub(crate) struct Node {
    pub(crate) store_id: StoreId,
    pub(crate) replaces: Option<StoreId>,
    pub(crate) member: Option<NodeId>,
    /// Of segment files; without one, segments are in memory.
    pub(crate) folder: Option<PathBuf>,
    /// The newest map that was heard of.
    pub(crate) map: Arc<ClusterMap>,
    /// The one that replicas are being brought to; it is on the disk before they are.
    following: Arc<ClusterMap>,
    pub(crate) followed: Epoch,
    pub(crate) replicas: BTreeMap<ShardId, Replica>,
    /// Shards of which this node has the witness.
    pub(crate) witnesses: BTreeSet<ShardId>,
    pub(crate) reigns: Reigns,
    dropping: BTreeMap<ShardId, Dropping>,
    pub(crate) reads: BTreeMap<u64, Reading>,
    last_key: u64,
    pub(crate) pending: BTreeMap<CallId, Pending>,
    /// Snapshots made for others.
    pub(crate) exports: BTreeMap<u64, (ShardId, Arc<dyn Store>)>,
    coordinator: usize,
    pub(crate) comparing: BTreeMap<ShardId, Comparing>,
    pub(crate) scratch: Scratch,
}

impl Node {
    pub(crate) fn new(store_id: StoreId, folder: Option<PathBuf>) -> Self {
        Self {
            store_id,
            replaces: None,
            member: None,
            folder,
            map: Arc::default(),
            following: Arc::default(),
            reigns: Reigns::default(),
            followed: Epoch(0),
            replicas: BTreeMap::new(),
            witnesses: BTreeSet::new(),
            dropping: BTreeMap::new(),
            reads: BTreeMap::new(),
            last_key: 0,
            pending: BTreeMap::new(),
            exports: BTreeMap::new(),
            coordinator: 0,
            comparing: BTreeMap::new(),
            scratch: Scratch::new(),
        }
    }

    /// What is in memory is gone; who it is, is on its disk.
    pub(crate) fn lose_power(&mut self) {
        let (replaces, member, key) = (self.replaces, self.member, self.last_key);
        *self = Self::new(self.store_id, self.folder.take());
        (self.replaces, self.member, self.last_key) = (replaces, member, key);
    }

    /// A number that nothing of this node had.
    pub(crate) fn next_key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }

    pub(crate) fn start(&mut self, host: &mut Host, out: &mut Outside) {
        match saved_map(&*host.disk) {
            Ok(map) => self.map = Arc::new(map),
            Err(error) => out.truth.breaks(format!("process {} cannot start: {error}", host.number)),
        }
        self.register(host, out);
        if self.member.is_some() {
            self.follow(host, out);
        }
        for (delay, own) in
            [(500 * MS, Own::Heartbeat), (250 * MS, Own::Members), (5 * SEC, Own::Compare), (MS, Own::Watch)]
        {
            out.own(host.id(), delay, own);
        }
    }

    pub(crate) fn own(&mut self, own: Own, host: &mut Host, out: &mut Outside) {
        match own {
            Own::Apply(shard) => self.apply_turn(shard, host, out),
            Own::MakeSnapshot(shard) => self.make_snapshot(shard, host, out),
            Own::JobEnds { shard, key } => self.job_ends(shard, key, host, out),
            Own::InstallOverdue { shard, job } => self.install_overdue(shard, job, host, out),
            Own::LaneRested(shard) => self.begin_what_is_due(shard, host, out),
            Own::Quiet { shard, since } => self.grow_quiet(shard, since, host, out),
            Own::OfferAgain { shard, install, node } => self.offer(shard, install, node, host, out),
            Own::OffersOver { shard, install } => self.propose_install(shard, install, host, out),
            Own::ProposalLate(request) => {
                if let Some(waiting @ (Waiting::Seal(_) | Waiting::Install(_))) = host.waiting.remove(&request) {
                    self.decided(waiting, Fate::Unknown, host, out);
                }
            }
            Own::AskSnapshot(shard) => self.ask_for_snapshot(shard, host, out),
            Own::CallLate(id) => self.answered(id, Answer::Failed(Failure::Unknown), host, out),
            Own::ReadLate(key) => self.read_late(key, host, out),
            Own::ReadPoints(key) => self.read_points(key, host, out),
            Own::Erase(shard) => self.erase_dropped(shard, host, out),
            Own::Heartbeat => self.heartbeat(host, out),
            Own::Members => self.follow_members(host, out),
            Own::Compare => self.compare_all(host, out),
            Own::Watch => self.watch(host, out),
            Own::Register => self.register(host, out),
            Own::Reclaim(files) => {
                host.disk.sync().expect("the simulated disk does not fail");
                files.iter().for_each(remove_files);
            }
            Own::Tick | Own::Synced { .. } | Own::MapApply | Own::MapSnapshot | Own::Duties | Own::Begin => {}
        }
    }

    pub(crate) fn call(&mut self, from: Endpoint, id: CallId, call: &Call, host: &mut Host, out: &mut Outside) {
        let to = (from, id);
        match call {
            Call::Write { shard, epoch, operation, upserts, deletes } => {
                self.take_write(to, (*shard, *epoch), *operation, (upserts.clone(), deletes.clone()), host, out);
            }
            Call::Read { target, what } => self.take_read(to, *target, what.clone(), host, out),
            Call::Offer { shard, node, replaced, manifest } => {
                self.take_offer(to, *shard, *node, replaced, *manifest, host, out);
            }
            Call::Segment { shard, checksum } => self.give_segment(to, *shard, *checksum, host, out),
            Call::Records { shard, snapshot, after } => {
                self.give_records(to, *shard, *snapshot, after.as_deref(), host, out);
            }
            Call::Digests { shard } => self.give_digests(to, *shard, host, out),
            Call::Rebuild { shard, index, digest } => self.take_rebuild(*shard, (*index, *digest), host, out),
            _ => {}
        }
    }

    /// What came of a call that this node has made. A second answer, and one that is late, find nobody.
    pub(crate) fn answered(&mut self, id: CallId, answer: Answer, host: &mut Host, out: &mut Outside) {
        let Some(pending) = self.pending.remove(&id) else { return };
        match pending {
            Pending::Register => self.registered(&answer, host, out),
            Pending::Watch => self.watched(answer, host, out),
            Pending::Offer { shard, install, node } => self.offer_answered(shard, install, node, &answer, host, out),
            Pending::Fetch { shard, key } => self.fetch_answered(shard, key, &answer, host, out),
            Pending::RestoreFile(shard) => self.restore_file(shard, answer, host, out),
            Pending::RestoreRecords(shard) => self.restore_records(shard, answer, host, out),
            Pending::Digests { shard, node } => self.digests_answered(shard, node, answer, host, out),
        }
    }

    /// Makes a call whose answer is waited for.
    pub(crate) fn ask(
        &mut self,
        to: usize,
        call: Call,
        pending: Pending,
        within: Ns,
        host: &Host,
        out: &mut Outside,
    ) -> CallId {
        let id = out.call(host.me(), to, call);
        self.pending.insert(id, pending);
        out.own(host.id(), within, Own::CallLate(id));
        id
    }

    /// The process of a node, as the newest map says.
    pub(crate) fn process_of_node(&self, node: NodeId) -> Option<usize> {
        process_at(&self.map.nodes.get(&node)?.address)
    }

    /// The process that a message is for. Processes call each other by their numbers.
    pub(crate) fn process_of(&self, group: GroupId, member: ReplicaId) -> Option<usize> {
        if group == BEACON_GROUP {
            return usize::try_from(member.0).ok();
        }
        let shard = self.map.shards.get(&ShardId(group.0))?;
        self.process_of_node(shard.replica(member)?.node)
    }

    /// Mirrors `peers::Peers::of`.
    pub(crate) fn peers_of(&self, shard: ShardId) -> Vec<NodeId> {
        let replicas = self.map.shards.get(&shard).into_iter().flat_map(Shard::full_replicas);
        replicas.map(|replica| replica.node).filter(|node| Some(*node) != self.member).collect()
    }

    fn next_coordinator(&mut self, out: &Outside) -> usize {
        self.coordinator = (self.coordinator + 1) % out.shape.coordinators;
        self.coordinator
    }

    /// Mirrors `membership::register`.
    fn register(&mut self, host: &mut Host, out: &mut Outside) {
        let call = Call::Register { store: self.store_id, replaces: self.replaces, address: address_of(host.number) };
        self.ask(self.coordinator, call, Pending::Register, ASK_WITHIN, host, out);
    }

    fn registered(&mut self, answer: &Answer, host: &mut Host, out: &mut Outside) {
        match answer {
            Answer::Replied(Ok(Reply::Node(id))) => {
                let is_new = self.member.replace(*id).is_none();
                out.trace.tell(out.now, || format!("process {} is node {id}", host.number));
                if is_new {
                    // Makes the identity durable.
                    host.disk.sync().expect("the simulated disk does not fail");
                    out.own(host.id(), MS, Own::Watch);
                }
                return;
            }
            Answer::Replied(Err(error)) => {
                out.trace.tell(out.now, || format!("process {} is refused: {error}", host.number));
                self.next_coordinator(out);
            }
            Answer::AskLeader(Some(leader)) => self.coordinator = *leader,
            _ => drop(self.next_coordinator(out)),
        }
        out.own(host.id(), ASK_AGAIN, Own::Register);
    }

    fn watch(&mut self, host: &mut Host, out: &mut Outside) {
        if self.member.is_none() || self.pending.values().any(|pending| matches!(pending, Pending::Watch)) {
            return;
        }
        let call = Call::Watch { epoch: self.map.epoch };
        self.ask(self.coordinator, call, Pending::Watch, SEC, host, out);
    }

    fn watched(&mut self, answer: Answer, host: &mut Host, out: &mut Outside) {
        match answer {
            Answer::Map(Some(map)) => {
                if map.epoch > self.map.epoch {
                    self.map = map;
                    self.follow(host, out);
                }
            }
            Answer::Map(None) => {}
            _ => drop(self.next_coordinator(out)),
        }
        let pause = out.short(500 * MS);
        out.own(host.id(), 50 * MS + pause, Own::Watch);
    }

    /// Mirrors a turn of `replicas::Replicas::follow`.
    fn follow(&mut self, host: &mut Host, out: &mut Outside) {
        if self.map.epoch > self.followed && self.dropping.is_empty() {
            self.following = self.map.clone();
            if let Err(error) = save_map(&self.map, &*host.disk) {
                out.truth.breaks(format!("process {} stops: {error}", host.number));
            }
            self.reconcile(host, out);
        }
    }

    /// Mirrors `replicas::Replicas::reconcile`; goes on when what is dropped is gone.
    fn reconcile(&mut self, host: &mut Host, out: &mut Outside) {
        let Some(me) = self.member else { return };
        let map = self.following.clone();
        let wanted: BTreeMap<ShardId, &Shard> = map.shards_on(me).map(|shard| (shard.id, shard)).collect();
        let stored = stored_shards(&*host.disk).expect("the simulated disk does not fail");
        let open = self.replicas.keys().chain(&self.witnesses).copied();
        let gone: Vec<ShardId> = stored.into_iter().chain(open).filter(|id| !wanted.contains_key(id)).collect();
        for shard in gone {
            self.drop_replica(shard, host, out);
        }
        if !self.dropping.is_empty() {
            return;
        }
        for (id, shard) in wanted {
            let is_open = self.witnesses.contains(&id) || self.replicas.contains_key(&id);
            match shard.replica_on(me) {
                Some(own) if own.witness && !is_open => self.open_witness(shard, own.id, host, out),
                _ if !is_open => self.open_replica(&map, shard, host, out),
                _ => self.know_witnesses(shard, host, out),
            }
            if let Some(replica) = self.replicas.get_mut(&id) {
                replica.epoch = shard.epoch;
            }
        }
        self.followed = map.epoch;
        self.look_at_parked(host, out);
    }

    /// Mirrors `witness::Witness::open`.
    fn open_witness(&mut self, shard: &Shard, me: ReplicaId, host: &mut Host, out: &mut Outside) {
        note_witness(shard.id, &*host.disk).expect("the simulated disk does not fail");
        let spec = group_spec(shard, me, StateMachine::Witness);
        let opened = host.core.as_mut().map_or(Err(ConsensusError::Stopped), |core| core.open_group(&spec));
        if let Err(error) = opened {
            return out.truth.breaks(format!("process {} stops: witness of {}: {error}", host.number, shard.id));
        }
        out.trace.tell(out.now, || format!("process {} opens the witness of shard {}", host.number, shard.id));
        out.tally.witnesses += 1;
        self.witnesses.insert(shard.id);
    }

    fn know_witnesses(&mut self, shard: &Shard, host: &mut Host, out: &mut Outside) {
        let Some(core) = &mut host.core else { return };
        if let Err(error) = core.set_witnesses(group_of(shard.id), &witnesses_of(shard)) {
            out.truth.breaks(format!("process {} stops: shard {}: {error}", host.number, shard.id));
        }
    }

    /// Mirrors `replicas::Replicas::drop_replica`, up to where that waits.
    fn drop_replica(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        if self.dropping.contains_key(&shard) {
            return;
        }
        let replica = self.replicas.remove(&shard);
        self.witnesses.remove(&shard);
        out.trace.tell(out.now, || format!("process {} drops shard {shard}", host.number));
        if let Some(core) = &mut host.core
            && let Err(error) = core.close_group(group_of(shard), true)
        {
            out.truth.breaks(format!("process {} stops: {error}", host.number));
        }
        self.dropping.insert(shard, Dropping { after: None, replica });
        let delay = out.short(20 * MS);
        out.own(host.id(), delay, Own::Erase(shard));
    }

    /// The rest of `replicas::Replicas::drop_replica`: what is in the mailbox is applied, then all goes.
    fn erase_dropped(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        let issued = host.issued;
        let Some(dropping) = self.dropping.get_mut(&shard) else { return };
        if *dropping.after.get_or_insert(issued) > host.persisted {
            out.own(host.id(), 5 * MS, Own::Erase(shard));
            return;
        }
        if let Some(replica) = self.dropping.remove(&shard).and_then(|dropping| dropping.replica) {
            self.replicas.insert(shard, replica);
            self.drain(shard, host, out);
            self.replicas.remove(&shard);
        }
        if let Err(error) = erase(&*host.disk, shard, self.folder.as_deref()) {
            out.truth.breaks(format!("process {} stops: {error}", host.number));
        }
        if self.dropping.is_empty() {
            self.reconcile(host, out);
            self.follow(host, out);
        }
    }

    pub(crate) fn hand(&mut self, group: GroupId, item: Item, host: &mut Host, out: &mut Outside) {
        let shard = ShardId(group.0);
        if let Some(replica) = self.replicas.get_mut(&shard) {
            replica.inbox.push_back(item);
            self.apply_soon(shard, host, out);
        } else if let Some(replica) = self.dropping.get_mut(&shard).and_then(|dropping| dropping.replica.as_mut()) {
            replica.inbox.push_back(item);
        }
    }

    pub(crate) fn status_changed(&mut self, status: &GroupStatus, host: &mut Host, out: &mut Outside) {
        let shard = ShardId(status.group.0);
        if self.replicas.contains_key(&shard) {
            self.note_role(shard, status, host, out);
            self.begin_what_is_due(shard, host, out);
        }
    }

    /// A proposal, read or change ended without being applied here.
    pub(crate) fn decided(&mut self, waiting: Waiting, fate: Fate, host: &mut Host, out: &mut Outside) {
        match (waiting, fate) {
            (Waiting::Write(to), _) => out.answer(host.number, to, Answer::Failed(Failure::Unknown)),
            (Waiting::Read(key), Fate::ReadAt(index)) => self.read_at(key, index, host, out),
            (Waiting::Read(key), _) => self.read_fails(key, Failure::Lagging, host, out),
            (Waiting::Seal(shard), _) => {
                if let Some(replica) = self.replicas.get_mut(&shard) {
                    replica.sealing = false;
                }
                self.begin_what_is_due(shard, host, out);
            }
            (Waiting::Install(shard), _) => self.install_failed(shard, host, out),
            (Waiting::Change | Waiting::Command(_) | Waiting::Fresh(_), _) => {}
        }
    }

    /// Whether a call that names an epoch may be served; a router that is ahead waits. Mirrors
    /// `replicas::Replicas::at_epoch`.
    pub(crate) fn at_epoch(&self, shard: ShardId, epoch: Epoch) -> Result<bool, Failure> {
        match self.replicas.get(&shard) {
            Some(_) if is_planted(Bug::SkipEpochCheck) => Ok(true),
            Some(replica) if replica.epoch == epoch => Ok(true),
            Some(replica) if replica.epoch > epoch => Err(Failure::StaleEpoch),
            _ if self.followed >= epoch => Err(Failure::StaleEpoch),
            _ => Ok(false),
        }
    }
}

/// Where a process serves.
pub(crate) fn address_of(process: usize) -> String {
    format!("http://10.0.0.{process}:1")
}

/// The process that serves at an address.
pub(crate) fn process_at(address: &str) -> Option<usize> {
    address.strip_prefix("http://10.0.0.")?.strip_suffix(":1")?.parse().ok()
}
