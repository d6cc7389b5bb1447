//! A point, and the checks that every point and query passes before anything else sees it.
//!
//! The router checks to answer quickly; the node checks again, because its log must never hold
//! what its state machine cannot apply.

use std::collections::BTreeMap;

use crate::{InputError, Limits, Metric, Payload, PointId, Value, depth, size_bytes};

/// One vector with its id and payload.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Chosen by its owner.
    pub id: PointId,
    /// As many components as the collection has dimensions, as they were sent.
    pub vector: Vec<f32>,
    /// Fields for filters and answers.
    pub payload: Payload,
}

/// Largest magnitude of a component. With it no distance of up to 65,536 dimensions overflows an `f32`.
const COMPONENT_MAX: f32 = 1e16;

/// Smallest length of a vector that has a direction; below it, cosine is refused.
const NORM_MIN: f64 = 1e-18;

/// Checks a vector of a point or a query: `dim` finite components, and a direction where cosine needs one.
pub fn check_vector(vector: &[f32], dim: u32, metric: Metric) -> Result<(), InputError> {
    if vector.len() != dim as usize {
        return Err(InputError::new("vector", format!("has {} dimensions, collection has {dim}", vector.len())));
    }
    for (i, component) in vector.iter().enumerate() {
        if !component.is_finite() {
            return Err(InputError::new(format!("vector[{i}]"), format!("is {component}, must be finite")));
        }
        if component.abs() > COMPONENT_MAX {
            let problem = format!("is {component:e}, must lie within ±{COMPONENT_MAX:e}");
            return Err(InputError::new(format!("vector[{i}]"), problem));
        }
    }
    if metric == Metric::Cosine {
        let norm = vector.iter().map(|c| f64::from(*c).powi(2)).sum::<f64>().sqrt();
        if norm < NORM_MIN {
            return Err(InputError::new("vector", "is zero, which has no direction for the cosine metric"));
        }
    }
    Ok(())
}

/// Checks one point's payload: size, depth, finite numbers, names.
pub fn check_payload(payload: &Payload, limits: &Limits) -> Result<(), InputError> {
    let levels = depth(payload);
    if levels > limits.payload_depth_max as usize {
        let problem = format!("is nested {levels} levels deep, the cap is {}", limits.payload_depth_max);
        return Err(InputError::new("payload", problem));
    }
    let size = size_bytes(payload);
    if size > limits.payload_bytes_max as usize {
        let problem = format!("has {size} bytes, the cap is {}", limits.payload_bytes_max);
        return Err(InputError::new("payload", problem));
    }
    payload.iter().try_for_each(|(name, value)| check_value(name, value).map_err(|e| e.within("payload")))
}

fn check_value(name: &str, value: &Value) -> Result<(), InputError> {
    if name.is_empty() {
        return Err(InputError::new("", "a field name is empty"));
    }
    match value {
        Value::Double(number) if !number.is_finite() => {
            Err(InputError::new(name, format!("is {number}, must be finite")))
        }
        Value::List(items) => items.iter().try_for_each(|item| check_value(name, item)),
        Value::Object(fields) => fields.iter().try_for_each(|(n, v)| check_value(n, v).map_err(|e| e.within(name))),
        _ => Ok(()),
    }
}

/// Refuses a batch that names an id twice: which of the two should win is for the sender to say.
pub fn check_distinct<'a>(field: &str, ids: impl Iterator<Item = &'a PointId>) -> Result<(), InputError> {
    let mut first_seen = BTreeMap::new();
    for (position, id) in ids.enumerate() {
        if let Some(earlier) = first_seen.insert(id, position) {
            let problem = format!("id {id} was already given at {field}[{earlier}]; send each id once per batch");
            return Err(InputError::new(format!("{field}[{position}].id"), problem));
        }
    }
    Ok(())
}

/// Checks the wanted number of results.
pub fn check_k(k: u32, limits: &Limits) -> Result<(), InputError> {
    if k == 0 || k > limits.k_max {
        return Err(InputError::new("k", format!("is {k}, must be 1 to {}", limits.k_max)));
    }
    Ok(())
}

/// Checks the beam of a search that wants `k` results; `k` was checked.
pub fn check_ef_search(beam: u32, k: u32, limits: &Limits) -> Result<(), InputError> {
    if beam < k {
        return Err(InputError::new("ef_search", format!("is {beam}, must be at least k, which is {k}")));
    }
    if beam > limits.ef_search_max {
        return Err(InputError::new("ef_search", format!("is {beam}, the cap is {}", limits.ef_search_max)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_checked_by_component_and_length() {
        for (name, vector, metric, want) in [
            ("fine", vec![1.0, -0.0], Metric::Cosine, None),
            ("zero is a place under euclidean", vec![0.0, 0.0], Metric::Euclidean, None),
            ("short", vec![1.0], Metric::Dot, Some("vector")),
            ("empty", vec![], Metric::Dot, Some("vector")),
            ("nan", vec![0.0, f32::NAN], Metric::Dot, Some("vector[1]")),
            ("infinite", vec![f32::NEG_INFINITY, 0.0], Metric::Dot, Some("vector[0]")),
            ("huge", vec![1e30, 0.0], Metric::Euclidean, Some("vector[0]")),
            ("zero", vec![0.0, -0.0], Metric::Cosine, Some("vector")),
            ("subnormal", vec![1e-40, 0.0], Metric::Cosine, Some("vector")),
        ] {
            let got = check_vector(&vector, 2, metric).err().map(|e| e.field);
            assert_eq!(got.as_deref(), want, "{name}");
        }
    }

    #[test]
    fn payload_caps_name_the_field() {
        let limits = Limits { payload_bytes_max: 20, payload_depth_max: 2, ..Limits::default() };
        let object = |value| Value::Object([("in".to_owned(), value)].into());
        for (name, value, want) in [
            ("fine", Value::Text("abc".into()), None),
            ("long", Value::Text("x".repeat(30)), Some("payload")),
            ("deep", object(object(Value::Null)), Some("payload")),
            ("nan", Value::Double(f64::NAN), Some("payload.f")),
            ("nan inside", object(Value::Double(f64::INFINITY)), Some("payload.f.in")),
        ] {
            let got = check_payload(&[("f".to_owned(), value)].into(), &limits).err().map(|e| e.field);
            assert_eq!(got.as_deref(), want, "{name}");
        }
    }

    #[test]
    fn repeated_ids_name_both_places() {
        let ids = [PointId::Number(1), PointId::Number(2), PointId::Number(1)];
        let error = check_distinct("points", ids.iter()).expect_err("id 1 is there twice");
        assert_eq!(error.field, "points[2].id");
        assert!(error.problem.contains("points[0]"), "{error}");
    }
}
