//! Search by codes against search of every vector. Codes may miss a row, about one in a million, so seeds are fixed.

use super::*;
use crate::delta::codes::DIM_MAX;

const DIMS: [usize; 9] = [1, 2, 3, 20, 64, 100, 384, 784, 1_100];

/// Points that were written, overwritten and deleted in no order.
fn busy_delta(rng: &mut StdRng, dim: u32, metric: Metric, points: &Points) -> Delta {
    let mut delta = Delta::new(dim, metric);
    let mut put = |id: &PointId, vector: &[f32], payload: &Payload| {
        delta.upsert(id.clone(), 0, vector, packed::encode(payload).into());
    };
    let all: Vec<_> = points.iter().collect();
    for _ in 0..all.len() / 2 {
        let ((id, _), (_, (vector, payload))) = (all[rng.random_range(0..all.len())], all[0]);
        put(id, vector, payload);
    }
    for (id, (vector, payload)) in &all {
        put(id, vector, payload);
    }
    for _ in 0..all.len() / 3 {
        let (id, _) = all[rng.random_range(0..all.len())];
        delta.delete(id);
    }
    delta
}

/// Around a few places far from zero, as embeddings and images lie.
fn clustered(rng: &mut StdRng, dim: usize, count: usize) -> Vec<Vec<f32>> {
    let places = rng.random_range(1..20);
    let (offset, noise) = (rng.random_range(0.0..5.0), rng.random_range(0.01..2.0_f32));
    let mut around = |center: &[f32], noise: f32| center.iter().map(|c| c + rng.random_range(-noise..noise)).collect();
    let places: Vec<Vec<f32>> = (0..places).map(|_| around(&vec![offset; dim], 1.0)).collect();
    (0..count).map(|i| around(&places[i % places.len()], noise)).collect()
}

/// One vector and its multiples, with zeros and huge ones among them.
fn degenerate(rng: &mut StdRng, dim: usize, count: usize, metric: Metric) -> Vec<Vec<f32>> {
    let scales: &[f32] = &[1.0, 1.0, 1.0, -1.0, 2.0, 1e-12, 1e12, -1e15, 1e-16, 0.0];
    let line: Vec<f32> = (0..dim).map(|_| rng.random_range(0.1..1.0)).collect();
    let scales = &scales[..if metric == Metric::Cosine { scales.len() - 1 } else { scales.len() }];
    let kinds = rng.random_range(1..=scales.len());
    (0..count).map(|_| scales[rng.random_range(0..kinds)]).map(|s| line.iter().map(|c| c * s).collect()).collect()
}

#[test]
fn codes_find_what_comparing_every_row_finds() {
    for seed in 0..600 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (metric, dim) = (METRICS[rng.random_range(0..3)], DIMS[rng.random_range(0..DIMS.len())]);
        let count_end = if rng.random_bool(0.3) { 3_000 } else { 300 };
        let count = rng.random_range(2..count_end);
        let mut vectors = match rng.random_range(0..3) {
            0 => hard_vectors(&mut rng, dim, count),
            1 => clustered(&mut rng, dim, count),
            _ => degenerate(&mut rng, dim, count, metric),
        };
        let queries = vectors.split_off(count - count.min(4) / 2);
        let points = hard_points(&mut rng, vectors);
        let view = busy_delta(&mut rng, u32::try_from(dim).expect("small"), metric, &points).publish();
        for vector in &queries {
            let case = format!("seed {seed}: {metric:?}, {} of dimension {dim}", view.len());
            compare(&mut rng, &case, &view, &points, vector);
        }
    }
}

/// One query with and without a filter, a limit, parts.
fn compare(rng: &mut StdRng, case: &str, view: &DeltaView, points: &Points, vector: &[f32]) {
    let filter = CompiledFilter::new(&at_least(rng.random_range(0.0..101.0)));
    let filter = rng.random::<bool>().then_some(&filter);
    let any = points.values().nth(rng.random_range(0..points.len())).expect("there are points");
    let score_limit = rng.random_bool(0.3).then(|| naive_score(view.metric(), vector, &any.0));
    let k = if rng.random_bool(0.1) { usize::MAX } else { rng.random_range(1..40) };
    let exact = Query { filter, score_limit, ..query(vector, k) };
    let codes = Query { certainty: Certainty::Sure, ..exact };
    let (want, _) = view.search(&exact).expect("a fitting query is answered");
    let (found, stats) = view.search(&codes).expect("a fitting query is answered");
    assert_eq!(hits(&found), hits(&want), "{case}, k {k}, filtered {}, limit {score_limit:?}", filter.is_some());
    assert!(stats.scanned <= view.len() as u64, "{case}: a row is compared once");
    let parts = rng.random_range(1..5);
    let part = |part| view.search_part(part, parts, &codes).expect("a fitting query is answered").0;
    let merged = Found::merge(view.metric(), k, (0..parts).map(part).collect());
    assert_eq!(merged, found, "{case}: parts merge to the whole");
}

/// So many rows that they are estimated in several windows, each place written in one go.
#[test]
fn many_rows_are_searched_window_by_window() {
    let mut rng = StdRng::seed_from_u64(7);
    for metric in METRICS {
        let places = clustered(&mut rng, 8, 200);
        let mut delta = Delta::new(8, metric);
        for id in 0..50_000_usize {
            let vector: Vec<f32> = places[id / 250].iter().map(|c| c + rng.random_range(-0.3..0.3)).collect();
            delta.upsert(PointId::Number(id as u64), 0, &vector, packed::encode(&size_payload(id as i64 % 100)).into());
        }
        for id in (0..50_000).step_by(3) {
            delta.delete(&PointId::Number(id));
        }
        let view = delta.publish();
        for (round, vector) in places.iter().enumerate().take(60) {
            let filter = CompiledFilter::new(&at_least([0.0, 50.0, 99.0, 100.0][round % 4]));
            let exact = Query { filter: Some(&filter), ..query(vector, 10) };
            let (want, _) = view.search(&exact).expect("a fitting query is answered");
            let (found, stats) =
                view.search(&Query { certainty: Certainty::Sure, ..exact }).expect("a fitting query is answered");
            assert_eq!(hits(&found), hits(&want), "{metric:?} query {round}");
            assert_eq!(stats.estimated, view.len() as u64);
        }
    }
}

#[test]
fn codes_spare_most_vectors_wherever_these_lie() {
    let mut rng = StdRng::seed_from_u64(8);
    for (metric, offset) in METRICS.into_iter().flat_map(|metric| [(metric, 0.0), (metric, 3.0)]) {
        let places: Vec<Vec<f32>> =
            (0..50).map(|_| (0..384).map(|_| offset + rng.random_range(-1.0..1.0)).collect()).collect();
        let mut near = |i: usize| places[i % 50].iter().map(|c| c + rng.random_range(-0.5..0.5)).collect::<Vec<f32>>();
        let mut fill = |mut delta: Delta| {
            for id in 0..5_000 {
                delta.upsert(PointId::Number(id as u64), 0, &near(id), Bytes::new());
            }
            delta
        };
        // The first has nothing to go by.
        let center = if offset > 0.0 { fill(Delta::new(384, metric)).center() } else { None };
        let mut delta = fill(Delta::around(384, metric, center));
        let vector = near(0);
        let query = Query { certainty: Certainty::Sure, ..query(&vector, 10) };
        let (_, stats) = delta.publish().search(&query).expect("a fitting query is answered");
        assert_eq!(stats.estimated, 5_000);
        assert!(stats.scanned < 500, "{metric:?} at {offset}: {} of 5,000 vectors were read", stats.scanned);
    }
}

#[test]
fn queries_that_codes_cannot_be_asked_about_are_compared_with_every_vector() {
    let mut rng = StdRng::seed_from_u64(9);
    for (dim, length) in [(3, 0.0), (3, 1e-12), (3, 1e12), (DIM_MAX as usize + 1, 1.0)] {
        let mut delta = Delta::new(u32::try_from(dim).expect("small"), Metric::Dot);
        for (id, vector) in hard_vectors(&mut rng, dim, 50).into_iter().enumerate() {
            delta.upsert(PointId::Number(id as u64), 0, &vector, Bytes::new());
        }
        let (view, vector) = (delta.publish(), vec![length; dim]);
        let (found, stats) =
            view.search(&Query { certainty: Certainty::Sure, ..query(&vector, 10) }).expect("it is answered");
        assert_eq!(found, view.search(&query(&vector, 10)).expect("it is answered").0, "dim {dim} length {length}");
        assert_eq!((stats.estimated, stats.scanned), (0, 50), "dim {dim} length {length}");
    }
}

#[test]
fn a_search_by_codes_ends_when_it_is_told_to() {
    let mut delta = Delta::new(384, Metric::Dot);
    for id in 0..20_000 {
        delta.upsert(PointId::Number(id), 0, &[1.0; 384], Bytes::new());
    }
    let view = delta.publish();
    for asked_before_stop in [0, 3, 20] {
        let asked = AtomicUsize::new(0);
        let stop = || asked.fetch_add(1, Ordering::Relaxed) >= asked_before_stop;
        let searched = view.search(&Query { stop: &stop, certainty: Certainty::Sure, ..query(&[1.0; 384], 5) });
        assert_eq!(searched, Err(IndexError::Cancelled), "after {asked_before_stop} questions");
        assert_eq!(asked.load(Ordering::Relaxed), asked_before_stop + 1, "search goes on after a yes");
    }
}
