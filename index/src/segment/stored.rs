//! What a segment keeps of its points beside the graph: payload, and vectors as they were sent where blocks lost some.
//!
//! It is a file of its own, so that the graph may lie in memory as a whole while this is read where it is wanted.
//! Searches read it for the points that they return; merges read all of it.
//!
//! ```text
//! ends       u64 where the payload of each point ends, in the order of offsets
//! payload    packed payload, one after the other
//! vectors    f32, in the order of offsets; only if blocks do not have them as they were sent
//! ```

use zerocopy::IntoBytes;

use super::frozen::tag;
use crate::file::{Align, FileError, Image, ImageWriter, Residency};

/// Writes the file. `points`: vector and payload of each, in the order of offsets.
pub(super) fn write<'a>(
    mut writer: ImageWriter,
    points: impl Iterator<Item = (&'a [f32], &'a [u8])> + Clone,
    with_vectors: bool,
    residency: Residency,
) -> Result<Image, FileError> {
    let ends = points.clone().scan(0, |end, (_, payload)| {
        *end += payload.len() as u64;
        Some(*end)
    });
    let ends: Vec<u64> = ends.collect();
    writer.begin_section(tag::PAYLOAD_ENDS, Align::Page)?;
    writer.write(ends.as_bytes())?;
    writer.begin_section(tag::PAYLOADS, Align::Page)?;
    for (_, payload) in points.clone() {
        writer.write(payload)?;
    }
    if with_vectors {
        writer.begin_section(tag::VECTORS, Align::Page)?;
        for (vector, _) in points {
            writer.write(vector.as_bytes())?;
        }
    }
    writer.finish(&[], residency)
}

/// Whether the file has what a segment of `points` of `dim` components needs.
pub(super) fn check(image: &Image, points: usize, dim: usize, with_vectors: bool) -> Result<(), &'static str> {
    let ends = image.table::<u64>(tag::PAYLOAD_ENDS).ok().filter(|ends| ends.len() == points);
    let ends = ends.ok_or("payloads are not as many as points")?;
    let bytes = image.section(tag::PAYLOADS).ok_or("there are no payloads")?.len() as u64;
    if !ends.is_sorted() || ends.last().copied().unwrap_or(0) != bytes {
        return Err("ends of payloads do not ascend to their section's");
    }
    let components = image.table::<f32>(tag::VECTORS).map_or(0, <[f32]>::len);
    if with_vectors && points.checked_mul(dim) != Some(components) {
        return Err("vectors are not as many as points");
    }
    Ok(())
}

/// Packed payload of a point; empty if there is no such point.
pub(super) fn payload(image: &Image, offset: u32) -> &[u8] {
    let (ends, payloads) = (image.table::<u64>(tag::PAYLOAD_ENDS), image.section(tag::PAYLOADS).unwrap_or_default());
    let range = ends.ok().and_then(|ends| {
        let at = offset as usize;
        let start = if at == 0 { 0 } else { ends[at - 1] };
        Some(usize::try_from(start).ok()?..usize::try_from(*ends.get(at)?).ok()?)
    });
    range.and_then(|range| payloads.get(range)).unwrap_or_default()
}

/// Vector of a point, as it was sent; `None` if blocks have it, or there is no such point.
pub(super) fn vector(image: &Image, offset: u32, dim: usize) -> Option<&[f32]> {
    image.table::<f32>(tag::VECTORS).ok()?.get(offset as usize * dim..)?.get(..dim)
}
