//! Filters over payload: what a point must, should and must not be.
//!
//! [`Filter::matches`] is the definition; `shoal-index` evaluates the same rules on stored bytes and is tested
//! against it. The rules:
//!
//! - `must`: every condition holds. `should`: at least one holds, if there are any. `must_not`: none holds.
//! - A key is a field name, or names joined by dots that lead through objects. Through a list of objects it
//!   reaches the field of each.
//! - On a list, a condition holds when it holds for an element.
//! - `match` and `any` compare by value: whole numbers and doubles that are equal match, text matches byte by byte.
//! - `range` holds for numbers only.
//! - `is_null` holds when the field is missing or null.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::{InputError, Limits, Payload, PointId, Value};

/// Conditions joined by must, should and must-not; an empty filter lets every point pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// All of these hold.
    pub must: Vec<Condition>,
    /// At least one of these holds, if there are any.
    pub should: Vec<Condition>,
    /// None of these holds.
    pub must_not: Vec<Condition>,
}

/// One condition of a filter.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// On the payload field that `key` leads to.
    Field {
        /// Field name, or names joined by dots.
        key: String,
        /// What must hold for its value.
        predicate: Predicate,
    },
    /// The point has one of these ids.
    HasId(Vec<PointId>),
    /// A filter inside the filter.
    Nested(Filter),
}

/// What must hold for a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Predicate {
    /// It equals this.
    Match(Scalar),
    /// It equals one of these.
    Any(Vec<Scalar>),
    /// It is a number within bounds.
    Range(Range),
    /// It is (`true`) or is not (`false`) missing or null.
    IsNull(bool),
}

/// A value that others can be compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A finite number.
    Double(f64),
    /// Text.
    Text(String),
}

/// Bounds of a number; those that are absent do not bind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Range {
    /// Greater than.
    pub gt: Option<f64>,
    /// Greater than or equal.
    pub gte: Option<f64>,
    /// Less than.
    pub lt: Option<f64>,
    /// Less than or equal.
    pub lte: Option<f64>,
}

impl Range {
    /// Whether a whole number lies within the bounds, compared without rounding.
    #[must_use]
    pub fn contains_integer(&self, number: i64) -> bool {
        self.contains_by(|bound| compare_integer(number, bound))
    }

    /// Whether a number lies within the bounds.
    #[must_use]
    pub fn contains_double(&self, number: f64) -> bool {
        self.contains_by(|bound| number.partial_cmp(&bound))
    }

    fn contains_by(&self, compare: impl Fn(f64) -> Option<Ordering>) -> bool {
        let holds = |bound: Option<f64>, wanted: &[Ordering]| {
            bound.is_none_or(|bound| compare(bound).is_some_and(|order| wanted.contains(&order)))
        };
        holds(self.gt, &[Ordering::Greater])
            && holds(self.gte, &[Ordering::Greater, Ordering::Equal])
            && holds(self.lt, &[Ordering::Less])
            && holds(self.lte, &[Ordering::Less, Ordering::Equal])
    }
}

/// Orders a whole number and a double by value; `None` for a NaN.
///
/// Converting either to the other's type would round near 2^53 and beyond.
fn compare_integer(number: i64, bound: f64) -> Option<Ordering> {
    const TWO_63: f64 = 9_223_372_036_854_775_808.0;
    if bound.is_nan() {
        return None;
    }
    if bound >= TWO_63 {
        return Some(Ordering::Less);
    }
    if bound < -TWO_63 {
        return Some(Ordering::Greater);
    }
    #[allow(clippy::cast_possible_truncation, reason = "within the range of i64, and whole")]
    let whole = bound.floor() as i64;
    Some(number.cmp(&whole).then(if bound > bound.floor() { Ordering::Less } else { Ordering::Equal }))
}

impl Scalar {
    /// Whether a whole number equals this value.
    #[must_use]
    pub fn equals_integer(&self, number: i64) -> bool {
        match self {
            Self::Integer(want) => *want == number,
            Self::Double(want) => compare_integer(number, *want) == Some(Ordering::Equal),
            Self::Bool(_) | Self::Text(_) => false,
        }
    }

    /// Whether a number equals this value.
    #[must_use]
    pub fn equals_double(&self, number: f64) -> bool {
        match self {
            Self::Integer(want) => compare_integer(*want, number) == Some(Ordering::Equal),
            Self::Double(want) => number.partial_cmp(want) == Some(Ordering::Equal),
            Self::Bool(_) | Self::Text(_) => false,
        }
    }

    fn equals(&self, value: &Value) -> bool {
        match value {
            Value::Bool(got) => matches!(self, Self::Bool(want) if want == got),
            Value::Text(got) => matches!(self, Self::Text(want) if want == got),
            Value::Integer(got) => self.equals_integer(*got),
            Value::Double(got) => self.equals_double(*got),
            Value::Null | Value::List(_) | Value::Object(_) => false,
        }
    }
}

impl Filter {
    /// Whether the filter lets every point pass.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.must.is_empty() && self.should.is_empty() && self.must_not.is_empty()
    }

    /// Whether a point passes.
    #[must_use]
    pub fn matches(&self, id: &PointId, payload: &Payload) -> bool {
        let holds = |condition: &Condition| condition.holds(id, payload);
        self.must.iter().all(holds)
            && (self.should.is_empty() || self.should.iter().any(holds))
            && !self.must_not.iter().any(holds)
    }

    /// Refuses filters that are too deep, too wide, or that no number could ever meet or miss by intent (NaN).
    ///
    /// Walks without recursion, so that a hostile filter cannot exhaust the stack.
    pub fn check(&self, limits: &Limits) -> Result<(), InputError> {
        let mut conditions = 0_usize;
        let mut open = vec![(self, 1_u32)];
        while let Some((filter, depth)) = open.pop() {
            if depth > limits.filter_depth_max {
                let problem = format!("is nested deeper than the cap of {}", limits.filter_depth_max);
                return Err(InputError::new("filter", problem));
            }
            for condition in filter.must.iter().chain(&filter.should).chain(&filter.must_not) {
                conditions += 1;
                match condition {
                    Condition::Nested(inner) => open.push((inner, depth + 1)),
                    Condition::HasId(ids) => check_count("has_id", ids.len(), limits)?,
                    Condition::Field { key, predicate } => check_field(key, predicate, limits)?,
                }
            }
        }
        if conditions > limits.filter_conditions_max as usize {
            let problem = format!("has {conditions} conditions, the cap is {}", limits.filter_conditions_max);
            return Err(InputError::new("filter", problem));
        }
        Ok(())
    }
}

fn check_count(key: &str, count: usize, limits: &Limits) -> Result<(), InputError> {
    if count == 0 || count > limits.filter_values_max as usize {
        let problem = format!("condition on {key} has {count} values, must have 1 to {}", limits.filter_values_max);
        return Err(InputError::new("filter", problem));
    }
    Ok(())
}

fn check_field(key: &str, predicate: &Predicate, limits: &Limits) -> Result<(), InputError> {
    let refuse = |problem: &str| Err(InputError::new("filter", format!("condition on {key:?} {problem}")));
    if key.is_empty() || key.len() > 1_024 || key.split('.').any(str::is_empty) {
        return Err(InputError::new("filter", "a key must be 1 to 1024 bytes of names joined by single dots"));
    }
    match predicate {
        Predicate::Any(values) => {
            check_count(key, values.len(), limits)?;
            if values.iter().any(|value| matches!(value, Scalar::Double(d) if !d.is_finite())) {
                return refuse("compares with a number that is not finite");
            }
        }
        Predicate::Match(Scalar::Double(number)) if !number.is_finite() => {
            return refuse("compares with a number that is not finite");
        }
        Predicate::Range(range) => {
            let bounds = [range.gt, range.gte, range.lt, range.lte];
            if bounds.iter().all(Option::is_none) {
                return refuse("is a range without a bound");
            }
            if bounds.iter().flatten().any(|bound| bound.is_nan()) {
                return refuse("is a range with a bound that is not a number");
            }
        }
        Predicate::Match(_) | Predicate::IsNull(_) => {}
    }
    Ok(())
}

impl Condition {
    fn holds(&self, id: &PointId, payload: &Payload) -> bool {
        match self {
            Self::HasId(ids) => ids.contains(id),
            Self::Nested(filter) => filter.matches(id, payload),
            Self::Field { key, predicate: Predicate::IsNull(wanted) } => {
                let mut present = false;
                visit(payload, key, &mut |value| present |= !matches!(value, Value::Null));
                present != *wanted
            }
            Self::Field { key, predicate } => {
                let mut found = false;
                visit(payload, key, &mut |value| found |= predicate.holds(value));
                found
            }
        }
    }
}

impl Predicate {
    fn holds(&self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::List(items)) => items.iter().any(|item| self.holds(item)),
            (Self::Match(want), _) => want.equals(value),
            (Self::Any(wants), _) => wants.iter().any(|want| want.equals(value)),
            (Self::Range(range), Value::Integer(number)) => range.contains_integer(*number),
            (Self::Range(range), Value::Double(number)) => range.contains_double(*number),
            (Self::Range(_) | Self::IsNull(_), _) => false,
        }
    }
}

/// Calls `seen` with every value that `key` leads to. A field whose own name has dots wins over a path.
fn visit(fields: &BTreeMap<String, Value>, key: &str, seen: &mut impl FnMut(&Value)) {
    if let Some(value) = fields.get(key) {
        return seen(value);
    }
    if let Some((head, rest)) = key.split_once('.')
        && let Some(value) = fields.get(head)
    {
        visit_inside(value, rest, seen);
    }
}

fn visit_inside(value: &Value, key: &str, seen: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(fields) => visit(fields, key, seen),
        Value::List(items) => items.iter().for_each(|item| visit_inside(item, key, seen)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(key: &str, predicate: Predicate) -> Filter {
        Filter { must: vec![Condition::Field { key: key.into(), predicate }], ..Filter::default() }
    }

    fn text(value: &str) -> Scalar {
        Scalar::Text(value.into())
    }

    fn payload() -> Payload {
        let object = |name: &str, value| Value::Object([(name.to_owned(), value)].into());
        [
            ("name", Value::Text("bash".into())),
            ("size", Value::Integer(9_007_199_254_740_993)),
            ("share", Value::Double(0.5)),
            ("essential", Value::Bool(true)),
            ("tags", Value::List(vec![Value::Text("shell".into()), Value::Integer(3)])),
            ("empty", Value::List(vec![])),
            ("homepage", Value::Null),
            ("a", object("b", object("c", Value::Integer(1)))),
            ("people", Value::List(vec![object("role", text_value("author")), object("role", text_value("packager"))])),
            ("dotted.name", Value::Integer(7)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn text_value(value: &str) -> Value {
        Value::Text(value.into())
    }

    #[test]
    fn predicates_hold_as_documented() {
        let range = |gt, gte, lt, lte| Predicate::Range(Range { gt, gte, lt, lte });
        for (name, key, predicate, want) in [
            ("text", "name", Predicate::Match(text("bash")), true),
            ("other text", "name", Predicate::Match(text("Bash")), false),
            ("number is not text", "size", Predicate::Match(text("9007199254740993")), false),
            ("element of a list", "tags", Predicate::Match(text("shell")), true),
            ("any", "tags", Predicate::Any(vec![text("x"), Scalar::Double(3.0)]), true),
            ("any of none that fit", "tags", Predicate::Any(vec![text("x")]), false),
            ("bool", "essential", Predicate::Match(Scalar::Bool(true)), true),
            ("whole double", "share", Predicate::Match(Scalar::Double(0.5)), true),
            ("no rounding above 2^53", "size", range(Some(9_007_199_254_740_992.0), None, None, None), true),
            ("no rounding below", "size", range(None, None, None, Some(9_007_199_254_740_992.0)), false),
            ("bounds join", "share", range(None, Some(0.5), Some(0.5), None), false),
            ("range over a list", "tags", range(None, Some(3.0), None, Some(3.0)), true),
            ("range over text", "name", range(Some(0.0), None, None, None), false),
            ("null", "homepage", Predicate::IsNull(true), true),
            ("missing is null", "nowhere", Predicate::IsNull(true), true),
            ("present", "name", Predicate::IsNull(true), false),
            ("not null", "name", Predicate::IsNull(false), true),
            ("an empty list is there", "empty", Predicate::IsNull(false), true),
            ("path", "a.b.c", Predicate::Match(Scalar::Integer(1)), true),
            ("path into nothing", "a.x.c", Predicate::Match(Scalar::Integer(1)), false),
            ("path through a list", "people.role", Predicate::Match(text("packager")), true),
            ("name with a dot", "dotted.name", Predicate::Match(Scalar::Integer(7)), true),
        ] {
            assert_eq!(field(key, predicate).matches(&PointId::Number(1), &payload()), want, "{name}");
        }
    }

    #[test]
    fn clauses_join_as_documented() {
        let yes = Condition::HasId(vec![PointId::Number(1)]);
        let no = Condition::HasId(vec![PointId::Number(2)]);
        for (name, must, should, must_not, want) in [
            ("empty", vec![], vec![], vec![], true),
            ("must all", vec![yes.clone(), no.clone()], vec![], vec![], false),
            ("should one", vec![], vec![yes.clone(), no.clone()], vec![], true),
            ("should none", vec![], vec![no.clone()], vec![], false),
            ("must not", vec![yes.clone()], vec![], vec![yes.clone()], false),
            ("must not, none holds", vec![yes.clone()], vec![yes.clone()], vec![no.clone()], true),
        ] {
            let filter = Filter { must, should, must_not };
            assert_eq!(filter.matches(&PointId::Number(1), &Payload::new()), want, "{name}");
            let nested = Filter { must: vec![Condition::Nested(filter)], ..Filter::default() };
            assert_eq!(nested.matches(&PointId::Number(1), &Payload::new()), want, "{name}, nested");
        }
    }

    #[test]
    fn caps_are_kept_without_recursion() {
        let limits =
            Limits { filter_depth_max: 3, filter_conditions_max: 4, filter_values_max: 2, ..Limits::default() };
        let nest = |levels: usize| {
            (0..levels).fold(Filter::default(), |inner, _| Filter {
                must: vec![Condition::Nested(inner)],
                ..Filter::default()
            })
        };
        let wide = Filter { should: vec![Condition::HasId(vec![PointId::Number(1)]); 5], ..Filter::default() };
        let nan = Range { gt: Some(f64::NAN), ..Range::default() };
        for (name, filter, want) in [
            ("at the depth cap", nest(2), true),
            ("too deep", nest(3), false),
            ("too wide", wide, false),
            ("too many values", field("k", Predicate::Any(vec![Scalar::Bool(true); 3])), false),
            ("no values", field("k", Predicate::Any(vec![])), false),
            ("no key", field("", Predicate::IsNull(true)), false),
            ("empty step", field("a..b", Predicate::IsNull(true)), false),
            ("boundless", field("k", Predicate::Range(Range::default())), false),
            ("nan bound", field("k", Predicate::Range(nan)), false),
            ("infinite match", field("k", Predicate::Match(Scalar::Double(f64::INFINITY))), false),
        ] {
            assert_eq!(filter.check(&limits).is_ok(), want, "{name}: {:?}", filter.check(&limits));
        }
    }
}
