//! Why a search gave no answer.

use shoal_model::{Classify, ErrorKind};

use crate::payload_index::PayloadIndexError;

/// Why the engine refused or gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// A query of another dimension than the index.
    #[error("vector has {got} dimensions, collection has {want}")]
    Dimension {
        /// What the index holds.
        want: u32,
        /// What was asked with.
        got: u32,
    },
    /// The caller's `stop` said so.
    #[error("search was cancelled")]
    Cancelled,
    /// A row is not what was written: the segment's file was damaged since it was opened.
    #[error("segment {segment:016x} was damaged since it was opened; ask another replica")]
    Damaged {
        /// Checksum of its graph.
        segment: u64,
    },
    /// A segment's payload index cannot be read, though its checksums hold.
    #[error(transparent)]
    PayloadIndex(PayloadIndexError),
}

impl Classify for IndexError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Dimension { .. } => ErrorKind::Invalid,
            Self::Cancelled => ErrorKind::Cancelled,
            // Another copy is sound.
            Self::Damaged { .. } => ErrorKind::Unavailable,
            Self::PayloadIndex(error) => error.kind(),
        }
    }

    fn field(&self) -> &str {
        match self {
            Self::Dimension { .. } => "vector",
            Self::Cancelled | Self::Damaged { .. } | Self::PayloadIndex(_) => "",
        }
    }
}
