//! Where a node's data is: what can be done to it is a kind of its own.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::shoal_binary;

/// How long a lossy disk may take to end.
const UNMOUNT_WITHIN: Duration = Duration::from_secs(10);

/// A folder for a coordinator's or node's data that is more than a folder.
#[derive(Debug)]
pub enum DataFolder {
    /// On a disk so small that it can be filled.
    Small(SmallDisk),
    /// On a disk that can lose what was not synced.
    Lossy(LossyDisk),
}

impl DataFolder {
    /// What the process is told.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Small(disk) => disk.mount.join("data"),
            Self::Lossy(disk) => disk.mount.join("data"),
        }
    }

    /// The disk that can be filled, if it is one.
    #[must_use]
    pub fn small_disk(&self) -> Option<&SmallDisk> {
        match self {
            Self::Small(disk) => Some(disk),
            Self::Lossy(_) => None,
        }
    }

    /// The disk that can lose what was not synced, if it is one.
    #[must_use]
    pub fn lossy_disk(&self) -> Option<&LossyDisk> {
        match self {
            Self::Lossy(disk) => Some(disk),
            Self::Small(_) => None,
        }
    }
}

/// A file system of few bytes, in memory. Unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    mount: PathBuf,
}

impl SmallDisk {
    /// Mounts one of so many bytes at a folder that exists. Errors: why that cannot be.
    pub fn mount(folder: &Path, size_bytes: u64) -> Result<Self, String> {
        let size = format!("size={size_bytes}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder);
        let done = mount.output().map_err(|error| format!("mount does not start: {error}"))?;
        if !done.status.success() {
            return Err(format!("mount: {}", String::from_utf8_lossy(&done.stderr).trim()));
        }
        Ok(Self { mount: folder.to_owned() })
    }

    /// Leaves not a byte free, or as few as can be.
    ///
    /// Errors: anything but that the disk is full.
    pub fn fill(&self) -> io::Result<()> {
        let mut file = File::create(self.filler())?;
        let mut lot = &[0; 1 << 20][..];
        while !lot.is_empty() {
            match file.write_all(lot) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => lot = &lot[..lot.len() / 2],
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes away what fills it.
    pub fn free(&self) {
        let _ = fs::remove_file(self.filler());
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what still has a file open there must not keep it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.mount).output();
    }
}

/// A file system of `shoal-lossy`, served by a process of its own. Unmounted when dropped.
#[derive(Debug)]
pub struct LossyDisk {
    mount: PathBuf,
    control: PathBuf,
    serving: Child,
}

impl LossyDisk {
    /// Mounts one within a folder that exists. Errors: why that cannot be.
    pub fn mount(folder: &Path) -> Result<Self, String> {
        let binary = shoal_binary().with_file_name("shoal-lossy");
        if !binary.exists() {
            return Err(format!("{} is missing (cargo build --release --bin shoal-lossy)", binary.display()));
        }
        let [backing, mount, control] = ["backing", "mount", "control"].map(|name| folder.join(name));
        for made in [&backing, &mount] {
            fs::create_dir_all(made).map_err(|error| format!("{}: {error}", made.display()))?;
        }
        let mut command = Command::new(binary);
        command.arg("mount").args([&backing, &mount]).arg("--control").arg(&control);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut serving = command.spawn().map_err(|error| format!("shoal-lossy does not start: {error}"))?;
        let mut line = String::new();
        let said = serving.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        let disk = Self { mount, control, serving };
        match said {
            Some(Ok(_)) if line.starts_with("mounted") => Ok(disk),
            _ => Err("shoal-lossy cannot mount a file system here".to_owned()),
        }
    }

    /// Tells it a command of `shoal-lossy`.
    ///
    /// Errors: it does not answer, or does not understand.
    pub fn tell(&self, command: &str) -> Result<(), String> {
        shoal_lossy::ask(&self.control, command).map(drop).map_err(|error| format!("{command}: {error}"))
    }

    /// Loses what was not synced, or of it what `seed` decides. Whoever used it must be gone.
    ///
    /// Errors: it does not answer.
    pub fn power_loss(&self, seed: u64, is_torn: bool) -> Result<(), String> {
        let torn = if is_torn { " torn" } else { "" };
        let asked = shoal_lossy::ask(&self.control, &format!("power-loss seed {seed}{torn}"));
        asked.map(drop).map_err(|error| format!("power loss: {error}"))
    }
}

impl Drop for LossyDisk {
    fn drop(&mut self) {
        // It unmounts, and gives up by itself on what is still open.
        let _ = kill_process(Pid::from_child(&self.serving), Signal::TERM);
        let asked = Instant::now();
        while matches!(self.serving.try_wait(), Ok(None)) && asked.elapsed() < UNMOUNT_WITHIN {
            thread::sleep(Duration::from_millis(10)); // polling a process for its end; nothing is synchronised by it
        }
        let _ = self.serving.kill();
        let _ = self.serving.wait();
    }
}
