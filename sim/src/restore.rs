//! Snapshots: making one that a peer can fetch, and taking one over, piece by piece. Mirrors `shoal_node::restore`,
//! `fetch::records` and the part of `replica::ApplyTask` that waits for them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use bytes::Bytes;
use prost::Message as _;
use rand::Rng;
use shoal_consensus::ConsensusError;
use shoal_model::{LogIndex, NodeId, ShardId};
use shoal_node::simulation::{
    Manifest, Name, Restoring, SegmentFiles, ShardMachine, erase_files, group_of, heir, remove_files, scan_records,
    snapshot_of,
};
use shoal_proto::internal::v1 as wire;
use shoal_runtime::Store as _;

use crate::event::{Answer, Call, CallId, Failure, Outside, Own};
use crate::jobs::{NOWHERE, take_segment};
use crate::network::Endpoint;
use crate::node::{Node, Pending};
use crate::process::{Host, Item};
use crate::queue::{Ns, SEC};
use crate::replica::policy;

/// Pause before a snapshot is asked for again.
const RETRY_AFTER: Ns = SEC;
/// Silence after which a stream counts as broken.
const SILENCE: Ns = 2 * SEC;
/// Times that a stream is taken up again.
const RESUMES_MAX: u32 = 3;
/// Snapshots that a node keeps for others.
const EXPORTS_MAX: usize = 8;

/// Whether a replica's content is there.
pub(crate) enum Mode {
    /// It is.
    Open,
    /// It was found to be damaged at the start; the group was told, and a snapshot will come.
    Lost,
    /// No snapshot could be asked for yet.
    Asking { given_up: LogIndex },
    /// One was asked for. Entries that come before are in it.
    Awaiting,
    /// One is being fetched.
    Restoring(Box<Restore>),
}

/// A snapshot on its way.
pub(crate) struct Restore {
    index: LogIndex,
    snapshot: wire::ShardSnapshot,
    /// Segments whose files are still to be fetched.
    wanted: Vec<(Name, Manifest)>,
    nodes: Vec<NodeId>,
    at: usize,
    files: Option<SegmentFiles>,
    number: u64,
    found: BTreeMap<Name, u64>,
    restoring: Option<Restoring>,
    after: Option<Bytes>,
    failures: u32,
}

impl Mode {
    pub(crate) fn takes_work(&self) -> bool {
        matches!(self, Self::Open | Self::Lost | Self::Awaiting)
    }

    /// Whether it can be read.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }
}

impl Node {
    /// Mirrors `restore::make`, and the export that is kept.
    pub(crate) fn make_snapshot(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        if !self.replicas.contains_key(&shard) {
            return;
        }
        let checkpoint = host.disk.checkpoint().expect("the simulated disk does not fail");
        let mut snapshot = match snapshot_of(&*checkpoint, shard) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                out.trace.tell(out.now, || format!("process {}: no snapshot: {error}", host.number));
                return;
            }
        };
        snapshot.node_id = self.member.unwrap_or_default().0;
        // A name that no earlier run of this process has given.
        snapshot.snapshot_id = u64::from(host.boot) << 32 | self.next_key();
        self.exports.retain(|_, (of, _)| *of != shard);
        self.exports.insert(snapshot.snapshot_id, (shard, checkpoint));
        while self.exports.len() > EXPORTS_MAX {
            self.exports.pop_first();
        }
        let index = snapshot.state.as_ref().map_or(NOWHERE, |state| LogIndex(state.applied_index));
        if let Some(core) = &mut host.core {
            // Too late is no error: the log may have moved on.
            drop(core.snapshot_made(group_of(shard), index, snapshot.encode_to_vec().into()));
        }
    }

    /// Mirrors `ApplyTask::put_down`.
    pub(crate) fn put_down(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        self.stand_down(shard, host, out);
        if let Some(replica) = self.replicas.get_mut(&shard) {
            let given_up = replica.machine.as_ref().map_or(NOWHERE, ShardMachine::applied);
            replica.files_from = replica.files_from.max(replica.machine.as_ref().map_or(0, ShardMachine::files_from));
            replica.mode = Mode::Asking { given_up };
            replica.machine = None;
        }
    }

    /// Mirrors `ApplyTask::rebuild`.
    pub(crate) fn take_rebuild(
        &mut self,
        shard: ShardId,
        digest: (LogIndex, u128),
        host: &mut Host,
        out: &mut Outside,
    ) {
        let Some(replica) = self.replicas.get(&shard) else { return };
        if replica.machine.is_some() && replica.digests.contains(&digest) {
            out.trace.tell(out.now, || format!("process {} rebuilds shard {shard}", host.number));
            self.put_down(shard, host, out);
            self.ask_for_snapshot(shard, host, out);
        }
    }

    /// Mirrors the first half of `ApplyTask::next_snapshot`.
    pub(crate) fn ask_for_snapshot(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Mode::Asking { given_up } = replica.mode else { return };
        match host.core.as_mut().map_or(Err(ConsensusError::Stopped), |core| core.request_snapshot(group_of(shard))) {
            Ok(()) => {
                replica.mode = Mode::Awaiting;
                if let Some(core) = &mut host.core {
                    core.applied(group_of(shard), given_up);
                }
                self.apply_soon(shard, host, out);
            }
            Err(ConsensusError::UnknownGroup { .. } | ConsensusError::Stopped) => {}
            Err(error) => {
                if matches!(error, ConsensusError::NobodyToAsk { leads: true, .. }) {
                    self.give_lead_away(shard, host);
                }
                out.own(host.id(), RETRY_AFTER, Own::AskSnapshot(shard));
            }
        }
    }

    /// Mirrors `ApplyTask::give_lead_away`.
    fn give_lead_away(&mut self, shard: ShardId, host: &mut Host) {
        let Some(core) = &mut host.core else { return };
        let entry = self.map.shards.get(&shard).zip(core.status(group_of(shard)));
        if let Some(heir) = entry.and_then(|(entry, status)| heir(entry, &status, &BTreeSet::new())) {
            // Tried again as long as it leads.
            drop(core.transfer_leader(group_of(shard), heir));
        }
    }

    /// Mirrors the second half of `ApplyTask::next_snapshot`.
    pub(crate) fn await_snapshot(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        while let Some(item) = replica.inbox.pop_front() {
            match item {
                Item::Restore { index, data } => return self.restore(shard, index, data, host, out),
                Item::Entry { index, .. } => {
                    if let Some(core) = &mut host.core {
                        core.applied(group_of(shard), index);
                    }
                }
                Item::Snapshot => {}
            }
        }
    }

    /// Mirrors the beginning of `restore::restore`.
    pub(crate) fn restore(&mut self, shard: ShardId, index: LogIndex, data: Bytes, host: &mut Host, out: &mut Outside) {
        let maker_first = |maker: NodeId, peers: Vec<NodeId>| {
            std::iter::once(maker).chain(peers.into_iter().filter(move |node| *node != maker)).collect::<Vec<_>>()
        };
        let snapshot = match wire::ShardSnapshot::decode(data) {
            Ok(snapshot) => snapshot,
            Err(error) => return out.truth.breaks(format!("process {}: shard {shard} stops: {error}", host.number)),
        };
        out.trace
            .tell(out.now, || format!("process {} restores shard {shard} from node {}", host.number, snapshot.node_id));
        let nodes = maker_first(NodeId(snapshot.node_id), self.peers_of(shard));
        let segments = snapshot.parts.iter().filter_map(|part| Some((part.name, part.segment.map(manifest_of)?)));
        let wanted = if self.folder.is_some() { segments.collect() } else { Vec::new() };
        let restore = Restore {
            index,
            snapshot,
            wanted,
            nodes,
            at: 0,
            files: None,
            number: 0,
            found: BTreeMap::new(),
            restoring: None,
            after: None,
            failures: 0,
        };
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        replica.mode = Mode::Restoring(Box::new(restore));
        self.begin_records(shard, host, out);
    }

    fn restore_of(&mut self, shard: ShardId) -> Option<&mut Restore> {
        match &mut self.replicas.get_mut(&shard)?.mode {
            Mode::Restoring(restore) => Some(restore),
            _ => None,
        }
    }

    /// Mirrors the beginning of `restore::fetch_files`.
    fn begin_files(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Mode::Restoring(restore) = &mut replica.mode else { return };
        if let Some(root) = &self.folder {
            erase_files(root, shard).expect("a folder can be emptied");
            restore.files = Some(SegmentFiles::empty(root, shard, replica.files_from).expect("a folder can be made"));
        }
        self.fetch_next_file(shard, host, out);
    }

    /// Mirrors the rest of it, a file at a time.
    fn fetch_next_file(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        let Some(restore) = self.restore_of(shard) else { return };
        let (Some((_, manifest)), Some(files)) = (restore.wanted.last().copied(), &mut restore.files) else {
            return self.finish_restoring(shard, host, out);
        };
        if restore.at == 0 {
            restore.number = files.reserve();
        }
        let Some(node) = restore.nodes.get(restore.at).copied() else {
            restore.at = 0;
            restore.wanted.pop();
            return self.fetch_next_file(shard, host, out);
        };
        let to = self.process_of_node(node).unwrap_or(host.number);
        let call = Call::Segment { shard, checksum: manifest.checksum };
        self.ask(to, call, Pending::RestoreFile(shard), SILENCE, host, out);
    }

    pub(crate) fn restore_file(&mut self, shard: ShardId, answer: Answer, host: &mut Host, out: &mut Outside) {
        let Some(restore) = self.restore_of(shard) else { return };
        let (Some((name, manifest)), Some(files)) = (restore.wanted.last().copied(), &restore.files) else { return };
        let target = files.target(restore.number);
        let is_here = match answer {
            Answer::Segment { segment, broken } => take_segment(&segment, broken, manifest, &target).is_some(),
            _ => false,
        };
        if is_here {
            restore.found.insert(name, restore.number);
            restore.wanted.pop();
            restore.at = 0;
        } else {
            out.tally.broken_fetches += 1;
            remove_files(&target);
            restore.at += 1;
        }
        self.fetch_next_file(shard, host, out);
    }

    fn begin_records(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        let Some(restore) = self.restore_of(shard) else { return };
        match Restoring::begin(host.disk.clone(), shard, restore.snapshot.clone()) {
            Ok(restoring) => restore.restoring = Some(restoring),
            Err(error) => return out.truth.breaks(format!("process {}: shard {shard} stops: {error}", host.number)),
        }
        self.ask_for_records(shard, host, out);
    }

    /// Mirrors a turn of `fetch::records`.
    fn ask_for_records(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        let Some(restore) = self.restore_of(shard) else { return };
        let (node, snapshot) = (NodeId(restore.snapshot.node_id), restore.snapshot.snapshot_id);
        let call = Call::Records { shard, snapshot, after: restore.after.clone() };
        let to = self.process_of_node(node).unwrap_or(host.number);
        self.ask(to, call, Pending::RestoreRecords(shard), SILENCE, host, out);
    }

    /// Mirrors `transfer::ReplicaCalls::fetch_records`, a lot at a time.
    pub(crate) fn give_records(
        &mut self,
        to: (Endpoint, CallId),
        shard: ShardId,
        snapshot: u64,
        after: Option<&[u8]>,
        host: &Host,
        out: &mut Outside,
    ) {
        let Some((_, store)) = self.exports.get(&snapshot).filter(|(of, _)| *of == shard) else {
            return out.answer(host.number, to, Answer::Failed(Failure::NotFound));
        };
        let most = out.shape.lot;
        let mut records = Vec::new();
        let scanned = scan_records(&**store, shard, after, &mut |record| {
            records.push(record);
            if records.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let answer = match scanned {
            // The stream breaks.
            Ok(()) if out.rng.random_bool(0.02) => Answer::Failed(Failure::Unknown),
            Ok(()) => Answer::Records(records),
            Err(_) => Answer::Failed(Failure::Corrupt),
        };
        out.answer(host.number, to, answer);
    }

    pub(crate) fn restore_records(&mut self, shard: ShardId, answer: Answer, host: &mut Host, out: &mut Outside) {
        let Some(restore) = self.restore_of(shard) else { return };
        match answer {
            Answer::Records(records) if records.is_empty() => self.begin_files(shard, host, out),
            Answer::Records(records) => {
                restore.failures = 0;
                restore.after = records.last().map(|record| record.key.clone());
                let written = restore.restoring.as_mut().map_or(Ok(()), |restoring| restoring.write(records));
                if let Err(error) = written {
                    return out.truth.breaks(format!("process {}: shard {shard} stops: {error}", host.number));
                }
                self.ask_for_records(shard, host, out);
            }
            answer => {
                out.tally.broken_fetches += 1;
                restore.failures += 1;
                let is_final = matches!(answer, Answer::Failed(Failure::NotFound));
                if is_final || restore.failures > RESUMES_MAX {
                    out.trace.tell(out.now, || format!("process {} asks for another snapshot", host.number));
                    let given_up = restore.index;
                    if let Some(replica) = self.replicas.get_mut(&shard) {
                        replica.mode = Mode::Asking { given_up };
                    }
                    self.ask_for_snapshot(shard, host, out);
                } else {
                    self.ask_for_records(shard, host, out);
                }
            }
        }
    }

    /// Mirrors the ends of `restore::try_restore` and `ApplyTask::restore`.
    fn finish_restoring(&mut self, shard: ShardId, host: &mut Host, out: &mut Outside) {
        let policy = policy(out);
        let folder = self.folder.clone();
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let Mode::Restoring(restore) = std::mem::replace(&mut replica.mode, Mode::Open) else { return };
        replica.files_from = restore.files.as_ref().map_or(replica.files_from, SegmentFiles::from);
        let finished = restore.restoring.map_or(Ok(()), |restoring| restoring.finish(&restore.found));
        let opened =
            finished.and_then(|()| ShardMachine::open(&*host.disk, shard, &replica.spec, policy, folder.as_deref()));
        match opened {
            Ok((mut machine, _)) => {
                machine.number_files_from(replica.files_from);
                replica.machine = Some(machine);
            }
            Err(error) => return out.truth.breaks(format!("process {}: shard {shard} stops: {error}", host.number)),
        }
        out.tally.restores += 1;
        replica.digests.clear();
        self.publish(shard, host, out);
        self.note_current_role(shard, host, out);
        self.look_at_deferred(shard, host, out);
        self.begin_what_is_due(shard, host, out);
        self.apply_soon(shard, host, out);
    }
}

fn manifest_of(segment: wire::SegmentManifest) -> Manifest {
    let wire::SegmentManifest { checksum, graph_bytes, stored_bytes } = segment;
    Manifest { checksum, graph_bytes, stored_bytes }
}
