//! Ids of a segment's points: by offset, and offsets by id.
//!
//! ```text
//! ids     the keys (`PointId::to_key`), one after the other in the order of offsets
//! ends    u64 where each ends
//! order   u32 offsets in the order of ids
//! ```

use shoal_model::PointId;

/// The sections, where they lie.
#[derive(Clone, Copy)]
pub(crate) struct Ids<'a> {
    pub(crate) keys: &'a [u8],
    pub(crate) ends: &'a [u64],
    pub(crate) order: &'a [u32],
}

impl<'a> Ids<'a> {
    /// Whether keys can be read and offsets are of points. Looks at every item.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let mut before = 0;
        for end in self.ends {
            if *end < before {
                return Err("ends of ids do not ascend");
            }
            before = *end;
        }
        if usize::try_from(before) != Ok(self.keys.len()) {
            return Err("ids do not fill their section");
        }
        if self.order.len() != self.ends.len() {
            return Err("the order of ids is of another length");
        }
        let ids = self.order.iter().map(|offset| self.key(*offset).and_then(|key| PointId::from_key(key).ok()));
        let mut last = None;
        for id in ids {
            let id = id.ok_or("an id cannot be read")?;
            if last.as_ref().is_some_and(|last| *last >= id) {
                return Err("the order of ids does not ascend");
            }
            last = Some(id);
        }
        Ok(())
    }

    /// The id of a point; `None` if there is no such point, or its key was not checked and is none.
    pub(crate) fn get(&self, offset: u32) -> Option<PointId> {
        PointId::from_key(self.key(offset)?).ok()
    }

    /// Where the point with an id is.
    pub(crate) fn find(&self, id: &PointId) -> Option<u32> {
        let key = id.to_key();
        let at = self.order.binary_search_by(|offset| self.key(*offset).unwrap_or_default().cmp(&key)).ok()?;
        Some(self.order[at])
    }

    fn key(&self, offset: u32) -> Option<&'a [u8]> {
        let at = offset as usize;
        let end = usize::try_from(*self.ends.get(at)?).ok()?;
        let start = if at == 0 { 0 } else { usize::try_from(self.ends[at - 1]).ok()? };
        self.keys.get(start..end)
    }
}

/// The three sections of `ids`, in the order of offsets.
pub(crate) fn sections(ids: &[&PointId]) -> (Vec<u8>, Vec<u64>, Vec<u32>) {
    let mut keys = Vec::new();
    let ends = ids.iter().map(|id| {
        keys.extend_from_slice(&id.to_key());
        keys.len() as u64
    });
    let ends: Vec<u64> = ends.collect();
    let mut order: Vec<u32> = (0..).take(ids.len()).collect();
    order.sort_unstable_by_key(|offset| ids[*offset as usize]);
    (keys, ends, order)
}
