//! The scan of a segment against the definition, on vectors that are hard to tell apart.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::segment::{Precision, Rows};
use crate::set::scan::{Wanted, scan};

/// Equal ones, neighbours by one unit in the last place, multiples, and others.
fn hard_vectors(rng: &mut StdRng, dim: usize, count: usize) -> Vec<Vec<f32>> {
    let random = |rng: &mut StdRng| (0..dim).map(|_| rng.random_range(-1.0_f32..1.0)).collect::<Vec<f32>>();
    let mut vectors = vec![random(rng)];
    while vectors.len() < count {
        let mut vector = vectors[rng.random_range(0..vectors.len())].clone();
        let at = rng.random_range(0..dim);
        match rng.random_range(0..8) {
            0..3 => {}
            3..6 => vector[at] = vector[at].next_up(),
            6 => vector.iter_mut().for_each(|c| *c *= 1.1),
            _ => vector = random(rng),
        }
        vectors.push(vector);
    }
    vectors
}

/// What is left of each component in a block.
type Narrow = fn(f32) -> f32;

/// Precisions, and vectors that they keep whole or not.
fn kinds() -> [(&'static str, Option<Precision>, Narrow); 7] {
    [
        ("f32", None, |c| c),
        ("f16 that loses nothing", None, |c| half::f16::from_f32(c).to_f32()),
        ("f16 and f32", Some(Precision::F16), |c| c),
        ("u8 that loses nothing", None, |c| (c * 100.0).abs().round() + 1.0),
        ("u8 and f32", Some(Precision::U8), |c| c * 9.0),
        ("i8 and f32", Some(Precision::Int8), |c| c),
        ("compact and f32", Some(Precision::Compact), |c| c),
    ]
}

#[test]
fn a_scan_finds_what_the_definition_says() {
    let seed = 6;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for (metric, dim) in METRICS.into_iter().flat_map(|metric| [1, 20, 100, 384].map(|dim| (metric, dim))) {
        for (name, precision, narrow) in kinds() {
            let mut vectors = hard_vectors(&mut rng, dim, 400);
            vectors.iter_mut().flatten().for_each(|component| *component = narrow(*component));
            let points: Points =
                (0..).map(id).zip(vectors).map(|(id, vector)| (id, Point { version: 1, vector, size: 0 })).collect();
            let mut rows = Rows::with_capacity(u32::try_from(dim).expect("small"), points.len());
            points.iter().for_each(|(id, point)| rows.push(id.clone(), 1, &point.vector, payload(0).into()));
            let parameters = Parameters { precision, ..parameters(metric) };
            let segment = Segment::build(&rows, &parameters, &Target::Memory, &never).expect("nothing stops the build");
            check(&segment, &points, &format!("{metric:?}, {dim} components, {name}"), &mut rng);
        }
    }
}

fn check(segment: &Segment, points: &Points, name: &str, rng: &mut StdRng) {
    let metric = segment.metric();
    for k in [1, 7, 100, 1_000] {
        let vector = &points.values().nth(rng.random_range(0..points.len())).expect("there are points").vector;
        let limit = Exact::new(metric, vector).score(&points.values().next().expect("there are points").vector);
        for score_limit in [None, Some(limit)] {
            let offsets: Vec<u32> = (0..segment.len()).filter(|_| k == 7 || rng.random()).collect();
            let among: Points =
                offsets.iter().map(|offset| segment.id(*offset)).map(|id| (id.clone(), points[&id].clone())).collect();
            let query = SetQuery { score_limit, ..query(vector, k, Look::Exact) };
            let want = naive(metric, &among, &query, &Filter::default());
            let wanted = Wanted { vector, k, score_limit, stop: &never };
            let (hits, stats) = scan(segment, &offsets, &wanted).expect("nothing stops it");
            let found: Vec<Hit> = hits.iter().map(|(id, hit)| Hit { id: id.clone(), score: hit.score }).collect();
            assert_eq!(found, want, "{name}, k {k}, limit {score_limit:?}");
            assert!(hits.iter().all(|(id, hit)| segment.id(hit.offset) == *id), "{name}");
            assert_eq!(stats.scanned, offsets.len() as u64, "{name}");
        }
    }
}
