//! The first 4 KiB: what is where. Read by its rules alone, whoever computed its checksum.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use super::{Fault, PAGE, PARAMETERS_MAX_BYTES, SECTIONS_MAX, Tag, sums};

/// Length of the header in memory.
pub(super) const HEADER_BYTES: usize = PAGE as usize;

const MAGIC: &[u8; 8] = b"SHOALSEG";
/// 2: segments have checksums of their rows, and sketches come before what is kept in memory. 3: checksums of vectors are those
/// that the distance kernels compute.
const VERSION: u32 = 3;
const BYTE_ORDER: u32 = 0x0102_0304;

const VERSION_AT: usize = 8;
const BYTE_ORDER_AT: usize = 12;
const LENGTH_AT: usize = 16;
const SECTION_COUNT_AT: usize = 24;
const PARAMETERS_LENGTH_AT: usize = 28;
const TABLE_AT: usize = 32;
const ENTRY_BYTES: usize = 24;
const PARAMETERS_AT: usize = TABLE_AT + SECTIONS_MAX * ENTRY_BYTES;
const CHECKSUM_AT: usize = HEADER_BYTES - 8;

/// A header that keeps the rules: sections start at multiples of a page, in order, apart, each tag once, and with
/// the checksums they add up to the file's length. So no sum of them overflows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) parameters: Vec<u8>,
    sections: Vec<Section>,
    /// Where the checksums start.
    body_end: u64,
    /// Length of the file.
    length: u64,
}

/// A row of the section table, in bytes from the start of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) tag: Tag,
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Section {
    fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.length)
    }
}

impl Header {
    /// Errors: `HeaderMalformed` if a rule is broken.
    pub(super) fn new(parameters: Vec<u8>, sections: Vec<Section>) -> Result<Self, Fault> {
        let (body_end, length) = arrange(&sections).map_err(|problem| Fault::HeaderMalformed { problem })?;
        Ok(Self { parameters, sections, body_end, length })
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut page = [0; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(VERSION_AT, &VERSION.to_le_bytes());
        put(BYTE_ORDER_AT, &BYTE_ORDER.to_le_bytes());
        put(LENGTH_AT, &self.length.to_le_bytes());
        put(SECTION_COUNT_AT, &narrow(self.sections.len()).to_le_bytes());
        put(PARAMETERS_LENGTH_AT, &narrow(self.parameters.len()).to_le_bytes());
        for (i, section) in self.sections.iter().enumerate() {
            let at = TABLE_AT + i * ENTRY_BYTES;
            put(at, &section.tag);
            put(at + 8, &section.offset.to_le_bytes());
            put(at + 16, &section.length.to_le_bytes());
        }
        put(PARAMETERS_AT, &self.parameters);
        let checksum = xxh3_64(&page[..CHECKSUM_AT]);
        page[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    /// Reads the header at the start of `bytes`; what follows it is not looked at.
    ///
    /// Errors: `Foreign`, `Truncated`, `HeaderDamaged`, `Version`, `HeaderMalformed`, looked for in this order.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let magic_bytes = MAGIC.len().min(bytes.len());
        if bytes[..magic_bytes] != MAGIC[..magic_bytes] {
            return Err(Fault::Foreign);
        }
        let truncated = Fault::Truncated { want: PAGE, got: bytes.len() as u64 };
        let page: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(truncated)?;
        if u64_at(page, CHECKSUM_AT) != xxh3_64(&page[..CHECKSUM_AT]) {
            return Err(Fault::HeaderDamaged);
        }
        let version = u32_at(page, VERSION_AT);
        if version != VERSION {
            return Err(Fault::Version { got: version, want: VERSION });
        }
        let header = Self::parse(page)?;
        if header.encode() != *page {
            let problem = "byte order, length or bytes without meaning are not as they must be";
            return Err(Fault::HeaderMalformed { problem });
        }
        Ok(header)
    }

    fn parse(page: &[u8; HEADER_BYTES]) -> Result<Self, Fault> {
        let counts = (u32_at(page, SECTION_COUNT_AT) as usize, u32_at(page, PARAMETERS_LENGTH_AT) as usize);
        let (count, parameters_bytes) = counts;
        if count > SECTIONS_MAX || parameters_bytes > PARAMETERS_MAX_BYTES {
            return Err(Fault::HeaderMalformed { problem: "more than 16 sections or 1,024 bytes of parameters" });
        }
        let section = |i: usize| {
            let at = TABLE_AT + i * ENTRY_BYTES;
            let (offset, length) = (u64_at(page, at + 8), u64_at(page, at + 16));
            Section { tag: u64_at(page, at).to_le_bytes(), offset, length }
        };
        let parameters = page[PARAMETERS_AT..PARAMETERS_AT + parameters_bytes].to_vec();
        Self::new(parameters, (0..count).map(section).collect())
    }

    /// Errors: `Truncated`, `Overlong`.
    pub(super) fn check_length(&self, got: u64) -> Result<(), Fault> {
        let want = self.length;
        match got.cmp(&want) {
            std::cmp::Ordering::Less => Err(Fault::Truncated { want, got }),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(Fault::Overlong { want, got }),
        }
    }

    /// Length of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Where the bytes under checksums are, in an image of [`Header::length`] bytes.
    pub(super) fn body(&self) -> Range<usize> {
        HEADER_BYTES..index(self.body_end)
    }

    /// Where the bytes of a section are, in an image of [`Header::length`] bytes.
    pub(super) fn section(&self, tag: Tag) -> Option<Range<usize>> {
        let section = self.sections.iter().find(|section| section.tag == tag)?;
        Some(index(section.offset)..index(section.offset + section.length))
    }

    /// Tags in the order in which they lie.
    pub(super) fn tags(&self) -> impl Iterator<Item = Tag> + '_ {
        self.sections.iter().map(|section| section.tag)
    }
}

/// Where the body ends and how long the file is, or the rule that the sections break.
fn arrange(sections: &[Section]) -> Result<(u64, u64), &'static str> {
    const BEYOND: &str = "a section ends beyond 2^64 bytes";
    let mut end = PAGE;
    for (i, section) in sections.iter().enumerate() {
        if !section.offset.is_multiple_of(PAGE) {
            return Err("a section does not start at a multiple of 4 KiB");
        }
        if section.offset < end {
            return Err("sections overlap each other or the header, or are out of order");
        }
        if sections[..i].iter().any(|other| other.tag == section.tag) {
            return Err("two sections have one tag");
        }
        end = section.end().ok_or(BEYOND)?;
    }
    let body_end = end.checked_next_multiple_of(PAGE).ok_or(BEYOND)?;
    let length = body_end.checked_add(sums::length(body_end - PAGE)).ok_or(BEYOND)?;
    Ok((body_end, length))
}

fn narrow(count: usize) -> u32 {
    // Writers assert, and readers check, that counts are at most 1,024.
    u32::try_from(count).expect("counts of a header are small")
}

/// A place within an image that is in memory.
fn index(offset: u64) -> usize {
    // No offset is beyond the length of the image, which was found equal to that of a slice.
    usize::try_from(offset).expect("an offset within memory fits a usize")
}

fn u32_at(page: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| page[at + i]))
}

fn u64_at(page: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| page[at + i]))
}
