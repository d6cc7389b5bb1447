//! The fast Walsh-Hadamard transform: the plan all instruction sets share.
//!
//! Every stage adds and subtracts pairs of values a power of two apart; which registers do it changes no bit of the
//! result, so all sets agree bit by bit. The first six stages happen in registers, the others two at a time.
//! Source: Fino and Algazi, Unified matrix treatment of the fast Walsh-Hadamard transform, 1976.

/// The transform over a set's `load`, `store`, `add`, `sub`, `mul` and `butterflies`.
macro_rules! hadamard {
    ($($features:meta)?) => {
        /// Multiplies `values` by `factors` and transforms them. Both have one length, a power of two, at least 64.
        $(#[$features])?
        pub(in crate::kernels) fn hadamard(values: &mut [f32], factors: &[f32]) {
            for (block, factors) in values.as_chunks_mut::<64>().0.iter_mut().zip(factors.as_chunks::<64>().0) {
                first_stages(block, factors);
            }
            let mut apart = 64;
            while 4 * apart <= values.len() {
                for quarters in values.chunks_exact_mut(4 * apart) {
                    two_stages(quarters);
                }
                apart *= 4;
            }
            if apart < values.len() {
                last_stage(values);
            }
        }

        /// Factors, then the stages 1 to 32.
        $(#[$features])?
        #[inline]
        fn first_stages(block: &mut [f32; 64], factors: &[f32; 64]) {
            let factors = factors.as_chunks::<{ crate::kernels::LANES }>().0;
            let blocks = block.as_chunks_mut::<{ crate::kernels::LANES }>().0;
            let mut values = [zero(); 4];
            for i in 0..4 {
                values[i] = butterflies(mul(load(&blocks[i]), load(&factors[i])));
            }
            for (block, value) in blocks.iter_mut().zip(crossed(values)) {
                store(block, value);
            }
        }

        /// Two stages whose distances are a quarter and a half of the length of `values`.
        $(#[$features])?
        #[inline]
        fn two_stages(values: &mut [f32]) {
            let (low, high) = values.split_at_mut(values.len() / 2);
            let (a, b) = low.split_at_mut(low.len() / 2);
            let (c, d) = high.split_at_mut(high.len() / 2);
            let quarters = [a, b, c, d].map(|quarter| quarter.as_chunks_mut::<{ crate::kernels::LANES }>().0);
            let [a, b, c, d] = quarters;
            for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
                let [w, x, y, z] = crossed([load(a), load(b), load(c), load(d)]);
                store(a, w);
                store(b, x);
                store(c, y);
                store(d, z);
            }
        }

        /// The stage whose distance is half of the length of `values`.
        $(#[$features])?
        #[inline]
        fn last_stage(values: &mut [f32]) {
            let (low, high) = values.split_at_mut(values.len() / 2);
            let low = low.as_chunks_mut::<{ crate::kernels::LANES }>().0;
            let high = high.as_chunks_mut::<{ crate::kernels::LANES }>().0;
            for (low, high) in low.iter_mut().zip(high) {
                let (a, b) = (load(low), load(high));
                store(low, add(a, b));
                store(high, sub(a, b));
            }
        }

        /// Two stages over four registers: neighbours, then those two apart.
        $(#[$features])?
        #[inline]
        fn crossed([a, b, c, d]: [Lanes; 4]) -> [Lanes; 4] {
            let (a, b, c, d) = (add(a, b), sub(a, b), add(c, d), sub(c, d));
            [add(a, c), add(b, d), sub(a, c), sub(b, d)]
        }
    };
}
pub(super) use hadamard;
