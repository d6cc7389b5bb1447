//! Finding out what of segments still lives, from a store that holds every point once.
//!
//! No point lives at first. The store names each point with its version; a segment that has that very version has it
//! alive from then on, and what no segment has goes into a delta. What the store does not name stays dead, so files
//! need no list of tombstones. If two segments have a point in the same version, as after a crash between writing a
//! merge and dropping what it replaces, the first of them has it.
//!
//! A replay in the order of ids, which is that of the store, steps through the ids of each segment once; in any other
//! order each point is looked up.

use bytes::Bytes;
use shoal_model::PointId;

use super::error::{self, SetError};
use super::frozen::Frozen;
use super::live::Live;
use super::point_set::{Held, PointSet, Sealed};
use crate::delta::{Center, Delta};
use crate::segment::Segment;

/// A set that is being filled from its store.
#[derive(Debug)]
pub struct Restart {
    set: PointSet,
    /// One for each segment.
    cursors: Vec<Cursor>,
    last: Option<PointId>,
    /// Sealed deltas to be.
    sealed: Vec<Delta>,
}

/// Where the replay is among the ids of a segment.
#[derive(Debug)]
struct Cursor {
    at: usize,
    /// The id there; `None` behind the last.
    id: Option<PointId>,
}

impl Restart {
    /// Errors: `Shape`.
    pub(super) fn new(
        mut set: PointSet,
        segments: Vec<Segment>,
        deltas: Vec<Option<Center>>,
    ) -> Result<Self, SetError> {
        segments.iter().try_for_each(|segment| error::check_shape(set.dim, set.metric, segment))?;
        let mut cursors = Vec::with_capacity(segments.len());
        for segment in segments {
            cursors.push(Cursor { at: 0, id: id_at(&segment, 0) });
            let live = Live::none(segment.len());
            let part = Frozen::new(set.next_part(), segment, live);
            set.segments.push(Held { part, job: None });
        }
        let sealed = deltas.into_iter().map(|center| Delta::around(set.dim, set.metric, center)).collect();
        Ok(Self { set, cursors, last: None, sealed })
    }

    /// Tells whether a segment has this very version of a point, which lives there from now on; if not, the caller
    /// goes on with [`Restart::upsert`]. Each id once.
    pub fn record(&mut self, id: &PointId, version: u64) -> bool {
        let is_next = self.last.as_ref().is_none_or(|last| last < id);
        if is_next {
            self.last = Some(id.clone());
        }
        for (held, cursor) in self.set.segments.iter_mut().zip(&mut self.cursors) {
            let Frozen { segment, live, .. } = &mut held.part;
            let offset = if is_next { cursor.seek(segment, id) } else { segment.find(id) };
            if let Some(offset) = offset.filter(|offset| segment.versions()[*offset as usize] == version) {
                live.raise(offset);
                return true;
            }
        }
        false
    }

    /// Adds a point that no segment has in that version, each id once, to a sealed delta or the active one. As
    /// [`PointSet::upsert`].
    pub fn upsert(&mut self, sealed: Option<usize>, id: PointId, version: u64, vector: &[f32], payload: Bytes) {
        match sealed.and_then(|at| self.sealed.get_mut(at)) {
            Some(delta) => drop(delta.upsert(id, version, vector, payload)),
            None => drop(self.set.upsert(id, version, vector, payload)),
        }
    }

    /// The set, once the whole store was recorded.
    #[must_use]
    pub fn finish(mut self) -> PointSet {
        for delta in self.sealed {
            let id = self.set.next_part();
            self.set.sealed.push(Sealed::new(id, delta));
        }
        self.set
    }
}

impl Cursor {
    /// Steps to the first id that is not below `id`; the offset, if it is that. Ids ascend from call to call.
    fn seek(&mut self, segment: &Segment, id: &PointId) -> Option<u32> {
        while self.id.as_ref().is_some_and(|at| at < id) {
            self.at += 1;
            self.id = id_at(segment, self.at);
        }
        (self.id.as_ref() == Some(id)).then(|| segment.by_id()[self.at])
    }
}

/// The id at a place in the order of ids.
fn id_at(segment: &Segment, at: usize) -> Option<PointId> {
    segment.by_id().get(at).map(|offset| segment.id(*offset))
}
