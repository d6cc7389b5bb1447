//! Payload as bytes: compact, self-describing, one encoding for each payload.
//!
//! ```text
//! payload = format (1 byte) fields
//! fields  = { name_len name value }          names ascending by byte, each once
//! value   = 0                                null
//!         | 1 | 2                            false, true
//!         | 3 zigzag                         whole number
//!         | 4 8 bytes                        double, little-endian bits
//!         | 5 len bytes                      text, UTF-8
//!         | 6 len { value }                  list; len in bytes, so that a reader can step over it
//!         | 7 len fields                     object; likewise
//! ```
//!
//! `len` and `zigzag` are LEB128 in its shortest form. Stored data depends on all of it: a change needs a new
//! format byte. [`decode`] accepts exactly what [`encode`] writes and survives any other bytes: it never panics,
//! goes no deeper than [`DEPTH_MAX`] and allocates no more than the input's size accounts for.

use std::collections::BTreeMap;

use shoal_model::{Classify, ErrorKind, Payload, Value};

/// Levels of lists and objects that are read, as `shoal_model::depth` counts them. Cap payloads below it.
pub const DEPTH_MAX: usize = 32;

const FORMAT: u8 = 1;

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INTEGER: u8 = 3;
const DOUBLE: u8 = 4;
const TEXT: u8 = 5;
const LIST: u8 = 6;
const OBJECT: u8 = 7;

/// Bytes that are not a packed payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stored payload is malformed")]
pub struct PackedError;

impl Classify for PackedError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Corruption
    }
}

/// Packs a payload of at most [`DEPTH_MAX`] levels; a deeper one would not be read back.
#[must_use]
pub fn encode(payload: &Payload) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + fields_len(payload));
    out.push(FORMAT);
    write_fields(&mut out, payload);
    out
}

/// Reads back [`encode`].
pub fn decode(packed: &[u8]) -> Result<Payload, PackedError> {
    decode_fields(fields(packed).ok_or(PackedError)?, DEPTH_MAX)
}

/// A value whose insides are not read yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Raw<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    Double(f64),
    /// Should be UTF-8.
    Text(&'a [u8]),
    /// To be read by [`Reader::value`] until the end.
    List(Reader<'a>),
    /// To be read by [`Reader::field`] until the end.
    Object(Reader<'a>),
}

/// The fields of a packed payload; `None` if it is of another format.
pub(crate) fn fields(packed: &[u8]) -> Option<Reader<'_>> {
    match packed.split_first() {
        Some((&FORMAT, rest)) => Some(Reader(rest)),
        _ => None,
    }
}

/// Steps over packed bytes. `None` means that they are malformed from here on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What is not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    /// The next field, its value unread.
    #[inline]
    pub(crate) fn field(&mut self) -> Option<(&'a [u8], Raw<'a>)> {
        let name = self.run()?;
        Some((name, self.value()?))
    }

    /// The next value; lists and objects are stepped over by their length.
    #[inline]
    pub(crate) fn value(&mut self) -> Option<Raw<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(match tag {
            NULL => Raw::Null,
            FALSE => Raw::Bool(false),
            TRUE => Raw::Bool(true),
            INTEGER => Raw::Integer(unzigzag(self.leb128()?)),
            DOUBLE => Raw::Double(f64::from_le_bytes(*self.take(8)?.first_chunk()?)),
            TEXT => Raw::Text(self.run()?),
            LIST => Raw::List(Reader(self.run()?)),
            OBJECT => Raw::Object(Reader(self.run()?)),
            _ => return None,
        })
    }

    /// Whether `holds` for one of the values from here on.
    pub(crate) fn any(mut self, mut holds: impl FnMut(Raw<'a>) -> bool) -> bool {
        std::iter::from_fn(|| self.value()).any(&mut holds)
    }

    /// A length and as many bytes.
    #[inline]
    fn run(&mut self) -> Option<&'a [u8]> {
        let len = self.leb128()?;
        self.take(usize::try_from(len).ok()?)
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    #[inline]
    pub(crate) fn leb128(&mut self) -> Option<u64> {
        match self.0.split_first() {
            Some((&byte, rest)) if byte < 0x80 => {
                self.0 = rest;
                Some(u64::from(byte))
            }
            _ => self.leb128_long(),
        }
    }

    fn leb128_long(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                let shortest = byte != 0 || shift == 0;
                return shortest.then_some(number);
            }
        }
        None
    }
}

/// `levels`: how many more levels of lists and objects may open, this one included.
fn decode_fields(mut reader: Reader<'_>, levels: usize) -> Result<BTreeMap<String, Value>, PackedError> {
    let levels = levels.checked_sub(1).ok_or(PackedError)?;
    let mut fields = BTreeMap::new();
    while !reader.is_at_end() {
        let (name, raw) = reader.field().ok_or(PackedError)?;
        let name = decode_text(name)?;
        if fields.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return Err(PackedError);
        }
        fields.insert(name, decode_value(raw, levels)?);
    }
    Ok(fields)
}

fn decode_value(raw: Raw<'_>, levels: usize) -> Result<Value, PackedError> {
    Ok(match raw {
        Raw::Null => Value::Null,
        Raw::Bool(value) => Value::Bool(value),
        Raw::Integer(value) => Value::Integer(value),
        Raw::Double(value) => Value::Double(value),
        Raw::Text(text) => Value::Text(decode_text(text)?),
        Raw::List(mut reader) => {
            let levels = levels.checked_sub(1).ok_or(PackedError)?;
            let mut items = Vec::new();
            while !reader.is_at_end() {
                items.push(decode_value(reader.value().ok_or(PackedError)?, levels)?);
            }
            Value::List(items)
        }
        Raw::Object(reader) => Value::Object(decode_fields(reader, levels)?),
    })
}

fn decode_text(bytes: &[u8]) -> Result<String, PackedError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| PackedError)
}

fn write_fields(out: &mut Vec<u8>, fields: &BTreeMap<String, Value>) {
    for (name, value) in fields {
        write_run(out, name.as_bytes());
        write_value(out, value);
    }
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(NULL),
        Value::Bool(false) => out.push(FALSE),
        Value::Bool(true) => out.push(TRUE),
        Value::Integer(number) => {
            out.push(INTEGER);
            write_leb128(out, zigzag(*number));
        }
        Value::Double(number) => {
            out.push(DOUBLE);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::Text(text) => {
            out.push(TEXT);
            write_run(out, text.as_bytes());
        }
        Value::List(items) => {
            out.push(LIST);
            write_leb128(out, items_len(items) as u64);
            items.iter().for_each(|item| write_value(out, item));
        }
        Value::Object(fields) => {
            out.push(OBJECT);
            write_leb128(out, fields_len(fields) as u64);
            write_fields(out, fields);
        }
    }
}

fn write_run(out: &mut Vec<u8>, bytes: &[u8]) {
    write_leb128(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn write_leb128(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn fields_len(fields: &BTreeMap<String, Value>) -> usize {
    fields.iter().map(|(name, value)| run_len(name.len()) + value_len(value)).sum()
}

fn items_len(items: &[Value]) -> usize {
    items.iter().map(value_len).sum()
}

/// Bytes that [`write_value`] will write. Asked again at each level: payloads are shallow.
fn value_len(value: &Value) -> usize {
    1 + match value {
        Value::Null | Value::Bool(_) => 0,
        Value::Integer(number) => leb128_len(zigzag(*number)),
        Value::Double(_) => 8,
        Value::Text(text) => run_len(text.len()),
        Value::List(items) => run_len(items_len(items)),
        Value::Object(fields) => run_len(fields_len(fields)),
    }
}

fn run_len(len: usize) -> usize {
    leb128_len(len as u64) + len
}

fn leb128_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros()).div_ceil(7) as usize
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flat_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            prop_oneof![-2_i64..3, any::<i64>(), Just((1 << 53) + 1)].prop_map(Value::Integer),
            prop_oneof![
                Just(0.5),
                Just(-0.0),
                Just(1.0),
                Just(9_007_199_254_740_992.0),
                any::<f64>().prop_filter("payloads hold finite numbers", |d| d.is_finite())
            ]
            .prop_map(Value::Double),
            "[ab]{0,2}|\\PC{0,200}".prop_map(Value::Text),
        ]
    }

    /// Names that collide, nest and have dots, so that paths are found.
    pub(crate) fn name() -> impl Strategy<Value = String> {
        "[abc](\\.[abc]){0,2}"
    }

    /// Payloads as the model allows them, with every kind of value.
    pub(crate) fn payload() -> impl Strategy<Value = Payload> {
        let value = flat_value().prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
                prop::collection::btree_map(name(), inner, 0..4).prop_map(Value::Object),
            ]
        });
        prop::collection::btree_map(name(), value, 0..6)
    }

    fn nested(levels: usize) -> Payload {
        let value = (1..levels).fold(Value::Null, |inner, _| Value::List(vec![inner]));
        [("a".to_owned(), value)].into()
    }

    proptest! {
        #[test]
        fn payloads_read_back(payload in payload()) {
            let packed = encode(&payload);
            prop_assert_eq!(packed.len(), 1 + fields_len(&payload), "the length is known beforehand");
            prop_assert_eq!(decode(&packed), Ok(payload));
        }

        #[test]
        fn any_bytes_are_refused_or_canonical(bytes in prop::collection::vec(prop_oneof![0_u8..9, any::<u8>()], 0..64)) {
            for bytes in [bytes.clone(), [&[FORMAT][..], &bytes].concat()] {
                if let Ok(payload) = decode(&bytes) {
                    prop_assert_eq!(encode(&payload), bytes, "each payload has one encoding");
                }
            }
        }

        #[test]
        fn damaged_payloads_are_refused_or_canonical(payload in payload(), at in any::<prop::sample::Index>(), to: u8) {
            let mut bytes = encode(&payload);
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(payload) = decode(&bytes) {
                prop_assert_eq!(&encode(&payload), &bytes, "each payload has one encoding");
            }
            bytes.truncate(at);
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn the_encoding_is_that_of_stored_data() {
        let payload: Payload = [
            ("b".to_owned(), Value::Integer(-1)),
            ("a".to_owned(), Value::List(vec![Value::Text("x".into()), Value::Bool(true)])),
        ]
        .into();
        assert_eq!(encode(&payload), [1, 1, b'a', LIST, 4, TEXT, 1, b'x', TRUE, 1, b'b', INTEGER, 1]);
        assert_eq!(encode(&Payload::new()), [FORMAT]);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for (name, bytes) in [
            ("empty", &b""[..]),
            ("another format", b"\x02"),
            ("unknown tag", b"\x01\x01a\x08"),
            ("no value", b"\x01\x01a"),
            ("names out of order", b"\x01\x01b\x00\x01a\x00"),
            ("name twice", b"\x01\x01a\x00\x01a\x00"),
            ("name not UTF-8", b"\x01\x01\xff\x00"),
            ("text beyond the end", b"\x01\x01a\x05\x7fx"),
            ("length of 2^63", b"\x01\x01a\x05\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"),
            ("length not in its shortest form", b"\x01\x01a\x05\x80\x00"),
            ("number beyond 64 bits", b"\x01\x01a\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
            ("list that ends within an item", b"\x01\x01a\x06\x01\x04"),
        ] {
            assert_eq!(decode(bytes), Err(PackedError), "{name}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        assert_eq!(decode(&encode(&nested(DEPTH_MAX))), Ok(nested(DEPTH_MAX)));
        assert_eq!(decode(&encode(&nested(DEPTH_MAX + 1))), Err(PackedError));
        let mut hostile = vec![];
        for _ in 0..20_000 {
            let mut outer = vec![LIST];
            write_leb128(&mut outer, hostile.len() as u64);
            if hostile.len() > 50_000 {
                break;
            }
            outer.append(&mut hostile);
            hostile = outer;
        }
        let packed = [&[FORMAT, 1, b'a'][..], &hostile].concat();
        assert_eq!(decode(&packed), Err(PackedError), "a tower of lists must not exhaust the stack");
    }
}
