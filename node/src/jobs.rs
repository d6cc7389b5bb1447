//! The jobs of one replica: builds and merges if it leads, and fetching segments that another has built. Its apply task plans
//! them, the node's builder runs the former, and the task keeps what they made until the log installs it. The task is the
//! only writer, and the owner of every job: it cancels them and waits for them before it ends.
//!
//! A job that fails costs nothing but time: its parts go on to be searched as they are, and it is tried again, each
//! time later.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use shoal_index::file::Image;
use shoal_index::segment::{BuildError, Parameters, Segment, Target};
use shoal_index::set::{Frozen, Job, JobError, JobId, JobInput, Product, Retired};
use shoal_model::failpoints::{Failpoint, Injected, meet};
use shoal_model::{NodeId, ShardId};
use shoal_runtime::{Store, StoreError};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::NodeError;
use crate::blocking;
use crate::builder::{Builder, Cancel, Lane, Unfinished, Urgency};
use crate::disks::Disks;
use crate::fetch::{self, FetchError};
use crate::lead;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::replica::Indexing;
use crate::shard::machine::{Begun, Replaced, ShardMachine};
use crate::shard::parts::{Manifest, Name};
use crate::shard::segment_files;

/// Pause after the first failure in a row; it doubles with each.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest pause.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Deaths during a job that its install looks up itself, in some milliseconds; more are looked up by another thread.
const DIED_MAX: usize = 1_000;
/// How often retired parts are asked whether a view still shows them.
const RETIRED_ASK_EVERY: Duration = Duration::from_millis(50);

/// What operators are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct JobsStatus {
    /// The jobs that run or wait for their turn.
    pub(crate) running: Vec<String>,
    /// What went wrong last, if nothing has gone well in its lane since.
    pub(crate) failures: Vec<String>,
    /// Whether the last build failed, so that deltas may wait for ever.
    pub(crate) cannot_build: bool,
}

/// The jobs of a replica.
pub(crate) struct Jobs {
    shard: ShardId,
    builder: Arc<Builder>,
    peers: Arc<Peers>,
    disks: Arc<Disks>,
    parameters: Parameters,
    metrics: Metrics,
    store: Arc<dyn Store>,
    cancel: Cancel,
    tasks: JoinSet<Event>,
    lanes: BTreeMap<Lane, LaneState>,
    /// Fetching what is missing, one segment at a time.
    mending: LaneState,
    /// Whether this replica leads, as the task said last.
    leads: bool,
    /// Deltas that wait when builds begin to press.
    pressing_from: usize,
    /// How builds are run now.
    urgency: Urgency,
    /// Segments that jobs found to be damaged, by checksum, until the task asks for them.
    damaged: Vec<u64>,
    /// A damaged segment cannot be fetched: the shard is to be read from its store again.
    is_beyond_mending: bool,
}

/// A lane of this replica.
#[derive(Debug, Default)]
struct LaneState {
    running: Option<Running>,
    /// Failures in a row.
    failures: u32,
    failure: String,
    /// No job before it.
    rests_until: Option<Instant>,
}

#[derive(Debug)]
struct Running {
    job: JobId,
    what: String,
    urgency: Urgency,
    cancel: Cancel,
}

/// What happened.
pub(crate) enum Event {
    /// A job has ended.
    Ended(Box<Ended>),
    /// A segment was fetched, or not.
    Fetched(Box<Fetched>),
    /// The install of a segment that was offered is late, if it has not come.
    Overdue(JobId),
    /// A lane has rested.
    Rested,
    /// What was replaced is gone, unless the store could not be synced.
    Reclaimed(Result<(), NodeError>),
}

/// A job that has ended.
pub(crate) struct Ended {
    id: JobId,
    lane: Lane,
    kind: &'static str,
    number: u64,
    target: Target,
    /// What it made, and how long it ran.
    result: Result<(Product, Duration), Failure>,
}

/// A segment that was fetched, or not.
pub(crate) struct Fetched {
    job: JobId,
    number: u64,
    target: Target,
    /// Whether no peer has it, if it was not fetched.
    result: Result<Product, (FetchError, bool)>,
    purpose: Purpose,
}

/// What a segment was fetched for.
enum Purpose {
    /// Its leader has built it and waits for us.
    Offered(oneshot::Sender<Result<(), NodeError>>),
    /// It is installed, and its files are missing here.
    Missing(Name),
}

/// A segment that is ready to be installed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) replaced: Vec<Name>,
    /// `None` if none of their points lives.
    pub(crate) manifest: Option<Manifest>,
}

/// Why a job made nothing.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Job(#[from] JobError),
    #[error(transparent)]
    Unfinished(#[from] Unfinished),
    #[error(transparent)]
    Injected(#[from] Injected),
    /// A segment that it reads is damaged: trying again will not help.
    #[error("{error}")]
    Damaged {
        /// Checksum of its graph.
        segment: u64,
        /// What is wrong.
        error: JobError,
    },
}

impl Failure {
    /// Why a job on `input` came to nothing.
    fn of(input: &JobInput, error: JobError) -> Self {
        let JobError::Build(BuildError::Part(bad)) = &error else { return error.into() };
        let segments = input.segments().iter().map(Frozen::segment);
        let is_it =
            |segment: &&Segment| [segment.graph_image(), segment.stored_image()].map(Image::path).contains(&&*bad.path);
        match segments.into_iter().find(is_it).map(|segment| segment.graph_image().checksum()) {
            Some(segment) => Self::Damaged { segment, error },
            None => error.into(),
        }
    }

    fn is_cancelled(&self) -> bool {
        matches!(self, Self::Unfinished(Unfinished::Cancelled) | Self::Job(JobError::Build(BuildError::Cancelled)))
    }
}

impl Jobs {
    /// None runs yet.
    pub(crate) fn new(shard: ShardId, indexing: &Indexing, parameters: Parameters, store: Arc<dyn Store>) -> Self {
        let lanes = Lane::ALL.into_iter().map(|lane| (lane, LaneState::default())).collect();
        Self {
            shard,
            builder: indexing.builder.clone(),
            peers: indexing.peers.clone(),
            disks: indexing.disks.clone(),
            parameters,
            metrics: indexing.metrics.clone(),
            store,
            cancel: Cancel::default(),
            tasks: JoinSet::new(),
            lanes,
            mending: LaneState::default(),
            leads: false,
            pressing_from: pressing_from(indexing.deltas_waiting_max),
            urgency: Urgency::Spare,
            damaged: Vec::new(),
            is_beyond_mending: false,
        }
    }

    /// Begins what is to be done and may be done now: builds and merges if this replica `leads`, more of them if the shard
    /// `is_quiet`.
    pub(crate) fn begin(&mut self, machine: &mut ShardMachine, leads: bool, is_quiet: bool) -> Result<(), NodeError> {
        let now = Instant::now();
        self.leads = leads;
        if self.disks.is_low() {
            return self.make_way(machine);
        }
        self.hurry(machine)?;
        self.cancel_ended(machine);
        self.mend(machine, now)?;
        for lane in Lane::ALL.into_iter().filter(|_| leads) {
            if self.is_free(lane, now)
                && let Some(names) = machine.plan(lane, is_quiet)
            {
                match self.disks.check_room(machine.bytes_of(&names)) {
                    Ok(()) => self.begin_job(lane, &names, machine)?,
                    Err(refusal) => self.put_off(lane, &refusal),
                }
            }
        }
        Ok(())
    }

    /// Lets builds take more than spare time while many deltas wait. One that has had none by then begins again.
    fn hurry(&mut self, machine: &mut ShardMachine) -> Result<(), NodeError> {
        self.urgency = match machine.deltas_waiting() {
            waiting if waiting >= self.pressing_from => Urgency::Pressing,
            waiting if 2 * waiting <= self.pressing_from => Urgency::Spare,
            _ => self.urgency,
        };
        let is_late = |build: &mut Running| (build.urgency, self.urgency) == (Urgency::Spare, Urgency::Pressing);
        let build = self.lanes.get_mut(&Lane::Build).and_then(|state| state.running.take_if(is_late));
        // It may be long until it hears of it.
        if let Some(late) = build {
            tracing::info!(shard = self.shard.0, job = late.what, "begun again, as writes wait for it");
            machine.abandon(late.job)?;
            late.cancel.set();
            self.metrics.job_cancelled("build");
        }
        Ok(())
    }

    fn is_free(&self, lane: Lane, now: Instant) -> bool {
        self.lanes.get(&lane).is_none_or(|state| state.is_free(now))
    }

    /// Ends builds and merges: another leads.
    pub(crate) fn stand_down(&mut self, machine: &mut ShardMachine) -> Result<(), NodeError> {
        for state in self.lanes.values_mut() {
            if let Some(running) = &state.running {
                machine.abandon(running.job)?;
            }
            state.failures = 0;
            state.rests_until = None;
        }
        self.cancel_ended(machine);
        Ok(())
    }

    /// Ends what runs, as the disk has no room for it.
    fn make_way(&mut self, machine: &mut ShardMachine) -> Result<(), NodeError> {
        for state in self.lanes.values().chain([&self.mending]) {
            if let Some(running) = &state.running {
                machine.abandon(running.job)?;
            }
        }
        self.cancel_ended(machine);
        Ok(())
    }

    /// A lane rests, as the disk has no room for its next job.
    fn put_off(&mut self, lane: Lane, refusal: &NodeError) {
        let pause = self.lanes.entry(lane).or_default().fail(refusal.to_string());
        tracing::warn!(shard = self.shard.0, ?lane, %refusal, retry_in = ?pause, "a job has to wait");
    }

    /// Cancels tasks whose job was ended by an entry.
    fn cancel_ended(&mut self, machine: &ShardMachine) {
        for state in self.lanes.values().chain([&self.mending]) {
            state.running.iter().filter(|running| !machine.runs(running.job)).for_each(|running| running.cancel.set());
        }
    }

    /// Fetches a segment whose files are missing, or, if no other has it and this replica `leads`, builds its points anew.
    fn mend(&mut self, machine: &mut ShardMachine, now: Instant) -> Result<(), NodeError> {
        let lacks = machine.lacks();
        if lacks.is_none() && self.mending.running.is_none() {
            // What could not be fetched is here by another way, or nobody needs it any more.
            self.mending = LaneState::default();
        }
        let Some((name, manifest)) = lacks.filter(|_| self.mending.is_free(now)) else { return Ok(()) };
        let nodes = self.peers.of(self.shard);
        if nodes.is_empty() && machine.is_damaged(name) {
            self.is_beyond_mending = true;
            return Ok(());
        }
        if nodes.is_empty() {
            let may_build = self.leads && self.is_free(Lane::Build, now);
            return if may_build { self.begin_job(Lane::Build, &[name], machine) } else { Ok(()) };
        }
        let (begun, left) = machine.begin(&[name])?;
        self.discard(left);
        let what = format!("fetching segment {name} of {} bytes", manifest.graph_bytes + manifest.stored_bytes);
        let cancel = self.cancel.child();
        let (job, urgency) = (begun.input.id(), Urgency::Spare);
        self.mending.running = Some(Running { job, what, urgency, cancel: cancel.clone() });
        self.mending.rests_until = None;
        self.fetch(begun, manifest, nodes, Purpose::Missing(name), cancel);
        Ok(())
    }

    /// A segment that a job found to be damaged, if there is one of which the task does not know.
    pub(crate) fn take_damaged(&mut self) -> Option<u64> {
        self.damaged.pop()
    }

    /// Whether a damaged segment cannot be fetched. Told once.
    pub(crate) fn take_beyond_mending(&mut self) -> bool {
        std::mem::take(&mut self.is_beyond_mending)
    }

    /// What is missing is fetched now, whatever was missing before and could not be.
    pub(crate) fn mend_at_once(&mut self) {
        self.mending.rests_until = None;
        self.mending.failures = 0;
    }

    /// Fetches a segment that `node` has built of some parts, and tells `reply` once it is here.
    pub(crate) fn fetch_offered(
        &mut self,
        machine: &mut ShardMachine,
        node: NodeId,
        replaced: &[Name],
        manifest: Manifest,
        reply: oneshot::Sender<Result<(), NodeError>>,
    ) -> Result<(), NodeError> {
        if machine.is_ready(manifest.checksum, replaced) {
            let _ = reply.send(Ok(())); // or nobody waits
        } else if let Err(refusal) = self.disks.check_room(manifest.graph_bytes + manifest.stored_bytes) {
            let _ = reply.send(Err(refusal)); // or nobody waits
        } else if machine.has(replaced) {
            let (begun, left) = machine.begin(replaced)?;
            self.discard(left);
            let cancel = self.cancel.child();
            self.fetch(begun, manifest, vec![node], Purpose::Offered(reply), cancel);
        } else {
            // The entries that made these parts are on their way, or those that replaced them have come.
            let _ = reply.send(Err(NodeError::NotReady { shard: self.shard })); // or nobody waits
        }
        Ok(())
    }

    fn fetch(&mut self, begun: Begun, manifest: Manifest, nodes: Vec<NodeId>, purpose: Purpose, cancel: Cancel) {
        let (peers, shard) = (self.peers.clone(), self.shard);
        self.tasks.spawn(async move {
            let Begun { input, number, target, .. } = begun;
            let job = input.id();
            let result = tokio::select! {
                fetched = fetch_and_adopt(&peers, shard, manifest, &nodes, &target, input) => fetched,
                () = cancel.cancelled() => Err((FetchError::Cancelled, false)),
            };
            Event::Fetched(Box::new(Fetched { job, number, target, result, purpose }))
        });
    }

    fn begin_job(&mut self, lane: Lane, names: &[Name], machine: &mut ShardMachine) -> Result<(), NodeError> {
        let (Begun { input, number, target, .. }, left) = machine.begin(names)?;
        self.discard(left);
        let kind = kind_of(input.job());
        let cancel = self.cancel.child();
        let urgency = if lane == Lane::Build { self.urgency } else { Urgency::Spare };
        let what = Description(&input).to_string();
        let running = Running { job: input.id(), what, urgency, cancel: cancel.clone() };
        tracing::debug!(shard = self.shard.0, job = running.what, "begun");
        let state = self.lanes.entry(lane).or_default();
        state.running = Some(running);
        state.rests_until = None;
        let (builder, parameters) = (self.builder.clone(), self.parameters);
        self.tasks.spawn(async move {
            let id = input.id();
            let result = run(builder, (lane, urgency), input, parameters, target.clone(), &cancel).await;
            Event::Ended(Box::new(Ended { id, lane, kind, number, target, result }))
        });
        Ok(())
    }

    /// The next event. Safe to drop.
    pub(crate) async fn next(&mut self) -> Result<Event, NodeError> {
        let lanes = self.lanes.values().chain([&self.mending]);
        let rests_until = lanes.filter_map(|state| state.rests_until).min();
        let rested = async {
            match rests_until {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let ended = async {
            match self.tasks.join_next().await {
                Some(ended) => ended.map_err(|error| NodeError::Task(error.to_string())),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = ended => ended,
            () = rested => Ok(Event::Rested),
        }
    }

    /// Carries out what an event asks for; tells of a segment that this replica has made, for the log to install.
    pub(crate) async fn handle(
        &mut self,
        event: Event,
        mut machine: ShardMachine,
    ) -> Result<(ShardMachine, Option<Made>), NodeError> {
        match event {
            Event::Ended(ended) => self.end(*ended, machine).await,
            Event::Fetched(fetched) => Ok((self.take_fetched(*fetched, machine)?, None)),
            Event::Overdue(job) => {
                let left = machine.forget_overdue(job);
                self.discard(left);
                Ok((machine, None))
            }
            Event::Rested => {
                let now = Instant::now();
                let lanes = self.lanes.values_mut().chain([&mut self.mending]);
                let rested = lanes.filter(|state| state.rests_until.is_some_and(|at| at <= now));
                rested.for_each(|state| state.rests_until = None);
                Ok((machine, None))
            }
            // What is on disk is not known then.
            Event::Reclaimed(synced) => synced.map(|()| (machine, None)),
        }
    }

    async fn end(
        &mut self,
        ended: Ended,
        mut machine: ShardMachine,
    ) -> Result<(ShardMachine, Option<Made>), NodeError> {
        let Ended { id, lane, kind, number, target, result } = ended;
        let made = match result {
            Ok(_) if !machine.runs(id) => Err(Unfinished::Cancelled.into()),
            result => result,
        };
        let (product, took) = match made {
            Ok(made) => made,
            Err(failure) => {
                machine.abandon(id)?;
                segment_files::remove(&target);
                self.failed(lane, id, kind, &failure);
                return Ok((machine, None));
            }
        };
        let died = machine.died(&product)?;
        if died.len() > DIED_MAX {
            self.tasks.spawn(async move {
                let bury = move || {
                    let mut product = product;
                    product.bury(&died);
                    (product, took)
                };
                let buried = tokio::task::spawn_blocking(bury).await;
                let result = buried.map_err(|error| Unfinished::Panicked(error.to_string()).into());
                Event::Ended(Box::new(Ended { id, lane, kind, number, target, result }))
            });
            return Ok((machine, None));
        }
        let (replaced, manifest) = machine.hold(product, number)?;
        self.done(lane, kind, took);
        Ok((machine, Some(Made { replaced, manifest })))
    }

    fn take_fetched(&mut self, fetched: Fetched, mut machine: ShardMachine) -> Result<ShardMachine, NodeError> {
        let Fetched { job, number, target, result, purpose } = fetched;
        let product = match result {
            Ok(product) if machine.runs(job) => product,
            Ok(_) => return self.not_fetched(job, &target, &FetchError::Cancelled, false, purpose, machine),
            Err((error, nobody_has_it)) => {
                return self.not_fetched(job, &target, &error, nobody_has_it, purpose, machine);
            }
        };
        self.metrics.fetched_segment();
        match purpose {
            Purpose::Offered(reply) => {
                let (_, manifest) = machine.hold(product, number)?;
                self.expect_install(job, manifest);
                let _ = reply.send(Ok(())); // or nobody waits
            }
            Purpose::Missing(name) => {
                self.mending = LaneState::default();
                let left = machine.complete(name, product, number, &*self.store)?;
                tracing::info!(shard = self.shard.0, segment = name, "a segment that was missing is here again");
                self.discard(left);
            }
        }
        Ok(machine)
    }

    /// A segment that waits for an install in vain keeps its parts from being fetched or built.
    fn expect_install(&mut self, job: JobId, manifest: Option<Manifest>) {
        let (within, cancel) = (lead::installs_within(manifest.unwrap_or_default()), self.cancel.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(within) => {}
                () = cancel.cancelled() => {}
            }
            Event::Overdue(job)
        });
    }

    fn not_fetched(
        &mut self,
        job: JobId,
        target: &Target,
        error: &FetchError,
        nobody_has_it: bool,
        purpose: Purpose,
        mut machine: ShardMachine,
    ) -> Result<ShardMachine, NodeError> {
        machine.abandon(job)?;
        segment_files::remove(target);
        match purpose {
            Purpose::Offered(reply) => {
                tracing::debug!(shard = self.shard.0, %error, "a segment that was offered is not fetched");
                let _ = reply.send(Err(NodeError::Task(error.to_string()))); // or nobody waits
            }
            Purpose::Missing(name) => {
                self.mending.running = None;
                if matches!(error, FetchError::Cancelled) {
                    return Ok(machine);
                }
                self.mending.fail(format!("fetching segment {name}: {error}"));
                tracing::warn!(shard = self.shard.0, segment = name, %error, "a segment that is missing is not fetched");
                if machine.is_damaged(name) {
                    self.is_beyond_mending = true;
                    return Ok(machine);
                }
                if nobody_has_it && self.is_free(Lane::Build, Instant::now()) {
                    self.unfetchable(name, &mut machine)?;
                }
            }
        }
        Ok(machine)
    }

    /// No peer has a segment that is missing: its points are built in anew, if this replica comes to lead.
    fn unfetchable(&mut self, name: Name, machine: &mut ShardMachine) -> Result<(), NodeError> {
        if self.leads {
            self.begin_job(Lane::Build, &[name], machine)?;
            // That one is seen to; the next need not rest for it.
            self.mending = LaneState::default();
        }
        Ok(())
    }

    fn done(&mut self, lane: Lane, kind: &'static str, took: Duration) {
        self.metrics.job_done(kind, took);
        let running = self.lanes.insert(lane, LaneState::default()).and_then(|state| state.running);
        let what = running.map(|running| running.what);
        tracing::info!(shard = self.shard.0, job = what, seconds = took.as_secs_f64(), "done");
    }

    fn failed(&mut self, lane: Lane, job: JobId, kind: &'static str, failure: &Failure) {
        let state = self.lanes.entry(lane).or_default();
        let Some(Running { what, .. }) = state.running.take_if(|running| running.job == job) else { return };
        if failure.is_cancelled() {
            self.metrics.job_cancelled(kind);
            return;
        }
        self.metrics.job_failed(kind);
        if let Failure::Damaged { segment, .. } = failure {
            tracing::error!(shard = self.shard.0, job = what, error = %failure, "a segment is damaged");
            self.damaged.push(*segment);
            return;
        }
        let pause = state.fail(format!("{what}: {failure}"));
        tracing::warn!(shard = self.shard.0, job = what, error = %failure, retry_in = ?pause, "a job failed");
    }

    /// Gives back what an entry or a job has left, once that is safe.
    pub(crate) fn discard(&mut self, left: Replaced) {
        if !left.files.is_empty() || !left.retired.is_empty() {
            self.tasks.spawn(reclaim(left, self.store.clone(), self.cancel.clone()));
        }
    }

    /// What operators are told.
    pub(crate) fn status(&self) -> JobsStatus {
        let lanes = || self.lanes.values().chain([&self.mending]);
        let failed = |state: &&LaneState| state.failures > 0;
        JobsStatus {
            running: lanes().filter_map(|state| Some(state.running.as_ref()?.what.clone())).collect(),
            failures: lanes().filter(failed).map(|state| state.failure.clone()).collect(),
            cannot_build: self.lanes.get(&Lane::Build).is_some_and(|state| state.failures > 0),
        }
    }

    /// Cancels all jobs and waits for them: some milliseconds, or until files that are being written are.
    pub(crate) async fn stop(mut self) {
        self.cancel.set();
        while let Some(event) = self.tasks.join_next().await {
            match event {
                Ok(Event::Ended(ended)) => {
                    self.metrics.job_cancelled(ended.kind);
                    // Made in the last moment, or half: it is not listed, so that nobody would use it.
                    segment_files::remove(&ended.target);
                }
                Ok(Event::Fetched(fetched)) => segment_files::remove(&fetched.target),
                Ok(_) => {}
                Err(error) => tracing::error!(shard = self.shard.0, %error, "a job's task failed"),
            }
        }
    }
}

async fn fetch_and_adopt(
    peers: &Peers,
    shard: ShardId,
    manifest: Manifest,
    nodes: &[NodeId],
    target: &Target,
    input: JobInput,
) -> Result<Product, (FetchError, bool)> {
    let segment = fetch::segment(peers, shard, manifest, nodes, target).await?;
    let adopted = blocking::run(move || input.adopt(segment)).await.map_err(FetchError::from);
    adopted.and_then(|adopted| adopted.map_err(FetchError::from)).map_err(|error| (error, false))
}

impl LaneState {
    fn is_free(&self, now: Instant) -> bool {
        self.running.is_none() && self.rests_until.is_none_or(|at| at <= now)
    }

    /// Rests after a failure; tells how long.
    fn fail(&mut self, failure: String) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let pause = pause_after(self.failures);
        self.rests_until = Some(Instant::now() + pause);
        self.failure = failure;
        pause
    }
}

/// How many deltas have to wait for builds to press, where writes are pushed back at `deltas_waiting_max`: before that
/// happens, and not before it is likely to.
fn pressing_from(deltas_waiting_max: usize) -> usize {
    (3 * deltas_waiting_max / 4).max(1)
}

/// How long a lane rests after so many failures in a row, at least one.
pub fn pause_after(failures: u32) -> Duration {
    RETRY_AFTER.saturating_mul(1 << (failures - 1).min(16)).min(RETRY_AFTER_MAX)
}

/// Runs a job on the builder.
async fn run(
    builder: Arc<Builder>,
    turn: (Lane, Urgency),
    input: JobInput,
    parameters: Parameters,
    target: Target,
    cancel: &Cancel,
) -> Result<(Product, Duration), Failure> {
    let stop = cancel.clone();
    let work = move || {
        let started = Instant::now();
        meet(Failpoint::NodeBuild)?;
        let made = input.execute(&parameters, &target, &|| stop.is_set_after_others());
        let product = made.map_err(|error| Failure::of(&input, error))?;
        meet(Failpoint::NodeBuilt)?;
        Ok((product, started.elapsed()))
    };
    builder.run(turn, cancel, work).await?
}

/// Removes files that are listed no more once that is durable, and gives back the memory of parts that no view shows.
async fn reclaim(replaced: Replaced, store: Arc<dyn Store>, cancel: Cancel) -> Event {
    let Replaced { retired, files } = replaced;
    let mut synced = Ok(());
    if !files.is_empty() {
        let remove = move || remove_files(&files, &*store);
        synced = blocking::run(remove).await.and_then(|synced| synced.map_err(Into::into));
    }
    for retired in retired {
        drop_unused(retired, &cancel).await;
    }
    Event::Reclaimed(synced)
}

/// Removes files that are listed no more, once that is durable. Errors: those of the sync.
fn remove_files(files: &[Target], store: &dyn Store) -> Result<(), StoreError> {
    if let Err(error) = meet(Failpoint::NodeReclaim) {
        tracing::warn!(%error, "files of replaced segments stay until the next start");
        return Ok(());
    }
    store.sync()?;
    files.iter().for_each(segment_files::remove);
    Ok(())
}

async fn drop_unused(retired: Retired, cancel: &Cancel) {
    while !retired.is_unused() {
        tokio::select! {
            () = tokio::time::sleep(RETIRED_ASK_EVERY) => {}
            () = cancel.cancelled() => break,
        }
    }
    let _ = tokio::task::spawn_blocking(move || drop(retired)).await; // cannot panic
}

fn kind_of(job: &Job) -> &'static str {
    match job {
        Job::Build { .. } | Job::Gather { .. } => "build",
        Job::Merge { .. } => "merge",
        Job::Rewrite { .. } => "rewrite",
    }
}

/// A job for people.
struct Description<'a>(&'a JobInput);

impl fmt::Display for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let points = self.0.len();
        match self.0.job() {
            _ if self.0.is_empty() => write!(f, "dropping a part without points"),
            Job::Build { .. } | Job::Gather { .. } => write!(f, "building a segment of {points} points"),
            Job::Merge { segments } => write!(f, "merging {} segments into one of {points} points", segments.len()),
            Job::Rewrite { .. } => write!(f, "rewriting a segment of {points} points without its tombstones"),
        }
    }
}

#[cfg(test)]
mod tests;
