//! What parts are and how they are told apart.

use std::fmt;

/// Number of a part, never given twice by one set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId(pub u64);

/// Number of a job, never given twice by one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

impl fmt::Display for PartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "part {}", self.0)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {}", self.0)
    }
}

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PartKind {
    /// The delta that takes new points.
    Active,
    /// A delta that takes none and waits to become a segment.
    Sealed,
    /// A segment.
    Segment,
}

/// A part as metrics and [`super::plan()`] see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number.
    pub id: PartId,
    /// What it is.
    pub kind: PartKind,
    /// Points that searches may meet: the dead count in segments, and no longer in deltas.
    pub points: usize,
    /// Points that live.
    pub live: usize,
    /// Memory of a delta; files of a segment.
    pub bytes: usize,
}
