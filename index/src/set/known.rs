//! Which ids a segment may have, told by one cache line.
//!
//! Every write asks each segment for the copy that it replaces. Looking an id up takes 3 µs in a million; an id that is
//! new would pay that for every segment. Here it pays some 0.1 µs, and a look-up in one of a hundred segments.
//!
//! Source: the split block Bloom filter of Apache Parquet (Putze, Sanders and Singler, Cache-, hash- and space-efficient
//! Bloom filters, WEA 2007).

use shoal_model::PointId;

use crate::segment::Segment;

/// Words of a block; each holds one bit of an id.
const WORDS: usize = 8;

/// Bits for each id: with 11, about one in a hundred ids that are not there seems to be.
const ID_BITS: usize = 11;

/// Odd numbers, one for each word of a block.
const SALTS: [u32; WORDS] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

/// Ids of a segment, nearly.
#[derive(Debug)]
pub(super) struct Known {
    /// Half a cache line each.
    blocks: Vec<[u32; WORDS]>,
}

/// What there is to know of an id, for all segments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(u64);

impl Mark {
    pub(super) fn new(id: &PointId) -> Self {
        // The upper bits of all hashes of a shard are alike: that is what makes them of the shard. A multiplication has
        // the lower ones in all places.
        Self(id.hash().wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn block(self, blocks: usize) -> usize {
        ((u128::from(self.0) * blocks as u128) >> 64) as usize
    }

    #[allow(clippy::cast_possible_truncation, reason = "other bits than those that name the block")]
    fn bits(self) -> [u32; WORDS] {
        SALTS.map(|salt| 1 << ((self.0 as u32).wrapping_mul(salt) >> 27))
    }
}

impl Known {
    /// Reads all ids: some 0.1 µs each.
    pub(super) fn new(segment: &Segment) -> Self {
        let len = segment.len();
        let blocks = (len as usize * ID_BITS).div_ceil(WORDS * 32).max(1);
        let mut known = Self { blocks: vec![[0; WORDS]; blocks] };
        (0..len).for_each(|offset| known.insert(Mark::new(&segment.id(offset))));
        known
    }

    fn insert(&mut self, mark: Mark) {
        let block = mark.block(self.blocks.len());
        self.blocks[block].iter_mut().zip(mark.bits()).for_each(|(word, bit)| *word |= bit);
    }

    /// Whether the segment may have an id; it has not if not.
    pub(super) fn may_have(&self, mark: Mark) -> bool {
        let block = &self.blocks[mark.block(self.blocks.len())];
        block.iter().zip(mark.bits()).all(|(word, bit)| word & bit != 0)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&self.blocks[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_shard_are_known_and_few_others_seem_to_be() {
        // The shard has a sixteenth of the hash space.
        let of_shard = (0..).map(PointId::Number).filter(|id| id.hash() >> 60 == 5);
        let ids: Vec<PointId> = of_shard.take(40_000).collect();
        let (inside, outside) = ids.split_at(20_000);
        let mut known = Known { blocks: vec![[0; WORDS]; (inside.len() * ID_BITS).div_ceil(256)] };
        inside.iter().for_each(|id| known.insert(Mark::new(id)));
        assert!(inside.iter().all(|id| known.may_have(Mark::new(id))), "what is there is known");
        let seem = outside.iter().filter(|id| known.may_have(Mark::new(id))).count();
        assert!(seem * 50 < outside.len(), "{seem} of {} seem to be there", outside.len());
    }
}
