//! The task of a replica: it applies what the group agrees on, has parts built and mended, and takes over another's content
//! when its own is of no use. It alone changes the replica; others send it errands.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use shoal_consensus::{Apply, ConsensusError, GroupStatus, Role};
use shoal_model::LogIndex;
use shoal_model::failpoints::{Failpoint, meet};
use shoal_runtime::{Batch, DiskState, Store};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::{Errand, Indexing, Replica, group_of, open_machine};
use crate::NodeError;
use crate::blocking;
use crate::fetch::FetchError;
use crate::jobs::Jobs;
use crate::lead::{Lead, Proposed};
use crate::members;
use crate::restore::{self, Restored};
use crate::shard::machine::{Applied, Effect, Replaced, ShardMachine};

/// Log entries that are applied, written and published together.
const APPLY_TOGETHER: usize = 256;
/// Pause before a snapshot is asked for again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Positions of which digests are kept to be compared.
const DIGESTS_KEPT: usize = 64;
/// One position in so many has its digest kept, beside the newest.
const DIGEST_EVERY: u64 = 64;

/// Applies what the group agrees on, in order, and has parts built; the only writer of a replica.
pub(super) struct ApplyTask {
    pub(super) replica: Arc<Replica>,
    pub(super) inbox: mpsc::Receiver<Apply<Applied>>,
    pub(super) errands: mpsc::Receiver<Errand>,
    /// Wakes the task when there is room on the disk, or none any more.
    pub(super) disk: watch::Receiver<DiskState>,
    pub(super) status: watch::Receiver<GroupStatus>,
    /// Whether the group may still change its status.
    pub(super) is_open: bool,
    pub(super) applied: watch::Sender<LogIndex>,
    pub(super) store: Arc<dyn Store>,
    pub(super) jobs: Jobs,
    pub(super) lead: Lead,
    pub(super) leads: Leads,
    /// Snapshots that are being made.
    pub(super) snapshots: JoinSet<()>,
    pub(super) pause: Pause,
    /// Number of the first file that no machine before has named.
    pub(super) files_from: u64,
    pub(super) indexing: Indexing,
}

/// Whether this replica leads, and may plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leads {
    No,
    /// It does, and has not applied what earlier leaders have left in the log, up to that position: their installs come
    /// first.
    From(LogIndex),
    Yes,
}

/// Whether a shard's writer pauses.
pub(super) struct Pause {
    quiet_after: Duration,
    since: tokio::time::Instant,
    is_quiet: bool,
}

impl Pause {
    pub(super) fn new(quiet_after: Duration) -> Self {
        Self { quiet_after, since: tokio::time::Instant::now(), is_quiet: false }
    }

    /// Completes once nothing was written for long. Safe to drop.
    async fn quiet(&self) {
        if self.is_quiet {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until(self.since + self.quiet_after).await;
    }
}

impl ApplyTask {
    /// Runs until the group is closed; then no job runs any more.
    pub(super) async fn run(mut self, machine: ShardMachine) -> Result<(), NodeError> {
        let ended = self.until_closed(machine).await;
        self.jobs.stop().await;
        self.snapshots.shutdown().await;
        ended
    }

    async fn until_closed(&mut self, mut machine: ShardMachine) -> Result<(), NodeError> {
        let mut entries = Vec::with_capacity(APPLY_TOGETHER);
        self.note_role(&mut machine)?;
        loop {
            while let Some(segment) = self.jobs.take_damaged() {
                self.mend(segment, &mut machine)?;
            }
            self.begin_what_is_due(&mut machine)?;
            if self.jobs.take_beyond_mending() {
                let Some(again) = self.reopen(machine).await? else { return Ok(()) };
                machine = again;
            }
            machine = tokio::select! {
                count = self.inbox.recv_many(&mut entries, APPLY_TOGETHER) => {
                    if count == 0 {
                        return Ok(());
                    }
                    match self.take_work(std::mem::take(&mut entries), machine).await? {
                        Some(machine) => machine,
                        None => return Ok(()),
                    }
                }
                Ok(()) = self.disk.changed() => machine,
                () = self.pause.quiet() => {
                    self.pause.is_quiet = true;
                    machine
                }
                changed = self.status.changed(), if self.is_open => {
                    // It ends when the group is closed; the mailbox ends next.
                    self.is_open = changed.is_ok();
                    self.note_role(&mut machine)?;
                    machine
                }
                Some(errand) = self.errands.recv() => match errand {
                    Errand::Fetch { node, replaced, manifest, reply } => {
                        self.jobs.fetch_offered(&mut machine, node, &replaced, manifest, reply)?;
                        machine
                    }
                    Errand::Mend { segment } => {
                        self.mend(segment, &mut machine)?;
                        machine
                    }
                    Errand::Rebuild if !self.replica.has_peers() => {
                        let shard = self.replica.shard.0;
                        tracing::error!(shard, "the content is damaged, and no other replica has it");
                        machine
                    }
                    Errand::Rebuild => match self.rebuild(machine).await? {
                        Some(machine) => machine,
                        None => return Ok(()),
                    },
                },
                proposed = self.lead.next() => {
                    self.take_proposed(proposed?, &mut machine);
                    machine
                }
                event = self.jobs.next() => {
                    let (mut machine, made) = self.jobs.handle(event?, machine).await?;
                    self.offer_segments(&machine);
                    if let Some(made) = made {
                        self.lead.install(made);
                    }
                    self.replica.view.store(Arc::new(machine.publish()));
                    self.replica.mending.store(machine.has_damage(), Ordering::Release);
                    machine
                }
            };
        }
    }

    /// Plans what a leader plans, and fetches what is missing.
    fn begin_what_is_due(&mut self, machine: &mut ShardMachine) -> Result<(), NodeError> {
        if let Leads::From(index) = self.leads
            && machine.applied() >= index
        {
            self.leads = Leads::Yes;
            // Of earlier leaders, whose entries have all come.
            let left = machine.forget_ready();
            self.jobs.discard(left);
        }
        let leads = self.leads == Leads::Yes;
        if leads && let Some(seal) = machine.wants_seal(self.pause.is_quiet) {
            self.lead.seal(seal);
        }
        self.jobs.begin(machine, leads, self.pause.is_quiet)?;
        self.replica.jobs.store(Arc::new(self.jobs.status()));
        Ok(())
    }

    fn note_role(&mut self, machine: &mut ShardMachine) -> Result<(), NodeError> {
        let (role, last) = {
            let status = self.status.borrow_and_update();
            (status.role, status.last)
        };
        match (role, self.leads) {
            (Role::Leader, Leads::No) => self.leads = Leads::From(last),
            (Role::Leader, _) | (_, Leads::No) => {}
            _ => {
                self.leads = Leads::No;
                self.jobs.stand_down(machine)?;
            }
        }
        Ok(())
    }

    /// What an install was about is planned again if it failed, and may yet come: then its files are fetched or built again.
    fn take_proposed(&mut self, proposed: Proposed, machine: &mut ShardMachine) {
        let (what, result) = match proposed {
            Proposed::Seal(result) => ("seal", result),
            Proposed::Install(result) => ("install", result),
        };
        if let Err(error) = result {
            tracing::debug!(shard = self.replica.shard.0, what, %error, "not proposed");
            if what == "install" {
                let left = machine.forget_ready();
                self.jobs.discard(left);
            }
        }
    }

    /// Applies entries, restores snapshots, and has them made, in order. `None` if the group is closed meanwhile.
    async fn take_work(
        &mut self,
        work: Vec<Apply<Applied>>,
        mut machine: ShardMachine,
    ) -> Result<Option<ShardMachine>, NodeError> {
        let mut entries = Vec::with_capacity(work.len());
        for next in work {
            match next {
                Apply::Entry { index, data, reply } => entries.push((index, data, reply)),
                Apply::Snapshot { reply } => {
                    while self.snapshots.try_join_next().is_some() {}
                    if self.indexing.disks.is_low() {
                        // Its buffers would have to be written out. The group asks again.
                        continue;
                    }
                    // As of what is applied by then, which is this and more.
                    let (node, shard) = (self.indexing.peers.me(), self.replica.shard);
                    let (store, exports) = (self.store.clone(), self.indexing.exports.clone());
                    let (replica, damage) = (self.replica.clone(), self.indexing.damage.clone());
                    let note = move |error: &NodeError| damage.note(error, &replica);
                    self.snapshots.spawn(restore::make(node, shard, store, exports, reply, note));
                }
                Apply::Restore { index, data } => {
                    machine = self.apply(std::mem::take(&mut entries), machine).await?;
                    self.put_down(machine)?;
                    let Some(restored) = self.restore(index, data).await? else { return Ok(None) };
                    machine = restored;
                }
            }
        }
        Ok(Some(self.apply(entries, machine).await?))
    }

    async fn apply(&mut self, entries: Vec<Entry>, machine: ShardMachine) -> Result<ShardMachine, NodeError> {
        if entries.is_empty() {
            return Ok(machine);
        }
        if entries.iter().any(|(_, data, _)| !data.is_empty()) {
            self.pause = Pause::new(self.pause.quiet_after);
        }
        let store = self.store.clone();
        let (mut machine, replies, left) = blocking::run(move || apply_together(machine, entries, &*store)).await??;
        left.into_iter().for_each(|left| self.jobs.discard(left));
        self.publish(&mut machine);
        for (reply, applied) in replies {
            // A writer that stopped waiting is no concern of ours.
            let _ = reply.send(applied);
        }
        Ok(machine)
    }

    fn publish(&self, machine: &mut ShardMachine) {
        let view = machine.publish();
        let at = view.applied;
        self.keep_digest(machine);
        // Readers that wait for a position look at the view after it is announced, so the view comes first.
        self.replica.view.store(Arc::new(view));
        self.replica.mending.store(machine.has_damage(), Ordering::Release);
        self.applied.send_replace(at);
        self.replica.consensus.applied(group_of(self.replica.shard), at);
    }

    /// Keeps the digest of this position, and of one in [`DIGEST_EVERY`] before it.
    fn keep_digest(&self, machine: &ShardMachine) {
        let newest = digest_of(machine);
        let mut digests = self.replica.digests.lock().unwrap_or_else(PoisonError::into_inner);
        digests.pop_back_if(|(index, _)| !index.0.is_multiple_of(DIGEST_EVERY));
        digests.push_back(newest);
        if digests.len() > DIGESTS_KEPT {
            digests.pop_front();
        }
    }

    /// Nobody reads what is here any more, and nothing is built of it.
    fn put_down(&mut self, mut machine: ShardMachine) -> Result<(), NodeError> {
        self.replica.restoring.store(true, Ordering::Release);
        self.replica.contents.fetch_add(1, Ordering::AcqRel);
        self.files_from = self.files_from.max(machine.files_from());
        self.jobs.stand_down(&mut machine)
    }

    /// Sets a damaged segment aside, and has it fetched. This replica is not read meanwhile: the rows that it returns are
    /// verified, but links are not, and a walk that misses what it should find looks like any other.
    fn mend(&mut self, segment: u64, machine: &mut ShardMachine) -> Result<(), NodeError> {
        let Some(left) = machine.set_aside(segment, &*self.store)? else { return Ok(()) };
        tracing::error!(
            shard = self.replica.shard.0,
            segment = format!("{segment:016x}"),
            "a damaged segment is set aside"
        );
        self.indexing.metrics.bad_segments(1);
        self.jobs.discard(left);
        self.jobs.mend_at_once();
        self.offer_segments(machine);
        self.replica.mending.store(machine.has_damage(), Ordering::Release);
        Ok(())
    }

    /// Reads everything again from the store, as a start does, so that a delta stands in for what is damaged: nobody else
    /// has that, or can be reached. `None` if the group is closed meanwhile.
    async fn reopen(&mut self, machine: ShardMachine) -> Result<Option<ShardMachine>, NodeError> {
        let (shard, applied) = (self.replica.shard, machine.applied());
        tracing::error!(shard = shard.0, "a damaged segment cannot be fetched; the shard is read from its store again");
        self.put_down(machine)?;
        let mut machine = match open_machine(shard, &self.replica.spec, &self.store, &self.indexing).await {
            Err(error @ NodeError::Malformed { .. }) if self.replica.has_peers() => {
                tracing::error!(shard = shard.0, %error, "the content is not as it was written; another replica's is fetched");
                return self.rebuild_from(applied).await;
            }
            opened => opened?,
        };
        machine.number_files_from(self.files_from);
        self.offer_segments(&machine);
        self.publish(&mut machine);
        self.replica.restoring.store(false, Ordering::Release);
        Ok(Some(machine))
    }

    /// Fetches the content anew from another replica.
    async fn rebuild(&mut self, machine: ShardMachine) -> Result<Option<ShardMachine>, NodeError> {
        meet(Failpoint::NodeRebuild)?;
        let applied = machine.applied();
        self.put_down(machine)?;
        self.rebuild_from(applied).await
    }

    /// The same, of what was applied up to a position and is put down.
    async fn rebuild_from(&mut self, applied: LogIndex) -> Result<Option<ShardMachine>, NodeError> {
        self.indexing.metrics.damaged();
        match self.next_snapshot(applied).await? {
            Some((index, data)) => self.restore(index, data).await,
            None => Ok(None),
        }
    }

    /// Replaces the content by a snapshot that a peer has made; asks for another as long as one cannot be fetched. `None`
    /// if the group is closed meanwhile.
    async fn restore(&mut self, mut index: LogIndex, mut data: Bytes) -> Result<Option<ShardMachine>, NodeError> {
        let shard = self.replica.shard;
        let Restored { mut machine, lacking } = loop {
            if !self.until_there_is_room().await {
                return Ok(None);
            }
            let (spec, store, from) = (&self.replica.spec, self.store.clone(), self.files_from);
            match restore::restore(shard, spec, data, store, &self.indexing, from, self.closed()).await {
                Ok(restored) => break restored,
                Err(FetchError::Cancelled) => return Ok(None),
                Err(FetchError::Node(error)) => return Err(error),
                Err(error) => {
                    tracing::warn!(shard = shard.0, %error, "a snapshot could not be fetched; asking for another");
                }
            }
            let Some(next) = self.next_snapshot(index).await? else { return Ok(None) };
            (index, data) = next;
        };
        tracing::info!(shard = shard.0, applied = machine.applied().0, lacking, "restored from a snapshot");
        self.indexing.metrics.restored();
        self.offer_segments(&machine);
        self.forget_digests();
        self.publish(&mut machine);
        self.replica.restoring.store(false, Ordering::Release);
        Ok(Some(machine))
    }

    /// Completes once the group is closed.
    async fn closed(&self) {
        while !self.inbox.is_closed() {
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Waits until another's content could be written here; false if the group is closed meanwhile.
    async fn until_there_is_room(&self) -> bool {
        while self.indexing.disks.is_low() {
            if self.inbox.is_closed() {
                return false;
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
        true
    }

    /// Asks the group for a snapshot and waits for it; entries that come before are in it. `None` if the group is closed.
    ///
    /// The group asks a peer only once it hears that all is done with that it has handed out: what was handed out up to
    /// `given_up` and what waits in the mailbox is reported as such. It remembers that the state is not whole.
    async fn next_snapshot(&mut self, given_up: LogIndex) -> Result<Option<(LogIndex, Bytes)>, NodeError> {
        let group = group_of(self.replica.shard);
        loop {
            match self.replica.consensus.request_snapshot(group).await {
                Ok(()) => break,
                Err(ConsensusError::UnknownGroup { .. } | ConsensusError::Stopped) => return Ok(None),
                Err(error) => {
                    tracing::debug!(shard = self.replica.shard.0, %error, "no snapshot yet");
                    if matches!(error, ConsensusError::NobodyToAsk { leads: true, .. }) {
                        self.give_lead_away().await;
                    }
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
        self.replica.consensus.applied(group, given_up);
        loop {
            match self.inbox.recv().await {
                Some(Apply::Restore { index, data }) => return Ok(Some((index, data))),
                Some(Apply::Entry { index, .. }) => self.replica.consensus.applied(group, index),
                Some(Apply::Snapshot { .. }) => {}
                None => return Ok(None),
            }
        }
    }

    /// One without content must not lead: nothing would be applied, and nobody could send it a snapshot.
    async fn give_lead_away(&self) {
        let Some(status) = self.replica.group_status() else { return };
        let map = self.indexing.peers.map();
        let lacking = self.indexing.disks.lacking();
        let heir = map.shards.get(&self.replica.shard).and_then(|shard| members::heir(shard, &status, &lacking));
        if let Some(heir) = heir {
            let deadline = tokio::time::Instant::now() + RETRY_AFTER;
            // Tried again as long as it leads.
            let _ = self.replica.consensus.transfer_leader(status.group, heir, deadline).await;
        }
    }

    /// Digests of what was here before say nothing of what is here now.
    fn forget_digests(&self) {
        self.replica.digests.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Has peers find the segments that are here.
    pub(super) fn offer_segments(&self, machine: &ShardMachine) {
        let mut segments = self.replica.segments.lock().unwrap_or_else(PoisonError::into_inner);
        segments.retain(|_, segment| segment.strong_count() > 0);
        for segment in machine.segments() {
            segments.insert(segment.graph_image().checksum(), Arc::downgrade(segment));
        }
    }
}

/// What the content comes to, and where.
pub(super) fn digest_of(machine: &ShardMachine) -> (LogIndex, u128) {
    (machine.applied(), machine.digest())
}

type Entry = (LogIndex, Bytes, Option<oneshot::Sender<Applied>>);
type Replies = Vec<(oneshot::Sender<Applied>, Applied)>;

fn apply_together(
    mut machine: ShardMachine,
    entries: Vec<Entry>,
    store: &dyn Store,
) -> Result<(ShardMachine, Replies, Vec<Replaced>), NodeError> {
    meet(Failpoint::NodeApply)?;
    let mut batch = Batch::default();
    let (mut replies, mut left) = (Vec::new(), Vec::new());
    for (index, data, reply) in entries {
        let Effect { applied, replaced } = machine.apply(index, &data, &mut batch)?;
        left.push(replaced);
        // Entries that are no writes are answered, too: whoever proposed them waits until they are applied.
        replies.extend(reply.map(|reply| (reply, applied.unwrap_or(Applied::At(index)))));
    }
    machine.seal(&mut batch);
    meet(Failpoint::NodeApplyWrite)?;
    store.write(batch)?;
    meet(Failpoint::NodeApplyWritten)?;
    Ok((machine, replies, left))
}
