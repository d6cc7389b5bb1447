//! Filters, payloads and ids out of any bytes. Names and values are few, so that they meet.

use arbitrary::{Result, Unstructured};
use shoal_model::{Condition, Filter, Payload, PointId, Predicate, Range, Scalar, Value};

const NAMES: [&str; 8] = ["a", "b", "c", "a.b", "b.c", "a.b.c", "a.a", "ä"];
const TEXTS: [&str; 4] = ["", "a", "ab", "ä"];
const INTEGERS: [i64; 6] = [0, 1, -1, (1 << 53) + 1, i64::MAX, i64::MIN];
const DOUBLES: [f64; 7] = [0.0, -0.0, 1.0, 0.5, 9_007_199_254_740_992.0, 9_223_372_036_854_775_808.0, -1e300];

/// Levels of lists, objects and nested filters.
const DEPTH: usize = 4;

/// Members of a list, a filter or the like.
const MEMBERS: usize = 4;

pub(crate) fn id(u: &mut Unstructured<'_>) -> Result<PointId> {
    let number = u.int_in_range(0..=11)?;
    Ok(match number % 3 {
        0 => PointId::Number(number),
        1 => PointId::Uuid(number.into()),
        _ => PointId::Text(number.to_string().into()),
    })
}

pub(crate) fn payload(u: &mut Unstructured<'_>) -> Result<Payload> {
    let fields = members(u, |u| Ok((name(u)?, value(u, DEPTH)?)))?;
    Ok(fields.into_iter().collect())
}

pub(crate) fn filter(u: &mut Unstructured<'_>) -> Result<Filter> {
    nested(u, DEPTH)
}

fn nested(u: &mut Unstructured<'_>, levels: usize) -> Result<Filter> {
    Ok(Filter {
        must: members(u, |u| condition(u, levels))?,
        should: members(u, |u| condition(u, levels))?,
        must_not: members(u, |u| condition(u, levels))?,
    })
}

fn condition(u: &mut Unstructured<'_>, levels: usize) -> Result<Condition> {
    let predicate = match u.int_in_range(0..=5)? {
        0 => Predicate::Match(scalar(u)?),
        1 => Predicate::Any(members(u, scalar)?),
        2 => Predicate::Range(Range { gt: bound(u)?, gte: bound(u)?, lt: bound(u)?, lte: bound(u)? }),
        3 => Predicate::IsNull(u.arbitrary()?),
        4 => return Ok(Condition::HasId(members(u, id)?)),
        _ if levels == 0 => return Err(arbitrary::Error::IncorrectFormat),
        _ => return Ok(Condition::Nested(nested(u, levels - 1)?)),
    };
    Ok(Condition::Field { key: name(u)?, predicate })
}

fn value(u: &mut Unstructured<'_>, levels: usize) -> Result<Value> {
    Ok(match u.int_in_range(0..=6)? {
        0 => Value::Null,
        1 => Value::Bool(u.arbitrary()?),
        2 => Value::Integer(integer(u)?),
        3 => Value::Double(Some(double(u)?).filter(|number| number.is_finite()).unwrap_or(0.25)),
        4 => Value::Text(text(u)?),
        _ if levels == 0 => Value::Null,
        5 => Value::List(members(u, |u| value(u, levels - 1))?),
        _ => Value::Object(members(u, |u| Ok((name(u)?, value(u, levels - 1)?)))?.into_iter().collect()),
    })
}

fn scalar(u: &mut Unstructured<'_>) -> Result<Scalar> {
    Ok(match u.int_in_range(0..=3)? {
        0 => Scalar::Bool(u.arbitrary()?),
        1 => Scalar::Integer(integer(u)?),
        2 => Scalar::Double(double(u)?),
        _ => Scalar::Text(text(u)?),
    })
}

fn bound(u: &mut Unstructured<'_>) -> Result<Option<f64>> {
    if u.arbitrary()? { double(u).map(Some) } else { Ok(None) }
}

fn integer(u: &mut Unstructured<'_>) -> Result<i64> {
    if u.arbitrary()? { u.arbitrary() } else { u.choose(&INTEGERS).copied() }
}

fn double(u: &mut Unstructured<'_>) -> Result<f64> {
    if u.arbitrary()? { u.arbitrary() } else { u.choose(&DOUBLES).copied() }
}

fn text(u: &mut Unstructured<'_>) -> Result<String> {
    Ok((*u.choose(&TEXTS)?).to_owned())
}

fn name(u: &mut Unstructured<'_>) -> Result<String> {
    Ok((*u.choose(&NAMES)?).to_owned())
}

fn members<T>(u: &mut Unstructured<'_>, one: impl Fn(&mut Unstructured<'_>) -> Result<T>) -> Result<Vec<T>> {
    let count = u.int_in_range(0..=MEMBERS)?;
    (0..count).map(|_| one(u)).collect()
}
