//! What readers see: the points of one moment.

use std::sync::Arc;

use shoal_model::{Metric, PointId};

use super::frozen::Frozen;
use super::known::Mark;
use super::part::{Part, PartId, PartKind};
use super::scan::damaged;
use crate::IndexError;
use crate::delta::{DeltaView, RowRef};
use crate::segment::Segment;

/// An immutable set of points. Cheap to share; holds its parts as long as it lives.
#[derive(Debug)]
pub struct View {
    pub(super) dim: u32,
    pub(super) metric: Metric,
    /// The active one first.
    pub(super) deltas: Vec<Fresh>,
    pub(super) segments: Vec<Frozen>,
    len: usize,
}

/// A delta as a view shows it.
#[derive(Clone, Debug)]
pub(super) struct Fresh {
    pub(super) id: PartId,
    pub(super) kind: PartKind,
    pub(super) points: Arc<DeltaView>,
}

/// Where a point lies in the view that found it; means nothing to another view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row(Place);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Delta { number: u32, row: RowRef },
    Segment { number: u32, offset: u32 },
}

impl Row {
    pub(super) fn of_delta(number: usize, row: RowRef) -> Self {
        Self(Place::Delta { number: narrow(number), row })
    }

    pub(super) fn of_segment(number: usize, offset: u32) -> Self {
        Self(Place::Segment { number: narrow(number), offset })
    }
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("parts are few")
}

impl View {
    pub(super) fn new(dim: u32, metric: Metric, deltas: Vec<Fresh>, segments: Vec<Frozen>) -> Self {
        let fresh: usize = deltas.iter().map(|delta| delta.points.len()).sum();
        let frozen: usize = segments.iter().map(|part| part.live.count() as usize).sum();
        Self { dim, metric, deltas, segments, len: fresh + frozen }
    }

    /// Where the point with an id is. Looks at every id of the deltas, and up in segments.
    #[must_use]
    pub fn get(&self, id: &PointId) -> Option<Row> {
        let mark = Mark::new(id);
        let in_delta = |(number, delta): (usize, &Fresh)| Some(Row::of_delta(number, delta.points.find(id)?));
        let in_segment = |(number, part): (usize, &Frozen)| Some(Row::of_segment(number, part.find(id, mark)?));
        // Segments first: looking up is quicker than looking through.
        let found = self.segments.iter().enumerate().find_map(in_segment);
        found.or_else(|| self.deltas.iter().enumerate().find_map(in_delta))
    }

    /// Components of a point's vector, as they were sent. Errors: `Damaged`.
    ///
    /// # Panics
    /// If the row is of another view and this one has no such row.
    pub fn vector(&self, row: Row) -> Result<Vec<f32>, IndexError> {
        self.check_vector(row)?;
        Ok(match row.0 {
            Place::Delta { number, row } => self.delta(number).vector(row).to_vec(),
            Place::Segment { number, offset } => {
                let mut vector = vec![0.0; self.dim as usize];
                self.segment(number).segment.read_vector(offset, &mut vector);
                vector
            }
        })
    }

    /// Whether a point's vector is what was written. Errors: `Damaged` if not.
    pub(super) fn check_vector(&self, row: Row) -> Result<(), IndexError> {
        let Place::Segment { number, offset } = row.0 else { return Ok(()) };
        let segment = &self.segment(number).segment;
        if segment.is_vector_sound(offset) { Ok(()) } else { Err(damaged(segment)) }
    }

    /// Packed payload of a point. Errors: `Damaged`.
    ///
    /// # Panics
    /// As [`View::vector`].
    pub fn payload(&self, row: Row) -> Result<&[u8], IndexError> {
        match row.0 {
            Place::Delta { number, row } => Ok(self.delta(number).payload(row)),
            Place::Segment { number, offset } => {
                let segment = &self.segment(number).segment;
                if segment.is_payload_sound(offset) { Ok(segment.payload(offset)) } else { Err(damaged(segment)) }
            }
        }
    }

    /// Bytes of a point's packed payload, about: of a damaged segment any number.
    ///
    /// # Panics
    /// As [`View::vector`].
    #[must_use]
    pub fn payload_bytes(&self, row: Row) -> usize {
        match row.0 {
            Place::Delta { number, row } => self.delta(number).payload(row).len(),
            Place::Segment { number, offset } => self.segment(number).segment.payload(offset).len(),
        }
    }

    /// The segments, for whoever looks after their files.
    pub fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.iter().map(|part| &part.segment)
    }

    /// Log index of the write that made a point.
    ///
    /// # Panics
    /// As [`View::vector`].
    #[must_use]
    pub fn version(&self, row: Row) -> u64 {
        match row.0 {
            Place::Delta { number, row } => self.delta(number).version(row),
            Place::Segment { number, offset } => self.segment(number).segment.versions()[offset as usize],
        }
    }

    /// How many points there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no point.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Components of each vector.
    #[must_use]
    pub fn dim(&self) -> u32 {
        self.dim
    }

    /// How nearness is measured.
    #[must_use]
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// The parts: the active delta, sealed ones, segments.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        let deltas = self.deltas.iter().map(|delta| {
            let (live, bytes) = (delta.points.len(), delta.points.memory_bytes());
            Part { id: delta.id, kind: delta.kind, points: live, live, bytes }
        });
        deltas.chain(self.segments.iter().map(Frozen::part)).collect()
    }

    /// Memory held, but for files that are mapped; most of it is shared with the writer and other views.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let deltas: usize = self.deltas.iter().map(|delta| delta.points.memory_bytes()).sum();
        deltas + self.segments.iter().map(Frozen::memory_bytes).sum::<usize>()
    }

    /// How many points of segments, dead ones included, no walk finds: none, or a file is not as it was written.
    ///
    /// A diagnostic that takes some microseconds a point: see `Segment::unreachable`.
    #[must_use]
    pub fn unreachable(&self) -> u64 {
        self.segments.iter().map(|part| part.segment.unreachable()).sum()
    }

    fn delta(&self, number: u32) -> &DeltaView {
        &self.deltas[number as usize].points
    }

    fn segment(&self, number: u32) -> &Frozen {
        &self.segments[number as usize]
    }
}
