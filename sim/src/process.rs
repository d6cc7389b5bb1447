//! A process: the consensus core and the driver around it, on a disk that can lose power. What is not the driver's is its
//! role's, a node's or a coordinator's. Mirrors `shoal_consensus::shell::driver`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use shoal_consensus::{
    Answer as Fate, ConsensusError, ElectionJitter, MultiRaft, Output, ProcessId, RaftConfig, RequestId, Ticket, Work,
};
use shoal_model::{GroupId, LogIndex, ShardId};
use shoal_runtime::{Envelope, MemoryStore, Store as _};

use crate::coordinator::{Coordinator, Task, process_of};

use crate::event::{Answer, Call, CallId, Event, Failure, Outside, Own};
use crate::network::Endpoint;
use crate::node::Node;
use crate::queue::{MS, Ns};

/// Who waits for a proposal, read or change.
pub(crate) enum Waiting {
    Write((Endpoint, CallId)),
    Read(u64),
    Change,
    Seal(ShardId),
    Install(ShardId),
    Command(Task),
    Fresh(Task),
}

/// What waits in the mailbox of a state machine.
pub(crate) enum Item {
    Entry { index: LogIndex, data: Bytes, waiting: Option<Waiting> },
    Restore { index: LogIndex, data: Bytes },
    Snapshot,
}

/// A process without its role.
pub(crate) struct Host {
    pub(crate) number: usize,
    pub(crate) boot: u32,
    pub(crate) disk: Arc<MemoryStore>,
    pub(crate) core: Option<MultiRaft>,
    pub(crate) waiting: BTreeMap<RequestId, Waiting>,
    /// How many times slower than usual the disk is.
    pub(crate) slow: u64,
    pub(crate) issued: Ticket,
    pub(crate) persisted: Ticket,
    syncs_until: Ns,
    last_request: u64,
    /// What its clock takes for a hundred milliseconds.
    tick_ns: Ns,
}

#[allow(clippy::large_enum_variant)]
pub(crate) enum Role {
    Coordinator(Coordinator),
    Node(Node),
}

pub(crate) struct Process {
    pub(crate) host: Host,
    pub(crate) role: Role,
    pub(crate) paused: bool,
    held: Vec<Event>,
}

impl Host {
    pub(crate) fn id(&self) -> (usize, u32) {
        (self.number, self.boot)
    }

    pub(crate) fn me(&self) -> Endpoint {
        Endpoint::Process(self.number)
    }

    fn next_request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    #[allow(clippy::result_large_err, reason = "whoever waited is given back")]
    pub(crate) fn propose(
        &mut self,
        group: GroupId,
        data: Bytes,
        waiting: Waiting,
    ) -> Result<RequestId, (ConsensusError, Waiting)> {
        let request = self.next_request();
        let Some(core) = &mut self.core else { return Err((ConsensusError::Stopped, waiting)) };
        match core.propose(group, data, request) {
            Ok(()) => {
                self.waiting.insert(request, waiting);
                Ok(request)
            }
            Err(error) => Err((error, waiting)),
        }
    }

    #[allow(clippy::result_large_err, reason = "whoever waited is given back")]
    pub(crate) fn read_index(&mut self, group: GroupId, waiting: Waiting) -> Result<(), (ConsensusError, Waiting)> {
        let request = self.next_request();
        let Some(core) = &mut self.core else { return Err((ConsensusError::Stopped, waiting)) };
        match core.read_index(group, request) {
            Ok(()) => {
                self.waiting.insert(request, waiting);
                Ok(())
            }
            Err(error) => Err((error, waiting)),
        }
    }

    pub(crate) fn change(
        &mut self,
        group: GroupId,
        changes: &[shoal_consensus::MemberChange],
        waiting: Waiting,
    ) -> bool {
        let request = self.next_request();
        let changed = self.core.as_mut().is_some_and(|core| core.change_membership(group, changes, request).is_ok());
        if changed {
            self.waiting.insert(request, waiting);
        }
        changed
    }

    /// Small limits, so that a short run meets all of them.
    fn config(&self, out: &mut Outside) -> RaftConfig {
        let shape = &out.shape;
        RaftConfig {
            tick_interval: Duration::from_millis(100),
            election_jitter: ElectionJitter::Fixed { ticks: 1 + (2 * self.number + self.boot as usize) % 7 },
            append_bytes_max: shape.append_bytes_max,
            appends_in_flight_max: shape.appends_in_flight_max,
            committed_bytes_per_round: 4_000,
            proposal_bytes_max: 1 << 16,
            uncommitted_bytes_max: 1 << 17,
            backlog_bytes_max: 20_000,
            log_keep_entries: shape.log_keep_entries,
            log_keep_bytes: shape.log_bytes_max / 5,
            log_bytes_max: shape.log_bytes_max,
            cache_bytes: 2_000,
            snapshot_retry_ticks: shape.snapshot_retry_ticks,
            promotion_lag_max: shape.promotion_lag_max,
            ..RaftConfig::new(out.rng.random())
        }
    }
}

impl Process {
    pub(crate) fn new(number: usize, role: Role, out: &mut Outside) -> Self {
        let drift = out.shape.drift;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let tick_ns = (100.0 * (1.0 + out.rng.random_range(-drift..=drift)) * 1e6) as Ns;
        let host = Host {
            number,
            boot: 0,
            disk: Arc::default(),
            core: None,
            waiting: BTreeMap::new(),
            slow: 1,
            issued: Ticket::default(),
            persisted: Ticket::default(),
            syncs_until: 0,
            last_request: 0,
            tick_ns,
        };
        Self { host, role, paused: false, held: Vec::new() }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.host.core.is_some()
    }

    /// Starts on whatever its disk has.
    pub(crate) fn start(&mut self, out: &mut Outside) {
        if self.is_up() {
            return;
        }
        let host = &mut self.host;
        host.boot += 1;
        out.trace.tell(out.now, || format!("process {} starts, boot {}", host.number, host.boot));
        (host.issued, host.persisted) = Default::default();
        host.syncs_until = 0;
        host.disk.sync().expect("the simulated disk does not fail");
        let named = out.shape.sleeps && matches!(self.role, Role::Node(_));
        let config = RaftConfig { process: named.then_some(ProcessId(host.number as u64)), ..host.config(out) };
        let core = MultiRaft::new(host.disk.clone(), config);
        host.core = Some(core.expect("settings are valid"));
        out.own(host.id(), host.tick_ns / 2, Own::Tick);
        match &mut self.role {
            Role::Coordinator(coordinator) => coordinator.start(host, out),
            Role::Node(node) => node.start(host, out),
        }
        self.pump(out);
    }

    /// Loses power: of what was written since the last sync only a part survives.
    pub(crate) fn crash(&mut self, out: &mut Outside) {
        if !self.is_up() {
            return;
        }
        let host = &mut self.host;
        host.core = None;
        host.waiting.clear();
        let unsynced = host.disk.unsynced_batches();
        let kept = out.rng.random_range(0..=unsynced);
        out.tally.lost_batches += (unsynced - kept) as u64;
        host.disk.crash(kept);
        out.trace.tell(out.now, || format!("process {} loses power, and {} batches", host.number, unsynced - kept));
        self.paused = false;
        self.held.clear();
        match &mut self.role {
            Role::Coordinator(coordinator) => coordinator.lose_power(),
            Role::Node(node) => node.lose_power(),
        }
    }

    pub(crate) fn pause(&mut self) {
        self.paused = self.is_up();
    }

    /// Goes on, with all that came meanwhile.
    pub(crate) fn resume(&mut self, out: &mut Outside) {
        if std::mem::take(&mut self.paused) {
            for event in std::mem::take(&mut self.held) {
                self.handle(event, out);
            }
        }
    }

    pub(crate) fn handle(&mut self, event: Event, out: &mut Outside) {
        if self.paused {
            self.held.push(event);
            return;
        }
        if !self.is_up() {
            if let Event::Call { from, id, .. } = event
                && out.rng.random_bool(0.7)
            {
                out.answer(self.host.number, (from, id), Answer::Failed(Failure::Refused));
            }
            return;
        }
        match event {
            Event::Own { boot, .. } if boot != self.host.boot => return,
            Event::Own { own: Own::Tick, .. } => {
                if let Some(core) = &mut self.host.core {
                    core.tick();
                }
                out.own(self.host.id(), self.host.tick_ns, Own::Tick);
            }
            Event::Own { own: Own::Synced { ticket, mark }, .. } => {
                self.host.disk.sync_through(mark);
                self.persisted(ticket);
            }
            Event::Own { own, .. } => match &mut self.role {
                Role::Coordinator(coordinator) => coordinator.own(&own, &mut self.host, out),
                Role::Node(node) => node.own(own, &mut self.host, out),
            },
            Event::Raft { envelope, .. } => {
                // A group that is gone, or a replica that was replaced, refuses.
                if let Some(core) = &mut self.host.core
                    && let Err(error) = core.step(&envelope)
                {
                    out.trace.tell(out.now, || format!("process {} drops a message: {error}", self.host.number));
                }
            }
            Event::Call { from, id, call, .. } => self.take_call(from, id, &call, out),
            Event::Answer { id, answer, .. } => match &mut self.role {
                Role::Coordinator(coordinator) => coordinator.answered(id, &answer),
                Role::Node(node) => node.answered(id, answer, &mut self.host, out),
            },
            _ => {}
        }
        self.pump(out);
    }

    fn take_call(&mut self, from: Endpoint, id: CallId, call: &Call, out: &mut Outside) {
        match &mut self.role {
            Role::Coordinator(coordinator) => coordinator.call(from, id, call, &mut self.host, out),
            Role::Node(node) => node.call(from, id, call, &mut self.host, out),
        }
    }

    /// Carries out all that is ready.
    pub(crate) fn pump(&mut self, out: &mut Outside) {
        while let Some(core) = &mut self.host.core {
            let output = core.ready();
            if output.is_empty() {
                break;
            }
            self.carry_out(output, out);
        }
    }

    fn persisted(&mut self, ticket: Ticket) {
        self.host.persisted = ticket;
        if let Some(core) = &mut self.host.core {
            core.persisted(ticket);
        }
    }

    fn carry_out(&mut self, output: Output, out: &mut Outside) {
        for envelope in output.messages {
            self.send(envelope, out);
        }
        self.host.disk.write(output.batch).expect("the simulated disk does not fail");
        for group in output.touched {
            let Some(status) = self.host.core.as_ref().and_then(|core| core.status(group)) else { continue };
            out.truth.leads(matches!(self.role, Role::Coordinator(_)), &status);
            if let Role::Node(node) = &mut self.role {
                node.status_changed(&status, &mut self.host, out);
            }
        }
        for work in output.work {
            self.hand(work, out);
        }
        for (request, fate) in output.answers {
            self.answer(request, fate, out);
        }
        for (group, error) in output.failed {
            out.truth.breaks(format!("process {}: group {group} gives up: {error}", self.host.number));
        }
        self.sync(output.must_sync, output.ticket, out);
    }

    fn sync(&mut self, must_sync: bool, ticket: Ticket, out: &mut Outside) {
        let host = &mut self.host;
        let is_idle = host.issued == host.persisted;
        host.issued = ticket;
        if !must_sync && is_idle {
            self.persisted(ticket);
            return;
        }
        let lasts = if must_sync { out.short(out.shape.sync_ns) * host.slow } else { 0 };
        host.syncs_until = host.syncs_until.max(out.now + lasts);
        let mark = if must_sync { host.disk.mark() } else { 0 };
        out.queue.put(
            host.syncs_until,
            Event::Own { process: host.number, boot: host.boot, own: Own::Synced { ticket, mark } },
        );
    }

    fn send(&mut self, envelope: Envelope, out: &mut Outside) {
        let to = match &self.role {
            Role::Coordinator(_) => Some(process_of(envelope.to)).filter(|number| *number < out.shape.coordinators),
            Role::Node(node) => node.process_of(envelope.group, envelope.to),
        };
        if let Some(to) = to {
            out.send_raft(self.host.number, to, envelope);
        }
    }

    fn hand(&mut self, work: Work, out: &mut Outside) {
        let is_map = matches!(self.role, Role::Coordinator(_));
        let (group, item) = match work {
            Work::Entry { group, index, data, request } => {
                out.truth.chose(is_map, group, index, &data);
                let waiting = request.and_then(|request| self.host.waiting.remove(&request));
                (group, Item::Entry { index, data, waiting })
            }
            Work::Restore { group, index, data } => (group, Item::Restore { index, data }),
            Work::Snapshot { group } => (group, Item::Snapshot),
        };
        match &mut self.role {
            Role::Coordinator(coordinator) => coordinator.hand(item, &mut self.host, out),
            Role::Node(node) => node.hand(group, item, &mut self.host, out),
        }
    }

    fn answer(&mut self, request: RequestId, fate: Fate, out: &mut Outside) {
        let Some(waiting) = self.host.waiting.remove(&request) else { return };
        match &mut self.role {
            Role::Coordinator(coordinator) => coordinator.decided(waiting, fate, &mut self.host, out),
            Role::Node(node) => node.decided(waiting, fate, &mut self.host, out),
        }
    }
}

/// Pause before a coordinator is asked again.
pub(crate) const ASK_AGAIN: Ns = 200 * MS;
