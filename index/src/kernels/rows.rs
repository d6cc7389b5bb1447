//! Distances between an `f32` query and one row of `f32`, `f16`, `u8` or `i8`: the plan all instruction sets share.
//!
//! Four chains of 16 partial sums, block after block in turn, then a tree over all. One chain would wait for itself:
//! 24 dependent additions are 26 ns where 384 components in cache take 8.

/// Error that `extra` roundings beyond a kernel's own can bring to a sum over `dim` components of `f32`.
///
/// The result of a kernel lies within `relative * sum(|term|) + absolute` of the true sum of terms, which are the
/// products, or, with `extra >= 2`, the squared differences. A term meets one rounding as a product, at most `dim / 16`
/// additions into and among the chains and 4 in the tree; `m` roundings of at most `u = 2^-24` each come to
/// `m u / (1 - m u)`. `absolute` is for products below the smallest normal number.
/// Source: Higham, Accuracy and Stability of Numerical Algorithms, lemma 3.1.
#[must_use]
pub fn rounding_error(dim: usize, extra: usize) -> RoundingError {
    #[allow(clippy::cast_precision_loss, reason = "dimensions are far below 2^53")]
    let (roundings, dim) = ((dim.div_ceil(super::LANES) + 5 + extra) as f64, dim as f64);
    let sum = roundings * f64::powi(2.0, -24);
    RoundingError { relative: sum / (1.0 - sum), absolute: dim * f64::powi(2.0, -149) }
}

/// What [`rounding_error`] tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundingError {
    /// Share of the sum of the terms' magnitudes.
    pub relative: f64,
    /// Added to it.
    pub absolute: f64,
}

/// A last block that is not full, with zeros behind it, which change no sum.
pub(super) fn padded(tail: &[f32]) -> [f32; super::LANES] {
    let mut block = [0.0; super::LANES];
    block[..tail.len()].copy_from_slice(tail);
    block
}

/// The kernels over a set's `zero`, `load`, `load_f16`, `load_u8`, `load_i8`, `store`, `splat`, `add`, `sub`, `mul`, `mul_add` and
/// `sum`.
macro_rules! rows {
    ($($features:meta)?) => {
        /// Inner products of `query` with each of `rows`.
        $(#[$features])?
        pub(in crate::kernels) fn dot<const N: usize>(query: &[f32], rows: [&[f32]; N]) -> [f32; N] {
            crate::kernels::rows::rows!(@f32 query, rows, |a, b, sum| mul_add(a, b, sum))
        }

        /// Squared distances between `query` and each of `rows`.
        $(#[$features])?
        pub(in crate::kernels) fn squared_euclidean<const N: usize>(query: &[f32], rows: [&[f32]; N]) -> [f32; N] {
            crate::kernels::rows::rows!(@f32 query, rows, |a, b, sum| {
                let difference = sub(a, b);
                mul_add(difference, difference, sum)
            })
        }

        /// Inner product with a row of `f16`.
        $(#[$features])?
        pub(in crate::kernels) fn dot_f16(query: &[f32], row: &[u16]) -> f32 {
            crate::kernels::rows::rows!(@whole query, row, load_f16, |a, b, sum| mul_add(a, b, sum))
        }

        /// Squared distance to a row of `f16`.
        $(#[$features])?
        pub(in crate::kernels) fn squared_euclidean_f16(query: &[f32], row: &[u16]) -> f32 {
            crate::kernels::rows::rows!(@whole query, row, load_f16, |a, b, sum| {
                let difference = sub(a, b);
                mul_add(difference, difference, sum)
            })
        }

        /// Widens a row of `f16`, which has at least as many blocks as `out`.
        $(#[$features])?
        pub(in crate::kernels) fn widen_row(row: &[u16], out: &mut [f32]) {
            let (blocks, tail) = out.as_chunks_mut::<{ crate::kernels::LANES }>();
            let rows = row.as_chunks::<{ crate::kernels::LANES }>().0;
            blocks.iter_mut().zip(rows).for_each(|(block, row)| store(block, load_f16(row)));
            if let Some(row) = rows.get(blocks.len()) {
                let mut block = [0.0; crate::kernels::LANES];
                store(&mut block, load_f16(row));
                tail.copy_from_slice(&block[..tail.len()]);
            }
        }

        /// Inner product with a row of `u8`.
        $(#[$features])?
        pub(in crate::kernels) fn dot_u8(query: &[f32], row: &[u8]) -> f32 {
            crate::kernels::rows::rows!(@whole query, row, load_u8, |a, b, sum| mul_add(a, b, sum))
        }

        /// Squared distance to a row of `u8`.
        $(#[$features])?
        pub(in crate::kernels) fn squared_euclidean_u8(query: &[f32], row: &[u8]) -> f32 {
            crate::kernels::rows::rows!(@whole query, row, load_u8, |a, b, sum| {
                let difference = sub(a, b);
                mul_add(difference, difference, sum)
            })
        }

        /// Inner product with a row of `i8`.
        $(#[$features])?
        pub(in crate::kernels) fn dot_i8(query: &[f32], row: &[i8]) -> f32 {
            crate::kernels::rows::rows!(@whole query, row, load_i8, |a, b, sum| mul_add(a, b, sum))
        }

        /// Squared distance to a row of `i8` times `scale`.
        $(#[$features])?
        pub(in crate::kernels) fn squared_euclidean_i8(query: &[f32], row: &[i8], scale: f32) -> f32 {
            let scale = splat(scale);
            crate::kernels::rows::rows!(@whole query, row, load_i8, |a, b, sum| {
                let difference = sub(a, mul(b, scale));
                mul_add(difference, difference, sum)
            })
        }
    };
    (@f32 $query:ident, $rows:ident, $step:expr) => {{
        let (blocks, tail) = $query.as_chunks::<{ crate::kernels::LANES }>();
        let step = $step;
        let mut totals = [0.0; N];
        for (total, row) in totals.iter_mut().zip($rows) {
            let (row_blocks, row_tail) = row.as_chunks::<{ crate::kernels::LANES }>();
            let mut chains = [zero(); 4];
            let (fours, rest) = blocks.as_chunks::<4>();
            let (row_fours, row_rest) = row_blocks.as_chunks::<4>();
            for (four, row_four) in fours.iter().zip(row_fours) {
                for i in 0..4 {
                    chains[i] = step(load(&four[i]), load(&row_four[i]), chains[i]);
                }
            }
            for (i, (block, row_block)) in rest.iter().zip(row_rest).enumerate() {
                chains[i] = step(load(block), load(row_block), chains[i]);
            }
            if !tail.is_empty() {
                let (block, row_block) = (crate::kernels::rows::padded(tail), crate::kernels::rows::padded(row_tail));
                chains[3] = step(load(&block), load(&row_block), chains[3]);
            }
            *total = sum(add(add(chains[0], chains[1]), add(chains[2], chains[3])));
        }
        totals
    }};
    (@whole $query:ident, $row:ident, $load:ident, $step:expr) => {{
        let step = $step;
        let mut chains = [zero(); 4];
        let (fours, rest) = $query.as_chunks::<{ crate::kernels::LANES }>().0.as_chunks::<4>();
        let (row_fours, row_rest) = $row.as_chunks::<{ crate::kernels::LANES }>().0.as_chunks::<4>();
        for (four, row_four) in fours.iter().zip(row_fours) {
            for i in 0..4 {
                chains[i] = step(load(&four[i]), $load(&row_four[i]), chains[i]);
            }
        }
        for (i, (block, row_block)) in rest.iter().zip(row_rest).enumerate() {
            chains[i] = step(load(block), $load(row_block), chains[i]);
        }
        sum(add(add(chains[0], chains[1]), add(chains[2], chains[3])))
    }};
}
pub(super) use rows;
