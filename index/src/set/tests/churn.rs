//! Points that come and go, many times over: a set finds as much at the end as at the beginning.

use rand::SeedableRng;
use rand::seq::SliceRandom;

use super::*;
use crate::set::PartKind;

const DIM: usize = 32;
const LIVING: usize = 3_000;
const AWAY: usize = 600;
const ROUNDS: usize = 12;
const POLICY: Policy = Policy { delta_points_max: 600, delta_bytes_max: 1 << 30, segment_points_max: 100_000 };

/// A set through which points rotate: some live in it, the others wait to come back.
struct Wheel {
    rng: StdRng,
    set: PointSet,
    vectors: Vec<Vec<f32>>,
    living: Vec<u64>,
    away: Vec<u64>,
    version: u64,
    /// Jobs done: builds, and others.
    jobs: [usize; 2],
}

impl Wheel {
    fn new(metric: Metric) -> Self {
        let mut rng = StdRng::seed_from_u64(9);
        let mut vector = |spread: f32| (0..DIM).map(|_| rng.random_range(-spread..spread)).collect::<Vec<f32>>();
        let centers: Vec<Vec<f32>> = (0..30).map(|_| vector(1.0)).collect();
        let mut near = |i: usize| centers[i % 30].iter().zip(vector(0.6)).map(|(a, b)| a + b).collect();
        let vectors = (0..LIVING + AWAY).map(&mut near).collect();
        let set = PointSet::new(u32::try_from(DIM).expect("small"), metric, POLICY);
        let away = (0..).take(LIVING + AWAY).collect();
        Self { rng, set, vectors, living: Vec::new(), away, version: 0, jobs: [0; 2] }
    }

    /// The first of those that are away come, and all jobs are done.
    fn come(&mut self, count: usize) {
        for number in self.away.drain(..count) {
            self.version += 1;
            self.set.upsert(id(number), self.version, &self.vectors[number as usize], Vec::new().into());
            self.living.push(number);
            if self.set.is_full() {
                self.set.seal(None);
            }
        }
        self.set.seal(None);
        while let Some(job) = self.set.plan() {
            self.jobs[usize::from(!matches!(job, Job::Build { .. }))] += 1;
            run(&mut self.set, job);
        }
    }

    /// As many as are away go, drawn by lot.
    fn go(&mut self) {
        self.living.shuffle(&mut self.rng);
        for number in self.living.drain(..AWAY) {
            assert!(self.set.delete(&id(number)).is_some(), "it lived");
            self.away.push(number);
        }
    }

    /// Share of the true ten nearest that walks find at a fixed beam.
    fn recall(&mut self) -> f64 {
        let view = self.set.publish();
        assert_eq!((view.len(), view.unreachable()), (LIVING, 0), "points that live, and that no walk finds");
        assert!(view.parts().iter().all(|part| part.kind == PartKind::Segment || part.live == 0), "all is frozen");
        let found = self.vectors.iter().step_by(12).map(|vector| {
            let vector: Vec<f32> = vector.iter().map(|c| c + self.rng.random_range(-0.2..0.2)).collect();
            let [exact, walked] =
                [Look::Exact, Look::Walk(Effort::Beam(40))].map(|look| search(&view, &query(&vector, 10, look)));
            walked.iter().filter(|found| exact.contains(found)).count()
        });
        found.sum::<usize>() as f64 / (10 * self.vectors.len().div_ceil(12)) as f64
    }
}

#[test]
fn points_that_come_and_go_wear_nothing_out() {
    for metric in METRICS {
        let mut wheel = Wheel::new(metric);
        wheel.away.shuffle(&mut StdRng::seed_from_u64(10));
        wheel.come(LIVING);
        let before = wheel.recall();
        for round in 0..ROUNDS {
            let back = wheel.away.len();
            wheel.go();
            wheel.come(back);
            let recall = wheel.recall();
            assert!(recall >= before - 0.01, "{metric:?}, round {round}: recall {recall}, {before} at first");
        }
        assert!(wheel.jobs[1] >= ROUNDS / 3, "merges and rewrites were done: {:?}", wheel.jobs);
    }
}
