//! A filter and a payload: the compiled filter says of the packed payload what the model says of it unpacked.

use arbitrary::Unstructured;
use shoal_index::{CompiledFilter, packed};
use shoal_model::Limits;

use super::shapes;

/// Data is a filter, an id and payloads.
pub fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(filter) = shapes::filter(&mut u) else { return };
    if filter.check(&Limits::default()).is_err() {
        return;
    }
    let compiled = CompiledFilter::new(&filter);
    while !u.is_empty() {
        let (Ok(id), Ok(payload)) = (shapes::id(&mut u), shapes::payload(&mut u)) else { return };
        let packed = packed::encode(&payload);
        assert_eq!(packed::decode(&packed).as_ref(), Ok(&payload), "payloads read back");
        assert_eq!(compiled.matches(&id, &packed), filter.matches(&id, &payload), "{filter:?} of {id} {payload:?}");
    }
}
