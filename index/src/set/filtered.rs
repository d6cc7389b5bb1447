//! Filters over all parts, and what of a segment they leave to search.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use shoal_model::Filter;

use super::evaluated::Passing;
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

type Evaluation = Result<Arc<Passing>, PayloadIndexError>;

/// A filter made ready for one view, and what it found there: evaluated once for each segment, by whichever thread of
/// a query needs it first, unless an earlier query had the same.
#[derive(Debug)]
pub struct ViewFilter {
    pub(super) shared: Arc<SetFilter>,
    segments: Vec<(PartId, OnceLock<Evaluation>)>,
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
        self.passing(part).map(|passing| &passing.matches)
    }

    fn passing(&self, part: &Frozen) -> Result<&Passing, IndexError> {
        let found = self.segments.iter().find(|(id, _)| *id == part.id);
        let (_, passing) = found.expect("a filter is prepared for the view that it is used with");
        let passing = passing.get_or_init(|| evaluate(part, &self.shared.filter));
        passing.as_ref().map(Arc::as_ref).map_err(|error| IndexError::PayloadIndex(*error))
    }
}

fn evaluate(part: &Frozen, filter: &Filter) -> Evaluation {
    if let Some(kept) = part.evaluated.get(filter) {
        return Ok(kept);
    }
    let matches = part.segment.payload_index().evaluate(filter, &|id| part.find_any(id, Mark::new(id)))?;
    let passing = Arc::new(Passing::new(matches));
    part.evaluated.keep(filter, &passing);
    Ok(passing)
}

/// How the points of a segment are found.
pub(super) enum Way<'a> {
    /// Compare these points, which live and pass.
    Scan(Vec<u32>),
    /// Look so hard for points that live and are among these, if there is a filter.
    Walk(Effort, Option<&'a Passing>),
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
    let found = filter.map(|filter| filter.passing(part)).transpose()?;
    let live = &part.live;
    Ok(match (look, found) {
        (Look::Exact, None) => Way::Scan(range.filter(|offset| live.contains(*offset)).collect()),
        (Look::Exact, Some(Passing { matches, .. })) => {
            let wanted = |offset: &u32| range.contains(offset) && live.contains(*offset);
            Way::Scan(matches.iter().filter(wanted).collect())
        }
        (Look::Walk(effort), None) => Way::Walk(effort, None),
        (Look::Walk(effort), Some(found)) => match passing(part, &found.matches) {
            0 => Way::Scan(Vec::new()),
            passing => Way::Walk(effort, (passing < live.count()).then_some(found)),
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
