//! Sums in `f64` that anyone can repeat bit by bit: the plan all sets share.
//!
//! Component `i` is added to partial sum `i mod 16`, in order, multiplied before without fusing; then the upper half of
//! the partial sums is added to the lower one until one is left. So compilers may use whatever vectors a set has.

use super::LANES;

/// The kernels; each set has its own copy, compiled for it.
macro_rules! sums {
    ($($features:meta)?) => {
        /// `sum(a b)` and `sum(b b)`.
        $(#[$features])?
        pub(in crate::kernels) fn dot_and_square_f64(a: &[f32], b: &[f32]) -> (f64, f64) {
            let (mut dots, mut squares) = ([0.0; crate::kernels::LANES], [0.0; crate::kernels::LANES]);
            crate::kernels::sums::sums!(@each a, b, |i, a, b| {
                dots[i] += a * b;
                squares[i] += b * b;
            });
            (crate::kernels::sums::total(dots), crate::kernels::sums::total(squares))
        }

        /// `sum((a - b)^2)`.
        $(#[$features])?
        pub(in crate::kernels) fn squared_euclidean_f64(a: &[f32], b: &[f32]) -> f64 {
            let mut sums = [0.0; crate::kernels::LANES];
            crate::kernels::sums::sums!(@each a, b, |i, a, b| {
                let difference: f64 = a - b;
                sums[i] += difference * difference;
            });
            crate::kernels::sums::total(sums)
        }
    };
    // Closures would not be compiled for the set.
    (@each $a:ident, $b:ident, |$i:ident, $x:ident, $y:ident| $step:block) => {
        let (blocks, tail) = $a.as_chunks::<{ crate::kernels::LANES }>();
        let (other_blocks, other_tail) = $b.as_chunks::<{ crate::kernels::LANES }>();
        for (block, other) in blocks.iter().zip(other_blocks) {
            for $i in 0..crate::kernels::LANES {
                let ($x, $y) = (f64::from(block[$i]), f64::from(other[$i]));
                $step
            }
        }
        if !tail.is_empty() {
            let (block, other) = (crate::kernels::rows::padded(tail), crate::kernels::rows::padded(other_tail));
            for $i in 0..crate::kernels::LANES {
                let ($x, $y) = (f64::from(block[$i]), f64::from(other[$i]));
                $step
            }
        }
    };
}
pub(super) use sums;

/// The upper half onto the lower, until one is left.
pub(super) fn total(mut partial: [f64; LANES]) -> f64 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            partial[i] += partial[i + half];
        }
    }
    partial[0]
}
