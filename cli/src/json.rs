//! JSON as people and files write it, to and from the words of `shoal-model`.

use serde_json::{Map, Value as Json, json};
use shoal_model::{Condition, Filter, InputError, Payload, PointId, Predicate, Range, Scalar, Value};

/// An id as typed: digits are a number, a UUID is one, all else is text. A `text:` in front forces text.
pub(crate) fn id_from_text(text: &str) -> Result<PointId, String> {
    if let Some(forced) = text.strip_prefix("text:") {
        return text_id(forced);
    }
    match text.parse() {
        Ok(number) => Ok(PointId::Number(number)),
        // Whoever types digits means a number, and would look for the text in vain.
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(format!("the largest number id is {}; write text:{text} if the text is meant", u64::MAX))
        }
        Err(_) => text_id_or_uuid(text),
    }
}

/// An id in the form that [`id_from_text`] reads as the same id.
pub(crate) fn id_to_text(id: &PointId) -> String {
    let plain = id.to_string();
    if id_from_text(&plain).as_ref() == Ok(id) { plain } else { format!("text:{plain}") }
}

fn text_id_or_uuid(text: &str) -> Result<PointId, String> {
    let hyphenated = text.len() == 36;
    match uuid::Uuid::parse_str(text).ok().filter(|_| hyphenated) {
        Some(uuid) => Ok(PointId::Uuid(uuid.as_u128())),
        None => text_id(text),
    }
}

fn text_id(text: &str) -> Result<PointId, String> {
    if (1..=PointId::MAX_TEXT_BYTES).contains(&text.len()) {
        return Ok(PointId::Text(text.into()));
    }
    Err(format!("has {} bytes, must have 1 to {}", text.len(), PointId::MAX_TEXT_BYTES))
}

/// An id from JSON: a number from 0 up, a text in UUID form, or another text.
pub(crate) fn id(json: &Json) -> Result<PointId, String> {
    match json {
        Json::String(text) => text_id_or_uuid(text),
        Json::Number(number) => match number.as_u64() {
            Some(number) => Ok(PointId::Number(number)),
            None => Err(format!("is {number}, must be a whole number from 0 up, or a text")),
        },
        other => Err(format!("is {}, must be a number or a text", kind(other))),
    }
}

/// An id for JSON.
pub(crate) fn id_to_json(id: &PointId) -> Json {
    match id {
        PointId::Number(number) => json!(number),
        other => json!(other.to_string()),
    }
}

fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

/// A vector: a list of numbers. Finiteness is checked against the collection.
pub(crate) fn vector(json: &Json) -> Result<Vec<f32>, InputError> {
    let wrong = |problem| InputError::new("vector", problem);
    let items = json.as_array().ok_or_else(|| wrong(format!("is {}, must be a list of numbers", kind(json))))?;
    #[allow(clippy::cast_possible_truncation, reason = "a component is an f32; what is too large becomes infinite")]
    let component = |(i, item): (usize, &Json)| match item.as_f64() {
        Some(number) => Ok(number as f32),
        None => Err(InputError::new(format!("vector[{i}]"), format!("is {}, must be a number", kind(item)))),
    };
    items.iter().enumerate().map(component).collect()
}

/// A vector for JSON: each component in the fewest digits that read back as the same `f32`.
pub(crate) fn vector_to_json(vector: &[f32]) -> Json {
    let component = |component: &f32| json!(component.to_string().parse().unwrap_or(f64::from(*component)));
    Json::Array(vector.iter().map(component).collect())
}

/// Payload fields.
pub(crate) fn payload(fields: Map<String, Json>) -> Result<Payload, InputError> {
    let convert = |(name, json)| match value(json) {
        Ok(value) => Ok((name, value)),
        Err(problem) => Err(InputError::new(name, problem)),
    };
    fields.into_iter().map(convert).collect()
}

fn value(json: Json) -> Result<Value, String> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(boolean) => Value::Bool(boolean),
        Json::String(text) => Value::Text(text),
        Json::Array(items) => Value::List(items.into_iter().map(value).collect::<Result<_, _>>()?),
        Json::Object(fields) => Value::Object(
            fields.into_iter().map(|(name, json)| Ok((name, value(json)?))).collect::<Result<_, String>>()?,
        ),
        Json::Number(number) if number.is_u64() && !number.is_i64() => {
            return Err(format!("holds {number}; whole numbers end at {}", i64::MAX));
        }
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Value::Integer(integer),
            None => Value::Double(number.as_f64().ok_or_else(|| format!("holds {number}, which is no number"))?),
        },
    })
}

/// Payload for JSON.
pub(crate) fn payload_to_json(payload: &Payload) -> Json {
    Json::Object(payload.iter().map(|(name, value)| (name.clone(), value_to_json(value))).collect())
}

/// A payload value for JSON.
pub(crate) fn value_to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(boolean) => json!(boolean),
        Value::Integer(integer) => json!(integer),
        Value::Double(number) => json!(number),
        Value::Text(text) => json!(text),
        Value::List(items) => Json::Array(items.iter().map(value_to_json).collect()),
        Value::Object(fields) => payload_to_json(fields),
    }
}

/// A filter: an object with any of `must`, `should`, `must_not`, each a list of conditions.
pub(crate) fn filter(json: &Json) -> Result<Filter, InputError> {
    clauses(json).map_err(|error| error.within("filter"))
}

fn clauses(json: &Json) -> Result<Filter, InputError> {
    let object = json.as_object().ok_or_else(|| {
        InputError::new("", format!("is {}, must be an object with must, should or must_not", kind(json)))
    })?;
    let mut filter = Filter::default();
    for (name, list) in object {
        let target = match name.as_str() {
            "must" => &mut filter.must,
            "should" => &mut filter.should,
            "must_not" => &mut filter.must_not,
            _ => return Err(InputError::new(name, "is unknown; a filter has must, should and must_not")),
        };
        *target = conditions(name, list)?;
    }
    Ok(filter)
}

fn conditions(name: &str, list: &Json) -> Result<Vec<Condition>, InputError> {
    let items = list.as_array().ok_or_else(|| InputError::new(name, format!("is {}, must be a list", kind(list))))?;
    let convert = |(i, item)| condition(item).map_err(|error: InputError| error.within(&format!("{name}[{i}]")));
    items.iter().enumerate().map(convert).collect()
}

fn condition(json: &Json) -> Result<Condition, InputError> {
    const FORMS: &str = "must be {\"key\", and one of \"match\", \"any\", \"range\", \"is_null\"}, {\"has_id\": [ids]}, \
                         or a filter";
    let object = json.as_object().ok_or_else(|| InputError::new("", FORMS))?;
    if let Some(key) = object.get("key") {
        let key = key.as_str().ok_or_else(|| InputError::new("key", "must be a text"))?;
        return Ok(Condition::Field { key: key.to_owned(), predicate: predicate(object)? });
    }
    match (object.get("has_id"), object.get("filter"), object.len()) {
        (Some(ids), None, 1) => has_id(ids).map(Condition::HasId),
        (None, Some(nested), 1) => clauses(nested).map(Condition::Nested).map_err(|error| error.within("filter")),
        (None, None, 1..) => clauses(json).map(Condition::Nested),
        _ => Err(InputError::new("", FORMS)),
    }
}

fn has_id(ids: &Json) -> Result<Vec<PointId>, InputError> {
    let list = ids.as_array().ok_or_else(|| InputError::new("has_id", "must be a list of ids"))?;
    let convert = |(i, json)| id(json).map_err(|problem| InputError::new(format!("has_id[{i}]"), problem));
    list.iter().enumerate().map(convert).collect()
}

fn predicate(object: &Map<String, Json>) -> Result<Predicate, InputError> {
    let mut others = object.iter().filter(|(name, _)| *name != "key");
    let (Some((name, json)), None) = (others.next(), others.next()) else {
        return Err(InputError::new("", "must have one of match, any, range, is_null beside its key"));
    };
    match name.as_str() {
        "match" => scalar(json).map(Predicate::Match),
        "any" => match json.as_array() {
            Some(items) => items.iter().map(scalar).collect::<Result<_, _>>().map(Predicate::Any),
            None => Err(format!("is {}, must be a list", kind(json))),
        },
        "range" => range(json).map(Predicate::Range),
        "is_null" => match json.as_bool() {
            Some(is_null) => Ok(Predicate::IsNull(is_null)),
            None => Err(format!("is {}, must be true or false", kind(json))),
        },
        _ => Err("is unknown; there are match, any, range and is_null".to_owned()),
    }
    .map_err(|problem| InputError::new(name, problem))
}

fn scalar(json: &Json) -> Result<Scalar, String> {
    match value(json.clone())? {
        Value::Bool(boolean) => Ok(Scalar::Bool(boolean)),
        Value::Integer(integer) => Ok(Scalar::Integer(integer)),
        Value::Double(number) => Ok(Scalar::Double(number)),
        Value::Text(text) => Ok(Scalar::Text(text)),
        Value::Null => Err("is null; is_null asks for that".to_owned()),
        Value::List(_) | Value::Object(_) => Err(format!("is {}, must be a boolean, number or text", kind(json))),
    }
}

fn range(json: &Json) -> Result<Range, String> {
    let object = json.as_object().ok_or_else(|| format!("is {}, must be an object", kind(json)))?;
    let mut range = Range::default();
    for (name, bound) in object {
        let target = match name.as_str() {
            "gt" => &mut range.gt,
            "gte" => &mut range.gte,
            "lt" => &mut range.lt,
            "lte" => &mut range.lte,
            _ => return Err(format!("has the unknown bound {name:?}; there are gt, gte, lt and lte")),
        };
        *target = Some(bound.as_f64().ok_or_else(|| format!("has {} as {name}, must be a number", kind(bound)))?);
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Json {
        serde_json::from_str(text).expect("JSON of a test")
    }

    #[test]
    fn ids_are_told_apart() {
        let uuid = "00000000-0000-0000-0000-000000000005";
        for (text, want) in [
            ("17", Ok(PointId::Number(17))),
            ("text:17", Ok(PointId::Text("17".into()))),
            (uuid, Ok(PointId::Uuid(5))),
            ("00000000000000000000000000000abc", Ok(PointId::Text("00000000000000000000000000000abc".into()))),
            ("-1", Ok(PointId::Text("-1".into()))),
            ("", Err(())),
            (&"x".repeat(129), Err(())),
        ] {
            assert_eq!(id_from_text(text).map_err(drop), want, "{text:?}");
        }
        for (id, want) in [
            (PointId::Number(17), "17"),
            (PointId::Text("17".into()), "text:17"),
            (PointId::Text("key".into()), "key"),
            (PointId::Text("text:a".into()), "text:text:a"),
            (PointId::Uuid(5), uuid),
            (PointId::Text(uuid.into()), &format!("text:{uuid}")),
        ] {
            assert_eq!(id_to_text(&id), want);
            assert_eq!(id_from_text(want), Ok(id), "{want} reads back");
        }
        for (text, want) in [
            ("17", Some(PointId::Number(17))),
            ("\"17\"", Some(PointId::Text("17".into()))),
            ("-1", None),
            ("1.5", None),
            ("null", None),
            ("[1]", None),
        ] {
            assert_eq!(id(&parse(text)).ok(), want, "{text}");
        }
    }

    #[test]
    fn payload_keeps_its_types_both_ways() {
        let text = r#"{"b":true,"d":0.5,"i":-3,"l":[1,"x",null],"n":null,"o":{"in":{"deep":1.0}},"t":"ü"}"#;
        let Json::Object(fields) = parse(text) else { panic!("an object") };
        let payload = payload(fields).expect("a payload");
        assert_eq!(payload["i"], Value::Integer(-3));
        assert_eq!(payload["d"], Value::Double(0.5));
        assert_eq!(payload_to_json(&payload).to_string(), text);
        let Json::Object(huge) = parse(r#"{"n":18446744073709551615}"#) else { panic!("an object") };
        assert_eq!(super::payload(huge).map_err(|e| e.field), Err("n".to_owned()));
    }

    #[test]
    fn filters_read_as_they_are_written() {
        let field = |key: &str, predicate| Condition::Field { key: key.into(), predicate };
        let text = r#"{
            "must": [{"key": "a.b", "match": "x"}, {"key": "n", "range": {"gte": 1, "lt": 2.5}}, {"has_id": [1, "t"]}],
            "should": [{"key": "a", "any": [1, true]}, {"filter": {"must": []}}],
            "must_not": [{"should": [{"key": "h", "is_null": true}]}]
        }"#;
        let want = Filter {
            must: vec![
                field("a.b", Predicate::Match(Scalar::Text("x".into()))),
                field("n", Predicate::Range(Range { gte: Some(1.0), lt: Some(2.5), ..Range::default() })),
                Condition::HasId(vec![PointId::Number(1), PointId::Text("t".into())]),
            ],
            should: vec![
                field("a", Predicate::Any(vec![Scalar::Integer(1), Scalar::Bool(true)])),
                Condition::Nested(Filter::default()),
            ],
            must_not: vec![Condition::Nested(Filter {
                should: vec![field("h", Predicate::IsNull(true))],
                ..Filter::default()
            })],
        };
        assert_eq!(filter(&parse(text)), Ok(want));
    }

    #[test]
    fn wrong_filters_name_the_place() {
        for (text, want) in [
            ("[]", "filter"),
            (r#"{"musst": []}"#, "filter.musst"),
            (r#"{"must": {}}"#, "filter.must"),
            (r#"{"must": [{}]}"#, "filter.must[0]"),
            (r#"{"must": [{"key": "a"}]}"#, "filter.must[0]"),
            (r#"{"must": [{"key": "a", "match": 1, "any": []}]}"#, "filter.must[0]"),
            (r#"{"must": [{"key": "a", "match": null}]}"#, "filter.must[0].match"),
            (r#"{"must": [{"key": "a", "range": {"over": 1}}]}"#, "filter.must[0].range"),
            (r#"{"should": [{"has_id": [1, -2]}]}"#, "filter.should[0].has_id[1]"),
            (r#"{"must_not": [{"filter": {"must": [3]}}]}"#, "filter.must_not[0].filter.must[0]"),
        ] {
            assert_eq!(filter(&parse(text)).map_err(|e| e.field), Err(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn vectors_are_lists_of_numbers() {
        assert_eq!(vector(&parse("[1, -0.5, 2e0]")), Ok(vec![1.0, -0.5, 2.0]));
        for (text, want) in [("{}", "vector"), ("[1, null]", "vector[1]"), ("[[1]]", "vector[0]")] {
            assert_eq!(vector(&parse(text)).map_err(|e| e.field), Err(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn vectors_are_written_in_the_fewest_digits() {
        for (component, want) in
            [(0.2162, "[0.2162]"), (1.0, "[1.0]"), (-0.1, "[-0.1]"), (1e-40, "[1e-40]"), (f32::MAX, "[3.4028235e38]")]
        {
            let json = vector_to_json(&[component]);
            assert_eq!(json.to_string().replace("e+", "e"), want);
            assert_eq!(vector(&json), Ok(vec![component]), "{want} reads back");
        }
    }

    #[test]
    fn digits_beyond_the_largest_number_are_no_text() {
        let largest = u64::MAX.to_string();
        assert_eq!(id_from_text(&largest), Ok(PointId::Number(u64::MAX)));
        let beyond = "18446744073709551616";
        assert!(id_from_text(beyond).is_err_and(|problem| problem.contains(&largest)));
        let text = PointId::Text(beyond.into());
        assert_eq!(id_from_text(&format!("text:{beyond}")), Ok(text.clone()));
        assert_eq!(id_to_text(&text), format!("text:{beyond}"), "it is shown as it is typed");
    }
}
