//! The disk port: ordered tables of bytes behind one write-ahead log.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use shoal_model::failpoints::Injected;
use shoal_model::{Classify, ErrorKind};

use crate::Space;

/// The tables of a store. Each is ordered by key, and all share one write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Identity of the process, hard state and membership of groups, applied positions.
    Meta,
    /// Entries of Raft logs.
    Log,
    /// Vectors of points.
    Vectors,
    /// Payload of points.
    Payload,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 4] = [Self::Meta, Self::Log, Self::Vectors, Self::Payload];

    /// Stable name on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Log => "log",
            Self::Vectors => "vectors",
            Self::Payload => "payload",
        }
    }
}

/// One change of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets `key` to `value`.
    Put {
        /// Where.
        table: Table,
        /// Under what.
        key: Bytes,
        /// What.
        value: Bytes,
    },
    /// Removes `key`.
    Delete {
        /// Where.
        table: Table,
        /// What.
        key: Bytes,
    },
    /// Removes every key from `from` up to, not including, `to`.
    DeleteRange {
        /// Where.
        table: Table,
        /// First key.
        from: Bytes,
        /// First key that stays.
        to: Bytes,
    },
}

/// Changes that happen together or not at all, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes.
    pub writes: Vec<Write>,
}

impl Batch {
    /// Sets `key` to `value`.
    pub fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.push(Write::Put { table, key: key.into(), value: value.into() });
    }

    /// Removes `key`.
    pub fn delete(&mut self, table: Table, key: impl Into<Bytes>) {
        self.writes.push(Write::Delete { table, key: key.into() });
    }

    /// Removes every key from `from` up to, not including, `to`.
    pub fn delete_range(&mut self, table: Table, from: impl Into<Bytes>, to: impl Into<Bytes>) {
        self.writes.push(Write::DeleteRange { table, from: from.into(), to: to.into() });
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Appends the changes of `other`.
    pub fn append(&mut self, mut other: Self) {
        self.writes.append(&mut other.writes);
    }
}

/// Why the disk did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Stored bytes do not read back as they were written.
    #[error("corruption in {place}: {detail}")]
    Corruption {
        /// Table or file.
        place: String,
        /// What the store said.
        detail: String,
    },
    /// The disk is full. Nothing was written.
    #[error("disk is full: {detail}")]
    Full {
        /// What the store said.
        detail: String,
    },
    /// Another process has the folder open.
    #[error("{path} is in use by another process")]
    InUse {
        /// The folder.
        path: String,
    },
    /// A checkpoint was written to.
    #[error("a checkpoint cannot be written to")]
    ReadOnly,
    /// Anything else.
    #[error("disk failed: {detail}")]
    Io {
        /// What the store said.
        detail: String,
    },
}

impl From<Injected> for StoreError {
    fn from(injected: Injected) -> Self {
        Self::Io { detail: injected.to_string() }
    }
}

impl Classify for StoreError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Corruption { .. } => ErrorKind::Corruption,
            Self::Full { .. } => ErrorKind::DiskFull,
            Self::InUse { .. } => ErrorKind::Precondition,
            Self::ReadOnly | Self::Io { .. } => ErrorKind::Internal,
        }
    }
}

/// What [`Store::verify`] found and mended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Where the write-ahead log was not as it was written. What it held was in memory, and is in tables now.
    pub log_damage: Option<String>,
}

/// Called with key and value of each pair of a scan, until it breaks.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Ordered tables of bytes.
///
/// A write can be read at once, but survives a crash only after a [`Store::sync`] that began after it returned.
/// What survives is always a prefix of the batches written, each whole.
pub trait Store: Send + Sync + 'static {
    /// The value of `key`.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Shows the pairs with `from <= key < to` in order of their keys, until `visit` breaks.
    ///
    /// All pairs are of one moment.
    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// Writes a batch, whole and in order.
    fn write(&self, batch: Batch) -> Result<(), StoreError>;

    /// Returns once every batch written before is on disk.
    ///
    /// After `Full` they are not, as the log could not be written on for want of room: once a write succeeds again, so does
    /// this. After any other error nothing is known of what is on disk: the process must end.
    fn sync(&self) -> Result<(), StoreError>;

    /// What the store holds at this moment, to be read for as long as it is wanted, whatever is written meanwhile.
    /// Nothing can be written to it. It goes when it is dropped.
    fn checkpoint(&self) -> Result<Arc<dyn Store>, StoreError>;

    /// Reads all that is stored from where it lies, past what is kept in memory, and checks it, while the store is used.
    /// `went` is told how many bytes it went on, may wait, and ends it by breaking.
    ///
    /// Errors: `Corruption` if something does not read back as it was written. A store without files has nothing to check.
    fn verify(&self, went: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Verified, StoreError> {
        let _ = went(0);
        Ok(Verified::default())
    }

    /// Gives back at once the room of keys with `from <= key < to`, which would else go back in the course of other writes.
    /// All of them were removed in a batch that was synced, and none is written again, ever. May take seconds.
    fn give_back(&self, table: Table, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        let _ = (table, from, to);
        Ok(())
    }

    /// Bytes on disk, about; 0 for a store that has none.
    fn disk_bytes(&self) -> u64 {
        0
    }

    /// Room on the disk that it is on; `None` for a store that has none.
    ///
    /// Errors: the system does not tell.
    fn space(&self) -> Result<Option<Space>, StoreError> {
        Ok(None)
    }
}
