//! The thread: takes what came in, steps the core, carries out what comes out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use shoal_model::{GroupId, LogIndex};
use shoal_runtime::{Store, Transport};
use tokio::sync::{mpsc, oneshot, watch};

use super::inbox::{Arrivals, Call, Proposal, Reply};
use super::port::Port;
use super::{Apply, Shared};
use crate::{Answer, ConsensusError, GroupSpec, MultiRaft, Output, RaftConfig, RequestId, Work};

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
    /// Calls to be answered once this round is on disk.
    closed: Vec<Reply<()>>,
    last_request: u64,
    next_tick: Instant,
}

impl<R> Driver<R> {
    pub(super) fn new(
        core: MultiRaft,
        store: Arc<dyn Store>,
        transport: Arc<dyn Transport>,
        config: RaftConfig,
        shared: Arc<Shared<R>>,
    ) -> Self {
        Self {
            core,
            store,
            transport,
            config,
            shared,
            ports: BTreeMap::new(),
            busy: BTreeSet::new(),
            slow: BTreeSet::new(),
            waiting: HashMap::new(),
            closed: Vec::new(),
            last_request: 0,
            next_tick: Instant::now(),
        }
    }

    /// Runs until told to stop, or until the disk fails.
    pub(super) fn run(mut self) -> Result<(), ConsensusError> {
        self.store.sync()?;
        loop {
            let patience = self.next_tick.saturating_duration_since(Instant::now());
            let arrivals = self.shared.inbox.take(patience, self.config.append_bytes_max);
            let stop = arrivals.stop;
            self.take(arrivals);
            self.tick_if_due();
            self.pump()?;
            self.serve_ports();
            if stop {
                return self.stop();
            }
        }
    }

    fn stop(mut self) -> Result<(), ConsensusError> {
        self.serve_ports();
        self.store.sync()?;
        Ok(())
    }

    fn take(&mut self, arrivals: Arrivals<R>) {
        self.core.set_room(arrivals.has_room);
        for (group, index) in arrivals.applied {
            self.core.applied(group, index);
            self.busy.insert(group);
        }
        for envelope in arrivals.envelopes {
            if let Err(error) = self.core.step(&envelope) {
                tracing::debug!(group = envelope.group.0, from = envelope.from.0, %error, "message dropped");
            }
        }
        for call in arrivals.calls {
            self.take_call(call);
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

    /// Carries out all that is ready: one write and at most one sync a time.
    fn pump(&mut self) -> Result<(), ConsensusError> {
        loop {
            let out = self.core.ready();
            if out.is_empty() {
                break;
            }
            self.carry_out(out)?;
        }
        for reply in self.closed.drain(..) {
            drop(reply.send(Ok(())));
        }
        Ok(())
    }

    fn carry_out(&mut self, out: Output) -> Result<(), ConsensusError> {
        for envelope in out.messages {
            self.transport.send(envelope);
        }
        if !out.batch.is_empty() {
            self.store.write(out.batch)?;
        }
        // Before the answers: who is told that a change is done sees it in the status.
        for group in out.touched {
            if let Some((port, status)) = self.ports.get(&group).zip(self.core.status(group)) {
                port.publish(status);
            }
        }
        for work in out.work {
            self.hand(work);
        }
        for (request, answer) in out.answers {
            self.answer(request, answer);
        }
        for (group, error) in out.failed {
            tracing::error!(group = group.0, %error, "group closed: it cannot go on");
            self.forget(group);
        }
        if out.must_sync {
            // State machines get their work before the sync, and apply while it runs.
            self.serve_ports();
            self.store.sync()?;
        }
        self.core.persisted(out.ticket);
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
