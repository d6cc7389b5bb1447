//! The payload index: of sound payloads it finds what the model finds; of damaged bytes, an error or some points.

use arbitrary::{Result, Unstructured};
use shoal_index::packed;
use shoal_index::payload_index::{PayloadIndex, evaluate_untrusted};
use shoal_model::{Limits, Payload, PointId};

use super::shapes;

const POINTS_MAX: usize = 40;

/// Data is a filter, payloads and damage to their index.
pub fn run(data: &[u8]) {
    // An input that ends early has done what it could.
    let _ = build_and_damage(&mut Unstructured::new(data));
}

fn build_and_damage(u: &mut Unstructured<'_>) -> Result<()> {
    let filter = shapes::filter(u)?;
    if filter.check(&Limits::default()).is_err() {
        return Ok(());
    }
    let kinds = (0..u.int_in_range(1..=4)?).map(|_| shapes::payload(u)).collect::<Result<Vec<Payload>>>()?;
    let count = u.int_in_range(0..=POINTS_MAX)?;
    let payloads: Vec<&Payload> = kinds.iter().cycle().take(count).collect();
    let packed: Vec<Vec<u8>> = payloads.iter().map(|payload| packed::encode(payload)).collect();
    let mut bytes = PayloadIndex::build(packed.iter().map(Vec::as_slice));

    let points = u32::try_from(count).expect("a few points");
    let index = PayloadIndex::open(&bytes, points).expect("what was built opens");
    index.verify().expect("what was built is in order");
    let offset_of = |id: &PointId| if let PointId::Number(id) = id { u32::try_from(*id).ok() } else { None };
    let found = index.evaluate(&filter, &offset_of).expect("what was built is evaluated");
    let passes = |offset: &u32| filter.matches(&PointId::Number((*offset).into()), payloads[*offset as usize]);
    assert!(found.iter().eq((0..points).filter(passes)), "{filter:?} of {payloads:?}");

    while !u.is_empty() {
        damage(&mut bytes, u)?;
        let _ = evaluate_untrusted(&bytes, points, &filter);
    }
    Ok(())
}

fn damage(bytes: &mut Vec<u8>, u: &mut Unstructured<'_>) -> Result<()> {
    if bytes.is_empty() {
        return Err(arbitrary::Error::NotEnoughData);
    }
    let at = u.choose_index(bytes.len())?;
    match u.int_in_range(0..=3)? {
        0 => bytes[at] = u.arbitrary()?,
        1 => bytes[at] ^= 1 << u.int_in_range(0..=7)?,
        2 => bytes.insert(at, u.arbitrary()?),
        _ => drop(bytes.remove(at)),
    }
    Ok(())
}
