//! Everything a request may say wrongly. A request that fails here has been sent nowhere and has changed nothing.
//!
//! Checks borrow the wire form: what passes is sent on as it came.

use std::collections::BTreeSet;

use shoal_model::{
    IndexSpec, InputError, Limits, PointId, check_distinct, check_ef_search, check_k, check_payload, check_vector,
};
use shoal_proto::{convert, v1};

use crate::RouterError;

/// Longest name of a payload field in `payload_fields`, in bytes.
const FIELD_NAME_BYTES_MAX: usize = 1_024;

/// The number of points or ids in one request.
pub(crate) fn batch(field: &str, count: usize, limits: &Limits) -> Result<(), InputError> {
    if count == 0 || count > limits.batch_points_max as usize {
        let problem = format!("has {count} entries, must have 1 to {}", limits.batch_points_max);
        return Err(InputError::new(field, problem));
    }
    Ok(())
}

/// The number of searches in one request.
pub(crate) fn searches(count: usize, limits: &Limits) -> Result<(), InputError> {
    if count == 0 || count > limits.batch_queries_max as usize {
        let problem = format!("has {count} entries, must have 1 to {}", limits.batch_queries_max);
        return Err(InputError::new("searches", problem));
    }
    Ok(())
}

/// The time that a request names, 0 for none.
pub(crate) fn timeout(timeout_ms: u32, limits: &Limits) -> Result<(), InputError> {
    if timeout_ms > limits.timeout_ms_max {
        let problem = format!("is {timeout_ms}, the cap is {}", limits.timeout_ms_max);
        return Err(InputError::new("timeout_ms", problem));
    }
    Ok(())
}

/// Points to write; returns their ids in order.
pub(crate) fn points(points: &[v1::Point], index: &IndexSpec, limits: &Limits) -> Result<Vec<PointId>, RouterError> {
    let mut ids = Vec::with_capacity(points.len());
    for (i, point) in points.iter().enumerate() {
        if !point.version_vectors.is_empty() {
            return Err(RouterError::not_served(format!("points[{i}].version_vectors")));
        }
        ids.push(self::point(point, index, limits).map_err(|e| e.within(&format!("points[{i}]")))?);
    }
    check_distinct("points", ids.iter())?;
    Ok(ids)
}

fn point(point: &v1::Point, index: &IndexSpec, limits: &Limits) -> Result<PointId, InputError> {
    let id = convert::point_id(point.id.clone())?;
    vector(point.vector.as_ref(), index)?;
    if point.payload.is_some() {
        check_payload(&convert::payload(point.payload.clone())?, limits)?;
    }
    Ok(id)
}

fn vector(vector: Option<&v1::Vector>, index: &IndexSpec) -> Result<(), InputError> {
    match vector.and_then(|vector| vector.encoding.as_ref()) {
        Some(v1::vector::Encoding::Floats(floats)) => check_vector(&floats.components, index.dim, index.metric),
        _ => check_vector(&convert::vector(vector.cloned())?, index.dim, index.metric),
    }
}

/// Ids to read or remove; returns them in order.
pub(crate) fn ids(ids: &[v1::PointId], limits: &Limits) -> Result<Vec<PointId>, RouterError> {
    batch("ids", ids.len(), limits)?;
    let each = |(i, id): (usize, &v1::PointId)| {
        // The path of an id in a list is its position: `ids[3]`, and `ids[3].uuid` where its form is wrong.
        convert::point_id(Some(id.clone())).map_err(|e| in_list(e, &format!("ids[{i}]")))
    };
    let ids: Vec<PointId> = ids.iter().enumerate().map(each).collect::<Result<_, _>>()?;
    check_distinct("ids", ids.iter())
        .map_err(|e| InputError { field: e.field.trim_end_matches(".id").to_owned(), ..e })?;
    Ok(ids)
}

fn in_list(error: InputError, place: &str) -> InputError {
    let rest = error.field.strip_prefix("id").unwrap_or_default();
    InputError { field: format!("{place}{rest}"), problem: error.problem }
}

/// A filter.
pub(crate) fn filter(filter: Option<&v1::Filter>, limits: &Limits) -> Result<(), InputError> {
    match filter {
        None => Ok(()),
        Some(_) => convert::filter(filter.cloned())?.check(limits),
    }
}

/// A page of a scroll: where it starts and how many points are wanted, 100 unless the request says otherwise.
pub(crate) fn page(request: &v1::ScrollRequest, limits: &Limits) -> Result<usize, InputError> {
    if let Some(after) = &request.after {
        convert::point_id(Some(after.clone())).map_err(|e| in_list(e, "after"))?;
    }
    let limit = if request.limit == 0 { 100.min(limits.batch_points_max) } else { request.limit };
    if limit > limits.batch_points_max {
        return Err(InputError::new("limit", format!("is {limit}, the cap is {}", limits.batch_points_max)));
    }
    Ok(limit as usize)
}

/// What a search says, apart from its vector.
pub(crate) fn search(request: &v1::SearchRequest, limits: &Limits) -> Result<(), RouterError> {
    if request.priority != 0 {
        return Err(RouterError::not_served("priority"));
    }
    check_k(request.k, limits)?;
    filter(request.filter.as_ref(), limits)?;
    if let Some(limit) = request.score_limit.filter(|limit| !limit.is_finite()) {
        return Err(InputError::new("score_limit", format!("is {limit}, must be finite")).into());
    }
    if let Some(share) = request.min_coverage.filter(|share| !(0.0..=1.0).contains(share)) {
        return Err(InputError::new("min_coverage", format!("is {share}, must be 0 to 1")).into());
    }
    effort(request, limits)?;
    Ok(payload_fields(&request.payload_fields, limits)?)
}

/// How hard a search is to look. Called with a `k` that is within its own bounds.
fn effort(request: &v1::SearchRequest, limits: &Limits) -> Result<(), InputError> {
    if let Some(recall) = request.recall_target.filter(|recall| !(*recall > 0.0 && *recall <= 1.0)) {
        return Err(InputError::new("recall_target", format!("is {recall}, must be above 0 and at most 1")));
    }
    request.ef_search.map_or(Ok(()), |beam| check_ef_search(beam, request.k, limits))
}

fn payload_fields(names: &[String], limits: &Limits) -> Result<(), InputError> {
    if names.len() > limits.filter_values_max as usize {
        let problem = format!("has {} names, the cap is {}", names.len(), limits.filter_values_max);
        return Err(InputError::new("payload_fields", problem));
    }
    let mut seen = BTreeSet::new();
    for (i, name) in names.iter().enumerate() {
        if name.is_empty() || name.len() > FIELD_NAME_BYTES_MAX {
            let problem = format!("has {} bytes, must have 1 to {FIELD_NAME_BYTES_MAX}", name.len());
            return Err(InputError::new(format!("payload_fields[{i}]"), problem));
        }
        if !seen.insert(name) {
            return Err(InputError::new(format!("payload_fields[{i}]"), format!("names {name:?} again")));
        }
    }
    Ok(())
}

/// What a search says that only its collection can judge.
pub(crate) fn search_of(request: &v1::SearchRequest, active: u32, index: &IndexSpec) -> Result<(), InputError> {
    if request.index_version != 0 && request.index_version != active {
        let problem = format!("is {}, the collection serves {active}; leave it out", request.index_version);
        return Err(InputError::new("index_version", problem));
    }
    vector(request.vector.as_ref(), index)
}
