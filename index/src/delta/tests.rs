//! The delta against a plain map and a naive search in `f64`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use shoal_model::{
    Classify, Condition, ErrorKind, Filter, Hit, Metric, Payload, PointId, Predicate, Range, Value, merge_top_k,
};

use super::*;
use crate::{CompiledFilter, IndexError, packed};

mod codes;
mod sameness;

type Points = BTreeMap<PointId, (Vec<f32>, Payload)>;

const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::Euclidean];
const DIMS: [u32; 6] = [1, 3, 100, 128, 384, 784];

fn never() -> bool {
    false
}

fn query<'a>(vector: &'a [f32], k: usize) -> Query<'a> {
    Query { vector, k, filter: None, score_limit: None, certainty: Certainty::Exact, stop: &never }
}

fn size_payload(size: i64) -> Payload {
    [("size".to_owned(), Value::Integer(size))].into()
}

/// Passes points of `size >= bound`.
fn at_least(bound: f64) -> Filter {
    let predicate = Predicate::Range(Range { gte: Some(bound), ..Range::default() });
    Filter { must: vec![Condition::Field { key: "size".into(), predicate }], ..Filter::default() }
}

/// The score by its definition, rounded to what is reported.
#[allow(clippy::cast_possible_truncation, reason = "the reported score is an f32")]
fn naive_score(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
    let sum = |term: &dyn Fn(f64, f64) -> f64, a: &[f32], b: &[f32]| {
        sum_by_16(a.iter().zip(b).map(|(a, b)| term(f64::from(*a), f64::from(*b))))
    };
    let dot = |a: &[f32], b: &[f32]| sum(&|a, b| a * b, a, b);
    let score = match metric {
        Metric::Cosine => dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()),
        Metric::Dot => dot(a, b),
        Metric::Euclidean => sum(&|a, b| (a - b) * (a - b), a, b).sqrt(),
    };
    score as f32 + 0.0
}

/// Terms added in the order of `crate::score`, for where they cancel out it shows in what is left.
fn sum_by_16(terms: impl Iterator<Item = f64>) -> f64 {
    let mut sums = [0.0; 16];
    terms.enumerate().for_each(|(i, term)| sums[i % 16] += term);
    for half in [8, 4, 2, 1] {
        (0..half).for_each(|i| sums[i] += sums[i + half]);
    }
    sums[0]
}

fn naive_search(metric: Metric, points: &Points, query: &Query<'_>, filter: &Filter) -> Vec<Hit> {
    let hits = points.iter().filter(|(id, (_, payload))| filter.matches(id, payload));
    let hits = hits.map(|(id, (vector, _))| Hit { id: id.clone(), score: naive_score(metric, query.vector, vector) });
    let near = |hit: &Hit| query.score_limit.is_none_or(|limit| metric.compare(hit.score, limit).is_le());
    merge_top_k(metric, query.k, vec![hits.filter(near).collect()])
}

fn hits(found: &[Found]) -> Vec<Hit> {
    found.iter().map(|found| Hit { id: found.id.clone(), score: found.score }).collect()
}

fn delta_of(dim: u32, metric: Metric, points: &Points) -> Delta {
    let mut delta = Delta::new(dim, metric);
    for (id, (vector, payload)) in points {
        delta.upsert(id.clone(), 0, vector, packed::encode(payload).into());
    }
    delta
}

/// Vectors that are hard to tell apart: equal ones, neighbours by one unit in the last place, multiples, and a few
/// with the largest and smallest components that are let in.
fn hard_vectors(rng: &mut StdRng, dim: usize, count: usize) -> Vec<Vec<f32>> {
    let random = |rng: &mut StdRng| (0..dim).map(|_| rng.random_range(-1.0_f32..1.0)).collect::<Vec<f32>>();
    let hostile = rng.random_bool(0.3);
    let mut vectors = vec![random(rng)];
    while vectors.len() < count {
        let mut vector = vectors[rng.random_range(0..vectors.len())].clone();
        let at = rng.random_range(0..dim);
        match rng.random_range(0..10) {
            0..3 => {}
            3..6 => vector[at] = if rng.random() { vector[at].next_up() } else { vector[at].next_down() },
            6 => vector.iter_mut().for_each(|c| *c *= 1.1),
            7 if hostile => vector[at] = if rng.random() { 1e16 } else { -1e16 },
            8 if hostile => vector.iter_mut().for_each(|c| *c = (*c * 1e-15).clamp(-1e16, 1e16)),
            _ => vector = random(rng),
        }
        if shoal_model::check_vector(&vector, u32::try_from(dim).expect("small"), Metric::Cosine).is_ok() {
            vectors.push(vector);
        }
    }
    vectors
}

fn hard_points(rng: &mut StdRng, vectors: Vec<Vec<f32>>) -> Points {
    let mut points = Points::new();
    for vector in vectors {
        let number = rng.random_range(0..1_000_000);
        let id = if rng.random() { PointId::Number(number) } else { PointId::Text(number.to_string().into()) };
        points.insert(id, (vector, size_payload(rng.random_range(0..100))));
    }
    points
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn search_is_what_a_naive_search_in_f64_finds(
        seed: u64, metric in 0_usize..3, dim in 0_usize..6, count in 1_usize..400, k in 1_usize..40,
        size in prop::option::of(0_i32..101), limited: bool, parts in 1_usize..5,
    ) {
        let (metric, dim) = (METRICS[metric], DIMS[dim]);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut vectors = hard_vectors(&mut rng, dim as usize, count + 1);
        let vector = vectors.swap_remove(rng.random_range(0..vectors.len()));
        let points = hard_points(&mut rng, vectors);
        let view = delta_of(dim, metric, &points).publish();

        let filter = size.map_or_else(Filter::default, |size| at_least(f64::from(size)));
        let compiled = CompiledFilter::new(&filter);
        let any = points.values().nth(points.len() / 3).expect("there are points");
        let score_limit = limited.then(|| naive_score(metric, &vector, &any.0));
        let query = Query { filter: size.map(|_| &compiled), score_limit, ..query(&vector, k) };

        let want = naive_search(metric, &points, &query, &filter);
        let (found, stats) = view.search(&query).expect("a fitting query is answered");
        prop_assert_eq!(&hits(&found), &want, "search finds what the definition says");
        prop_assert!(stats.rescored >= found.len() as u64 && stats.scanned <= points.len() as u64);
        for found in &found {
            let (vector, payload) = &points[&found.id];
            prop_assert_eq!(view.vector(found.row), &vector[..]);
            prop_assert_eq!(view.payload(found.row), &packed::encode(payload));
        }
        let part = |part| view.search_part(part, parts, &query).expect("a fitting query is answered").0;
        let merged = Found::merge(metric, k, (0..parts).map(part).collect());
        prop_assert_eq!(hits(&merged), want, "parts merge to the whole");
    }

    #[test]
    fn views_show_the_points_of_their_moment(
        dim in prop_oneof![Just(3_u32), Just(784), Just(40_000)],
        steps in prop::collection::vec((0_u8..12, 0_u64..60, any::<u16>()), 1..800),
    ) {
        let mut delta = Delta::new(dim, Metric::Dot);
        let mut points = Points::new();
        let mut moments: Vec<(Arc<DeltaView>, Points)> = vec![];
        for (step, id, value) in steps {
            let id = PointId::Number(id);
            match step {
                0..8 => {
                    let mut vector = vec![0.0; dim as usize];
                    vector[0] = f32::from(value);
                    delta.upsert(id.clone(), 0, &vector, packed::encode(&size_payload(value.into())).into());
                    points.insert(id, (vector, size_payload(value.into())));
                }
                8..11 => prop_assert_eq!(delta.delete(&id).is_some(), points.remove(&id).is_some()),
                _ if moments.len() < 4 => moments.push((delta.publish(), points.clone())),
                _ => drop(moments.remove(0)),
            }
            prop_assert_eq!(delta.len(), points.len());
        }
        moments.push((delta.publish(), points));
        for (view, points) in &moments {
            prop_assert_eq!(view.len(), points.len());
            let page = view.scroll(None, usize::MAX, None, &never).expect("nothing stops it");
            let shown: Vec<_> = page.iter().map(|(id, row)| (id, view.vector(*row), view.payload(*row).to_vec())).collect();
            let want: Vec<_> = points.iter().map(|(id, (v, payload))| (id, &v[..], packed::encode(payload))).collect();
            prop_assert!(shown == want, "a view changed, or shows another moment");
        }
    }

    #[test]
    fn pages_and_counts_are_those_of_a_sorted_map(seed: u64, count in 0_usize..300, limit in 0_usize..50, size in 0_i32..101) {
        let mut rng = StdRng::seed_from_u64(seed);
        let vectors = (0..count).map(|i| vec![i as f32]).collect();
        let points = hard_points(&mut rng, vectors);
        let view = delta_of(1, Metric::Euclidean, &points).publish();
        let filter = at_least(f64::from(size));
        let compiled = CompiledFilter::new(&filter);
        let passing: Vec<_> = points.iter().filter(|(id, (_, p))| filter.matches(id, p)).map(|(id, _)| id).collect();
        prop_assert_eq!(view.count(&compiled, &never), Ok(passing.len() as u64));
        let after = points.keys().nth(points.len() / 2);
        let page = view.scroll(after, limit, Some(&compiled), &never).expect("nothing stops it");
        let want: Vec<_> = passing.iter().filter(|id| Some(**id) > after).take(limit).collect();
        prop_assert_eq!(page.iter().map(|(id, _)| id).collect::<Vec<_>>(), want.into_iter().copied().collect::<Vec<_>>());
    }
}

#[test]
fn overwriting_and_deleting_do_not_grow_memory_for_ever() {
    let mut delta = Delta::new(64, Metric::Euclidean);
    let mut rng = StdRng::seed_from_u64(5);
    let payload = Bytes::from_static(&[1]);
    for id in 0..5_000 {
        delta.upsert(PointId::Number(id), 0, &[1.0; 64], payload.clone());
    }
    let fresh = delta.memory_bytes();
    let mut kept = None;
    for round in 0..200_000 {
        delta.upsert(PointId::Number(rng.random_range(0..5_000)), 0, &[2.0; 64], payload.clone());
        if round % 5_000 == 0 {
            kept = Some(delta.publish());
        }
    }
    assert_eq!(delta.len(), 5_000);
    let bytes = delta.memory_bytes();
    assert!(bytes < 5 * fresh / 2, "{bytes} bytes after 40 rounds of overwriting, {fresh} before");
    drop(kept);
    for id in 0..5_000 {
        assert!(delta.delete(&PointId::Number(id)).is_some());
    }
    assert!(delta.is_empty() && delta.publish().is_empty());
    let view_bytes: usize = delta.slots.iter().flatten().map(Slot::memory_bytes).sum();
    assert!(view_bytes <= 600 << 10, "an emptied delta keeps its tail and no more, not {view_bytes} bytes");
}

#[test]
fn equal_points_come_in_the_order_of_ids_whatever_k() {
    let mut delta = Delta::new(3, Metric::Cosine);
    for id in (0..5_000).rev() {
        delta.upsert(PointId::Number(id), 0, &[1.0, 2.0, 3.0], Bytes::new());
    }
    let view = delta.publish();
    for k in [1, 10, 4_999, 5_000, usize::MAX] {
        let (found, stats) = view.search(&query(&[3.0, 2.0, 1.0], k)).expect("a fitting query is answered");
        let want: Vec<_> = (0..5_000).map(PointId::Number).take(k).collect();
        assert_eq!(found.iter().map(|f| f.id.clone()).collect::<Vec<_>>(), want, "k {k}");
        assert_eq!(stats, SearchStats { estimated: 0, scanned: 5_000, filtered: 0, rescored: 5_000 }, "k {k}");
    }
}

#[test]
fn few_rows_need_f64() {
    let mut rng = StdRng::seed_from_u64(6);
    for metric in METRICS {
        let mut delta = Delta::new(384, metric);
        let mut vector = || (0..384).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
        for id in 0..5_000 {
            delta.upsert(PointId::Number(id), 0, &vector(), Bytes::new());
        }
        let (_, stats) = delta.publish().search(&query(&vector(), 10)).expect("a fitting query is answered");
        assert!(stats.rescored < 20, "{metric:?}: the bound lets {} of 5,000 rows through", stats.rescored);
    }
}

#[test]
fn what_cannot_be_answered_is_an_error() {
    let mut delta = Delta::new(3, Metric::Dot);
    let nothing = delta.publish().search(&query(&[1.0; 3], 5)).expect("an empty view answers");
    assert_eq!(nothing, (vec![], SearchStats::default()));
    for id in 0..100_000 {
        delta.upsert(PointId::Number(id), 0, &[1.0; 3], Bytes::from_static(&[1]));
    }
    let view = delta.publish();
    let error = view.search(&query(&[1.0; 2], 5)).expect_err("another dimension");
    assert_eq!(error, IndexError::Dimension { want: 3, got: 2 });
    assert_eq!((error.kind(), error.field()), (ErrorKind::Invalid, "vector"));
    assert_eq!(view.search(&query(&[1.0; 3], 0)).expect("asks for nothing").0, vec![]);

    let filter = CompiledFilter::new(&at_least(0.0));
    for asked_before_stop in [0, 3, 20] {
        let asked = AtomicUsize::new(0);
        let stop = || asked.fetch_add(1, Ordering::Relaxed) >= asked_before_stop;
        let searched = view.search(&Query { stop: &stop, ..query(&[1.0; 3], 5) });
        assert_eq!(searched, Err(IndexError::Cancelled), "after {asked_before_stop} questions");
        assert_eq!(asked.load(Ordering::Relaxed), asked_before_stop + 1, "search goes on after a yes");
    }
    assert_eq!(view.count(&filter, &|| true), Err(IndexError::Cancelled));
    assert_eq!(view.scroll(None, 5, None, &|| true), Err(IndexError::Cancelled));
}

#[test]
fn rows_come_in_the_order_of_their_writing() {
    let mut rng = StdRng::seed_from_u64(11);
    for dim in [3, 8_192, 40_000] {
        let mut delta = Delta::new(dim, Metric::Dot);
        let mut log: Vec<(PointId, u64)> = vec![];
        for version in 0..3_000 {
            let id = PointId::Number(rng.random_range(0..40));
            log.retain(|(written, _)| *written != id);
            if rng.random_bool(0.8) {
                let payload = packed::encode(&size_payload(version));
                let version = version.unsigned_abs();
                delta.upsert(id.clone(), version, &vec![version as f32; dim as usize], payload.into());
                log.push((id, version));
            } else {
                delta.delete(&id);
            }
        }
        let view = delta.publish();
        let rows: Vec<_> = view.rows().map(|row| (row.id.clone(), row.version)).collect();
        assert_eq!(rows, log, "dim {dim}");
        for row in view.rows() {
            assert_eq!(row.vector, vec![row.version as f32; dim as usize]);
            assert_eq!(*row.payload, packed::encode(&size_payload(row.version as i64)));
        }
    }
}
