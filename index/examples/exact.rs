//! Microseconds of searches in one segment, exact ones and walks, and how long it takes to build: what row checks cost.
//!
//! Run with `cargo run --release -p shoal-index --example exact -- FOLDER CASE`, where FOLDER has the data sets
//! `debian-packages` and `fashion-mnist-784` as they are described there, and CASE is part of the
//! name of a case, or left out. k = 10; the walks want a recall of 0.95.

#![allow(clippy::unwrap_used, reason = "a measurement")]

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use half::f16;
use shoal_index::segment::{Effort, Parameters, Precision, Scratch, Target};
use shoal_index::set::{Job, Look, PointSet, Policy, SetQuery, View};
use shoal_model::{Metric, PointId};

const ROUNDS: usize = 9;
/// Points whose vectors fit a second level of cache, and that do not.
const POINTS: [usize; 2] = [300, 12_000];

fn main() {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "data".to_owned());
    let texts = read(&Path::new(&folder).join("debian-packages/base.npy"), 384);
    let pictures = read(&Path::new(&folder).join("fashion-mnist-784/base.npy"), 784);
    // What f16 does not hold, and what is as long as vectors of other models.
    let wide: Vec<Vec<f32>> = texts.iter().map(|vector| vector.iter().map(|c| c * 1.000_1).collect()).collect();
    let long: Vec<Vec<f32>> = wide.chunks_exact(4).map(<[Vec<f32>]>::concat).collect();
    let short: Vec<Vec<f32>> = wide.iter().map(|vector| vector[..96].to_vec()).collect();
    let cases = [
        ("f32 96 cosine", &short, Metric::Cosine, None),
        ("f32 384 cosine", &wide, Metric::Cosine, None),
        ("f32 384 euclidean", &wide, Metric::Euclidean, None),
        ("f32 1536 cosine", &long, Metric::Cosine, None),
        ("f16 384 cosine", &texts, Metric::Cosine, None),
        ("u8 784 euclidean", &pictures, Metric::Euclidean, None),
        ("int8 384 cosine", &wide, Metric::Cosine, Some(Precision::Int8)),
        ("compact 384 dot", &wide, Metric::Dot, Some(Precision::Compact)),
    ];
    let wanted = std::env::args().nth(2).unwrap_or_default();
    for (name, vectors, metric, precision) in cases.into_iter().filter(|case| case.0.contains(&wanted)) {
        for points in POINTS {
            let (points, queries) =
                vectors[..points.min(vectors.len() - 100) + 100].split_at(points.min(vectors.len() - 100));
            let (view, built) = view(points, metric, precision);
            let exact = microseconds(&view, queries, Look::Exact);
            let walk = microseconds(&view, queries, Look::Walk(Effort::Recall(0.95)));
            println!(
                "{name}, {} points: exact {exact:.1} walk {walk:.1} build {:.0} ms",
                points.len(),
                built.as_secs_f64() * 1e3
            );
        }
    }
}

/// The rows of a matrix of `f16` or bytes.
fn read(path: &Path, dim: usize) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).unwrap();
    let (header, rows) = bytes.split_at(128);
    let is_half = String::from_utf8_lossy(header).contains("<f2");
    let components: Vec<f32> = if is_half {
        rows.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
    } else {
        rows.iter().map(|byte| f32::from(*byte)).collect()
    };
    components.chunks_exact(dim).map(<[f32]>::to_vec).collect()
}

/// One segment of all points, and how long it took to build.
fn view(points: &[Vec<f32>], metric: Metric, precision: Option<Precision>) -> (Arc<View>, Duration) {
    let policy = Policy { delta_points_max: 1 << 20, delta_bytes_max: 1 << 40, segment_points_max: 1 << 30 };
    let mut set = PointSet::new(u32::try_from(points[0].len()).unwrap(), metric, policy);
    for (number, vector) in (0..).zip(points) {
        set.upsert(PointId::Number(number), number, vector, Vec::new().into());
    }
    let delta = set.seal(None).unwrap();
    let input = set.begin(Job::Build { delta }).unwrap();
    let started = Instant::now();
    let parameters = Parameters { metric, precision, ef_construction: 100, seed: 1 };
    let product = input.execute(&parameters, &Target::Memory, &|| false).unwrap();
    let built = started.elapsed();
    set.install(product).unwrap();
    (set.publish(), built)
}

/// Of one search, the median over all queries of the fastest of some rounds.
fn microseconds(view: &View, queries: &[Vec<f32>], look: Look) -> f64 {
    let mut scratch = Scratch::new();
    let mut fastest = vec![f64::INFINITY; queries.len()];
    for _ in 0..ROUNDS {
        for (fastest, vector) in fastest.iter_mut().zip(queries) {
            let query = SetQuery { vector, k: 10, look, filter: None, score_limit: None, stop: &|| false };
            let started = Instant::now();
            black_box(view.search(&mut scratch, &query).unwrap());
            *fastest = fastest.min(started.elapsed().as_secs_f64() * 1e6);
        }
    }
    fastest.sort_by(f64::total_cmp);
    fastest[fastest.len() / 2]
}
