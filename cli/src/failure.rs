//! How a command ends when it does not succeed: what happened, why, what to type next, and the exit code.

use std::fmt::Display;

use shoal_client::ClientError;
use shoal_model::{Classify as _, ErrorKind};

/// Exit codes other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It could not be done.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// It was not done in time.
    Timeout = 3,
    /// The cluster is out of reach.
    Unreachable = 6,
    /// It was done in part: some shards or queries did not answer.
    Partial = 7,
    /// It was told that the cluster has no quorum, or a shard that nobody serves.
    Unwell = 8,
    /// It was cut short by Ctrl-C or SIGTERM.
    Interrupted = 130,
}

/// Why a command did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The process ends with it.
    pub exit: Exit,
    /// What happened, and why.
    pub message: String,
    /// What to do next.
    pub next: Option<String>,
}

impl Failure {
    /// It could not be done.
    pub fn new(message: impl Display) -> Self {
        Self { exit: Exit::Failed, message: message.to_string(), next: None }
    }

    /// It ends with another exit code.
    #[must_use]
    pub fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// It names a next step.
    #[must_use]
    pub fn next(self, next: impl Display) -> Self {
        Self { next: Some(next.to_string()), ..self }
    }

    /// It says last what failed because of it.
    #[must_use]
    pub fn and(self, also: &Self) -> Self {
        Self { message: format!("{}; then: {}", self.message, also.message), ..self }
    }

    /// It says first what was being done.
    #[must_use]
    pub fn while_doing(self, what: impl Display) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let failure = Self::new(&error);
        match error.kind() {
            _ if matches!(error, ClientError::NotShoal { .. }) => {
                failure.next("name a router with --endpoint or SHOAL_ENDPOINT; `shoal up` starts a cluster here")
            }
            ErrorKind::Unavailable if matches!(error, ClientError::Unavailable { answered: true, .. }) => {
                failure.exit(Exit::Unreachable).next("`shoal status` shows what is down")
            }
            ErrorKind::Unavailable => failure
                .exit(Exit::Unreachable)
                .next("see whether the cluster runs (`shoal up` starts one here), or name another with --endpoint"),
            ErrorKind::DeadlineExceeded => {
                failure.exit(Exit::Timeout).next("`shoal status` shows what is wrong; --timeout allows more time")
            }
            ErrorKind::Overloaded => failure.next("try again in a moment"),
            ErrorKind::DiskFull => failure
                .next("make room on that disk (`shoal status` names it); writes are taken again by themselves then"),
            // Most who miss something say so themselves.
            ErrorKind::NotFound if !failure.message.contains(LIST) => {
                failure.next(format!("`{LIST}` shows what there is"))
            }
            _ => failure,
        }
    }
}

/// Lists what can be named.
const LIST: &str = "shoal collection ls";

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_proto::status::RemoteError;

    #[test]
    fn exit_codes_are_those_of_the_help() {
        for (kind, want) in [
            (ErrorKind::Invalid, 1),
            (ErrorKind::NotFound, 1),
            (ErrorKind::DeadlineExceeded, 3),
            (ErrorKind::Unavailable, 6),
            (ErrorKind::Internal, 1),
        ] {
            let error = RemoteError { kind, field: String::new(), message: "m".into() };
            assert_eq!(Failure::from(ClientError::Refused(error)).exit as i32, want, "{kind:?}");
        }
    }
}
