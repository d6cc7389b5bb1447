//! A segment as a part.

use std::sync::Arc;

use shoal_model::PointId;

use super::evaluated::Evaluated;
use super::known::{Known, Mark};
use super::live::Live;
use super::part::{Part, PartId, PartKind};
use crate::file::Image;
use crate::segment::Segment;

/// A segment and which of its points live.
#[derive(Clone, Debug)]
pub struct Frozen {
    pub(super) id: PartId,
    pub(super) segment: Arc<Segment>,
    pub(super) live: Live,
    known: Arc<Known>,
    pub(super) evaluated: Arc<Evaluated>,
}

impl Frozen {
    /// Reads all ids.
    pub(super) fn new(id: PartId, segment: Segment, live: Live) -> Self {
        let known = Arc::new(Known::new(&segment));
        Self { id, segment: Arc::new(segment), live, known, evaluated: Arc::default() }
    }

    /// Number of the part.
    #[must_use]
    pub fn id(&self) -> PartId {
        self.id
    }

    /// The points.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Which of them live.
    #[must_use]
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Where the living point with an id is, whose mark is given.
    pub(super) fn find(&self, id: &PointId, mark: Mark) -> Option<u32> {
        self.find_any(id, mark).filter(|offset| self.live.contains(*offset))
    }

    /// Where the point with an id is, dead or alive.
    pub(super) fn find_any(&self, id: &PointId, mark: Mark) -> Option<u32> {
        if self.known.may_have(mark) { self.segment.find(id) } else { None }
    }

    pub(super) fn part(&self) -> Part {
        Part {
            id: self.id,
            kind: PartKind::Segment,
            points: self.live.points() as usize,
            live: self.live.count() as usize,
            bytes: self.images().iter().map(|image| image.bytes().len()).sum(),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let images: usize = self.images().into_iter().map(Image::memory_bytes).sum();
        images + self.live.memory_bytes() + self.known.memory_bytes() + self.evaluated.memory_bytes()
    }

    fn images(&self) -> [&Image; 2] {
        [self.segment.graph_image(), self.segment.stored_image()]
    }
}
