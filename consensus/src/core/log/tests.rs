use raft::eraftpb::SnapshotMetadata;
use shoal_model::ReplicaId;
use shoal_runtime::{MemoryStore, Table};

use super::*;
use crate::core::confs::ConfHistory;

const GROUP: GroupId = GroupId(7);
const START: Position = Position { index: 4, term: 2 };

fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, data: vec![index as u8; 20].into(), ..Entry::default() }
}

fn records() -> GroupRecords {
    let hard = HardState { term: 3, vote: 1, commit: 4, ..HardState::default() };
    let confs = ConfHistory::new(4, records::voters(&[ReplicaId(1)]));
    GroupRecords { me: ReplicaId(1), start: START, hard, confs, snapshot: None, wish: false }
}

fn put(batch: &mut Batch, records: &GroupRecords) {
    records::put_start(batch, GROUP, records.me, records.start);
    records::put_hard(batch, GROUP, &records.hard);
    records::put_confs(batch, GROUP, &records.confs);
}

fn load(store: &Arc<dyn Store>) -> Result<GroupLog, ConsensusError> {
    let records = records::load(&**store, GROUP)?.expect("there are records");
    GroupLog::load(store, GROUP, &records, ConfState::default(), 100)
}

/// A log of the entries 5 to 10, the last two of term 3.
fn stored() -> (Arc<dyn Store>, GroupLog) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let mut batch = Batch::default();
    put(&mut batch, &records());
    store.write(batch).expect("memory does not fail");
    let mut log = load(&store).expect("an empty log loads");
    let mut batch = Batch::default();
    let entries: Vec<_> = (5..=10).map(|index| entry(index, if index < 9 { 2 } else { 3 })).collect();
    log.append(&entries, &mut batch);
    store.write(batch).expect("memory does not fail");
    (store, log)
}

fn places(log: &GroupLog, low: u64, high: u64, max: Option<u64>) -> Vec<(u64, u64)> {
    let entries = log.entries(low, high, max, GetEntriesContext::empty(false)).expect("within the log");
    entries.iter().map(|entry| (entry.index, entry.term)).collect()
}

#[test]
fn entries_are_read_the_same_from_memory_and_disk() {
    let (store, mut log) = stored();
    let all = [(5, 2), (6, 2), (7, 2), (8, 2), (9, 3), (10, 3)];
    for evicted in [0, 7, 10] {
        log.evict(evicted, 0);
        assert_eq!(places(&log, 5, 11, None), all, "with {evicted} evicted");
        assert_eq!(places(&log, 6, 10, None), all[1..5], "a part, with {evicted} evicted");
        assert_eq!(places(&log, 6, 11, Some(0)), all[1..2], "at least one, with {evicted} evicted");
        assert_eq!(places(&log, 6, 11, Some(log.size_at(6) as u64 * 2)), all[1..3], "as many as fit");
        assert_eq!(places(&log, 8, 8, None), [], "nothing");
    }
    assert_eq!(log.tail_bytes, 0);
    let loaded = load(&store).expect("it loads");
    assert_eq!(places(&loaded, 5, 11, None), all, "after a restart");
    assert_eq!((loaded.bytes(), loaded.last()), (log.bytes(), 10));
    assert!(loaded.tail_bytes <= 100, "no more stays in memory than the cap");
}

#[test]
fn terms_and_bounds_are_those_of_the_log() {
    let (_, log) = stored();
    for (index, want) in [(4, 2), (5, 2), (8, 2), (9, 3), (10, 3)] {
        assert_eq!(log.term(index), Ok(want), "term of {index}");
    }
    assert_eq!(log.term(3), Err(StorageError::Compacted.into()));
    assert_eq!(log.term(11), Err(StorageError::Unavailable.into()));
    assert_eq!((log.first_index(), log.last_index()), (Ok(5), Ok(10)));
    let below = log.entries(4, 6, None, GetEntriesContext::empty(false));
    assert_eq!(below, Err(StorageError::Compacted.into()));
}

#[test]
fn an_overwritten_tail_leaves_nothing_behind() {
    let (store, mut log) = stored();
    let mut batch = Batch::default();
    log.append(&[entry(7, 4)], &mut batch);
    store.write(batch).expect("memory does not fail");
    for log in [&log, &load(&store).expect("it loads")] {
        assert_eq!(places(log, 5, 8, None), [(5, 2), (6, 2), (7, 4)]);
        assert_eq!((log.last(), log.term_at(8)), (7, None));
    }
}

#[test]
fn a_cut_log_starts_where_it_says() {
    let (store, mut log) = stored();
    assert_eq!(log.cut_point(6, 1_000, 10), None, "nothing is over");
    assert_eq!(log.cut_point(2, 1_000, 10), Some(8), "two entries stay");
    assert_eq!(log.cut_point(2, 1_000, 6), Some(6), "no further than allowed");
    assert_eq!(log.cut_point(2, 1_000, 4), None, "not at all if that is not allowed");
    assert_eq!(log.cut_point(100, log.bytes() / 2, 10), Some(7), "half of the bytes stay");
    let mut batch = Batch::default();
    log.cut_through(8, &mut batch);
    records::put_start(&mut batch, GROUP, ReplicaId(1), log.start());
    store.write(batch).expect("memory does not fail");
    for log in [&log, &load(&store).expect("it loads")] {
        assert_eq!(log.start(), Position { index: 8, term: 2 });
        assert_eq!(places(log, 9, 11, None), [(9, 3), (10, 3)]);
        assert_eq!(log.term(8), Ok(2), "the term before the first entry stays known");
    }
}

#[test]
fn a_restarted_log_is_empty() {
    let (store, mut log) = stored();
    let start = Position { index: 50, term: 9 };
    let mut batch = Batch::default();
    log.restart(start, &mut batch);
    put(&mut batch, &GroupRecords { start, ..records() });
    log.append(&[entry(51, 9)], &mut batch);
    store.write(batch).expect("memory does not fail");
    for log in [&log, &load(&store).expect("it loads")] {
        assert_eq!((log.start(), log.last()), (start, 51));
        assert_eq!(places(log, 51, 52, None), [(51, 9)]);
    }
}

#[test]
fn a_snapshot_is_only_given_to_those_it_helps() {
    let (_, mut log) = stored();
    let asks = |log: &GroupLog, index, to| log.snapshot(index, to).map(|snapshot| snapshot.get_metadata().index);
    let later = Err(StorageError::SnapshotTemporarilyUnavailable.into());
    assert_eq!(asks(&log, 0, 1), later);
    assert!(log.snapshot_wanted());
    let mut metadata = SnapshotMetadata { index: 6, term: 2, ..SnapshotMetadata::default() };
    metadata.set_conf_state(records::voters(&[ReplicaId(1), ReplicaId(2)]));
    let mut snapshot = Snapshot::default();
    snapshot.set_metadata(metadata);
    log.offer_snapshot(Some(snapshot));
    assert!(!log.snapshot_wanted());
    assert_eq!(asks(&log, 6, 2), Ok(6));
    assert_eq!(asks(&log, 7, 2), later, "it is older than asked for");
    assert_eq!(asks(&log, 0, 3), later, "it does not know the member");
    log.cut_through(8, &mut Batch::default());
    assert_eq!(asks(&log, 0, 2), later, "the log has moved on from it");
}

/// Every key of the group with its record.
fn dump(store: &dyn Store) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for table in [Table::Meta, Table::Log] {
        let mut visit = |key: &[u8], value: &[u8]| {
            all.push((table, key.to_vec(), value.to_vec()));
            std::ops::ControlFlow::Continue(())
        };
        store.scan(table, &[], &[0xff; 20], &mut visit).expect("memory does not fail");
    }
    all
}

#[test]
fn every_flipped_bit_is_found_on_open() {
    let (store, _) = stored();
    let all = dump(&*store);
    assert_eq!(all.len(), 9, "three records and six entries");
    for (table, key, value) in &all {
        for at in 0..value.len() {
            let mut broken = value.clone();
            broken[at] ^= 1 << (at % 8);
            let mut batch = Batch::default();
            batch.put(*table, key.clone(), broken);
            store.write(batch).expect("memory does not fail");
            let result = load(&store).map(drop);
            assert!(matches!(result, Err(ConsensusError::Corruption { .. })), "byte {at} of {key:?}: {result:?}");
        }
        let mut batch = Batch::default();
        batch.put(*table, key.clone(), value.clone());
        store.write(batch).expect("memory does not fail");
    }
    load(&store).map(drop).expect("mended");
}

#[test]
fn missing_and_exchanged_records_are_found_on_open() {
    let (store, _) = stored();
    let all = dump(&*store);
    let last = all.last().expect("there are entries").1.clone();
    for (table, key, value) in all.iter().filter(|(_, key, _)| *key != last) {
        let mut batch = Batch::default();
        batch.delete(*table, key.clone());
        store.write(batch).expect("memory does not fail");
        let result = load(&store).map(drop);
        assert!(matches!(result, Err(ConsensusError::Corruption { .. })), "{key:?} missing: {result:?}");
        let mut batch = Batch::default();
        batch.put(*table, key.clone(), value.clone());
        store.write(batch).expect("memory does not fail");
    }
    let mut batch = Batch::default();
    batch.put(Table::Log, last, all[all.len() - 2].2.clone());
    store.write(batch).expect("memory does not fail");
    assert!(load(&store).is_err(), "a record under another's key is found");
}

#[test]
fn a_record_that_breaks_later_is_noted_and_does_no_harm() {
    let (store, mut log) = stored();
    log.evict(10, 0);
    let mut batch = Batch::default();
    records::delete_entries(&mut batch, GROUP, 7, 8);
    store.write(batch).expect("memory does not fail");
    assert_eq!(log.entries(5, 11, None, GetEntriesContext::empty(false)), Ok(vec![]), "raft is told nothing wrong");
    assert!(matches!(log.failure(), Some(ConsensusError::Corruption { .. })), "and the owner is told");
    let later = log.entries(5, 11, None, GetEntriesContext::empty(true));
    assert_eq!(later, Err(StorageError::LogTemporarilyUnavailable.into()));
    assert!(log.failure().is_some());
}

#[test]
fn a_destroyed_group_leaves_nothing_and_others_alone() {
    let (store, _) = stored();
    let mut batch = Batch::default();
    records::put_entry(&mut batch, GroupId(GROUP.0 + 1), &entry(0, 1));
    records::put_start(&mut batch, GroupId(GROUP.0 + 1), ReplicaId(1), START);
    records::delete_group(&mut batch, GROUP);
    store.write(batch).expect("memory does not fail");
    assert_eq!(records::load(&*store, GROUP).expect("nothing is broken"), None);
    assert_eq!(dump(&*store).len(), 2, "the other group's two records stay");
}
