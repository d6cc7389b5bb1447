//! The jobs of one replica: its apply task plans them, the node's builder runs them, and the task installs what they
//! made. The task is the only writer, and the owner of every job: it cancels them and waits for them before it ends.
//!
//! A job that fails costs nothing but time: its parts go on to be searched as they are, and it is tried again, each
//! time later.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use shoal_index::segment::{BuildError, Parameters, Target};
use shoal_index::set::{Job, JobError, JobId, JobInput, PartId, Product, Retired};
use shoal_model::ShardId;
use shoal_runtime::Store;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::NodeError;
use crate::builder::{Builder, Cancel, Lane, Unfinished};
use crate::machine::{Replaced, ShardMachine};
use crate::metrics::Metrics;
use crate::segment_files;

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
    parameters: Parameters,
    metrics: Metrics,
    store: Arc<dyn Store>,
    cancel: Cancel,
    tasks: JoinSet<Event>,
    lanes: BTreeMap<Lane, LaneState>,
    damage: Damage,
}

/// Segments that are damaged, and those that a job read beside them: left as they are until the next start, which finds
/// out which of them it is and builds its points in again.
#[derive(Debug, Default)]
struct Damage {
    parts: BTreeSet<PartId>,
    reports: Vec<String>,
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
    parts: Vec<PartId>,
    what: String,
}

/// What happened.
pub(crate) enum Event {
    /// A job has ended.
    Ended(Box<Ended>),
    /// A lane has rested.
    Rested,
    /// What was replaced is gone.
    Reclaimed,
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

/// Why a job made nothing.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Job(#[from] JobError),
    #[error(transparent)]
    Unfinished(#[from] Unfinished),
}

impl Failure {
    /// Whether a segment that it reads is damaged: trying again will not help.
    fn is_damage(&self) -> bool {
        matches!(self, Self::Job(JobError::Build(BuildError::Part(_))))
    }

    fn is_cancelled(&self) -> bool {
        matches!(self, Self::Unfinished(Unfinished::Cancelled) | Self::Job(JobError::Build(BuildError::Cancelled)))
    }
}

impl Jobs {
    /// None runs yet.
    pub(crate) fn new(
        shard: ShardId,
        builder: Arc<Builder>,
        parameters: Parameters,
        metrics: Metrics,
        store: Arc<dyn Store>,
    ) -> Self {
        let lanes = Lane::ALL.into_iter().map(|lane| (lane, LaneState::default())).collect();
        Self {
            shard,
            builder,
            parameters,
            metrics,
            store,
            cancel: Cancel::default(),
            tasks: JoinSet::new(),
            lanes,
            damage: Damage::default(),
        }
    }

    /// Begins what is to be done and may be done now; more if the shard `is_quiet`.
    pub(crate) fn begin(&mut self, machine: &mut ShardMachine, is_quiet: bool) -> Result<(), NodeError> {
        let now = Instant::now();
        for lane in Lane::ALL {
            let free = self.lanes.get(&lane).is_none_or(|state| state.is_free(now));
            if free && let Some(job) = machine.plan(lane, &self.taken(), is_quiet) {
                self.begin_job(lane, job, machine)?;
            }
        }
        Ok(())
    }

    fn taken(&self) -> BTreeSet<PartId> {
        let running = self.lanes.values().filter_map(|state| state.running.as_ref());
        running.flat_map(|running| &running.parts).chain(&self.damage.parts).copied().collect()
    }

    fn begin_job(&mut self, lane: Lane, job: Job, machine: &mut ShardMachine) -> Result<(), NodeError> {
        let kind = kind_of(&job);
        let parts = job.parts().to_vec();
        let (input, number, target) = machine.begin(job)?;
        let running = Running { parts, what: Description(&input).to_string() };
        tracing::debug!(shard = self.shard.0, job = running.what, "begun");
        let state = self.lanes.entry(lane).or_default();
        state.running = Some(running);
        state.rests_until = None;
        let (builder, parameters, cancel) = (self.builder.clone(), self.parameters, self.cancel.clone());
        self.tasks.spawn(async move {
            let id = input.id();
            let result = run(builder, lane, input, parameters, target.clone(), &cancel).await;
            Event::Ended(Box::new(Ended { id, lane, kind, number, target, result }))
        });
        Ok(())
    }

    /// The next event. Safe to drop.
    pub(crate) async fn next(&mut self) -> Result<Event, NodeError> {
        let rests_until = self.lanes.values().filter_map(|state| state.rests_until).min();
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

    /// Carries out what an event asks for.
    pub(crate) async fn handle(&mut self, event: Event, machine: ShardMachine) -> Result<ShardMachine, NodeError> {
        match event {
            Event::Ended(ended) => self.end(*ended, machine).await,
            Event::Rested => {
                let now = Instant::now();
                let rested = self.lanes.values_mut().filter(|state| state.rests_until.is_some_and(|at| at <= now));
                rested.for_each(|state| state.rests_until = None);
                Ok(machine)
            }
            Event::Reclaimed => Ok(machine),
        }
    }

    async fn end(&mut self, ended: Ended, mut machine: ShardMachine) -> Result<ShardMachine, NodeError> {
        let Ended { id, lane, kind, number, target, result } = ended;
        let (product, took) = match result {
            Ok(made) => made,
            Err(failure) => {
                machine.abandon(id)?;
                segment_files::remove(&target);
                self.failed(lane, kind, &failure);
                return Ok(machine);
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
            return Ok(machine);
        }
        let store = self.store.clone();
        let install = move || machine.install(product, number, &*store).map(|replaced| (machine, replaced));
        let installed = tokio::task::spawn_blocking(install).await;
        let (machine, replaced) = installed.map_err(|error| NodeError::Task(error.to_string()))??;
        self.done(lane, kind, took);
        self.tasks.spawn(reclaim(replaced, self.store.clone(), self.cancel.clone()));
        Ok(machine)
    }

    fn done(&mut self, lane: Lane, kind: &'static str, took: Duration) {
        self.metrics.job_done(kind, took);
        let running = self.lanes.insert(lane, LaneState::default()).and_then(|state| state.running);
        let what = running.map(|running| running.what);
        tracing::info!(shard = self.shard.0, job = what, seconds = took.as_secs_f64(), "done");
    }

    fn failed(&mut self, lane: Lane, kind: &'static str, failure: &Failure) {
        let state = self.lanes.entry(lane).or_default();
        let Some(Running { parts, what }) = state.running.take() else { return };
        if failure.is_cancelled() {
            self.metrics.job_cancelled(kind);
            return;
        }
        self.metrics.job_failed(kind);
        if failure.is_damage() {
            tracing::error!(shard = self.shard.0, job = what, error = %failure, "a segment is damaged");
            self.damage.parts.extend(parts);
            self.damage.reports.push(format!("{what}: {failure}: restart the node, which does that from its store"));
            return;
        }
        state.failures += 1;
        let pause = pause_after(state.failures);
        state.rests_until = Some(Instant::now() + pause);
        state.failure = format!("{what}: {failure}");
        tracing::warn!(shard = self.shard.0, job = what, error = %failure, retry_in = ?pause, "a job failed");
    }

    /// What operators are told.
    pub(crate) fn status(&self) -> JobsStatus {
        let failed = |state: &&LaneState| state.failures > 0;
        JobsStatus {
            running: self.lanes.values().filter_map(|state| Some(state.running.as_ref()?.what.clone())).collect(),
            failures: (self.lanes.values().filter(failed).map(|state| state.failure.clone()))
                .chain(self.damage.reports.iter().cloned())
                .collect(),
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
                Ok(_) => {}
                Err(error) => tracing::error!(shard = self.shard.0, %error, "a job's task failed"),
            }
        }
    }
}

impl LaneState {
    fn is_free(&self, now: Instant) -> bool {
        self.running.is_none() && self.rests_until.is_none_or(|at| at <= now)
    }
}

fn pause_after(failures: u32) -> Duration {
    RETRY_AFTER.saturating_mul(1 << (failures - 1).min(16)).min(RETRY_AFTER_MAX)
}

/// Runs a job on the builder.
async fn run(
    builder: Arc<Builder>,
    lane: Lane,
    input: JobInput,
    parameters: Parameters,
    target: Target,
    cancel: &Cancel,
) -> Result<(Product, Duration), Failure> {
    let stop = cancel.clone();
    let work = move || {
        let started = Instant::now();
        let made = input.execute(&parameters, &target, &|| stop.is_set_after_others());
        made.map(|product| (product, started.elapsed()))
    };
    Ok(builder.run(lane, cancel, work).await??)
}

/// Removes files that are listed no more once that is durable, and gives back the memory of parts that no view shows.
async fn reclaim(replaced: Replaced, store: Arc<dyn Store>, cancel: Cancel) -> Event {
    let Replaced { retired, files } = replaced;
    if !files.is_empty() {
        let remove = move || match store.sync() {
            Ok(()) => files.iter().for_each(segment_files::remove),
            Err(error) => tracing::warn!(%error, "files of replaced segments stay until the next start"),
        };
        let _ = tokio::task::spawn_blocking(remove).await; // cannot panic
    }
    drop_unused(retired, &cancel).await;
    Event::Reclaimed
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
        Job::Build { .. } => "build",
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
            Job::Build { .. } => write!(f, "building a segment of {points} points"),
            Job::Merge { segments } => write!(f, "merging {} segments into one of {points} points", segments.len()),
            Job::Rewrite { .. } => write!(f, "rewriting a segment of {points} points without its tombstones"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use prometheus_client::registry::Registry;
    use shoal_index::set::Policy;
    use shoal_model::{GraphSpec, HashRange, IndexSpec, Limits, LogIndex, Metric};
    use shoal_proto::{convert, v1};
    use shoal_runtime::{Batch, MemoryStore};

    use super::*;
    use crate::builder::parameters;
    use crate::command;

    const SHARD: ShardId = ShardId(7);
    const POLICY: Policy = Policy { delta_points_max: 500, delta_bytes_max: 1 << 30, segment_points_max: 10_000 };

    fn spec() -> IndexSpec {
        IndexSpec { dim: 8, metric: Metric::Euclidean, embedding: String::new(), graph: GraphSpec::DEFAULT }
    }

    /// Writes `points` of them.
    fn filled(points: u64, store: &dyn Store, root: Option<&Path>) -> ShardMachine {
        let (mut machine, _) = ShardMachine::open(store, SHARD, &spec(), POLICY, root).expect("opens");
        write(&mut machine, 0..points);
        machine
    }

    fn write(machine: &mut ShardMachine, points: Range<u64>) {
        let vector = |number: u64| (0..8).map(|i| ((number * 31 + i * 7) % 1_009) as f32).collect::<Vec<f32>>();
        let point = |number| v1::Point {
            id: Some(v1::PointId { kind: Some(v1::point_id::Kind::Number(number)) }),
            vector: Some(convert::vector_to_wire(&vector(number))),
            ..Default::default()
        };
        for first in points.step_by(100) {
            let upserts = (first..first + 100).map(point).collect();
            let entry = command::encode(upserts, vec![], &spec(), HashRange::FULL, &Limits::default());
            let entry = entry.expect("a good command");
            machine.apply(LogIndex(1 + first / 100), entry, &mut Batch::default()).expect("applies");
        }
    }

    /// Does what there is to do, until nothing is left.
    async fn finish(jobs: &mut Jobs, mut machine: ShardMachine) -> ShardMachine {
        loop {
            jobs.begin(&mut machine, false).expect("planned");
            if jobs.status().running.is_empty() {
                return machine;
            }
            let event = jobs.next().await.expect("no task fails");
            machine = jobs.handle(event, machine).await.expect("installed");
        }
    }

    fn jobs(store: &Arc<dyn Store>) -> Jobs {
        let builder = Arc::new(Builder::start(1).expect("a thread"));
        let metrics = Metrics::register(&mut Registry::default());
        Jobs::new(SHARD, builder, parameters(&spec()), metrics, store.clone())
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        let seconds = [1, 2, 3, 6, 7, 100, u32::MAX].map(|failures| pause_after(failures).as_secs());
        assert_eq!(seconds, [1, 2, 4, 32, 60, 60, 60]);
    }

    #[tokio::test]
    async fn jobs_go_on_until_nothing_is_left_to_do() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let mut jobs = jobs(&store);
        let mut machine = finish(&mut jobs, filled(4_000, &*store, None)).await;
        let view = machine.publish();
        assert_eq!((view.points.len(), view.sealed), (4_000, 0));
        assert_eq!(view.points.points_scanned(shoal_index::set::Look::Walk(shoal_index::segment::Effort::Beam(1))), 0);
        assert_eq!(jobs.status(), JobsStatus::default());
        jobs.stop().await;
    }

    #[tokio::test]
    async fn a_damaged_segment_is_told_and_keeps_no_other_from_merging() {
        let (store, root) = (Arc::new(MemoryStore::new()), tempfile::tempdir().expect("a temporary folder"));
        let store: Arc<dyn Store> = store;
        let mut jobs = jobs(&store);
        let mut machine = finish(&mut jobs, filled(2_000, &*store, Some(root.path()))).await;
        for file in std::fs::read_dir(segment_files::folder_of(root.path(), SHARD)).expect("the folder is there") {
            let path = file.expect("it can be read").path();
            let at = std::fs::metadata(&path).expect("the file is there").len() / 2;
            let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("the file is there");
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("read");
            file.write_all_at(&[byte[0] ^ 1], at).expect("written in place");
        }
        write(&mut machine, 2_000..10_000);
        let mut machine = finish(&mut jobs, machine).await;
        let failures = jobs.status().failures;
        assert!(matches!(&failures[..], [failure] if failure.contains("restart the node")), "{failures:?}");
        let view = machine.publish();
        assert_eq!((view.points.len(), view.sealed), (10_000, 0), "all are searched as before");
        let parts = view.points.parts().len();
        assert!(parts <= 12, "{parts} parts, of 18: what is not damaged is merged");
        jobs.stop().await;
    }

    #[tokio::test]
    async fn a_stop_cancels_what_runs_and_what_waits() {
        let (store, root) = (Arc::new(MemoryStore::new()), tempfile::tempdir().expect("a temporary folder"));
        let store: Arc<dyn Store> = store;
        let mut machine = filled(5_000, &*store, Some(root.path()));
        let (mut first, mut second) = (jobs(&store), jobs(&store));
        second.builder = first.builder.clone();
        first.begin(&mut machine, false).expect("planned");
        let mut other = filled(5_000, &*store, None);
        second.begin(&mut other, false).expect("planned");
        assert_eq!(second.status().running, ["building a segment of 500 points"]);
        // Were it not cancelled it would wait for ever: nobody takes the first job's end.
        second.stop().await;
        first.stop().await;
        let folder = segment_files::folder_of(root.path(), SHARD);
        assert_eq!(std::fs::read_dir(folder).expect("the shard's folder").count(), 0, "no file is left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_fails_is_told_and_tried_again() {
        let (store, root) = (Arc::new(MemoryStore::new()), tempfile::tempdir().expect("a temporary folder"));
        let store: Arc<dyn Store> = store;
        let mut machine = filled(500, &*store, Some(root.path()));
        let mut jobs = jobs(&store);
        let folder = segment_files::folder_of(root.path(), SHARD);
        std::fs::remove_dir_all(&folder).expect("removed");
        std::fs::write(&folder, b"in the way").expect("written");
        for failures in 1..=3 {
            jobs.begin(&mut machine, false).expect("planned");
            assert_eq!(jobs.status().running.len(), 1);
            let event = jobs.next().await.expect("no task fails");
            machine = jobs.handle(event, machine).await.expect("borne");
            let status = jobs.status();
            assert!(status.cannot_build && status.failures.len() == 1, "{status:?}");
            assert!(status.failures[0].contains("building a segment of 500 points"), "{status:?}");
            jobs.begin(&mut machine, false).expect("nothing is planned");
            assert!(jobs.status().running.is_empty(), "it rests");
            let began = Instant::now();
            let event = jobs.next().await.expect("no task fails");
            assert!(matches!(event, Event::Rested));
            assert_eq!(began.elapsed().as_secs(), pause_after(failures).as_secs(), "failure {failures}");
            machine = jobs.handle(event, machine).await.expect("noted");
            assert_eq!(machine.publish().points.len(), 500, "points are searched as they were");
        }
        std::fs::remove_file(&folder).expect("removed");
        jobs.begin(&mut machine, false).expect("planned");
        let event = jobs.next().await.expect("no task fails");
        machine = jobs.handle(event, machine).await.expect("installed");
        assert_eq!((machine.publish().sealed, jobs.status().cannot_build), (0, false));
        jobs.stop().await;
    }
}
