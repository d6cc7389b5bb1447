//! What kind of failure an error is, so that one file (`shoal-proto`'s `status.rs`) can choose the wire code.

/// What the receiver of an error can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// The request is wrong; sending it again is of no use.
    Invalid,
    /// What it names does not exist.
    NotFound,
    /// What it wants to create exists.
    AlreadyExists,
    /// It cannot be done in the present state of the cluster; the text says what must change first.
    Precondition,
    /// The sender's cluster map is old (or newer than the receiver's): refresh, then retry.
    StaleEpoch,
    /// Another member leads the group: ask it.
    NotLeader,
    /// Too much work at once: back off, then retry.
    Overloaded,
    /// A disk has no room: somebody has to make some. A retry soon is of no use; later ones succeed by themselves.
    DiskFull,
    /// The deadline passed. A write may or may not have happened.
    DeadlineExceeded,
    /// The caller went away.
    Cancelled,
    /// Out of reach for the moment: retry.
    Unavailable,
    /// Designed, but not served yet.
    Unimplemented,
    /// A stored record does not read back as it was written.
    Corruption,
    /// A bug, or a failing disk.
    Internal,
}

/// Answered by every error type of the project.
pub trait Classify: std::error::Error {
    /// What the receiver can do about it.
    fn kind(&self) -> ErrorKind;

    /// The field of the request that is wrong, as a path such as `points[3].vector`; empty if none is.
    fn field(&self) -> &str {
        ""
    }
}

/// A request that breaks a rule; names the field and tells what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InputError {
    /// Path of the field, such as `points[3].vector`.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl InputError {
    /// An error about `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// The same error seen from outside: `vector` becomes `points[3].vector`.
    #[must_use]
    pub fn within(self, outer: &str) -> Self {
        let field = if self.field.is_empty() { outer.to_owned() } else { format!("{outer}.{}", self.field) };
        Self { field, ..self }
    }
}

impl Classify for InputError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }

    fn field(&self) -> &str {
        &self.field
    }
}
