//! All points within a limit, against the definition.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::segment::Precision;

const DIM: u32 = 24;
const POINTS: u64 = 3_000;

/// Two segments and a delta, with a fifth of the points of each dead.
pub(super) fn filled(metric: Metric, precision: Option<Precision>, rng: &mut StdRng) -> (PointSet, Points) {
    let (mut set, mut points) = (PointSet::new(DIM, metric, POLICY), Points::new());
    let centers: Vec<Vec<f32>> = (0..10).map(|_| (0..DIM).map(|_| rng.random_range(-1.0..1.0)).collect()).collect();
    for number in 0..POINTS {
        let center = &centers[rng.random_range(0..centers.len())];
        let vector = center.iter().map(|c| c + rng.random_range(-0.5..0.5)).collect();
        let point = Point { version: number + 1, vector, size: rng.random_range(0..10) };
        upsert(&mut set, &mut points, id(number), point);
        if number == POINTS / 2 || number == POINTS - 50 {
            set.seal(None);
            let input = set.begin(set.plan().expect("a sealed delta is there")).expect("it is free");
            let parameters = Parameters { precision, ..parameters(metric) };
            let product = input.execute(&parameters, &Target::Memory, &never).expect("nothing stops the build");
            set.install(product).expect("the job runs");
        }
    }
    for number in (0..POINTS).step_by(5) {
        assert!(set.delete(&id(number)).is_some());
        points.remove(&id(number));
    }
    (set, points)
}

#[test]
fn all_points_within_a_limit_are_found_and_no_others() {
    let mut rng = StdRng::seed_from_u64(11);
    for (metric, precision) in [
        (Metric::Euclidean, None),
        (Metric::Cosine, Some(Precision::Int8)),
        (Metric::Dot, Some(Precision::Compact)),
        (Metric::Euclidean, Some(Precision::Compact)),
    ] {
        let (mut set, points) = filled(metric, precision, &mut rng);
        let view = set.publish();
        let mut scratch = Scratch::new();
        let (mut found, mut wanted) = (0, 0);
        for round in 0..12 {
            let own = &points.values().nth(rng.random_range(0..points.len())).expect("there are points").vector;
            let vector: Vec<f32> = own.iter().map(|c| c + rng.random_range(-0.2..0.2)).collect();
            let all = naive(metric, &points, &query(&vector, points.len(), WALK), &Filter::default());
            let cases = [0, 4, 70, 900].into_iter().flat_map(|rank| [0, 5, 9].map(|bound| (rank, at_least(bound))));
            for (rank, filter) in cases {
                let limit = Some(all[rank].score);
                let prepared = prepare(&view, &filter);
                let asked =
                    SetQuery { score_limit: limit, filter: Some(&prepared), ..query(&vector, POINTS as usize, WALK) };
                let want = naive(metric, &points, &asked, &filter);
                let got = view.within(&mut scratch, &asked).expect("a fitting query is answered");
                let name = format!("{metric:?} {precision:?}, round {round}, rank {rank}");
                assert!(!got.is_cut, "{name}");
                let hits = hits(&got.found);
                assert!(hits.iter().all(|hit| want.contains(hit)), "{name}: no other is found");
                assert!(hits.is_sorted_by(|a, b| metric.compare(a.score, b.score).is_le()), "{name}");
                (found, wanted) = (found + hits.len(), wanted + want.len());
            }
        }
        assert!(found * 100 >= wanted * 95, "{metric:?} {precision:?}: found {found} of {wanted}");
    }
}

#[test]
fn no_limit_and_one_that_nothing_meets_are_limits_too() {
    let (mut set, points) = filled(Metric::Euclidean, None, &mut StdRng::seed_from_u64(12));
    let (view, mut scratch) = (set.publish(), Scratch::new());
    let vector = vec![0.1; DIM as usize];
    for (limit, k, want, is_cut) in [
        (Some(0.0), 100, 0, false),
        (Some(-1.0), 100, 0, false),
        (Some(f32::MAX), 100, 100, true),
        (None, 0, 0, true),
        (Some(f32::MAX), points.len(), points.len(), false),
        (Some(f32::MAX), usize::MAX, points.len(), false),
    ] {
        for look in [WALK, Look::Exact] {
            let asked = SetQuery { score_limit: limit, ..query(&vector, k, look) };
            let got = view.within(&mut scratch, &asked).expect("a fitting query is answered");
            assert_eq!((got.found.len(), got.is_cut), (want, is_cut), "{limit:?}, {k}, {look:?}");
        }
    }
}

#[test]
fn what_is_not_within_costs_little() {
    let (mut set, points) = filled(Metric::Euclidean, None, &mut StdRng::seed_from_u64(13));
    let (view, mut scratch) = (set.publish(), Scratch::new());
    let vector = &points.values().next().expect("there are points").vector;
    let asked = SetQuery { score_limit: Some(0.0), ..query(vector, 10, WALK) };
    assert_eq!(view.within(&mut scratch, &asked).expect("a fitting query is answered").found.len(), 1, "itself");
    let mut hops = |limit, k| {
        let asked = SetQuery { score_limit: limit, ..query(vector, k, WALK) };
        view.within(&mut scratch, &asked).expect("a fitting query is answered").stats.walk.hops
    };
    let (few, plain) = (hops(Some(0.01), POINTS as usize), hops(None, 40));
    assert!(few <= 2 * plain, "{few} hops for a point within, {plain} for the nearest 40");
}
