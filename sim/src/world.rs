//! A run: a cluster is started, clients ask, trouble comes; then all is healed, everything must come to rest within a bounded
//! time, and the checkers look at what clients saw.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use shoal_checker::history::Write;
use shoal_checker::oracle::{SearchRules, Tolerance};
use shoal_checker::{Ledger, judge};
use shoal_consensus::Role as Standing_;
use shoal_model::{ClusterMap, CollectionSpec, GraphSpec, IndexSpec, OperationId, PointId, ShardId, Standing, StoreId};
use shoal_node::simulation::group_of;
use tempfile::TempDir;

use crate::client::{Book, CHECKED, Client};
use crate::coordinator::Coordinator;
use crate::event::{Answer, Call, CallId, ClientOwn, Event, Outside, Read};
use crate::network::Endpoint;
use crate::node::{Node, process_at};
use crate::process::{Process, Role};
use crate::queue::{MS, Ns, SEC};
use crate::report::Report;
use crate::shape::Shape;
use crate::workload::{self, Fresh, Wish};

/// How long a cluster that was healed may take to come to rest.
const REST_WITHIN: Ns = 240 * SEC;
/// How long nothing but the beginning happens.
const CALM: Ns = 8 * SEC;

pub(crate) struct World {
    pub(crate) out: Outside,
    pub(crate) processes: Vec<Process>,
    clients: Vec<Client>,
    pub(crate) admin: Admin,
    book: Book,
    /// No more trouble is made.
    pub(crate) is_over: bool,
    /// A replica of which a record is damaged, and the boot of its process in which that happened.
    pub(crate) damaged: Option<(usize, ShardId, u32)>,
    folders: Option<TempDir>,
    folders_made: u64,
}

/// Who creates and removes collections.
#[derive(Default)]
pub(crate) struct Admin {
    map: Arc<ClusterMap>,
    pub(crate) wants_churn: u64,
    created: u64,
    asks: usize,
    call: Option<CallId>,
    intent: Option<(String, OperationId)>,
}

thread_local! {
    /// Builds run on the thread of the simulation, which is a pool of its own.
    static IN_POOL: Cell<bool> = const { Cell::new(false) };
}

/// Runs one seed, with `trouble_ns` of trouble if that is given, and judges it. `verbose` tells each event on stdout.
#[must_use]
pub fn run(seed: u64, trouble_ns: Option<u64>, verbose: bool) -> Report {
    if !IN_POOL.replace(true) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
        // It lives as long as the thread.
        std::mem::forget(pool.expect("a pool of this thread alone"));
    }
    let ran = catch_unwind(AssertUnwindSafe(|| World::new(seed, trouble_ns, verbose).run(seed)));
    ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        Report {
            seed,
            tally: Default::default(),
            operations: 0,
            findings: vec![format!("panic: {text}")],
            verdict: String::new(),
            trace: 0,
        }
    })
}

impl World {
    fn new(seed: u64, trouble_ns: Option<u64>, verbose: bool) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut shape = Shape::draw(&mut rng);
        shape.trouble_ns = trouble_ns.unwrap_or(shape.trouble_ns);
        if verbose {
            println!("{shape:#?}");
        }
        let folders = shape.files.then(|| {
            let memory = PathBuf::from("/dev/shm");
            let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
            made.expect("a temporary folder")
        });
        let mut world = Self {
            out: Outside::new(rng, shape, verbose),
            processes: Vec::new(),
            clients: Vec::new(),
            admin: Admin::default(),
            book: Book::default(),
            is_over: false,
            damaged: None,
            folders,
            folders_made: 0,
        };
        world.people();
        world
    }

    /// Puts processes and clients into the world.
    fn people(&mut self) {
        let Shape { coordinators, nodes, clients, .. } = self.out.shape.clone();
        for number in 0..coordinators {
            let role = Role::Coordinator(Coordinator::new(coordinators));
            self.processes.push(Process::new(number, role, &mut self.out));
        }
        for number in coordinators..coordinators + nodes {
            let store = StoreId(self.out.rng.random());
            let folder = self.new_folder(number);
            self.processes.push(Process::new(number, Role::Node(Node::new(store, folder)), &mut self.out));
        }
        for process in 0..self.processes.len() {
            let at = self.out.rng.random_range(0..200) * MS;
            self.out.after(at, Event::Start { process });
        }
        self.book = Book::new(clients);
        self.clients = (0..clients).map(Client::new).collect();
        for client in 0..clients {
            self.out.after(300 * MS, Event::Client { client, own: ClientOwn::Watch });
            self.out.after(SEC, Event::Client { client, own: ClientOwn::Next });
        }
        self.out.after(SEC, Event::Client { client: clients, own: ClientOwn::Churn });
        self.out.after(CALM, Event::Fault);
        self.usual_network();
    }

    /// An empty folder for segment files, if this run has files.
    pub(crate) fn new_folder(&mut self, process: usize) -> Option<PathBuf> {
        self.folders_made += 1;
        let folder = self.folders.as_ref()?.path().join(format!("{process}-{}", self.folders_made));
        std::fs::create_dir_all(&folder).expect("a folder in a temporary one");
        Some(folder)
    }

    fn run(mut self, seed: u64) -> Report {
        self.run_until(self.out.shape.trouble_ns);
        self.heal();
        let rested = self.come_to_rest();
        if rested {
            self.look_once_more();
        }
        self.report(seed)
    }

    fn is_broken(&self) -> bool {
        !self.out.truth.broken.is_empty()
    }

    fn run_until(&mut self, end: Ns) {
        while !self.is_broken() {
            let Some((at, event)) = self.out.queue.take() else { break };
            if at >= end {
                self.out.queue.put(at, event);
                self.out.now = end;
                break;
            }
            self.out.now = at;
            self.out.tally.events += 1;
            self.dispatch(event);
        }
    }

    fn dispatch(&mut self, event: Event) {
        let (now, out) = (self.out.now, &mut self.out);
        match event {
            Event::Own { process, .. } | Event::Raft { to: process, .. } | Event::Call { to: process, .. } => {
                out.trace.note(now, process, 1);
                self.processes[process].handle(event, out);
            }
            Event::Answer { to: Endpoint::Process(process), .. } => {
                out.trace.note(now, process, 2);
                self.processes[process].handle(event, out);
            }
            Event::Answer { to: Endpoint::Client(client), id, answer } => {
                out.trace.note(now, client, 3);
                match self.clients.get_mut(client) {
                    Some(client) => client.answered(id, answer, &mut self.book, out),
                    None => self.admin.answered(id, &answer),
                }
            }
            Event::Client { client, own } => match self.clients.get_mut(client) {
                Some(client) => client.handle(own, &mut self.book, out),
                None => self.churn(),
            },
            Event::Start { process } => self.processes[process].start(out),
            Event::Resume { process } => self.processes[process].resume(out),
            Event::Fault => {
                self.look_at_damage();
                self.make_trouble();
            }
            Event::Mend(what) => self.mend(&what),
        }
    }

    /// Trouble ends: links carry, disks are quick, everybody runs.
    fn heal(&mut self) {
        self.is_over = true;
        self.out.trace.tell(self.out.now, || "all is healed".to_owned());
        let network = &mut self.out.network;
        network.cut.clear();
        network.slow.clear();
        (network.loss, network.late, network.doubled) = (0.0, 0.0, 0.0);
        if let Some((victim, ..)) = self.damaged {
            // What is damaged on its disk is found at a start.
            self.processes[victim].crash(&mut self.out);
        }
        for process in &mut self.processes {
            process.host.slow = 1;
            process.resume(&mut self.out);
            process.start(&mut self.out);
        }
        self.clients.iter_mut().for_each(|client| client.is_done = true);
    }

    /// Liveness: within bounded time nothing is left to be done.
    fn come_to_rest(&mut self) -> bool {
        let since = self.out.now;
        let mut why = String::new();
        while self.out.now < since + REST_WITHIN && !self.is_broken() {
            self.run_until(self.out.now + SEC);
            match self.restless() {
                None => return true,
                Some(reason) => why = reason,
            }
        }
        if !self.is_broken() {
            let map = &self.out.truth.newest;
            let groups = self.processes.iter().flat_map(|process| {
                let number = process.host.number;
                let statuses = process
                    .host
                    .core
                    .iter()
                    .flat_map(|core| map.shards.keys().filter_map(|id| core.status(group_of(*id))));
                statuses.map(move |status| format!("process {number}: {status:?}"))
            });
            let groups: Vec<String> = groups.collect();
            self.out.trace.tell(self.out.now, || groups.join("\n"));
            self.out.truth.breaks(format!("no rest within {} s of peace: {why}", REST_WITHIN / SEC));
        }
        false
    }

    /// What is still to be done, if anything.
    fn restless(&self) -> Option<String> {
        if let Some(client) = self.clients.iter().position(|client| !client.is_idle()) {
            return Some(format!("client {client} waits"));
        }
        let joins = |process: &&Process| match &process.role {
            Role::Coordinator(coordinator) => !coordinator.is_member(&process.host),
            Role::Node(_) => false,
        };
        if let Some(process) = self.processes.iter().find(joins) {
            return Some(format!("coordinator {} has no vote", process.host.number));
        }
        let map = &self.out.truth.newest;
        map.collection(CHECKED)?;
        map.shards.keys().find_map(|shard| self.restless_shard(map, *shard))
    }

    fn restless_shard(&self, map: &ClusterMap, id: ShardId) -> Option<String> {
        let shard = map.shards.get(&id)?;
        let mut led = None;
        let mut applied = Vec::new();
        for member in &shard.replicas {
            if member.standing != Standing::Member {
                return Some(format!("shard {id}: replica {} is {:?}", member.id, member.standing));
            }
            let number = map.nodes.get(&member.node).and_then(|node| process_at(&node.address))?;
            let Process { host, role: Role::Node(node), .. } = &self.processes[number] else { return None };
            if member.witness {
                if !node.witnesses.contains(&id) {
                    return Some(format!("shard {id}: witness {} is not open", member.id));
                }
                continue;
            }
            let Some(replica) = node.replicas.get(&id).filter(|replica| replica.mode.is_open()) else {
                return Some(format!("shard {id}: replica {} is not open", member.id));
            };
            if replica.view.lacking > 0 {
                return Some(format!("shard {id}: replica {} lacks {} segments", member.id, replica.view.lacking));
            }
            if node.map.epoch < map.epoch {
                return Some(format!("process {number} has not got the map"));
            }
            let status = host.core.as_ref()?.status(group_of(id))?;
            if status.role == Standing_::Leader {
                led = Some(status.committed);
            }
            applied.push(replica.view.applied);
        }
        match led {
            None => Some(format!("shard {id} has no leader")),
            Some(committed) if applied.iter().any(|at| *at != committed) => {
                Some(format!("shard {id}: {committed} is committed, and applied are {applied:?}"))
            }
            Some(_) => None,
        }
    }

    /// The last word: every client reads everything.
    fn look_once_more(&mut self) {
        for fresh in [Fresh::Linearizable, Fresh::Session] {
            for client in 0..self.clients.len() {
                for what in [Read::Scroll { after: None, limit: 50 }, Read::Count] {
                    self.clients[client].begin(Wish::Read(fresh, what), &mut self.book, &mut self.out);
                    let until = self.out.now + 30 * SEC;
                    while self.out.now < until && !self.clients[client].is_idle() && !self.is_broken() {
                        self.run_until(self.out.now + 100 * MS);
                    }
                }
            }
        }
    }

    /// Creates what there is to be, and now and then something more; mirrors an operator.
    fn churn(&mut self) {
        let Self { admin, out, .. } = self;
        let me = Endpoint::Client(out.shape.clients);
        out.after(500 * MS, Event::Client { client: out.shape.clients, own: ClientOwn::Churn });
        if admin.map.epoch < out.truth.newest.epoch {
            admin.map = out.truth.newest.clone();
        }
        admin.asks += 1;
        let to = admin.asks % out.shape.coordinators;
        let nodes = admin.map.nodes.values().filter(|node| !node.replaced).count();
        if admin.map.collection(CHECKED).is_none() {
            let (_, operation) =
                admin.intent.get_or_insert_with(|| (CHECKED.to_owned(), OperationId(out.rng.random()))).clone();
            if nodes == out.shape.nodes {
                let spec = specification(CHECKED, out.shape.shards, out);
                admin.call = Some(out.call(me, to, Call::Create { operation, spec }));
            }
            return;
        }
        let other = admin.map.collections.values().find(|collection| collection.name != CHECKED).cloned();
        if let Some(collection) = &other {
            for shard in admin.map.shards_of(collection) {
                let replica = shard.replicas[out.rng.random_range(0..shard.replicas.len())];
                let Some(to) = admin.map.nodes.get(&replica.node).and_then(|node| process_at(&node.address)) else {
                    continue;
                };
                let ids = (0..40).map(PointId::Number).filter(|id| shard.range.contains(id.hash()));
                let write = Write(out.rng.random_range(0..1 << 40));
                let upserts = ids.take(4).map(|id| workload::point(&id, write, out.shape.dim)).collect();
                let operation = OperationId(out.rng.random());
                let (shard, epoch) = (shard.id, shard.epoch);
                out.call(me, to, Call::Write { shard, epoch, operation, upserts, deletes: Vec::new() });
            }
        }
        if admin.wants_churn == 0 {
            return;
        }
        match (other, admin.intent.take()) {
            (Some(collection), None) => {
                admin.wants_churn -= 1;
                admin.intent = Some((collection.name, OperationId(0)));
            }
            (None, None) => {
                admin.wants_churn -= 1;
                admin.created += 1;
                admin.intent = Some((format!("other-{}", admin.created), OperationId(out.rng.random())));
            }
            // It is there, or gone.
            (Some(collection), Some((name, OperationId(of)))) if (collection.name == name) == (of != 0) => {}
            (None, Some((_, OperationId(0)))) => {}
            (_, intent) => admin.intent = intent,
        }
        let Some((name, operation)) = admin.intent.clone() else { return };
        let call = if operation == OperationId(0) {
            // Each name is used once, and so is the number in it.
            Call::Drop { operation: OperationId(admin.created.into()), name }
        } else {
            let shards = out.rng.random_range(1..=2);
            Call::Create { operation, spec: specification(&name, shards, out) }
        };
        out.call(me, to, call);
    }

    fn report(mut self, seed: u64) -> Report {
        self.out.tally.simulated_ns = self.out.now;
        self.out.tally.leaders = self.out.truth.leader_terms() as u64;
        let mut findings = std::mem::take(&mut self.out.truth.broken);
        let (shape, map) = (&self.out.shape, &self.out.truth.newest);
        let shards: Vec<_> = map.collection(CHECKED).map(|c| map.shards_of(c).cloned().collect()).unwrap_or_default();
        let shard_of =
            |id: &PointId| shards.iter().find(|shard| shard.range.contains(id.hash())).map_or(0, |shard| shard.id.0);
        let mut operations = std::mem::take(&mut self.book.operations);
        operations.sort_by_key(|operation| operation.number);
        let count = operations.len() as u64;
        let score = |query: u64, id: &PointId, write: Write| {
            let query = workload::query_vector(query, shape.dim);
            workload::score(shape.metric, &query, &workload::vector_of(id, write, shape.dim))
        };
        let passes = |kind: u64, _: &PointId, write: Write| workload::kind_of(write) == kind;
        let rules =
            SearchRules { metric: shape.metric, score: &score, passes: &passes, tolerance: Tolerance::default() };
        let verdict = match Ledger::new(operations, Some(&shard_of)) {
            Ok(ledger) => {
                let verdict = judge(&ledger, Some(&rules), &self.out.truth.observations);
                let text = verdict.to_string();
                if !verdict.is_pass() {
                    findings.extend(text.lines().last().map(str::to_owned));
                }
                text
            }
            Err(error) => {
                findings.push(format!("the history breaks its own rules: {error}"));
                String::new()
            }
        };
        let trace = self.out.trace.digest();
        Report { seed, tally: self.out.tally, operations: count, findings, verdict, trace }
    }
}

impl Admin {
    fn answered(&mut self, id: CallId, answer: &Answer) {
        if self.call == Some(id) {
            self.call = None;
            if matches!(answer, Answer::Replied(Ok(_))) {
                self.intent = None;
            }
        }
    }
}

fn specification(name: &str, shards: u32, out: &Outside) -> CollectionSpec {
    let graph = GraphSpec { ef_construction: 16, ..GraphSpec::DEFAULT };
    let index = IndexSpec { dim: out.shape.dim, metric: out.shape.metric, embedding: String::new(), graph };
    let witness = out.shape.witness;
    CollectionSpec { name: name.to_owned(), shards, replicas: if witness { 2 } else { 3 }, witness, index }
}
