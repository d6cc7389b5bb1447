//! The set against a plain map and a naive search in `f64`.

mod churn;
mod damage;
mod edges;
mod interleaving;
mod ranges;
mod repeated;
mod sameness;
mod scanning;

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::{Rng, rngs::StdRng};
use shoal_model::{
    Condition, Filter, Hit, Metric, Payload, PointId, Predicate, Range, Value, check_vector, merge_top_k,
};

use super::{Found, Job, JobInput, Look, PointSet, Policy, Product, Row, SetFilter, SetQuery, View, ViewFilter};
use crate::packed;
use crate::score::Exact;
use crate::segment::{Effort, Parameters, Scratch, Segment, Target};

const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::Euclidean];
const POLICY: Policy = Policy { delta_points_max: 40, delta_bytes_max: 1 << 30, segment_points_max: 1_000 };
const WALK: Look = Look::Walk(Effort::Recall(0.98));

/// What a point is beside its id.
#[derive(Clone, Debug, PartialEq)]
struct Point {
    version: u64,
    vector: Vec<f32>,
    size: i64,
}

type Points = BTreeMap<PointId, Point>;

fn never() -> bool {
    false
}

fn id(number: u64) -> PointId {
    // Some of each kind: their order is not that of the numbers.
    match number % 3 {
        0 => PointId::Number(number),
        1 => PointId::Text(number.to_string().into()),
        _ => PointId::Uuid(u128::from(number) << 64),
    }
}

fn payload(size: i64) -> Vec<u8> {
    packed::encode(&Payload::from([("size".to_owned(), Value::Integer(size))]))
}

/// Passes points of `size >= bound`.
fn at_least(bound: i64) -> Filter {
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let predicate = Predicate::Range(Range { gte: Some(bound as f64), ..Range::default() });
    Filter { must: vec![Condition::Field { key: "size".into(), predicate }], ..Filter::default() }
}

fn query<'a>(vector: &'a [f32], k: usize, look: Look) -> SetQuery<'a> {
    SetQuery { vector, k, look, filter: None, score_limit: None, stop: &never }
}

fn parameters(metric: Metric) -> Parameters {
    Parameters { metric, precision: None, ef_construction: 40, seed: 5 }
}

fn build(metric: Metric, input: &JobInput) -> Segment {
    Segment::build(&input.rows(), &parameters(metric), &Target::Memory, &never).expect("nothing stops the build")
}

fn product(metric: Metric, input: &JobInput) -> Product {
    input.execute(&parameters(metric), &Target::Memory, &never).expect("nothing stops the job")
}

/// Does a job from begin to end.
fn run(set: &mut PointSet, job: Job) {
    let input = set.begin(job).expect("the job was planned");
    let product = product(set.metric, &input);
    set.install(product).expect("the job runs");
}

fn upsert(set: &mut PointSet, points: &mut Points, id: PointId, point: Point) {
    set.upsert(id.clone(), point.version, &point.vector, payload(point.size).into());
    points.insert(id, point);
}

/// A vector with few different components: many are equal, and many equally far.
fn coarse(rng: &mut StdRng, dim: u32, metric: Metric) -> Vec<f32> {
    loop {
        let vector: Vec<f32> = (0..dim).map(|_| rng.random_range(-2_i8..=2).into()).collect();
        if check_vector(&vector, dim, metric).is_ok() {
            return vector;
        }
    }
}

fn naive(metric: Metric, points: &Points, query: &SetQuery<'_>, filter: &Filter) -> Vec<Hit> {
    let exact = Exact::new(metric, query.vector);
    let passes = |(id, point): &(&PointId, &Point)| {
        let payload = Payload::from([("size".to_owned(), Value::Integer(point.size))]);
        filter.matches(id, &payload)
    };
    let hit = |(id, point): (&PointId, &Point)| Hit { id: id.clone(), score: exact.score(&point.vector) };
    let near = |hit: &Hit| query.score_limit.is_none_or(|limit| metric.compare(hit.score, limit).is_le());
    merge_top_k(metric, query.k, vec![points.iter().filter(passes).map(hit).filter(near).collect()])
}

fn hits(found: &[Found]) -> Vec<Hit> {
    found.iter().map(|found| Hit { id: found.id.clone(), score: found.score }).collect()
}

fn search(view: &View, query: &SetQuery<'_>) -> Vec<Found> {
    view.search(&mut Scratch::new(), query).expect("a fitting query is answered").0
}

fn prepare(view: &View, filter: &Filter) -> ViewFilter {
    view.filter(&Arc::new(SetFilter::new(filter.clone())))
}

/// What a view has at a row.
fn point_at(view: &View, row: Row) -> Point {
    let payload = packed::decode(view.payload(row).expect("sound")).expect("it was encoded");
    let Some(Value::Integer(size)) = payload.get("size") else { panic!("a size is in every payload: {payload:?}") };
    Point { version: view.version(row), vector: view.vector(row).expect("sound"), size: *size }
}
