//! Where a node's data is: what can be done to it is a kind of its own.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder for a coordinator's or node's data that is more than a folder.
#[derive(Debug)]
pub enum DataFolder {
    /// On a disk so small that it can be filled.
    Small(SmallDisk),
}

impl DataFolder {
    /// What the process is told.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Small(disk) => disk.mount.join("data"),
        }
    }

    /// The disk that can be filled, if it is one.
    #[must_use]
    pub fn small_disk(&self) -> Option<&SmallDisk> {
        match self {
            Self::Small(disk) => Some(disk),
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
        let _ = std::fs::remove_file(self.filler());
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
