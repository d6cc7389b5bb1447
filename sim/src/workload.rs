//! What clients ask for, and what points look like. Vectors have small whole components, so that every score is exact in
//! `f64` whatever the order of its sum, and the checker can tell each bit of it.

use rand::Rng;
use rand::rngs::SmallRng;
use shoal_checker::history::{Level, OpNumber, Write};
use shoal_index::packed;
use shoal_model::{Metric, PointId, Token, Value};
use shoal_proto::{convert, v1};
use xxhash_rust::xxh3::xxh3_64;

use crate::event::Read;

/// Different values of the field that filters look at.
pub(crate) const KINDS: u64 = 3;
/// Different query vectors.
const QUERIES: u64 = 40;

/// What a client asks.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    Upsert(Vec<PointId>),
    Delete(Vec<PointId>),
    Read(Fresh, Read),
}

/// How fresh an answer is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fresh {
    Linearizable,
    Session,
    /// With the token of that client beside one's own.
    SessionOf(usize),
    Eventual,
}

/// What another client can present: a token, and the last operation that it covers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) token: Token,
    pub(crate) last: Option<OpNumber>,
}

/// Draws what is asked next.
pub(crate) fn draw(ids: u64, clients: usize, rng: &mut SmallRng) -> Wish {
    let fresh = match rng.random_range(0..10) {
        0..4 => Fresh::Linearizable,
        4..7 => Fresh::Session,
        7 => Fresh::SessionOf(rng.random_range(0..clients)),
        _ => Fresh::Eventual,
    };
    match rng.random_range(0..20) {
        0..7 => Wish::Upsert(some_ids(ids, 6, rng)),
        7..10 => Wish::Delete(some_ids(ids, 3, rng)),
        10..15 => Wish::Read(fresh, Read::Get(some_ids(ids, 4, rng))),
        15 => Wish::Read(fresh, Read::Scroll { after: None, limit: rng.random_range(5..60) }),
        16 => Wish::Read(fresh, Read::Count),
        _ => {
            let filter = rng.random_bool(0.3).then(|| rng.random_range(0..KINDS));
            let (query, k) = (rng.random_range(0..QUERIES), rng.random_range(1..12));
            Wish::Read(fresh, Read::Search { query, k, exact: rng.random_bool(0.85), filter })
        }
    }
}

fn some_ids(ids: u64, most: u64, rng: &mut SmallRng) -> Vec<PointId> {
    let first = rng.random_range(0..ids);
    let count = rng.random_range(1..=most.min(ids));
    let step = rng.random_range(1..=7);
    let mut all: Vec<u64> = (0..count).map(|i| (first + i * step) % ids).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter().map(PointId::Number).collect()
}

/// How a level is told to the checker.
pub(crate) fn level_of(fresh: Fresh, staleness_ns: u64, other: Option<OpNumber>) -> Level {
    match fresh {
        Fresh::Linearizable => Level::Linearizable,
        Fresh::Session => Level::Session { own: true, after: Vec::new() },
        Fresh::SessionOf(_) => Level::Session { own: true, after: other.into_iter().collect() },
        Fresh::Eventual => Level::Eventual { staleness_ns },
    }
}

/// The vector that a write gives a point.
pub(crate) fn vector_of(id: &PointId, write: Write, dim: u32) -> Vec<f32> {
    whole_numbers(xxh3_64(&[&id.to_key()[..], &write.0.to_le_bytes()].concat()), dim)
}

pub(crate) fn query_vector(query: u64, dim: u32) -> Vec<f32> {
    whole_numbers(xxh3_64(&(query + (1 << 40)).to_le_bytes()), dim)
}

/// Components from -8 to 8, the first one not zero.
fn whole_numbers(seed: u64, dim: u32) -> Vec<f32> {
    let component = |i: u32| {
        let hash = xxh3_64(&[seed.to_le_bytes(), u64::from(i).to_le_bytes()].concat());
        let number = i16::try_from(hash % 17).unwrap_or(0) - 8;
        f32::from(if i == 0 && number == 0 { 5 } else { number })
    };
    (0..dim).map(component).collect()
}

/// The kind that a write gives a point.
pub(crate) fn kind_of(write: Write) -> u64 {
    write.0 % KINDS
}

pub(crate) fn point(id: &PointId, write: Write, dim: u32) -> v1::Point {
    let number = |number: u64| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    let payload =
        [("w".to_owned(), number(write.0)), ("kind".to_owned(), number(kind_of(write)))].into_iter().collect();
    debug_assert!(!packed::encode(&payload).is_empty());
    v1::Point {
        id: Some(convert::point_id_to_wire(id)),
        vector: Some(convert::vector_to_wire(&vector_of(id, write, dim))),
        payload: Some(convert::payload_to_wire(payload)),
        version_vectors: Default::default(),
    }
}

/// The metric's quantity, as the cluster computes it.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn score(metric: Metric, query: &[f32], vector: &[f32]) -> f32 {
    let pairs = || query.iter().zip(vector).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let dot = |of: &dyn Fn((f64, f64)) -> f64| pairs().map(of).sum::<f64>();
    let score = match metric {
        Metric::Dot => dot(&|(a, b)| a * b),
        Metric::Euclidean => dot(&|(a, b)| (a - b) * (a - b)).sqrt(),
        Metric::Cosine => dot(&|(a, b)| a * b) / (dot(&|(a, _)| a * a).sqrt() * dot(&|(_, b)| b * b).sqrt()),
    };
    score as f32 + 0.0
}
