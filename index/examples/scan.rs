//! Measures the delta on one core: search by codes and exactly, with and without filters, filter alone, publish.
//!
//! 63,666 points of 384 dimensions around 500 others, with 13 fields in about 800 packed bytes, drawn from a fixed seed;
//! k = 10.
//! Run with `cargo run --release -p shoal-index --example scan`.

#![allow(clippy::unwrap_used, reason = "a measurement")]

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::StdRng};
use shoal_index::kernels::Kernels;
use shoal_index::{Certainty, CompiledFilter, Delta, DeltaView, Query, packed};
use shoal_model::{Condition, Filter, Metric, Payload, PointId, Predicate, Range, Scalar, Value};

const POINTS: u64 = 63_666;
const DIM: u32 = 384;
const ROUNDS: usize = 41;
const WAYS: [(&str, Certainty); 3] = [
    ("search by codes", Certainty::Sure),
    ("search by codes, likely", Certainty::Likely),
    ("search exactly", Certainty::Exact),
];

fn main() {
    let mut rng = StdRng::seed_from_u64(1);
    let world = World::new(&mut rng);
    println!("kernels {}, {POINTS} points x {DIM}", Kernels::best().name());
    for metric in [Metric::Cosine, Metric::Dot, Metric::Euclidean] {
        let mut delta = Delta::new(DIM, metric);
        let started = Instant::now();
        for id in 0..POINTS {
            delta.upsert(
                PointId::Number(id),
                0,
                &world.vector(&mut rng),
                packed::encode(&payload(&mut rng, id)).into(),
            );
        }
        let filled = started.elapsed();
        println!("{}: filled in {filled:?}, {} MB", metric.name(), delta.memory_bytes() >> 20);
        let view = delta.publish();
        let queries: Vec<_> = (0..ROUNDS).map(|_| world.vector(&mut rng)).collect();
        for (name, certainty) in WAYS {
            report(name, &queries, |query| search(&view, query, None, certainty));
        }
        if metric == Metric::Cosine {
            measure_filters(&view, &queries);
            measure_publish(&mut delta, &world, &mut rng);
        }
    }
}

fn measure_filters(view: &DeltaView, queries: &[Vec<f32>]) {
    for (name, filter) in filters() {
        let compiled = CompiledFilter::new(&filter);
        let passing = view.count(&compiled, &|| false).unwrap();
        println!("  filter {name}: {passing} pass");
        report("  count", queries, |_| view.count(&compiled, &|| false).unwrap());
        for (name, certainty) in WAYS {
            report(name, queries, |query| search(view, query, Some(&compiled), certainty));
        }
    }
}

fn measure_publish(delta: &mut Delta, world: &World, rng: &mut StdRng) {
    let (mut publish, mut copy, mut plain) = (vec![], vec![], vec![]);
    for round in 0..ROUNDS as u64 {
        let started = Instant::now();
        let view = delta.publish();
        publish.push(started.elapsed());
        let (first, second) = (world.vector(rng), world.vector(rng));
        let started = Instant::now();
        delta.upsert(PointId::Number(POINTS + 2 * round), 0, &first, packed::encode(&Payload::new()).into());
        copy.push(started.elapsed());
        let started = Instant::now();
        delta.upsert(PointId::Number(POINTS + 2 * round + 1), 0, &second, packed::encode(&Payload::new()).into());
        plain.push(started.elapsed());
        drop(view);
    }
    print("publish", publish);
    print("first upsert after it", copy);
    print("next upsert", plain);
}

fn search(view: &DeltaView, vector: &[f32], filter: Option<&CompiledFilter>, certainty: Certainty) -> u64 {
    let query = Query { vector, k: 10, filter, score_limit: None, certainty, stop: &|| false };
    let (found, stats) = view.search(&query).unwrap();
    found.len() as u64 + stats.rescored
}

fn report(what: &str, queries: &[Vec<f32>], run: impl Fn(&[f32]) -> u64) {
    let time = |query: &Vec<f32>| {
        let started = Instant::now();
        std::hint::black_box(run(query));
        started.elapsed()
    };
    print(what, queries.iter().map(time).collect());
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    println!("  {what}: min {:?}, p50 {:?}, max {:?}", times[0], times[times.len() / 2], times[times.len() - 1]);
}

/// Filters by how much they let through.
fn filters() -> Vec<(&'static str, Filter)> {
    let field = |key: &str, predicate| Condition::Field { key: key.into(), predicate };
    let must = |conditions| Filter { must: conditions, ..Filter::default() };
    let text = |value: String| Scalar::Text(value);
    let range = |gte| Predicate::Range(Range { gte: Some(gte), ..Range::default() });
    vec![
        ("size >= 100,000 of a million", must(vec![field("installed_size", range(100_000.0))])),
        (
            "section among 3 of 50",
            must(vec![field("section", Predicate::Any((0..3).map(|i| text(format!("section-{i}"))).collect()))]),
        ),
        (
            "tag and size",
            must(vec![
                field("tags", Predicate::Match(text("role::tag-7".into()))),
                field("installed_size", range(900_000.0)),
            ]),
        ),
        ("name of one", must(vec![field("package", Predicate::Match(text("package-4711".into())))])),
        ("none", must(vec![field("version", Predicate::Match(text("no such".into())))])),
    ]
}

/// What points lie around.
struct World(Vec<Vec<f32>>);

impl World {
    fn new(rng: &mut StdRng) -> Self {
        Self((0..500).map(|_| (0..DIM).map(|_| rng.random_range(-1.0..1.0)).collect()).collect())
    }

    fn vector(&self, rng: &mut StdRng) -> Vec<f32> {
        let center = &self.0[rng.random_range(0..self.0.len())];
        center.iter().map(|c| c + rng.random_range(-1.0..1.0)).collect()
    }
}

fn payload(rng: &mut StdRng, id: u64) -> Payload {
    let text = |value: String| Value::Text(value);
    let tags = (0..5).map(|_| text(format!("role::tag-{}", rng.random_range(0..40)))).collect();
    [
        ("architecture", text("all".into())),
        ("depends", Value::List((0..6).map(|i| text(format!("libsomething{i}-dev"))).collect())),
        ("description", text("A tool that does one thing, and does it in about eighty letters. ".repeat(6))),
        ("essential", Value::Bool(false)),
        ("homepage", text(format!("https://example.org/package-{id}"))),
        ("installed_size", Value::Integer(rng.random_range(0..1_000_000))),
        ("maintainer", text("Some Maintainer <maintainer@example.org>".into())),
        ("package", text(format!("package-{id}"))),
        ("priority", text("optional".into())),
        ("section", text(format!("section-{}", rng.random_range(0..50)))),
        ("summary", text("does one thing".into())),
        ("tags", Value::List(tags)),
        ("version", text("1.2.3-4".into())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
