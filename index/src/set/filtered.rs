//! Filters over all parts, and what of a segment they leave to search.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use shoal_model::Filter;

use super::frozen::Frozen;
use super::known::Mark;
use super::part::PartId;
use super::search::Look;
use super::view::View;
use crate::payload_index::{Matches, PayloadIndexError};
use crate::segment::Effort;
use crate::{CompiledFilter, IndexError};

/// A filter made ready for all parts. Build it once for a query; share it between shards and threads.
#[derive(Debug)]
pub struct SetFilter {
    filter: Filter,
    pub(super) compiled: CompiledFilter,
}

impl SetFilter {
    /// Prepares a filter that passed `Filter::check`.
    #[must_use]
    pub fn new(filter: Filter) -> Self {
        Self { compiled: CompiledFilter::new(&filter), filter }
    }
}

/// A filter made ready for one view, and what it found there: evaluated once for each segment, by whichever thread of
/// a query needs it first.
#[derive(Debug)]
pub struct ViewFilter {
    pub(super) shared: Arc<SetFilter>,
    segments: Vec<(PartId, OnceLock<Result<Matches, PayloadIndexError>>)>,
}

impl View {
    /// Prepares a filter for this view; no other takes it.
    #[must_use]
    pub fn filter(&self, filter: &Arc<SetFilter>) -> ViewFilter {
        let segments = self.segments.iter().map(|part| (part.id, OnceLock::new())).collect();
        ViewFilter { shared: Arc::clone(filter), segments }
    }
}

impl ViewFilter {
    /// Points of a segment that pass, dead ones included.
    ///
    /// Errors: `PayloadIndex`, if the file was made to deceive.
    ///
    /// # Panics
    /// If the filter was prepared for another view.
    pub(super) fn matches(&self, part: &Frozen) -> Result<&Matches, IndexError> {
        let found = self.segments.iter().find(|(id, _)| *id == part.id);
        let (_, matches) = found.expect("a filter is prepared for the view that it is used with");
        let offset_of = |id: &_| part.find_any(id, Mark::new(id));
        let evaluate = || part.segment.payload_index().evaluate(&self.shared.filter, &offset_of);
        matches.get_or_init(evaluate).as_ref().map_err(|error| IndexError::PayloadIndex(*error))
    }
}

/// How the points of a segment are found.
pub(super) enum Way<'a> {
    /// Compare these points, which live and pass.
    Scan(Vec<u32>),
    /// Look so hard for points that live and are among these, if there is a filter.
    Walk(Effort, Option<&'a Matches>),
}

/// How to search the offsets of `range`, which is all of the segment unless the look is exact.
///
/// How a segment goes about a filter is for it to know; here only those that need none are told apart. Errors:
/// `PayloadIndex`.
pub(super) fn way<'a>(
    part: &Frozen,
    range: Range<u32>,
    filter: Option<&'a ViewFilter>,
    look: Look,
) -> Result<Way<'a>, IndexError> {
    let matches = filter.map(|filter| filter.matches(part)).transpose()?;
    let live = &part.live;
    Ok(match (look, matches) {
        (Look::Exact, None) => Way::Scan(range.filter(|offset| live.contains(*offset)).collect()),
        (Look::Exact, Some(matches)) => {
            let wanted = |offset: &u32| range.contains(offset) && live.contains(*offset);
            Way::Scan(matches.iter().filter(wanted).collect())
        }
        (Look::Walk(effort), None) => Way::Walk(effort, None),
        (Look::Walk(effort), Some(matches)) => match passing(part, matches) {
            0 => Way::Scan(Vec::new()),
            passing => Way::Walk(effort, (passing < live.count()).then_some(matches)),
        },
    })
}

/// How many points live and pass.
pub(super) fn passing(part: &Frozen, matches: &Matches) -> u32 {
    let live = &part.live;
    match matches.bits() {
        Some(bits) => bits.iter().zip(live.words()).map(|(pass, live)| (pass & live).count_ones()).sum(),
        None => matches.iter().map(|offset| u32::from(live.contains(offset))).sum(),
    }
}
