//! Three processes in one: a real thread each, messages by hand-over.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use bytes::Bytes;
use shoal_consensus::{
    Apply, Consensus, ConsensusError, ConsensusThread, GroupSpec, GroupStatus, ProcessId, RaftConfig, Role,
    StateMachine,
};
use shoal_model::{GroupId, LogIndex, ReplicaId};
use shoal_runtime::{Batch, Envelope, MemoryStore, Store, StoreError, Table, Transport, Visit};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(crate) const GROUP: GroupId = GroupId(1);

/// The state machine's answer: how many numbers it holds.
pub(crate) type Handle = Consensus<usize>;

/// Carries messages to whoever is up.
#[derive(Default)]
pub(crate) struct Network {
    up: RwLock<HashMap<ReplicaId, Handle>>,
}

impl Transport for Network {
    fn send(&self, envelope: Envelope) {
        if let Some(to) = self.up.read().expect("nobody panics").get(&envelope.to) {
            to.receive(envelope);
        }
    }
}

/// A store that counts its syncs, and can be told to fail them.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) memory: MemoryStore,
    pub(crate) syncs: AtomicUsize,
    pub(crate) broken: AtomicUsize,
}

impl Store for Disk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.memory.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.memory.scan(table, from, to, visit)
    }

    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        self.memory.write(batch)
    }

    fn checkpoint(&self) -> Result<Arc<dyn Store>, StoreError> {
        self.memory.checkpoint()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        if self.broken.load(Ordering::SeqCst) > 0 {
            return Err(StoreError::Io { detail: "on purpose".into() });
        }
        self.memory.sync()
    }
}

/// What a state machine holds, shared with the test.
pub(crate) type Numbers = Arc<Mutex<Vec<u64>>>;

pub(crate) struct Member {
    pub(crate) handle: Handle,
    pub(crate) thread: ConsensusThread,
    pub(crate) numbers: Numbers,
    pub(crate) machine: JoinHandle<()>,
}

/// Settings of a process; members have the number of the process they live in.
pub(crate) fn config(me: u64) -> RaftConfig {
    let process = Some(ProcessId(me));
    RaftConfig { process, tick_interval: Duration::from_millis(40), ..RaftConfig::new(rand::random()) }
}

pub(crate) fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub(crate) fn spec(group: GroupId, me: u64, voters: &[u64]) -> GroupSpec {
    let voters = voters.iter().copied().map(ReplicaId).collect();
    GroupSpec {
        group,
        me: ReplicaId(me),
        voters,
        witnesses: Vec::new(),
        applied: LogIndex(0),
        state_machine: StateMachine::InMemory,
        state_lost: false,
    }
}

/// Starts a process with one member of [`GROUP`].
pub(crate) async fn start(me: u64, voters: &[u64], disk: &Arc<Disk>, network: &Arc<Network>) -> Member {
    let (handle, thread) = Consensus::start(disk.clone(), network.clone(), config(me)).expect("it starts");
    network.up.write().expect("nobody panics").insert(ReplicaId(me), handle.clone());
    let work = handle.open_group(spec(GROUP, me, voters)).await.expect("the group opens");
    let numbers = Numbers::default();
    let machine = tokio::spawn(run_machine(GROUP, handle.clone(), work, numbers.clone()));
    Member { handle, thread, numbers, machine }
}

/// Ends a process as a power cut would.
pub(crate) async fn kill(me: u64, member: Member, disk: &Disk, network: &Network) {
    network.up.write().expect("nobody panics").remove(&ReplicaId(me));
    member.handle.shut_down().await;
    member.thread.ended().await.expect("it ends well");
    member.machine.await.expect("the machine ends with its mailbox");
    disk.memory.crash(0);
}

async fn run_machine(
    group: GroupId,
    handle: Handle,
    mut work: tokio::sync::mpsc::Receiver<Apply<usize>>,
    numbers: Numbers,
) {
    let mut applied = LogIndex(0);
    while let Some(apply) = work.recv().await {
        match apply {
            Apply::Entry { index, data, reply } => {
                let mut numbers = numbers.lock().expect("nobody panics");
                numbers.extend(data.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes)));
                // The proposer may have gone.
                let _ = reply.map(|reply| reply.send(numbers.len()));
                applied = index;
                handle.applied(group, index);
            }
            Apply::Restore { index, data } => {
                let words = data.chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().expect("eight bytes")));
                *numbers.lock().expect("nobody panics") = words.collect();
                applied = index;
                handle.applied(group, index);
            }
            Apply::Snapshot { reply } => {
                let words: Vec<u8> =
                    numbers.lock().expect("nobody panics").iter().flat_map(|number| number.to_be_bytes()).collect();
                drop(reply.send((applied, words.into())));
            }
        }
    }
}

/// Waits until one of `members` leads and returns its place.
pub(crate) async fn leader(members: &[Option<Member>]) -> usize {
    let leads = |status: &GroupStatus| status.role == Role::Leader;
    let by = deadline();
    while Instant::now() < by {
        for (i, member) in members.iter().enumerate() {
            let Some(mut status) = member.as_ref().and_then(|member| member.handle.watch(GROUP)) else { continue };
            if tokio::time::timeout(Duration::from_millis(30), status.wait_for(leads)).await.is_ok_and(|s| s.is_ok()) {
                return i;
            }
        }
    }
    panic!("no leader was elected in time");
}

/// Proposes `number` to whoever leads until it is acknowledged; it may then be there twice.
pub(crate) async fn propose(members: &[Option<Member>], number: u64) {
    let by = deadline();
    while Instant::now() < by {
        let at = leader(members).await;
        let handle = &members[at].as_ref().expect("it leads").handle;
        match handle.propose(GROUP, number.to_be_bytes().to_vec().into(), by).await {
            Ok(_) => return,
            Err(ConsensusError::NotLeader { .. } | ConsensusError::OutcomeUnknown { .. }) => {}
            Err(error) => panic!("a proposal is refused: {error}"),
        }
    }
    panic!("a proposal was not acknowledged in time");
}
