//! Filters on the payload index: which points pass, and how many may.
//!
//! Both recurse as deep as the filter is nested, which `Filter::check` bounds.

use shoal_model::{Condition, Filter, PointId};

use super::View;
use super::estimate::Estimate;
use super::matches::Set;
use super::select::Selection;

/// Tells the offset of a point id, if the segment has it.
pub(super) type OffsetOf<'f> = &'f dyn Fn(&PointId) -> Option<u32>;

/// The points that pass a filter. `None` if the index is malformed.
pub(super) fn evaluate(view: &View<'_>, filter: &Filter, offset_of: OffsetOf<'_>) -> Option<Set> {
    let mut passing: Option<Set> = None;
    for condition in narrowest_first(view, &filter.must)? {
        if passing.as_ref().is_some_and(Set::is_plainly_empty) {
            break;
        }
        let holds = evaluate_condition(view, condition, offset_of)?;
        passing = Some(if let Some(passing) = passing { passing.and(holds) } else { holds });
    }
    if !filter.should.is_empty() {
        let holds = any_of(view, &filter.should, offset_of)?;
        passing = Some(if let Some(passing) = passing { passing.and(holds) } else { holds });
    }
    let passing = passing.unwrap_or_else(|| Set::all(view.points));
    filter.must_not.iter().try_fold(passing, |passing, condition| {
        Some(if passing.is_plainly_empty() {
            passing
        } else {
            passing.and_not(&evaluate_condition(view, condition, offset_of)?)
        })
    })
}

/// How many points pass a filter. `None` if the index is malformed.
pub(super) fn estimate(view: &View<'_>, filter: &Filter) -> Option<Estimate> {
    let points = view.points;
    let of = |condition| estimate_condition(view, condition);
    let mut passing = Estimate::all(points);
    for condition in &filter.must {
        passing = passing.and(of(condition)?, points);
    }
    if !filter.should.is_empty() {
        let holds = filter.should.iter().try_fold(Estimate::none(), |any, each| Some(any.or(of(each)?, points)))?;
        passing = passing.and(holds, points);
    }
    for condition in &filter.must_not {
        passing = passing.and(of(condition)?.complement(points), points);
    }
    Some(passing)
}

/// Narrow sets are lists, which the rest of the conditions thin out in no time.
fn narrowest_first<'f>(view: &View<'_>, conditions: &'f [Condition]) -> Option<Vec<&'f Condition>> {
    let mut order: Vec<_> = conditions.iter().collect();
    if conditions.len() > 1 {
        let sized = conditions.iter().map(|condition| Some((estimate_condition(view, condition)?.high, condition)));
        let mut sized = sized.collect::<Option<Vec<_>>>()?;
        sized.sort_by_key(|&(high, _)| high);
        order = sized.into_iter().map(|(_, condition)| condition).collect();
    }
    Some(order)
}

fn any_of(view: &View<'_>, conditions: &[Condition], offset_of: OffsetOf<'_>) -> Option<Set> {
    conditions.iter().try_fold(Set::none(), |any, condition| {
        Some(any.or(evaluate_condition(view, condition, offset_of)?, view.points))
    })
}

fn evaluate_condition(view: &View<'_>, condition: &Condition, offset_of: OffsetOf<'_>) -> Option<Set> {
    match condition {
        Condition::Field { key, predicate } => Selection::new(&view.field(key)?, predicate, view.points)?.collect(),
        Condition::Nested(filter) => evaluate(view, filter, offset_of),
        Condition::HasId(ids) => {
            let offsets = ids.iter().filter_map(offset_of).filter(|&offset| offset < view.points);
            Some(Set::from_unsorted(offsets.collect()))
        }
    }
}

fn estimate_condition(view: &View<'_>, condition: &Condition) -> Option<Estimate> {
    match condition {
        Condition::Field { key, predicate } => {
            Some(Selection::new(&view.field(key)?, predicate, view.points)?.estimate())
        }
        Condition::Nested(filter) => estimate(view, filter),
        Condition::HasId(ids) => {
            let most = u32::try_from(ids.len()).unwrap_or(u32::MAX).min(view.points);
            Some(Estimate::new(0, most, f64::from(most)))
        }
    }
}
