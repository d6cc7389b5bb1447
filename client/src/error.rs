//! What can go wrong with a call, and what its caller can do about it.

use std::error::Error as _;
use std::time::Duration;

use shoal_model::{Classify, ErrorKind, InputError};
use shoal_proto::status::{RemoteError, from_status};
use tonic::{Code, Status};

/// Why a call did not succeed. [`Classify::kind`] tells what can be done, [`Classify::field`] what was wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The client was given something that it cannot send.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The cluster refused the call, or could not carry it out.
    #[error(transparent)]
    Refused(RemoteError),
    /// No endpoint could serve it for as long as the call was allowed to take.
    #[error("{endpoints} did not serve the call ({attempts} attempts in {waited:?}); the last answer was: {last}")]
    Unavailable {
        /// Those that were asked.
        endpoints: String,
        /// How many times the call was sent.
        attempts: u32,
        /// How long that took.
        waited: Duration,
        /// What the last attempt met; its kind is this error's kind.
        last: RemoteError,
    },
    /// The deadline passed before an answer came. A write may or may not have happened.
    #[error("no answer from {endpoint} within {timeout:?}")]
    DeadlineExceeded {
        /// Who was asked last.
        endpoint: String,
        /// The time that the call was given.
        timeout: Duration,
    },
    /// The answer is not what the API promises: the other side is of another version, or not Shoal.
    #[error("malformed answer: {0}")]
    Malformed(String),
}

impl Classify for ClientError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Input(error) => error.kind(),
            Self::Refused(error) | Self::Unavailable { last: error, .. } => error.kind,
            Self::DeadlineExceeded { .. } => ErrorKind::DeadlineExceeded,
            Self::Malformed(_) => ErrorKind::Internal,
        }
    }

    fn field(&self) -> &str {
        match self {
            Self::Input(error) => error.field(),
            Self::Refused(error) | Self::Unavailable { last: error, .. } => &error.field,
            Self::DeadlineExceeded { .. } | Self::Malformed(_) => "",
        }
    }
}

impl ClientError {
    /// Whether the same call may succeed later, with nothing changed by its caller.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        is_transient(self.kind()) || self.kind() == ErrorKind::DeadlineExceeded
    }
}

/// Whether another attempt, here or at another endpoint, may succeed.
pub(crate) fn is_transient(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Overloaded)
}

/// What one attempt met.
///
/// A status that was made on this side (it has a source) tells of the connection and not of the call, whatever its
/// code: a process that dies shows as `Unknown`, `Internal` or `Cancelled`. All calls can be repeated, so each of
/// these is [`ErrorKind::Unavailable`].
pub(crate) fn classify(status: &Status) -> RemoteError {
    let mut error = from_status(status);
    let broken = matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled | Code::Unavailable);
    if let Some(source) = status.source().filter(|_| broken) {
        error.kind = ErrorKind::Unavailable;
        error.message = format!("connection failed: {}", innermost(source));
    }
    error
}

/// The first cause, which says most: "connection refused" rather than "transport error".
fn innermost<'a>(mut error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// A part of an answer that does not read as the API says.
pub(crate) fn malformed(error: &InputError) -> ClientError {
    ClientError::Malformed(error.to_string())
}
