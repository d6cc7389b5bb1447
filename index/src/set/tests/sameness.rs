//! Sets of the same points and the same segments give the same answers, byte for byte: one that has been written to all the
//! time, and those that were filled from a store, whichever delta has what, and however many threads search.

use rand::SeedableRng;
use rand::seq::SliceRandom as _;

use super::*;
use crate::delta::Center;

const SEEDS: u64 = 16;
const POINTS: u64 = 3_000;
const QUERIES: usize = 100;

/// So near to each other that many are about as near as the last that is wanted.
fn crowded(rng: &mut StdRng, dim: u32, version: u64) -> Point {
    let vector = (0..dim).map(|_| rng.random_range(-1.0..1.3)).collect();
    Point { version, vector, size: rng.random_range(0..10) }
}

/// What codes of the two deltas are made around.
type Centers = [Option<Center>; 2];

/// A set with two segments and two deltas, some of whose points were overwritten and removed since.
fn lived(rng: &mut StdRng, dim: u32, metric: Metric, centers: &Centers) -> (PointSet, Points) {
    let (mut set, mut points) = (PointSet::new(dim, metric, POLICY), Points::new());
    for version in 1..=4 {
        let from = version * POINTS / 5;
        for number in from..from + POINTS / 4 {
            upsert(&mut set, &mut points, id(number), crowded(rng, dim, version));
        }
        for _ in 0..POINTS / 20 {
            let id = id(rng.random_range(0..POINTS));
            set.delete(&id);
            points.remove(&id);
        }
        if version < 4 {
            let next = [None, centers[0].clone(), centers[1].clone()];
            let delta = set.seal(next[usize::try_from(version).expect("small") - 1].clone()).expect("it has points");
            if version < 3 {
                run(&mut set, Job::Build { delta });
            }
        }
    }
    (set, points)
}

/// The same points, filled from a store.
fn restarted(rng: &mut StdRng, set: &PointSet, points: &Points, centers: &Centers) -> PointSet {
    let copy = |segment: &Arc<Segment>| {
        let [graph, stored] = [segment.graph_image(), segment.stored_image()].map(|image| image.bytes().to_vec());
        Segment::from_bytes(&graph, &stored).expect("it was built")
    };
    let mut segments: Vec<Segment> = set.segments().map(copy).collect();
    segments.shuffle(rng);
    let [sealed, active] = centers.clone();
    let is_one = sealed == active;
    let sealed = vec![sealed.clone(), sealed];
    let restart = PointSet::with_segments(set.dim, set.metric, POLICY, segments, sealed, active);
    let mut restart = restart.expect("segments are of this shape");
    let mut rows: Vec<_> = points.iter().collect();
    rows.shuffle(rng);
    for (id, point) in rows {
        if !restart.record(id, point.version) {
            // Where all are around one place, it does not matter which has what.
            let any = [None, Some(0), Some(1)][rng.random_range(0..3)];
            let own = if point.version == 4 { None } else { Some(rng.random_range(0..2)) };
            let delta = if is_one { any } else { own };
            restart.upsert(delta, id.clone(), point.version, &point.vector, payload(point.size).into());
        }
    }
    restart.finish()
}

#[test]
fn answers_depend_on_points_and_segments_and_on_nothing_else() {
    for seed in 0..SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let (metric, dim) = (METRICS[rng.random_range(0..3)], [16, 64, 100][rng.random_range(0..3)]);
        let mut center = || {
            let mean = (0..dim).map(|_| rng.random_range(0.0..0.3)).collect();
            Some(Center { mean, length: 3.0 })
        };
        let centers = if seed % 2 == 0 { [center(), center()] } else { [None, None] };
        let (mut set, points) = lived(&mut rng, dim, metric, &centers);
        let mut views = vec![set.publish()];
        views.extend((0..2).map(|_| restarted(&mut rng, &set, &points, &centers).publish()));
        for number in 0..QUERIES {
            let vector = crowded(&mut rng, dim, 0).vector;
            let k = [1, 10, 50, 300][rng.random_range(0..4)];
            let effort = [Effort::Recall(0.8), Effort::Recall(0.98), Effort::Recall(0.9999), Effort::Beam(300)];
            let look = Look::Walk(effort[rng.random_range(0..4)]);
            let last = search(&views[0], &query(&vector, k, Look::Exact)).pop().expect("there are points");
            let score_limit = rng.random_bool(0.3).then_some(last.score);
            let query = SetQuery { score_limit, ..query(&vector, k, look) };
            let answers = views.iter().map(|view| {
                let parts = rng.random_range(1..6);
                let part = |part| view.search_part(part, parts, &mut Scratch::new(), &query).expect("it fits").0;
                hits(&Found::merge(metric, k, (0..parts).map(part).collect()))
            });
            let answers: Vec<Vec<Hit>> = answers.collect();
            let case = format!("seed {seed}, query {number}: {metric:?}, {look:?}, k {k}, limit {score_limit:?}");
            assert!(answers[1..].iter().all(|answer| *answer == answers[0]), "{case}");
        }
    }
}
