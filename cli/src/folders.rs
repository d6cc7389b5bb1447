//! Where a user's files belong: the XDG base folders.

use std::env;
use std::path::PathBuf;

use crate::failure::Failure;

/// Where data lives that stays: `$XDG_DATA_HOME/shoal`, else `~/.local/share/shoal`.
pub(crate) fn data() -> Result<PathBuf, Failure> {
    folder("XDG_DATA_HOME", ".local/share").map_err(|failure| failure.next("name a folder with --data"))
}

/// Where notes live that may go: `$XDG_STATE_HOME/shoal`, else `~/.local/state/shoal`.
pub(crate) fn state() -> Result<PathBuf, Failure> {
    folder("XDG_STATE_HOME", ".local/state").map_err(|failure| failure.next("name a file with --state"))
}

fn folder(variable: &str, below_home: &str) -> Result<PathBuf, Failure> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home)));
    let missing = || Failure::new(format!("neither {variable} nor HOME names a folder for files of this user"));
    base.map(|base| base.join("shoal")).ok_or_else(missing)
}
