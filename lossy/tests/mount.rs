//! The disk as processes use it: real mounts, system calls, the binary.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use shoal_lossy::{Fault, Lossy, LossyError, Metadata, Op, PowerLoss, Stats, Tear, ask};
use tempfile::TempDir;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// A disk, and the folders for it; unmounted before they are removed.
struct Mounted {
    lossy: Lossy,
    folders: TempDir,
}

impl Mounted {
    /// None where one cannot mount; the test then has nothing to say.
    fn new() -> Option<Self> {
        Self::with(Metadata::Journaled)
    }

    fn with(metadata: Metadata) -> Option<Self> {
        let folders = folders();
        match Lossy::mount(&folders.path().join("backing"), &folders.path().join("disk"), metadata) {
            Ok(lossy) => Some(Self { lossy, folders }),
            Err(LossyError::Unavailable { reason }) => {
                println!("skipped, no FUSE here: {reason}");
                None
            }
            Err(error) => panic!("mount: {error:?}"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.lossy.path().join(name)
    }

    fn backing(&self, name: &str) -> PathBuf {
        self.folders.path().join("backing").join(name)
    }

    /// Writes a file and makes it durable.
    fn write_synced(&self, name: &str, content: &[u8]) {
        let mut file = File::create(self.path(name)).expect("create");
        file.write_all(content).expect("write");
        file.sync_all().expect("sync");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("read")
    }

    fn power_loss(&self) {
        self.lossy.controls().power_loss(PowerLoss::clean()).expect("power loss");
    }

    fn fail(&self, fault: Fault) {
        self.lossy.controls().fail(fault).expect("fail");
    }

    fn stats(&self) -> Stats {
        self.lossy.controls().stats().expect("stats")
    }
}

fn folders() -> TempDir {
    let folders = tempfile::tempdir().expect("a folder");
    for name in ["backing", "disk"] {
        fs::create_dir(folders.path().join(name)).expect("create a folder");
    }
    folders
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

#[test]
fn what_was_synced_survives_and_the_rest_is_gone() {
    let Some(disk) = Mounted::new() else { return };
    disk.write_synced("a", b"old");
    fs::write(disk.path("a"), b"new").expect("write");
    fs::write(disk.path("b"), b"b").expect("write");
    assert_eq!((disk.read("a"), disk.stats().unsynced_files), (b"new".to_vec(), 2));
    assert_eq!(fs::read(disk.backing("a")).expect("read"), b"old");
    disk.power_loss();
    assert_eq!(disk.read("a"), b"old");
    assert!(!disk.path("b").exists());
    let loss = disk.stats().last_loss.expect("a loss");
    assert_eq!((loss.files_hit, loss.bytes_dropped, loss.changes_dropped), (2, 4, 1));
}

#[test]
fn a_large_file_goes_through_whole() {
    let Some(disk) = Mounted::new() else { return };
    let content: Vec<u8> = (0..5_000_000u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    disk.write_synced("a", &content);
    disk.power_loss();
    assert!(disk.read("a") == content);
    assert!(disk.stats().writes < 10, "in writes of a megabyte");
}

#[test]
fn names_follow_the_metadata() {
    for (metadata, is_there) in [(Metadata::Journaled, true), (Metadata::Strict, false)] {
        let Some(disk) = Mounted::with(metadata) else { return };
        fs::create_dir(disk.path("d")).expect("create a folder");
        disk.write_synced("d/a", b"a");
        disk.power_loss();
        assert_eq!(disk.path("d/a").exists(), is_there, "{metadata:?}");
    }
}

#[test]
fn a_file_is_replaced_by_rename() {
    for metadata in [Metadata::Journaled, Metadata::Strict] {
        let Some(disk) = Mounted::with(metadata) else { return };
        let sync_root = || File::open(disk.lossy.path()).and_then(|root| root.sync_all()).expect("sync the root");
        disk.write_synced("current", b"1");
        disk.write_synced("new", b"2");
        sync_root();
        fs::rename(disk.path("new"), disk.path("current")).expect("rename");
        disk.power_loss();
        assert_eq!((disk.read("current"), disk.read("new")), (b"1".to_vec(), b"2".to_vec()), "{metadata:?}");
        fs::rename(disk.path("new"), disk.path("current")).expect("rename");
        sync_root();
        disk.power_loss();
        assert_eq!((disk.read("current"), disk.path("new").exists()), (b"2".to_vec(), false), "{metadata:?}");
    }
}

#[test]
fn folders_are_listed_and_emptied() {
    let Some(disk) = Mounted::new() else { return };
    fs::create_dir_all(disk.path("d/e")).expect("create folders");
    for n in 0..500 {
        fs::write(disk.path(&format!("d/e/{n}")), b"").expect("write");
    }
    assert_eq!(fs::read_dir(disk.path("d/e")).expect("read").count(), 500);
    fs::remove_dir_all(disk.path("d")).expect("remove all");
    assert_eq!(fs::read_dir(disk.lossy.path()).expect("read").count(), 0);
}

#[test]
fn a_map_sees_what_is_on_disk() {
    let Some(disk) = Mounted::new() else { return };
    disk.write_synced("a", &[1; 10_000]);
    let file = File::open(disk.path("a")).expect("open");
    // SAFETY: the file stays as long as it is; what it holds may change, and is read anew each time.
    let map = unsafe { memmap2::Mmap::map(&file) }.expect("map");
    assert_eq!((map[0], map[9_999]), (1, 1));

    let writer = OpenOptions::new().write(true).open(disk.path("a")).expect("open");
    writer.write_all_at(&[2], 9_999).expect("write");
    assert_eq!(map[9_999], 2, "written, not synced");
    disk.power_loss();
    assert_eq!((map[0], map[9_999]), (1, 1), "lost");
    disk.lossy.controls().flip("a", 9_999, 7).expect("flip");
    assert_eq!(map[9_999], 0x81, "flipped");
}

#[test]
fn a_flip_is_seen_by_the_next_read() {
    let Some(disk) = Mounted::new() else { return };
    disk.write_synced("a", b"abc");
    assert_eq!(disk.read("a"), b"abc");
    let open = File::open(disk.path("a")).expect("open");
    disk.lossy.controls().flip("a", 0, 1).expect("flip");
    let mut byte = [0];
    open.read_exact_at(&mut byte, 0).expect("read");
    assert_eq!((&byte, disk.read("a").as_slice()), (b"c", &b"cbc"[..]));
    assert!(disk.lossy.controls().flip("a", 3, 0).is_err());
}

#[test]
fn the_third_sync_fails_and_what_it_meant_to_write_is_lost() {
    let Some(disk) = Mounted::new() else { return };
    let file = File::create(disk.path("a.log")).expect("create");
    disk.fail(Fault { after: 2, times: Some(1), ..Fault::new(Op::Fsync, "*.log", EIO) });
    for (place, fails) in [(0, false), (1, false), (2, true), (3, false)] {
        file.write_all_at(&[b'x'; 4096], place * 4096).expect("write");
        let result = file.sync_data();
        assert_eq!(result.err().and_then(|error| error.raw_os_error()), fails.then_some(EIO), "{place}");
    }
    disk.power_loss();
    let left = disk.read("a.log");
    assert_eq!(left.chunks(4096).map(|page| page[0]).collect::<Vec<_>>(), [b'x', b'x', 0, b'x']);
    assert_eq!(disk.stats().faults, 1);
}

#[test]
fn reads_fail_though_the_kernel_has_the_pages() {
    let Some(disk) = Mounted::new() else { return };
    disk.write_synced("a", b"abc");
    assert_eq!(disk.read("a"), b"abc");
    let file = File::open(disk.path("a")).expect("open");
    disk.fail(Fault::new(Op::Read, "a", EIO));
    let error = file.read_at(&mut [0; 3], 0).expect_err("a fault");
    assert_eq!(error.raw_os_error(), Some(EIO));
    disk.lossy.controls().clear().expect("clear");
    assert_eq!(disk.read("a"), b"abc");
}

#[test]
fn a_full_disk_refuses_growth() {
    let Some(disk) = Mounted::new() else { return };
    disk.write_synced("a", b"abc");
    let controls = disk.lossy.controls();
    controls.set_full(true).expect("full");
    let file = OpenOptions::new().write(true).open(disk.path("a")).expect("open");
    file.write_all_at(b"xyz", 0).expect("no growth");
    let error = file.write_all_at(b"w", 3).expect_err("growth");
    assert_eq!(error.raw_os_error(), Some(ENOSPC));
    file.sync_all().expect("sync");
    controls.set_full(false).expect("not full");
    file.write_all_at(b"w", 3).expect("write");
    assert_eq!(disk.read("a"), b"xyzw");
}

#[test]
fn a_slow_sync_does_not_hold_up_others() {
    let Some(disk) = Mounted::new() else { return };
    disk.write_synced("a", b"abc");
    let delay = Duration::from_millis(300);
    disk.lossy.controls().slow(Op::Fsync, delay).expect("slow");
    let start = Instant::now();
    thread::scope(|scope| {
        let sync = scope.spawn(|| disk.write_synced("b", b"b"));
        while !sync.is_finished() {
            assert_eq!(disk.read("a"), b"abc");
        }
    });
    assert!(start.elapsed() >= delay);
    assert!(disk.stats().reads > 1);
}

#[test]
fn a_torn_loss_leaves_old_or_new_pages() {
    let Some(disk) = Mounted::new() else { return };
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..20 {
        disk.write_synced("a", &[1; 4 * 4096]);
        let file = OpenOptions::new().write(true).open(disk.path("a")).expect("open");
        file.write_all_at(&[2; 4 * 4096], 4096).expect("write");
        disk.lossy.controls().power_loss(PowerLoss::torn(seed, Tear::Page)).expect("power loss");
        let left = disk.read("a");
        assert_eq!(left[0], 1, "not written to");
        assert!(left.chunks(4096).all(|page| page.iter().all(|byte| *byte == page[0])), "pages are whole");
        outcomes.insert(left.chunks(4096).map(|page| page[0]).collect::<Vec<_>>());
    }
    assert!(outcomes.len() > 5, "{outcomes:?}");
}

#[test]
fn an_end_unmounts_even_if_files_are_open_and_after_panics() {
    let Some(disk) = Mounted::new() else { return };
    let path = disk.lossy.path().to_owned();
    assert!(is_mounted(&path));
    let panicked = thread::spawn(move || {
        let _open = File::create(disk.path("a")).expect("create");
        panic!("as meant");
    });
    assert!(panicked.join().is_err());
    assert!(!is_mounted(&path));
}

#[test]
fn an_orderly_end_keeps_what_was_not_synced() {
    let Some(disk) = Mounted::new() else { return };
    fs::write(disk.path("a"), b"abc").expect("write");
    let Mounted { lossy, folders } = disk;
    drop(lossy);
    assert_eq!(fs::read(folders.path().join("backing/a")).expect("read"), b"abc");
}

/// The binary, mounted.
struct Served {
    child: Child,
    folders: TempDir,
}

impl Served {
    fn start() -> Option<Self> {
        drop(Mounted::new()?);
        let folders = folders();
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoal-lossy"));
        let [backing, mountpoint, socket] = ["backing", "disk", "socket"].map(|name| folders.path().join(name));
        command.arg("mount").args([&backing, &mountpoint]).arg("--control").arg(socket).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("read");
        assert!(line.starts_with("mounted "), "{line}");
        Some(Self { child, folders })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folders.path().join(name)
    }

    fn ask(&self, command: &str) -> Result<String, LossyError> {
        ask(&self.path("socket"), command)
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().expect("kill runs").success());
    }

    /// Waits until it is gone from the tree.
    fn wait_until_unmounted(&mut self) {
        self.child.wait().expect("wait");
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_mounted(&self.path("disk")) {
            assert!(Instant::now() < deadline, "still mounted");
            thread::sleep(Duration::from_millis(5)); // polling another process
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_binary_takes_commands_and_ends_in_order() {
    let Some(mut served) = Served::start() else { return };
    fs::write(served.path("disk/a"), b"abc").expect("write");
    let loss = served.ask("power-loss seed 3").expect("power loss");
    assert!(loss.contains("\"seed\":3"), "{loss}");
    assert!(!served.path("disk/a").exists());
    served.ask("fail create b* EIO times 1").expect("fail");
    assert_eq!(File::create(served.path("disk/b")).expect_err("a fault").raw_os_error(), Some(EIO));
    fs::write(served.path("disk/b"), b"abc").expect("write");
    let stats: Stats = serde_json::from_str(&served.ask("stats").expect("stats")).expect("JSON");
    assert_eq!((stats.power_losses, stats.faults, stats.unsynced_bytes), (1, 1, 3));
    let refused = served.ask("flip b 0 0").expect_err("nothing durable").to_string();
    assert!(refused.contains("Invalid argument"), "{refused}");
    assert!(matches!(served.ask("make coffee"), Err(LossyError::Refused { .. })));
    served.signal("-TERM");
    served.wait_until_unmounted();
    assert_eq!(fs::read(served.path("backing/b")).expect("read"), b"abc");
    assert!(!served.path("socket").exists());
}

#[test]
fn a_killed_binary_is_a_power_loss_and_leaves_no_mount() {
    let Some(mut served) = Served::start() else { return };
    fs::write(served.path("disk/a"), b"abc").expect("write");
    served.signal("-KILL");
    served.wait_until_unmounted();
    assert!(!served.path("backing/a").exists());
}

/// Not a promise but a floor: below it, tests of what syncs each batch would be about this disk.
#[test]
fn syncs_are_fast_enough_for_tests() {
    let Some(disk) = Mounted::new() else { return };
    let file = File::create(disk.path("a.log")).expect("create");
    let (count, start) = (2_000u64, Instant::now());
    for n in 0..count {
        file.write_all_at(&[7; 300], n * 300).expect("write");
        file.sync_data().expect("sync");
    }
    let per_second = count as f64 / start.elapsed().as_secs_f64();
    println!("{per_second:.0} writes of 300 bytes, each synced, in a second");
    assert!(per_second > 200.0, "{per_second:.0}");
}
