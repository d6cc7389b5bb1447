//! Signs of a residual and the sums that correct for keeping only them: the plan all instruction sets share.
//!
//! Nothing is fused and the order of additions is fixed, so all sets agree bit by bit.

/// Sums over the residual `r` of a vector from a centre `c`, and over its signs `s`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Moments {
    /// `sum(r_i^2)`.
    pub(crate) square: f32,
    /// `sum(|r_i|)`.
    pub(crate) magnitude: f32,
    /// `sum(s_i c_i)`.
    pub(crate) center: f32,
}

/// The kernel over a set's `zero`, `load`, `sub`, `add`, `mul`, `abs`, `with_sign_of`, `signs` and `sum`; and the
/// largest sum of magnitudes of four neighbours, over `swap_1`, `swap_2`, `max` and `largest` too.
macro_rules! signs {
    ($($features:meta)?) => {
        /// Writes the signs of `vector - center`, 1 for plus, and returns the sums. 64 components a word of `bits`.
        $(#[$features])?
        pub(in crate::kernels) fn signs(
            vector: &[f32],
            center: &[f32],
            bits: &mut [u64],
        ) -> crate::kernels::signs::Moments {
            let (mut squares, mut magnitudes, mut centers) = ([zero(); 2], [zero(); 2], [zero(); 2]);
            let (vectors, centers_64) = (vector.as_chunks::<64>().0, center.as_chunks::<64>().0);
            for ((vector, center), bits) in vectors.iter().zip(centers_64).zip(bits) {
                let (vector, center) = (vector.as_chunks().0, center.as_chunks().0);
                *bits = 0;
                for i in 0..4 {
                    let center = load(&center[i]);
                    let residual = sub(load(&vector[i]), center);
                    squares[i % 2] = add(squares[i % 2], mul(residual, residual));
                    magnitudes[i % 2] = add(magnitudes[i % 2], abs(residual));
                    centers[i % 2] = add(centers[i % 2], with_sign_of(center, residual));
                    *bits |= u64::from(!negative(residual)) << (16 * i);
                }
            }
            crate::kernels::signs::Moments {
                square: sum(add(squares[0], squares[1])),
                magnitude: sum(add(magnitudes[0], magnitudes[1])),
                center: sum(add(centers[0], centers[1])),
            }
        }

        /// The largest `|a| + |b| + |c| + |d|` of the groups of four of `values`, 16 of which are a block.
        $(#[$features])?
        pub(in crate::kernels) fn peak(values: &[f32]) -> f32 {
            let mut peak = zero();
            for block in values.as_chunks().0 {
                let one = abs(load(block));
                let two = add(one, swap_1(one));
                peak = max(peak, add(two, swap_2(two)));
            }
            largest(peak)
        }
    };
}
pub(super) use signs;
