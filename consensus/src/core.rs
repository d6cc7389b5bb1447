//! All groups of one process as one plain struct: no clock, no thread, no socket, no randomness but raft's own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::planted::{Bug, is_planted};
use shoal_model::{GroupId, LogIndex, ReplicaId};
use shoal_runtime::{Batch, Envelope, Store};

pub(crate) use self::group::FIRST;
use self::group::{Group, Round};
use self::processes::Processes;
use crate::{
    Answer, BEACON_GROUP, ConsensusError, GroupSpec, GroupStatus, MemberChange, Output, ProcessId, RaftConfig,
    RequestId, Ticket,
};

mod backlog;
mod confs;
mod group;
mod inbound;
mod log;
mod logger;
mod processes;
mod proposals;
mod reads;
mod records;
mod terms;

/// Whose log `store` holds of a group; `None` if it has nothing of it.
///
/// Errors: `Corruption`; `Store`.
pub fn stored_replica(store: &dyn Store, group: GroupId) -> Result<Option<ReplicaId>, ConsensusError> {
    Ok(records::load(store, group)?.map(|records| records.me))
}

/// All groups of one process. The duties of its caller are in the header of this crate.
pub struct MultiRaft {
    store: Arc<dyn Store>,
    config: RaftConfig,
    groups: BTreeMap<GroupId, Group>,
    /// Groups that do not sleep.
    awake: BTreeSet<GroupId>,
    processes: Processes,
    /// Groups that may have something ready.
    dirty: BTreeSet<GroupId>,
    /// Groups whose state machine wrote since the last sync began.
    unsynced: BTreeSet<GroupId>,
    /// Groups whose deletion is not on disk, and the ticket it waits for.
    going: BTreeMap<GroupId, Option<Ticket>>,
    /// What the next output carries besides what groups have ready.
    messages: Vec<Envelope>,
    batch: Batch,
    must_sync: bool,
    answers: Vec<(RequestId, Answer)>,
    failed: Vec<(GroupId, ConsensusError)>,
    in_flight: VecDeque<InFlight>,
    /// Whether the disk has room for what others send.
    has_room: bool,
    last_ticket: Ticket,
    ticks: u64,
    contexts: u64,
    incarnations: u64,
}

/// An output that was not reported as persisted yet.
struct InFlight {
    ticket: Ticket,
    /// Group, its incarnation, the number of its round.
    rounds: Vec<(GroupId, u64, u64)>,
    /// Group, its incarnation, what was applied and which snapshot was stored when the sync was asked for.
    written: Vec<(GroupId, u64, (u64, u64))>,
}

impl MultiRaft {
    /// No groups yet.
    pub fn new(store: Arc<dyn Store>, config: RaftConfig) -> Result<Self, ConsensusError> {
        config.validate()?;
        Ok(Self {
            store,
            config,
            groups: BTreeMap::new(),
            awake: BTreeSet::new(),
            processes: Processes::default(),
            dirty: BTreeSet::new(),
            unsynced: BTreeSet::new(),
            going: BTreeMap::new(),
            messages: Vec::new(),
            batch: Batch::default(),
            must_sync: false,
            answers: Vec::new(),
            failed: Vec::new(),
            in_flight: VecDeque::new(),
            has_room: true,
            last_ticket: Ticket::default(),
            ticks: 0,
            contexts: 0,
            incarnations: 0,
        })
    }

    /// Opens what is stored of a group, or begins it. Its log is read and verified whole.
    ///
    /// If the state machine lags behind the log's start, its first work is to restore the stored snapshot.
    ///
    /// Errors: `AlreadyOpen`; `OtherReplica`; `Corruption`; `LogLost` if the log is shorter than what it says itself
    /// to be committed; `NobodyToAsk` if its state is lost and it is the only voter; `Store`.
    pub fn open_group(&mut self, spec: &GroupSpec) -> Result<(), ConsensusError> {
        if self.groups.contains_key(&spec.group) || self.going.contains_key(&spec.group) {
            return Err(ConsensusError::AlreadyOpen { group: spec.group });
        }
        if spec.group == BEACON_GROUP {
            return Err(ConsensusError::BadChange { group: spec.group, problem: "group 0 is for beacons".into() });
        }
        if spec.me == ReplicaId(0) || spec.voters.contains(&ReplicaId(0)) {
            return Err(ConsensusError::BadChange { group: spec.group, problem: "replica 0 cannot be".into() });
        }
        meet(Failpoint::ConsensusOpen)?;
        self.incarnations += 1;
        let mut batch = Batch::default();
        let group = Group::open(&self.store, spec, &self.config, self.incarnations, &mut batch)?;
        self.must_sync |= !batch.is_empty();
        self.batch.append(batch);
        self.groups.insert(spec.group, group);
        self.awake.insert(spec.group);
        self.dirty.insert(spec.group);
        Ok(())
    }

    /// Closes a group; what is open in it is answered. `destroy` deletes its log and records as well, whether it is
    /// open or not.
    pub fn close_group(&mut self, group: GroupId, destroy: bool) -> Result<(), ConsensusError> {
        if destroy {
            meet(Failpoint::ConsensusDestroy)?;
        }
        let closed = self.remove(group);
        if closed.is_none() && !destroy {
            return Err(ConsensusError::UnknownGroup { group });
        }
        self.answers.extend(closed.into_iter().flat_map(Group::close));
        if destroy {
            records::delete_group(&mut self.batch, group);
            self.must_sync = true;
            self.going.insert(group, None);
        }
        Ok(())
    }

    /// One tick of the clock passed.
    pub fn tick(&mut self) {
        self.ticks += 1;
        let mut asleep = Vec::new();
        for id in &self.awake {
            let Some(group) = self.groups.get_mut(id) else { continue };
            group.tick(self.ticks, &self.config, &self.processes, &mut self.batch);
            asleep.extend(group.sleeps_on().is_some().then_some(*id));
        }
        self.dirty.extend(&self.awake);
        asleep.into_iter().for_each(|id| self.note_sleep(id));
        // After the others, as this tick is over for who wakes with it.
        for id in self.processes.tick(self.ticks, &self.config) {
            self.wake(id, None);
        }
        self.messages.extend(self.processes.beacons(self.ticks, &self.config));
    }

    /// Wakes a group; `gone` is a process that is up and of no use to it.
    fn wake(&mut self, id: GroupId, gone: Option<ProcessId>) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.wake(gone, &self.processes, self.ticks, &self.config);
            self.note_sleep(id);
            self.dirty.insert(id);
        }
    }

    /// Follows what a group did: fell asleep, or woke.
    fn note_sleep(&mut self, id: GroupId) {
        match self.groups.get(&id).map(Group::sleeps_on) {
            Some(None) if self.awake.insert(id) => self.processes.forget_sleeper(id),
            Some(Some(on)) => {
                self.processes.put_to_sleep(id, on);
                self.awake.remove(&id);
            }
            Some(None) | None => {}
        }
    }

    /// Takes a message from the network.
    ///
    /// Errors: `UnknownGroup`, `BadMessage`; nothing happened, and the message is to be dropped. A message that shows
    /// that the group cannot go on closes it, which the next output tells.
    pub fn step(&mut self, envelope: &Envelope) -> Result<(), ConsensusError> {
        if envelope.group == BEACON_GROUP {
            let alarm = self.processes.receive(envelope, self.ticks, &self.config)?;
            alarm.groups.into_iter().for_each(|id| self.wake(id, alarm.gone));
            return Ok(());
        }
        let group = Self::group(&mut self.groups, envelope.group)?;
        let message = inbound::parse(envelope, group.me())?;
        if !self.has_room && inbound::brings_data(&message) {
            // As if the network had lost it: others make a majority, and heartbeats have it sent again.
            return Ok(());
        }
        self.dirty.insert(envelope.group);
        let result = group.step(message, self.ticks, &self.config, &mut self.processes);
        self.note_sleep(envelope.group);
        match result {
            Ok(()) => Ok(()),
            Err(error @ ConsensusError::BadMessage { .. }) => Err(error),
            Err(error) => {
                self.fail(envelope.group, error);
                Ok(())
            }
        }
    }

    /// Tells whether the disk has room for entries and snapshots that leaders send. While it has none they are dropped,
    /// and nothing is acknowledged; votes, heartbeats and reads go on. What is proposed here is not refused: that is for
    /// the caller to do, earlier and in words.
    pub fn set_room(&mut self, has_room: bool) {
        self.has_room = has_room;
    }

    /// Proposes `data` to a group that this replica leads. It comes back as [`Work::Entry`](crate::Work::Entry) with
    /// `request` once it is committed, or `request` is answered.
    ///
    /// Errors: `NotLeader`, `Transferring`, `Overloaded`, `TooLarge`, `EmptyProposal`, `UnknownGroup`; nothing
    /// happened.
    pub fn propose(&mut self, group: GroupId, data: Bytes, request: RequestId) -> Result<(), ConsensusError> {
        self.wake(group, None);
        Self::group(&mut self.groups, group)?.propose(data, request, &self.config)
    }

    /// Asks, on any member, for an index that is safe to read at; answered with [`Answer::ReadAt`]. A lost leader is
    /// waited for.
    ///
    /// Errors: `NotLeader` from a witness, `Overloaded`, `UnknownGroup`.
    pub fn read_index(&mut self, group: GroupId, request: RequestId) -> Result<(), ConsensusError> {
        self.wake(group, None);
        Self::group(&mut self.groups, group)?.read_index(request, self.ticks, &self.config)
    }

    /// Hands the lead of a group to another voter that is no witness; whether it took it shows in the status.
    ///
    /// Errors: `NotLeader`, `Transferring`, `BadChange`, `UnknownGroup`.
    pub fn transfer_leader(&mut self, group: GroupId, to: ReplicaId) -> Result<(), ConsensusError> {
        self.wake(group, None);
        Self::group(&mut self.groups, group)?.transfer_leader(to)
    }

    /// Tells which members of a group are witnesses, also of those that are about to join. They are sent no state, and
    /// the lead is not handed to them. Until a leader knows, a witness merely gets more than it needs; but a full
    /// replica that passes for a witness cannot catch up from a snapshot.
    ///
    /// Errors: `UnknownGroup`.
    pub fn set_witnesses(&mut self, group: GroupId, witnesses: &[ReplicaId]) -> Result<(), ConsensusError> {
        self.wake(group, None);
        Self::group(&mut self.groups, group)?.set_witnesses(witnesses);
        Ok(())
    }

    /// Changes the members of a group, several at once through a joint quorum; answered with [`Answer::Changed`].
    ///
    /// Errors: `NotLeader`, `ChangePending`, `BadChange`, `UnknownGroup`; nothing happened.
    pub fn change_membership(
        &mut self,
        group: GroupId,
        changes: &[MemberChange],
        request: RequestId,
    ) -> Result<(), ConsensusError> {
        self.wake(group, None);
        Self::group(&mut self.groups, group)?.change_membership(changes, request, &self.config)
    }

    /// Asks the leader for a snapshot, because the state of this replica's state machine is damaged and its log is not.
    /// The state machine gets no more work but [`Work::Restore`](crate::Work::Restore), and then what follows in the
    /// log; the replica votes and appends meanwhile, but does not stay leader. A request that stands already is not
    /// repeated; it stands until it is fulfilled, also over restarts.
    ///
    /// Errors: `NobodyToAsk`, if this replica leads or no leader is known; `BadChange` from a witness; `UnknownGroup`;
    /// nothing happened.
    pub fn request_snapshot(&mut self, group: GroupId) -> Result<(), ConsensusError> {
        self.wake(group, None);
        Self::group(&mut self.groups, group)?.request_snapshot()
    }

    /// The state machine of `group` has applied up to `index` and, if it keeps its state in the store, written that.
    pub fn applied(&mut self, group: GroupId, index: LogIndex) {
        if let Some(open) = self.groups.get_mut(&group) {
            open.note_applied(index.0);
            self.dirty.insert(group);
            self.unsynced.insert(group);
        }
    }

    /// The state machine of `group` made a snapshot of itself as of `index`.
    ///
    /// Errors: `BadChange` if the log does not hold that index any more; `UnknownGroup`.
    pub fn snapshot_made(&mut self, group: GroupId, index: LogIndex, data: Bytes) -> Result<(), ConsensusError> {
        let open = Self::group(&mut self.groups, group)?;
        let mut batch = Batch::default();
        open.snapshot_made(index.0, data, self.ticks, &self.config, &mut batch)?;
        // Else an idle process would make it again and again, as the log is only cut behind one that is on disk.
        self.must_sync |= !batch.is_empty();
        self.batch.append(batch);
        self.dirty.insert(group);
        self.unsynced.insert(group);
        Ok(())
    }

    /// Messages from `group` to `peer` do not arrive.
    pub fn unreachable(&mut self, group: GroupId, peer: ReplicaId) {
        if let Some(open) = self.groups.get_mut(&group) {
            open.note_unreachable(peer);
        }
    }

    /// How a group stands.
    #[must_use]
    pub fn status(&self, group: GroupId) -> Option<GroupStatus> {
        Some(self.groups.get(&group)?.status(self.ticks, &self.config))
    }

    /// Everything that is to be done now, for all groups. Call it until it is empty.
    pub fn ready(&mut self) -> Output {
        let mut out = Output {
            messages: std::mem::take(&mut self.messages),
            batch: std::mem::take(&mut self.batch),
            must_sync: std::mem::take(&mut self.must_sync),
            answers: std::mem::take(&mut self.answers),
            ..Output::default()
        };
        let rounds = self.collect(&mut out);
        out.must_sync &= !is_planted(Bug::AcknowledgeBeforeSync);
        out.failed.append(&mut self.failed);
        let carries_nothing = out.messages.is_empty()
            && out.batch.is_empty()
            && out.work.is_empty()
            && out.answers.is_empty()
            && out.failed.is_empty()
            && out.touched.is_empty();
        if !carries_nothing || !rounds.is_empty() {
            self.issue(&mut out, rounds);
        }
        out
    }

    /// Collects what each dirty group has ready.
    fn collect(&mut self, out: &mut Output) -> Vec<(GroupId, u64, u64)> {
        let mut rounds = Vec::new();
        for id in std::mem::take(&mut self.dirty) {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let mut round =
                Round { config: &self.config, tick: self.ticks, contexts: &mut self.contexts, out: &mut *out };
            match group.collect(&mut round) {
                Ok(number) => rounds.extend(number.map(|number| (id, group.incarnation, number))),
                Err(error) => {
                    self.fail(id, error);
                    out.answers.append(&mut self.answers);
                    continue;
                }
            }
            if group.can_feed(&self.config) {
                self.dirty.insert(id);
            }
            if group.status_changed(self.ticks, &self.config) {
                out.touched.push(id);
            }
        }
        rounds
    }

    /// Gives the output its ticket, and keeps what is to happen once that is reported.
    fn issue(&mut self, out: &mut Output, rounds: Vec<(GroupId, u64, u64)>) {
        self.last_ticket.0 += 1;
        out.ticket = self.last_ticket;
        for ticket in self.going.values_mut() {
            ticket.get_or_insert(out.ticket);
        }
        let mut written = Vec::new();
        if out.must_sync {
            for id in std::mem::take(&mut self.unsynced) {
                written.extend(self.groups.get(&id).map(|group| (id, group.incarnation, group.written())));
            }
        }
        self.in_flight.push_back(InFlight { ticket: out.ticket, rounds, written });
    }

    /// The outputs up to `ticket` are written and, where they said so, synced.
    pub fn persisted(&mut self, ticket: Ticket) {
        self.going.retain(|_, waits_for| waits_for.is_none_or(|waits_for| waits_for > ticket));
        while let Some(output) = self.in_flight.pop_front_if(|output| output.ticket <= ticket) {
            for (id, incarnation, number) in output.rounds {
                self.round_persisted(id, incarnation, number);
            }
            for (id, incarnation, (applied, snapshot)) in output.written {
                if let Some(group) = self.groups.get_mut(&id).filter(|group| group.incarnation == incarnation) {
                    group.note_durable(applied, snapshot);
                }
            }
        }
    }

    fn round_persisted(&mut self, id: GroupId, incarnation: u64, number: u64) {
        let Some(group) = self.groups.get_mut(&id).filter(|group| group.incarnation == incarnation) else { return };
        self.dirty.insert(id);
        match group.persisted(number, &self.config) {
            Ok(messages) => self.messages.extend(messages.iter().map(|message| inbound::pack(id, message))),
            Err(error) => self.fail(id, error),
        }
    }

    /// Closes a group that cannot go on.
    fn fail(&mut self, id: GroupId, error: ConsensusError) {
        let failed = self.remove(id);
        self.answers.extend(failed.into_iter().flat_map(Group::close));
        self.failed.push((id, error));
    }

    /// Takes a group out, and lets the processes of its members know.
    fn remove(&mut self, id: GroupId) -> Option<Group> {
        self.awake.remove(&id);
        self.processes.note_closed(id);
        self.groups.remove(&id)
    }

    fn group(groups: &mut BTreeMap<GroupId, Group>, group: GroupId) -> Result<&mut Group, ConsensusError> {
        groups.get_mut(&group).ok_or(ConsensusError::UnknownGroup { group })
    }
}
