//! Every key that a filter can reach in a payload, with its values: the model's path rule, turned around.
//!
//! A filter's key names a field, or leads through objects by the name before each dot; in each object a field whose
//! own name is all that is left of the key wins. So the keys of a payload are its field names, and behind each name
//! without a dot, the keys of the objects in its value, except those that another field of the outer object bears
//! as its very name.

use crate::packed::{self, DEPTH_MAX, Raw, Reader};

/// Longest key that is looked for, in bytes: `Filter::check` refuses longer ones.
pub(super) const KEY_MAX: usize = 1_024;

/// Calls `seen` with each key and a value it reaches, in the order of the payload; one key may have several values.
///
/// Bytes that are no packed payload, or lie deeper than [`DEPTH_MAX`] levels, count as missing.
pub(super) fn for_each_value<'a>(packed: &'a [u8], seen: &mut impl FnMut(&[u8], Raw<'a>)) {
    let fields = packed::fields(packed).unwrap_or_default();
    Walk { key: Vec::new(), seen }.object(fields, None, DEPTH_MAX);
}

/// Calls `seen` with a value, or with the elements of a list, and those of lists in it.
pub(super) fn for_each_scalar<'a>(value: Raw<'a>, seen: &mut impl FnMut(Raw<'a>)) {
    scalars(value, DEPTH_MAX, seen);
}

fn scalars<'a>(value: Raw<'a>, levels: usize, seen: &mut impl FnMut(Raw<'a>)) {
    let Raw::List(mut items) = value else { return seen(value) };
    let Some(levels) = levels.checked_sub(1) else { return };
    while let Some(item) = items.value() {
        scalars(item, levels, seen);
    }
}

struct Walk<'s, S> {
    /// Of the field that is looked at.
    key: Vec<u8>,
    seen: &'s mut S,
}

/// An object that is being walked, and those around it.
struct Outer<'o, 'a> {
    /// Where the names of its fields begin in a key.
    start: usize,
    /// Its fields with a dot in their names, ascending: they win over paths.
    dotted: Vec<&'a [u8]>,
    outer: Option<&'o Outer<'o, 'a>>,
}

impl Outer<'_, '_> {
    /// Whether a field of this object, or of one around it, bears the rest of `key` as its name.
    fn takes(&self, key: &[u8]) -> bool {
        self.dotted.binary_search(&&key[self.start..]).is_ok() || self.outer.is_some_and(|outer| outer.takes(key))
    }
}

impl<'a, S: FnMut(&[u8], Raw<'a>)> Walk<'_, S> {
    /// `levels`: how many more may be entered.
    fn object(&mut self, fields: Reader<'a>, outer: Option<&Outer<'_, 'a>>, levels: usize) {
        let start = self.key.len();
        let here = Outer { start, dotted: dotted(fields), outer };
        let mut rest = fields;
        while let Some((name, value)) = rest.field() {
            self.key.truncate(start);
            self.key.extend_from_slice(name);
            if self.key.len() > KEY_MAX {
                continue;
            }
            if !outer.is_some_and(|outer| outer.takes(&self.key)) {
                (self.seen)(&self.key, value);
            }
            if matches!(value, Raw::List(_) | Raw::Object(_)) && !name.contains(&b'.') {
                self.key.push(b'.');
                self.inside(value, &here, levels);
            }
        }
        self.key.truncate(start);
    }

    fn inside(&mut self, value: Raw<'a>, outer: &Outer<'_, 'a>, levels: usize) {
        let Some(levels) = levels.checked_sub(1) else { return };
        match value {
            Raw::Object(fields) => self.object(fields, Some(outer), levels),
            Raw::List(mut items) => {
                while let Some(item) = items.value() {
                    self.inside(item, outer, levels);
                }
            }
            _ => {}
        }
    }
}

fn dotted(mut fields: Reader<'_>) -> Vec<&[u8]> {
    let names = std::iter::from_fn(|| fields.field()).map(|(name, _)| name);
    names.filter(|name| name.contains(&b'.')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_model::{Payload, Value};

    fn object(fields: &[(&str, Value)]) -> Payload {
        fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn keys(payload: &Payload) -> Vec<String> {
        let mut keys = vec![];
        for_each_value(&packed::encode(payload), &mut |key, _| {
            keys.push(String::from_utf8(key.to_vec()).expect("names are UTF-8"));
        });
        keys
    }

    #[test]
    fn keys_are_those_that_the_path_rule_reaches() {
        let one = || Value::Integer(1);
        let inner = |fields: &[(&str, Value)]| Value::Object(object(fields));
        for (name, payload, want) in [
            ("flat", object(&[("a", one()), ("b.c", one())]), vec!["a", "b.c"]),
            ("nested", object(&[("a", inner(&[("b", inner(&[("c", one())]))]))]), vec!["a", "a.b", "a.b.c"]),
            ("a name with a dot leads nowhere", object(&[("a.b", inner(&[("c", one())]))]), vec!["a.b"]),
            ("the very name wins", object(&[("a", inner(&[("b", one())])), ("a.b", one())]), vec!["a", "a.b"]),
            (
                "at each level",
                object(&[("a", inner(&[("b", inner(&[("c", one())])), ("b.c", one())])), ("a.b", one())]),
                vec!["a", "a.b.c", "a.b"],
            ),
            (
                "through lists",
                object(&[("a", Value::List(vec![inner(&[("b", one())]), Value::List(vec![inner(&[("b", one())])])]))]),
                vec!["a", "a.b", "a.b"],
            ),
            (
                "no longer than a filter's",
                object(&[(&"k".repeat(1_024), inner(&[("a", one())])), (&"l".repeat(1_025), one())]),
                vec![&"k".repeat(1_024)],
            ),
        ] {
            assert_eq!(keys(&payload), want, "{name}");
        }
    }
}
