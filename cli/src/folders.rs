//! Where a user's files belong: the XDG base folders; and how notes are kept in a folder.

use std::env;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::failure::Failure;

/// Where data lives that stays: `$XDG_DATA_HOME/shoal`, else `~/.local/share/shoal`.
pub(crate) fn data() -> Result<PathBuf, Failure> {
    folder("XDG_DATA_HOME", ".local/share").map_err(|failure| failure.next("name a folder with --data"))
}

/// Where notes live that may go: `$XDG_STATE_HOME/shoal`, else `~/.local/state/shoal`.
pub(crate) fn state() -> Result<PathBuf, Failure> {
    folder("XDG_STATE_HOME", ".local/state").map_err(|failure| failure.next("name a file with --state"))
}

/// Writes a file of notes so that after a crash the folder has either the file before or this one, whole.
pub(crate) fn write_json(folder: &Path, name: &str, notes: &impl Serialize) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer_pretty(&mut file, notes)?;
    file.flush()?;
    // A name must not come before what it names: after a power cut the file would be refused.
    file.as_file().sync_all()?;
    file.persist(folder.join(name))?;
    File::open(folder)?.sync_all()
}

fn folder(variable: &str, below_home: &str) -> Result<PathBuf, Failure> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home)));
    let missing = || Failure::new(format!("neither {variable} nor HOME names a folder for files of this user"));
    base.map(|base| base.join("shoal")).ok_or_else(missing)
}
