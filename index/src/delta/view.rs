//! What readers see: the points of one moment.

use std::sync::Arc;

use bytes::Bytes;
use shoal_model::{Metric, PointId};

use super::chunk::{Label, Slot};
use super::codes::Frame;
use super::pace::{Pace, ROW_BYTES};
use super::search::{self, Found, Query, SearchStats};
use crate::{CompiledFilter, IndexError};

/// An immutable set of points. Cheap to share; holds its chunks in memory as long as it lives.
#[derive(Debug)]
pub struct DeltaView {
    dim: u32,
    metric: Metric,
    /// What codes are made with, if there are any.
    frame: Option<Arc<Frame>>,
    slots: Vec<Slot>,
    len: usize,
}

/// Where a point lies in the view that found it; means nothing to another view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowRef {
    chunk: u32,
    row: u32,
}

/// A point as it was written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeltaRow<'a> {
    /// Its id.
    pub id: &'a PointId,
    /// The log index at which it was written.
    pub version: u64,
    /// Its components, as they were sent.
    pub vector: &'a [f32],
    /// Its packed payload.
    pub payload: &'a Bytes,
}

impl RowRef {
    pub(super) fn new(chunk: usize, row: usize) -> Self {
        let narrow = |n: usize| u32::try_from(n).expect("the writer numbers chunks and rows in 32 bits");
        Self { chunk: narrow(chunk), row: narrow(row) }
    }

    pub(super) fn chunk(self) -> usize {
        self.chunk as usize
    }

    pub(super) fn row(self) -> usize {
        self.row as usize
    }
}

impl DeltaView {
    pub(super) fn new(dim: u32, metric: Metric, frame: Option<Arc<Frame>>, slots: Vec<Slot>) -> Self {
        let len = slots.iter().map(Slot::len).sum();
        Self { dim, metric, frame, slots, len }
    }

    /// The nearest `k` points, nearest first; all of them for certain if the query is exact, else as [`super::Certainty`]
    /// says. Views of the same points find the same.
    ///
    /// The order is that of `shoal_model::merge_top_k`: by score (computed in `f64`, rounded once to `f32`), ties by id.
    /// Errors: `Dimension`; `Cancelled` within about 200 µs of `stop` saying so, except that ten thousands of rows too
    /// close to call are selected from without asking, and one payload is filtered without asking.
    pub fn search(&self, query: &Query<'_>) -> Result<(Vec<Found>, SearchStats), IndexError> {
        self.search_part(0, 1, query)
    }

    /// [`DeltaView::search`] over the `part`-th of `parts` equal shares of the chunks, for a thread each.
    ///
    /// [`Found::merge`] over the answers of all parts is what `search` returns. Errors: as there.
    pub fn search_part(
        &self,
        part: usize,
        parts: usize,
        query: &Query<'_>,
    ) -> Result<(Vec<Found>, SearchStats), IndexError> {
        assert!(part < parts, "part {part} of {parts}");
        if query.vector.len() != self.dim as usize {
            let got = u32::try_from(query.vector.len()).unwrap_or(u32::MAX);
            return Err(IndexError::Dimension { want: self.dim, got });
        }
        let (first, end) = (self.slots.len() * part / parts, self.slots.len() * (part + 1) / parts);
        search::search(self.metric, self.frame.as_deref(), &self.slots, first..end, query)
    }

    /// How many points pass. Errors: `Cancelled`.
    pub fn count(&self, filter: &CompiledFilter, stop: &(dyn Fn() -> bool + Sync)) -> Result<u64, IndexError> {
        let mut count = 0;
        self.visit(Some(filter), stop, |_| true, |_, _| count += 1)?;
        Ok(count)
    }

    /// The `limit` smallest ids after `after` whose points pass, in the order of ids.
    ///
    /// Looks at every point for each page: a delta is small, and its rows lie in the order of writes. Memory is that
    /// of two pages. Errors: `Cancelled`.
    pub fn scroll(
        &self,
        after: Option<&PointId>,
        limit: usize,
        filter: Option<&CompiledFilter>,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<(PointId, RowRef)>, IndexError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let page = std::cell::RefCell::new(Page::new(limit));
        let wanted = |id: &PointId| after.is_none_or(|after| id > after) && page.borrow().wants(id);
        self.visit(filter, stop, wanted, |id, row| page.borrow_mut().push(id, row))?;
        let rows = page.into_inner().into_rows();
        Ok(rows.into_iter().map(|(id, row)| (id.clone(), row)).collect())
    }

    /// Where the point with an id is. Looks at every id.
    #[must_use]
    pub fn find(&self, id: &PointId) -> Option<RowRef> {
        self.slots.iter().enumerate().find_map(|(number, slot)| {
            let row = slot.rows().find(|row| slot.chunk().label(*row).id == *id)?;
            Some(RowRef::new(number, row))
        })
    }

    /// Components of a point's vector, as they were sent.
    ///
    /// # Panics
    /// If the row is of another view and this one has no such row.
    #[must_use]
    pub fn vector(&self, row: RowRef) -> &[f32] {
        self.slots[row.chunk()].chunk().vector(row.row())
    }

    /// Packed payload of a point.
    ///
    /// # Panics
    /// If the row is of another view and this one has no such row.
    #[must_use]
    pub fn payload(&self, row: RowRef) -> &Bytes {
        &self.label(row).payload
    }

    /// The log index at which a point was written.
    ///
    /// # Panics
    /// If the row is of another view and this one has no such row.
    #[must_use]
    pub fn version(&self, row: RowRef) -> u64 {
        self.label(row).version
    }

    fn label(&self, row: RowRef) -> &Label {
        self.slots[row.chunk()].chunk().label(row.row())
    }

    /// Every point, in the order in which they were written.
    ///
    /// Sorts 16 bytes a point first: rows that lived on in a dissolved chunk lie behind younger ones.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = DeltaRow<'_>> {
        let places = self.slots.iter().enumerate().flat_map(|(i, slot)| slot.rows().map(move |row| (i, row)));
        let arrival = |(chunk, row): (usize, usize)| {
            let row = RowRef::new(chunk, row);
            (self.label(row).arrival, row)
        };
        let mut rows: Vec<(u64, RowRef)> = places.map(arrival).collect();
        rows.sort_by_key(|(arrival, _)| *arrival);
        rows.into_iter().map(|(_, row)| {
            let Label { id, version, payload, .. } = self.label(row);
            DeltaRow { id, version: *version, vector: self.vector(row), payload }
        })
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

    /// Memory held, most of it shared with the writer and other views.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.slots.iter().map(Slot::memory_bytes).sum()
    }

    /// Shows `seen` every point whose id is `wanted` and that passes.
    fn visit<'a>(
        &'a self,
        filter: Option<&CompiledFilter>,
        stop: &(dyn Fn() -> bool + Sync),
        wanted: impl Fn(&PointId) -> bool,
        mut seen: impl FnMut(&'a PointId, RowRef),
    ) -> Result<(), IndexError> {
        let mut pace = Pace::new(stop);
        for (number, slot) in self.slots.iter().enumerate() {
            let chunk = slot.chunk();
            for row in slot.rows() {
                pace.work(ROW_BYTES)?;
                let Label { id, payload, .. } = chunk.label(row);
                if !wanted(id) {
                    continue;
                }
                if let Some(filter) = filter {
                    pace.work(filter.work_bytes(payload))?;
                    if !filter.matches(id, payload) {
                        continue;
                    }
                }
                seen(id, RowRef::new(number, row));
            }
        }
        Ok(())
    }
}

/// The smallest ids so far, at most two pages of them.
struct Page<'a> {
    limit: usize,
    rows: Vec<(&'a PointId, RowRef)>,
    /// Ids beyond it are not on the page.
    last: Option<&'a PointId>,
}

impl<'a> Page<'a> {
    fn new(limit: usize) -> Self {
        Self { limit, rows: Vec::new(), last: None }
    }

    fn wants(&self, id: &PointId) -> bool {
        self.last.is_none_or(|last| id < last)
    }

    fn push(&mut self, id: &'a PointId, row: RowRef) {
        self.rows.push((id, row));
        if self.rows.len() >= self.limit.saturating_mul(2) {
            let (_, last, _) = self.rows.select_nth_unstable_by(self.limit - 1, |a, b| a.0.cmp(b.0));
            self.last = Some(last.0);
            self.rows.truncate(self.limit);
        }
    }

    fn into_rows(mut self) -> Vec<(&'a PointId, RowRef)> {
        self.rows.sort_unstable_by_key(|(id, _)| *id);
        self.rows.truncate(self.limit);
        self.rows
    }
}
