//! Why a search gave no answer.

use shoal_model::{Classify, ErrorKind};

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
}

impl Classify for IndexError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Dimension { .. } => ErrorKind::Invalid,
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }

    fn field(&self) -> &str {
        match self {
            Self::Dimension { .. } => "vector",
            Self::Cancelled => "",
        }
    }
}
