//! A run from its start to its verdict.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use shoal_checker::digest::Observation;
use shoal_checker::file::read_history;
use shoal_checker::history::Outcome;
use shoal_client::NewCollection;
use shoal_proto::server;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::client::{Ask, Freshness};
use super::figures::{Figures, Outage, Recorded};
use super::load::{self, Tally, Target};
use super::nemesis::Nemesis as Executor;
use super::place::Place;
use super::recorder::{Recorder, RunClock};
use super::schedule::{Nemesis, schedule};
use super::screen::Screen;
use super::settle::Watcher;
use super::values::{PLANS, Plan};
use super::verdict::{Ending, QUIET_OUTAGE_SECONDS_MAX, QUIET_PER_SECOND_MIN, alarms, judge_digests, judge_one};
use crate::{Cluster, Role};

/// After the last fault, with the load going on: elections are over, and every shard has been written to.
const RECOVERY: Duration = Duration::from_secs(6);
/// Between two looks at the time.
const STEP: Duration = Duration::from_millis(20);
/// How often a final scroll is tried.
const SCROLLS_MAX: u32 = 10;

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides faults and load.
    pub seed: u64,
    /// How long faults come.
    pub length: Duration,
    /// Where histories and logs are kept; without it they are only if the run fails.
    pub keep: Option<PathBuf>,
    /// What to do to the cluster.
    pub nemeses: BTreeSet<Nemesis>,
    /// Operations a second.
    pub rate: u32,
    /// Whether one collection has witnesses.
    pub witness: bool,
    /// Where figures go as JSON.
    pub json: Option<PathBuf>,
}

/// Histories and logs of a run.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    /// Removed unless it is to be kept.
    temporary: Option<TempDir>,
}

impl Folder {
    pub(crate) fn new(keep: Option<&Path>) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("the folder of the run: {error}");
        let folder = match keep {
            Some(path) => Self { path: path.to_owned(), temporary: None },
            None => {
                let temporary = TempDir::with_prefix("shoal-chaos-").map_err(failed)?;
                Self { path: temporary.path().to_owned(), temporary: Some(temporary) }
            }
        };
        fs::create_dir_all(folder.logs()).map_err(failed)?;
        Ok(folder)
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    pub(crate) fn keep(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            self.path = temporary.keep();
        }
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.temporary.is_none()
    }
}

/// A cluster under load.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) runtime: Runtime,
    pub(crate) clock: RunClock,
    pub(crate) targets: Arc<Vec<Target>>,
    pub(crate) routers: Arc<Vec<Channel>>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) watcher: Watcher,
    stop: Arc<AtomicBool>,
    load: Option<JoinHandle<()>>,
    /// Whether the person at the terminal wants to end.
    pub(crate) interrupted: Arc<AtomicBool>,
}

impl Loaded {
    /// Creates the collections and begins the load. Errors: the cluster refuses a collection.
    pub(crate) fn begin(
        cluster: &Cluster,
        folder: &Path,
        (rate, seed, witness): (u32, u64, bool),
        screen: &mut Screen,
    ) -> Result<Self, String> {
        let runtime = Runtime::new().map_err(|error| error.to_string())?;
        let roles = cluster.roles().into_iter().filter(|role| matches!(role, Role::Router(_)));
        let addresses: Vec<String> = roles.map(|role| cluster.address(role)).collect();
        let entered = runtime.enter();
        let watcher = Watcher::new(&addresses).map_err(|error| error.to_string())?;
        let channels = addresses.iter().map(|address| server::channel(address)).collect::<Result<Vec<_>, _>>();
        let routers = Arc::new(channels.map_err(|error| error.to_string())?);
        drop(entered);
        let interrupted = Arc::new(AtomicBool::new(false));
        runtime.spawn(note_interrupt(interrupted.clone()));
        let clock = RunClock::start();
        let mut targets = Vec::new();
        for plan in PLANS.into_iter().filter(|plan| witness || !plan.witness) {
            runtime.block_on(create(&watcher, &plan)).map_err(|error| format!("create {}: {error}", plan.name))?;
            let path = folder.join(format!("{}.history", plan.name));
            let recorder = Recorder::create(&path, clock).map_err(|e| format!("{}: {e}", path.display()))?;
            targets.push(Target::new(plan, recorder));
        }
        screen.say(&format!("{} collections are created; {rate} operations/s begin", targets.len()));
        let (targets, tally, stop) = (Arc::new(targets), Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let load = load::run(targets.clone(), routers.clone(), tally.clone(), rate, seed, stop.clone());
        let load = Some(runtime.spawn(load));
        Ok(Self { runtime, clock, targets, routers, tally, watcher, stop, load, interrupted })
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    pub(crate) fn line(&self) -> String {
        let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let Tally { ok, failed, unknown, skipped, .. } = &*self.tally;
        format!("{} ok, {} failed, {} unknown, {} not begun", of(ok), of(failed), of(unknown), of(skipped))
    }

    /// Ends the load, and waits for what is under way.
    pub(crate) fn end_load(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(load) = self.load.take() {
            // One that panicked is told by the panic itself.
            let _ = self.runtime.block_on(load);
        }
    }

    /// Reads all points of all collections once more. Errors: a collection that cannot be read.
    pub(crate) fn read_all(&self) -> Result<(), String> {
        for target in self.targets.iter() {
            let ask = Ask::Scroll(Freshness::Linearizable);
            let mut tries = (0..SCROLLS_MAX)
                .map(|i| self.runtime.block_on(target.ask(&self.routers, i as usize, &ask, &self.tally)));
            if !tries.any(|outcome| outcome == Some(Outcome::Ok)) {
                return Err(format!("{} cannot be read after all faults are over", target.plan.name));
            }
        }
        Ok(())
    }

    /// The histories, from their files.
    pub(crate) fn recorded(&self) -> Result<Vec<Recorded>, String> {
        let one = |target: &Target| {
            target.recorder.check().map_err(|error| format!("write the history: {error}"))?;
            let file = File::open(target.recorder.path()).map_err(|error| error.to_string())?;
            let operations = read_history(BufReader::new(file)).map_err(|error| error.to_string())?;
            let describe = self.watcher.client().describe_collection(target.plan.name);
            let collection = self.runtime.block_on(describe).map_err(|error| error.to_string())?;
            Ok(Recorded { collection, operations })
        };
        self.targets.iter().map(one).collect()
    }
}

async fn create(watcher: &Watcher, plan: &Plan) -> Result<(), shoal_client::ClientError> {
    let dim = u32::try_from(plan.dim).unwrap_or_default();
    let new = NewCollection {
        shards: plan.shards,
        replicas: plan.replicas,
        witness: plan.witness,
        ..NewCollection::new(plan.name, dim, plan.metric)
    };
    watcher.client().with_timeout(Duration::from_secs(30)).create_collection(new).await.map(drop)
}

async fn note_interrupt(interrupted: Arc<AtomicBool>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else { return };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    interrupted.store(true, Ordering::Relaxed);
}

/// Runs chaos. Errors: the machine or the cluster does not even start.
pub fn run(options: &Options) -> Result<Ending, String> {
    let mut folder = Folder::new(options.keep.as_deref())?;
    let file = File::create(folder.path.join("run.txt")).map_err(|error| error.to_string())?;
    let mut screen = Screen::new(Some(file));
    let seconds = options.length.as_secs();
    screen.print(&format!(
        "seed {0}; the same faults again: cargo xtask chaos --seed {0} --seconds {seconds}",
        options.seed
    ));
    screen.print(&format!("histories and logs: {}", folder.path.display()));
    let scratch = TempDir::with_prefix("shoal-chaos-place-").map_err(|error| error.to_string())?;
    let place = Place::prepare(&options.nemeses, scratch.path(), &folder.logs()).map_err(|error| error.to_string())?;
    place.skipped.iter().for_each(|skipped| screen.print(skipped));
    let faults = schedule(options.seed, options.length, &place.allowed);
    screen.print(&format!("{} faults are planned", faults.len()));
    let mut cluster = Cluster::start_as(place.setup);
    screen.say("all processes serve");
    let mut loaded = Loaded::begin(&cluster, &folder.path, (options.rate, options.seed, options.witness), &mut screen)?;
    let mut nemesis = Executor::new(faults, loaded.clock);

    let end = until(&loaded, options.length);
    pass_time(end, &mut loaded, &mut nemesis, &mut cluster, &mut screen, true)?;
    nemesis.heal(&mut cluster, &mut screen)?;
    screen.say("all faults are over");
    let end = until(&loaded, RECOVERY);
    pass_time(end, &mut loaded, &mut nemesis, &mut cluster, &mut screen, false)?;
    let to_ns = loaded.clock.now_ns();
    loaded.end_load();
    let settled = settle(&mut loaded, &mut nemesis, &mut cluster, &mut screen);
    let ending = conclude(options, &folder, &loaded, &nemesis, settled, to_ns, &mut screen)?;
    if ending == Ending::Fail {
        folder.keep();
    }
    if folder.is_kept() {
        screen.print(&format!("histories and logs are in {}", folder.path.display()));
    }
    screen.print(&last_line(ending, options, &loaded));
    Ok(ending)
}

fn last_line(ending: Ending, options: &Options, loaded: &Loaded) -> String {
    let done = loaded.tally.ok.load(Ordering::Relaxed);
    let why = if loaded.is_interrupted() { ", interrupted" } else { "" };
    format!(
        "{ending} seed {}, {} s, {done} operations acknowledged or answered{why}",
        options.seed,
        options.length.as_secs()
    )
}

fn until(loaded: &Loaded, length: Duration) -> Duration {
    Duration::from_nanos(loaded.clock.now_ns()) + length
}

fn pass_time(
    end: Duration,
    loaded: &mut Loaded,
    nemesis: &mut Executor,
    cluster: &mut Cluster,
    screen: &mut Screen,
    with_faults: bool,
) -> Result<(), String> {
    while Duration::from_nanos(loaded.clock.now_ns()) < end && !loaded.is_interrupted() {
        if with_faults {
            nemesis.act(cluster, screen)?;
        } else {
            nemesis.look_after(cluster, screen);
        }
        screen.progress(|| loaded.line());
        thread::sleep(STEP);
    }
    Ok(())
}

/// Waits until all replicas are the same, then reads everything.
fn settle(
    loaded: &mut Loaded,
    nemesis: &mut Executor,
    cluster: &mut Cluster,
    screen: &mut Screen,
) -> Result<Vec<Observation>, String> {
    if loaded.is_interrupted() {
        return Ok(Vec::new());
    }
    let observations = loaded.runtime.block_on(loaded.watcher.settled());
    nemesis.look_after(cluster, screen);
    let observations = observations?;
    screen.say(&format!("replicas have caught up, {} digests", observations.len()));
    loaded.read_all()?;
    Ok(observations)
}

fn conclude(
    options: &Options,
    folder: &Folder,
    loaded: &Loaded,
    nemesis: &Executor,
    settled: Result<Vec<Observation>, String>,
    to_ns: u64,
    screen: &mut Screen,
) -> Result<Ending, String> {
    if loaded.is_interrupted() {
        return Ok(Ending::Void);
    }
    let recorded = loaded.recorded()?;
    let mut problems: Vec<String> = loaded.tally.wrong_answers();
    problems.extend(nemesis.exits().iter().cloned());
    problems.extend(alarms(&folder.logs()));
    let (mut verdicts, mut positions) = (Vec::new(), 0);
    for (target, recorded) in loaded.targets.iter().zip(&recorded) {
        match judge_one(&target.plan, recorded) {
            Ok(verdict) => {
                screen.print(&format!("\n{}:\n{verdict}", target.plan.name));
                if !verdict.is_pass() {
                    problems.push(format!("{}: the checker found what must not be", target.plan.name));
                }
                verdicts.push(json!({"collection": target.plan.name, "pass": verdict.is_pass()}));
            }
            Err(error) => problems.push(format!("{}: the history breaks its rules: {error}", target.plan.name)),
        }
    }
    match settled {
        Ok(observations) => {
            let (differences, compared) = judge_digests(&observations);
            problems.extend(differences);
            positions = compared;
        }
        Err(missing) => problems.push(missing),
    }
    screen.print(&format!("\ndigests of replicas compared at {positions} positions"));
    let figures = Figures::new(&recorded, &nemesis.windows(), 0, to_ns);
    screen.print(&format!("\n{figures}"));
    let Outage { seconds, from_seconds, shard } = &figures.quiet_outage;
    if *seconds > QUIET_OUTAGE_SECONDS_MAX {
        problems.push(format!(
            "{shard} took no write for {seconds:.1} s from {from_seconds:.1} s on while nothing was done to the cluster"
        ));
    }
    for (count, trouble) in loaded.tally.troubles().into_iter().take(12) {
        screen.print(&format!("{count:>8} times: {trouble}"));
    }
    problems.iter().take(40).for_each(|problem| screen.print(&format!("PROBLEM: {problem}")));
    let is_void = figures.quiet_per_second < QUIET_PER_SECOND_MIN;
    if is_void {
        screen.print(&format!("fewer than {QUIET_PER_SECOND_MIN} operations/s outside of faults prove nothing"));
    }
    let ending = match (problems.is_empty(), is_void) {
        (false, _) => Ending::Fail,
        (true, true) => Ending::Void,
        (true, false) => Ending::Pass,
    };
    if let Some(path) = &options.json {
        let text = json!({
            "seed": options.seed,
            "seconds": options.length.as_secs(),
            "verdict": ending.to_string(),
            "collections": verdicts,
            "positions_compared": positions,
            "figures": figures.to_json(),
            "problems": problems,
        });
        fs::write(path, format!("{text:#}\n")).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(ending)
}
