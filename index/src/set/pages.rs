//! How many points there are, and all of them page by page.

use shoal_model::PointId;

use super::filtered::{ViewFilter, passing};
use super::frozen::Frozen;
use super::view::{Row, View};
use crate::IndexError;

/// Points looked at between two questions whether the answer is still wanted.
const PATIENCE: usize = 4_096;

type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

impl View {
    /// How many points pass.
    ///
    /// Errors: `Cancelled`; `PayloadIndex` for hostile files.
    ///
    /// # Panics
    /// If the filter was prepared for another view.
    pub fn count(&self, filter: Option<&ViewFilter>, stop: Stop<'_>) -> Result<u64, IndexError> {
        let Some(filter) = filter else { return Ok(self.len() as u64) };
        let mut count = 0;
        for part in &self.segments {
            ask(stop)?;
            count += u64::from(passing(part, filter.matches(part)?));
        }
        for delta in &self.deltas {
            count += delta.points.count(&filter.shared.compiled, stop)?;
        }
        Ok(count)
    }

    /// The `limit` smallest ids after `after` whose points pass, in the order of ids.
    ///
    /// Looks at every point of the deltas for each page, and in segments at those from `after` on until the page is
    /// full, or at those that pass if they are few. Memory is that of a page and two for each part.
    /// Errors: as [`View::count`].
    ///
    /// # Panics
    /// As [`View::count`].
    pub fn scroll(
        &self,
        after: Option<&PointId>,
        limit: usize,
        filter: Option<&ViewFilter>,
        stop: Stop<'_>,
    ) -> Result<Vec<(PointId, Row)>, IndexError> {
        let mut page = Vec::new();
        if limit == 0 {
            return Ok(page);
        }
        for (number, delta) in self.deltas.iter().enumerate() {
            let compiled = filter.map(|filter| &filter.shared.compiled);
            let rows = delta.points.scroll(after, limit, compiled, stop)?;
            page.extend(rows.into_iter().map(|(id, row)| (id, Row::of_delta(number, row))));
            cut(&mut page, limit);
        }
        for (number, part) in self.segments.iter().enumerate() {
            let row = |(id, offset)| (id, Row::of_segment(number, offset));
            page.extend(scroll(part, after, limit, filter, stop)?.into_iter().map(row));
            cut(&mut page, limit);
        }
        Ok(page)
    }
}

/// The smallest ids of a page.
fn cut<T>(page: &mut Vec<(PointId, T)>, limit: usize) {
    page.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    page.truncate(limit);
}

/// The page of one segment.
fn scroll(
    part: &Frozen,
    after: Option<&PointId>,
    limit: usize,
    filter: Option<&ViewFilter>,
    stop: Stop<'_>,
) -> Result<Vec<(PointId, u32)>, IndexError> {
    let matches = filter.map(|filter| filter.matches(part)).transpose()?;
    if let Some(few) = matches.and_then(|matches| matches.list()) {
        return scroll_few(part, after, limit, few, stop);
    }
    let segment = &part.segment;
    let order = segment.by_id();
    let start = after.map_or(0, |after| order.partition_point(|offset| segment.id(*offset) <= *after));
    let mut page = Vec::new();
    for (i, &offset) in order[start..].iter().enumerate() {
        if i.is_multiple_of(PATIENCE) {
            ask(stop)?;
        }
        if part.live.contains(offset) && matches.is_none_or(|matches| matches.contains(offset)) {
            page.push((segment.id(offset), offset));
            if page.len() == limit {
                break;
            }
        }
    }
    Ok(page)
}

/// The page of a segment of which only few points pass.
fn scroll_few(
    part: &Frozen,
    after: Option<&PointId>,
    limit: usize,
    few: &[u32],
    stop: Stop<'_>,
) -> Result<Vec<(PointId, u32)>, IndexError> {
    let mut page = Vec::new();
    for offsets in few.chunks(PATIENCE) {
        ask(stop)?;
        let live = offsets.iter().filter(|offset| part.live.contains(**offset));
        let rows = live.map(|offset| (part.segment.id(*offset), *offset));
        page.extend(rows.filter(|(id, _)| after.is_none_or(|after| id > after)));
        cut(&mut page, limit);
    }
    Ok(page)
}

fn ask(stop: Stop<'_>) -> Result<(), IndexError> {
    if stop() { Err(IndexError::Cancelled) } else { Ok(()) }
}
