//! Conversions of points, payload, filters and answers. Whatever the wire can say wrongly is refused here, with
//! the path of the field.

use bytes::Bytes;
use half::f16;
use half::slice::HalfFloatSliceExt as _;
use shoal_model::{
    Condition, Filter, GraphSpec, InputError, Metric, OperationId, Payload, Point, PointId, Predicate, Quantization,
    Range, Scalar, Value,
};

use crate::v1;

/// The id, checked.
pub fn point_id(id: Option<v1::PointId>) -> Result<PointId, InputError> {
    let missing = || InputError::new("id", "is missing: give a number, a uuid or a text");
    match id.and_then(|id| id.kind).ok_or_else(missing)? {
        v1::point_id::Kind::Number(number) => Ok(PointId::Number(number)),
        v1::point_id::Kind::Uuid(text) => Ok(PointId::Uuid(uuid("id.uuid", &text)?)),
        v1::point_id::Kind::Text(text) if (1..=PointId::MAX_TEXT_BYTES).contains(&text.len()) => {
            Ok(PointId::Text(text.into()))
        }
        v1::point_id::Kind::Text(text) => {
            let problem = format!("has {} bytes, must have 1 to {}", text.len(), PointId::MAX_TEXT_BYTES);
            Err(InputError::new("id.text", problem))
        }
    }
}

/// The ids, checked; errors name `field` and the position.
pub fn point_ids(field: &str, ids: Vec<v1::PointId>) -> Result<Vec<PointId>, InputError> {
    let convert = |(i, id)| point_id(Some(id)).map_err(|e| at(e, field, i));
    ids.into_iter().enumerate().map(convert).collect()
}

/// The error of item `i` of `field`, with the item's own path kept.
fn at(error: InputError, field: &str, i: usize) -> InputError {
    error.within(&format!("{field}[{i}]"))
}

fn uuid(field: &str, text: &str) -> Result<u128, InputError> {
    let parsed = uuid::Uuid::parse_str(text);
    parsed.map(|uuid| uuid.as_u128()).map_err(|e| InputError::new(field, format!("is not a UUID: {e}")))
}

/// The id for the wire.
#[must_use]
pub fn point_id_to_wire(id: &PointId) -> v1::PointId {
    let kind = match id {
        PointId::Number(number) => v1::point_id::Kind::Number(*number),
        PointId::Uuid(_) => v1::point_id::Kind::Uuid(id.to_string()),
        PointId::Text(text) => v1::point_id::Kind::Text(text.to_string()),
    };
    v1::PointId { kind: Some(kind) }
}

/// The intent of a caller; an empty text is none.
pub fn operation_id(text: &str) -> Result<Option<OperationId>, InputError> {
    if text.is_empty() {
        return Ok(None);
    }
    uuid("operation_id", text).map(|id| Some(OperationId(id)))
}

/// Components of a vector, whatever its encoding. Finiteness is for `shoal_model::check_vector` to say.
pub fn vector(vector: Option<v1::Vector>) -> Result<Vec<f32>, InputError> {
    use v1::vector::Encoding;
    match vector.and_then(|vector| vector.encoding) {
        None => Err(InputError::new("vector", "is missing: give floats, f32_le or f16_le")),
        Some(Encoding::Floats(floats)) => Ok(floats.components),
        Some(Encoding::F32Le(bytes)) => vector_from_f32_le(&bytes),
        Some(Encoding::F16Le(bytes)) => {
            let (pairs, rest) = bytes.as_chunks::<2>();
            if !rest.is_empty() {
                return Err(InputError::new("vector.f16_le", format!("has {} bytes, not pairs", bytes.len())));
            }
            Ok(pairs.iter().map(|pair| f16::from_le_bytes(*pair)).collect::<Vec<_>>().to_f32_vec())
        }
    }
}

/// Components from little-endian bytes.
pub fn vector_from_f32_le(bytes: &[u8]) -> Result<Vec<f32>, InputError> {
    let (quads, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(InputError::new("vector.f32_le", format!("has {} bytes, not a multiple of 4", bytes.len())));
    }
    Ok(quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect())
}

/// Components as little-endian bytes.
#[must_use]
pub fn vector_to_f32_le(components: &[f32]) -> Bytes {
    components.iter().flat_map(|component| component.to_le_bytes()).collect::<Vec<u8>>().into()
}

/// A vector for the wire.
#[must_use]
pub fn vector_to_wire(components: &[f32]) -> v1::Vector {
    vector_bytes_to_wire(vector_to_f32_le(components))
}

/// A vector for the wire, from little-endian bytes of its components.
#[must_use]
pub fn vector_bytes_to_wire(f32_le: Bytes) -> v1::Vector {
    v1::Vector { encoding: Some(v1::vector::Encoding::F32Le(f32_le)) }
}

/// Payload from the wire.
pub fn payload(payload: Option<v1::Payload>) -> Result<Payload, InputError> {
    let convert = |(name, value): (String, v1::Value)| {
        let value = self::value(value).map_err(|e: InputError| e.within(&name).within("payload"))?;
        Ok((name, value))
    };
    payload.unwrap_or_default().fields.into_iter().map(convert).collect()
}

/// Prost refuses messages nested more than 100 deep, which bounds this recursion.
fn value(value: v1::Value) -> Result<Value, InputError> {
    use v1::value::Kind;
    Ok(match value.kind.ok_or_else(|| InputError::new("", "has no kind; an explicit null is `null`"))? {
        Kind::Null(_) => Value::Null,
        Kind::Boolean(boolean) => Value::Bool(boolean),
        Kind::Integer(integer) => Value::Integer(integer),
        Kind::Number(number) => Value::Double(number),
        Kind::Text(text) => Value::Text(text),
        Kind::List(list) => Value::List(list.items.into_iter().map(self::value).collect::<Result<_, _>>()?),
        Kind::Object(object) => {
            let convert = |(name, field): (String, v1::Value)| {
                self::value(field).map_err(|e: InputError| e.within(&name)).map(|v| (name, v))
            };
            Value::Object(object.fields.into_iter().map(convert).collect::<Result<_, _>>()?)
        }
    })
}

/// Payload for the wire.
#[must_use]
pub fn payload_to_wire(payload: Payload) -> v1::Payload {
    v1::Payload { fields: payload.into_iter().map(|(name, value)| (name, value_to_wire(value))).collect() }
}

fn value_to_wire(value: Value) -> v1::Value {
    use v1::value::Kind;
    let kind = match value {
        Value::Null => Kind::Null(v1::NullValue::Unspecified.into()),
        Value::Bool(boolean) => Kind::Boolean(boolean),
        Value::Integer(integer) => Kind::Integer(integer),
        Value::Double(number) => Kind::Number(number),
        Value::Text(text) => Kind::Text(text),
        Value::List(items) => Kind::List(v1::ListValue { items: items.into_iter().map(value_to_wire).collect() }),
        Value::Object(fields) => {
            Kind::Object(v1::ObjectValue { fields: fields.into_iter().map(|(n, v)| (n, value_to_wire(v))).collect() })
        }
    };
    v1::Value { kind: Some(kind) }
}

/// A point from the wire, not yet checked against its collection.
pub fn point(point: v1::Point) -> Result<Point, InputError> {
    if !point.version_vectors.is_empty() {
        let problem = "holds vectors of candidate index versions, which are not served yet";
        return Err(InputError::new("version_vectors", problem));
    }
    Ok(Point { id: point_id(point.id)?, vector: vector(point.vector)?, payload: payload(point.payload)? })
}

/// A point for the wire.
#[must_use]
pub fn point_to_wire(point: Point) -> v1::Point {
    v1::Point {
        id: Some(point_id_to_wire(&point.id)),
        vector: Some(vector_to_wire(&point.vector)),
        payload: Some(payload_to_wire(point.payload)),
        version_vectors: Default::default(),
    }
}

/// The metric, which must be named.
pub fn metric(metric: i32) -> Result<Metric, InputError> {
    match v1::Metric::try_from(metric) {
        Ok(v1::Metric::Cosine) => Ok(Metric::Cosine),
        Ok(v1::Metric::Dot) => Ok(Metric::Dot),
        Ok(v1::Metric::Euclidean) => Ok(Metric::Euclidean),
        Ok(v1::Metric::Unspecified) | Err(_) => {
            Err(InputError::new("metric", "must be METRIC_COSINE, METRIC_DOT or METRIC_EUCLIDEAN"))
        }
    }
}

/// The metric for the wire.
#[must_use]
pub fn metric_to_wire(metric: Metric) -> v1::Metric {
    match metric {
        Metric::Cosine => v1::Metric::Cosine,
        Metric::Dot => v1::Metric::Dot,
        Metric::Euclidean => v1::Metric::Euclidean,
    }
}

/// How blocks of a graph keep vectors. Unspecified is what the cluster chooses.
pub fn quantization(quantization: i32) -> Result<Quantization, InputError> {
    match v1::Quantization::try_from(quantization) {
        Ok(v1::Quantization::Unspecified) => Ok(Quantization::default()),
        Ok(v1::Quantization::None) => Ok(Quantization::None),
        Ok(v1::Quantization::Int8) => Ok(Quantization::Int8),
        Ok(v1::Quantization::Binary) => Ok(Quantization::Binary),
        Err(_) => {
            let problem = "must be QUANTIZATION_NONE, QUANTIZATION_INT8 or QUANTIZATION_BINARY, or be left out";
            Err(InputError::new("quantization", problem))
        }
    }
}

/// How blocks of a graph keep vectors, for the wire.
#[must_use]
pub fn quantization_to_wire(quantization: Quantization) -> v1::Quantization {
    match quantization {
        Quantization::None => v1::Quantization::None,
        Quantization::Int8 => v1::Quantization::Int8,
        Quantization::Binary => v1::Quantization::Binary,
    }
}

/// How graphs are built; what is absent or 0 is what the cluster chooses.
pub fn graph(params: Option<v1::GraphParams>) -> Result<GraphSpec, InputError> {
    let params = params.unwrap_or_default();
    if params.m != 0 && params.m != GraphSpec::M {
        let problem = format!(
            "is {}, must be {} or left out: blocks of a graph hold {} links",
            params.m,
            GraphSpec::M,
            2 * GraphSpec::M
        );
        return Err(InputError::new("m", problem));
    }
    let default = GraphSpec::DEFAULT;
    Ok(GraphSpec {
        ef_construction: if params.ef_construction == 0 { default.ef_construction } else { params.ef_construction },
        quantization: quantization(params.quantization)?,
        seed: if params.seed == 0 { default.seed } else { params.seed },
    })
}

/// How graphs are built, for the wire.
#[must_use]
pub fn graph_to_wire(graph: GraphSpec) -> v1::GraphParams {
    v1::GraphParams {
        m: GraphSpec::M,
        ef_construction: graph.ef_construction,
        quantization: quantization_to_wire(graph.quantization).into(),
        seed: graph.seed,
    }
}

/// A filter from the wire, not yet checked against caps. Prost bounds the recursion.
pub fn filter(filter: Option<v1::Filter>) -> Result<Filter, InputError> {
    filter.map_or_else(|| Ok(Filter::default()), |filter| clauses(filter).map_err(|e| e.within("filter")))
}

fn clauses(filter: v1::Filter) -> Result<Filter, InputError> {
    let convert = |name: &str, conditions: Vec<v1::Condition>| {
        let each = |(i, c)| condition(c).map_err(|e| at(e, name, i));
        conditions.into_iter().enumerate().map(each).collect::<Result<Vec<_>, _>>()
    };
    Ok(Filter {
        must: convert("must", filter.must)?,
        should: convert("should", filter.should)?,
        must_not: convert("must_not", filter.must_not)?,
    })
}

fn condition(condition: v1::Condition) -> Result<Condition, InputError> {
    use v1::condition::Kind;
    let missing = || InputError::new("", "is empty: give a field, has_id or filter");
    Ok(match condition.kind.ok_or_else(missing)? {
        Kind::Field(field) => Condition::Field { predicate: predicate(field.predicate)?, key: field.key },
        Kind::HasId(has_id) => Condition::HasId(point_ids("has_id.ids", has_id.ids)?),
        Kind::Filter(filter) => Condition::Nested(clauses(filter)?),
    })
}

fn predicate(predicate: Option<v1::field_condition::Predicate>) -> Result<Predicate, InputError> {
    use v1::field_condition::Predicate as Wire;
    let missing = || InputError::new("field", "has no predicate: give match, any, range or is_null");
    Ok(match predicate.ok_or_else(missing)? {
        Wire::Match(value) => Predicate::Match(scalar(value)?),
        Wire::Any(any) => Predicate::Any(any.values.into_iter().map(scalar).collect::<Result<_, _>>()?),
        Wire::Range(range) => Predicate::Range(Range { gt: range.gt, gte: range.gte, lt: range.lt, lte: range.lte }),
        Wire::IsNull(is_null) => Predicate::IsNull(is_null),
    })
}

fn scalar(scalar: v1::Scalar) -> Result<Scalar, InputError> {
    use v1::scalar::Kind;
    Ok(match scalar.kind.ok_or_else(|| InputError::new("field", "compares with a value that has no kind"))? {
        Kind::Boolean(boolean) => Scalar::Bool(boolean),
        Kind::Integer(integer) => Scalar::Integer(integer),
        Kind::Number(number) => Scalar::Double(number),
        Kind::Text(text) => Scalar::Text(text),
    })
}

/// A filter for the wire.
#[must_use]
pub fn filter_to_wire(filter: &Filter) -> v1::Filter {
    let convert = |conditions: &[Condition]| conditions.iter().map(condition_to_wire).collect();
    v1::Filter { must: convert(&filter.must), should: convert(&filter.should), must_not: convert(&filter.must_not) }
}

fn condition_to_wire(condition: &Condition) -> v1::Condition {
    use v1::condition::Kind;
    let kind = match condition {
        Condition::Field { key, predicate } => {
            Kind::Field(v1::FieldCondition { key: key.clone(), predicate: Some(predicate_to_wire(predicate)) })
        }
        Condition::HasId(ids) => Kind::HasId(v1::HasIdCondition { ids: ids.iter().map(point_id_to_wire).collect() }),
        Condition::Nested(filter) => Kind::Filter(filter_to_wire(filter)),
    };
    v1::Condition { kind: Some(kind) }
}

fn predicate_to_wire(predicate: &Predicate) -> v1::field_condition::Predicate {
    use v1::field_condition::Predicate as Wire;
    match predicate {
        Predicate::Match(value) => Wire::Match(scalar_to_wire(value)),
        Predicate::Any(values) => Wire::Any(v1::AnyOf { values: values.iter().map(scalar_to_wire).collect() }),
        Predicate::Range(Range { gt, gte, lt, lte }) => {
            Wire::Range(v1::NumberRange { gt: *gt, gte: *gte, lt: *lt, lte: *lte })
        }
        Predicate::IsNull(is_null) => Wire::IsNull(*is_null),
    }
}

fn scalar_to_wire(scalar: &Scalar) -> v1::Scalar {
    use v1::scalar::Kind;
    let kind = match scalar {
        Scalar::Bool(boolean) => Kind::Boolean(*boolean),
        Scalar::Integer(integer) => Kind::Integer(*integer),
        Scalar::Double(number) => Kind::Number(*number),
        Scalar::Text(text) => Kind::Text(text.clone()),
    };
    v1::Scalar { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample_payload() -> Payload {
        let object = Value::Object([("inner".to_owned(), Value::Bool(true))].into());
        [
            ("null", Value::Null),
            ("integer", Value::Integer(i64::MIN)),
            ("double", Value::Double(-0.5)),
            ("text", Value::Text("ü".into())),
            ("list", Value::List(vec![Value::Null, object.clone()])),
            ("object", object),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    #[test]
    fn points_survive_the_wire() {
        for id in [PointId::Number(0), PointId::Uuid(5), PointId::Text("x".repeat(128).into())] {
            let point = Point { id, vector: vec![1.0, -0.0, 1e-40], payload: sample_payload() };
            assert_eq!(self::point(point_to_wire(point.clone())), Ok(point));
        }
    }

    #[test]
    fn filters_survive_the_wire() {
        let field = |predicate| Condition::Field { key: "a.b".into(), predicate };
        let values = vec![Scalar::Bool(true), Scalar::Integer(1), Scalar::Double(0.5), Scalar::Text("t".into())];
        let inner = Filter {
            must: values.iter().cloned().map(|value| field(Predicate::Match(value))).collect(),
            should: vec![field(Predicate::Any(values)), Condition::HasId(vec![PointId::Number(1), PointId::Uuid(2)])],
            must_not: vec![
                field(Predicate::IsNull(false)),
                field(Predicate::Range(Range { gt: Some(0.0), lte: Some(1.0), ..Range::default() })),
            ],
        };
        let filter = Filter { must: vec![Condition::Nested(inner)], ..Filter::default() };
        assert_eq!(self::filter(Some(filter_to_wire(&filter))), Ok(filter));
    }

    #[test]
    fn graph_parameters_survive_the_wire_and_have_defaults() {
        assert_eq!(graph(None), Ok(GraphSpec::DEFAULT));
        assert_eq!(graph(Some(v1::GraphParams::default())), Ok(GraphSpec::DEFAULT));
        for quantization in Quantization::ALL {
            let spec = GraphSpec { ef_construction: 7, quantization, seed: u64::MAX };
            assert_eq!(graph(Some(graph_to_wire(spec))), Ok(spec), "{}", quantization.name());
        }
        for (want, params) in [
            ("m", v1::GraphParams { m: 32, ..Default::default() }),
            ("quantization", v1::GraphParams { quantization: 9, ..Default::default() }),
        ] {
            assert_eq!(graph(Some(params)).map_err(|e| e.field), Err(want.to_owned()));
        }
    }

    #[test]
    fn vectors_come_in_three_encodings() {
        use v1::vector::Encoding;
        let halves = [1.0_f32, -0.5].iter().flat_map(|c| f16::from_f32(*c).to_le_bytes()).collect::<Vec<u8>>();
        for (name, encoding, want) in [
            ("floats", Encoding::Floats(v1::FloatVector { components: vec![1.0, -0.5] }), Ok(vec![1.0, -0.5])),
            ("f32", Encoding::F32Le(vector_to_f32_le(&[1.0, -0.5])), Ok(vec![1.0, -0.5])),
            ("f16", Encoding::F16Le(halves.into()), Ok(vec![1.0, -0.5])),
            ("torn f32", Encoding::F32Le(Bytes::from_static(&[0; 7])), Err("vector.f32_le")),
            ("torn f16", Encoding::F16Le(Bytes::from_static(&[0; 7])), Err("vector.f16_le")),
        ] {
            let got = vector(Some(v1::Vector { encoding: Some(encoding) }));
            assert_eq!(got.as_ref().map_err(|e| e.field.as_str()), want.as_ref().map_err(|e| *e), "{name}");
        }
    }

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        let id = |kind| Some(v1::PointId { kind: Some(kind) });
        for (name, got, want) in [
            ("no id", point_id(None), "id"),
            ("no kind", point_id(Some(v1::PointId { kind: None })), "id"),
            ("bad uuid", point_id(id(v1::point_id::Kind::Uuid("123".into()))), "id.uuid"),
            ("empty text", point_id(id(v1::point_id::Kind::Text(String::new()))), "id.text"),
            ("long text", point_id(id(v1::point_id::Kind::Text("x".repeat(129)))), "id.text"),
        ] {
            assert_eq!(got.map_err(|e| e.field), Err(want.to_owned()), "{name}");
        }
        let empty = v1::Filter { must: vec![v1::Condition { kind: None }], ..Default::default() };
        assert_eq!(filter(Some(empty)).map_err(|e| e.field), Err("filter.must[0]".to_owned()));
        let no_kind = v1::Payload { fields: [("f".to_owned(), v1::Value { kind: None })].into() };
        assert_eq!(payload(Some(no_kind)).map_err(|e| e.field), Err("payload.f".to_owned()));
    }
}
