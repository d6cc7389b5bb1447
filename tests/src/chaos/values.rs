//! What is written: collections, ids, and vectors and payload that follow from the number of a write, so that every
//! answer can be verified.

use shoal_checker::history::Write;
use shoal_model::{Condition, Filter, Metric, Payload, Point, PointId, Predicate, Scalar, Value};

/// A collection that the load writes to and reads from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Its name.
    pub(crate) name: &'static str,
    /// Components of its vectors.
    pub(crate) dim: usize,
    /// How nearness is measured.
    pub(crate) metric: Metric,
    /// Number of shards.
    pub(crate) shards: u32,
    /// Replicas with points of each.
    pub(crate) replicas: u32,
    /// Whether each has a witness beside them.
    pub(crate) witness: bool,
    /// Ids in use.
    pub(crate) ids: u64,
}

/// All collections. Scores of the first two are exact in `f32`: components are small whole numbers.
pub(crate) const PLANS: [Plan; 3] = [
    Plan { name: "near", dim: 8, metric: Metric::Euclidean, shards: 5, replicas: 3, witness: false, ids: 1_000 },
    Plan { name: "inner", dim: 12, metric: Metric::Dot, shards: 3, replicas: 3, witness: false, ids: 400 },
    Plan { name: "witnessed", dim: 6, metric: Metric::Cosine, shards: 2, replicas: 2, witness: true, ids: 200 },
];

/// Number of groups into which payload divides points; filters ask for one of them.
pub(crate) const GROUPS: u64 = 7;

/// An id of each form now and then.
#[must_use]
pub(crate) fn id(number: u64) -> PointId {
    match number % 8 {
        6 => PointId::Uuid(u128::from(mix(number)) << 64 | u128::from(number)),
        7 => PointId::Text(format!("id {number}").into()),
        _ => PointId::Number(number),
    }
}

/// Whole numbers of -8 to 8, never all zero.
#[must_use]
pub(crate) fn vector(number: u64, dim: usize) -> Vec<f32> {
    #[allow(clippy::cast_precision_loss, reason = "numbers below 17")]
    let component = |i: u64| (mix(number ^ mix(i)) % 17) as f32 - 8.0;
    let mut vector: Vec<f32> = (0..dim as u64).map(component).collect();
    if vector.iter().all(|component| *component == 0.0) {
        vector[0] = 1.0;
    }
    vector
}

/// The vector of a query.
#[must_use]
pub(crate) fn query(number: u64, dim: usize) -> Vec<f32> {
    vector(!number, dim)
}

/// What a write gives a point.
#[must_use]
pub(crate) fn payload(write: Write) -> Payload {
    let whole = |number: u64| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    let text = Value::Text(format!("write {write}, {:016x}", mix(write.0)));
    [("write".to_owned(), whole(write.0)), ("group".to_owned(), whole(write.0 % GROUPS)), ("text".to_owned(), text)]
        .into()
}

/// The whole point.
#[must_use]
pub(crate) fn point(id: PointId, write: Write, dim: usize) -> Point {
    Point { id, vector: vector(write.0, dim), payload: payload(write) }
}

/// The filter of this number.
#[must_use]
pub(crate) fn filter(group: u64) -> Filter {
    let scalar = Scalar::Integer(i64::try_from(group).unwrap_or_default());
    let condition = Condition::Field { key: "group".to_owned(), predicate: Predicate::Match(scalar) };
    Filter { must: vec![condition], ..Filter::default() }
}

/// Whether the filter lets a point pass that a write left.
#[must_use]
pub(crate) fn passes(group: u64, write: Write) -> bool {
    write.0 % GROUPS == group
}

/// The score of what a write left, as the metric defines it.
#[must_use]
pub(crate) fn score(plan: &Plan, number: u64, write: Write) -> f32 {
    let (query, row) = (query(number, plan.dim), vector(write.0, plan.dim));
    let pairs = || query.iter().zip(&row).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let dot: f64 = pairs().map(|(a, b)| a * b).sum();
    let score = match plan.metric {
        Metric::Dot => dot,
        Metric::Euclidean => pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt(),
        Metric::Cosine => {
            let norm = |v: &[f32]| v.iter().map(|a| f64::from(*a) * f64::from(*a)).sum::<f64>().sqrt();
            dot / (norm(&query) * norm(&row))
        }
    };
    #[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
    let rounded = score as f32;
    rounded + 0.0
}

/// Which write a payload tells of, if payload and vector (where it came) are just what that write gave.
///
/// Errors: what does not fit.
pub(crate) fn verify(plan: &Plan, payload: &Payload, vector_seen: Option<&[f32]>) -> Result<Write, String> {
    let Some(Value::Integer(number)) = payload.get("write") else {
        return Err(format!("payload without the number of a write: {payload:?}"));
    };
    let write = Write(u64::try_from(*number).map_err(|_| format!("{number} is no number of a write"))?);
    if *payload != self::payload(write) {
        return Err(format!("write {write} has a payload that is not its own: {payload:?}"));
    }
    match vector_seen {
        Some(seen) if *seen != vector(write.0, plan.dim) => {
            Err(format!("write {write} has a vector that is not its own: {seen:?}"))
        }
        _ => Ok(write),
    }
}

/// One number from another: `SplitMix64`.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_verified_against_their_write() {
        let plan = &PLANS[0];
        let point = point(id(3), Write(40), plan.dim);
        assert_eq!(verify(plan, &point.payload, Some(&point.vector)), Ok(Write(40)));
        assert!(verify(plan, &point.payload, Some(&vector(41, plan.dim))).is_err(), "the vector of another write");
        assert!(verify(plan, &Payload::new(), None).is_err());
        let mut mixed = payload(Write(40));
        mixed.insert("group".to_owned(), Value::Integer(99));
        assert!(verify(plan, &mixed, None).is_err(), "a field of another write");
        assert!(filter(40 % GROUPS).matches(&id(3), &point.payload) && passes(40 % GROUPS, Write(40)));
    }
}
