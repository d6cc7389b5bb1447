//! A search is answered as it was before, whatever was asked in between and by however many threads.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::ranges::filled;
use super::*;
use crate::segment::Precision;

/// How often a filter is asked for: its points are packed on the way.
const TIMES: usize = 40;

fn vectors(points: &Points, count: usize, rng: &mut StdRng) -> Vec<Vec<f32>> {
    let mut near = || {
        let own = &points.values().nth(rng.random_range(0..points.len())).expect("there are points").vector;
        own.iter().map(|c| c + rng.random_range(-0.4..0.4)).collect()
    };
    (0..count).map(|_| near()).collect()
}

#[test]
fn the_answer_under_a_filter_is_the_same_however_often_it_was_asked_for() {
    let mut rng = StdRng::seed_from_u64(12);
    let tiers = [None, Some(Precision::Int8), Some(Precision::Compact)];
    for (metric, precision) in METRICS.into_iter().flat_map(|metric| tiers.map(|tier| (metric, tier))) {
        let (mut set, points) = filled(metric, precision, &mut rng);
        let (view, mut scratch) = (set.publish(), Scratch::new());
        let vectors = vectors(&points, 12, &mut rng);
        for (bound, recall, k) in [(1, 0.9, 5), (5, 0.95, 10), (5, 0.6, 60), (8, 0.9, 10), (9, 0.98, 3), (9, 0.7, 40)] {
            let look = Look::Walk(Effort::Recall(recall));
            // Each search has a view's filter of its own, as each request has.
            let mut ask = |vector: &[f32]| {
                let filter = prepare(&view, &at_least(bound));
                let asked = SetQuery { filter: Some(&filter), ..query(vector, k, look) };
                hits(&view.search(&mut scratch, &asked).expect("a fitting query is answered").0)
            };
            let first: Vec<Vec<Hit>> = vectors.iter().map(|vector| ask(vector)).collect();
            for time in 1..TIMES {
                for (vector, first) in vectors.iter().zip(&first) {
                    let name = format!("{metric:?} {precision:?}, size {bound}, k {k}, recall {recall}, time {time}");
                    assert_eq!(ask(vector), *first, "{name}");
                }
            }
        }
    }
}

#[test]
fn shares_of_a_search_find_together_what_it_finds() {
    let mut rng = StdRng::seed_from_u64(13);
    for metric in METRICS {
        let (mut set, points) = filled(metric, None, &mut rng);
        let (view, mut scratch) = (set.publish(), Scratch::new());
        let filter = prepare(&view, &at_least(3));
        for vector in vectors(&points, 100, &mut rng) {
            for (k, recall, filter) in [(10, 0.9, None), (40, 0.5, None), (40, 0.5, Some(&filter))] {
                let asked = SetQuery { filter, ..query(&vector, k, Look::Walk(Effort::Recall(recall))) };
                let whole = hits(&view.search(&mut scratch, &asked).expect("a fitting query is answered").0);
                for parts in 2..5 {
                    let share = |part| view.search_part(part, parts, &mut Scratch::new(), &asked).expect("it fits").0;
                    let found = Found::merge(metric, k, (0..parts).map(share).collect());
                    assert_eq!(hits(&found), whole, "{metric:?}, k {k}, recall {recall}, {parts} parts");
                }
            }
        }
    }
}
