//! What waits for the consensus thread: calls, messages and reports, each bounded, taken all at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use shoal_model::{GroupId, LogIndex, ReplicaId};
use shoal_runtime::{Envelope, StoreError};
use tokio::sync::{mpsc, oneshot};

use super::Apply;
use crate::{ConsensusError, GroupSpec, MemberChange};

/// Takes the reply to a call.
pub(super) type Reply<T> = oneshot::Sender<Result<T, ConsensusError>>;

/// A proposal and who waits for it.
pub(super) struct Proposal<R> {
    pub(super) group: GroupId,
    pub(super) data: Bytes,
    /// Goes on to the state machine, with the entry.
    pub(super) answer: oneshot::Sender<R>,
    /// Told before `answer` is dropped.
    pub(super) fate: oneshot::Sender<ConsensusError>,
}

/// A call of a handle.
pub(super) enum Call<R> {
    Open { spec: GroupSpec, reply: Reply<mpsc::Receiver<Apply<R>>> },
    Close { group: GroupId, destroy: bool, reply: Reply<()> },
    Propose(Proposal<R>),
    Read { group: GroupId, reply: Reply<LogIndex> },
    Transfer { group: GroupId, to: ReplicaId, reply: Reply<()> },
    Witnesses { group: GroupId, witnesses: Vec<ReplicaId>, reply: Reply<()> },
    Change { group: GroupId, changes: Vec<MemberChange>, reply: Reply<()> },
    RequestSnapshot { group: GroupId, reply: Reply<()> },
    Unreachable { group: GroupId, peer: ReplicaId },
}

impl<R> Call<R> {
    fn bytes(&self) -> usize {
        match self {
            Self::Propose(proposal) => proposal.data.len(),
            _ => 0,
        }
    }
}

/// What the thread takes for one round.
pub(super) struct Arrivals<R> {
    pub(super) calls: Vec<Call<R>>,
    pub(super) envelopes: VecDeque<Envelope>,
    /// The newest report of each group.
    pub(super) applied: BTreeMap<GroupId, LogIndex>,
    /// How the sync that was under way has ended, if it has.
    pub(super) synced: Option<Result<(), StoreError>>,
    /// Whether the disk has room.
    pub(super) has_room: bool,
    /// No more calls come.
    pub(super) stop: bool,
}

struct State<R> {
    calls: VecDeque<Call<R>>,
    call_bytes: usize,
    envelopes: VecDeque<Envelope>,
    envelope_bytes: usize,
    applied: BTreeMap<GroupId, LogIndex>,
    synced: Option<Result<(), StoreError>>,
    has_room: bool,
    stop: bool,
}

/// The queue in front of the thread.
pub(super) struct Inbox<R> {
    state: Mutex<State<R>>,
    arrived: Condvar,
    calls_max: usize,
    bytes_max: usize,
}

impl<R> Inbox<R> {
    pub(super) fn new(calls_max: usize, bytes_max: usize) -> Self {
        let state = State {
            calls: VecDeque::new(),
            call_bytes: 0,
            envelopes: VecDeque::new(),
            envelope_bytes: 0,
            applied: BTreeMap::new(),
            synced: None,
            has_room: true,
            stop: false,
        };
        Self { state: Mutex::new(state), arrived: Condvar::new(), calls_max, bytes_max }
    }

    /// Adds a call; refuses it if too many wait, or the thread stops.
    pub(super) fn push(&self, group: GroupId, call: Call<R>) -> Result<(), ConsensusError> {
        let mut state = self.state();
        if state.stop {
            return Err(ConsensusError::Stopped);
        }
        let bytes = call.bytes();
        if state.calls.len() >= self.calls_max || state.call_bytes + bytes > self.bytes_max {
            return Err(ConsensusError::Overloaded { group, what: "calls" });
        }
        state.call_bytes += bytes;
        state.calls.push_back(call);
        self.arrived.notify_one();
        Ok(())
    }

    /// Adds a message, or drops it if too much waits.
    pub(super) fn push_envelope(&self, envelope: Envelope) {
        let mut state = self.state();
        let bytes = envelope.data.len();
        if !state.stop && state.envelope_bytes + bytes <= self.bytes_max {
            state.envelope_bytes += bytes;
            state.envelopes.push_back(envelope);
            self.arrived.notify_one();
        }
    }

    /// Adds a report; it replaces an older one.
    pub(super) fn push_applied(&self, group: GroupId, index: LogIndex) {
        let mut state = self.state();
        if !state.stop {
            state.applied.insert(group, index);
            self.arrived.notify_one();
        }
    }

    /// A sync has ended; one runs at a time.
    pub(super) fn push_synced(&self, synced: Result<(), StoreError>) {
        self.state().synced = Some(synced);
        self.arrived.notify_one();
    }

    /// Waits until a sync has ended.
    pub(super) fn wait_until_synced(&self) {
        drop(self.arrived.wait_while(self.state(), |state| state.synced.is_none()));
    }

    /// How a sync has ended, if one has.
    pub(super) fn take_synced(&self) -> Option<Result<(), StoreError>> {
        self.state().synced.take()
    }

    /// The disk has room, or has none.
    pub(super) fn set_room(&self, has_room: bool) {
        self.state().has_room = has_room;
    }

    /// No more calls; those that wait are still carried out.
    pub(super) fn stop(&self) {
        self.state().stop = true;
        self.arrived.notify_one();
    }

    /// No more calls, and those that wait are dropped.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.stop = true;
        state.envelopes.clear();
        let dropped = std::mem::take(&mut state.calls);
        drop(state);
        drop(dropped);
    }

    /// Waits until something is there, at most `patience`, and takes it: of calls, as many as hold at most
    /// `proposal_bytes`, or one.
    pub(super) fn take(&self, patience: Duration, proposal_bytes: usize) -> Arrivals<R> {
        let idle = |state: &mut State<R>| {
            let nothing = state.calls.is_empty() && state.envelopes.is_empty() && state.applied.is_empty();
            nothing && state.synced.is_none() && !state.stop
        };
        let waited = self.arrived.wait_timeout_while(self.state(), patience, idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let mut calls = Vec::new();
        let mut bytes = 0;
        while let Some(call) = state.calls.pop_front_if(|call| bytes == 0 || bytes + call.bytes() <= proposal_bytes) {
            bytes += call.bytes();
            calls.push(call);
        }
        state.call_bytes -= bytes;
        state.envelope_bytes = 0;
        Arrivals {
            calls,
            envelopes: std::mem::take(&mut state.envelopes),
            applied: std::mem::take(&mut state.applied),
            synced: state.synced.take(),
            has_room: state.has_room,
            stop: state.stop && state.calls.is_empty(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<R>> {
        // Every change is finished before anything could panic, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
