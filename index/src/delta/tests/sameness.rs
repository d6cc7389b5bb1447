//! The same points, however they came to be in a delta, give the same answers, byte for byte.

use rand::seq::SliceRandom as _;

use super::*;
use crate::delta::codes::Coder;
use crate::delta::probe::{Probe, SIGMAS_LIKELY, SIGMAS_SURE};
use crate::kernels::BATCH;

/// Codes miss one in some thousands, so many have to be asked for until two that miss others would show.
const SEEDS: u64 = 60;
const QUERIES: usize = 12;

/// So near to each other that many are about as near as the last that is wanted, around a place off zero.
fn crowd(rng: &mut StdRng, dim: usize, count: usize) -> Vec<Vec<f32>> {
    let offset = rng.random_range(0.0..0.6_f32);
    (0..count).map(|_| (0..dim).map(|_| offset + rng.random_range(-1.0..1.0)).collect()).collect()
}

/// A delta that comes to have these points: in an order of its own, with other points and other versions in between, chunks
/// that are dissolved, and views that are published meanwhile.
fn history(rng: &mut StdRng, dim: u32, metric: Metric, points: &Points, center: Option<&Center>) -> Arc<DeltaView> {
    let mut delta = Delta::around(dim, metric, center.cloned());
    let mut order: Vec<_> = points.iter().collect();
    order.shuffle(rng);
    let others = if rng.random() { points.len() } else { 1 };
    let before = crowd(rng, dim as usize, others);
    let mut views = Vec::new();
    for (number, vector) in (0..).zip(&before) {
        let (id, _) = order[rng.random_range(0..order.len())];
        let id = if rng.random() { id.clone() } else { PointId::Number(u64::MAX - number) };
        delta.upsert(id, 1, &vector.iter().map(|c| 3.0 * c + 1.0).collect::<Vec<_>>(), Bytes::new());
    }
    for (id, (vector, payload)) in order {
        delta.upsert(id.clone(), 2, vector, packed::encode(payload).into());
        if rng.random_bool(0.01) {
            views.push(delta.publish());
        }
    }
    for number in 0..before.len() as u64 {
        delta.delete(&PointId::Number(u64::MAX - number));
    }
    assert_eq!(delta.len(), points.len());
    delta.publish()
}

/// One about where a crowd is.
fn center_of(rng: &mut StdRng, dim: u32, metric: Metric) -> Option<Center> {
    let rows = crowd(rng, dim as usize, 50);
    Center::of(metric, dim, rows.iter().map(|row| &row[..]))
}

/// All of an answer but where its rows lie.
fn bytes(found: &[Found]) -> Vec<(PointId, u32, u64)> {
    found.iter().map(|found| (found.id.clone(), found.score.to_bits(), found.nearness.to_bits())).collect()
}

#[test]
fn answers_depend_on_the_points_and_on_nothing_else() {
    let mut missed = 0;
    for seed in 0..SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let (metric, dim) = (METRICS[rng.random_range(0..3)], [3, 64, 100, 384][rng.random_range(0..4)]);
        let count = rng.random_range(500..4_000);
        let mut vectors = crowd(&mut rng, dim, count + QUERIES);
        let queries = vectors.split_off(count);
        let points: Points = (0..)
            .zip(vectors)
            .map(|(number, vector)| (PointId::Number(number), (vector, size_payload(rng.random_range(0..100)))))
            .collect();
        let dim = u32::try_from(dim).expect("small");
        let center = (rng.random::<bool>().then(|| center_of(&mut rng, dim, metric))).flatten();
        let views: Vec<_> = (0..3).map(|_| history(&mut rng, dim, metric, &points, center.as_ref())).collect();
        for vector in &queries {
            missed += compare(&mut rng, &format!("seed {seed}: {metric:?}, {dim} dimensions"), &views, vector);
        }
    }
    assert!(missed > 10, "only {missed} were missed: no other answer could have shown");
}

/// Asks all views one question in several parts; tells how many points that are in the answer codes missed.
fn compare(rng: &mut StdRng, case: &str, views: &[Arc<DeltaView>], vector: &[f32]) -> usize {
    let metric = views[0].metric();
    let filter = CompiledFilter::new(&at_least(rng.random_range(0.0..101.0)));
    let filter = rng.random_bool(0.3).then_some(&filter);
    let k = [1, 10, 100, 300][rng.random_range(0..4)];
    let exact = Query { filter, ..query(vector, k) };
    let mut truth = views[0].search(&exact).expect("a fitting query is answered").0;
    // With a limit as many as are within it may be wanted.
    let score_limit = truth.last().filter(|_| rng.random_bool(0.5)).map(|last| last.score);
    let k = if score_limit.is_some() && rng.random() { usize::MAX } else { k };
    let certainty = [Certainty::Sure, Certainty::Likely, Certainty::Likely][rng.random_range(0..3)];
    let codes = Query { filter, score_limit, certainty, ..query(vector, k) };
    let answers = views.iter().map(|view| {
        let parts = rng.random_range(1..6);
        let part = |part| view.search_part(part, parts, &codes).expect("a fitting query is answered").0;
        Found::merge(metric, k, (0..parts).map(part).collect())
    });
    let answers: Vec<_> = answers.collect();
    for answer in &answers[1..] {
        let case = format!("{case}, {certainty:?}, k {k}, limit {score_limit:?}, filtered {}", filter.is_some());
        assert_eq!(bytes(answer), bytes(&answers[0]), "{case}");
    }
    truth.retain(|found| !answers[0].iter().any(|other| other.id == found.id));
    truth.len()
}

/// A row is turned away under a floor if its ceiling is below it, and only then if its batch has no other row.
#[test]
fn a_ceiling_is_the_highest_floor_that_a_row_reaches() {
    let mut rng = StdRng::seed_from_u64(12);
    for round in 0..300 {
        let (metric, dim) = (METRICS[round % 3], [1, 3, 64, 100, 384][round % 5]);
        let mut vectors = if rng.random() { hard_vectors(&mut rng, dim, 21) } else { crowd(&mut rng, dim, 21) };
        let vector = vectors.pop().expect("some were made");
        let dim = u32::try_from(dim).expect("small");
        let center = (rng.random::<bool>().then(|| center_of(&mut rng, dim, metric))).flatten();
        let mut coder = Coder::new(dim, metric, center).expect("so few dimensions have codes");
        let frame = coder.frame().clone();
        let bound = bound::Bound::new(metric, &vector);
        let sigmas = [SIGMAS_SURE, SIGMAS_LIKELY][round % 2];
        let Some(probe) = Probe::new(metric, &frame, bound.query(), sigmas) else { continue };
        let mut together = coder.room(BATCH);
        for (lane, row) in vectors.iter().enumerate() {
            together.put(lane, &coder.encode(row, bound::scale(metric, row)));
        }
        let mut estimates = [0.0; BATCH];
        probe.estimate(&together, 0, &mut estimates);
        for (lane, row) in vectors.iter().enumerate() {
            let mut alone = coder.room(BATCH);
            alone.put(7, &coder.encode(row, bound::scale(metric, row)));
            let mut estimate = [0.0; BATCH];
            probe.estimate(&alone, 0, &mut estimate);
            assert_eq!(estimate[7].to_bits(), estimates[lane].to_bits(), "wherever a row lies");
            let ceiling = probe.ceiling(together.factors(0), lane, estimates[lane], f64::MAX);
            assert_eq!(probe.ceiling(alone.factors(0), 7, estimate[7], f64::MAX).to_bits(), ceiling.to_bits());
            if ceiling.is_infinite() {
                continue;
            }
            #[allow(clippy::cast_possible_truncation, reason = "it was an f32")]
            let at = (if metric == Metric::Euclidean { 0.5 * ceiling } else { ceiling }) as f32;
            for floor in [at, at.next_down(), at - at.abs() * rng.random::<f32>()] {
                assert!(probe.within(together.factors(0), &estimates, floor) >> lane & 1 == 1, "reached in any batch");
                assert!(probe.within(alone.factors(0), &estimate, floor) >> 7 & 1 == 1, "and alone");
            }
            for floor in [at.next_up(), at + at.abs() * rng.random::<f32>() + f32::MIN_POSITIVE] {
                assert!(probe.within(alone.factors(0), &estimate, floor) >> 7 & 1 == 0, "and not beyond");
            }
            for high in [ceiling, ceiling.next_down(), ceiling - ceiling.abs()] {
                assert!(probe.ceiling(alone.factors(0), 7, estimate[7], high) >= high, "what a row may have, it has");
            }
        }
    }
}
