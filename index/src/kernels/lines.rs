//! Checksums of rows, alone or beside a distance, from the same registers: the plan all instruction sets share.
//!
//! A row is read in lines of 64 bytes, the last one padded with zeros. Line by line, each 32-bit word `w` meets a key `k` of
//! its own, and the sum of `(w_2i + k_2i mod 2^32) (w_2i+1 + k_2i+1 mod 2^32)` over all pairs, modulo 2^64, is what a row
//! comes to: an addition of integers, a shift, a product and another addition for 64 bytes. Sums of integers do not depend on
//! their order, so every set gives the same.
//!
//! Two rows of one length, whatever they are, come to the same with a chance of one in 2^32 over random keys. Ours are drawn
//! once and for all, which is as good against damage that does not know them. Nothing else tells where words stand: the
//! length of a row is the caller's to know.
//! Source: NH, Black et al., UMAC, CRYPTO 1999, theorem 4.2; RFC 4418, 5.2.
//!
//! Query and keys lie in aligned memory, as each register of 64 bytes would cross cache lines else, and cost two loads: it is
//! worth about what the sum costs. In cache, 384 components of `f32` took 9.5 ns alone, 12.9 with their sum, 16 with the same
//! sum in a second pass; with XXH3 49.8 (SSE2) and 41 (AVX2), with CRC-32 by carry-less products of 512 bits 33 (EPYC, Zen 5).

use std::sync::LazyLock;

use super::LANES;

/// Bytes of a line.
pub(crate) const LINE: usize = 64;

/// Lines of the longest row: 65,536 components of 4 bytes.
const LINES_MAX: usize = 1 << 12;

/// Bytes of the longest row that has a checksum.
pub const ROW_BYTES_MAX: usize = LINES_MAX * LINE;

/// Sixteen numbers in a cache line of their own.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Aligned<T>(pub(crate) [T; LANES]);

/// Keys of a line.
pub(super) type Keys = Aligned<u32>;

/// How the components of a row are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// Four bytes, little-endian.
    F32,
    /// The bits of an `f16`, finite.
    F16,
    /// A byte.
    U8,
}

impl Component {
    /// Components of a line.
    #[must_use]
    pub fn in_line(self) -> usize {
        match self {
            Self::F32 => LINE / 4,
            Self::F16 => LINE / 2,
            Self::U8 => LINE,
        }
    }
}

/// A query, padded with zeros to whole lines of any rows that it is compared with.
#[derive(Clone, Debug)]
pub struct Query(Vec<Aligned<f32>>);

impl Query {
    /// Of any components.
    #[must_use]
    pub fn new(components: &[f32]) -> Self {
        let mut blocks = vec![Aligned([0.0; LANES]); components.len().next_multiple_of(LINE) / LANES];
        for (block, components) in blocks.iter_mut().zip(components.chunks(LANES)) {
            block.0[..components.len()].copy_from_slice(components);
        }
        Self(blocks)
    }

    /// Blocks for rows of so many lines.
    #[inline]
    pub(super) fn blocks(&self, lines: usize, component: Component) -> &[Aligned<f32>] {
        let want = lines * component.in_line() / LANES;
        let (got, in_line) = (self.0.len(), component.in_line());
        // Longer than the row by what pads it only.
        assert!(want <= got && got * LANES < lines * in_line + LINE, "a query of {got} blocks, a row of {want}");
        &self.0[..want]
    }
}

/// Keys for rows of so many lines.
#[inline]
pub(super) fn keys(lines: usize) -> &'static [Keys] {
    static KEYS: LazyLock<Vec<Keys>> = LazyLock::new(draw);
    &KEYS[..lines]
}

/// Keys of the longest row. They are what files are written by: others would be another format.
fn draw() -> Vec<Keys> {
    let mut state = 0;
    (0..LINES_MAX).map(|_| Aligned(std::array::from_fn(|_| key(&mut state)))).collect()
}

/// The next key: the upper half of `SplitMix64`. Zero is none, as what pads rows would hide changes of its neighbour.
/// Source: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
fn key(state: &mut u64) -> u32 {
    loop {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        #[allow(clippy::cast_possible_truncation, reason = "half of it is kept")]
        let key = ((mixed ^ (mixed >> 31)) >> 32) as u32;
        if key != 0 {
            return key;
        }
    }
}

/// A last line that is not full, with zeros behind it.
#[inline]
pub(super) fn padded(tail: &[u8]) -> [u8; LINE] {
    let mut line = [0; LINE];
    line[..tail.len()].copy_from_slice(tail);
    line
}

/// The kernels over a set's `load_line`, `load_tail`, `as_f32`, `as_f16`, `as_u8`, `no_sums`, `add_line` and `total`, and those of its lanes.
macro_rules! lines {
    ($($features:meta)?) => {
        /// Checksum of a row. As many keys as lines.
        $(#[$features])?
        pub(in crate::kernels) fn row_sum(row: &[u8], keys: &[crate::kernels::lines::Keys]) -> u64 {
            let (lines, tail) = row.as_chunks::<{ crate::kernels::lines::LINE }>();
            let mut sums = no_sums();
            for (line, keys) in lines.iter().zip(keys) {
                sums = add_line(sums, load_line(line), keys);
            }
            if !tail.is_empty() {
                sums = add_line(sums, load_tail(tail), &keys[lines.len()]);
            }
            total(sums)
        }

        crate::kernels::lines::lines!(@kernels $($features)?, dot_and_sum_f32, squared_and_sum_f32, as_f32, 1);
        crate::kernels::lines::lines!(@kernels $($features)?, dot_and_sum_f16, squared_and_sum_f16, as_f16, 2);
        crate::kernels::lines::lines!(@kernels $($features)?, dot_and_sum_u8, squared_and_sum_u8, as_u8, 4);
    };
    (@kernels $($features:meta)?, $dot:ident, $squared:ident, $widen:ident, $blocks:literal) => {
        /// Inner product with a row, and its checksum. As many keys as lines, and query for all of them.
        $(#[$features])?
        pub(in crate::kernels) fn $dot(
            query: &[crate::kernels::lines::Aligned<f32>],
            row: &[u8],
            keys: &[crate::kernels::lines::Keys],
        ) -> (f32, u64) {
            crate::kernels::lines::lines!(@row query, row, keys, $widen, $blocks, |a, b, sum| mul_add(a, b, sum))
        }

        /// Squared distance to a row, likewise.
        $(#[$features])?
        pub(in crate::kernels) fn $squared(
            query: &[crate::kernels::lines::Aligned<f32>],
            row: &[u8],
            keys: &[crate::kernels::lines::Keys],
        ) -> (f32, u64) {
            crate::kernels::lines::lines!(@row query, row, keys, $widen, $blocks, |a, b, sum| {
                let difference = sub(a, b);
                mul_add(difference, difference, sum)
            })
        }
    };
    // Four blocks at a time, each on a chain of its own; a line has `$blocks` of them.
    (@row $query:ident, $row:ident, $keys:ident, $widen:ident, $blocks:literal, $step:expr) => {{
        const LINES: usize = 4 / $blocks;
        let step = $step;
        let (mut chains, mut sums) = ([zero(); 4], no_sums());
        let (lines, tail) = $row.as_chunks::<{ crate::kernels::lines::LINE }>();
        let (turns, rest) = lines.as_chunks::<LINES>();
        let (query_turns, keys_turns) = ($query.as_chunks::<4>().0, $keys.as_chunks::<LINES>().0);
        for ((turn, query), keys) in turns.iter().zip(query_turns).zip(keys_turns) {
            for i in 0..LINES {
                let line = load_line(&turn[i]);
                sums = add_line(sums, line, &keys[i]);
                let blocks = $widen(line);
                for j in 0..$blocks {
                    chains[i * $blocks + j] =
                        step(load(&query[i * $blocks + j].0), blocks[j], chains[i * $blocks + j]);
                }
            }
        }
        // What is left is a turn at most, its last line padded or not.
        let (query, keys) = ($query[turns.len() * 4..].as_chunks::<$blocks>().0, &$keys[turns.len() * LINES..]);
        for i in 0..query.len() {
            let line = rest.get(i).map_or_else(|| load_tail(tail), |line| load_line(line));
            sums = add_line(sums, line, &keys[i]);
            let blocks = $widen(line);
            for j in 0..$blocks {
                chains[i * $blocks + j] = step(load(&query[i][j].0), blocks[j], chains[i * $blocks + j]);
            }
        }
        (sum(add(add(chains[0], chains[1]), add(chains[2], chains[3]))), total(sums))
    }};
}
pub(super) use lines;

#[cfg(test)]
mod tests;
