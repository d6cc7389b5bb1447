//! What a queue of estimates is asked: which are below a bound, and where the least is. The plan all sets share.

/// The kernels over a set's `splat`, `load`, `sub`, `min`, `least` and `negative`.
macro_rules! queue {
    ($($features:meta)?) => {
        /// One bit a value: whether it is below `bound`, which is finite.
        $(#[$features])?
        pub(in crate::kernels) fn below32(values: &[f32; crate::kernels::BATCH], bound: f32) -> u32 {
            let (halves, bound) = (values.as_chunks().0, splat(bound));
            let [low, high] = [&halves[0], &halves[1]].map(|half| negative(sub(load(half), bound)));
            u32::from(low) | u32::from(high) << 16
        }

        /// Where the first of the least values is; 0 if none is finite.
        $(#[$features])?
        pub(in crate::kernels) fn first_least(blocks: &[[f32; crate::kernels::LANES]]) -> usize {
            let lanes = blocks.iter().fold(splat(f32::MAX), |lanes, block| min(lanes, load(block)));
            let least = splat(least(lanes));
            for (number, block) in blocks.iter().enumerate() {
                let not_above = !negative(sub(least, load(block)));
                if not_above != 0 {
                    return number * crate::kernels::LANES + not_above.trailing_zeros() as usize;
                }
            }
            0
        }
    };
}
pub(super) use queue;
