//! Where the parts of a point's block lie.
//!
//! A block is what one hop reads: contiguous, a whole number of cache lines, in the order in which it is needed.
//!
//! ```text
//! row      the vector as it was sent, f32, f16 or u8, padded to 16 components; or its place less the centre, rotated,
//!          as i8
//! head     f32 what factors are multiplied by, f32 the row's scale, f32 the vector's; zeros up to a cache line
//! codes    1 bit for each dimension of 32 neighbours, interleaved (see `quantize`)
//! factors  32 × f16 add, 32 × f16 rescale
//! links    32 × u32 offsets; a free place holds the point's own offset and an infinite distance
//! ```
//!
//! | dimensions | u8, i8 | f16 | f32 | compact |
//! | --- | --- | --- | --- | --- |
//! | 384 | 2,240 | 2,624 | 3,392 | 352 |
//! | 768 | 4,160 | 4,928 | 6,464 | 544 |
//! | 784 | 4,416 | 5,184 | 6,784 | 576 |
//! | 1,536 | 8,000 | 9,536 | 12,608 | 928 |
//!
//! What a compact block has, see `compact`.

use std::ops::Range;

use shoal_model::Quantization;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::kernels::{BATCH, LANES};
use crate::quantize::BLOCK_DIMS;

/// Links of a point: as many as one batch of codes has rows.
pub(crate) const DEGREE: usize = BATCH;

/// Bytes of a cache line.
const LINE: usize = 64;

/// How the vector of a block is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As it was sent.
    F32,
    /// Two bytes a component: exact for vectors that come from `f16` or small whole numbers.
    F16,
    /// A byte a component: exact for whole numbers from 0 to 255, as pictures have them; others are rounded.
    U8,
    /// A byte a component and a scale, of the vector rotated, so that it is all the same what components are like.
    ///
    /// Always loses something: vectors are kept beside the graph as they were sent, and settle what is returned.
    Int8,
    /// 4 bits a component, as Int8, and no codes of neighbours: a fifth of the memory, and slower.
    Compact,
}

impl Precision {
    /// All there are, in the order of their codes.
    pub(crate) const ALL: [Self; 5] = [Self::F32, Self::F16, Self::U8, Self::Int8, Self::Compact];

    /// What an index version asks for; `None` is what loses nothing.
    #[must_use]
    pub fn of(quantization: Quantization) -> Option<Self> {
        match quantization {
            Quantization::None => None,
            Quantization::Int8 => Some(Self::Int8),
            Quantization::Binary => Some(Self::Compact),
        }
    }

    /// Whether rows are codes of places, so that vectors are to be kept besides.
    pub(crate) fn is_coded(self) -> bool {
        matches!(self, Self::Int8 | Self::Compact)
    }

    /// Bytes of a component. The compact form is made of blocks with rows of `Int8`.
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::U8 | Self::Int8 | Self::Compact => 1,
        }
    }
}

/// What the parts of a block are scaled by.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Head {
    /// What the factors are to be multiplied by.
    pub(crate) factor_scale: f32,
    /// What the row is to be multiplied by to get its place in space.
    pub(crate) row_scale: f32,
    /// The same of the vector as it was sent.
    pub(crate) vector_scale: f32,
}

/// Batch of correction factors and links, as they lie behind the codes.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Tail {
    /// `f16` bits.
    pub(crate) add: [u16; DEGREE],
    /// `f16` bits.
    pub(crate) rescale: [u16; DEGREE],
    /// Offsets of neighbours.
    pub(crate) links: [u32; DEGREE],
}

/// Sizes of the parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    precision: Precision,
    width: usize,
    codes: Range<usize>,
    stride: usize,
}

impl Layout {
    /// For rows of `dim` components, which have `dims` in space.
    pub(crate) fn new(dim: usize, dims: usize, precision: Precision) -> Self {
        let coded = precision.is_coded();
        let width = if coded { dims.next_multiple_of(BLOCK_DIMS) } else { dim.next_multiple_of(LANES) };
        let codes_start = (width * precision.bytes() + size_of::<Head>()).next_multiple_of(LINE);
        let codes_end = codes_start + dims.next_multiple_of(BLOCK_DIMS) * BATCH / 8;
        Self { precision, width, codes: codes_start..codes_end, stride: codes_end + size_of::<Tail>() }
    }

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of a block.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Bytes of the row within a block.
    pub(crate) fn row(&self) -> Range<usize> {
        0..self.width * self.precision.bytes()
    }

    /// Bytes of the head within a block.
    pub(crate) fn head_at(&self) -> Range<usize> {
        let start = self.row().end;
        start..start + size_of::<Head>()
    }

    /// Bytes of the codes within a block.
    pub(crate) fn codes(&self) -> Range<usize> {
        self.codes.clone()
    }

    /// The parts of a block.
    ///
    /// # Panics
    /// If it has not [`Layout::stride`] bytes, or does not start at a multiple of 4.
    #[inline]
    pub(crate) fn head<'a>(&self, block: &'a [u8]) -> &'a Head {
        Head::ref_from_bytes(&block[self.head_at()]).expect("rows are whole multiples of 16 bytes")
    }

    /// As [`Layout::head`].
    #[inline]
    pub(crate) fn tail<'a>(&self, block: &'a [u8]) -> &'a Tail {
        Tail::ref_from_bytes(&block[self.codes.end..]).expect("a block ends with its tail")
    }

    /// As [`Layout::head`].
    pub(crate) fn tail_mut<'a>(&self, block: &'a mut [u8]) -> &'a mut Tail {
        Tail::mut_from_bytes(&mut block[self.codes.end..]).expect("a block ends with its tail")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole_lines_in_order() {
        for dim in [1, 3, 16, 17, 100, 384, 768, 784, 1_536, 4_096] {
            for (precision, dims) in
                [(Precision::U8, dim), (Precision::F16, dim), (Precision::F32, dim + 1), (Precision::Int8, dim + 1)]
            {
                let layout = Layout::new(dim, dims, precision);
                assert!(layout.row().end <= layout.codes().start, "{dim} {precision:?}");
                assert!(layout.codes().start.is_multiple_of(LINE) && layout.codes().end.is_multiple_of(LINE));
                assert!(layout.stride().is_multiple_of(LINE), "{dim} {precision:?}");
                assert_eq!(layout.codes().len() * 8, dims.next_multiple_of(64) * 32, "{dim} {precision:?}");
            }
        }
    }

    #[test]
    fn a_block_is_as_large_as_the_header_says() {
        let strides = [384, 768, 784, 1_536].map(|dim| {
            let stride = |precision| Layout::new(dim, dim, precision).stride();
            [Precision::U8, Precision::F16, Precision::F32].map(stride)
        });
        assert_eq!(strides[..2], [[2_240, 2_624, 3_392], [4_160, 4_928, 6_464]]);
        assert_eq!(strides[2..], [[4_416, 5_184, 6_784], [8_000, 9_536, 12_608]]);
    }
}
