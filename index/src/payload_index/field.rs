//! What is known of one key: who has it, and with what values.
//!
//! ```text
//! field = present false true        references of postings, LEB128; present: who has a value that is not null
//!         texts numbers             dictionaries
//!         heap                      records of all postings, to the end
//! ```

use xxhash_rust::xxh3::xxh3_128;

use super::dictionary::{self, Dictionary};
use super::number;
use super::posting::{self, Posting};
use super::walk;
use crate::packed::{Raw, Reader, write_leb128};

/// Key of a field's name and of a text value: the upper 96 bits of its XXH3-128.
pub(super) fn hash(text: &[u8]) -> u128 {
    xxh3_128(text) >> (u128::BITS - dictionary::KEY_BITS)
}

/// Gathers the values of one key.
#[derive(Debug, Default)]
pub(super) struct Builder {
    present: Vec<u32>,
    bools: [Vec<u32>; 2],
    texts: dictionary::Builder,
    numbers: dictionary::Builder,
}

impl Builder {
    /// Adds a value that the key reaches in a point. Points come in ascending order.
    pub(super) fn add(&mut self, value: Raw<'_>, offset: u32) {
        if value != Raw::Null {
            add_once(&mut self.present, offset);
        }
        walk::for_each_scalar(value, &mut |scalar| match scalar {
            Raw::Bool(value) => add_once(&mut self.bools[usize::from(value)], offset),
            Raw::Integer(value) => self.numbers.add(number::of_integer(value), offset),
            Raw::Double(value) => self.numbers.add(number::of_double(value), offset),
            Raw::Text(text) => self.texts.add(hash(text), offset),
            Raw::Null | Raw::List(_) | Raw::Object(_) => {}
        });
    }

    /// Writes the field of a segment of `points`.
    pub(super) fn write(self, out: &mut Vec<u8>, points: u32) {
        let mut heap = vec![];
        for offsets in [&self.present, &self.bools[0], &self.bools[1]] {
            write_leb128(out, posting::write(&mut heap, offsets, points));
        }
        self.texts.write(out, &mut heap, points, false);
        self.numbers.write(out, &mut heap, points, true);
        out.extend(heap);
    }
}

fn add_once(offsets: &mut Vec<u32>, offset: u32) {
    if offsets.last() != Some(&offset) {
        offsets.push(offset);
    }
}

/// A field, read in place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    pub(super) present: Posting<'a>,
    /// Who has false, and who has true.
    pub(super) bools: [Posting<'a>; 2],
    pub(super) texts: Dictionary<'a>,
    pub(super) numbers: Dictionary<'a>,
}

impl<'a> Field<'a> {
    /// A key that no point has.
    pub(super) fn missing() -> Self {
        let (texts, numbers) = Default::default();
        Self { present: Posting::None, bools: [Posting::None; 2], texts, numbers }
    }

    /// Reads back [`Builder::write`].
    pub(super) fn read(bytes: &'a [u8], points: u32) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let references = [reader.leb128()?, reader.leb128()?, reader.leb128()?];
        let mut texts = Dictionary::read(&mut reader, points)?;
        let mut numbers = Dictionary::read(&mut reader, points)?;
        let heap = reader.rest();
        (texts.heap, numbers.heap) = (heap, heap);
        let [present, no, yes] = references.map(|reference| Posting::open(heap, reference, points));
        Some(Self { present: present?, bools: [no?, yes?], texts, numbers })
    }
}
