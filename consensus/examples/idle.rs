//! What groups cost while nobody uses them: three processes' worth of shells in one process, over memory.
//!
//! `cargo run --release -p shoal-consensus --example idle -- [groups] [seconds]` prints, for each shell, the CPU time
//! of its thread per second of idling, messages, and how long groups go without a leader when one shell ends.

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use shoal_consensus::{Apply, Consensus, ConsensusThread, GroupSpec, ProcessId, RaftConfig, Role, StateMachine};
use shoal_model::{GroupId, LogIndex, ReplicaId};
use shoal_runtime::{Envelope, MemoryStore, Transport};
use tokio::sync::mpsc;
use tokio::time::Instant;

const MEMBERS: [u64; 3] = [1, 2, 3];

/// Hands messages over, and counts them; a member has the number of the process it lives in.
#[derive(Default)]
struct Network {
    up: RwLock<HashMap<u64, Consensus<()>>>,
    sent: AtomicU64,
}

impl Transport for Network {
    fn send(&self, envelope: Envelope) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        if let Some(to) = self.up.read().expect("nobody panics").get(&envelope.to.0) {
            to.receive(envelope);
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let groups: u64 = arguments.next().map_or(Ok(1_000), |text| text.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(20), |text| text.parse())?;
    let network = Arc::new(Network::default());
    let mut shells = Vec::new();
    for me in MEMBERS {
        shells.push(start(me, groups, &network).await?);
    }
    let handles: Vec<_> = shells.iter().map(|(handle, _)| handle.clone()).collect();
    let elected = until_led(&handles, groups).await;
    println!("{groups} groups of three were led after {elected:.1?}");
    for handle in &handles {
        println!("  one shell leads {}", led(handle, groups));
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    for handle in &handles {
        let sleeps = |group: &GroupId| handle.status(*group).is_some_and(|status| status.sleeps);
        println!("  in one shell {} sleep", (1..=groups).map(GroupId).filter(sleeps).count());
    }
    let (before, sent_before) = (thread_times()?, network.sent.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let sent = network.sent.load(Ordering::Relaxed) - sent_before;
    println!("  all together sent {} messages per second", sent / seconds);
    for (thread, used) in thread_times()? {
        let used = used - before.get(&thread).copied().unwrap_or_default();
        let share = used.as_secs_f64() / seconds as f64;
        println!("  thread {thread} of a shell used {share:.4} CPU seconds per second");
    }
    let (dies, thread) = shells.remove(0);
    network.up.write().expect("nobody panics").remove(&MEMBERS[0]);
    dies.shut_down().await;
    thread.ended().await?;
    let replaced = until_led(&handles[1..], groups).await;
    println!("  the leaders of one shell were all replaced after {replaced:.1?}");
    Ok(())
}

async fn start(
    me: u64,
    groups: u64,
    network: &Arc<Network>,
) -> Result<(Consensus<()>, ConsensusThread), Box<dyn Error>> {
    let config = RaftConfig { process: Some(ProcessId(me)), ..RaftConfig::new(rand::random()) };
    let (handle, thread) = Consensus::start(Arc::new(MemoryStore::new()), network.clone(), config)?;
    network.up.write().expect("nobody panics").insert(me, handle.clone());
    for group in (1..=groups).map(GroupId) {
        let spec = GroupSpec {
            group,
            me: ReplicaId(me),
            voters: MEMBERS.map(ReplicaId).to_vec(),
            witnesses: Vec::new(),
            applied: LogIndex(0),
            state_machine: StateMachine::Stored,
            state_lost: false,
        };
        let work = handle.open_group(spec).await?;
        tokio::spawn(apply_all(group, handle.clone(), work));
    }
    Ok((handle, thread))
}

async fn apply_all(group: GroupId, handle: Consensus<()>, mut work: mpsc::Receiver<Apply<()>>) {
    while let Some(apply) = work.recv().await {
        if let Apply::Entry { index, .. } = apply {
            handle.applied(group, index);
        }
    }
}

fn led(handle: &Consensus<()>, groups: u64) -> usize {
    let leads = |group: &GroupId| handle.status(*group).is_some_and(|status| status.role == Role::Leader);
    (1..=groups).map(GroupId).filter(leads).count()
}

async fn until_led(handles: &[Consensus<()>], groups: u64) -> Duration {
    let since = Instant::now();
    while handles.iter().map(|handle| led(handle, groups)).sum::<usize>() < groups as usize {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    since.elapsed()
}

/// CPU time of each thread of a shell so far.
fn thread_times() -> Result<HashMap<String, Duration>, Box<dyn Error>> {
    let mut times = HashMap::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        let folder = task?.path();
        if std::fs::read_to_string(folder.join("comm"))?.trim() == "consensus" {
            let text = std::fs::read_to_string(folder.join("schedstat"))?;
            let nanoseconds = text.split_whitespace().next().unwrap_or_default().parse()?;
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            times.insert(name, Duration::from_nanos(nanoseconds));
        }
    }
    Ok(times)
}
