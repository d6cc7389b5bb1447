//! Making the payload index of a segment.

use std::collections::BTreeMap;

use super::FORMAT;
use super::column;
use super::field::{self, hash};
use super::walk;

/// Builds the section; see the head of [`super`].
pub(super) fn build<'a>(payloads: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    // Ordered by hash, as the section is: equal payloads make equal bytes.
    let mut fields = BTreeMap::<u128, field::Builder>::new();
    let mut points = 0_u32;
    for payload in payloads {
        walk::for_each_value(payload, &mut |key, value| fields.entry(hash(key)).or_default().add(value, points));
        points = points.checked_add(1).expect("a segment has less than 2^32 points");
    }
    let names: Vec<_> = fields.keys().copied().collect();
    let (mut records, mut ends) = (vec![], vec![]);
    for field in fields.into_values() {
        field.write(&mut records, points);
        ends.push(records.len() as u128);
    }
    let mut out = [FORMAT.to_le_bytes(), points.to_le_bytes()].concat();
    column::write(&mut out, &names);
    column::write(&mut out, &ends);
    out.extend(records);
    out
}
