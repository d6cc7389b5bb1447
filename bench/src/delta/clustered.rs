//! Points that lie as embeddings of text do, from a seed.
//!
//! A point is the sum of a direction that all share, that of its topic, that of a subject within the topic, and one of
//! its own, each a normal vector whose variance falls with the component's number, as the spectrum of embeddings does.
//! Their shares of a squared length of about one are [`SHARES`]; topics and subjects have sizes as in Zipf's law.
//! Queries are points of the same kind with less of a subject, as questions say less than texts.

use rand::seq::SliceRandom as _;
use rand::{Rng, SeedableRng, rngs::StdRng};
use shoal_model::Metric;

use crate::npy::Matrix;
use crate::set::Set;

const TOPICS: usize = 60;
const SUBJECTS: usize = 2_000;

/// Of what all share, the topic, the subject, and its own, in a point and in a query.
const SHARES: [f32; 4] = [0.18, 0.18, 0.22, 0.42];
const QUERY_SHARES: [f32; 4] = [0.18, 0.16, 0.16, 0.50];

/// `points` and `queries` of `dim` components. The truth is empty: whoever searches has to find it.
pub(crate) fn set(dim: usize, points: usize, queries: usize, seed: u64) -> Set {
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::new(&mut rng, dim);
    let base = world.points(&mut rng, points, SHARES);
    let queries = world.points(&mut rng, queries, QUERY_SHARES);
    let truth = Matrix::new(1, vec![-1; queries.len()]);
    Set::new(format!("clustered-{dim}"), Metric::Cosine, base, queries, truth)
}

/// `count` rows, or all if there are fewer, in an order that a seed decides.
pub(crate) fn sample(base: &Matrix<f32>, count: usize, seed: u64) -> Matrix<f32> {
    let mut rows: Vec<&[f32]> = base.rows().collect();
    rows.shuffle(&mut StdRng::seed_from_u64(seed));
    rows.truncate(count);
    Matrix::new(base.columns(), rows.concat())
}

struct World {
    common: Vec<f32>,
    topics: Vec<Vec<f32>>,
    /// With the number of their topic.
    subjects: Vec<(usize, Vec<f32>)>,
}

impl World {
    fn new(rng: &mut StdRng, dim: usize) -> Self {
        let topics = (0..TOPICS).map(|_| direction(rng, dim)).collect();
        let subjects = (0..SUBJECTS).map(|_| (zipf(rng, TOPICS), direction(rng, dim))).collect();
        Self { common: direction(rng, dim), topics, subjects }
    }

    fn points(&self, rng: &mut StdRng, count: usize, shares: [f32; 4]) -> Matrix<f32> {
        let dim = self.common.len();
        let mut values = Vec::with_capacity(count * dim);
        let [a, b, c, d] = shares.map(f32::sqrt);
        for _ in 0..count {
            let (topic, subject) = &self.subjects[zipf(rng, SUBJECTS)];
            let own = direction(rng, dim);
            let parts = self.common.iter().zip(&self.topics[*topic]).zip(subject).zip(&own);
            values.extend(parts.map(|(((w, x), y), z)| a * w + b * x + c * y + d * z));
        }
        Matrix::new(dim, values)
    }
}

/// A vector of unit length whose components' variance falls with the root of their number.
#[allow(clippy::cast_precision_loss, reason = "dimensions are small")]
fn direction(rng: &mut StdRng, dim: usize) -> Vec<f32> {
    let mut vector: Vec<f32> = (0..dim).map(|i| gaussian(rng) / ((i + 1) as f32).powf(0.25)).collect();
    let length = vector.iter().map(|c| c * c).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|c| *c /= length);
    vector
}

/// A normal variable. Source: Box and Muller, 1958.
fn gaussian(rng: &mut StdRng) -> f32 {
    let (u, v): (f32, f32) = (1.0 - rng.random::<f32>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

/// A number below `count`, drawn about as often as its inverse says.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small counts")]
fn zipf(rng: &mut StdRng, count: usize) -> usize {
    let number = (count as f64 + 1.0).powf(rng.random::<f64>()) - 1.0;
    (number as usize).min(count - 1)
}
