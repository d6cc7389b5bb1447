//! Why parts cannot be what they were to be.

use shoal_model::{Classify, ErrorKind, Metric, PointId};

use super::part::{JobId, PartId};
use crate::segment::Segment;

/// Why a set refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// A segment of other vectors.
    #[error("segment has {got_dim} dimensions and {got:?}, collection has {want_dim} and {want:?}")]
    Shape {
        /// Components of the collection's vectors.
        want_dim: u32,
        /// The collection's metric.
        want: Metric,
        /// Components of the segment's vectors.
        got_dim: u32,
        /// The segment's metric.
        got: Metric,
    },
    /// Not a part, or not of the kind that the job takes.
    #[error("{part} is not there for this job")]
    NoSuchPart {
        /// What the job names.
        part: PartId,
    },
    /// In another job, or named twice.
    #[error("{part} is in a job already")]
    Busy {
        /// What the job names.
        part: PartId,
    },
    /// It has ended.
    #[error("{job} is not running")]
    NoSuchJob {
        /// What was named.
        job: JobId,
    },
    /// A segment that has not as many points as it should.
    #[error("segment has {got} points, {job} was given {want}")]
    Count {
        /// The job.
        job: JobId,
        /// Points that lived when it began.
        want: usize,
        /// Points of the segment.
        got: usize,
    },
    /// A segment that lacks a point, or has it as another write made it.
    #[error("segment has not point {id} as {job} was given it")]
    Lost {
        /// The job.
        job: JobId,
        /// The point.
        id: PointId,
    },
}

impl Classify for SetError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Shape { .. } | Self::Count { .. } | Self::Lost { .. } => ErrorKind::Corruption,
            Self::NoSuchPart { .. } | Self::NoSuchJob { .. } => ErrorKind::NotFound,
            Self::Busy { .. } => ErrorKind::Invalid,
        }
    }
}

/// Errors: `Shape`.
pub(super) fn check_shape(want_dim: u32, want: Metric, segment: &Segment) -> Result<(), SetError> {
    let (got_dim, got) = (segment.dim(), segment.metric());
    if (got_dim, got) == (want_dim, want) { Ok(()) } else { Err(SetError::Shape { want_dim, want, got_dim, got }) }
}
