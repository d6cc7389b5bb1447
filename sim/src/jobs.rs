//! Jobs of a replica: builds and merges, fetching segments, offering and installing what was made. Mirrors
//! `shoal_node::jobs::Jobs` and `lead::Lead`; what a job makes is made when it ends, and takes simulated time until then.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use rand::Rng;
use shoal_index::segment::{Segment, Target};
use shoal_index::set::{JobId, Product};
use shoal_model::{LogIndex, NodeId, ShardId};
use shoal_node::simulation::{
    Begun, Lane, Manifest, Name, encode_install, group_of, parameters, pause_after, remove_files,
};

use crate::event::{Answer, Broken, Call, CallId, Failure, Outside, Own};
use crate::network::Endpoint;
use crate::node::{Node, Pending};
use crate::process::{Host, Waiting};
use crate::queue::{MS, Ns, SEC};
use crate::replica::discard;

/// How long a proposal may take.
pub(crate) const PROPOSE_WITHIN: Ns = 10 * SEC;
/// How long followers are given to fetch a segment before it is installed without them.
const OFFER_PATIENCE: Ns = 5 * SEC;
/// How long a segment that was offered is kept without its install. Mirrors `lead::installs_within`.
const INSTALLS_WITHIN: Ns = OFFER_PATIENCE + 2 * PROPOSE_WITHIN;
/// Pause before a follower is asked again that was not ready to fetch.
const OFFER_AGAIN: Ns = 50 * MS;
/// Silence after which a stream counts as broken.
const SILENCE: Ns = 2 * SEC;
/// Times that a peer is asked again.
const TRIES_MAX: u32 = 3;

/// The jobs of a replica.
#[derive(Default)]
pub(crate) struct Jobs {
    lanes: BTreeMap<Lane, LaneState>,
    mending: LaneState,
    work: BTreeMap<u64, Work>,
    /// Those that have ended while the content was being replaced: looked at afterwards.
    deferred: Vec<u64>,
}

#[derive(Default)]
struct LaneState {
    running: Option<(JobId, u64)>,
    failures: u32,
    rests_until: Option<Ns>,
}

enum Work {
    Job { lane: Lane, begun: Begun, cancelled: bool },
    Fetch(Box<Fetch>),
}

struct Fetch {
    begun: Begun,
    manifest: Manifest,
    nodes: Vec<NodeId>,
    at: usize,
    tries: u32,
    nobody_has_it: bool,
    purpose: Purpose,
    cancelled: bool,
    made: Option<Product>,
}

#[derive(Clone, Copy)]
enum Purpose {
    /// Its leader has built it and waits for us.
    Offered((Endpoint, CallId)),
    /// It is installed, and its files are missing here.
    Missing(Name),
}

/// A segment on its way into the log.
pub(crate) struct Install {
    replaced: Vec<Name>,
    manifest: Option<Manifest>,
    waits_for: BTreeSet<NodeId>,
}

impl LaneState {
    fn is_free(&self, now: Ns) -> bool {
        self.running.is_none() && self.rests_until.is_none_or(|at| at <= now)
    }
}

impl Node {
    /// Mirrors `Jobs::begin`.
    pub(crate) fn begin_jobs(&mut self, shard: ShardId, leads: bool, host: &mut Host, out: &mut Outside) {
        self.cancel_ended(shard, host, out);
        self.mend(shard, leads, host, out);
        for lane in Lane::ALL.into_iter().filter(|_| leads) {
            let Some(replica) = self.replicas.get_mut(&shard) else { return };
            let Some(machine) = &replica.machine else { return };
            let free = replica.jobs.lanes.get(&lane).is_none_or(|state| state.is_free(out.now));
            if free && let Some(names) = machine.plan(lane, replica.is_quiet) {
                self.begin_job(shard, lane, &names, host, out);
            }
        }
    }

    /// Mirrors `Jobs::stand_down`.
    pub(crate) fn stand_down(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Some(machine) = &mut replica.machine else { return };
        let mut failed = None;
        for state in replica.jobs.lanes.values_mut() {
            if let Some((job, _)) = state.running {
                failed = failed.or(machine.abandon(job).err());
            }
            state.failures = 0;
            state.rests_until = None;
        }
        if let Some(error) = failed {
            out.truth.breaks(format!("process {}: shard {shard} stops: {error}", host.number));
        }
        self.cancel_ended(shard, host, out);
    }

    /// Mirrors `Jobs::cancel_ended`: what was cancelled ends soon, or had ended just before.
    fn cancel_ended(&mut self, shard: ShardId, host: &Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Some(machine) = &replica.machine else { return };
        let lanes = replica.jobs.lanes.values().chain([&replica.jobs.mending]);
        let ended: Vec<u64> =
            lanes.filter_map(|lane| lane.running).filter(|(job, _)| !machine.runs(*job)).map(|(_, key)| key).collect();
        for key in ended {
            let is_new = match replica.jobs.work.get_mut(&key) {
                Some(Work::Job { cancelled, .. }) => !std::mem::replace(cancelled, true),
                Some(Work::Fetch(fetch)) => !std::mem::replace(&mut fetch.cancelled, true),
                None => false,
            };
            if is_new {
                let delay = out.short(20 * MS);
                out.own(host.id(), delay, Own::JobEnds { shard, key });
            }
        }
    }

    /// Mirrors `Jobs::mend`.
    fn mend(&mut self, shard: ShardId, leads: bool, host: &mut Host, out: &mut Outside) {
        let nodes = self.peers_of(shard);
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Some(machine) = &mut replica.machine else { return };
        if !replica.jobs.mending.is_free(out.now) {
            return;
        }
        let Some((name, manifest)) = machine.lacks() else { return };
        let build_is_free = replica.jobs.lanes.get(&Lane::Build).is_none_or(|state| state.is_free(out.now));
        if nodes.is_empty() {
            if leads && build_is_free {
                self.begin_job(shard, Lane::Build, &[name], host, out);
            }
            return;
        }
        self.fetch(shard, &[name], manifest, nodes, Purpose::Missing(name), host, out);
    }

    #[allow(clippy::too_many_arguments)]
    fn fetch(
        &mut self,
        shard: ShardId,
        names: &[Name],
        manifest: Manifest,
        nodes: Vec<NodeId>,
        purpose: Purpose,
        host: &mut Host,
        out: &mut Outside,
    ) {
        let key = self.next_key();
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Some(machine) = &mut replica.machine else { return };
        let (begun, left) = match machine.begin(names) {
            Ok(begun) => begun,
            Err(error) => return out.truth.breaks(format!("process {}: shard {shard} stops: {error}", host.number)),
        };
        discard(left, host, out);
        if let Purpose::Missing(_) = purpose {
            replica.jobs.mending.running = Some((begun.input.id(), key));
            replica.jobs.mending.rests_until = None;
        }
        let fetch = Fetch {
            begun,
            manifest,
            nodes,
            at: 0,
            tries: 0,
            nobody_has_it: true,
            purpose,
            cancelled: false,
            made: None,
        };
        replica.jobs.work.insert(key, Work::Fetch(Box::new(fetch)));
        self.ask_for_segment(shard, key, host, out);
    }

    /// Asks the next node for a segment, or gives up.
    fn ask_for_segment(&mut self, shard: ShardId, key: u64, host: &mut Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Some(Work::Fetch(fetch)) = replica.jobs.work.get_mut(&key) else { return };
        let Some(node) = fetch.nodes.get(fetch.at).copied() else {
            out.own(host.id(), MS, Own::JobEnds { shard, key });
            return;
        };
        let call = Call::Segment { shard, checksum: fetch.manifest.checksum };
        let to = self.process_of_node(node).unwrap_or(host.number);
        self.ask(to, call, Pending::Fetch { shard, key }, SILENCE, host, out);
    }

    /// Mirrors `fetch::segment`.
    pub(crate) fn fetch_answered(
        &mut self,
        shard: ShardId,
        key: u64,
        answer: &Answer,
        host: &mut Host,
        out: &mut Outside,
    ) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Some(Work::Fetch(fetch)) = replica.jobs.work.get_mut(&key).filter(|work| !work.is_cancelled()) else {
            return;
        };
        if let Answer::Segment { segment, broken } = answer {
            let made = take_segment(segment, *broken, fetch.manifest, &fetch.begun.target);
            if let Some(product) = made.and_then(|segment| fetch.begun.input.adopt(segment).ok()) {
                fetch.made = Some(product);
                out.tally.fetches += 1;
                self.job_ends(shard, key, host, out);
                return;
            }
        }
        out.tally.broken_fetches += 1;
        let is_absence = matches!(answer, Answer::Failed(Failure::NotFound));
        fetch.nobody_has_it &= is_absence;
        fetch.tries += 1;
        if is_absence || fetch.tries > TRIES_MAX {
            fetch.at += 1;
            fetch.tries = 0;
        }
        self.ask_for_segment(shard, key, host, out);
    }

    /// Mirrors `transfer::ReplicaCalls::fetch_file`, for both files.
    pub(crate) fn give_segment(
        &mut self,
        to: (Endpoint, CallId),
        shard: ShardId,
        checksum: u64,
        host: &Host,
        out: &mut Outside,
    ) {
        let machine = self.replicas.get(&shard).and_then(|replica| replica.machine.as_ref());
        let found =
            machine.and_then(|machine| machine.segments().find(|s| s.graph_image().checksum() == checksum).cloned());
        let Some(segment) = found else {
            let failure = if machine.is_some() { Failure::NotFound } else { Failure::NotReady };
            return out.answer(host.number, to, Answer::Failed(failure));
        };
        let mut broken = None;
        if out.rng.random_bool(0.1) {
            let at = out.rng.random_range(0..segment.graph_image().bytes().len());
            broken = Some(if out.rng.random_bool(0.5) { Broken::Ends(at) } else { Broken::Differs(at) });
        }
        out.answer(host.number, to, Answer::Segment { segment, broken });
    }

    /// Mirrors `Jobs::fetch_offered`.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn take_offer(
        &mut self,
        to: (Endpoint, CallId),
        shard: ShardId,
        node: NodeId,
        replaced: &[Name],
        manifest: Manifest,
        host: &mut Host,
        out: &mut Outside,
    ) {
        let machine = self.replicas.get(&shard).and_then(|replica| replica.machine.as_ref());
        match machine {
            Some(machine) if machine.is_ready(manifest.checksum, replaced) => {
                out.answer(host.number, to, Answer::Taken);
            }
            Some(machine) if machine.has(replaced) => {
                self.fetch(shard, replaced, manifest, vec![node], Purpose::Offered(to), host, out);
            }
            _ => out.answer(host.number, to, Answer::Failed(Failure::NotReady)),
        }
    }

    /// Mirrors `Jobs::begin_job`.
    fn begin_job(&mut self, shard: ShardId, lane: Lane, names: &[Name], host: &mut Host, out: &mut Outside) {
        let key = self.next_key();
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Some(machine) = &mut replica.machine else { return };
        let (begun, left) = match machine.begin(names) {
            Ok(begun) => begun,
            Err(error) => return out.truth.breaks(format!("process {}: shard {shard} stops: {error}", host.number)),
        };
        discard(left, host, out);
        let state = replica.jobs.lanes.entry(lane).or_default();
        state.running = Some((begun.input.id(), key));
        state.rests_until = None;
        replica.jobs.work.insert(key, Work::Job { lane, begun, cancelled: false });
        let lasts = out.short(out.shape.job_ns);
        out.own(host.id(), lasts, Own::JobEnds { shard, key });
    }

    /// A job or a fetch has ended. Mirrors `Jobs::handle`, which waits while the content is being replaced.
    pub(crate) fn job_ends(&mut self, shard: ShardId, key: u64, host: &mut Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        if replica.machine.is_none() {
            replica.jobs.deferred.push(key);
            return;
        }
        match replica.jobs.work.remove(&key) {
            Some(Work::Job { lane, begun, cancelled }) => self.end(shard, (lane, key), &begun, cancelled, host, out),
            Some(Work::Fetch(fetch)) => self.take_fetched(shard, *fetch, host, out),
            None => return,
        }
        if let Some(replica) = self.replicas.get_mut(&shard)
            && let Some(machine) = &mut replica.machine
        {
            replica.view = machine.publish();
        }
        self.begin_what_is_due(shard, host, out);
    }

    /// Mirrors how `Jobs::handle` takes `Event::Overdue`.
    pub(crate) fn install_overdue(&mut self, shard: ShardId, job: JobId, host: &mut Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Some(machine) = &mut replica.machine else { return };
        discard(machine.forget_overdue(job), host, out);
        self.begin_what_is_due(shard, host, out);
    }

    /// What ended while the content was being replaced.
    pub(crate) fn look_at_deferred(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        for key in std::mem::take(&mut replica.jobs.deferred) {
            self.job_ends(shard, key, host, out);
        }
    }

    /// Mirrors `Jobs::end`.
    fn end(
        &mut self,
        shard: ShardId,
        (lane, key): (Lane, u64),
        begun: &Begun,
        cancelled: bool,
        host: &mut Host,
        out: &mut Outside,
    ) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Some(machine) = &mut replica.machine else { return };
        let id = begun.input.id();
        // One in ten of those that are cancelled had ended just before.
        let fails = if cancelled { out.rng.random_bool(0.9) } else { out.rng.random_bool(0.02) };
        let parameters = parameters(&replica.spec);
        let made = if fails { None } else { begun.input.execute(&parameters, &begun.target, &|| false).ok() };
        let was_ended = made.is_some() && !machine.runs(id);
        let held = match made.filter(|_| !was_ended) {
            Some(product) => machine.died(&product).and_then(|_| machine.hold(product, begun.number)).map(Some),
            None => machine.abandon(id).map(|()| None),
        };
        let state = replica.jobs.lanes.entry(lane).or_default();
        match held {
            Ok(Some((replaced, manifest))) => {
                *state = LaneState::default();
                out.tally.jobs += 1;
                self.install(shard, Install { replaced, manifest, waits_for: BTreeSet::new() }, host, out);
            }
            Ok(None) => {
                remove_files(&begun.target);
                if state.running.take_if(|running| running.1 == key).is_some() && !cancelled && !was_ended {
                    rest(state, shard, host, out);
                }
            }
            Err(error) => out.truth.breaks(format!("process {}: shard {shard} stops: {error}", host.number)),
        }
    }

    /// Mirrors `Jobs::take_fetched`, `not_fetched` and `unfetchable`.
    fn take_fetched(&mut self, shard: ShardId, fetch: Fetch, host: &mut Host, out: &mut Outside) {
        let Fetch { begun, purpose, nobody_has_it, cancelled, made, .. } = fetch;
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Some(machine) = &mut replica.machine else { return };
        let job = begun.input.id();
        let was_made = made.is_some();
        let done = match (made.filter(|_| machine.runs(job)), purpose) {
            (Some(product), Purpose::Offered(to)) => machine.hold(product, begun.number).map(|_| {
                out.own(host.id(), INSTALLS_WITHIN, Own::InstallOverdue { shard, job });
                out.answer(host.number, to, Answer::Taken);
            }),
            (Some(product), Purpose::Missing(name)) => {
                replica.jobs.mending = LaneState::default();
                machine.complete(name, product, begun.number, &*host.disk).map(|left| discard(left, host, out))
            }
            (None, purpose) => {
                let abandoned = machine.abandon(job);
                remove_files(&begun.target);
                match purpose {
                    Purpose::Offered(to) => out.answer(host.number, to, Answer::Failed(Failure::Unknown)),
                    Purpose::Missing(name) => {
                        replica.jobs.mending.running = None;
                        if !cancelled && !was_made {
                            rest(&mut replica.jobs.mending, shard, host, out);
                            let lane = replica.jobs.lanes.get(&Lane::Build);
                            let is_free = lane.is_none_or(|state| state.is_free(out.now));
                            let leads = replica.leads == crate::replica::Leads::Yes;
                            if nobody_has_it && is_free && leads {
                                replica.jobs.mending = LaneState::default();
                                self.begin_job(shard, Lane::Build, &[name], host, out);
                            }
                        }
                    }
                }
                abandoned
            }
        };
        if let Err(error) = done {
            out.truth.breaks(format!("process {}: shard {shard} stops: {error}", host.number));
        }
    }

    /// Mirrors `Lead::install` and `lead::offer`.
    fn install(&mut self, shard: ShardId, mut install: Install, host: &mut Host, out: &mut Outside) {
        let key = self.next_key();
        let nodes = if install.manifest.is_some() { self.peers_of(shard) } else { Vec::new() };
        install.waits_for = nodes.iter().copied().collect();
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        replica.installs.insert(key, install);
        if nodes.is_empty() {
            return self.propose_install(shard, key, host, out);
        }
        out.own(host.id(), OFFER_PATIENCE, Own::OffersOver { shard, install: key });
        for node in nodes {
            self.offer(shard, key, node, host, out);
        }
    }

    /// Mirrors a turn of `lead::offer_to`.
    pub(crate) fn offer(&mut self, shard: ShardId, install: u64, node: NodeId, host: &mut Host, out: &mut Outside) {
        let Some(me) = self.member else { return };
        let Some(replica) = self.replicas.get(&shard) else { return };
        let Some(offered) = replica.installs.get(&install) else { return };
        let Some(manifest) = offered.manifest else { return };
        let call = Call::Offer { shard, node: me, replaced: offered.replaced.clone(), manifest };
        match self.process_of_node(node) {
            Some(to) => drop(self.ask(to, call, Pending::Offer { shard, install, node }, OFFER_PATIENCE, host, out)),
            None => out.own(host.id(), OFFER_AGAIN, Own::OfferAgain { shard, install, node }),
        }
    }

    pub(crate) fn offer_answered(
        &mut self,
        shard: ShardId,
        install: u64,
        node: NodeId,
        answer: &Answer,
        host: &mut Host,
        out: &mut Outside,
    ) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Some(offered) = replica.installs.get_mut(&install) else { return };
        if !matches!(answer, Answer::Taken) {
            out.own(host.id(), OFFER_AGAIN, Own::OfferAgain { shard, install, node });
            return;
        }
        offered.waits_for.remove(&node);
        if offered.waits_for.is_empty() {
            self.propose_install(shard, install, host, out);
        }
    }

    pub(crate) fn propose_install(&mut self, shard: ShardId, install: u64, host: &mut Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Some(Install { replaced, manifest, .. }) = replica.installs.remove(&install) else { return };
        let entry = encode_install(&replaced, manifest);
        match host.propose(group_of(shard), entry, Waiting::Install(shard)) {
            Ok(request) => out.own(host.id(), PROPOSE_WITHIN, Own::ProposalLate(request)),
            Err(_) => self.install_failed(shard, host, out),
        }
    }

    /// Mirrors `ApplyTask::take_proposed`.
    pub(crate) fn install_failed(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        if let Some(machine) = &mut replica.machine {
            discard(machine.forget_ready(), host, out);
        }
        self.begin_what_is_due(shard, host, out);
    }
}

impl Work {
    fn is_cancelled(&self) -> bool {
        match self {
            Self::Job { cancelled, .. } => *cancelled,
            Self::Fetch(fetch) => fetch.cancelled,
        }
    }
}

/// Mirrors `LaneState::fail`.
fn rest(state: &mut LaneState, shard: ShardId, host: &Host, out: &mut Outside) {
    state.failures += 1;
    let pause = Ns::try_from(pause_after(state.failures).as_nanos()).unwrap_or(Ns::MAX);
    state.rests_until = Some(out.now + pause);
    out.own(host.id(), pause, Own::LaneRested(shard));
}

/// Mirrors `fetch::segment_from`: what came is the segment that was wanted, or nothing.
pub(crate) fn take_segment(
    given: &Segment,
    broken: Option<Broken>,
    manifest: Manifest,
    target: &Target,
) -> Option<Segment> {
    let (mut graph, stored) = (Cow::Borrowed(given.graph_image().bytes()), given.stored_image().bytes());
    match broken {
        Some(Broken::Ends(at)) => graph.to_mut().truncate(at),
        Some(Broken::Differs(at)) => graph.to_mut()[at] ^= 1,
        None => {}
    }
    let segment = match &target.files()[..] {
        [graph_file, stored_file] => {
            fs::write(stored_file, stored).ok()?;
            fs::write(graph_file, &graph).ok()?;
            Segment::open(target).ok()?
        }
        _ => Segment::from_bytes(&graph, stored).ok()?,
    };
    (Manifest::of(&segment) == manifest).then_some(segment)
}

/// The position of a snapshot that says none.
pub(crate) const NOWHERE: LogIndex = LogIndex(0);

impl Jobs {
    /// Mirrors `JobsStatus::cannot_build`.
    pub(crate) fn cannot_build(&self) -> bool {
        self.lanes.get(&Lane::Build).is_some_and(|state| state.failures > 0)
    }
}
