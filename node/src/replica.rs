//! One shard replica: the task that applies its log, and the view that reads take.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use shoal_consensus::{Apply, Consensus, GroupSpec, StateMachine};
use shoal_index::set::Policy;
use shoal_model::{Epoch, GroupId, HashRange, IndexSpec, LogIndex, NodeId, Shard, ShardId};
use shoal_runtime::{Batch, Store};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::NodeError;
use crate::builder::{Builder, parameters};
use crate::jobs::{Jobs, JobsStatus};
use crate::machine::{ShardMachine, View};
use crate::metrics::Metrics;

/// Log entries that are applied, written and published together.
const APPLY_TOGETHER: usize = 256;

/// The group's answer to a write: the position at which it was applied.
pub(crate) type Written = LogIndex;

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
    consensus: Consensus<Written>,
}

impl Replica {
    /// Opens the replica that `node` holds of `shard`, and the task that applies its log.
    ///
    /// The task ends when the group is closed, or with an error when it cannot go on.
    pub(crate) async fn open(
        shard: &Shard,
        spec: &IndexSpec,
        node: NodeId,
        consensus: &Consensus<Written>,
        store: &Arc<dyn Store>,
        indexing: &Indexing,
    ) -> Result<(Arc<Self>, JoinHandle<Result<(), NodeError>>), NodeError> {
        let not_ready = NodeError::NotReady { shard: shard.id };
        let me = shard.replicas.iter().find(|replica| replica.node == node).ok_or(not_ready)?.id;
        let mut machine = open_machine(shard.id, spec, store, indexing).await?;
        let group = GroupSpec {
            group: group_of(shard.id),
            me,
            voters: shard.replicas.iter().map(|replica| replica.id).collect(),
            witnesses: Vec::new(),
            applied: machine.applied(),
            state_machine: StateMachine::Stored,
            state_lost: false,
        };
        let inbox = consensus.open_group(group).await?;
        let (applied_sender, applied) = watch::channel(machine.applied());
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
        });
        let (builder, metrics) = (indexing.builder.clone(), indexing.metrics.clone());
        let jobs = Jobs::new(shard.id, builder, parameters(spec), metrics, store.clone());
        let (store, pause) = (store.clone(), Pause::new(indexing.quiet_after));
        let task = ApplyTask { replica: replica.clone(), inbox, applied: applied_sender, store, jobs, pause };
        Ok((replica, tokio::spawn(task.run(machine))))
    }

    /// What a read sees now.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// What the replica's jobs are doing.
    pub(crate) fn jobs(&self) -> Arc<JobsStatus> {
        self.jobs.load_full()
    }

    /// Map version of the shard's entry.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Follows the map.
    pub(crate) fn set_epoch(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Ordering::Release);
    }

    /// Writes a checked command; returns its position once it is durable and applied here.
    ///
    /// Errors: `BuildsBehind` if deltas pile up; what was acknowledged is searched all the same.
    pub(crate) async fn write(&self, command: Bytes, deadline: Instant) -> Result<LogIndex, NodeError> {
        self.check_backlog()?;
        Ok(self.consensus.propose(group_of(self.shard), command, deadline.into()).await?)
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

    /// A view that reflects at least `index`, and if `linearizable` every write acknowledged before the call.
    pub(crate) async fn view_at(
        &self,
        index: LogIndex,
        linearizable: bool,
        deadline: Instant,
    ) -> Result<Arc<View>, NodeError> {
        let index = if linearizable {
            index.max(self.consensus.read_index(group_of(self.shard), deadline.into()).await?)
        } else {
            index
        };
        let view = self.view();
        if view.applied >= index {
            return Ok(view);
        }
        let mut applied = self.applied.clone();
        match tokio::time::timeout_at(deadline.into(), applied.wait_for(|at| *at >= index)).await {
            Ok(Ok(_)) => Ok(self.view()),
            Ok(Err(_)) => Err(NodeError::NotReady { shard: self.shard }),
            Err(_) => Err(NodeError::Deadline { doing: "waiting for the replica to catch up" }),
        }
    }

    /// Whether this replica leads its group, and how far the group has agreed.
    pub(crate) fn group_status(&self) -> Option<shoal_consensus::GroupStatus> {
        self.consensus.status(group_of(self.shard))
    }
}

/// A shard's Raft group has the shard's number.
pub(crate) fn group_of(shard: ShardId) -> GroupId {
    GroupId(shard.0)
}

async fn open_machine(
    shard: ShardId,
    spec: &IndexSpec,
    store: &Arc<dyn Store>,
    indexing: &Indexing,
) -> Result<ShardMachine, NodeError> {
    let (store, spec, policy, folder) = (store.clone(), spec.clone(), indexing.policy, indexing.folder.clone());
    let open = move || ShardMachine::open(&*store, shard, &spec, policy, folder.as_deref());
    let (machine, bad) = run_blocking(open).await??;
    indexing.metrics.bad_segments(bad);
    Ok(machine)
}

async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, NodeError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| NodeError::Task(error.to_string()))
}

/// Applies what the group agrees on, in order, and has parts built; the only writer of a replica.
struct ApplyTask {
    replica: Arc<Replica>,
    inbox: mpsc::Receiver<Apply<Written>>,
    applied: watch::Sender<LogIndex>,
    store: Arc<dyn Store>,
    jobs: Jobs,
    pause: Pause,
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
        ended
    }

    async fn until_closed(&mut self, mut machine: ShardMachine) -> Result<(), NodeError> {
        let mut entries = Vec::with_capacity(APPLY_TOGETHER);
        loop {
            self.jobs.begin(&mut machine, self.pause.is_quiet)?;
            self.replica.jobs.store(Arc::new(self.jobs.status()));
            machine = tokio::select! {
                count = self.inbox.recv_many(&mut entries, APPLY_TOGETHER) => {
                    if count == 0 {
                        return Ok(());
                    }
                    self.pause = Pause::new(self.pause.quiet_after);
                    self.apply(std::mem::take(&mut entries), machine).await?
                }
                () = self.pause.quiet() => {
                    self.pause.is_quiet = true;
                    machine.settle();
                    self.replica.view.store(Arc::new(machine.publish()));
                    machine
                }
                event = self.jobs.next() => {
                    let mut machine = self.jobs.handle(event?, machine).await?;
                    self.replica.view.store(Arc::new(machine.publish()));
                    machine
                }
            };
        }
    }

    async fn apply(&self, entries: Vec<Apply<Written>>, machine: ShardMachine) -> Result<ShardMachine, NodeError> {
        let store = self.store.clone();
        let (mut machine, replies) = run_blocking(move || apply_together(machine, entries, &*store)).await??;
        let view = machine.publish();
        let at = view.applied;
        // Readers that wait for a position look at the view after it is announced, so the view comes first.
        self.replica.view.store(Arc::new(view));
        self.applied.send_replace(at);
        self.replica.consensus.applied(group_of(self.replica.shard), at);
        for (reply, index) in replies {
            // A writer that stopped waiting is no concern of ours.
            let _ = reply.send(index);
        }
        Ok(machine)
    }
}

type Replies = Vec<(tokio::sync::oneshot::Sender<Written>, LogIndex)>;

fn apply_together(
    mut machine: ShardMachine,
    entries: Vec<Apply<Written>>,
    store: &dyn Store,
) -> Result<(ShardMachine, Replies), NodeError> {
    let mut batch = Batch::default();
    let mut replies = Vec::new();
    for entry in entries {
        match entry {
            Apply::Entry { index, data, reply } => {
                machine.apply(index, data, &mut batch)?;
                replies.extend(reply.map(|reply| (reply, index)));
            }
            // A shard's group has one member, which can neither fall behind nor be asked for a copy. Dropping
            // the reply tells the group that there is none.
            Apply::Snapshot { reply } => drop(reply),
            Apply::Restore { .. } => {
                let malformed = "a snapshot reached a group of one";
                return Err(NodeError::Task(malformed.to_owned()));
            }
        }
    }
    machine.seal(&mut batch);
    store.write(batch)?;
    Ok((machine, replies))
}
