//! What a group has on disk: keys, and records with checksums.
//!
//! `Table::Log`, one entry per key: group (8 bytes, big-endian), index (8 bytes, big-endian).
//! `Table::Meta`, one key per group and kind: `raft/`, group (8 bytes, big-endian), one letter:
//! `s` start of the log and whose it is, `h` hard state, `c` membership by index, `p` snapshot, `w` that the state
//! machine is damaged and waits for a snapshot from a peer.
//!
//! A record is a format byte, the xxh3-64 of key and body (8 bytes, little-endian), and the body, so that a flipped
//! bit is found, and a record under another's key as well.

use std::ops::ControlFlow;

use bytes::Bytes;
use protobuf::Message;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use shoal_model::{GroupId, ReplicaId};
use shoal_runtime::{Batch, Store, Table};
use xxhash_rust::xxh3::Xxh3;

use super::confs::ConfHistory;
use crate::ConsensusError;

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 9;

/// A place in a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

/// Everything about a group but its entries.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GroupRecords {
    /// Whose log it is.
    pub(crate) me: ReplicaId,
    /// Last position that is no longer in the log.
    pub(crate) start: Position,
    pub(crate) hard: HardState,
    pub(crate) confs: ConfHistory,
    /// State of a small state machine, or what a leader sent.
    pub(crate) snapshot: Option<Snapshot>,
    /// Whether the state machine waits for a snapshot from a peer.
    pub(crate) wish: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Start,
    Hard,
    Confs,
    Snapshot,
    Wish,
}

impl Kind {
    fn letter(self) -> u8 {
        match self {
            Self::Start => b's',
            Self::Hard => b'h',
            Self::Confs => b'c',
            Self::Snapshot => b'p',
            Self::Wish => b'w',
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Start => "start of log",
            Self::Hard => "hard state",
            Self::Confs => "membership",
            Self::Snapshot => "snapshot",
            Self::Wish => "wish for a snapshot",
        }
    }
}

fn meta_key(group: GroupId, letter: u8) -> Vec<u8> {
    let mut key = b"raft/".to_vec();
    key.extend_from_slice(&group.0.to_be_bytes());
    key.push(letter);
    key
}

fn log_key(group: GroupId, index: u64) -> [u8; 16] {
    (u128::from(group.0) << 64 | u128::from(index)).to_be_bytes()
}

/// The key just after every entry of `group`.
fn log_end(group: GroupId) -> Vec<u8> {
    let mut key = log_key(group, u64::MAX).to_vec();
    key.push(0);
    key
}

fn checksum(key: &[u8], body: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(key);
    hash.update(body);
    hash.digest()
}

fn seal(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER_BYTES + body.len());
    record.push(FORMAT);
    record.extend_from_slice(&checksum(key, body).to_le_bytes());
    record.extend_from_slice(body);
    record
}

fn unseal<'a>(key: &[u8], record: &'a [u8]) -> Result<&'a [u8], &'static str> {
    let (header, body) = record.split_at_checked(HEADER_BYTES).ok_or("is cut short")?;
    if header[0] != FORMAT {
        return Err("is of an unknown format");
    }
    if header[1..] != checksum(key, body).to_le_bytes() {
        return Err("does not match its checksum");
    }
    Ok(body)
}

pub(crate) fn encode(message: &impl Message) -> Vec<u8> {
    // Fails only for missing required fields, which proto3 does not have, and for failing writers.
    message.write_to_bytes().expect("a message is written to memory")
}

fn corrupt(group: GroupId, record: impl Into<String>, detail: impl Into<String>) -> ConsensusError {
    ConsensusError::Corruption { group, record: record.into(), detail: detail.into() }
}

/// The records of `group`; `None` if nothing is stored of it.
pub(crate) fn load(store: &dyn Store, group: GroupId) -> Result<Option<GroupRecords>, ConsensusError> {
    let start = load_body(store, group, Kind::Start)?;
    let hard = load_body(store, group, Kind::Hard)?;
    let confs = load_body(store, group, Kind::Confs)?;
    let (start, hard, confs) = match (start, hard, confs) {
        (Some(start), Some(hard), Some(confs)) => (start, hard, confs),
        (None, None, None) => return Ok(None),
        (start, hard, _) => {
            let missing = if start.is_none() {
                Kind::Start
            } else if hard.is_none() {
                Kind::Hard
            } else {
                Kind::Confs
            };
            return Err(corrupt(group, missing.name(), "is missing"));
        }
    };
    let snapshot = load_body(store, group, Kind::Snapshot)?;
    let snapshot = snapshot.map(|body| decode::<Snapshot>(group, Kind::Snapshot, &body)).transpose()?;
    let wish = load_body(store, group, Kind::Wish)?.is_some();
    let (me, start) = decode_start(&start).ok_or_else(|| corrupt(group, Kind::Start.name(), "has a wrong length"))?;
    let hard = decode(group, Kind::Hard, &hard)?;
    let confs = ConfHistory::decode(&confs).ok_or_else(|| corrupt(group, Kind::Confs.name(), "does not parse"))?;
    Ok(Some(GroupRecords { me, start, hard, confs, snapshot, wish }))
}

fn load_body(store: &dyn Store, group: GroupId, kind: Kind) -> Result<Option<Bytes>, ConsensusError> {
    let key = meta_key(group, kind.letter());
    let Some(record) = store.get(Table::Meta, &key)? else { return Ok(None) };
    let body = unseal(&key, &record).map_err(|problem| corrupt(group, kind.name(), problem))?;
    Ok(Some(record.slice_ref(body)))
}

fn decode<M: Message>(group: GroupId, kind: Kind, body: &[u8]) -> Result<M, ConsensusError> {
    M::parse_from_bytes(body).map_err(|error| corrupt(group, kind.name(), error.to_string()))
}

fn decode_start(body: &[u8]) -> Option<(ReplicaId, Position)> {
    let body: &[u8; 24] = body.try_into().ok()?;
    let word = |i: usize| u64::from_be_bytes(std::array::from_fn(|byte| body[8 * i + byte]));
    Some((ReplicaId(word(0)), Position { index: word(1), term: word(2) }))
}

fn put(batch: &mut Batch, group: GroupId, kind: Kind, body: &[u8]) {
    let key = meta_key(group, kind.letter());
    let record = seal(&key, body);
    batch.put(Table::Meta, key, record);
}

pub(crate) fn put_start(batch: &mut Batch, group: GroupId, me: ReplicaId, start: Position) {
    let body: Vec<u8> = [me.0, start.index, start.term].iter().flat_map(|word| word.to_be_bytes()).collect();
    put(batch, group, Kind::Start, &body);
}

pub(crate) fn put_hard(batch: &mut Batch, group: GroupId, hard: &HardState) {
    put(batch, group, Kind::Hard, &encode(hard));
}

pub(crate) fn put_confs(batch: &mut Batch, group: GroupId, confs: &ConfHistory) {
    put(batch, group, Kind::Confs, &confs.encode());
}

pub(crate) fn put_snapshot(batch: &mut Batch, group: GroupId, snapshot: &Snapshot) {
    put(batch, group, Kind::Snapshot, &encode(snapshot));
}

pub(crate) fn delete_snapshot(batch: &mut Batch, group: GroupId) {
    batch.delete(Table::Meta, meta_key(group, Kind::Snapshot.letter()));
}

/// Notes whether the state machine waits for a snapshot from a peer.
pub(crate) fn put_wish(batch: &mut Batch, group: GroupId, stands: bool) {
    if stands {
        put(batch, group, Kind::Wish, &[]);
    } else {
        batch.delete(Table::Meta, meta_key(group, Kind::Wish.letter()));
    }
}

/// Writes an entry and returns the size of its record.
pub(crate) fn put_entry(batch: &mut Batch, group: GroupId, entry: &Entry) -> usize {
    let key = log_key(group, entry.index);
    let record = seal(&key, &encode(entry));
    let size = record.len();
    batch.put(Table::Log, key.to_vec(), record);
    size
}

/// Deletes the entries `from..to`.
pub(crate) fn delete_entries(batch: &mut Batch, group: GroupId, from: u64, to: u64) {
    batch.delete_range(Table::Log, log_key(group, from).to_vec(), log_key(group, to).to_vec());
}

/// Deletes everything of `group`.
pub(crate) fn delete_group(batch: &mut Batch, group: GroupId) {
    batch.delete_range(Table::Log, log_key(group, 0).to_vec(), log_end(group));
    batch.delete_range(Table::Meta, meta_key(group, 0), meta_key(group, u8::MAX));
}

/// Reads the entries from `from` on, up to, not including, `to` or, without it, the end; the size of each beside it.
///
/// Errors: `Corruption` if one is missing, or is not what was written under its index.
pub(crate) fn scan_entries(
    store: &dyn Store,
    group: GroupId,
    from: u64,
    to: Option<u64>,
    mut visit: impl FnMut(Entry, usize),
) -> Result<(), ConsensusError> {
    let end = to.map_or_else(|| log_end(group), |to| log_key(group, to).to_vec());
    let mut next = from;
    let mut result = Ok(());
    store.scan(
        Table::Log,
        &log_key(group, from),
        &end,
        &mut |key, record| match read_entry(group, next, key, record) {
            Ok(entry) => {
                visit(entry, record.len());
                next += 1;
                ControlFlow::Continue(())
            }
            Err(error) => {
                result = Err(error);
                ControlFlow::Break(())
            }
        },
    )?;
    result?;
    match to {
        Some(to) if next < to => Err(corrupt(group, format!("entry {next}"), "is missing")),
        _ => Ok(()),
    }
}

fn read_entry(group: GroupId, index: u64, key: &[u8], record: &[u8]) -> Result<Entry, ConsensusError> {
    let name = || format!("entry {index}");
    if key != log_key(group, index) {
        return Err(corrupt(group, name(), "is missing"));
    }
    let body = unseal(key, record).map_err(|problem| corrupt(group, name(), problem))?;
    let entry = Entry::parse_from_bytes(body).map_err(|error| corrupt(group, name(), error.to_string()))?;
    if entry.index != index {
        return Err(corrupt(group, name(), format!("carries index {}", entry.index)));
    }
    Ok(entry)
}

/// A membership of voters only.
pub(crate) fn voters(ids: &[ReplicaId]) -> ConfState {
    let mut conf = ConfState::default();
    conf.set_voters(ids.iter().map(|id| id.0).collect());
    conf
}
