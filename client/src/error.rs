//! What can go wrong with a call, and what its caller can do about it.

use std::error::Error as _;
use std::time::Duration;

use shoal_model::{Classify, ErrorKind, InputError};
use shoal_proto::status::{RemoteError, from_status, innermost};
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
    #[error("{endpoints} did not serve the call ({} in {:.2} s); the last answer was: {last}", count_of(*.attempts), .waited.as_secs_f64())]
    Unavailable {
        /// Those that were asked.
        endpoints: String,
        /// How many times the call was sent.
        attempts: u32,
        /// How long that took.
        waited: Duration,
        /// What the last attempt met; its kind is this error's kind.
        last: RemoteError,
        /// Whether anything answered: then the endpoint lives, and something behind it does not.
        answered: bool,
    },
    /// The deadline passed before an answer came. A write may or may not have happened.
    #[error("no answer from {endpoint} within {timeout:?}")]
    DeadlineExceeded {
        /// Who was asked last.
        endpoint: String,
        /// The time that the call was given.
        timeout: Duration,
    },
    /// What listens there does not serve the call, or does not speak gRPC.
    #[error("{endpoint} is not a Shoal router: {problem}")]
    NotShoal {
        /// Who was asked.
        endpoint: String,
        /// What shows it.
        problem: String,
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
            Self::NotShoal { .. } => ErrorKind::Unimplemented,
        }
    }

    fn field(&self) -> &str {
        match self {
            Self::Input(error) => error.field(),
            Self::Refused(error) | Self::Unavailable { last: error, .. } => &error.field,
            Self::DeadlineExceeded { .. } | Self::Malformed(_) | Self::NotShoal { .. } => "",
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
pub(crate) struct Met {
    pub(crate) error: RemoteError,
    /// Whether the other side said it.
    pub(crate) answered: bool,
    /// Whether nobody listens there.
    pub(crate) refused: bool,
    /// What shows that the other side is not a router of Shoal, if anything does.
    pub(crate) not_shoal: Option<String>,
}

/// What one attempt met.
///
/// A status that was made on this side (it has a source) tells of the connection and not of the call, whatever its
/// code: a process that dies shows as `Unknown`, `Internal` or `Cancelled`. All calls can be repeated, so each of
/// these is [`ErrorKind::Unavailable`].
pub(crate) fn classify(status: &Status) -> Met {
    let mut error = from_status(status);
    let broken = matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled | Code::Unavailable);
    if let Some(source) = status.source().filter(|_| broken) {
        error.kind = ErrorKind::Unavailable;
        let cause = innermost(source);
        error.message = format!("connection failed: {cause}");
        let io = cause.downcast_ref::<std::io::Error>();
        let refused = io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused);
        let not_shoal = cause.to_string().ends_with(NOT_HTTP2).then(|| "it does not speak HTTP/2".to_owned());
        return Met { error, answered: false, refused, not_shoal };
    }
    let not_shoal = match status.code() {
        // What a Shoal process does not serve yet, it says in words.
        Code::Unimplemented if status.message().is_empty() => Some("it does not serve this call".to_owned()),
        Code::Unavailable => None, // a proxy before a router that is down
        _ if status.message().starts_with(NOT_GRPC) => Some("its answer is not gRPC".to_owned()),
        _ => None,
    };
    Met { error, answered: true, refused: false, not_shoal }
}

/// What the HTTP/2 library says of the first bytes of an answer in HTTP/1.
const NOT_HTTP2: &str = "frame with invalid size";
/// How the gRPC library begins what it says of an HTTP answer without a gRPC status.
const NOT_GRPC: &str = "grpc-status header missing";

/// So many attempts, in words.
fn count_of(attempts: u32) -> String {
    format!("{attempts} attempt{}", if attempts == 1 { "" } else { "s" })
}

/// A part of an answer that does not read as the API says.
pub(crate) fn malformed(error: &InputError) -> ClientError {
    ClientError::Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_and_time_read_as_a_person_would_write_them() {
        for (attempts, want) in [(1, "(1 attempt in 9.99 s)"), (2, "(2 attempts in 9.99 s)")] {
            let last = RemoteError { kind: ErrorKind::Unavailable, field: String::new(), message: "x".into() };
            let endpoints = "http://127.0.0.1:1".to_owned();
            let waited = Duration::from_nanos(9_990_121_214);
            let error = ClientError::Unavailable { endpoints, attempts, waited, last, answered: false };
            assert!(error.to_string().contains(want), "{error}");
        }
    }
}
