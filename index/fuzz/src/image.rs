//! Segment files: any bytes, and copies of a sound file that are damaged or forged.

use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use shoal_index::file::{Align, BLOCK_BYTES, Image, ImageWriter, Residency, Tag, Verify};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

pub(crate) const HEADER_BYTES: usize = 4 << 10;

/// A small file that is sound.
static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut writer = ImageWriter::in_memory("sound");
    for (tag, len) in [(*b"first   ", 100_u8), (*b"second  ", 0), (*b"third   ", 200)] {
        writer.begin_section(tag, Align::Page).expect("memory takes a section");
        writer.write(&(0..len).collect::<Vec<u8>>()).expect("memory takes bytes");
    }
    let image = writer.finish(b"parameters", Residency::Resident).expect("memory for an image");
    image.bytes().to_vec()
});

/// Data is an even byte and the bytes of a file, or an odd byte and what to do to a sound one.
pub fn run(data: &[u8]) {
    match data.split_first() {
        Some((kind, bytes)) if kind.is_multiple_of(2) => look(bytes),
        Some((_, recipe)) => drop(damage_and_forge(&mut Unstructured::new(recipe))),
        None => {}
    }
}

fn damage_and_forge(u: &mut Unstructured<'_>) -> Result<()> {
    let mut bytes = SOUND.clone();
    let blocks = u.int_in_range(0..=2)?;
    let cut = u.int_in_range(0..=3)? * u.int_in_range(0..=64_usize)?;
    bytes.truncate(bytes.len() - cut);
    while !u.is_empty() {
        patch(&mut bytes, u)?;
    }
    let image = Image::from_bytes("damaged", &bytes, Verify::Everything);
    assert_eq!(image.is_ok(), bytes == *SOUND, "what is not sound is refused, and nothing else");
    seal(&mut bytes, blocks);
    look(&bytes);
    Ok(())
}

/// Writes a few bytes somewhere, most often to a field of the header.
fn patch(bytes: &mut [u8], u: &mut Unstructured<'_>) -> Result<()> {
    let at = if u.ratio(1, 4)? { u.int_in_range(0..=bytes.len() - 1)? } else { 8 * u.int_in_range(0..=60)? };
    let number: u64 = match u.int_in_range(0..=3)? {
        0 => u.arbitrary()?,
        1 => u.int_in_range(0..=20_000)?,
        2 => u.int_in_range(0..=16)? * HEADER_BYTES as u64,
        _ => u64::MAX - u.int_in_range(0..=1 << 20)?,
    };
    let width = (*u.choose(&[1, 4, 8])?).min(bytes.len() - at);
    bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
    Ok(())
}

/// Makes the checksums right, as anyone can: for a file that ends with those of `blocks` blocks and its own, which is
/// returned. `None` if it is too short for them.
pub(crate) fn seal(bytes: &mut [u8], blocks: usize) -> Option<u64> {
    let body_end = bytes.len().checked_sub(8 * (blocks + 1)).filter(|end| *end >= HEADER_BYTES)?;
    let (head, sums) = bytes.split_at_mut(body_end);
    let (header, body) = head.split_at_mut(HEADER_BYTES);
    let (start, checksum) = header.split_at_mut(HEADER_BYTES - 8);
    checksum.copy_from_slice(&xxh3_64(start).to_le_bytes());
    let (block_sums, file_sum) = sums.split_at_mut(8 * blocks);
    for (block, sum) in body.chunks(BLOCK_BYTES).zip(block_sums.chunks_mut(8)) {
        sum.copy_from_slice(&xxh3_64(block).to_le_bytes());
    }
    let mut hasher = Xxh3::new();
    hasher.update(header);
    hasher.update(block_sums);
    let digest = hasher.digest();
    file_sum.copy_from_slice(&digest.to_le_bytes());
    Some(digest)
}

/// What opens keeps its promises; what does not has said so.
fn look(bytes: &[u8]) {
    let Ok(image) = Image::from_bytes("file", bytes, Verify::Everything) else { return };
    image.verify().expect("what was verified verifies again");
    assert_eq!(image.bytes(), bytes);
    let tags: Vec<Tag> = image.tags().collect();
    let mut total = HEADER_BYTES;
    for tag in tags {
        let section = image.section(tag).expect("a tag of the table has a section");
        assert!(section.as_ptr().addr().is_multiple_of(4 << 10), "sections start at pages");
        assert_eq!(image.table::<u32>(tag).is_ok(), section.len().is_multiple_of(4), "a table if it divides");
        total += section.len();
    }
    assert!(total <= bytes.len(), "sections lie within the file, and apart");
}
