//! Filters that were evaluated on a segment, kept for the next query with the same.
//!
//! Services ask with few filters over and over, such as a language or a tenant, and a segment never changes, so neither
//! does what passes. Which are kept is decided as pages of memory are, by the clock algorithm: a filter that nobody asked
//! for again goes before one that was. What passes takes no more than two bytes a point; where a filter comes again and
//! again, the codes of what passes are packed besides, unless it is too much.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use shoal_model::{Condition, Filter, Predicate};

use crate::payload_index::Matches;
use crate::segment::{Packed, Segment};

/// Filters that are kept at most.
const FILTERS_MAX: usize = 16;

/// Conditions and values of a filter that is kept, at most: to tell large ones from each other takes long, and they
/// come once.
const SIZE_MAX: usize = 64;

/// How often a filter is asked for before its points are packed: packing takes as long as one to four searches that have
/// them not. Their answers are the same.
const PACK_AFTER: u32 = 3;

/// What passes a filter.
#[derive(Debug)]
pub(super) struct Passing {
    pub(super) matches: Matches,
    packed: OnceLock<Option<Packed>>,
    /// How often it was asked for, up to [`PACK_AFTER`].
    asked: AtomicU32,
}

impl Passing {
    pub(super) fn new(matches: Matches) -> Self {
        Self { matches, packed: OnceLock::new(), asked: AtomicU32::new(0) }
    }

    /// The same points packed, once that is worth it: half a millisecond for one of many queries, while the others go
    /// without.
    pub(super) fn packed(&self, segment: &Segment) -> Option<&Packed> {
        // After the first queries nobody writes, so that threads do not take the line from each other.
        if self.asked.load(Ordering::Relaxed) < PACK_AFTER
            && self.asked.fetch_add(1, Ordering::Relaxed) + 1 == PACK_AFTER
        {
            self.packed.get_or_init(|| segment.pack(&self.matches));
        }
        self.packed.get()?.as_ref()
    }

    fn memory_bytes(&self) -> usize {
        let packed = self.packed.get().and_then(Option::as_ref).map_or(0, Packed::memory_bytes);
        self.matches.memory_bytes() + packed
    }
}

/// What passes each of some filters.
#[derive(Debug, Default)]
pub(super) struct Evaluated {
    /// In the order in which they are looked at when one has to go. No panic happens while it is locked.
    kept: RwLock<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    filter: Filter,
    passing: Arc<Passing>,
    /// Whether it was asked for since it was kept, or looked at.
    used: AtomicBool,
}

impl Evaluated {
    /// What passes a filter, if that is kept.
    pub(super) fn get(&self, filter: &Filter) -> Option<Arc<Passing>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().find(|kept| kept.filter == *filter)?;
        // Written once and then read only, so that threads do not take the line from each other.
        if !found.used.load(Ordering::Relaxed) {
            found.used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&found.passing))
    }

    /// Keeps what passes a filter, if it is small.
    pub(super) fn keep(&self, filter: &Filter, passing: &Arc<Passing>) {
        if size(filter) > SIZE_MAX {
            return;
        }
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.iter().any(|kept| kept.filter == *filter) {
            return;
        }
        if kept.len() >= FILTERS_MAX {
            let unused = kept.iter_mut().position(|kept| !std::mem::take(kept.used.get_mut())).unwrap_or(0);
            kept.rotate_left(unused);
            kept.remove(0);
        }
        kept.push(Kept { filter: filter.clone(), passing: Arc::clone(passing), used: AtomicBool::new(false) });
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(|kept| kept.passing.memory_bytes()).sum()
    }
}

/// Conditions and values, those of nested filters included.
fn size(filter: &Filter) -> usize {
    let of = |condition: &Condition| match condition {
        Condition::Field { predicate: Predicate::Any(values), .. } => 1 + values.len(),
        Condition::Field { .. } => 1,
        Condition::HasId(ids) => 1 + ids.len(),
        Condition::Nested(filter) => 1 + size(filter),
    };
    [&filter.must, &filter.should, &filter.must_not].into_iter().flatten().map(of).sum()
}

#[cfg(test)]
mod tests {
    use shoal_model::{PointId, Scalar};

    use super::*;
    use crate::packed;
    use crate::payload_index::PayloadIndex;

    fn filter(number: i64) -> Filter {
        let predicate = Predicate::Match(Scalar::Integer(number));
        Filter { must: vec![Condition::Field { key: "n".to_owned(), predicate }], ..Filter::default() }
    }

    fn nothing() -> Arc<Passing> {
        let payload = packed::encode(&[].into());
        let bytes = PayloadIndex::build([&payload[..]]);
        let index = PayloadIndex::open(&bytes[..], 1).expect("it was just built");
        Arc::new(Passing::new(index.evaluate(&filter(0), &|_| None).expect("it was just built")))
    }

    #[test]
    fn filters_that_are_asked_for_stay_and_others_go() {
        let (evaluated, matches) = (Evaluated::default(), nothing());
        for number in 0..1_000 {
            evaluated.keep(&filter(number), &matches);
            assert!(evaluated.get(&filter(0)).is_some(), "the first is asked for after each");
            assert!(evaluated.get(&filter(-1)).is_none(), "nobody kept it");
        }
        assert!(evaluated.get(&filter(999)).is_some(), "the last has not had to go");
        assert!(evaluated.get(&filter(900)).is_none(), "what was not asked for goes");
        assert_eq!(evaluated.kept.read().expect("no panic").len(), FILTERS_MAX);
    }

    #[test]
    fn one_goes_even_if_all_are_asked_for() {
        let (evaluated, matches) = (Evaluated::default(), nothing());
        for number in 0..100 {
            evaluated.keep(&filter(number), &matches);
            (0..=number).for_each(|number| drop(evaluated.get(&filter(number))));
        }
        assert_eq!(evaluated.kept.read().expect("no panic").len(), FILTERS_MAX);
        assert!(evaluated.get(&filter(99)).is_some());
    }

    #[test]
    fn large_filters_are_not_kept_and_equal_ones_once() {
        let (evaluated, matches) = (Evaluated::default(), nothing());
        let large =
            Filter { must_not: vec![Condition::HasId((0..65).map(PointId::Number).collect())], ..Filter::default() };
        for filter in [&large, &Filter { should: vec![Condition::Nested(large.clone())], ..Filter::default() }] {
            evaluated.keep(filter, &matches);
            assert!(evaluated.get(filter).is_none());
        }
        (0..3).for_each(|_| evaluated.keep(&filter(1), &matches));
        assert_eq!(evaluated.kept.read().expect("no panic").len(), 1);
    }
}
