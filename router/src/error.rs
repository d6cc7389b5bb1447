//! Everything that can go wrong on a router.

use std::sync::Arc;

use shoal_model::{Classify, ErrorKind, InputError, TokenError};
use shoal_proto::server::ServerError;
use shoal_proto::status::RemoteError;
use shoal_runtime::TaskError;

use crate::fanout::{Gap, Outcome};

/// Why a router could not start, go on or answer.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// The configuration or a request breaks a rule.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The consistency token is not one of ours.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// There is no such collection.
    #[error("collection {name:?} does not exist; list them with `shoal collection ls`")]
    UnknownCollection {
        /// The name asked for.
        name: String,
    },
    /// Part of the API, not served yet.
    #[error("{what} is part of the API but not served yet")]
    NotServedYet {
        /// The call or field.
        what: String,
    },
    /// As many requests are under way as are allowed.
    #[error("{max} requests are under way, which is the cap of this router; try again shortly")]
    TooManyRequests {
        /// The cap.
        max: u32,
    },
    /// So many requests name unknown collections that the coordinators are spared for a while.
    #[error("too many requests name collections that this router does not know; try again shortly")]
    TooManyUnknown,
    /// No coordinator was heard yet.
    #[error(
        "no cluster map yet: no coordinator has answered this router since it started; see that one of {coordinators} runs and is reached from here"
    )]
    NoMap {
        /// Where they should be.
        coordinators: String,
    },
    /// No coordinator answered in time.
    #[error("whether there is such a collection is not known: {reason}")]
    NoCoordinator {
        /// What the last one asked said.
        reason: String,
    },
    /// Too few shards answered.
    #[error("{answered} of {asked} shards answered, {doing}; {first}")]
    Coverage {
        /// What the most telling gap says can be done.
        kind: ErrorKind,
        /// What was done.
        doing: &'static str,
        /// Shards that answered.
        answered: usize,
        /// Shards asked.
        asked: usize,
        /// The most telling gap, in words.
        first: String,
    },
    /// A node or coordinator answered with an error.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// What several searches of a batch have met together.
    #[error(transparent)]
    Shared(Arc<RouterError>),
    /// A node's answer breaks the protocol.
    #[error("a node's answer is malformed: {0}")]
    Malformed(InputError),
    /// The server could not start or failed.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A task panicked or did not end.
    #[error(transparent)]
    Task(#[from] TaskError),
}

impl Classify for RouterError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Input(error) => error.kind(),
            Self::Token(error) => error.kind(),
            Self::Remote(error) => error.kind(),
            Self::Shared(error) => error.kind(),
            Self::UnknownCollection { .. } => ErrorKind::NotFound,
            Self::NotServedYet { .. } => ErrorKind::Unimplemented,
            Self::TooManyRequests { .. } | Self::TooManyUnknown => ErrorKind::Overloaded,
            Self::NoMap { .. } | Self::NoCoordinator { .. } => ErrorKind::Unavailable,
            Self::Coverage { kind, .. } => *kind,
            Self::Malformed(_) | Self::Server(_) | Self::Task(_) => ErrorKind::Internal,
        }
    }

    fn field(&self) -> &str {
        match self {
            Self::Input(error) => error.field(),
            Self::Token(_) => "consistency.tokens",
            Self::Remote(error) => error.field(),
            Self::Shared(error) => error.field(),
            Self::UnknownCollection { .. } => "collection",
            _ => "",
        }
    }
}

impl RouterError {
    /// Something that the API names and no one serves yet.
    pub(crate) fn not_served(what: impl Into<String>) -> Self {
        Self::NotServedYet { what: what.into() }
    }

    /// Too few shards answered: told by the gap that leaves a client the least to do.
    pub(crate) fn coverage(doing: &'static str, answered: usize, asked: usize, gaps: &[Gap]) -> Self {
        let telling = |gap: &&Gap| match gap.failure.cause.kind() {
            ErrorKind::Internal => 0,
            ErrorKind::DiskFull => 1,
            ErrorKind::Overloaded => 2,
            ErrorKind::Unavailable => 3,
            _ => 4,
        };
        let first = gaps.iter().min_by_key(telling);
        Self::Coverage {
            kind: first.map_or(ErrorKind::Internal, |gap| gap.failure.cause.kind()),
            doing,
            answered,
            asked,
            first: first.map(|gap| format!("shard {}: {}", gap.shard, gap.failure)).unwrap_or_default(),
        }
    }
}

/// The gaps of an outcome that is an answer, or the error that it is.
pub(crate) fn gaps_or_error(
    outcome: Outcome,
    collection: &str,
    doing: &'static str,
    asked: usize,
) -> Result<Vec<Gap>, RouterError> {
    match outcome {
        Outcome::Answered { gaps } => Ok(gaps),
        Outcome::TooFew { answered, gaps } => Err(RouterError::coverage(doing, answered, asked, &gaps)),
        Outcome::CollectionGone => Err(RouterError::UnknownCollection { name: collection.to_owned() }),
        Outcome::Refused(failure) => Err(RouterError::Remote(RemoteError {
            kind: ErrorKind::Invalid,
            field: String::new(),
            message: failure.message,
        })),
    }
}
