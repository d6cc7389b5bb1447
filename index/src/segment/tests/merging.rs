//! Merges: what comes out is what went in and lived, a walk can come to all of it, and it is found as in a new build.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::segment::{BuildError, MergePart};

/// What a point is beside its id.
type Point = (u64, Vec<f32>, Vec<u8>);

/// Segments, and which of their points live.
struct Parts {
    metric: Metric,
    segments: Vec<Segment>,
    live: Vec<Vec<u64>>,
}

impl Parts {
    /// Cuts `vectors` into segments of `sizes`; all points live.
    fn new(metric: Metric, dim: usize, vectors: &[Vec<f32>], sizes: &[usize]) -> Self {
        let mut rest = (0..).zip(vectors);
        let build = |size: &usize| {
            let mut rows = Rows::with_capacity(u32::try_from(dim).expect("small"), *size);
            for (number, vector) in rest.by_ref().take(*size) {
                rows.push(PointId::Number(number), number + 7, vector, Bytes::from(vec![7; number as usize % 5]));
            }
            Segment::build(&rows, &parameters(metric), &Target::Memory, &|| false).expect("nothing stops the build")
        };
        let segments: Vec<Segment> = sizes.iter().map(build).collect();
        let live = segments.iter().map(|segment| vec![u64::MAX; segment.len().div_ceil(64) as usize]).collect();
        Self { metric, segments, live }
    }

    /// Lets all points live again.
    fn raise(&mut self) {
        self.live.iter_mut().for_each(|live| live.fill(u64::MAX));
    }

    /// Lets those points of a part die that `dies` names.
    fn bury(&mut self, part: usize, mut dies: impl FnMut(&PointId) -> bool) {
        for offset in (0..self.segments[part].len()).filter(|offset| dies(&self.segments[part].id(*offset))) {
            self.live[part][offset as usize / 64] &= !(1 << (offset % 64));
        }
    }

    fn parts(&self) -> Vec<MergePart<'_>> {
        let parts = self.segments.iter().zip(&self.live);
        parts.map(|(segment, live)| MergePart { segment, live: Some(live) }).collect()
    }

    fn merge(&self) -> Segment {
        let merged = Segment::merge(&self.parts(), &parameters(self.metric), &Target::Memory, &|| false);
        merged.expect("nothing stops the merge")
    }

    fn living(&self) -> BTreeMap<PointId, Point> {
        let points = self.segments.iter().zip(&self.live).flat_map(|(segment, live)| {
            let lives = |offset: &u32| live[*offset as usize / 64] >> (offset % 64) & 1 == 1;
            (0..segment.len()).filter(lives).map(|offset| point(segment, offset))
        });
        points.collect()
    }

    /// Merges, and checks that all that lived is there as it was, nothing else, and every point in reach.
    fn check(&self, name: &str) -> Segment {
        let merged = self.merge();
        let points: BTreeMap<PointId, Point> = (0..merged.len()).map(|offset| point(&merged, offset)).collect();
        assert_eq!(points.len(), merged.len() as usize, "{name}: each point once");
        assert!(points == self.living(), "{name}: points are not those that lived");
        assert_eq!(merged.unreachable(), 0, "{name}: points that no walk finds");
        assert_eq!(merged.metric(), self.metric, "{name}");
        merged
    }
}

fn point(segment: &Segment, offset: u32) -> (PointId, Point) {
    let mut vector = vec![0.0; segment.dim() as usize];
    segment.read_vector(offset, &mut vector);
    let id = segment.id(offset);
    assert_eq!(segment.find(&id), Some(offset), "ids and offsets belong together");
    (id, (segment.versions()[offset as usize], vector, segment.payload(offset).to_vec()))
}

fn parameters(metric: Metric) -> Parameters {
    Parameters { metric, precision: None, ef_construction: 100, seed: SEED }
}

/// Share of the true ten nearest that a segment finds, over queries near its points, and mean hops, at a beam.
fn recall(segment: &Segment, metric: Metric, queries: &[Vec<f32>], beam: usize) -> [f64; 2] {
    let vectors: Vec<Vec<f32>> = (0..segment.len()).map(|offset| point(segment, offset).1.1).collect();
    let (mut found, mut hops) = (0, 0);
    for vector in queries {
        let (hits, stats) = ask(segment, &SegmentQuery { effort: Effort::Beam(beam), ..query(vector, 10) });
        let last = truth(metric, vector, &vectors)[9];
        found += hits.iter().filter(|hit| metric.compare(hit.score, last).is_le()).count();
        hops += stats.hops;
    }
    let queries = queries.len() as f64;
    [found as f64 / (10.0 * queries), hops as f64 / queries]
}

/// The recall that points of a curve, `[recall, hops]` each and ascending, have at `hops`.
fn recall_at(curve: &[[f64; 2]], hops: f64) -> f64 {
    let after = curve.iter().position(|[_, at]| *at >= hops).unwrap_or(curve.len() - 1).max(1);
    let ([low, from], [high, to]) = (curve[after - 1], curve[after]);
    low + (high - low) * ((hops - from) / (to - from)).clamp(0.0, 1.0)
}

fn rebuilt(metric: Metric, dim: usize, points: &BTreeMap<PointId, Point>) -> Segment {
    let mut rows = Rows::with_capacity(u32::try_from(dim).expect("small"), points.len());
    for (id, (version, vector, payload)) in points {
        rows.push(id.clone(), *version, vector, Bytes::from(payload.clone()));
    }
    Segment::build(&rows, &parameters(metric), &Target::Memory, &|| false).expect("nothing stops the build")
}

#[test]
fn parts_of_any_number_and_size_become_one() {
    let mut rng = StdRng::seed_from_u64(SEED);
    for (metric, sizes) in METRICS.iter().flat_map(|metric| {
        let sizes: [&[usize]; 9] = [
            &[2_500],
            &[1_200, 1_300],
            &[30, 2_400],
            &[2_500, 300, 40],
            &[600, 600, 600, 600],
            &[900, 700, 20, 1, 400],
            &[300, 0],
            &[1, 1],
            &[0, 0],
        ];
        sizes.map(|sizes| (*metric, sizes))
    }) {
        let vectors = clustered(24, sizes.iter().sum(), &mut rng);
        Parts::new(metric, 24, &vectors, sizes).check(&format!("{metric:?} of {sizes:?}"));
    }
}

#[test]
fn the_dead_are_dropped_however_many_there_are() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let vectors = clustered(24, 2_600, &mut rng);
    for (metric, sizes) in METRICS.iter().flat_map(|metric| [(*metric, &[2_600][..]), (*metric, &[1_400, 900, 300])]) {
        let mut parts = Parts::new(metric, 24, &vectors, sizes);
        for share in [0.1, 0.5, 0.99] {
            parts.raise();
            (0..sizes.len()).for_each(|part| parts.bury(part, |_| rng.random_bool(share)));
            parts.check(&format!("{metric:?}, {share} of {sizes:?} dead"));
        }
        for part in 0..sizes.len() {
            parts.raise();
            parts.bury(part, |_| true);
            parts.check(&format!("{metric:?}, all of part {part} of {sizes:?} dead"));
            (0..sizes.len()).for_each(|part| parts.bury(part, |id| *id != PointId::Number(17)));
            let merged = parts.check(&format!("{metric:?}, all but one of {sizes:?} dead"));
            assert_eq!(merged.len(), u32::from(part != 0), "the one is in the first part");
        }
    }
}

#[test]
fn data_of_any_shape_is_merged() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let uniform: Vec<Vec<f32>> = (0..2_400).map(|_| (0..24).map(|_| rng.random_range(-1.0..1.0)).collect()).collect();
    let equal = vec![vec![0.5; 24]; 1_000];
    let mixed = [&uniform[..1_200], &equal[..]].concat();
    let line: Vec<Vec<f32>> = (0..1_200_u16).map(|i| vec![f32::from(i) + 1.0]).collect();
    let space: Vec<Vec<f32>> = uniform.iter().map(|vector| vector[..3].to_vec()).collect();
    for (name, vectors) in [
        ("uniform", uniform.clone()),
        ("a thousand equal", equal),
        ("a thousand equal among others", mixed),
        ("one dimension", line),
        ("three dimensions", space.clone()),
        ("ten points", space[..10].to_vec()),
        ("one point", space[..1].to_vec()),
        ("no points", Vec::new()),
    ] {
        let (dim, len) = (vectors.first().map_or(3, Vec::len), vectors.len());
        for metric in METRICS {
            let sizes = [len / 2, len / 3, len - len / 2 - len / 3];
            let mut parts = Parts::new(metric, dim, &vectors, &sizes);
            parts.check(&format!("{name}, {metric:?}"));
            (0..sizes.len()).for_each(|part| parts.bury(part, |_| rng.random_bool(0.3)));
            parts.check(&format!("{name}, {metric:?}, a third of them dead"));
            (0..sizes.len()).for_each(|part| parts.bury(part, |_| true));
            assert!(parts.check(&format!("{name}, {metric:?}, all dead")).is_empty());
        }
    }
}

#[test]
fn vectors_come_through_exactly_whatever_blocks_keep_of_them() {
    let vectors = clustered(20, 600, &mut StdRng::seed_from_u64(SEED));
    let whole: Vec<Vec<f32>> = vectors.iter().map(|v| v.iter().map(|c| (c * 100.0).abs().round()).collect()).collect();
    for (vectors, precision) in [
        (&vectors, None),
        (&whole, None),
        (&vectors, Some(Precision::F16)),
        (&vectors, Some(Precision::U8)),
        (&vectors, Some(Precision::Int8)),
        (&vectors, Some(Precision::Compact)),
    ] {
        let parts = Parts::new(Metric::Euclidean, 20, vectors, &[400, 200]);
        let parameters = Parameters { precision, ..parameters(Metric::Euclidean) };
        let once = Segment::merge(&parts.parts(), &parameters, &Target::Memory, &|| false).expect("nothing stops it");
        let again = [MergePart { segment: &once, live: None }];
        let twice = Segment::merge(&again, &parameters, &Target::Memory, &|| false).expect("nothing stops it");
        for merged in [once, twice] {
            assert_eq!(merged.is_lossless(), precision.is_none(), "{precision:?}");
            let points: BTreeMap<PointId, Point> = (0..merged.len()).map(|offset| point(&merged, offset)).collect();
            assert!(points == parts.living(), "{precision:?}: points are not those that went in");
            assert_eq!(merged.unreachable(), 0, "{precision:?}: points that no walk finds");
            let (hits, _) = ask(&merged, &query(&vectors[17], 1));
            assert_eq!(merged.id(hits[0].offset), PointId::Number(17), "{precision:?}");
        }
    }
}

/// Queries near every 30th of some vectors.
fn queries_near(vectors: &[Vec<f32>], rng: &mut StdRng) -> Vec<Vec<f32>> {
    let near = |vector: &Vec<f32>| vector.iter().map(|c| c + rng.random_range(-0.3..0.3)).collect();
    vectors.iter().step_by(30).map(near).collect()
}

/// Merges, and holds recall against that of a build of the same points at as many hops.
fn check_recall(name: &str, parts: &Parts, dim: usize, queries: &[Vec<f32>]) {
    let metric = parts.metric;
    let [merged, hops] = recall(&parts.check(name), metric, queries, 60);
    // A beam stands for a mean number of hops, and each segment has its own way to spend as many.
    let built = rebuilt(metric, dim, &parts.living());
    let built = recall_at(&[40, 60, 80].map(|beam| recall(&built, metric, queries, beam)), hops);
    assert!(merged >= built - 0.015, "{name}, {metric:?}: recall {merged} with {hops} hops, of a build {built}");
    assert!(merged >= 0.85, "{name}, {metric:?}: recall {merged} with {hops} hops");
}

#[test]
fn a_merge_finds_as_much_as_a_build() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let vectors = clustered(48, 6_000, &mut rng);
    let queries = queries_near(&vectors, &mut rng);
    let mut rng = StdRng::seed_from_u64(SEED);
    for (name, sizes, dead) in [
        ("halves", &[3_000, 3_000][..], [0.0; 5]),
        ("five", &[1_200; 5], [0.0; 5]),
        ("a large one and small ones", &[4_500, 1_000, 400, 100], [0.0; 5]),
        ("a fifth of one is dead", &[6_000], [0.2; 5]),
        ("half of one is dead", &[6_000], [0.49; 5]),
        ("most of one is dead", &[6_000], [0.7; 5]),
        ("most of the smaller are dead", &[2_000, 2_000, 2_000], [0.1, 0.6, 0.7, 0.0, 0.0]),
    ] {
        for metric in METRICS {
            let mut parts = Parts::new(metric, 48, &vectors, sizes);
            (0..sizes.len()).for_each(|part| parts.bury(part, |_| rng.random_bool(dead[part])));
            check_recall(name, &parts, 48, &queries);
        }
    }
}

#[test]
fn parts_that_join_one_after_another_find_each_other() {
    let mut rng = StdRng::seed_from_u64(SEED);
    // The last three parts have a region in common that the first has nothing of.
    let (old, new) = (clustered(48, 3_000, &mut rng), clustered(48, 4_500, &mut rng));
    let vectors = [&old[..], &new].concat();
    let queries = queries_near(&new, &mut rng);
    for metric in METRICS {
        let parts = Parts::new(metric, 48, &vectors, &[3_000, 1_500, 1_500, 1_500]);
        check_recall("a region that is new", &parts, 48, &queries);
    }
}

#[test]
fn vectors_of_any_length_are_merged_under_the_dot_product() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut vectors = clustered(48, 6_000, &mut rng);
    for vector in &mut vectors {
        let length = rng.random_range(1.0..3.0_f32);
        vector.iter_mut().for_each(|component| *component *= length);
    }
    let queries = queries_near(&vectors, &mut rng);
    let parts = Parts::new(Metric::Dot, 48, &vectors, &[3_000, 3_000]);
    check_recall("lengths of 1 to 3", &parts, 48, &queries);
}

#[test]
fn the_same_parts_give_the_same_bytes_however_many_threads_merge() {
    let vectors = clustered(24, 5_000, &mut StdRng::seed_from_u64(SEED));
    for dead in [0.2, 0.7] {
        let mut parts = Parts::new(Metric::Cosine, 24, &vectors, &[2_600, 1_600, 800]);
        let mut rng = StdRng::seed_from_u64(SEED);
        (0..3).for_each(|part| parts.bury(part, |_| rng.random_bool(dead)));
        let [one, two, three] = [1, 2, 3].map(|threads| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
            let merged = pool.install(|| parts.merge());
            (merged.graph_image().bytes().to_vec(), merged.stored_image().bytes().to_vec())
        });
        assert!(one == two && two == three, "{dead} dead");
    }
}

#[test]
fn a_merge_that_is_stopped_says_so_whenever_that_is() {
    let vectors = clustered(16, 3_000, &mut StdRng::seed_from_u64(SEED));
    let parts = Parts::new(Metric::Dot, 16, &vectors, &[1_500, 1_000, 500]);
    let asked = AtomicU64::new(0);
    let merge = |patience: u64| {
        asked.store(0, Ordering::Relaxed);
        let stop = || asked.fetch_add(1, Ordering::Relaxed) >= patience;
        Segment::merge(&parts.parts(), &parameters(Metric::Dot), &Target::Memory, &stop)
    };
    assert!(merge(u64::MAX).is_ok());
    let all = asked.load(Ordering::Relaxed);
    for patience in [0, 1, all / 50, all / 10, all / 2, all - 1] {
        let stopped = merge(patience);
        assert!(matches!(stopped, Err(BuildError::Cancelled)), "after {patience} of {all}: {stopped:?}");
    }
}

#[test]
fn a_part_that_was_spoilt_after_it_was_opened_is_not_merged() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let vectors = clustered(8, 300, &mut StdRng::seed_from_u64(SEED));
    let target = |name: &str| Target::Folder {
        folder: folder.path().to_owned(),
        name: name.to_owned(),
        residency: Residency::Mapped,
    };
    let build = |name: &str, part: &[Vec<f32>]| {
        let mut rows = Rows::with_capacity(8, part.len());
        (0..).zip(part).for_each(|(number, vector)| rows.push(PointId::Number(number), 1, vector, Bytes::new()));
        Segment::build(&rows, &parameters(Metric::Euclidean), &target(name), &|| false)
            .expect("nothing stops the build")
    };
    let parts = [build("a", &vectors[..200]), build("b", &vectors[200..])];
    let merge = || {
        let parts = parts.each_ref().map(|segment| MergePart { segment, live: None });
        Segment::merge(&parts[..1], &parameters(Metric::Euclidean), &Target::Memory, &|| false)?;
        Segment::merge(&parts[1..], &parameters(Metric::Euclidean), &Target::Memory, &|| false)
    };
    merge().expect("the parts are whole");
    for path in target("b").files() {
        let whole = std::fs::read(&path).expect("the file is there");
        let flip = |bytes: &[u8]| {
            let mut file = std::fs::OpenOptions::new().write(true).open(&path).expect("the file is there");
            std::io::Write::write_all(&mut file, bytes).expect("it is written in place");
        };
        let mut spoilt = whole.clone();
        spoilt[whole.len() / 2] ^= 1;
        flip(&spoilt);
        match merge() {
            Err(BuildError::Part(error)) => assert!(error.is_bad_file() && error.path == path, "{error}"),
            other => panic!("{}: {other:?}", path.display()),
        }
        flip(&whole);
    }
    merge().expect("the parts are whole again");
}
