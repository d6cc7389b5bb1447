//! One shard replica: the mailbox, what applying does around the state machine, the role. Mirrors `shoal_node::replica`'s
//! `Replica` and `ApplyTask`, a turn of its loop at a time.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use shoal_consensus::{ConsensusError, GroupSpec, GroupStatus, Role as Standing, StateMachine};
use shoal_index::set::Policy;
use shoal_model::{ClusterMap, Epoch, HashRange, IndexSpec, LogIndex, ReplicaId, Shard, ShardId};
use shoal_node::NodeError;
use shoal_node::simulation::{Applied, Effect, Replaced, ShardMachine, View, group_of, group_spec};
use shoal_runtime::{Batch, Store as _};

use crate::event::{Answer, Failure, Outside, Own};
use crate::jobs::{Install, Jobs};
use crate::node::Node;
use crate::process::{Host, Item, Waiting};
use crate::queue::{MS, Ns};
use crate::restore::Mode;

/// Log entries that are applied, written and published together.
const APPLY_TOGETHER: usize = 256;
/// Positions of which digests are kept to be compared.
const DIGESTS_KEPT: usize = 64;
/// One position in so many has its digest kept, beside the newest.
const DIGEST_EVERY: u64 = 64;

/// Whether this replica leads, and may plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leads {
    No,
    From(LogIndex),
    Yes,
}

pub(crate) struct Replica {
    pub(crate) me: ReplicaId,
    pub(crate) range: HashRange,
    pub(crate) spec: IndexSpec,
    pub(crate) epoch: Epoch,
    /// `None` while its content is being replaced.
    pub(crate) machine: Option<ShardMachine>,
    pub(crate) view: View,
    pub(crate) inbox: VecDeque<Item>,
    applying: bool,
    pub(crate) mode: Mode,
    pub(crate) leads: Leads,
    written_at: Ns,
    pub(crate) is_quiet: bool,
    pub(crate) sealing: bool,
    pub(crate) installs: BTreeMap<u64, Install>,
    pub(crate) jobs: Jobs,
    pub(crate) digests: VecDeque<(LogIndex, u128)>,
    /// Number of the first file that no machine before has named.
    pub(crate) files_from: u64,
    /// The last moment at which nothing was missing.
    pub(crate) fresh_at: Option<Ns>,
}

impl Node {
    fn open_machine(
        &self,
        shard: ShardId,
        spec: &IndexSpec,
        host: &Host,
        out: &Outside,
    ) -> Result<ShardMachine, NodeError> {
        let policy = policy(out);
        ShardMachine::open(&*host.disk, shard, spec, policy, self.folder.as_deref()).map(|(machine, _)| machine)
    }

    /// Mirrors `replica::open_or_stand_in`.
    fn open_or_stand_in(
        &self,
        shard: &Shard,
        spec: &IndexSpec,
        host: &Host,
        out: &mut Outside,
    ) -> Result<(ShardMachine, bool), NodeError> {
        let opened = self.open_machine(shard.id, spec, host, out);
        let Err(damage @ NodeError::Malformed { .. }) = opened else { return Ok((opened?, false)) };
        if self.peers_of(shard.id).is_empty() {
            return Err(damage);
        }
        out.tally.found_damaged += 1;
        out.trace.tell(out.now, || format!("process {}: {damage}; another's is fetched", host.number));
        Ok((ShardMachine::stand_in(shard.id, spec, policy(out))?, true))
    }

    /// Mirrors `replicas::Replicas::open_replica` and `replica::Replica::open`.
    pub(crate) fn open_replica(&mut self, map: &ClusterMap, shard: &Shard, host: &mut Host, out: &mut Outside) {
        let Some(collection) = map.collections.get(&shard.collection) else { return };
        let Some(me) = self.member.and_then(|member| shard.replica_on(member)).map(|replica| replica.id) else {
            return;
        };
        let spec = collection.index.clone();
        let (mut machine, is_lost) = match self.open_or_stand_in(shard, &spec, host, out) {
            Ok(opened) => opened,
            Err(error) => return out.truth.breaks(format!("process {} stops: {error}", host.number)),
        };
        let applied = machine.applied();
        let group = GroupSpec { applied, state_lost: is_lost, ..group_spec(shard, me, StateMachine::Stored) };
        let opened = host.core.as_mut().map_or(Err(ConsensusError::Stopped), |core| core.open_group(&group));
        if let Err(error) = opened {
            return out.truth.breaks(format!("process {} stops: shard {}: {error}", host.number, shard.id));
        }
        out.trace.tell(out.now, || {
            format!("process {} opens shard {} as replica {me} at {applied}, lost: {is_lost}", host.number, shard.id)
        });
        if !is_lost && applied > LogIndex(0) {
            out.truth.digest(shard.id, applied, me, machine.digest());
        }
        let view = machine.publish();
        let replica = Replica {
            me,
            range: shard.range,
            spec,
            epoch: shard.epoch,
            machine: Some(machine),
            view,
            inbox: VecDeque::new(),
            applying: false,
            mode: if is_lost { Mode::Lost } else { Mode::Open },
            leads: Leads::No,
            written_at: out.now,
            is_quiet: false,
            sealing: false,
            installs: BTreeMap::new(),
            jobs: Jobs::default(),
            digests: VecDeque::new(),
            files_from: 0,
            fresh_at: None,
        };
        self.replicas.insert(shard.id, replica);
        out.own(host.id(), out.shape.quiet_after_ns, Own::Quiet { shard: shard.id, since: out.now });
        self.note_current_role(shard.id, host, out);
        self.begin_what_is_due(shard.id, host, out);
    }

    pub(crate) fn apply_soon(&mut self, shard: ShardId, host: &Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        if !replica.applying && replica.mode.takes_work() {
            replica.applying = true;
            let delay = out.short(out.shape.apply_ns);
            out.own(host.id(), delay, Own::Apply(shard));
        }
    }

    /// Takes from the mailbox what is there.
    pub(crate) fn apply_turn(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        replica.applying = false;
        match replica.mode {
            Mode::Open | Mode::Lost => {
                let count = replica.inbox.len().min(APPLY_TOGETHER);
                let work: VecDeque<Item> = replica.inbox.drain(..count).collect();
                self.take_work(shard, work, host, out);
                self.begin_what_is_due(shard, host, out);
            }
            Mode::Awaiting => self.await_snapshot(shard, host, out),
            Mode::Asking { .. } | Mode::Restoring(_) => {}
        }
        if self.replicas.get(&shard).is_some_and(|replica| !replica.inbox.is_empty()) {
            self.apply_soon(shard, host, out);
        }
    }

    /// Applies all that is left in the mailbox of a replica that goes.
    pub(crate) fn drain(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard).filter(|replica| replica.mode.takes_work()) else { return };
        let items = std::mem::take(&mut replica.inbox).into_iter();
        // A snapshot could not be fetched any more.
        let work = items.take_while(|item| !matches!(item, Item::Restore { .. })).collect();
        self.take_work(shard, work, host, out);
    }

    /// Mirrors `ApplyTask::take_work`.
    fn take_work(&mut self, shard: ShardId, mut work: VecDeque<Item>, host: &mut Host, out: &mut Outside) {
        let mut entries = Vec::with_capacity(work.len());
        while let Some(item) = work.pop_front() {
            match item {
                Item::Entry { index, data, waiting } => entries.push((index, data, waiting)),
                Item::Snapshot => {
                    let delay = out.short(out.shape.apply_ns);
                    out.own(host.id(), delay, Own::MakeSnapshot(shard));
                }
                Item::Restore { index, data } => {
                    self.apply(shard, std::mem::take(&mut entries), host, out);
                    self.put_down(shard, host, out);
                    if let Some(replica) = self.replicas.get_mut(&shard) {
                        work.into_iter().rev().for_each(|item| replica.inbox.push_front(item));
                    }
                    self.restore(shard, index, data, host, out);
                    return;
                }
            }
        }
        self.apply(shard, entries, host, out);
    }

    /// Mirrors `ApplyTask::apply` and `replica::apply_together`.
    fn apply(
        &mut self,
        shard: ShardId,
        entries: Vec<(LogIndex, Bytes, Option<Waiting>)>,
        host: &mut Host,
        out: &mut Outside,
    ) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Some(machine) = replica.machine.as_mut().filter(|_| !entries.is_empty()) else { return };
        if entries.iter().any(|(_, data, _)| !data.is_empty()) {
            (replica.written_at, replica.is_quiet) = (out.now, false);
            out.own(host.id(), out.shape.quiet_after_ns, Own::Quiet { shard, since: out.now });
        }
        let (mut batch, mut replies, mut left) = (Batch::default(), Vec::new(), Vec::new());
        for (index, data, waiting) in entries {
            let Effect { applied, replaced } = match machine.apply(index, &data, &mut batch) {
                Ok(effect) => effect,
                Err(error) => {
                    return out.truth.breaks(format!("process {}: shard {shard} stops: {error}", host.number));
                }
            };
            left.push(replaced);
            if matches!(applied, Some(Applied::At(before)) if before < index) {
                out.tally.repeated_writes += 1;
            }
            if applied == Some(Applied::Reused) {
                out.truth.breaks(format!("shard {shard}: another write was applied under an operation's name"));
            }
            replies.extend(waiting.map(|waiting| (waiting, applied.unwrap_or(Applied::At(index)))));
        }
        machine.seal(&mut batch);
        host.disk.write(batch).expect("the simulated disk does not fail");
        left.into_iter().for_each(|left| discard(left, host, out));
        self.publish(shard, host, out);
        for (waiting, applied) in replies {
            self.reply(waiting, applied, host, out);
        }
    }

    fn reply(&mut self, waiting: Waiting, applied: Applied, host: &mut Host, out: &mut Outside) {
        match (waiting, applied) {
            (Waiting::Write(to), Applied::At(index)) => out.answer(host.number, to, Answer::Written(index)),
            (Waiting::Write(to), Applied::Reused) => out.answer(host.number, to, Answer::Failed(Failure::Corrupt)),
            (Waiting::Seal(shard), _) => {
                if let Some(replica) = self.replicas.get_mut(&shard) {
                    replica.sealing = false;
                }
            }
            _ => {}
        }
    }

    /// Mirrors `ApplyTask::publish` and `keep_digest`.
    pub(crate) fn publish(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Some(machine) = &mut replica.machine else { return };
        let (at, digest) = (machine.applied(), machine.digest());
        out.truth.digest(shard, at, replica.me, digest);
        out.trace.note(out.now, host.number, at.0);
        #[allow(clippy::cast_possible_truncation)]
        out.trace.note(shard.0, host.number, digest as u64);
        replica.digests.pop_back_if(|(index, _)| !index.0.is_multiple_of(DIGEST_EVERY));
        replica.digests.push_back((at, digest));
        if replica.digests.len() > DIGESTS_KEPT {
            replica.digests.pop_front();
        }
        replica.view = machine.publish();
        if let Some(core) = &mut host.core {
            core.applied(group_of(shard), at);
        }
        self.look_at_waiting(shard, host, out);
    }

    /// Mirrors `ApplyTask::note_role`.
    pub(crate) fn note_role(&mut self, shard: ShardId, status: &GroupStatus, host: &mut Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        // One whose content is being replaced looks at its role afterwards.
        if replica.machine.is_none() {
            return;
        }
        match (status.role, replica.leads) {
            (Standing::Leader, Leads::No) => replica.leads = Leads::From(status.last),
            (Standing::Leader, _) | (_, Leads::No) => {}
            _ => {
                replica.leads = Leads::No;
                self.stand_down(shard, host, out);
            }
        }
    }

    pub(crate) fn note_current_role(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        if let Some(status) = host.core.as_ref().and_then(|core| core.status(group_of(shard))) {
            self.note_role(shard, &status, host, out);
        }
    }

    /// Mirrors `Pause::quiet`.
    pub(crate) fn grow_quiet(&mut self, shard: ShardId, since: Ns, host: &mut Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard).filter(|replica| replica.written_at == since) else { return };
        replica.is_quiet = true;
        self.begin_what_is_due(shard, host, out);
    }

    /// Mirrors `ApplyTask::begin_what_is_due`.
    pub(crate) fn begin_what_is_due(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Some(machine) = &mut replica.machine else { return };
        if let Leads::From(index) = replica.leads
            && machine.applied() >= index
        {
            replica.leads = Leads::Yes;
            discard(machine.forget_ready(), host, out);
        }
        let leads = replica.leads == Leads::Yes;
        if leads
            && !replica.sealing
            && let Some(seal) = machine.wants_seal(replica.is_quiet)
        {
            replica.sealing = true;
            match host.propose(group_of(shard), seal, Waiting::Seal(shard)) {
                Ok(request) => out.own(host.id(), crate::jobs::PROPOSE_WITHIN, Own::ProposalLate(request)),
                Err(_) => replica.sealing = false,
            }
        }
        self.begin_jobs(shard, leads, host, out);
    }
}

pub(crate) fn policy(out: &Outside) -> Policy {
    Policy {
        delta_points_max: out.shape.delta_points_max,
        delta_bytes_max: 1 << 20,
        segment_points_max: out.shape.segment_points_max,
    }
}

/// Mirrors `Jobs::discard` and `jobs::reclaim`: files go once it is durable that they are listed no more.
pub(crate) fn discard(left: Replaced, host: &Host, out: &mut Outside) {
    let files: Vec<_> = left.files.into_iter().filter(|target| !target.files().is_empty()).collect();
    if !files.is_empty() {
        out.own(host.id(), 30 * MS, Own::Reclaim(files));
    }
}
