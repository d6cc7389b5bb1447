//! What can be wrong with a segment file, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use shoal_model::{Classify, ErrorKind};

use super::Tag;

/// A fault, and the file it was met at.
#[derive(Debug, thiserror::Error)]
#[error("segment file {}: {fault}", path.display())]
pub struct FileError {
    /// The file; for an image that was never one, what stands for its name.
    pub path: PathBuf,
    /// What is wrong.
    pub fault: Fault,
}

impl FileError {
    pub(super) fn at(path: &Path) -> impl Fn(Fault) -> Self {
        move |fault| Self { path: path.to_owned(), fault }
    }

    /// Whether the file itself is useless, and is to be set aside and fetched again or rebuilt.
    ///
    /// All else may pass: the disk gets room, memory is freed, a device answers again.
    #[must_use]
    pub fn is_bad_file(&self) -> bool {
        use Fault::{DiskFull, Io, Missing, NoMemory, WriterFailed};
        !matches!(self.fault, DiskFull { .. } | Io { .. } | Missing | NoMemory { .. } | WriterFailed)
    }
}

/// What is wrong with a segment file.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No such file.
    #[error("is not there; fetch or rebuild it")]
    Missing,
    /// No room, or no more quota.
    #[error("no room on the disk, free some and retry: {error}")]
    DiskFull {
        /// What the system said.
        error: io::Error,
    },
    /// Memory for a resident image cannot be had.
    #[error("no memory for {bytes} bytes, free some and retry, or open it mapped: {error}")]
    NoMemory {
        /// Length of the image.
        bytes: u64,
        /// What the system said.
        error: io::Error,
    },
    /// The system refused something else.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// A writer was used on after it had failed.
    #[error("its writer failed before, start again")]
    WriterFailed,
    /// Does not begin as a segment does.
    #[error("is not a segment")]
    Foreign,
    /// A segment of a format that this build does not read.
    #[error("has format version {got}, this build reads {want}; rebuild it")]
    Version {
        /// The file's.
        got: u32,
        /// Ours.
        want: u32,
    },
    /// Shorter than its header, or than its header says.
    #[error("is truncated to {got} of {want} bytes; fetch or rebuild it")]
    Truncated {
        /// Bytes that it should have.
        want: u64,
        /// Bytes that it has.
        got: u64,
    },
    /// Longer than its header says.
    #[error("has {got} bytes instead of {want}; fetch or rebuild it")]
    Overlong {
        /// Bytes that it should have.
        want: u64,
        /// Bytes that it has.
        got: u64,
    },
    /// The header is not what was written.
    #[error("header is damaged; fetch or rebuild it")]
    HeaderDamaged,
    /// The header is what was written, and no [`super::ImageWriter`] wrote it.
    #[error("header is malformed: {problem}; fetch or rebuild it")]
    HeaderMalformed {
        /// The rule that it breaks.
        problem: &'static str,
    },
    /// The checksums are not what was written.
    #[error("checksums are damaged; fetch or rebuild it")]
    ChecksumsDamaged,
    /// A block is not what was written.
    #[error("block {block}, the 256 KiB from byte {offset}, is damaged; fetch or rebuild it")]
    Damaged {
        /// Number of the block.
        block: usize,
        /// Where it starts in the file.
        offset: u64,
    },
    /// A sound file, but not the one that was asked for.
    #[error("has checksum {got:016x} where {want:016x} was expected; fetch or rebuild it")]
    Unexpected {
        /// The checksum asked for.
        want: u64,
        /// The file's.
        got: u64,
    },
    /// A section that its reader cannot do without is not there.
    #[error("has no section {:?}; rebuild it", tag.escape_ascii().to_string())]
    NoSection {
        /// Name of the section.
        tag: Tag,
    },
    /// A section is no whole number of what its reader takes it for.
    #[error(
        "section {:?} of {length} bytes does not divide into items of {item}; rebuild it",
        tag.escape_ascii().to_string()
    )]
    SectionShape {
        /// Name of the section.
        tag: Tag,
        /// Bytes that it has.
        length: usize,
        /// Bytes of an item.
        item: usize,
    },
    /// A section or the parameters are what was written, and no build writes that.
    #[error("is malformed: {problem}; rebuild it")]
    Malformed {
        /// The rule that it breaks.
        problem: &'static str,
    },
}

impl Fault {
    /// Sorts what the system said by what can be done about it.
    pub(super) fn io(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { error },
            _ => Self::Io { action, error },
        }
    }
}

impl Classify for FileError {
    fn kind(&self) -> ErrorKind {
        match self.fault {
            Fault::Missing => ErrorKind::NotFound,
            Fault::DiskFull { .. } => ErrorKind::DiskFull,
            Fault::NoMemory { .. } => ErrorKind::Overloaded,
            Fault::Io { .. } | Fault::WriterFailed => ErrorKind::Internal,
            Fault::Version { .. } => ErrorKind::Precondition,
            Fault::Foreign
            | Fault::Truncated { .. }
            | Fault::Overlong { .. }
            | Fault::HeaderDamaged
            | Fault::HeaderMalformed { .. }
            | Fault::ChecksumsDamaged
            | Fault::Damaged { .. }
            | Fault::Unexpected { .. }
            | Fault::NoSection { .. }
            | Fault::SectionShape { .. }
            | Fault::Malformed { .. } => ErrorKind::Corruption,
        }
    }
}
