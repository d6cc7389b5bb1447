//! Searches among some of the points: near ones, far ones, few, many, of any dimension, with others dead.

use std::cmp::Ordering;

use super::*;
use crate::payload_index::Matches;
use crate::segment::Packed;

/// A segment each of whose points has its number in its payload, and those numbers by offset.
struct Case {
    metric: Metric,
    vectors: Vec<Vec<f32>>,
    segment: Segment,
    numbers: Vec<usize>,
}

impl Case {
    fn new(metric: Metric, vectors: Vec<Vec<f32>>) -> Self {
        Self::with(metric, vectors, None)
    }

    fn with(metric: Metric, vectors: Vec<Vec<f32>>, precision: Option<Precision>) -> Self {
        let dim = vectors[0].len();
        let mut rows = Rows::with_capacity(u32::try_from(dim).expect("small"), vectors.len());
        for (number, vector) in (0_i64..).zip(&vectors) {
            let payload = packed::encode(&Payload::from([("n".to_owned(), Value::Integer(number))]));
            let id = u64::try_from(number).expect("not negative");
            rows.push(PointId::Number(id), id, vector, Bytes::from(payload));
        }
        let parameters = Parameters { metric, precision, ef_construction: 60, seed: SEED };
        let segment = Segment::build(&rows, &parameters, &Target::Memory, &|| false).expect("nothing stops the build");
        let numbers = segment.versions().iter().map(|number| usize::try_from(*number).expect("small")).collect();
        Self { metric, vectors, segment, numbers }
    }

    /// The points that some numbers are of.
    fn matches(&self, numbers: impl Iterator<Item = usize>) -> Matches {
        let values = numbers.map(|number| Scalar::Integer(i64::try_from(number).expect("small"))).collect();
        let condition = Condition::Field { key: "n".to_owned(), predicate: Predicate::Any(values) };
        let filter = Filter { must: vec![condition], ..Filter::default() };
        self.segment.payload_index().evaluate(&filter, &|_| None).expect("the index is sound")
    }

    /// Numbers from the nearest to the farthest.
    fn by_distance(&self, vector: &[f32]) -> Vec<usize> {
        let exact = Exact::new(self.metric, vector);
        let scores: Vec<f32> = self.vectors.iter().map(|row| exact.score(row)).collect();
        let mut numbers: Vec<usize> = (0..self.vectors.len()).collect();
        numbers.sort_by(|a, b| self.metric.compare(scores[*a], scores[*b]));
        numbers
    }

    /// Asks for 10 of `matches` that live, and counts what was found, what there is to be found, and what it took.
    fn ask(&self, vector: &[f32], matches: &Matches, live: Option<&[u64]>, recall: f32) -> (usize, usize, WalkStats) {
        self.ask_packed(vector, (matches, None), live, recall)
    }

    /// The same, of points that may be packed.
    fn ask_packed(
        &self,
        vector: &[f32],
        (matches, packed): (&Matches, Option<&Packed>),
        live: Option<&[u64]>,
        recall: f32,
    ) -> (usize, usize, WalkStats) {
        let effort = Effort::Recall(recall);
        let query = SegmentQuery { filter: Some(matches), packed, live, effort, ..query(vector, 10) };
        let (hits, stats) = ask(&self.segment, &query);
        let (found, all) = self
            .grade(vector, &hits, |offset| matches.contains(offset) && live.is_none_or(|live| is_set(live, offset)));
        (found, all, stats)
    }

    /// How many of the 10 nearest that are wanted were found, and how many there are.
    fn grade(&self, vector: &[f32], hits: &[Hit], wanted: impl Fn(u32) -> bool) -> (usize, usize) {
        assert!(hits.iter().all(|hit| wanted(hit.offset)), "only what is wanted is found");
        let exact = Exact::new(self.metric, vector);
        let all = (0..self.segment.len()).filter(|offset| wanted(*offset));
        let mut scores: Vec<f32> =
            all.map(|offset| exact.score(&self.vectors[self.numbers[offset as usize]])).collect();
        scores.sort_by(|a, b| self.metric.compare(*a, *b));
        scores.truncate(10);
        let last = scores.last().copied();
        let near = |hit: &&Hit| last.is_some_and(|last| self.metric.compare(hit.score, last) != Ordering::Greater);
        (hits.iter().filter(near).count(), scores.len())
    }
}

fn is_set(bits: &[u64], offset: u32) -> bool {
    bits[offset as usize / 64] >> (offset % 64) & 1 == 1
}

fn uniform(dim: usize, len: usize, rng: &mut StdRng) -> Vec<Vec<f32>> {
    (0..len).map(|_| (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
}

fn beside(vector: &[f32], rng: &mut StdRng) -> Vec<f32> {
    vector.iter().map(|c| c + rng.random_range(-0.3..0.3)).collect()
}

#[test]
fn points_that_pass_are_found_wherever_they_lie() {
    const LEN: usize = 6_000;
    let mut rng = StdRng::seed_from_u64(SEED);
    for metric in [Metric::Euclidean, Metric::Cosine] {
        let case = Case::new(metric, clustered(32, LEN, &mut rng));
        for share in [0.5, 0.2, 0.05, 0.01] {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a few thousand")]
            let passing = (LEN as f64 * share) as usize;
            for (name, skipped) in
                [("nearest", 0), ("of middling distance", (LEN - passing) / 2), ("farthest", LEN - passing)]
            {
                let (mut found, mut wanted) = (0, 0);
                for own in 0..15 {
                    let vector = beside(&case.vectors[own * 31], &mut rng);
                    let matches = case.matches(case.by_distance(&vector).into_iter().skip(skipped).take(passing));
                    let (near, all, stats) = case.ask(&vector, &matches, None, 0.98);
                    (found, wanted) = (found + near, wanted + all);
                    let bound = 4 * LEN as u64 + 2_000;
                    assert!(stats.estimated + stats.hops < bound, "{metric:?} {share} {name}: {stats:?}");
                }
                assert!(found * 100 >= wanted * 93, "{metric:?} {share} {name}: found {found} of {wanted}");
            }
        }
    }
}

/// A dense cluster of which nothing lives lies between the queries and all that does.
#[test]
fn a_dead_region_hides_nothing_behind_it() {
    const LEN: usize = 8_000;
    for (metric, precision) in [Metric::Euclidean, Metric::Cosine].into_iter().flat_map(|m| TIERS.map(|t| (m, t))) {
        let mut rng = StdRng::seed_from_u64(SEED);
        let mut vectors = clustered(32, LEN, &mut rng);
        let center = vectors[0].clone();
        let dense = |rng: &mut StdRng| center.iter().map(|c| c + rng.random_range(-0.1..0.1)).collect::<Vec<f32>>();
        vectors[..LEN / 5].fill_with(|| dense(&mut rng));
        let case = Case::with(metric, vectors, precision);
        let mut of_all_alive = None;
        for dead in [0, LEN / 100, LEN / 30, LEN / 10, LEN / 5] {
            let lives = |offset: u32| case.numbers[offset as usize] >= dead;
            let live: Vec<u64> = (0..case.segment.len().div_ceil(64))
                .map(|word| {
                    let offsets = 64 * word..case.segment.len().min(64 * (word + 1));
                    offsets.fold(0, |bits, offset| bits | u64::from(lives(offset)) << (offset % 64))
                })
                .collect();
            let (mut found, mut wanted) = (0, 0);
            for _ in 0..20 {
                let vector = dense(&mut rng);
                let effort = Effort::Recall(0.95);
                let (hits, _) = ask(&case.segment, &SegmentQuery { live: Some(&live), effort, ..query(&vector, 10) });
                let (near, all) = case.grade(&vector, &hits, lives);
                (found, wanted) = (found + near, wanted + all);
            }
            let name = format!("{metric:?} {precision:?}, the nearest {dead} of {LEN} dead");
            let as_before = *of_all_alive.get_or_insert(found);
            assert!(as_before * 4 >= wanted * 3, "{name}: {as_before} of {wanted} while all live");
            assert!(found + 12 >= as_before, "{name}: found {found} of {wanted}, and {as_before} before they died");
        }
    }
}

#[test]
fn dead_points_are_not_found_and_hide_no_others() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let case = Case::new(Metric::Euclidean, clustered(32, 6_000, &mut rng));
    let words = case.segment.len().div_ceil(64);
    for (modulus, living) in [(2, 0.5), (3, 0.02), (12, 0.5), (12, 0.9), (90, 0.3), (700, 0.5)] {
        let live: Vec<u64> =
            (0..words).map(|_| (0..64).fold(0, |word, bit| word | u64::from(rng.random_bool(living)) << bit)).collect();
        let matches = case.matches((0..6_000).step_by(modulus));
        let (mut found, mut wanted) = (0, 0);
        for own in 0..40 {
            let (near, all, _) = case.ask(&beside(&case.vectors[own * 31], &mut rng), &matches, Some(&live), 0.98);
            (found, wanted) = (found + near, wanted + all);
        }
        assert!(found * 100 >= wanted * 95, "one in {modulus}, {living} alive: found {found} of {wanted}");
        let dead = vec![0; words as usize];
        assert_eq!(case.ask(&case.vectors[0], &matches, Some(&dead), 0.98).0, 0);
    }
}

#[test]
fn shapes_without_many_directions_are_no_trouble() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let equal = [vec![vec![0.5; 24]; 1_000], uniform(24, 1_000, &mut rng)].concat();
    for (name, vectors) in [
        ("1 dimension", uniform(1, 4_000, &mut rng)),
        ("3 dimensions", uniform(3, 4_000, &mut rng)),
        ("equal ones among others", equal),
        ("as many as cells", uniform(16, 512, &mut rng)),
        ("600", uniform(16, 600, &mut rng)),
        ("10 points", uniform(8, 10, &mut rng)),
        ("1 point", uniform(8, 1, &mut rng)),
    ] {
        let len = vectors.len();
        let case = Case::new(Metric::Euclidean, vectors);
        for modulus in [1, 2, 5, 15, 50] {
            let matches = case.matches((0..len).step_by(modulus));
            let (mut found, mut wanted) = (0, 0);
            for own in 0..40 {
                let vector = beside(&case.vectors[own * 31 % len], &mut rng);
                let (near, all, _) = case.ask(&vector, &matches, None, 0.98);
                (found, wanted) = (found + near, wanted + all);
            }
            // Walks lose their way on a line, with a filter or without; only scans do not.
            if case.segment.dim() == 1 && modulus <= 2 {
                continue;
            }
            assert!(found * 100 >= wanted * 95, "{name}, one in {modulus}: found {found} of {wanted}");
        }
    }
}

#[test]
fn a_lower_recall_costs_less_and_is_reached() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let case = Case::new(Metric::Euclidean, clustered(64, 12_000, &mut rng));
    for modulus in [2, 14, 40] {
        let matches = case.matches((0..12_000).step_by(modulus));
        let mut costs = Vec::new();
        for recall in [0.7, 0.9, 0.99] {
            let (mut found, mut cost) = (0, 0);
            for own in 0..60 {
                let (near, _, stats) = case.ask(&beside(&case.vectors[own * 31], &mut rng), &matches, None, recall);
                (found, cost) = (found + near, cost + stats.estimated + 8 * stats.hops);
            }
            #[allow(clippy::cast_precision_loss, reason = "hundreds")]
            let reached = found as f32 / 600.0;
            assert!(reached >= recall - 0.07, "one in {modulus}: {reached} where {recall} was wanted");
            costs.push(cost);
        }
        assert!(costs.is_sorted_by(|a, b| a < b), "one in {modulus}: {costs:?}");
    }
}

#[test]
fn a_scan_that_is_not_wanted_ends() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let case = Case::new(Metric::Euclidean, clustered(16, 2_000, &mut rng));
    for modulus in [2, 20] {
        let matches = case.matches((0..2_000).step_by(modulus));
        let query = SegmentQuery { filter: Some(&matches), stop: &|| true, ..query(&case.vectors[0], 10) };
        assert_eq!(case.segment.search(&mut Scratch::new(), &query), Err(IndexError::Cancelled), "one in {modulus}");
    }
}

/// Shares of the points that pass: from one point to all of them, each about two thirds of the one before.
fn sweep(len: usize) -> Vec<usize> {
    std::iter::successors(Some(len), |passing| (*passing > 1).then_some(passing * 2 / 3)).collect()
}

#[test]
fn there_is_no_hole_between_the_ways_to_search() {
    const LEN: usize = 8_000;
    let mut rng = StdRng::seed_from_u64(SEED);
    for precision in [None, Some(Precision::Int8), Some(Precision::Compact)] {
        let case = Case::with(Metric::Cosine, clustered(64, LEN, &mut rng), precision);
        let queries: Vec<Vec<f32>> = (0..12).map(|own| beside(&case.vectors[own * 31], &mut rng)).collect();
        let shuffled: Vec<usize> = crate::rotation::shuffled(LEN, SEED).into_iter().map(|own| own as usize).collect();
        // Those that pass are strewn about, or are the points nearest to a query, or those farthest from it.
        let mut kept = 0;
        for passing in sweep(LEN) {
            for order in 0..3 {
                let (mut found, mut wanted) = ([0; 2], 0);
                for vector in &queries {
                    let mut numbers = if order == 0 { shuffled.clone() } else { case.by_distance(vector) };
                    if order == 2 {
                        numbers.reverse();
                    }
                    let matches = case.matches(numbers.into_iter().take(passing));
                    let packed = case.segment.pack(&matches);
                    kept += usize::from(packed.is_some());
                    for (found, packed) in found.iter_mut().zip([None, packed.as_ref()]) {
                        let (near, all, _) = case.ask_packed(vector, (&matches, packed), None, 0.98);
                        *found += near;
                        wanted += all;
                    }
                }
                let least = found.into_iter().min().unwrap_or(0);
                let name = format!("{precision:?}, {passing} pass, order {order}");
                assert!(least * 200 >= wanted * 93, "{name}: found {found:?} of {}", wanted / 2);
            }
        }
        assert!(kept > 100, "points are packed: {kept}");
    }
}

#[test]
fn packed_points_that_died_are_not_found() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let case = Case::new(Metric::Euclidean, clustered(32, 6_000, &mut rng));
    let live: Vec<u64> = (0..case.segment.len().div_ceil(64)).map(|_| rng.random()).collect();
    let matches = case.matches((0..6_000).step_by(12));
    let packed = case.segment.pack(&matches).expect("a twelfth is packed");
    assert!(packed.memory_bytes() > 0);
    let (mut found, mut wanted) = (0, 0);
    for own in 0..40 {
        let vector = beside(&case.vectors[own * 31], &mut rng);
        let (near, all, _) = case.ask_packed(&vector, (&matches, Some(&packed)), Some(&live), 0.98);
        (found, wanted) = (found + near, wanted + all);
    }
    assert!(found * 100 >= wanted * 95, "found {found} of {wanted}");
}

/// What is left of each component.
type Narrow = fn(f32) -> f32;

/// Precisions, and vectors that blocks keep so.
fn kinds() -> [(&'static str, Option<Precision>, Narrow); 5] {
    [
        ("f32", None, |c| c),
        ("f16", None, |c| half::f16::from_f32(c).to_f32()),
        ("u8", None, |c| (c * 60.0).round() + 120.0),
        ("int8", Some(Precision::Int8), |c| c),
        ("compact", Some(Precision::Compact), |c| c),
    ]
}

/// Which points live: all, most, or few.
fn random_live(len: u32, rng: &mut StdRng) -> Option<Vec<u64>> {
    let living = [1.0, 0.97, 0.5, 0.06][rng.random_range(0..4)];
    let word = |rng: &mut StdRng| (0..64).fold(0, |word, bit| word | u64::from(rng.random_bool(living)) << bit);
    (living < 1.0).then(|| (0..len.div_ceil(64)).map(|_| word(rng)).collect())
}

fn bits(hits: &[Hit]) -> Vec<(u32, u32)> {
    hits.iter().map(|hit| (hit.offset, hit.score.to_bits())).collect()
}

/// A replica that was asked a filter often has its points packed, and another has not: they answer alike, bit by bit,
/// whatever their threads searched for before.
#[test]
fn answers_do_not_depend_on_what_was_asked_before() {
    const LEN: usize = 4_000;
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut used = Scratch::new();
    let (mut searches, mut packings) = (0, 0);
    for (metric, (name, precision, narrow)) in METRICS.into_iter().flat_map(|m| kinds().map(|kind| (m, kind))) {
        let mut vectors = clustered(48, LEN, &mut rng);
        // Some are equal, so that distances and estimates are.
        (0..LEN / 10).for_each(|own| vectors[own * 10 + 1] = vectors[own * 7 + 3].clone());
        vectors.iter_mut().flatten().for_each(|component| *component = narrow(*component));
        let case = Case::with(metric, vectors, precision);
        for round in 0..60 {
            let near = beside(&case.vectors[rng.random_range(0..LEN)], &mut rng);
            let mut numbers: Vec<usize> =
                crate::rotation::shuffled(LEN, round).into_iter().map(|n| n as usize).collect();
            // Strewn about, or the nearest of a query, or its farthest.
            if round % 3 > 0 {
                numbers = case.by_distance(&near);
            }
            if round % 3 > 1 {
                numbers.reverse();
            }
            let passing = [20, 49, 90, 200, 390, 410, 800, 2_000, 3_999][rng.random_range(0..9)];
            let matches = case.matches(numbers.into_iter().take(passing));
            let packed = case.segment.pack(&matches);
            packings += usize::from(packed.is_some());
            let live = random_live(case.segment.len(), &mut rng);
            for _ in 0..4 {
                let vector = if rng.random() { near.clone() } else { beside(&case.vectors[0], &mut rng) };
                let k = [1, 3, 10, 40, 200][rng.random_range(0..5)];
                let effort = match rng.random_range(0..3) {
                    0 => Effort::Beam(rng.random_range(k..300)),
                    _ => Effort::Recall([0.3, 0.6, 0.9, 0.97, 0.995, 1.0][rng.random_range(0..6)]),
                };
                let score_limit = rng
                    .random_bool(0.2)
                    .then(|| Exact::new(metric, &vector).score(&case.vectors[rng.random_range(0..LEN)]));
                let asked = query(&vector, k);
                let plain =
                    SegmentQuery { filter: Some(&matches), live: live.as_deref(), effort, score_limit, ..asked };
                let (hits, _) = ask(&case.segment, &plain);
                let what = format!(
                    "{metric:?} {name}, {passing} pass, order {}, {}, k {k}, {effort:?}, limit {score_limit:?}",
                    round % 3,
                    if live.is_some() { "some dead" } else { "all alive" },
                );
                let again = case.segment.search(&mut used, &plain).expect("a fitting query is answered").0;
                assert_eq!(bits(&again), bits(&hits), "{what}: with a scratch that was used");
                let kept = SegmentQuery { packed: packed.as_ref(), ..plain };
                assert_eq!(bits(&ask(&case.segment, &kept).0), bits(&hits), "{what}: packed");
                let again = case.segment.search(&mut used, &kept).expect("a fitting query is answered").0;
                assert_eq!(bits(&again), bits(&hits), "{what}: packed, with a scratch that was used");
                searches += 1;
            }
        }
    }
    assert!(searches == 3_600 && packings > 700, "{searches} searches, {packings} packed");
}
