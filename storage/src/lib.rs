//! RocksDB behind the disk port.
//!
//! One database a process, one column family a table, one write-ahead log for all of them: one sync makes every
//! earlier batch durable, whichever group it came from. Batches are atomic across tables. After a crash the
//! log is replayed up to the first torn record, so what survives is a prefix of what was written.
//!
//! Does not know about: what the tables hold.

mod log_check;
mod table_check;
mod watermark;

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, DBCompressionType,
    DBRecoveryMode, ErrorKind, IteratorMode, Options, Range, ReadOptions, WriteBatch, WriteOptions,
};
use shoal_model::failpoints::{Failpoint, meet};
use shoal_runtime::{Batch, Space, Store, StoreError, Table, Verified, Visit, Write};

use self::table_check::{Found, TableSums};
use self::watermark::Watermark;

/// Memory for blocks read from disk, shared by all tables.
const BLOCK_CACHE_BYTES: usize = 64 << 20;
/// Memory for writes not yet in a table file, all tables together.
const WRITE_BUFFER_BYTES: usize = 128 << 20;
/// The same for a checkpoint, which is read once and in order.
const CHECKPOINT_CACHE_BYTES: usize = 4 << 20;
/// Write-ahead log kept before the table that holds it back is flushed.
const WAL_BYTES_MAX: u64 = 256 << 20;

/// What flushes and compactions write in a second at most.
const BACKGROUND_BYTES_PER_SECOND: i64 = 256 << 20;
/// How often they are given their share of it, in microseconds.
const BACKGROUND_REFILL_MICROS: i64 = 1_000;
/// How many shares compactions may be passed over in favour of flushes: RocksDB's own default.
const BACKGROUND_FAIRNESS: i32 = 10;
/// What they make before they ask for their share, and write it.
const BACKGROUND_PIECE_BYTES: u64 = 128 << 10;

/// What is read between two pauses when all is read.
const VERIFY_PIECE_BYTES: usize = 256 << 10;

/// What is worth writing files anew for, to be rid of it.
const GIVE_BACK_BYTES_MIN: u64 = 4 << 20;

/// Folder of checkpoints, within that of the store: on the same file system, so that they share its files.
const CHECKPOINTS: &str = "checkpoints";

/// A store in a folder of its own.
pub struct RocksStore {
    db: DB,
    path: PathBuf,
    synced: Watermark,
    /// A write has found no room, and none has succeeded since. RocksDB then waits for room by itself, writes all tables out,
    /// and begins another log; but asked to sync the log that failed it gives up for good.
    lacks_room: AtomicBool,
    tables: TableSums,
    /// Checkpoints made so far.
    checkpoints: AtomicU64,
}

/// What a store held at a moment, in a folder of its own that goes with it.
struct RocksCheckpoint {
    /// Closed before its folder goes.
    db: Option<DB>,
    path: PathBuf,
}

impl RocksStore {
    /// Opens the store in `path`, or makes one there.
    ///
    /// Errors: `InUse` if another process has it open, `Corruption` if its files do not read back or lack what was synced.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        meet(Failpoint::StorageOpen)?;
        make_folder(path).map_err(|e| StoreError::Io { detail: format!("{}: {e}", path.display()) })?;
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let tables = Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), table_options(table, &cache)));
        let db = DB::open_cf_descriptors(&database_options(), path, tables).map_err(|e| open_error(path, &e))?;
        remove_folder(&path.join(CHECKPOINTS))?;
        let io = |error: std::io::Error| StoreError::Io { detail: format!("{}: {error}", path.display()) };
        let (synced, sequence) = Watermark::open(path).map_err(io)?;
        let found = db.latest_sequence_number();
        if found < sequence {
            let detail = format!("it ends at {found}, and was synced up to {sequence}: what was acknowledged is lost");
            return Err(StoreError::Corruption { place: "write-ahead log".to_owned(), detail });
        }
        let (lacks_room, checkpoints) = (AtomicBool::new(false), AtomicU64::new(0));
        Ok(Self { db, path: path.to_owned(), synced, lacks_room, tables: TableSums::default(), checkpoints })
    }
}

/// Makes a folder, and those that it is in, so that they are durable: were the name lost in a power cut, so would be all that
/// is synced below it.
pub fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(above)?;
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(above)?.sync_all(),
    }
}

/// Removes what a process that ended at once has left.
fn remove_folder(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::Io { detail: format!("{}: {error}", path.display()) })
        }
        _ => Ok(()),
    }
}

fn handle(db: &DB, table: Table) -> Result<&ColumnFamily, StoreError> {
    let missing = || StoreError::Corruption { place: table.name().to_owned(), detail: "table is missing".to_owned() };
    db.cf_handle(table.name()).ok_or_else(missing)
}

fn get(db: &DB, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
    meet(Failpoint::StorageGet)?;
    let value = db.get_cf(handle(db, table)?, key).map_err(|e| store_error(&e))?;
    Ok(value.map(Bytes::from))
}

fn scan(db: &DB, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
    meet(Failpoint::StorageScan)?;
    if from >= to {
        return Ok(());
    }
    let mut bounds = ReadOptions::default();
    bounds.set_iterate_upper_bound(to);
    // A long scan must not push out what point reads need.
    bounds.fill_cache(false);
    let start = IteratorMode::From(from, rocksdb::Direction::Forward);
    for pair in db.iterator_cf_opt(handle(db, table)?, bounds, start) {
        let (key, value) = pair.map_err(|e| store_error(&e))?;
        if visit(&key, &value).is_break() {
            break;
        }
    }
    Ok(())
}

impl RocksCheckpoint {
    /// Opens what was made at `path`, which goes with it, to be read past the page cache if `is_direct`.
    fn open(path: PathBuf, is_direct: bool) -> Result<Self, StoreError> {
        let cache = Cache::new_lru_cache(CHECKPOINT_CACHE_BYTES);
        let tables = Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), table_options(table, &cache)));
        let mut options = Options::default();
        options.set_use_direct_reads(is_direct);
        let opened = DB::open_cf_descriptors_read_only(&options, &path, tables, false);
        opened.map(|db| Self { db: Some(db), path }).map_err(|e| store_error(&e))
    }

    /// Reads every pair of every table, checksums verified.
    fn read_all(&self, went: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<(), StoreError> {
        let db = self.db()?;
        for table in Table::ALL {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            options.set_verify_checksums(true);
            options.set_readahead_size(VERIFY_PIECE_BYTES);
            let mut bytes = 0;
            for pair in db.iterator_cf_opt(handle(db, table)?, options, IteratorMode::Start) {
                let (key, value) = pair.map_err(|e| store_error(&e))?;
                bytes += key.len() + value.len();
                if bytes >= VERIFY_PIECE_BYTES && went(std::mem::take(&mut bytes) as u64).is_break() {
                    return Ok(());
                }
            }
            if went(bytes as u64).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The database; there until it is dropped.
    fn db(&self) -> Result<&DB, StoreError> {
        self.db.as_ref().ok_or(StoreError::ReadOnly)
    }
}

impl Store for RocksCheckpoint {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        get(self.db()?, table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        scan(self.db()?, table, from, to, visit)
    }

    fn write(&self, _: Batch) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly)
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn checkpoint(&self) -> Result<Arc<dyn Store>, StoreError> {
        Err(StoreError::ReadOnly)
    }
}

impl Drop for RocksCheckpoint {
    fn drop(&mut self) {
        self.db = None;
        // What stays goes at the next start.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_paranoid_checks(true);
    options.set_db_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_max_background_jobs(2);
    // Linux leaves a core to whoever has it for a slice of milliseconds, whatever else wakes up there. So what runs beside
    // searches and logs does so in pieces, and sleeps between them.
    options.set_writable_file_max_buffer_size(BACKGROUND_PIECE_BYTES);
    options.set_ratelimiter(BACKGROUND_BYTES_PER_SECOND, BACKGROUND_REFILL_MICROS, BACKGROUND_FAIRNESS);
    options.set_keep_log_file_num(4);
    options.set_max_open_files(512);
    options
}

fn table_options(table: Table, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    // The first that has a checksum of a file's footer, and of where a block belongs.
    blocks.set_format_version(6);
    if table != Table::Log {
        // Reads by id dominate; the log is read in ranges.
        blocks.set_bloom_filter(10.0, false);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    // Floats do not compress; text does.
    let compression = if table == Table::Payload { DBCompressionType::Lz4 } else { DBCompressionType::None };
    options.set_compression_type(compression);
    options
}

fn open_error(path: &Path, error: &rocksdb::Error) -> StoreError {
    let text = error.to_string();
    if error.kind() == ErrorKind::IOError && text.contains("lock") {
        return StoreError::InUse { path: path.display().to_string() };
    }
    store_error(error)
}

fn store_error(error: &rocksdb::Error) -> StoreError {
    let detail = error.to_string();
    match error.kind() {
        ErrorKind::Corruption => StoreError::Corruption { place: "database".to_owned(), detail },
        _ if is_for_want_of_room(&detail) => StoreError::Full { detail },
        _ => StoreError::Io { detail },
    }
}

/// RocksDB tells a full disk by its text alone.
fn is_for_want_of_room(detail: &str) -> bool {
    detail.contains("No space left") || detail.contains("Disk quota exceeded")
}

impl Store for RocksStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        get(&self.db, table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        scan(&self.db, table, from, to, visit)
    }

    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let mut writes = WriteBatch::default();
        for write in batch.writes {
            match write {
                Write::Put { table, key, value } => writes.put_cf(handle(&self.db, table)?, key, value),
                Write::Delete { table, key } => writes.delete_cf(handle(&self.db, table)?, key),
                Write::DeleteRange { table, from, to } => writes.delete_range_cf(handle(&self.db, table)?, from, to),
            }
        }
        meet(Failpoint::StorageWrite)?;
        // A write that began before another has failed says nothing of how things are since.
        let lacked_room = self.lacks_room.load(Ordering::Acquire);
        let written = self.db.write_opt(writes, &WriteOptions::default()).map_err(|e| store_error(&e));
        match &written {
            Err(StoreError::Full { .. }) => self.lacks_room.store(true, Ordering::Release),
            Ok(()) if lacked_room => self.lacks_room.store(false, Ordering::Release),
            _ => {}
        }
        written?;
        Ok(meet(Failpoint::StorageWritten)?)
    }

    fn sync(&self) -> Result<(), StoreError> {
        if self.lacks_room.load(Ordering::Acquire) {
            return Err(StoreError::Full { detail: "the log cannot be written on, and so not synced".to_owned() });
        }
        let sequence = self.db.latest_sequence_number();
        meet(Failpoint::StorageSync)?;
        // Also where it finds no room itself: what the system had taken is lost then, and must not be asked for again.
        self.db.flush_wal(true).map_err(|e| StoreError::Io { detail: e.to_string() })?;
        meet(Failpoint::StorageWatermark)?;
        self.synced.raise(sequence).map_err(|e| StoreError::Io { detail: format!("note what was synced: {e}") })
    }

    fn checkpoint(&self) -> Result<Arc<dyn Store>, StoreError> {
        let path = self.make_checkpoint()?;
        Ok(Arc::new(RocksCheckpoint::open(path, false)?))
    }

    /// The log first: a checkpoint has all that it holds written to tables, after which RocksDB needs it no more.
    fn verify(&self, went: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Verified, StoreError> {
        let log = log_check::damage(&self.path, went);
        let io = |error: std::io::Error| StoreError::Io { detail: format!("{}: {error}", self.path.display()) };
        let log_damage = log.map_err(io)?;
        let path = self.make_checkpoint()?;
        let opened = match RocksCheckpoint::open(path.clone(), true) {
            // The file system has no reads past the page cache.
            Err(StoreError::Io { .. }) => RocksCheckpoint::open(path.clone(), false),
            opened => opened,
        };
        // What cannot be opened is not kept: it holds on to files that the store itself is done with.
        let checkpoint = opened.inspect_err(|_| drop(remove_folder(&path)))?;
        checkpoint.read_all(went)?;
        match self.tables.look(&checkpoint.path, went).map_err(io)? {
            Found::Sound | Found::Ended => Ok(Verified { log_damage }),
            Found::Changed(table) => {
                let detail = "a table file has changed".to_owned();
                Err(StoreError::Corruption { place: table.to_string_lossy().into_owned(), detail })
            }
        }
    }

    /// Files that hold nothing else go as they are. What else there is shares files with other keys, the newest ones: these
    /// are written anew without it.
    fn give_back(&self, table: Table, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        let handle = handle(&self.db, table)?;
        self.db.delete_file_in_range_cf(handle, from, to).map_err(|e| store_error(&e))?;
        let left = self.db.get_approximate_sizes_cf(handle, &[Range::new(from, to)]);
        if left.iter().sum::<u64>() < GIVE_BACK_BYTES_MIN {
            return Ok(());
        }
        let mut options = CompactOptions::default();
        // Others go on meanwhile.
        options.set_exclusive_manual_compaction(false);
        self.db.compact_range_cf_opt(handle, Some(from), Some(to), &options);
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        // Files come and go while they are listed; one that is gone has no size.
        let files = std::fs::read_dir(self.db.path()).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|about| about.len()).sum()
    }

    fn space(&self) -> Result<Option<Space>, StoreError> {
        let path = self.path.display().to_string();
        let about = rustix::fs::statvfs(&self.path)
            .map_err(|error| StoreError::Io { detail: format!("room at {path}: {error}") })?;
        let bytes = |blocks: u64| blocks.saturating_mul(about.f_frsize);
        Ok(Some(Space { path, free_bytes: bytes(about.f_bavail), size_bytes: bytes(about.f_blocks) }))
    }
}

impl RocksStore {
    /// Makes one, and tells its folder.
    fn make_checkpoint(&self) -> Result<PathBuf, StoreError> {
        let folder = self.path.join(CHECKPOINTS);
        std::fs::create_dir_all(&folder)
            .map_err(|e| StoreError::Io { detail: format!("{}: {e}", folder.display()) })?;
        meet(Failpoint::StorageCheckpoint)?;
        let maker = Checkpoint::new(&self.db).map_err(|e| store_error(&e))?;
        let path = unless_damaged_thrice(|| {
            let path = folder.join(self.checkpoints.fetch_add(1, Ordering::Relaxed).to_string());
            // Files are shared by hard links; what is in memory is written out first.
            maker.create_checkpoint(&path).map_err(|e| store_error(&e))?;
            Ok(path)
        })?;
        meet(Failpoint::StorageCheckpointOpen)?;
        Ok(path)
    }
}

/// Does `make` again where it finds damage, and believes that the third time.
///
/// A checkpoint copies the log up to the size that the file system tells while others write on. One on a disk behind FUSE
/// found the log shorter than that, most likely as its size was told before all of it could be read, and RocksDB calls that
/// damage. What is really damaged stays so.
fn unless_damaged_thrice<T>(mut make: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    for _ in 0..2 {
        match make() {
            Err(error @ StoreError::Corruption { .. }) => {
                tracing::warn!(%error, "a checkpoint finds damage, and is made again");
            }
            made => return made,
        }
    }
    make()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &RocksStore, key: &'static str, value: Vec<u8>) {
        let mut batch = Batch::default();
        batch.put(Table::Payload, key, value);
        store.write(batch).expect("write");
    }

    #[test]
    fn damage_that_a_checkpoint_finds_is_believed_once_it_stays() {
        let corruption = || Err(StoreError::Corruption { place: "a log".to_owned(), detail: "too short".to_owned() });
        let io = || Err(StoreError::Io { detail: "no such device".to_owned() });
        // How often it finds damage, whether the disk fails then, how often it is made, whether it succeeds.
        let table = [(0, false, 1, true), (2, false, 3, true), (3, false, 3, false), (1, true, 2, false)];
        for (damaged, fails, times, succeeds) in table {
            let mut made = 0;
            let result = unless_damaged_thrice(|| {
                made += 1;
                match made {
                    made if made <= damaged => corruption(),
                    _ if fails => io(),
                    _ => Ok(()),
                }
            });
            assert_eq!((made, result.is_ok()), (times, succeeds), "damaged {damaged} times: {result:?}");
        }
    }

    #[test]
    fn keeps_the_contract_of_stores() {
        let folder = tempfile::tempdir().expect("temporary folder");
        shoal_runtime::store_contract::check(&RocksStore::open(folder.path()).expect("open"));
    }

    #[test]
    fn reopening_finds_what_was_written() {
        let folder = tempfile::tempdir().expect("temporary folder");
        // Compressible, and larger than a block, so that reading it back proves the codec.
        let value = vec![b'x'; 100_000];
        let store = RocksStore::open(folder.path()).expect("open");
        put(&store, "key", value.clone());
        store.sync().expect("sync");
        assert!(store.disk_bytes() > 100_000, "the write-ahead log counts: {}", store.disk_bytes());
        let space = store.space().expect("told").expect("it is on a disk");
        assert!(space.free_bytes <= space.size_bytes && space.size_bytes > 0, "{space:?}");
        let handle = super::handle(&store.db, Table::Payload).expect("exists");
        store.db.flush_cf(handle).expect("flush to a table file");
        let size = store.db.property_int_value_cf(handle, "rocksdb.total-sst-files-size").expect("a property");
        assert!(size.is_some_and(|size| size < 50_000), "payload is compressed: {size:?}");
        drop(store);
        let store = RocksStore::open(folder.path()).expect("open again");
        assert_eq!(store.get(Table::Payload, b"key").expect("get"), Some(Bytes::from(value)));
    }

    /// Flips a byte in the middle of the newest log file.
    fn flip_in_log(folder: &Path) {
        let logs = std::fs::read_dir(folder).expect("listed").map(|file| file.expect("listed").path());
        let newest = logs.filter(|path| path.extension().is_some_and(|ending| ending == "log")).max().expect("a log");
        let mut bytes = std::fs::read(&newest).expect("read");
        let written = bytes.iter().rposition(|byte| *byte != 0).expect("something was written");
        bytes[written / 2] ^= 1;
        std::fs::write(&newest, bytes).expect("written");
    }

    #[test]
    fn a_log_that_was_damaged_in_what_was_synced_is_told() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = RocksStore::open(folder.path()).expect("open");
        for key in ["a", "b", "c", "d", "e"] {
            put(&store, key, vec![7; 1_000]);
            store.sync().expect("sync");
        }
        put(&store, "not synced", vec![7; 10]);
        drop(store);
        let store = RocksStore::open(folder.path()).expect("a process that was killed has lost nothing");
        assert!(store.get(Table::Payload, b"e").expect("get").is_some());
        // What the last start wrote out is no longer read from the log.
        put(&store, "f", vec![7; 100_000]);
        put(&store, "g", vec![7; 1_000]);
        store.sync().expect("sync");
        drop(store);
        flip_in_log(folder.path());
        let refused = RocksStore::open(folder.path()).map(|_| ());
        assert!(matches!(refused, Err(StoreError::Corruption { .. })), "{refused:?}");
    }

    /// Flips a byte of every file that ends so, in the middle.
    fn flip(folder: &Path, ending: &str) {
        for file in std::fs::read_dir(folder).expect("listed").map(|file| file.expect("listed").path()) {
            if file.extension().is_some_and(|found| found == ending) {
                let mut bytes = std::fs::read(&file).expect("read");
                let middle = bytes.len() / 2;
                if let Some(byte) = bytes.get_mut(middle) {
                    *byte ^= 4;
                    std::fs::write(&file, bytes).expect("written");
                }
            }
        }
    }

    #[test]
    fn damage_is_found_while_the_store_is_open_and_that_of_the_log_is_mended() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let verify = |store: &RocksStore| {
            let mut bytes = 0;
            let verified = store.verify(&mut |more| {
                bytes += more;
                ControlFlow::Continue(())
            });
            verified.map(|Verified { log_damage }| (log_damage, bytes))
        };
        let store = RocksStore::open(folder.path()).expect("open");
        (0..300).for_each(|_| put(&store, "a", vec![7; 1_000]));
        assert!(matches!(verify(&store), Ok((None, bytes)) if bytes > 1_000), "sound");
        (0..300).for_each(|_| put(&store, "b", vec![8; 1_000]));
        store.sync().expect("sync");
        flip(folder.path(), "log");
        assert!(matches!(verify(&store), Ok((Some(_), _))), "damage of the log is told");
        assert!(matches!(verify(&store), Ok((None, _))), "and the log begins anew");
        drop(store);
        let store = RocksStore::open(folder.path()).expect("nothing is lost");
        assert_eq!(store.get(Table::Payload, b"b").expect("get"), Some(Bytes::from(vec![8; 1_000])));
        flip(folder.path(), "sst");
        let found = verify(&store);
        assert!(matches!(found, Err(StoreError::Corruption { .. })), "{found:?}");
    }

    #[test]
    fn room_of_what_was_removed_is_given_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = RocksStore::open(folder.path()).expect("a new store");
        let key = |half: u8, number: u32| [&[half][..], &number.to_be_bytes()].concat();
        let tables = |store: &RocksStore| {
            store.db.flush_cf(handle(&store.db, Table::Vectors).expect("a table")).expect("flushed");
            let files = std::fs::read_dir(folder.path()).expect("a folder").flatten();
            let tables = files.filter(|file| file.path().extension().is_some_and(|ending| ending == "sst"));
            tables.map(|file| file.metadata().expect("it is there").len()).sum::<u64>()
        };
        // The halves of each batch share a file.
        for number in 0..64 {
            let mut batch = Batch::default();
            for half in [1, 2] {
                batch.put(Table::Vectors, key(half, number), vec![number.to_le_bytes()[0]; 128 << 10]);
            }
            store.write(batch).expect("written");
        }
        let full = tables(&store);
        let mut batch = Batch::default();
        batch.delete_range(Table::Vectors, key(1, 0), key(2, 0));
        store.write(batch).expect("written");
        store.sync().expect("synced");
        assert!(tables(&store) >= full, "nothing goes by itself");

        store.give_back(Table::Vectors, &key(1, 0), &key(2, 0)).expect("given back");
        let left = tables(&store);
        assert!(left * 10 < full * 6, "of {full} bytes {left} are left");
        let mut numbers = 0;
        store
            .scan(Table::Vectors, &key(0, 0), &key(3, 0), &mut |_, value| {
                assert_eq!(value, vec![value[0]; 128 << 10]);
                numbers += u32::from(value[0]);
                ControlFlow::Continue(())
            })
            .expect("scanned");
        assert_eq!(numbers, (0..64).sum(), "the other half is there");
    }

    #[test]
    fn folders_are_made_at_any_depth_and_files_are_not_taken_for_them() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let deep = folder.path().join("a/b/c");
        make_folder(&deep).expect("made");
        make_folder(&deep).expect("it is there");
        assert!(deep.is_dir());
        std::fs::write(deep.join("file"), "").expect("written");
        assert!(make_folder(&deep.join("file/below")).is_err());
    }

    #[test]
    fn a_folder_in_use_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let _first = RocksStore::open(folder.path()).expect("open");
        assert!(matches!(RocksStore::open(folder.path()), Err(StoreError::InUse { .. })));
    }
}
