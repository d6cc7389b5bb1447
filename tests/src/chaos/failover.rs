//! How soon shards take writes again when the node that leads most of them is killed under load, and which share of reads
//! is answered meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use shoal_checker::history::Write;
use shoal_client::{Client, ClientError, ClusterStatus};
use shoal_model::PointId;
use tokio::task::JoinSet;

use super::figures::latency;
use super::run::{Folder, Loaded};
use super::screen::Screen;
use super::settle::shard_at;
use super::values::PLANS;
use super::verdict::Ending;
use super::{place, values};
use crate::{Cluster, Role, Setup};

/// 99 in a hundred shards must take writes again within this time.
const WRITES_AGAIN_SECONDS_MAX: f64 = 3.0;
/// This share of reads must be answered.
const READS_ANSWERED_MIN: f64 = 0.9999;
/// Between two probes of a shard.
const PROBE_EVERY: Duration = Duration::from_millis(10);
/// After which a shard counts as lost.
const PROBED_FOR: Duration = Duration::from_secs(60);
/// Time in which a restarted node must be whole again.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// Ids of probes are from here on, beyond those of the load.
const PROBES_FROM: u64 = 1 << 40;

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many leaders are killed.
    pub kills: u32,
    /// Decides the load.
    pub seed: u64,
    /// Operations a second of the load.
    pub rate: u32,
    /// Whether one collection has witnesses.
    pub witness: bool,
    /// Where logs are kept; without it they are only if the run fails.
    pub keep: Option<PathBuf>,
    /// Where figures go as JSON.
    pub json: Option<PathBuf>,
}

/// A shard with a point of its own.
#[derive(Clone, Debug)]
struct Probe {
    shard: u64,
    plan: values::Plan,
    id: PointId,
}

/// Kills leaders. Errors: the machine or the cluster does not do what it must for that.
pub fn run(options: &Options) -> Result<Ending, String> {
    let mut folder = Folder::new(options.keep.as_deref())?;
    let mut screen = Screen::new(File::create(folder.path.join("run.txt")).ok());
    screen.print(&format!("seed {}", options.seed));
    let setup = Setup { logs: Some(folder.logs()), ..Setup::new(place::SHAPE) };
    let mut cluster = Cluster::start_as(setup);
    screen.say("all processes serve");
    let mut loaded = Loaded::begin(&cluster, &folder.path, (options.rate, options.seed, options.witness), &mut screen)?;
    let ending = measure(options, &mut cluster, &loaded, &mut screen);
    loaded.end_load();
    if !matches!(ending, Ok(Ending::Pass)) {
        folder.keep();
        screen.print(&format!("histories and logs are in {}", folder.path.display()));
    }
    let ending = ending?;
    screen.print(&ending.to_string());
    Ok(ending)
}

fn measure(options: &Options, cluster: &mut Cluster, loaded: &Loaded, screen: &mut Screen) -> Result<Ending, String> {
    let mut again_ns = Vec::new();
    let mut lost = 0_u64;
    std::thread::sleep(Duration::from_secs(3)); // the load begins and leaders settle
    for kill in 1..=options.kills {
        if loaded.is_interrupted() {
            return Ok(Ending::Void);
        }
        let status = loaded.runtime.block_on(whole(loaded))?;
        let (victim, probes) = leader_of_most(&status, kill).ok_or("no node leads a shard")?;
        let routers: Vec<String> = [0, 1].map(|i| cluster.address(Role::Router(i))).to_vec();
        let killed = Instant::now();
        cluster.kill(victim);
        let times = loaded.runtime.block_on(probe_all(&routers, &probes, killed, options.seed + u64::from(kill)));
        lost += times.iter().filter(|time| time.is_none()).count() as u64;
        let mut of_kill: Vec<u64> = times.into_iter().flatten().collect();
        again_ns.extend(&of_kill);
        let told = latency(&mut of_kill);
        let counts = loaded.line();
        screen.say(&format!(
            "kill {kill}: {}, leader of {} shards; writes again after {:.0} ms (median), {:.0} ms (last); {counts}",
            victim.name(),
            probes.len(),
            told.p50,
            told.max
        ));
        cluster.launch(victim);
        cluster.wait_ready(victim);
    }
    let told = latency(&mut again_ns);
    let [answered, asked] = loaded.tally.reads.each_ref().map(|counter| counter.load(Ordering::Relaxed));
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    let share = answered as f64 / asked.max(1) as f64;
    screen.print(&format!(
        "\n{} kills, {} shards: writes again after p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms; {lost} never within {} s",
        options.kills,
        told.calls,
        told.p50,
        told.p99,
        told.max,
        PROBED_FOR.as_secs()
    ));
    screen.print(&format!("{answered} of {asked} reads answered: {:.4} %", share * 100.0));
    for (count, trouble) in loaded.tally.troubles().into_iter().take(8) {
        screen.print(&format!("{count:>8} times: {trouble}"));
    }
    let wrong = loaded.tally.wrong_answers();
    wrong.iter().take(8).for_each(|wrong| screen.print(&format!("PROBLEM: {wrong}")));
    if let Some(path) = &options.json {
        let text = json!({
            "seed": options.seed, "kills": options.kills, "shards": told.calls, "shards_lost": lost,
            "writes_again_ms": {"p50": told.p50, "p99": told.p99, "max": told.max},
            "reads_answered": answered, "reads_asked": asked, "reads_answered_share": share,
        });
        std::fs::write(path, format!("{text:#}\n")).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let is_met =
        wrong.is_empty() && lost == 0 && told.p99 <= WRITES_AGAIN_SECONDS_MAX * 1_000.0 && share >= READS_ANSWERED_MIN;
    Ok(if is_met { Ending::Pass } else { Ending::Fail })
}

/// The status of a cluster in which every shard has a leader and every replica its node. Errors: it does not become so.
async fn whole(loaded: &Loaded) -> Result<ClusterStatus, String> {
    let started = Instant::now();
    loop {
        let status = loaded.watcher.client().status().await;
        if let Ok(status) = &status
            && is_whole(status)
        {
            // Heartbeats tell of leaders once a second: what is told must be true still.
            tokio::time::sleep(Duration::from_secs(2)).await;
            let status = loaded.watcher.client().status().await.map_err(|error| error.to_string())?;
            if is_whole(&status) {
                return Ok(status);
            }
        }
        if started.elapsed() > WHOLE_WITHIN {
            return Err(format!("the cluster is not whole within {} s", WHOLE_WITHIN.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn is_whole(status: &ClusterStatus) -> bool {
    let shards = || status.collections.iter().flat_map(|collection| &collection.shards);
    status.nodes.iter().all(|node| node.alive)
        && shards().all(|shard| {
            let Some(leader) = shard.leader() else { return false };
            let is_near = |replica: &shoal_client::Replica| {
                let report = replica.report.as_ref();
                report.is_some_and(|report| replica.witness || report.applied_index + 500 > leader.applied_index)
            };
            shard.replicas.iter().all(is_near)
        })
}

/// The node that leads most shards, with a probe of each; of several that do, another for each `turn`.
fn leader_of_most(status: &ClusterStatus, turn: u32) -> Option<(Role, Vec<Probe>)> {
    let mut led: BTreeMap<u64, Vec<Probe>> = BTreeMap::new();
    for collection in &status.collections {
        let plan = PLANS.into_iter().find(|plan| plan.name == collection.name)?;
        for shard in &collection.shards {
            let leads = |replica: &&shoal_client::Replica| replica.report.as_ref().is_some_and(|report| report.leader);
            let Some(leader) = shard.replicas.iter().find(leads) else { continue };
            let mut ids = (PROBES_FROM..).map(PointId::Number);
            let id = ids.find(|id| shard_at(collection, id.hash()) == shard.id)?;
            led.entry(leader.node_id).or_default().push(Probe { shard: shard.id, plan, id });
        }
    }
    let most = led.values().map(Vec::len).max()?;
    let mut leaders: Vec<_> = led.into_iter().filter(|(_, probes)| probes.len() == most).collect();
    let place = turn as usize % leaders.len();
    let (node, probes) = leaders.swap_remove(place);
    let name = &status.nodes.iter().find(|known| known.id == node)?.name;
    let role = place::SHAPE.roles().into_iter().find(|role| role.name() == *name)?;
    Some((role, probes))
}

/// Time from `killed` until a write to each shard is acknowledged; `None` if none is in time.
async fn probe_all(routers: &[String], probes: &[Probe], killed: Instant, number: u64) -> Vec<Option<u64>> {
    let mut probing = JoinSet::new();
    let routers = Arc::new(routers.to_vec());
    for probe in probes.iter().cloned() {
        let routers = routers.clone();
        probing.spawn(async move { probe_one(&routers, probe, killed, number).await });
    }
    probing.join_all().await
}

/// Writes every few milliseconds, none waiting for another, until one is acknowledged.
async fn probe_one(routers: &[String], probe: Probe, killed: Instant, number: u64) -> Option<u64> {
    let client = Client::connect(routers).ok()?.with_timeout(PROBED_FOR);
    let mut pace = tokio::time::interval(PROBE_EVERY);
    let mut writes: JoinSet<Result<(), ClientError>> = JoinSet::new();
    loop {
        tokio::select! {
            _ = pace.tick() => {
                // As many as may wait while a shard has no leader for a while.
                if writes.len() < 200 {
                    let client = client.clone();
                    // Reads of the load meet it, and verify it as any other.
                    let point = values::point(probe.id.clone(), Write(number), probe.plan.dim);
                    let name = probe.plan.name;
                    writes.spawn(async move { client.upsert(name, vec![point]).await.map(drop) });
                }
            }
            Some(done) = writes.join_next() => {
                if matches!(done, Ok(Ok(()))) {
                    return u64::try_from(killed.elapsed().as_nanos()).ok();
                }
            }
        }
        if killed.elapsed() > PROBED_FOR {
            eprintln!("shard {} takes no writes {} s after its leader was killed", probe.shard, PROBED_FOR.as_secs());
            return None;
        }
    }
}
