//! RocksDB on the disk: what was synced is there after a power loss, and what is there is a prefix.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use shoal_lossy::{Lossy, LossyError, Metadata, PowerLoss, Tear};
use shoal_runtime::{Batch, PatientStore, Store as _, StoreError, Table};
use shoal_storage::RocksStore;
use tokio_util::sync::CancellationToken;

fn mount(folders: &Path, metadata: Metadata) -> Option<Lossy> {
    let [backing, disk] = ["backing", "disk"].map(|name| folders.join(name));
    for folder in [&backing, &disk] {
        std::fs::create_dir(folder).expect("create a folder");
    }
    match Lossy::mount(&backing, &disk, metadata) {
        Ok(lossy) => Some(lossy),
        Err(LossyError::Unavailable { reason }) => {
            println!("skipped, no FUSE here: {reason}");
            None
        }
        Err(error) => panic!("mount: {error:?}"),
    }
}

fn key(n: u64) -> Vec<u8> {
    n.to_be_bytes().to_vec()
}

/// Batch `n` writes key `n` to two tables, and some bytes so that records cross pages.
fn write(store: &RocksStore, n: u64, random: &mut StdRng) {
    let mut batch = Batch::default();
    let value = vec![u8::try_from(n % 251).expect("small"); random.random_range(1..3_000)];
    batch.put(Table::Log, key(n), value.clone());
    batch.put(Table::Meta, key(n), value);
    store.write(batch).expect("write");
}

/// Writes batches from `first` on, some of them synced; returns the first that need not survive, and the first not
/// written.
fn write_some(store: &RocksStore, first: u64, random: &mut StdRng) -> (u64, u64) {
    let end = first + random.random_range(1..200);
    let mut safe = first;
    for n in first..end {
        write(store, n, random);
        if random.random_bool(0.1) {
            store.sync().expect("sync");
            safe = n + 1;
        }
    }
    (safe, end)
}

/// How many batches are there: none may be missing before the last, or be there by half.
fn count_prefix(store: &RocksStore) -> u64 {
    let has = |table, n| store.get(table, &key(n)).expect("get").is_some();
    let count = (0..).find(|n| !has(Table::Log, *n)).expect("an end");
    for n in 0..count {
        assert!(has(Table::Meta, n), "batch {n} is there by half");
    }
    for n in count..count + 1_000 {
        assert!(!has(Table::Log, n) && !has(Table::Meta, n), "batch {n} is there, batch {count} is not");
    }
    count
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Cuts the power again and again while one database grows.
fn survives(metadata: Metadata, loss: impl Fn(u64) -> PowerLoss) {
    let seed = variable("SHOAL_SEED").unwrap_or_else(rand::random);
    let cuts = variable("SHOAL_LOSSY_CUTS").unwrap_or(15);
    println!("seed {seed}; replay with SHOAL_SEED={seed}; SHOAL_LOSSY_CUTS for more than {cuts} power losses");
    let mut random = StdRng::seed_from_u64(seed);
    let folders = tempfile::tempdir().expect("a folder");
    let Some(lossy) = mount(folders.path(), metadata) else { return };
    let path = lossy.path().join("db");
    // RocksDB syncs what it makes in its folder, but not the folder itself: POSIX lets all of it go without this.
    std::fs::create_dir(&path).and_then(|()| File::open(lossy.path())?.sync_all()).expect("make the folder");
    let mut next = 0;
    for cut in 0..cuts {
        let store = RocksStore::open(&path).expect("open");
        let left = count_prefix(&store);
        assert!(left >= next, "cut {cut}: {left} batches are left, {next} were synced");
        let (safe, end) = write_some(&store, left, &mut random);
        lossy.controls().power_loss(loss(random.random())).expect("power loss");
        drop(store);
        next = safe;
        println!("cut {cut}: {left} were left, {safe} are synced, {end} were written");
    }
    let store = RocksStore::open(&path).expect("open");
    assert!(count_prefix(&store) >= next);
}

#[test]
fn clean_power_losses() {
    survives(Metadata::Journaled, |_| PowerLoss::clean());
}

#[test]
fn clean_power_losses_with_strict_metadata() {
    survives(Metadata::Strict, |_| PowerLoss::clean());
}

#[test]
fn torn_power_losses() {
    survives(Metadata::Journaled, |seed| PowerLoss::torn(seed, Tear::Page));
}

#[test]
fn torn_power_losses_by_sector_with_strict_metadata() {
    survives(Metadata::Strict, |seed| PowerLoss::torn(seed, Tear::Sector));
}

/// Prints what a store that syncs each batch reaches here.
#[test]
fn syncs_in_a_second() {
    let folders = tempfile::tempdir().expect("a folder");
    let Some(lossy) = mount(folders.path(), Metadata::Journaled) else { return };
    let store = RocksStore::open(&lossy.path().join("db")).expect("open");
    let (mut random, count) = (StdRng::seed_from_u64(1), 2_000);
    let start = std::time::Instant::now();
    for n in 0..count {
        write(&store, n, &mut random);
        store.sync().expect("sync");
    }
    println!("{:.0} synced batches in a second", count as f64 / start.elapsed().as_secs_f64());
    assert_eq!(count_prefix(&store), count);
}

/// A store that waits for room is whole and writes on once there is some, and so is what a power loss leaves of it then.
#[test]
fn a_full_disk_is_waited_for() {
    let folders = tempfile::tempdir().expect("a folder");
    let Some(lossy) = mount(folders.path(), Metadata::Journaled) else { return };
    let path = lossy.path().join("db");
    std::fs::create_dir(&path).and_then(|()| File::open(lossy.path())?.sync_all()).expect("make the folder");
    let stop = CancellationToken::new();
    let rocks = Arc::new(RocksStore::open(&path).expect("open"));
    let store = Arc::new(PatientStore::new(rocks.clone(), stop));
    let batch = |n: u64| {
        let mut batch = Batch::default();
        batch.put(Table::Log, key(n), vec![7; 2_000]);
        batch.put(Table::Meta, key(n), vec![7; 2_000]);
        batch
    };
    for n in 0..10 {
        store.write(batch(n)).expect("written");
    }
    store.sync().expect("synced");
    // The last one before is written and not synced when the disk is full.
    store.write(batch(10)).expect("written");
    lossy.controls().set_full(true).expect("full");
    let direct = rocks.write(batch(99));
    assert!(matches!(direct, Err(StoreError::Full { .. })), "the disk is full indeed: {direct:?}");
    assert!(matches!(rocks.sync(), Err(StoreError::Full { .. })), "the write before is not on disk");
    let writing = std::thread::spawn({
        let store = store.clone();
        move || {
            store.write(batch(11)).expect("written");
            store.sync().expect("synced");
        }
    });
    std::thread::sleep(std::time::Duration::from_millis(500)); // some attempts in vain
    assert!(!writing.is_finished(), "nothing is acknowledged without room");
    assert!(store.get(Table::Meta, &key(10)).expect("read").is_some(), "reads go on");
    lossy.controls().set_full(false).expect("room");
    writing.join().expect("written and synced once there is room");
    store.write(batch(12)).expect("written");
    store.sync().expect("synced");
    lossy.controls().power_loss(PowerLoss::clean()).expect("power loss");
    drop((store, rocks));
    assert_eq!(count_prefix(&RocksStore::open(&path).expect("open")), 13);
}
