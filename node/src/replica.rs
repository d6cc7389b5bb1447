//! One shard replica, as everybody but its own task sees it: what reads take, what writes wait for, what it is asked to do.
//! `apply` is the task.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use shoal_consensus::{Consensus, ConsensusError, GroupSpec, GroupStatus, Role, StateMachine};
use shoal_index::segment::Segment;
use shoal_index::set::Policy;
use shoal_model::{Epoch, GroupId, HashRange, IndexSpec, InputError, LogIndex, NodeId, ReplicaId, Shard, ShardId};
use shoal_runtime::Store;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::NodeError;
use crate::blocking;
use crate::builder::{Builder, parameters};
use crate::damage::Damage;
use crate::disks::Disks;
use crate::freshness::Freshness;
use crate::jobs::{Jobs, JobsStatus};
use crate::lead::Lead;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::shard::machine::{Applied, ShardMachine, View};
use crate::shard::parts::{Manifest, Name};
use crate::transfer::Exports;

mod apply;

use apply::{ApplyTask, Leads, Pause, digest_of};

/// Errands that wait for the apply task.
const ERRANDS: usize = 64;
/// How long a read waits for this replica to catch up before another is the better choice.
const CATCH_UP_WITHIN: Duration = Duration::from_millis(500);
/// How long a read waits for the group to say how far it is.
const READ_INDEX_WITHIN: Duration = Duration::from_secs(2);

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
    pub(crate) damage: Damage,
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
    /// How often it was, or began to be.
    contents: AtomicU64,
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
        let (mut machine, is_lost) = open_or_stand_in(shard, spec, store, indexing).await?;
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
            contents: AtomicU64::new(0),
            mending: AtomicBool::new(false),
        });
        let (peers, disk) = (indexing.peers.clone(), indexing.disks.changes());
        let jobs = Jobs::new(shard.id, indexing, parameters(spec), store.clone());
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
            files_from: 0,
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
        self.peers.have(self.shard)
    }

    /// What the replica's jobs are doing.
    pub(crate) fn jobs(&self) -> Arc<JobsStatus> {
        self.jobs.load_full()
    }

    /// Whether its content is being replaced, and cannot be read.
    pub(crate) fn is_restoring(&self) -> bool {
        self.restoring.load(Ordering::Acquire)
    }

    /// Which content it has, of those that it had so far: another one once it begins to be replaced. What is read from disk
    /// between two equal answers is of one content.
    pub(crate) fn content(&self) -> u64 {
        self.contents.load(Ordering::Acquire)
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

/// Opens what is stored. If that is not as it was written and another replica has the content, an empty one stands in for it:
/// the second value says so, and that it is to be restored from there. What is stored stays until then, as the other may be
/// lost before.
async fn open_or_stand_in(
    shard: &Shard,
    spec: &IndexSpec,
    store: &Arc<dyn Store>,
    indexing: &Indexing,
) -> Result<(ShardMachine, bool), NodeError> {
    let opened = open_machine(shard.id, spec, store, indexing).await;
    let Err(damage @ NodeError::Malformed { .. }) = opened else { return Ok((opened?, false)) };
    // Also one that was to have none by the map of the last start: it may have it by now.
    if indexing.peers.of(shard.id).is_empty() {
        return Err(damage);
    }
    tracing::error!(shard = shard.id.0, error = %damage, "the content is not as it was written; another replica's is fetched");
    indexing.metrics.damaged();
    Ok((ShardMachine::stand_in(shard.id, spec, indexing.policy)?, true))
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
