//! Payload: the typed fields that travel with a point.

use std::collections::BTreeMap;

/// Fields of a point by name. Ordered, so that equal payloads are equal bytes everywhere.
pub type Payload = BTreeMap<String, Value>;

/// A payload value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Present, and known to be nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A finite number.
    Double(f64),
    /// Text.
    Text(String),
    /// Values in order; filters look at each of them.
    List(Vec<Value>),
    /// Named values; filters reach them with a dotted key.
    Object(BTreeMap<String, Value>),
}

/// Levels of lists and objects in `payload`, its own level included: 1 for flat fields, 0 for none.
#[must_use]
pub fn depth(payload: &Payload) -> usize {
    payload.values().map(|value| 1 + value_depth(value)).max().unwrap_or(0)
}

fn value_depth(value: &Value) -> usize {
    match value {
        Value::List(items) => 1 + items.iter().map(value_depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(value_depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Size of a payload as its cap counts it: bytes of names and texts, 8 for each number, 1 for the rest.
#[must_use]
pub fn size_bytes(payload: &Payload) -> usize {
    payload.iter().map(|(name, value)| name.len() + value_size(value)).sum()
}

fn value_size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 1,
        Value::Integer(_) | Value::Double(_) => 8,
        Value::Text(text) => text.len(),
        Value::List(items) => 1 + items.iter().map(value_size).sum::<usize>(),
        Value::Object(fields) => 1 + size_bytes(fields),
    }
}
