//! One shard replica: the task that applies its log, and the view that reads take.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use shoal_consensus::{Apply, Consensus, ConsensusError, GroupSpec, GroupStatus, Role, StateMachine};
use shoal_index::segment::Segment;
use shoal_index::set::Policy;
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{Epoch, GroupId, HashRange, IndexSpec, InputError, LogIndex, NodeId, ReplicaId, Shard, ShardId};
use shoal_runtime::{Batch, DiskState, Failure, Store};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::NodeError;
use crate::blocking;
use crate::builder::{Builder, parameters};
use crate::damage;
use crate::disks::Disks;
use crate::fetch::FetchError;
use crate::freshness::Freshness;
use crate::jobs::{Jobs, JobsStatus};
use crate::lead::{Lead, Proposed};
use crate::members;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::restore::{self, Restored};
use crate::shard::machine::{self, Applied, Effect, Replaced, ShardMachine, View};
use crate::shard::parts::{Manifest, Name};
use crate::transfer::Exports;

/// Log entries that are applied, written and published together.
const APPLY_TOGETHER: usize = 256;
/// Errands that wait for the apply task.
const ERRANDS: usize = 64;
/// How long a read waits for this replica to catch up before another is the better choice.
const CATCH_UP_WITHIN: Duration = Duration::from_millis(500);
/// How long a read waits for the group to say how far it is.
const READ_INDEX_WITHIN: Duration = Duration::from_secs(2);
/// Pause before a snapshot is asked for again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Positions of which digests are kept to be compared.
const DIGESTS_KEPT: usize = 64;
/// One position in so many has its digest kept, beside the newest.
const DIGEST_EVERY: u64 = 64;

/// What the indexes of a node's replicas share.
#[derive(Clone)]
pub(crate) struct Indexing {
    pub(crate) builder: Arc<Builder>,
    pub(crate) policy: Policy,
    /// Sealed deltas of a shard that wait to be built before its writes are pushed back.
    pub(crate) deltas_waiting_max: usize,
    /// How long nothing is written before a shard makes fewer, larger segments.
    pub(crate) quiet_after: Duration,
    /// Folder of all segment files; `None` keeps segments in memory.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) metrics: Metrics,
    pub(crate) peers: Arc<Peers>,
    pub(crate) exports: Arc<Exports>,
    pub(crate) disks: Arc<Disks>,
    /// Told of a store that is damaged.
    pub(crate) failure: Failure,
}

/// What others ask of the apply task.
pub(crate) enum Errand {
    /// Fetch a segment that a node has built of some parts; told once it is here.
    Fetch { node: NodeId, replaced: Vec<Name>, manifest: Manifest, reply: oneshot::Sender<Result<(), NodeError>> },
    /// The content is damaged, or differs from that of the others: it is not read any more, and theirs is fetched.
    Rebuild,
    /// The files of a segment are damaged, which its checksum names: it is fetched again.
    Mend { segment: u64 },
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Position that must be applied.
    pub(crate) index: LogIndex,
    /// Everything acknowledged before the call.
    pub(crate) linearizable: bool,
    /// How long ago the replica must have been known to lack nothing; `None` for any time.
    pub(crate) staleness_max: Option<Duration>,
}

/// An open shard replica, shared by the task that applies and the calls that read.
pub(crate) struct Replica {
    pub(crate) shard: ShardId,
    pub(crate) range: HashRange,
    pub(crate) spec: IndexSpec,
    epoch: AtomicU64,
    view: ArcSwap<View>,
    jobs: ArcSwap<JobsStatus>,
    deltas_waiting_max: usize,
    applied: watch::Receiver<LogIndex>,
    consensus: Consensus<Applied>,
    peers: Arc<Peers>,
    disks: Arc<Disks>,
    metrics: Metrics,
    errands: mpsc::Sender<Errand>,
    /// Segments that peers may fetch, by checksum.
    segments: Mutex<BTreeMap<u64, Weak<Segment>>>,
    digests: Mutex<VecDeque<(LogIndex, u128)>>,
    freshness: Freshness,
    /// Its content is being replaced by a snapshot, and cannot be read.
    restoring: AtomicBool,
    /// A segment is damaged, and on its way from another replica: walks may miss what they should find.
    mending: AtomicBool,
}

impl Replica {
    /// Opens the replica that `node` holds of `shard`, and the task that applies its log.
    ///
    /// The task ends when the group is closed, or with an error when it cannot go on.
    pub(crate) async fn open(
        shard: &Shard,
        spec: &IndexSpec,
        node: NodeId,
        consensus: &Consensus<Applied>,
        store: &Arc<dyn Store>,
        indexing: &Indexing,
    ) -> Result<(Arc<Self>, JoinHandle<Result<(), NodeError>>), NodeError> {
        let me = shard.replica_on(node).ok_or(NodeError::NotReady { shard: shard.id })?.id;
        let (mut machine, is_lost) = open_or_erase(shard, spec, store, indexing).await?;
        let applied = machine.applied();
        let group = GroupSpec { applied, state_lost: is_lost, ..group_spec(shard, me, StateMachine::Stored) };
        let inbox = consensus.open_group(group).await?;
        let status = consensus.watch(group_of(shard.id)).ok_or(NodeError::NotReady { shard: shard.id })?;
        let (applied_sender, applied) = watch::channel(machine.applied());
        let (errands, errands_inbox) = mpsc::channel(ERRANDS);
        let replica = Arc::new(Self {
            shard: shard.id,
            range: shard.range,
            spec: spec.clone(),
            epoch: AtomicU64::new(shard.epoch.0),
            view: ArcSwap::from_pointee(machine.publish()),
            jobs: ArcSwap::default(),
            deltas_waiting_max: indexing.deltas_waiting_max,
            applied,
            consensus: consensus.clone(),
            peers: indexing.peers.clone(),
            disks: indexing.disks.clone(),
            metrics: indexing.metrics.clone(),
            errands,
            segments: Mutex::default(),
            // Also of a shard that nobody writes to any more, so that it is compared.
            digests: Mutex::new((!is_lost).then(|| digest_of(&machine)).into_iter().collect()),
            freshness: Freshness::default(),
            restoring: AtomicBool::new(is_lost),
            mending: AtomicBool::new(false),
        });
        let (builder, metrics) = (indexing.builder.clone(), indexing.metrics.clone());
        let peers = indexing.peers.clone();
        let (disks, disk) = (indexing.disks.clone(), indexing.disks.changes());
        let jobs = Jobs::new(shard.id, builder, peers.clone(), disks, parameters(spec), metrics, store.clone());
        let task = ApplyTask {
            inbox,
            errands: errands_inbox,
            disk,
            status,
            is_open: true,
            applied: applied_sender,
            store: store.clone(),
            jobs,
            lead: Lead::new(shard.id, consensus.clone(), peers),
            leads: Leads::No,
            snapshots: JoinSet::new(),
            pause: Pause::new(indexing.quiet_after),
            indexing: indexing.clone(),
            replica: replica.clone(),
        };
        task.offer_segments(&machine);
        Ok((replica, tokio::spawn(task.run(machine))))
    }

    /// What a read sees now.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Whether other nodes have the shard's points.
    pub(crate) fn has_peers(&self) -> bool {
        !self.peers.of(self.shard).is_empty()
    }

    /// What the replica's jobs are doing.
    pub(crate) fn jobs(&self) -> Arc<JobsStatus> {
        self.jobs.load_full()
    }

    /// Whether its content is being replaced, and cannot be read.
    pub(crate) fn is_restoring(&self) -> bool {
        self.restoring.load(Ordering::Acquire)
    }

    /// Map version of the shard's entry.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Follows the map.
    pub(crate) fn set_epoch(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Ordering::Release);
    }

    /// Asks something of the apply task. Errors: `NotReady` if it has ended or has too much to do.
    pub(crate) fn send(&self, errand: Errand) -> Result<(), NodeError> {
        self.errands.try_send(errand).map_err(|_| NodeError::NotReady { shard: self.shard })
    }

    /// A segment that this replica has, installed or not.
    pub(crate) fn segment(&self, checksum: u64) -> Option<Arc<Segment>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner).get(&checksum)?.upgrade()
    }

    /// Digests of the newest position and of some before it, the oldest first.
    pub(crate) fn digests(&self) -> Vec<(LogIndex, u128)> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Writes a checked command; returns its position once it is durable and applied here.
    ///
    /// Errors: `BuildsBehind` if deltas pile up; what was acknowledged is searched all the same. `DiskFull` if it leads and
    /// too few disks have room. `NotLeader` tells who leads; `Input` if the operation's identity was used for another write.
    pub(crate) async fn write(&self, command: Bytes, deadline: Instant) -> Result<LogIndex, NodeError> {
        self.check_disks()?;
        self.check_backlog()?;
        match self.consensus.propose(group_of(self.shard), command, deadline.into()).await {
            Ok(Applied::At(index)) => Ok(index),
            Ok(Applied::Reused) => {
                let problem = "names another write that was applied; draw a new one for each write";
                Err(InputError::new("operation_id", problem).into())
            }
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Refuses what a disk has no room for. One that does not lead says so below, and not how its disk stands.
    fn check_disks(&self) -> Result<(), NodeError> {
        if !self.disks.is_low() && !self.disks.has_news() {
            return Ok(());
        }
        let group = self.group_status().filter(|group| group.role == Role::Leader);
        if group.is_none() {
            return Ok(());
        }
        let map = self.peers.map();
        let checked = self.disks.check_write(map.shards.get(&self.shard), group.as_ref());
        checked.inspect_err(|_| self.metrics.refused_for_disk())
    }

    /// Every search scans what waits to be built, so writes may not outrun builds for long. Deltas that cannot be built
    /// push nobody back: that would end writing for as long as a disk is full, and searches find their points anyway.
    fn check_backlog(&self) -> Result<(), NodeError> {
        let waiting = self.view.load().sealed;
        if waiting < self.deltas_waiting_max || self.jobs.load().cannot_build {
            return Ok(());
        }
        Err(NodeError::BuildsBehind { shard: self.shard, waiting })
    }

    /// Says who leads by node, as routers know them.
    fn explain(&self, error: ConsensusError) -> NodeError {
        let ConsensusError::NotLeader { leader, .. } = error else { return error.into() };
        let map = self.peers.map();
        let entry = map.shards.get(&self.shard);
        let leader = entry.zip(leader).and_then(|(shard, leader)| shard.replica(leader)).map(|replica| replica.node);
        NodeError::NotLeader { shard: self.shard, leader }
    }

    /// A view as fresh as is wanted, and how old it may be at most.
    ///
    /// Errors: `Lagging` if this replica is too far behind, for another one to be asked; `Deadline`.
    pub(crate) async fn view_at(
        &self,
        wanted: Wanted,
        deadline: Instant,
    ) -> Result<(Arc<View>, Option<Duration>), NodeError> {
        let is_fresh = |most: Duration| self.freshness.age().is_some_and(|age| age <= most);
        let must_ask = wanted.linearizable || wanted.staleness_max.is_some_and(|most| !is_fresh(most));
        let mut index = wanted.index;
        let asked_at = Instant::now();
        if must_ask {
            let until = deadline.min(asked_at + READ_INDEX_WITHIN);
            let at = self.consensus.read_index(group_of(self.shard), until.into()).await;
            let lagging = |error| self.too_late(error, deadline);
            index = index.max(at.map_err(lagging)?);
        }
        let view = self.view_from(index, deadline).await?;
        if must_ask {
            self.freshness.note(asked_at);
        }
        // The view was taken before the clock is looked at.
        Ok((view, self.freshness.age()))
    }

    fn too_late(&self, error: ConsensusError, deadline: Instant) -> NodeError {
        match error {
            ConsensusError::DeadlineExceeded { .. } if Instant::now() < deadline => {
                NodeError::Lagging { shard: self.shard, what: "no leader confirms how far the shard is" }
            }
            error => error.into(),
        }
    }

    async fn view_from(&self, index: LogIndex, deadline: Instant) -> Result<Arc<View>, NodeError> {
        if self.is_restoring() {
            return Err(NodeError::Lagging { shard: self.shard, what: "it is being restored from another replica" });
        }
        if self.mending.load(Ordering::Acquire) {
            return Err(NodeError::Lagging { shard: self.shard, what: "a damaged segment is being fetched anew" });
        }
        let view = self.view();
        if view.applied >= index {
            return Ok(view);
        }
        let mut applied = self.applied.clone();
        let until = deadline.min(Instant::now() + CATCH_UP_WITHIN);
        match tokio::time::timeout_at(until.into(), applied.wait_for(|at| *at >= index)).await {
            Ok(Ok(_)) => Ok(self.view()),
            Ok(Err(_)) => Err(NodeError::NotReady { shard: self.shard }),
            Err(_) if until == deadline => Err(NodeError::Deadline { doing: "waiting for the replica to catch up" }),
            Err(_) => Err(NodeError::Lagging { shard: self.shard, what: "it has not caught up yet" }),
        }
    }

    /// Whether this replica leads its group, and how far the group has agreed.
    pub(crate) fn group_status(&self) -> Option<GroupStatus> {
        self.consensus.status(group_of(self.shard))
    }
}

/// A shard's Raft group has the shard's number.
pub fn group_of(shard: ShardId) -> GroupId {
    GroupId(shard.0)
}

/// What the consensus crate is told of a shard's group, but for the state of its state machine.
pub fn group_spec(shard: &Shard, me: ReplicaId, state_machine: StateMachine) -> GroupSpec {
    GroupSpec {
        group: group_of(shard.id),
        me,
        // One that joins later waits to be told of the others.
        voters: if shard.founders.contains(&me) { shard.founders.clone() } else { Vec::new() },
        witnesses: witnesses_of(shard),
        applied: LogIndex(0),
        state_machine,
        state_lost: false,
    }
}

/// Members that vote and have no points.
pub fn witnesses_of(shard: &Shard) -> Vec<ReplicaId> {
    shard.replicas.iter().filter(|replica| replica.witness).map(|replica| replica.id).collect()
}

/// Opens what is stored. What is not as it was written is erased, if another replica has the content: the second value
/// says so, and that it is to be restored from there.
async fn open_or_erase(
    shard: &Shard,
    spec: &IndexSpec,
    store: &Arc<dyn Store>,
    indexing: &Indexing,
) -> Result<(ShardMachine, bool), NodeError> {
    let opened = open_machine(shard.id, spec, store, indexing).await;
    let Err(damage @ NodeError::Malformed { .. }) = opened else { return Ok((opened?, false)) };
    if indexing.peers.of(shard.id).is_empty() {
        return Err(damage);
    }
    tracing::error!(shard = shard.id.0, error = %damage, "the content is not as it was written; another replica's is fetched");
    indexing.metrics.damaged();
    let (erased, id, folder) = (store.clone(), shard.id, indexing.folder.clone());
    blocking::run(move || machine::erase(&*erased, id, folder.as_deref())).await??;
    Ok((open_machine(shard.id, spec, store, indexing).await?, true))
}

async fn open_machine(
    shard: ShardId,
    spec: &IndexSpec,
    store: &Arc<dyn Store>,
    indexing: &Indexing,
) -> Result<ShardMachine, NodeError> {
    let (store, spec, policy, folder) = (store.clone(), spec.clone(), indexing.policy, indexing.folder.clone());
    let open = move || ShardMachine::open(&*store, shard, &spec, policy, folder.as_deref());
    let (machine, bad) = blocking::run(open).await??;
    indexing.metrics.bad_segments(bad);
    Ok(machine)
}

/// Applies what the group agrees on, in order, and has parts built; the only writer of a replica.
struct ApplyTask {
    replica: Arc<Replica>,
    inbox: mpsc::Receiver<Apply<Applied>>,
    errands: mpsc::Receiver<Errand>,
    /// Wakes the task when there is room on the disk, or none any more.
    disk: watch::Receiver<DiskState>,
    status: watch::Receiver<GroupStatus>,
    /// Whether the group may still change its status.
    is_open: bool,
    applied: watch::Sender<LogIndex>,
    store: Arc<dyn Store>,
    jobs: Jobs,
    lead: Lead,
    leads: Leads,
    /// Snapshots that are being made.
    snapshots: JoinSet<()>,
    pause: Pause,
    indexing: Indexing,
}

/// Whether this replica leads, and may plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leads {
    No,
    /// It does, and has not applied what earlier leaders have left in the log, up to that position: their installs come
    /// first.
    From(LogIndex),
    Yes,
}

/// Whether a shard's writer pauses.
struct Pause {
    quiet_after: Duration,
    since: tokio::time::Instant,
    is_quiet: bool,
}

impl Pause {
    fn new(quiet_after: Duration) -> Self {
        Self { quiet_after, since: tokio::time::Instant::now(), is_quiet: false }
    }

    /// Completes once nothing was written for long. Safe to drop.
    async fn quiet(&self) {
        if self.is_quiet {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until(self.since + self.quiet_after).await;
    }
}

impl ApplyTask {
    /// Runs until the group is closed; then no job runs any more.
    async fn run(mut self, machine: ShardMachine) -> Result<(), NodeError> {
        let ended = self.until_closed(machine).await;
        self.jobs.stop().await;
        self.snapshots.shutdown().await;
        ended
    }

    async fn until_closed(&mut self, mut machine: ShardMachine) -> Result<(), NodeError> {
        let mut entries = Vec::with_capacity(APPLY_TOGETHER);
        self.note_role(&mut machine)?;
        loop {
            while let Some(segment) = self.jobs.take_damaged() {
                self.mend(segment, &mut machine)?;
            }
            self.begin_what_is_due(&mut machine)?;
            if self.jobs.take_beyond_mending() {
                let Some(again) = self.reopen(machine).await? else { return Ok(()) };
                machine = again;
            }
            machine = tokio::select! {
                count = self.inbox.recv_many(&mut entries, APPLY_TOGETHER) => {
                    if count == 0 {
                        return Ok(());
                    }
                    match self.take_work(std::mem::take(&mut entries), machine).await? {
                        Some(machine) => machine,
                        None => return Ok(()),
                    }
                }
                Ok(()) = self.disk.changed() => machine,
                () = self.pause.quiet() => {
                    self.pause.is_quiet = true;
                    machine
                }
                changed = self.status.changed(), if self.is_open => {
                    // It ends when the group is closed; the mailbox ends next.
                    self.is_open = changed.is_ok();
                    self.note_role(&mut machine)?;
                    machine
                }
                Some(errand) = self.errands.recv() => match errand {
                    Errand::Fetch { node, replaced, manifest, reply } => {
                        self.jobs.fetch_offered(&mut machine, node, &replaced, manifest, reply)?;
                        machine
                    }
                    Errand::Mend { segment } => {
                        self.mend(segment, &mut machine)?;
                        machine
                    }
                    Errand::Rebuild if !self.replica.has_peers() => {
                        let shard = self.replica.shard.0;
                        tracing::error!(shard, "the content is damaged, and no other replica has it");
                        machine
                    }
                    Errand::Rebuild => match self.rebuild(machine).await? {
                        Some(machine) => machine,
                        None => return Ok(()),
                    },
                },
                proposed = self.lead.next() => {
                    self.take_proposed(proposed?, &mut machine);
                    machine
                }
                event = self.jobs.next() => {
                    let (mut machine, made) = self.jobs.handle(event?, machine).await?;
                    self.offer_segments(&machine);
                    if let Some(made) = made {
                        self.lead.install(made);
                    }
                    self.replica.view.store(Arc::new(machine.publish()));
                    self.replica.mending.store(machine.has_damage(), Ordering::Release);
                    machine
                }
            };
        }
    }

    /// Plans what a leader plans, and fetches what is missing.
    fn begin_what_is_due(&mut self, machine: &mut ShardMachine) -> Result<(), NodeError> {
        if let Leads::From(index) = self.leads
            && machine.applied() >= index
        {
            self.leads = Leads::Yes;
            // Of earlier leaders, whose entries have all come.
            let left = machine.forget_ready();
            self.jobs.discard(left);
        }
        let leads = self.leads == Leads::Yes;
        if leads && let Some(seal) = machine.wants_seal(self.pause.is_quiet) {
            self.lead.seal(seal);
        }
        self.jobs.begin(machine, leads, self.pause.is_quiet)?;
        self.replica.jobs.store(Arc::new(self.jobs.status()));
        Ok(())
    }

    fn note_role(&mut self, machine: &mut ShardMachine) -> Result<(), NodeError> {
        let (role, last) = {
            let status = self.status.borrow_and_update();
            (status.role, status.last)
        };
        match (role, self.leads) {
            (Role::Leader, Leads::No) => self.leads = Leads::From(last),
            (Role::Leader, _) | (_, Leads::No) => {}
            _ => {
                self.leads = Leads::No;
                self.jobs.stand_down(machine)?;
            }
        }
        Ok(())
    }

    /// What an install was about is planned again if it failed, and may yet come: then its files are fetched or built again.
    fn take_proposed(&mut self, proposed: Proposed, machine: &mut ShardMachine) {
        let (what, result) = match proposed {
            Proposed::Seal(result) => ("seal", result),
            Proposed::Install(result) => ("install", result),
        };
        if let Err(error) = result {
            tracing::debug!(shard = self.replica.shard.0, what, %error, "not proposed");
            if what == "install" {
                let left = machine.forget_ready();
                self.jobs.discard(left);
            }
        }
    }

    /// Applies entries, restores snapshots, and has them made, in order. `None` if the group is closed meanwhile.
    async fn take_work(
        &mut self,
        work: Vec<Apply<Applied>>,
        mut machine: ShardMachine,
    ) -> Result<Option<ShardMachine>, NodeError> {
        let mut entries = Vec::with_capacity(work.len());
        for next in work {
            match next {
                Apply::Entry { index, data, reply } => entries.push((index, data, reply)),
                Apply::Snapshot { reply } => {
                    while self.snapshots.try_join_next().is_some() {}
                    if self.indexing.disks.is_low() {
                        // Its buffers would have to be written out. The group asks again.
                        continue;
                    }
                    // As of what is applied by then, which is this and more.
                    let (node, shard) = (self.indexing.peers.me(), self.replica.shard);
                    let (store, exports) = (self.store.clone(), self.indexing.exports.clone());
                    let (replica, failure) = (self.replica.clone(), self.indexing.failure.clone());
                    let note = move |error: &NodeError| damage::note(error, &replica, &failure);
                    self.snapshots.spawn(restore::make(node, shard, store, exports, reply, note));
                }
                Apply::Restore { index, data } => {
                    machine = self.apply(std::mem::take(&mut entries), machine).await?;
                    self.put_down(machine)?;
                    let Some(restored) = self.restore(index, data).await? else { return Ok(None) };
                    machine = restored;
                }
            }
        }
        Ok(Some(self.apply(entries, machine).await?))
    }

    async fn apply(&mut self, entries: Vec<Entry>, machine: ShardMachine) -> Result<ShardMachine, NodeError> {
        if entries.is_empty() {
            return Ok(machine);
        }
        if entries.iter().any(|(_, data, _)| !data.is_empty()) {
            self.pause = Pause::new(self.pause.quiet_after);
        }
        let store = self.store.clone();
        let (mut machine, replies, left) = blocking::run(move || apply_together(machine, entries, &*store)).await??;
        left.into_iter().for_each(|left| self.jobs.discard(left));
        self.publish(&mut machine);
        for (reply, applied) in replies {
            // A writer that stopped waiting is no concern of ours.
            let _ = reply.send(applied);
        }
        Ok(machine)
    }

    fn publish(&self, machine: &mut ShardMachine) {
        let view = machine.publish();
        let at = view.applied;
        self.keep_digest(machine);
        // Readers that wait for a position look at the view after it is announced, so the view comes first.
        self.replica.view.store(Arc::new(view));
        self.replica.mending.store(machine.has_damage(), Ordering::Release);
        self.applied.send_replace(at);
        self.replica.consensus.applied(group_of(self.replica.shard), at);
    }

    /// Keeps the digest of this position, and of one in [`DIGEST_EVERY`] before it.
    fn keep_digest(&self, machine: &ShardMachine) {
        let newest = digest_of(machine);
        let mut digests = self.replica.digests.lock().unwrap_or_else(PoisonError::into_inner);
        digests.pop_back_if(|(index, _)| !index.0.is_multiple_of(DIGEST_EVERY));
        digests.push_back(newest);
        if digests.len() > DIGESTS_KEPT {
            digests.pop_front();
        }
    }

    /// Nobody reads what is here any more, and nothing is built of it.
    fn put_down(&mut self, mut machine: ShardMachine) -> Result<(), NodeError> {
        self.replica.restoring.store(true, Ordering::Release);
        self.jobs.stand_down(&mut machine)
    }

    /// Sets a damaged segment aside, and has it fetched. This replica is not read meanwhile: the rows that it returns are
    /// verified, but links are not, and a walk that misses what it should find looks like any other.
    fn mend(&mut self, segment: u64, machine: &mut ShardMachine) -> Result<(), NodeError> {
        let Some(left) = machine.set_aside(segment, &*self.store)? else { return Ok(()) };
        tracing::error!(
            shard = self.replica.shard.0,
            segment = format!("{segment:016x}"),
            "a damaged segment is set aside"
        );
        self.indexing.metrics.bad_segments(1);
        self.jobs.discard(left);
        self.jobs.mend_at_once();
        self.offer_segments(machine);
        self.replica.mending.store(machine.has_damage(), Ordering::Release);
        Ok(())
    }

    /// Reads everything again from the store, as a start does, so that a delta stands in for what is damaged: nobody else
    /// has that, or can be reached. `None` if the group is closed meanwhile.
    async fn reopen(&mut self, machine: ShardMachine) -> Result<Option<ShardMachine>, NodeError> {
        let (shard, applied) = (self.replica.shard, machine.applied());
        tracing::error!(shard = shard.0, "a damaged segment cannot be fetched; the shard is read from its store again");
        self.put_down(machine)?;
        let mut machine = match open_machine(shard, &self.replica.spec, &self.store, &self.indexing).await {
            Err(error @ NodeError::Malformed { .. }) if self.replica.has_peers() => {
                tracing::error!(shard = shard.0, %error, "the content is not as it was written; another replica's is fetched");
                return self.rebuild_from(applied).await;
            }
            opened => opened?,
        };
        self.offer_segments(&machine);
        self.publish(&mut machine);
        self.replica.restoring.store(false, Ordering::Release);
        Ok(Some(machine))
    }

    /// Fetches the content anew from another replica.
    async fn rebuild(&mut self, machine: ShardMachine) -> Result<Option<ShardMachine>, NodeError> {
        meet(Failpoint::NodeRebuild)?;
        let applied = machine.applied();
        self.put_down(machine)?;
        self.rebuild_from(applied).await
    }

    /// The same, of what was applied up to a position and is put down.
    async fn rebuild_from(&mut self, applied: LogIndex) -> Result<Option<ShardMachine>, NodeError> {
        self.indexing.metrics.damaged();
        match self.next_snapshot(applied).await? {
            Some((index, data)) => self.restore(index, data).await,
            None => Ok(None),
        }
    }

    /// Replaces the content by a snapshot that a peer has made; asks for another as long as one cannot be fetched. `None`
    /// if the group is closed meanwhile.
    async fn restore(&mut self, mut index: LogIndex, mut data: Bytes) -> Result<Option<ShardMachine>, NodeError> {
        let shard = self.replica.shard;
        let Restored { mut machine, lacking } = loop {
            if !self.until_there_is_room().await {
                return Ok(None);
            }
            match restore::restore(shard, &self.replica.spec, data, self.store.clone(), &self.indexing).await {
                Ok(restored) => break restored,
                Err(FetchError::Node(error)) => return Err(error),
                Err(error) => {
                    tracing::warn!(shard = shard.0, %error, "a snapshot could not be fetched; asking for another");
                }
            }
            let Some(next) = self.next_snapshot(index).await? else { return Ok(None) };
            (index, data) = next;
        };
        tracing::info!(shard = shard.0, applied = machine.applied().0, lacking, "restored from a snapshot");
        self.indexing.metrics.restored();
        self.offer_segments(&machine);
        self.forget_digests();
        self.publish(&mut machine);
        self.replica.restoring.store(false, Ordering::Release);
        Ok(Some(machine))
    }

    /// Waits until another's content could be written here; false if the group is closed meanwhile.
    async fn until_there_is_room(&self) -> bool {
        while self.indexing.disks.is_low() {
            if self.inbox.is_closed() {
                return false;
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
        true
    }

    /// Asks the group for a snapshot and waits for it; entries that come before are in it. `None` if the group is closed.
    ///
    /// The group asks a peer only once it hears that all is done with that it has handed out: what was handed out up to
    /// `given_up` and what waits in the mailbox is reported as such. It remembers that the state is not whole.
    async fn next_snapshot(&mut self, given_up: LogIndex) -> Result<Option<(LogIndex, Bytes)>, NodeError> {
        let group = group_of(self.replica.shard);
        loop {
            match self.replica.consensus.request_snapshot(group).await {
                Ok(()) => break,
                Err(ConsensusError::UnknownGroup { .. } | ConsensusError::Stopped) => return Ok(None),
                Err(error) => {
                    tracing::debug!(shard = self.replica.shard.0, %error, "no snapshot yet");
                    if matches!(error, ConsensusError::NobodyToAsk { leads: true, .. }) {
                        self.give_lead_away().await;
                    }
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
        self.replica.consensus.applied(group, given_up);
        loop {
            match self.inbox.recv().await {
                Some(Apply::Restore { index, data }) => return Ok(Some((index, data))),
                Some(Apply::Entry { index, .. }) => self.replica.consensus.applied(group, index),
                Some(Apply::Snapshot { .. }) => {}
                None => return Ok(None),
            }
        }
    }

    /// One without content must not lead: nothing would be applied, and nobody could send it a snapshot.
    async fn give_lead_away(&self) {
        let Some(status) = self.replica.group_status() else { return };
        let map = self.indexing.peers.map();
        let lacking = self.indexing.disks.lacking();
        let heir = map.shards.get(&self.replica.shard).and_then(|shard| members::heir(shard, &status, &lacking));
        if let Some(heir) = heir {
            let deadline = tokio::time::Instant::now() + RETRY_AFTER;
            // Tried again as long as it leads.
            let _ = self.replica.consensus.transfer_leader(status.group, heir, deadline).await;
        }
    }

    /// Digests of what was here before say nothing of what is here now.
    fn forget_digests(&self) {
        self.replica.digests.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Has peers find the segments that are here.
    fn offer_segments(&self, machine: &ShardMachine) {
        let mut segments = self.replica.segments.lock().unwrap_or_else(PoisonError::into_inner);
        segments.retain(|_, segment| segment.strong_count() > 0);
        for segment in machine.segments() {
            segments.insert(segment.graph_image().checksum(), Arc::downgrade(segment));
        }
    }
}

/// What the content comes to, and where.
fn digest_of(machine: &ShardMachine) -> (LogIndex, u128) {
    (machine.applied(), machine.digest())
}

type Entry = (LogIndex, Bytes, Option<oneshot::Sender<Applied>>);
type Replies = Vec<(oneshot::Sender<Applied>, Applied)>;

fn apply_together(
    mut machine: ShardMachine,
    entries: Vec<Entry>,
    store: &dyn Store,
) -> Result<(ShardMachine, Replies, Vec<Replaced>), NodeError> {
    meet(Failpoint::NodeApply)?;
    let mut batch = Batch::default();
    let (mut replies, mut left) = (Vec::new(), Vec::new());
    for (index, data, reply) in entries {
        let Effect { applied, replaced } = machine.apply(index, &data, &mut batch)?;
        left.push(replaced);
        // Entries that are no writes are answered, too: whoever proposed them waits until they are applied.
        replies.extend(reply.map(|reply| (reply, applied.unwrap_or(Applied::At(index)))));
    }
    machine.seal(&mut batch);
    meet(Failpoint::NodeApplyWrite)?;
    store.write(batch)?;
    meet(Failpoint::NodeApplyWritten)?;
    Ok((machine, replies, left))
}
