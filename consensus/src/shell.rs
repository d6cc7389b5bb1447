//! The core on a thread of its own, behind async calls.
//!
//! One thread owns the core and all its writes. It takes what has come in, steps all groups, writes once for all of
//! them, and hands work to the state machines' mailboxes. It never waits for a state machine: what does not fit a
//! mailbox is held back, and is bounded by the backlog that the core allows. Nor does it wait for the disk: another
//! thread syncs, one sync at a time for all that was written before it began.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use bytes::Bytes;
use shoal_model::{Classify as _, ErrorKind, GroupId, LogIndex, ReplicaId};
use shoal_runtime::{Envelope, Failure, Store, Transport};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use self::driver::Driver;
use self::inbox::{Call, Inbox, Proposal};
use crate::{ConsensusError, GroupSpec, GroupStatus, MemberChange, MultiRaft, RaftConfig};

mod driver;
mod inbox;
mod port;
mod syncer;

/// Work for the state machine of one group, in order.
#[derive(Debug)]
pub enum Apply<R> {
    /// Apply an entry, write, and report it with [`Consensus::applied`].
    Entry {
        /// Its place; no gaps.
        index: LogIndex,
        /// What was proposed. Empty for Raft's own entries, which only move the applied index on.
        data: Bytes,
        /// Takes the result to the proposer, if it is here.
        reply: Option<oneshot::Sender<R>>,
    },
    /// Replace the state by a snapshot, write, and report its index with [`Consensus::applied`].
    Restore {
        /// What the snapshot includes; what is applied already if it was asked for with
        /// [`Consensus::request_snapshot`], else more.
        index: LogIndex,
        /// The snapshot.
        data: Bytes,
    },
    /// Make a snapshot as of what is applied.
    Snapshot {
        /// Takes its index and data.
        reply: oneshot::Sender<(LogIndex, Bytes)>,
    },
}

/// The groups of this process. Clones are handles to the same thread, which stops with [`Consensus::shut_down`].
pub struct Consensus<R> {
    shared: Arc<Shared<R>>,
}

impl<R> Clone for Consensus<R> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

/// What handles and thread share.
struct Shared<R> {
    inbox: Inbox<R>,
    statuses: Statuses,
    /// Why groups were closed that could not go on, until somebody asks.
    failures: Mutex<BTreeMap<GroupId, ConsensusError>>,
    ended: watch::Receiver<bool>,
}

/// The status of each open group.
type Statuses = Arc<RwLock<HashMap<GroupId, watch::Receiver<GroupStatus>>>>;

/// Owns the thread; whoever started it waits for it.
#[derive(Debug)]
pub struct ConsensusThread {
    thread: JoinHandle<Result<(), ConsensusError>>,
    ended: watch::Receiver<bool>,
}

impl ConsensusThread {
    /// Returns once the thread has ended: after a shutdown, or because it cannot go on.
    ///
    /// Errors: what the disk said, after which nothing is known of it; `Internal` if raft panicked. Both must end
    /// the process.
    pub async fn ended(mut self) -> Result<(), ConsensusError> {
        // Also when the thread panics: that drops the sender.
        while !*self.ended.borrow_and_update() && self.ended.changed().await.is_ok() {}
        self.join()
    }

    /// As [`ConsensusThread::ended`], and tells `failure` if the thread cannot go on.
    pub async fn ended_or_tell(self, failure: Failure) -> Result<(), ConsensusError> {
        self.ended().await.inspect_err(|error| match error.kind() {
            ErrorKind::Corruption => failure.tell_damage(error),
            _ => failure.tell(error),
        })
    }

    /// As [`ConsensusThread::ended`], but blocks.
    pub fn join(self) -> Result<(), ConsensusError> {
        self.thread.join().unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text");
            Err(ConsensusError::Internal(text.to_owned()))
        })
    }
}

impl<R: Send + 'static> Consensus<R> {
    /// Starts the thread, without groups. The store is synced first.
    ///
    /// Errors: `Config`, `Store`, `Internal` if there is no thread to be had.
    pub fn start(
        store: Arc<dyn Store>,
        transport: Arc<dyn Transport>,
        config: RaftConfig,
    ) -> Result<(Self, ConsensusThread), ConsensusError> {
        let core = MultiRaft::new(Arc::clone(&store), config.clone())?;
        let (ended_sender, ended) = watch::channel(false);
        let statuses = Statuses::default();
        let inbox = Inbox::new(config.inbox_calls_max, config.inbox_bytes_max);
        let shared = Arc::new(Shared { inbox, statuses, failures: Mutex::default(), ended: ended.clone() });
        let driver = Driver::new(core, store, transport, config, Arc::clone(&shared))?;
        let thread = std::thread::Builder::new()
            .name("consensus".into())
            .spawn(move || {
                // Dropped last, also by a panic: all that wait are told.
                let _end = End { shared: Arc::clone(&driver.shared), ended: ended_sender };
                driver.run()
            })
            .map_err(|error| ConsensusError::Internal(format!("start a thread: {error}")))?;
        Ok((Self { shared }, ConsensusThread { thread, ended }))
    }

    /// Opens what is stored of a group, or begins it; returns the mailbox of its state machine. A state machine that
    /// drops it closes the group. That of a witness stays empty, and is kept as long as the group is to be open.
    ///
    /// Errors: as [`MultiRaft::open_group`]; `Overloaded`; `Stopped`.
    pub async fn open_group(&self, spec: GroupSpec) -> Result<mpsc::Receiver<Apply<R>>, ConsensusError> {
        let group = spec.group;
        self.ask(group, |reply| Call::Open { spec, reply }).await
    }

    /// Closes a group, which ends its mailbox. `destroy` deletes its log and records as well; it returns once that
    /// is on disk.
    pub async fn close_group(&self, group: GroupId, destroy: bool) -> Result<(), ConsensusError> {
        self.ask(group, |reply| Call::Close { group, destroy, reply }).await
    }

    /// Proposes `data` and returns what the state machine answers once it has applied it.
    ///
    /// Errors that mean it did not happen: `NotLeader`, `Transferring`, `Overloaded`, `TooLarge`, `EmptyProposal`,
    /// `UnknownGroup`, `Superseded`. After `OutcomeUnknown`, `DeadlineExceeded` and `Stopped` it may or may not.
    pub async fn propose(&self, group: GroupId, data: Bytes, deadline: Instant) -> Result<R, ConsensusError> {
        let (answer, answered) = oneshot::channel();
        let (fate, mut fated) = oneshot::channel();
        self.shared.inbox.push(group, Call::Propose(Proposal { group, data, answer, fate }))?;
        match timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            // Whoever dropped the answer has said why before.
            Ok(Err(_)) => Err(fated.try_recv().unwrap_or(ConsensusError::Stopped)),
            Err(_) => Err(ConsensusError::DeadlineExceeded { group }),
        }
    }

    /// An index that is safe to read at, on the leader or any other member: a state that has applied it has all that
    /// was acknowledged before this call.
    ///
    /// Errors: `DeadlineExceeded`, also for want of a leader; `NotLeader` from a witness; `Overloaded`; `UnknownGroup`;
    /// `Stopped`.
    pub async fn read_index(&self, group: GroupId, deadline: Instant) -> Result<LogIndex, ConsensusError> {
        let answer = self.ask(group, |reply| Call::Read { group, reply });
        timeout_at(deadline, answer).await.unwrap_or(Err(ConsensusError::DeadlineExceeded { group }))
    }

    /// Takes a message from the network. Dropped if too many wait: raft can do without any single one.
    pub fn receive(&self, envelope: Envelope) {
        self.shared.inbox.push_envelope(envelope);
    }

    /// Tells whether the disk has room for what leaders send; see [`MultiRaft::set_room`].
    pub fn set_room(&self, has_room: bool) {
        self.shared.inbox.set_room(has_room);
    }

    /// The state machine of `group` has applied up to `index` and, if it keeps its state in the store, written that.
    pub fn applied(&self, group: GroupId, index: LogIndex) {
        self.shared.inbox.push_applied(group, index);
    }

    /// Messages of `group` to `peer` do not arrive.
    pub fn unreachable(&self, group: GroupId, peer: ReplicaId) {
        // Only a hint: if there is no room for it, it will come again.
        drop(self.shared.inbox.push(group, Call::Unreachable { group, peer }));
    }

    /// How a group stands, as of the thread's last round; `None` if it is not open.
    #[must_use]
    pub fn status(&self, group: GroupId) -> Option<GroupStatus> {
        Some(self.watch(group)?.borrow().clone())
    }

    /// Why a group was closed that could not go on; told once.
    #[must_use]
    pub fn take_failure(&self, group: GroupId) -> Option<ConsensusError> {
        self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&group)
    }

    /// The status of a group, to wait for changes of its leader, role, term or members; other fields change without
    /// notice. Ends when the group is closed.
    #[must_use]
    pub fn watch(&self, group: GroupId) -> Option<watch::Receiver<GroupStatus>> {
        self.shared.statuses.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    /// Hands the lead of a group to `to`; returns once it leads.
    ///
    /// Errors: as [`MultiRaft::transfer_leader`]; `DeadlineExceeded` if `to` did not take it in time.
    pub async fn transfer_leader(
        &self,
        group: GroupId,
        to: ReplicaId,
        deadline: Instant,
    ) -> Result<(), ConsensusError> {
        let mut status = self.watch(group).ok_or(ConsensusError::UnknownGroup { group })?;
        self.ask(group, |reply| Call::Transfer { group, to, reply }).await?;
        match timeout_at(deadline, status.wait_for(|status| status.leader == Some(to))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ConsensusError::UnknownGroup { group }),
            Err(_) => Err(ConsensusError::DeadlineExceeded { group }),
        }
    }

    /// Tells which members of a group are witnesses.
    ///
    /// Errors: as [`MultiRaft::set_witnesses`]; `Overloaded`; `Stopped`.
    pub async fn set_witnesses(&self, group: GroupId, witnesses: Vec<ReplicaId>) -> Result<(), ConsensusError> {
        self.ask(group, |reply| Call::Witnesses { group, witnesses, reply }).await
    }

    /// Changes the members of a group; returns once the change is complete.
    ///
    /// Errors: as [`MultiRaft::change_membership`]; `OutcomeUnknown`, `DeadlineExceeded`: look at the status.
    pub async fn change_membership(
        &self,
        group: GroupId,
        changes: Vec<MemberChange>,
        deadline: Instant,
    ) -> Result<(), ConsensusError> {
        let answer = self.ask(group, |reply| Call::Change { group, changes, reply });
        timeout_at(deadline, answer).await.unwrap_or(Err(ConsensusError::DeadlineExceeded { group }))
    }

    /// Asks the group's leader for a snapshot, because the state machine's state is damaged and the log is not; returns
    /// at once. What was put into its mailbox before still comes, then nothing but [`Apply::Restore`], however long
    /// that takes: over changes of the leader, and restarts of this process.
    ///
    /// Errors: as [`MultiRaft::request_snapshot`]; `Overloaded`; `Stopped`.
    pub async fn request_snapshot(&self, group: GroupId) -> Result<(), ConsensusError> {
        self.ask(group, |reply| Call::RequestSnapshot { group, reply }).await
    }

    /// Takes no more calls, syncs what is written, and ends the thread; returns once it has ended.
    pub async fn shut_down(self) {
        self.shared.inbox.stop();
        let mut ended = self.shared.ended.clone();
        while !*ended.borrow_and_update() && ended.changed().await.is_ok() {}
    }

    /// Sends a call and waits for its reply.
    async fn ask<T>(
        &self,
        group: GroupId,
        call: impl FnOnce(oneshot::Sender<Result<T, ConsensusError>>) -> Call<R>,
    ) -> Result<T, ConsensusError> {
        let (reply, replied) = oneshot::channel();
        self.shared.inbox.push(group, call(reply))?;
        replied.await.unwrap_or(Err(ConsensusError::Stopped))
    }
}

/// Tells everybody that the thread has ended, however it did.
struct End<R> {
    shared: Arc<Shared<R>>,
    ended: watch::Sender<bool>,
}

impl<R> Drop for End<R> {
    fn drop(&mut self) {
        // Calls that still wait are dropped, which answers them.
        self.shared.inbox.close();
        self.shared.statuses.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.ended.send_replace(true);
    }
}
