//! The thread: takes what came in, steps the core, carries out what comes out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{GroupId, LogIndex};
use shoal_runtime::{Store, Transport};
use tokio::sync::{mpsc, oneshot, watch};

use super::inbox::{Arrivals, Call, Proposal, Reply};
use super::port::Port;
use super::syncer::Syncer;
use super::{Apply, Shared};
use crate::{Answer, ConsensusError, GroupSpec, MultiRaft, Output, RaftConfig, RequestId, Ticket, Work};

/// Ticks for which a sync may last while everything else goes on: less than a follower is loyal to a silent leader.
const SYNC_TICKS_MAX: u32 = 2;

/// Who waits for a request.
enum Waiting<R> {
    Proposal { group: GroupId, answer: oneshot::Sender<R>, fate: oneshot::Sender<ConsensusError> },
    Read { group: GroupId, reply: Reply<LogIndex> },
    Change { group: GroupId, reply: Reply<()> },
}

pub(super) struct Driver<R> {
    core: MultiRaft,
    store: Arc<dyn Store>,
    transport: Arc<dyn Transport>,
    config: RaftConfig,
    pub(super) shared: Arc<Shared<R>>,
    ports: BTreeMap<GroupId, Port<R>>,
    /// Groups whose port has something to move, and those to be looked at with the next tick.
    busy: BTreeSet<GroupId>,
    slow: BTreeSet<GroupId>,
    waiting: HashMap<RequestId, Waiting<R>>,
    syncer: Syncer,
    /// Calls to be answered once this round is on disk, and those once that output is.
    closed: Vec<Reply<()>>,
    closing: Vec<(Ticket, Reply<()>)>,
    last_request: u64,
    next_tick: Instant,
}

impl<R: Send + 'static> Driver<R> {
    /// Starts the thread that syncs; the store is synced first.
    ///
    /// Errors: `Internal` if there is no thread to be had.
    pub(super) fn new(
        core: MultiRaft,
        store: Arc<dyn Store>,
        transport: Arc<dyn Transport>,
        config: RaftConfig,
        shared: Arc<Shared<R>>,
    ) -> Result<Self, ConsensusError> {
        let syncer = Syncer::start(Arc::clone(&store), Arc::clone(&shared))?;
        Ok(Self {
            core,
            store,
            transport,
            config,
            shared,
            ports: BTreeMap::new(),
            busy: BTreeSet::new(),
            slow: BTreeSet::new(),
            waiting: HashMap::new(),
            syncer,
            closed: Vec::new(),
            closing: Vec::new(),
            last_request: 0,
            next_tick: Instant::now(),
        })
    }

    /// Runs until told to stop, or until the disk fails.
    pub(super) fn run(mut self) -> Result<(), ConsensusError> {
        self.store.sync()?;
        loop {
            self.wait_if_the_disk_hangs();
            let patience = self.next_tick.saturating_duration_since(Instant::now());
            let arrivals = self.shared.inbox.take(patience, self.config.append_bytes_max);
            let stop = arrivals.stop;
            self.take(arrivals)?;
            self.tick_if_due();
            self.pump()?;
            self.serve_ports();
            if stop {
                return self.stop();
            }
        }
    }

    /// A process whose disk hangs falls silent, so that others take over what it leads: it could acknowledge nothing.
    fn wait_if_the_disk_hangs(&self) {
        if self.syncer.lasts(self.config.tick_interval * SYNC_TICKS_MAX) {
            self.shared.inbox.wait_until_synced();
        }
    }

    /// What waits for the disk is carried out before the end, so that nobody is left without an answer.
    fn stop(mut self) -> Result<(), ConsensusError> {
        self.serve_ports();
        self.syncer.finish();
        // After an error another sync may pass, and mean nothing.
        self.shared.inbox.take_synced().transpose()?;
        loop {
            self.store.sync()?;
            let written = self.syncer.written();
            self.persisted(written);
            self.pump()?;
            if self.syncer.written() == written {
                return Ok(());
            }
        }
    }

    fn take(&mut self, arrivals: Arrivals<R>) -> Result<(), ConsensusError> {
        self.core.set_room(arrivals.has_room);
        if let Some(synced) = arrivals.synced {
            synced?;
            let ticket = self.syncer.note_synced();
            self.persisted(ticket);
        }
        for (group, index) in arrivals.applied {
            self.core.applied(group, index);
            self.busy.insert(group);
        }
        for envelope in arrivals.envelopes {
            if meet(Failpoint::ConsensusReceive).is_err() {
                continue;
            }
            if let Err(error) = self.core.step(&envelope) {
                tracing::debug!(group = envelope.group.0, from = envelope.from.0, %error, "message dropped");
            }
        }
        for call in arrivals.calls {
            self.take_call(call);
        }
        Ok(())
    }

    /// The outputs up to `ticket` are on disk, as far as they must.
    fn persisted(&mut self, ticket: Ticket) {
        self.core.persisted(ticket);
        for (_, reply) in self.closing.extract_if(.., |(waits_for, _)| *waits_for <= ticket) {
            drop(reply.send(Ok(())));
        }
    }

    fn take_call(&mut self, call: Call<R>) {
        match call {
            Call::Open { spec, reply } => drop(reply.send(self.open(&spec))),
            Call::Close { group, destroy, reply } => match self.core.close_group(group, destroy) {
                Ok(()) => {
                    self.forget(group);
                    self.closed.push(reply);
                }
                Err(error) => drop(reply.send(Err(error))),
            },
            Call::Propose(proposal) => self.propose(proposal),
            Call::Read { group, reply } => {
                let request = self.next_request();
                match self.core.read_index(group, request) {
                    Ok(()) => drop(self.waiting.insert(request, Waiting::Read { group, reply })),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Call::Transfer { group, to, reply } => drop(reply.send(self.core.transfer_leader(group, to))),
            Call::Witnesses { group, witnesses, reply } => {
                drop(reply.send(self.core.set_witnesses(group, &witnesses)));
            }
            Call::Change { group, changes, reply } => {
                let request = self.next_request();
                match self.core.change_membership(group, &changes, request) {
                    Ok(()) => drop(self.waiting.insert(request, Waiting::Change { group, reply })),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Call::RequestSnapshot { group, reply } => drop(reply.send(self.core.request_snapshot(group))),
            Call::Unreachable { group, peer } => self.core.unreachable(group, peer),
        }
    }

    fn open(&mut self, spec: &GroupSpec) -> Result<mpsc::Receiver<Apply<R>>, ConsensusError> {
        self.core.open_group(spec)?;
        let group = spec.group;
        let status = self.core.status(group).ok_or(ConsensusError::UnknownGroup { group })?;
        let (mailbox, work) = mpsc::channel(self.config.mailbox_capacity);
        let (status, watched) = watch::channel(status);
        self.ports.insert(group, Port::new(mailbox, status));
        self.shared.statuses.write().unwrap_or_else(PoisonError::into_inner).insert(group, watched);
        Ok(work)
    }

    /// A proposal whose caller has gone already is not worth its place in the log.
    fn propose(&mut self, proposal: Proposal<R>) {
        let Proposal { group, data, answer, fate } = proposal;
        if answer.is_closed() {
            return;
        }
        let request = self.next_request();
        match self.core.propose(group, data, request) {
            Ok(()) => drop(self.waiting.insert(request, Waiting::Proposal { group, answer, fate })),
            Err(error) => drop(fate.send(error)),
        }
    }

    fn next_request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    /// At most one tick a round: after a long sync the messages that waited come first, and tell that a leader is
    /// alive.
    fn tick_if_due(&mut self) {
        let now = Instant::now();
        if now >= self.next_tick {
            self.next_tick = (self.next_tick + self.config.tick_interval).max(now + self.config.tick_interval / 2);
            self.core.tick();
            self.busy.append(&mut self.slow);
        }
    }

    /// Carries out all that is ready: one write a time; syncs run beside it.
    fn pump(&mut self) -> Result<(), ConsensusError> {
        loop {
            let out = self.core.ready();
            if out.is_empty() {
                break;
            }
            self.carry_out(out)?;
        }
        let written = self.syncer.written();
        let is_persisted = self.syncer.is_idle();
        for reply in self.closed.drain(..) {
            match is_persisted {
                true => drop(reply.send(Ok(()))),
                false => self.closing.push((written, reply)),
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, out: Output) -> Result<(), ConsensusError> {
        for envelope in out.messages {
            if meet(Failpoint::ConsensusSend).is_ok() {
                self.transport.send(envelope);
            }
        }
        if !out.batch.is_empty() {
            meet(Failpoint::ConsensusWrite)?;
            self.store.write(out.batch)?;
        }
        // Before the answers: who is told that a change is done sees it in the status.
        for group in out.touched {
            if let Some((port, status)) = self.ports.get(&group).zip(self.core.status(group)) {
                port.publish(status);
            }
        }
        for work in out.work {
            meet(Failpoint::ConsensusHandOut)?;
            self.hand(work);
        }
        for (request, answer) in out.answers {
            self.answer(request, answer);
        }
        for (group, error) in out.failed {
            tracing::error!(group = group.0, %error, "group closed: it cannot go on");
            // Before its mailbox ends.
            self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner).insert(group, error);
            self.forget(group);
        }
        if let Some(ticket) = self.syncer.note_written(out.ticket, out.must_sync) {
            self.persisted(ticket);
        }
        Ok(())
    }

    fn hand(&mut self, work: Work) {
        let (group, apply) = match work {
            Work::Entry { group, index, data, request } => {
                let waiting = request.and_then(|request| self.waiting.remove(&request));
                let reply = match waiting {
                    Some(Waiting::Proposal { answer, .. }) => Some(answer),
                    _ => None,
                };
                (group, Apply::Entry { index, data, reply })
            }
            Work::Restore { group, index, data } => (group, Apply::Restore { index, data }),
            Work::Snapshot { group } => {
                if let Some(port) = self.ports.get_mut(&group) {
                    port.ask_for_snapshot();
                    self.busy.insert(group);
                }
                return;
            }
        };
        if let Some(port) = self.ports.get_mut(&group) {
            port.hand(apply);
            self.busy.insert(group);
        }
    }

    fn answer(&mut self, request: RequestId, answer: Answer) {
        match (self.waiting.remove(&request), answer) {
            (Some(Waiting::Read { reply, .. }), Answer::ReadAt(index)) => drop(reply.send(Ok(index))),
            (Some(Waiting::Read { group, reply }), _) => {
                drop(reply.send(Err(ConsensusError::DeadlineExceeded { group })));
            }
            (Some(Waiting::Change { reply, .. }), Answer::Changed) => drop(reply.send(Ok(()))),
            (Some(Waiting::Change { group, reply }), Answer::Superseded) => {
                drop(reply.send(Err(ConsensusError::Superseded { group })));
            }
            (Some(Waiting::Change { group, reply }), _) => {
                drop(reply.send(Err(ConsensusError::OutcomeUnknown { group })));
            }
            (Some(Waiting::Proposal { group, fate, .. }), Answer::Superseded) => {
                drop(fate.send(ConsensusError::Superseded { group }));
            }
            (Some(Waiting::Proposal { group, fate, .. }), _) => {
                drop(fate.send(ConsensusError::OutcomeUnknown { group }));
            }
            (None, _) => {}
        }
    }

    /// Moves work into mailboxes and snapshots out of them.
    fn serve_ports(&mut self) {
        for group in std::mem::take(&mut self.busy) {
            let Some(port) = self.ports.get_mut(&group) else { continue };
            let snapshot: Option<(LogIndex, Bytes)> = port.take_snapshot();
            let alive = port.flush();
            if port.waits() {
                self.slow.insert(group);
            }
            if let Some((index, data)) = snapshot
                && let Err(error) = self.core.snapshot_made(group, index, data)
            {
                tracing::warn!(group = group.0, %error, "snapshot not taken");
            }
            if !alive {
                tracing::warn!(group = group.0, "group closed: its state machine is gone");
                drop(self.core.close_group(group, false));
                self.forget(group);
            }
        }
    }

    fn forget(&mut self, group: GroupId) {
        self.ports.remove(&group);
        self.shared.statuses.write().unwrap_or_else(PoisonError::into_inner).remove(&group);
    }
}
