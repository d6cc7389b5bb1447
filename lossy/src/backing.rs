//! The folder on a real file system that holds what is durable, under the names that are durable.
//!
//! Content without a durable name (synced before its folder was, or removed while open) waits in a folder of its own.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::journal::Ino;

/// The one name in the root that processes can neither see nor use.
pub(crate) const NAMELESS: &str = ".lossy-nameless";

pub(crate) struct Backing {
    root: PathBuf,
}

impl Backing {
    /// Opens the folder and drops content without a name that an earlier run left.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let backing = Self { root: root.canonicalize()? };
        backing.clear_nameless()?;
        Ok(backing)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the content of `ino` is while it has no durable name.
    pub(crate) fn nameless(&self, ino: Ino) -> PathBuf {
        self.root.join(NAMELESS).join(ino.to_string())
    }

    pub(crate) fn clear_nameless(&self) -> io::Result<()> {
        self.close()?;
        fs::create_dir(self.root.join(NAMELESS))
    }

    /// Leaves nothing but what is durable.
    pub(crate) fn close(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.root.join(NAMELESS)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Opens a file, and makes it if there is none and it `may_create`.
pub(crate) fn open_file(path: &Path, may_create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(may_create).truncate(false).open(path)
}

pub(crate) fn create_file(path: &Path, mode: u32) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    set_mode(path, mode) // the umask of this process has no say
}

pub(crate) fn create_folder(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    set_mode(path, mode)
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Removes a file that may not be there.
pub(crate) fn remove_file_if_any(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
