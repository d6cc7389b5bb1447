//! Bytes that call themselves a payload: refused or canonical, and a filter gives an answer either way.

use arbitrary::Unstructured;
use shoal_index::{CompiledFilter, packed};
use shoal_model::{Limits, PointId};

use super::shapes;

/// Data is the length of a filter's data, that, and the bytes of a payload.
pub fn run(data: &[u8]) {
    let Some((&filter_bytes, rest)) = data.split_first() else { return };
    let (filter, bytes) = rest.split_at(rest.len().min(filter_bytes.into()));
    let decoded = packed::decode(bytes);
    if let Ok(payload) = &decoded {
        assert_eq!(packed::encode(payload), bytes, "each payload has one encoding");
    }
    let Ok(filter) = shapes::filter(&mut Unstructured::new(filter)) else { return };
    if filter.check(&Limits::default()).is_err() {
        return;
    }
    let id = PointId::Number(0);
    let passes = CompiledFilter::new(&filter).matches(&id, bytes);
    if let Ok(payload) = &decoded {
        assert_eq!(passes, filter.matches(&id, payload), "{filter:?} of {payload:?}");
    }
}
