//! A file system that behaves as a disk under power loss and faults, for tests of what runs on it.
//!
//! [`Lossy`] mounts it by FUSE over a backing folder. What processes write stays in memory until they sync it; the
//! backing folder holds what a power loss would leave, under the names it would leave. [`Controls`] cut the power, flip
//! bits, let operations fail or wait, and fill the disk; the binary takes the same as text on a socket
//! ([`COMMANDS`]). Every choice of chance follows from a seed, which is printed.
//!
//! - **Content** is durable once `fsync` or `fdatasync` of the file has returned. A torn power loss keeps some pages or
//!   sectors of the rest. After a sync that failed, pages are clean and yet not on disk, as on Linux: a second sync
//!   succeeds and makes nothing durable.
//! - **Names** are durable by [`Metadata`]. Sizes go with the content.
//! - **A power loss** ends handles: writes and syncs through one that was open fail with `EIO`, reads and mappings see
//!   what is left. The kernel's cache is dropped.
//! - **An orderly end** (drop, `SIGTERM`) makes everything durable. If the serving process is killed instead, that is
//!   a power loss, and a child that waits for it unmounts.
//!
//! Not modelled: writing back by time, so what is never synced survives only a torn loss; `sync(2)` and `syncfs`, which
//! FUSE does not pass on; hard and symbolic links and extended attributes, which are refused; times, which are never
//! durable; modes, which are durable at once; holes punched by `fallocate`; a device that loses what it said was synced;
//! the order in which a torn loss lets content and names reach the disk, which is any; that ext4 writes out a file that is
//! renamed over another; users other than the one that mounts. The backing folder is not synced itself: the machine must
//! not really lose power.
//!
//! The serving process should not be the one that maps files or waits for the disk while it exits: the kernel may then
//! wait for threads that are gone. Tests may serve and use it in one process if they end in order; longer runs
//! take the binary.
//!
//! Does not know about: what is stored, RocksDB and segments among it.

mod backing;
mod cache;
mod command;
mod control;
mod controls;
mod disk;
mod faults;
mod filesystem;
mod journal;
mod mount;
mod power_loss;

use std::io;

pub use command::{COMMANDS, Command};
pub use control::ask;
pub use controls::{Controls, Stats};
pub use disk::Metadata;
pub use faults::{Fault, Op};
pub use mount::Lossy;
pub use power_loss::{Loss, PowerLoss, Tear};

/// Why the disk cannot be had, or did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum LossyError {
    /// This machine or user cannot mount FUSE file systems.
    #[error("no FUSE here: {reason}")]
    Unavailable {
        /// What is missing.
        reason: String,
    },
    /// A command that makes no sense.
    #[error("{reason}; the commands are:\n{COMMANDS}")]
    Command {
        /// What is wrong with it.
        reason: String,
    },
    /// What the other end of the socket answered.
    #[error("refused: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// Anything else.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl LossyError {
    fn command(reason: String) -> Self {
        Self::Command { reason }
    }

    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}
