//! The one place that names gRPC codes: errors become statuses here, and statuses errors.
//!
//! A status carries the error's kind as `ErrorInfo.reason` (domain `shoal`) and the wrong field, if any, as a
//! `BadRequest` violation, so that clients in any language read both without parsing text.

use std::collections::HashMap;
use std::time::Duration;

use shoal_model::{Classify, ErrorKind};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::v1;

const DOMAIN: &str = "shoal";

/// An error that came over the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RemoteError {
    /// What can be done about it.
    pub kind: ErrorKind,
    /// The field that is wrong, or empty.
    pub field: String,
    /// What the other side said.
    pub message: String,
}

impl Classify for RemoteError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }

    fn field(&self) -> &str {
        &self.field
    }
}

/// The kinds with their code and stable name. A stale epoch or a wrong leader is `FailedPrecondition` between
/// processes; routers resolve it, and no client sees one.
const KINDS: [(ErrorKind, Code, &str); 14] = [
    (ErrorKind::Invalid, Code::InvalidArgument, "INVALID"),
    (ErrorKind::NotFound, Code::NotFound, "NOT_FOUND"),
    (ErrorKind::AlreadyExists, Code::AlreadyExists, "ALREADY_EXISTS"),
    (ErrorKind::Precondition, Code::FailedPrecondition, "PRECONDITION"),
    (ErrorKind::StaleEpoch, Code::FailedPrecondition, "STALE_EPOCH"),
    (ErrorKind::NotLeader, Code::FailedPrecondition, "NOT_LEADER"),
    (ErrorKind::Overloaded, Code::ResourceExhausted, "OVERLOADED"),
    (ErrorKind::DiskFull, Code::ResourceExhausted, "DISK_FULL"),
    (ErrorKind::DeadlineExceeded, Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (ErrorKind::Cancelled, Code::Cancelled, "CANCELLED"),
    (ErrorKind::Unavailable, Code::Unavailable, "UNAVAILABLE"),
    (ErrorKind::Unimplemented, Code::Unimplemented, "UNIMPLEMENTED"),
    (ErrorKind::Corruption, Code::DataLoss, "CORRUPTION"),
    (ErrorKind::Internal, Code::Internal, "INTERNAL"),
];

/// Time after which a caller that was pushed back may try again.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// The status that tells `error` to a caller.
pub fn to_status(error: &impl Classify) -> Status {
    let kind = error.kind();
    let (code, name) = KINDS
        .iter()
        .find(|(candidate, ..)| *candidate == kind)
        .map_or((Code::Internal, "INTERNAL"), |(_, code, name)| (*code, *name));
    let message = shortened(&error.to_string());
    let mut details = ErrorDetails::new();
    details.set_error_info(name, DOMAIN, HashMap::new());
    if !error.field().is_empty() {
        details.add_bad_request_violation(shortened(error.field()), message.clone());
    }
    if kind == ErrorKind::Overloaded {
        details.set_retry_info(Some(RETRY_DELAY));
    }
    Status::with_error_details(code, message, details)
}

/// Statuses travel in headers, which peers cap, and a text may quote what a client sent.
fn shortened(text: &str) -> String {
    const MAX: usize = 1_024;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The stable name of a kind, as statuses carry it and metrics count it.
#[must_use]
pub fn kind_name(kind: ErrorKind) -> &'static str {
    KINDS.iter().find(|(candidate, ..)| *candidate == kind).map_or("INTERNAL", |(.., name)| *name)
}

/// The first cause, which says most: "connection refused" rather than "transport error".
#[must_use]
pub fn innermost<'a>(mut error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// What a status tells. One that Shoal did not make is classified by its code.
#[must_use]
pub fn from_status(status: &Status) -> RemoteError {
    let details = status.get_error_details();
    let named = details.error_info().filter(|info| info.domain == DOMAIN).map(|info| info.reason.as_str());
    let kind = match named.and_then(|reason| KINDS.iter().find(|(.., name)| *name == reason)) {
        Some((kind, ..)) => *kind,
        None => from_code(status.code()),
    };
    let violation = details.bad_request().and_then(|bad| bad.field_violations.first());
    RemoteError {
        kind,
        field: violation.map(|violation| violation.field.clone()).unwrap_or_default(),
        message: status.message().to_owned(),
    }
}

fn from_code(code: Code) -> ErrorKind {
    match code {
        Code::Ok | Code::Unknown => ErrorKind::Unavailable,
        Code::OutOfRange => ErrorKind::Invalid,
        Code::Aborted => ErrorKind::Unavailable,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Precondition,
        code => KINDS.iter().find(|(_, c, _)| *c == code).map_or(ErrorKind::Internal, |(kind, ..)| *kind),
    }
}

/// What went wrong with one search of a batch, for its caller.
pub fn to_search_failure(error: &impl Classify) -> v1::SearchFailure {
    let status = to_status(error);
    let code = u32::try_from(i32::from(status.code())).unwrap_or_default();
    v1::SearchFailure { code, message: status.message().to_owned(), field: shortened(error.field()) }
}

/// What a search of a batch tells.
#[must_use]
pub fn from_search_failure(failure: v1::SearchFailure) -> RemoteError {
    let code = i32::try_from(failure.code).map_or(Code::Unknown, Code::from_i32);
    RemoteError { kind: from_code(code), field: failure.field, message: failure.message }
}

/// The status of a call that exists in the API and is not served yet.
#[must_use]
pub fn not_served_yet(what: &str) -> Status {
    to_status(&RemoteError {
        kind: ErrorKind::Unimplemented,
        field: String::new(),
        message: format!("{what} is part of the API but not served yet"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_model::InputError;

    #[test]
    fn every_kind_survives_the_wire() {
        for (kind, code, name) in KINDS {
            let error = RemoteError { kind, field: "a.b".into(), message: "what is wrong".into() };
            let status = to_status(&error);
            assert_eq!(status.code(), code, "{name}");
            assert_eq!(from_status(&status), error, "{name}");
        }
    }

    #[test]
    fn only_those_who_may_retry_soon_are_told_when() {
        for (kind, want) in [(ErrorKind::Overloaded, Some(RETRY_DELAY)), (ErrorKind::DiskFull, None)] {
            let status = to_status(&RemoteError { kind, field: String::new(), message: "no".into() });
            let told = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
            assert_eq!((status.code(), told), (Code::ResourceExhausted, want), "{kind:?}");
        }
    }

    #[test]
    fn failures_in_a_batch_tell_what_can_be_done() {
        for kind in [ErrorKind::Invalid, ErrorKind::NotFound, ErrorKind::Overloaded, ErrorKind::DeadlineExceeded] {
            let error = RemoteError { kind, field: "vector[1]".into(), message: "what is wrong".into() };
            assert_eq!(from_search_failure(to_search_failure(&error)), error);
        }
    }

    #[test]
    fn the_wrong_field_is_named() {
        let status = to_status(&InputError::new("points[3].vector", "has 2 dimensions, collection has 3"));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "points[3].vector: has 2 dimensions, collection has 3");
        assert_eq!(from_status(&status).field, "points[3].vector");
    }

    #[test]
    fn long_texts_are_cut() {
        let status = to_status(&InputError::new("f".repeat(10_000), "é".repeat(10_000)));
        assert!(status.message().len() < 5_000 && from_status(&status).field.len() < 5_000);
    }

    #[test]
    fn foreign_statuses_are_classified_by_code() {
        for (code, want) in [
            (Code::Unavailable, ErrorKind::Unavailable),
            (Code::Cancelled, ErrorKind::Cancelled),
            (Code::FailedPrecondition, ErrorKind::Precondition),
            (Code::ResourceExhausted, ErrorKind::Overloaded),
        ] {
            assert_eq!(from_status(&Status::new(code, "x")).kind, want);
        }
    }
}
