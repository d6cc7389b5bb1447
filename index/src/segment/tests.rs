//! Segments as their users see them: recall, hostile shapes of data, determinism, damage.

mod filters;
mod merging;

use std::collections::HashSet;

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rayon::ThreadPoolBuilder;
use shoal_model::{Condition, Filter, Metric, Payload, PointId, Predicate, Scalar, Value};

use super::{Effort, Hit, Parameters, Precision, Rows, Scratch, Segment, SegmentQuery, Target, WalkStats};
use crate::IndexError;
use crate::file::Residency;
use crate::packed;
use crate::score::Exact;

const SEED: u64 = 20;
const TIERS: [Option<Precision>; 3] = [None, Some(Precision::Int8), Some(Precision::Compact)];
const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::Euclidean];

fn rows(dim: usize, vectors: &[Vec<f32>]) -> Rows {
    let mut rows = Rows::with_capacity(u32::try_from(dim).expect("small"), vectors.len());
    for (i, vector) in (0..).zip(vectors) {
        rows.push(PointId::Number(i), i + 7, vector, Bytes::from(vec![7; i as usize % 5]));
    }
    rows
}

/// Vectors around a few centres, as those of texts lie.
fn clustered(dim: usize, len: usize, rng: &mut StdRng) -> Vec<Vec<f32>> {
    let mut vector = |spread: f32| (0..dim).map(|_| rng.random_range(-spread..spread)).collect::<Vec<f32>>();
    let centers: Vec<Vec<f32>> = (0..20).map(|_| vector(1.0)).collect();
    (0..len).map(|i| centers[i % 20].iter().zip(vector(0.8)).map(|(a, b)| a + b).collect()).collect()
}

fn build(metric: Metric, dim: usize, vectors: &[Vec<f32>]) -> Segment {
    build_with(metric, None, dim, vectors, 2)
}

fn build_with(
    metric: Metric,
    precision: Option<Precision>,
    dim: usize,
    vectors: &[Vec<f32>],
    threads: usize,
) -> Segment {
    let parameters = Parameters { metric, precision, ef_construction: 100, seed: SEED };
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
    pool.install(|| Segment::build(&rows(dim, vectors), &parameters, &Target::Memory, &|| false))
        .expect("nothing stops the build")
}

fn query(vector: &[f32], k: usize) -> SegmentQuery<'_> {
    let (effort, stop) = (Effort::Recall(0.98), &|| false);
    SegmentQuery { vector, k, effort, live: None, filter: None, packed: None, score_limit: None, stop }
}

fn ask(segment: &Segment, query: &SegmentQuery<'_>) -> (Vec<Hit>, WalkStats) {
    segment.search(&mut Scratch::new(), query).expect("a fitting query is answered")
}

/// Scores of all vectors, nearest first.
fn truth(metric: Metric, vector: &[f32], vectors: &[Vec<f32>]) -> Vec<f32> {
    let exact = Exact::new(metric, vector);
    let mut scores: Vec<f32> = vectors.iter().map(|row| exact.score(row)).collect();
    scores.sort_by(|a, b| metric.compare(*a, *b));
    scores
}

#[test]
fn the_nearest_are_found_under_every_metric_and_dimension() {
    let cases = [3, 100, 384, 784].into_iter().flat_map(|dim| METRICS.map(|metric| (dim, metric)));
    for ((dim, metric), precision) in cases.flat_map(|case| TIERS.map(|precision| (case, precision))) {
        let mut rng = StdRng::seed_from_u64(SEED);
        let vectors = clustered(dim, 3_000, &mut rng);
        let segment = build_with(metric, precision, dim, &vectors, 2);
        let (mut found, queries) = (0, 40);
        for own in 0..queries {
            let vector: Vec<f32> = vectors[own * 7].iter().map(|c| c + rng.random_range(-0.3..0.3)).collect();
            let (hits, _) = ask(&segment, &query(&vector, 10));
            let last = truth(metric, &vector, &vectors)[9];
            found += hits.iter().filter(|hit| metric.compare(hit.score, last).is_le()).count();
            let offsets: HashSet<u32> = hits.iter().map(|hit| hit.offset).collect();
            assert_eq!(offsets.len(), 10, "{metric:?} {dim}: each point once");
            assert!(hits.is_sorted_by(|a, b| metric.compare(a.score, b.score).is_le()), "{metric:?} {dim}");
        }
        let recall = found as f64 / (10 * queries) as f64;
        assert!(recall >= 0.95, "{metric:?} {dim} {precision:?}: recall {recall}");
    }
}

#[test]
fn points_of_one_score_come_in_the_order_of_their_ids() {
    for (metric, precision) in METRICS.into_iter().flat_map(|metric| TIERS.map(|tier| (metric, tier))) {
        let mut rng = StdRng::seed_from_u64(SEED);
        let distinct = clustered(16, 100, &mut rng);
        let vectors: Vec<Vec<f32>> = (0..600).map(|number| distinct[number % 100].clone()).collect();
        let segment = build_with(metric, precision, 16, &vectors, 2);
        for vector in distinct.iter().take(20) {
            let (hits, _) = ask(&segment, &query(vector, 10));
            let by_id = |a: &Hit, b: &Hit| {
                (metric.compare(a.score, b.score)).then_with(|| segment.id(a.offset).cmp(&segment.id(b.offset)))
            };
            assert!(hits.is_sorted_by(|a, b| by_id(a, b).is_lt()), "{metric:?} {precision:?}: {hits:?}");
        }
    }
}

/// A mistake of whoever embeds, and everything else as usual.
#[test]
fn a_vector_that_is_far_from_all_others_spoils_none_of_them() {
    for (metric, precision) in [Metric::Euclidean, Metric::Cosine].into_iter().flat_map(|m| TIERS.map(|t| (m, t))) {
        for far in [1e4, 1e6, 1e10] {
            let mut rng = StdRng::seed_from_u64(SEED);
            let mut vectors = clustered(32, 3_000, &mut rng);
            vectors[17] = vec![far; 32];
            let segment = build_with(metric, precision, 32, &vectors, 2);
            let (mut found, queries) = (0, 40);
            for own in 0..queries {
                let vector: Vec<f32> = vectors[own * 7 + 1].iter().map(|c| c + rng.random_range(-0.3..0.3)).collect();
                let (hits, _) = ask(&segment, &query(&vector, 10));
                let last = truth(metric, &vector, &vectors)[9];
                found += hits.iter().filter(|hit| metric.compare(hit.score, last).is_le()).count();
            }
            let recall = found as f64 / (10 * queries) as f64;
            assert!(recall >= 0.97, "{metric:?} {precision:?}, one at {far}: recall {recall}");
        }
    }
}

/// Whether a walk that never gives up finds every point: each of the entry points leads to all of them.
fn finds_all(segment: &Segment, vector: &[f32]) -> bool {
    let len = segment.len() as usize;
    let (hits, _) = ask(segment, &query(vector, len));
    hits.len() == len
}

#[test]
fn every_point_is_reachable_whatever_lies_where() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let uniform: Vec<Vec<f32>> = (0..4_000).map(|_| (0..24).map(|_| rng.random_range(-1.0..1.0)).collect()).collect();
    let equal = vec![vec![0.5; 24]; 1_000];
    let mut mixed = uniform[..1_500].to_vec();
    mixed.extend(equal.clone());
    let zeros = vec![vec![0.0; 24]; 70];
    let line: Vec<Vec<f32>> = (0..500_u16).map(|i| [vec![f32::from(i)], vec![0.0; 23]].concat()).collect();
    let mut dead = uniform.clone();
    dead.iter_mut().for_each(|vector| vector[2..].fill(0.0));
    let far: Vec<Vec<f32>> = (0..300_u16).map(|i| vec![1e15 * (f32::from(i) - 150.0); 24]).collect();
    for (name, vectors) in [
        ("uniform", uniform.clone()),
        ("all equal", equal),
        ("a thousand equal among others", mixed),
        ("zeros", zeros),
        ("a line", line),
        ("dead dimensions", dead),
        ("far", far),
    ] {
        for metric in METRICS {
            if metric == Metric::Cosine && name != "uniform" && name != "far" {
                continue;
            }
            for precision in TIERS {
                let segment = build_with(metric, precision, 24, &vectors, 2);
                assert!(finds_all(&segment, &uniform[0]), "{name}, {metric:?}, {precision:?}");
                assert_eq!(segment.unreachable(), 0, "{name}, {metric:?}, {precision:?}");
            }
        }
    }
}

#[test]
fn few_points_and_none_are_a_segment() {
    for (len, precision) in [0, 1, 2, 10, 33, 64].into_iter().flat_map(|len| TIERS.map(|tier| (len, tier))) {
        let vectors: Vec<Vec<f32>> = (0..len).map(|i| vec![i as f32, 1.0]).collect();
        let segment = build_with(Metric::Euclidean, precision, 2, &vectors, 2);
        assert_eq!(segment.unreachable(), 0, "of {len}");
        let (hits, stats) = ask(&segment, &query(&[0.2, 1.0], 5));
        assert_eq!(hits.len(), len.min(5), "of {len}");
        assert!(stats.refined >= hits.len() as u64 && (precision.is_some() || stats.refined == hits.len() as u64));
        let ids: Vec<PointId> = hits.iter().map(|hit| segment.id(hit.offset)).collect();
        assert_eq!(ids, (0..).map(PointId::Number).take(len.min(5)).collect::<Vec<_>>(), "of {len}");
    }
}

#[test]
fn one_dimension_is_enough() {
    let vectors: Vec<Vec<f32>> = (0..2_000_u16).map(|i| vec![f32::from(i)]).collect();
    let segment = build(Metric::Euclidean, 1, &vectors);
    let (hits, _) = ask(&segment, &query(&[1_000.2], 3));
    let ids: Vec<PointId> = hits.iter().map(|hit| segment.id(hit.offset)).collect();
    assert_eq!(ids, [1_000, 1_001, 999].map(PointId::Number));
}

#[test]
fn only_points_that_live_and_are_near_enough_are_found() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let vectors = clustered(16, 1_000, &mut rng);
    let segment = build(Metric::Euclidean, 16, &vectors);
    let none = vec![0_u64; 1_000_usize.div_ceil(64)];
    assert_eq!(ask(&segment, &SegmentQuery { live: Some(&none), ..query(&vectors[0], 10) }).0, []);
    let half: Vec<u64> = none.iter().map(|_| 0x5555_5555_5555_5555).collect();
    let (hits, _) = ask(&segment, &SegmentQuery { live: Some(&half), ..query(&vectors[0], 10) });
    assert!(hits.len() == 10 && hits.iter().all(|hit| hit.offset % 2 == 0), "{hits:?}");
    let nearest = truth(Metric::Euclidean, &vectors[3], &vectors);
    let (hits, _) = ask(&segment, &SegmentQuery { score_limit: Some(nearest[4]), ..query(&vectors[3], 10) });
    assert_eq!(hits.len(), 5, "a limit is met by what is as near");
}

#[test]
fn no_share_of_passing_points_is_a_hole() {
    TIERS.into_iter().for_each(no_hole_in);
}

fn no_hole_in(precision: Option<Precision>) {
    let mut rng = StdRng::seed_from_u64(SEED);
    let vectors = clustered(48, 20_000, &mut rng);
    let mut rows = Rows::with_capacity(48, vectors.len());
    let shares = [0.7, 0.3, 0.12, 0.07, 0.02, 0.004, 0.001, 0.0001];
    let marks: Vec<Vec<bool>> = vectors.iter().map(|_| shares.map(|share| rng.random_bool(share)).to_vec()).collect();
    for ((i, vector), marks) in (0..).zip(&vectors).zip(&marks) {
        let payload: Payload =
            marks.iter().enumerate().map(|(at, mark)| (format!("f{at}"), Value::Bool(*mark))).collect();
        rows.push(PointId::Number(i), i, vector, Bytes::from(packed::encode(&payload)));
    }
    let parameters = Parameters { metric: Metric::Euclidean, precision, ef_construction: 80, seed: SEED };
    let segment = Segment::build(&rows, &parameters, &Target::Memory, &|| false).expect("nothing stops the build");
    let mut scratch = Scratch::new();
    for (at, share) in shares.iter().enumerate() {
        let predicate = Predicate::Match(Scalar::Bool(true));
        let filter = Filter { must: vec![Condition::Field { key: format!("f{at}"), predicate }], ..Filter::default() };
        let matches = segment.payload_index().evaluate(&filter, &|_| None).expect("the index is sound");
        let passing: Vec<Vec<f32>> =
            vectors.iter().zip(&marks).filter(|(_, marks)| marks[at]).map(|(vector, _)| vector.clone()).collect();
        assert_eq!(matches.len() as usize, passing.len(), "{share}");
        let (mut found, mut wanted) = (0, 0);
        for own in 0..60 {
            let vector: Vec<f32> = vectors[own * 7].iter().map(|c| c + rng.random_range(-0.3..0.3)).collect();
            let query = SegmentQuery { filter: Some(&matches), ..query(&vector, 10) };
            let (hits, _) = segment.search(&mut scratch, &query).expect("a fitting query is answered");
            assert!(hits.iter().all(|hit| matches.contains(hit.offset)), "{share}");
            let truth = truth(Metric::Euclidean, &vector, &passing);
            wanted += truth.len().min(10);
            found += hits.iter().zip(&truth).filter(|(hit, _)| hit.score <= truth[truth.len().min(10) - 1]).count();
        }
        assert!(found * 100 >= wanted * 93, "share {share}, {precision:?}: found {found} of {wanted}");
    }
}

#[test]
fn the_same_points_give_the_same_bytes_however_many_threads_build() {
    let vectors = clustered(40, 5_000, &mut StdRng::seed_from_u64(SEED));
    for precision in TIERS {
        let [one, two, three] = [1, 2, 3].map(|threads| build_with(Metric::Cosine, precision, 40, &vectors, threads));
        assert_eq!(one.graph_image().checksum(), two.graph_image().checksum(), "with 1 and 2 threads");
        assert_eq!(one.graph_image().checksum(), three.graph_image().checksum(), "with 1 and 3 threads");
    }
}

#[test]
fn scores_are_those_of_vectors_as_they_were_sent_and_few_are_read() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let vectors = clustered(100, 4_000, &mut rng);
    for (metric, precision) in METRICS.into_iter().flat_map(|metric| TIERS.map(|tier| (metric, tier))) {
        let segment = build_with(metric, precision, 100, &vectors, 2);
        let (mut refined, queries) = (0, 50);
        for own in 0..queries {
            let vector: Vec<f32> = vectors[own * 7].iter().map(|c| c + rng.random_range(-0.3..0.3)).collect();
            let (hits, stats) = ask(&segment, &query(&vector, 10));
            refined += stats.refined;
            for hit in hits {
                let number = usize::try_from(segment.versions()[hit.offset as usize] - 7).expect("small");
                let want = Exact::new(metric, &vector).score(&vectors[number]);
                assert_eq!(hit.score.to_bits(), want.to_bits(), "{metric:?} {precision:?}");
            }
        }
        let most = if precision == Some(Precision::Compact) { 60 } else { 15 };
        assert!(refined <= most * queries as u64, "{metric:?} {precision:?}: {refined} vectors of {queries} queries");
    }
}

#[test]
fn a_compact_segment_is_as_small_as_the_documents_say() {
    let vectors = clustered(768, 500, &mut StdRng::seed_from_u64(SEED));
    let segment = build_with(Metric::Cosine, Some(Precision::Compact), 768, &vectors, 2);
    let section = |tag| segment.graph_image().section(tag).expect("every segment has it").len();
    let bytes = section(super::frozen::tag::BLOCKS) + section(super::frozen::tag::SKETCHES);
    assert_eq!(bytes, 500 * (544 + 128));
}

#[test]
fn points_keep_ids_versions_and_vectors() {
    let vectors = clustered(20, 700, &mut StdRng::seed_from_u64(SEED));
    for (precision, lossless) in [
        (None, true),
        (Some(Precision::F32), true),
        (Some(Precision::F16), false),
        (Some(Precision::Int8), false),
        (Some(Precision::Compact), false),
    ] {
        let segment = build_with(Metric::Dot, precision, 20, &vectors, 2);
        assert_eq!(segment.is_lossless(), lossless, "{precision:?}");
        for (i, vector) in (0..).zip(&vectors) {
            let offset = segment.find(&PointId::Number(i)).expect("it was built in");
            assert_eq!(segment.id(offset), PointId::Number(i));
            assert_eq!(segment.versions()[offset as usize], i + 7);
            let mut kept = vec![0.0; 20];
            segment.read_vector(offset, &mut kept);
            assert_eq!(*vector, kept, "{precision:?}");
            assert_eq!(segment.payload(offset), vec![7; i as usize % 5], "{precision:?}");
        }
        assert_eq!(segment.find(&PointId::Number(700)), None);
    }
}

#[test]
fn small_whole_numbers_take_a_byte_and_others_two_if_that_is_enough() {
    let whole: Vec<Vec<f32>> = (0..200_u8).map(|i| [&[f32::from(i), 255.0][..], &[3.0; 98]].concat()).collect();
    let halves: Vec<Vec<f32>> = whole.iter().map(|vector| vector.iter().map(|c| c / 2.0).collect()).collect();
    let thirds: Vec<Vec<f32>> = whole.iter().map(|vector| vector.iter().map(|c| c / 3.0).collect()).collect();
    for metric in METRICS {
        let sizes = [&whole, &halves, &thirds].map(|vectors| {
            let segment = build(metric, 100, vectors);
            assert!(segment.is_lossless());
            let (hits, _) = ask(&segment, &query(&vectors[7], 10));
            assert_eq!(hits[0].score.to_bits(), truth(metric, &vectors[7], vectors)[0].to_bits(), "{metric:?}");
            segment.graph_image().bytes().len()
        });
        assert!(sizes.is_sorted_by(|a, b| a < b), "{metric:?}: {sizes:?}");
    }
}

#[test]
fn queries_that_do_not_fit_or_are_not_wanted_end_with_an_error() {
    let vectors = clustered(8, 300, &mut StdRng::seed_from_u64(SEED));
    let segment = build(Metric::Cosine, 8, &vectors);
    let refused = segment.search(&mut Scratch::new(), &query(&[1.0; 7], 3));
    assert_eq!(refused, Err(IndexError::Dimension { want: 8, got: 7 }));
    let stopped = segment.search(&mut Scratch::new(), &SegmentQuery { stop: &|| true, ..query(&[1.0; 8], 3) });
    assert_eq!(stopped, Err(IndexError::Cancelled));
    let (hits, stats) = ask(&segment, &query(&[1.0; 8], 0));
    assert_eq!((hits, stats), (vec![], WalkStats::default()));
}

#[test]
fn a_scratch_serves_segments_of_all_sizes() {
    let mut scratch = Scratch::new();
    for (dim, len) in [(384, 1_200), (3, 40), (100, 2_500), (3, 40)] {
        let vectors = clustered(dim, len, &mut StdRng::seed_from_u64(SEED));
        let segment = build(Metric::Euclidean, dim, &vectors);
        let fresh = segment.search(&mut Scratch::new(), &query(&vectors[9], 5));
        assert_eq!(segment.search(&mut scratch, &query(&vectors[9], 5)), fresh, "{dim} × {len}");
    }
}

#[test]
fn a_build_that_is_stopped_says_so() {
    let vectors = clustered(16, 3_000, &mut StdRng::seed_from_u64(SEED));
    let parameters = Parameters { metric: Metric::Dot, precision: None, ef_construction: 50, seed: SEED };
    let built = Segment::build(&rows(16, &vectors), &parameters, &Target::Memory, &|| true);
    assert!(matches!(built, Err(super::BuildError::Cancelled)), "{built:?}");
}

#[test]
fn bytes_that_are_cut_or_changed_are_refused() {
    let vectors = clustered(16, 200, &mut StdRng::seed_from_u64(SEED));
    TIERS.into_iter().for_each(|precision| refuses_damage(&vectors, precision));
}

fn refuses_damage(vectors: &[Vec<f32>], precision: Option<Precision>) {
    let segment = build_with(Metric::Euclidean, precision, 16, vectors, 2);
    let (graph, stored) = (segment.graph_image().bytes().to_vec(), segment.stored_image().bytes().to_vec());
    let again = Segment::from_bytes(&graph, &stored).expect("nothing was changed");
    assert_eq!(ask(&again, &query(&vectors[1], 5)), ask(&segment, &query(&vectors[1], 5)));
    let mut rng = StdRng::seed_from_u64(SEED);
    for _ in 0..300 {
        let mut changed = [graph.clone(), stored.clone()];
        let file = rng.random_range(0..2);
        let at = rng.random_range(0..changed[file].len());
        changed[file][at] ^= 1 << rng.random_range(0..8);
        assert!(Segment::from_bytes(&changed[0], &changed[1]).is_err(), "bit of byte {at} of file {file}");
        assert!(Segment::from_bytes(&graph[..at.min(graph.len() - 1)], &stored).is_err(), "cut at {at}");
    }
    let other = build(Metric::Euclidean, 16, &vectors[1..]);
    assert!(Segment::from_bytes(&graph, other.stored_image().bytes()).is_err(), "of another segment");
}

#[test]
fn files_open_as_they_were_built() {
    let vectors = clustered(16, 200, &mut StdRng::seed_from_u64(SEED));
    let folder = tempfile::tempdir().expect("temporary folders have room");
    for residency in [Residency::Mapped, Residency::Resident] {
        let target = Target::Folder { folder: folder.path().to_owned(), name: format!("{residency:?}"), residency };
        let parameters =
            Parameters { metric: Metric::Dot, precision: Some(Precision::F16), ef_construction: 50, seed: 1 };
        let built = Segment::build(&rows(16, &vectors), &parameters, &target, &|| false).expect("the disk has room");
        let opened = Segment::open(&target).expect("it was built");
        assert_eq!(ask(&opened, &query(&vectors[1], 5)), ask(&built, &query(&vectors[1], 5)));
        assert!(target.files().iter().all(|file| file.exists()));
    }
}
