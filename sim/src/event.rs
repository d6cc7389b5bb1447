//! What happens, and the outside as a process or client sees it: time, chance, the network, and the record of all that was.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::SmallRng;
use shoal_checker::history::Write;
use shoal_consensus::{RequestId, Ticket};
use shoal_coordinator::simulation::Voters;
use shoal_index::segment::{Segment, Target};
use shoal_index::set::JobId;
use shoal_model::{
    ClusterMap, CollectionSpec, Epoch, LogIndex, MapError, NodeId, OperationId, PointId, ReplicaId, Reply, ShardId,
    StoreId,
};
use shoal_node::simulation::{Manifest, Name};
use shoal_proto::internal::v1 as wire;
use shoal_proto::v1;
use shoal_runtime::Envelope;
use xxhash_rust::xxh3::Xxh3;

use crate::faults::Mend;
use crate::network::{Endpoint, Network};
use crate::queue::{MS, Ns, Queue};
use crate::report::Tally;
use crate::shape::Shape;
use crate::truth::Truth;

/// Names a call between endpoints; never used twice.
pub(crate) type CallId = u64;

pub(crate) enum Event {
    /// Of a process by itself; void if it has restarted since.
    Own {
        process: usize,
        boot: u32,
        own: Own,
    },
    Raft {
        to: usize,
        envelope: Envelope,
    },
    Call {
        to: usize,
        from: Endpoint,
        id: CallId,
        call: Arc<Call>,
    },
    Answer {
        to: Endpoint,
        id: CallId,
        answer: Answer,
    },
    Client {
        client: usize,
        own: ClientOwn,
    },
    Start {
        process: usize,
    },
    Resume {
        process: usize,
    },
    Fault,
    Mend(Mend),
}

/// What a process has set itself to do.
pub(crate) enum Own {
    Tick,
    /// A sync ended that covers what was written before its mark.
    Synced {
        ticket: Ticket,
        mark: u64,
    },
    Apply(ShardId),
    MapApply,
    MakeSnapshot(ShardId),
    MapSnapshot,
    JobEnds {
        shard: ShardId,
        key: u64,
    },
    LaneRested(ShardId),
    InstallOverdue {
        shard: ShardId,
        job: JobId,
    },
    Quiet {
        shard: ShardId,
        since: Ns,
    },
    OfferAgain {
        shard: ShardId,
        install: u64,
        node: NodeId,
    },
    OffersOver {
        shard: ShardId,
        install: u64,
    },
    ProposalLate(RequestId),
    AskSnapshot(ShardId),
    CallLate(CallId),
    ReadLate(u64),
    ReadPoints(u64),
    Erase(ShardId),
    Heartbeat,
    Members,
    Compare,
    Watch,
    Register,
    Duties,
    Begin,
    Reclaim(Vec<Target>),
}

#[derive(Clone, Copy)]
pub(crate) enum ClientOwn {
    Next,
    Watch,
    CallLate(CallId),
    Rested(ShardId),
    Deadline(u64),
    Churn,
}

/// What one endpoint asks of another.
#[derive(Debug)]
pub(crate) enum Call {
    Write { shard: ShardId, epoch: Epoch, operation: OperationId, upserts: Vec<v1::Point>, deletes: Vec<v1::PointId> },
    Read { target: Asked, what: Read },
    Offer { shard: ShardId, node: NodeId, replaced: Vec<Name>, manifest: Manifest },
    Segment { shard: ShardId, checksum: u64 },
    Records { shard: ShardId, snapshot: u64, after: Option<Bytes> },
    Digests { shard: ShardId },
    Rebuild { shard: ShardId, index: LogIndex, digest: u128 },
    Register { store: StoreId, replaces: Option<StoreId>, address: String },
    Create { operation: OperationId, spec: CollectionSpec },
    Drop { operation: OperationId, name: String },
    Watch { epoch: Epoch },
    Heartbeat { node: NodeId, voters: Voters, forwarded: bool },
    Beginning,
    Join { member: ReplicaId, forwarded: bool },
}

/// The replica that is asked, and how fresh its answer must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) shard: ShardId,
    pub(crate) epoch: Epoch,
    pub(crate) index: LogIndex,
    pub(crate) linearizable: bool,
    /// 0 for any time.
    pub(crate) staleness_ms: u32,
}

#[derive(Clone, Debug)]
pub(crate) enum Read {
    Get(Vec<PointId>),
    Count,
    Scroll { after: Option<PointId>, limit: usize },
    Search { query: u64, k: usize, exact: bool, filter: Option<u64> },
}

/// A point as an answer shows it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) id: PointId,
    pub(crate) write: Write,
    pub(crate) score: f32,
    pub(crate) vector: Vec<f32>,
}

/// Why a call was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    StaleEpoch,
    NotLeader(Option<NodeId>),
    NotReady,
    Lagging,
    Overloaded,
    Unknown,
    Corrupt,
    /// Nobody listens there.
    Refused,
    NotFound,
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Failed(Failure),
    Written(LogIndex),
    Found {
        applied: LogIndex,
        points: Vec<Shown>,
        count: u64,
    },
    Taken,
    /// The files of a segment; those of one whose stream broke end or differ at a byte of the graph's.
    Segment {
        segment: Arc<Segment>,
        broken: Option<Broken>,
    },
    Records(Vec<wire::PointRecord>),
    Digests(BTreeMap<LogIndex, u128>),
    Map(Option<Arc<ClusterMap>>),
    Replied(Result<Reply, MapError>),
    /// A coordinator that does not lead, and which one does.
    AskLeader(Option<usize>),
    /// Whether the cluster has begun.
    HasBegun(bool),
}

/// How a stream broke.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Broken {
    Ends(usize),
    Differs(usize),
}

/// Everything around processes and clients.
pub(crate) struct Outside {
    pub(crate) now: Ns,
    pub(crate) rng: SmallRng,
    pub(crate) queue: Queue<Event>,
    pub(crate) network: Network,
    pub(crate) shape: Shape,
    pub(crate) truth: Truth,
    pub(crate) tally: Tally,
    pub(crate) trace: Trace,
    last_call: CallId,
}

impl Outside {
    pub(crate) fn new(rng: SmallRng, shape: Shape, verbose: bool) -> Self {
        Self {
            now: 0,
            rng,
            queue: Queue::new(),
            network: Network::default(),
            shape,
            truth: Truth::default(),
            tally: Tally::default(),
            trace: Trace { hash: Xxh3::new(), verbose },
            last_call: 0,
        }
    }

    /// A time between nearly nothing and `most`, mostly short.
    pub(crate) fn short(&mut self, most: Ns) -> Ns {
        let share: f64 = self.rng.random_range(0.0..1.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let time = (most as f64 * share * share) as Ns;
        time + MS / 20
    }

    pub(crate) fn after(&mut self, delay: Ns, event: Event) {
        self.queue.put(self.now + delay, event);
    }

    pub(crate) fn own(&mut self, (process, boot): (usize, u32), delay: Ns, own: Own) {
        self.after(delay, Event::Own { process, boot, own });
    }

    pub(crate) fn send_raft(&mut self, from: usize, to: usize, envelope: Envelope) {
        let (from, target) = (Endpoint::Process(from), Endpoint::Process(to));
        if let Some(delay) = self.network.delay(from, target, &mut self.rng) {
            self.after(delay, Event::Raft { to, envelope });
        }
    }

    /// Sends a call and names it; it may never arrive, or twice.
    pub(crate) fn call(&mut self, from: Endpoint, to: usize, call: Call) -> CallId {
        self.last_call += 1;
        let (id, call) = (self.last_call, Arc::new(call));
        if let Some(delay) = self.network.delay(from, Endpoint::Process(to), &mut self.rng) {
            if self.rng.random_bool(self.network.doubled) {
                let again = delay + self.rng.random_range(MS..3_000 * MS);
                self.tally.doubled_calls += 1;
                self.after(again, Event::Call { to, from, id, call: call.clone() });
            }
            self.after(delay, Event::Call { to, from, id, call });
        }
        id
    }

    pub(crate) fn answer(&mut self, from: usize, (to, id): (Endpoint, CallId), answer: Answer) {
        if let Some(delay) = self.network.delay(Endpoint::Process(from), to, &mut self.rng) {
            self.after(delay, Event::Answer { to, id, answer });
        }
    }
}

/// A hash of everything that happened, and, if wanted, its text.
pub(crate) struct Trace {
    hash: Xxh3,
    verbose: bool,
}

impl Trace {
    pub(crate) fn note(&mut self, at: Ns, who: usize, what: u64) {
        self.hash.update(&at.to_le_bytes());
        self.hash.update(&(who as u64).to_le_bytes());
        self.hash.update(&what.to_le_bytes());
    }

    /// Tells something, if somebody wants to read it.
    pub(crate) fn tell(&self, at: Ns, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>10.3} ms  {}", at as f64 / 1e6, text());
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        self.hash.digest()
    }
}
