//! A delta through its life, beside a plain map and a naive search in `f64`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use shoal_index::{Certainty, CompiledFilter, Delta, DeltaView, Query, packed};
use shoal_model::{Filter, Hit, Limits, Metric, Payload, PointId, check_vector, merge_top_k};

use super::shapes;

/// In the last, a chunk holds eight rows and is soon full, worn and dissolved.
const DIMS: [u32; 4] = [1, 3, 20, 8_192];
const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::Euclidean];
const COMPONENTS: [f32; 8] = [1.0, -1.0, 0.0, 0.5, 1.000_000_1, 1e-15, 1e16, -3.25];

/// More would only take longer.
const STEPS_MAX: usize = 64;

type Points = BTreeMap<PointId, (Vec<f32>, Payload)>;

/// Data is a metric, a dimension and steps.
pub fn run(data: &[u8]) {
    // An input that ends within a step has done what it could.
    let _ = live(&mut Unstructured::new(data));
}

fn live(u: &mut Unstructured<'_>) -> Result<()> {
    let (metric, dim) = (*u.choose(&METRICS)?, *u.choose(&DIMS)?);
    let mut delta = Delta::new(dim, metric);
    let mut points = Points::new();
    let mut before: Option<(Arc<DeltaView>, Points)> = None;
    for _ in 0..STEPS_MAX {
        if u.is_empty() {
            break;
        }
        match u.int_in_range(0..=7)? {
            0..=3 => upsert(u, metric, dim, &mut delta, &mut points)?,
            4 | 5 => {
                let id = shapes::id(u)?;
                assert_eq!(delta.delete(&id).is_some(), points.remove(&id).is_some(), "there was such a point, or not");
            }
            6 => search(u, metric, dim, &delta.publish(), &points)?,
            _ => {
                if let Some((view, points)) = before.replace((delta.publish(), points.clone())) {
                    assert_shows(&view, &points);
                }
            }
        }
        assert_eq!(delta.len(), points.len());
    }
    assert_shows(&delta.publish(), &points);
    if let Some((view, points)) = before {
        assert_shows(&view, &points);
    }
    Ok(())
}

fn upsert(u: &mut Unstructured<'_>, metric: Metric, dim: u32, delta: &mut Delta, points: &mut Points) -> Result<()> {
    let (id, vector, payload) = (shapes::id(u)?, vector(u, dim)?, shapes::payload(u)?);
    if check_vector(&vector, dim, metric).is_ok() {
        delta.upsert(id.clone(), 0, &vector, packed::encode(&payload).into());
        points.insert(id, (vector, payload));
    }
    Ok(())
}

/// One component everywhere but in two places, so that vectors are equal, near, and far in turn.
fn vector(u: &mut Unstructured<'_>, dim: u32) -> Result<Vec<f32>> {
    let mut vector = vec![*u.choose(&COMPONENTS)?; dim as usize];
    let near = *u.choose(&COMPONENTS)?;
    vector[u.choose_index(dim as usize)?] = near;
    let component: f32 = u.arbitrary()?;
    if component.is_finite() {
        vector[u.choose_index(dim as usize)?] = component;
    }
    Ok(vector)
}

fn search(u: &mut Unstructured<'_>, metric: Metric, dim: u32, view: &DeltaView, points: &Points) -> Result<()> {
    let (vector, k) = (vector(u, dim)?, u.int_in_range(0..=15)?);
    let filter = if u.arbitrary()? { shapes::filter(u)? } else { Filter::default() };
    if check_vector(&vector, dim, metric).is_err() || filter.check(&Limits::default()).is_err() {
        return Ok(());
    }
    let compiled = CompiledFilter::new(&filter);
    let query = Query {
        vector: &vector,
        k,
        filter: Some(&compiled),
        score_limit: None,
        certainty: Certainty::Exact,
        stop: &|| false,
    };
    let hits = |query: &Query<'_>| {
        let (found, _) = view.search(query).expect("a fitting query is answered");
        found.into_iter().map(|found| Hit { id: found.id, score: found.score }).collect::<Vec<_>>()
    };
    assert_eq!(
        hits(&query),
        naive_search(metric, points, &vector, k, &filter),
        "search finds what the definition says"
    );
    // By codes a row may be missed, and a fuzzer would find the one in a million.
    let all = naive_search(metric, points, &vector, usize::MAX, &filter);
    let found = hits(&Query { certainty: Certainty::Sure, ..query });
    assert_eq!(found.len(), all.len().min(k), "as many as there are");
    assert!(found.iter().all(|hit| all.contains(hit)), "what is found passes, and has its score");
    let passing = points.iter().filter(|(id, (_, payload))| filter.matches(id, payload)).count();
    assert_eq!(view.count(&compiled, &|| false), Ok(passing as u64));
    Ok(())
}

fn naive_search(metric: Metric, points: &Points, query: &[f32], k: usize, filter: &Filter) -> Vec<Hit> {
    let passing = points.iter().filter(|(id, (_, payload))| filter.matches(id, payload));
    let hits = passing.map(|(id, (vector, _))| Hit { id: id.clone(), score: score(metric, query, vector) });
    merge_top_k(metric, k, vec![hits.collect()])
}

/// The score by its definition, rounded to what is reported.
fn score(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
    let sum = |term: fn(f64, f64) -> f64, a: &[f32], b: &[f32]| {
        sum_by_16(a.iter().zip(b).map(|(a, b)| term(f64::from(*a), f64::from(*b))))
    };
    let dot = |a, b| sum(|a, b| a * b, a, b);
    let score = match metric {
        Metric::Cosine => dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()),
        Metric::Dot => dot(a, b),
        Metric::Euclidean => sum(|a, b| (a - b) * (a - b), a, b).sqrt(),
    };
    score as f32 + 0.0
}

/// Terms added in the order that the index has, for where they cancel out it shows in what is left.
fn sum_by_16(terms: impl Iterator<Item = f64>) -> f64 {
    let mut sums = [0.0; 16];
    terms.enumerate().for_each(|(i, term)| sums[i % 16] += term);
    for half in [8, 4, 2, 1] {
        (0..half).for_each(|i| sums[i] += sums[i + half]);
    }
    sums[0]
}

fn assert_shows(view: &DeltaView, points: &Points) {
    let rows = view.scroll(None, usize::MAX, None, &|| false).expect("nothing stops it");
    assert!(rows.iter().map(|(id, _)| id).eq(points.keys()), "a view shows the points of its moment");
    for (id, row) in rows {
        let (vector, payload) = &points[&id];
        assert!(view.vector(row) == vector, "vector of {id}");
        assert_eq!(*view.payload(row), packed::encode(payload), "payload of {id}");
    }
}
