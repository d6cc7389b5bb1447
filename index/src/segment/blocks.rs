//! The blocks of a graph, read and written.

use half::f16;
use zerocopy::{FromBytes, IntoBytes};

use super::layout::{DEGREE, Head, Layout, Precision, Tail};
use crate::kernels::Kernels;
use crate::quantize::{self, BLOCK_DIMS, Factors};

/// `f16` bits of an estimate that is never near.
const FAR: u16 = f16::INFINITY.to_bits();

/// Blocks of points, by offset.
#[derive(Clone, Copy)]
pub(crate) struct Blocks<'a> {
    layout: &'a Layout,
    bytes: &'a [u8],
}

impl<'a> Blocks<'a> {
    /// # Panics
    /// If `bytes` are no whole number of blocks.
    pub(crate) fn new(layout: &'a Layout, bytes: &'a [u8]) -> Self {
        assert!(bytes.len().is_multiple_of(layout.stride()), "{} bytes of blocks", bytes.len());
        Self { layout, bytes }
    }

    pub(crate) fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / self.layout.stride()
    }

    /// The block of a point.
    ///
    /// # Panics
    /// If there is no such point.
    #[inline]
    pub(crate) fn block(&self, offset: u32) -> &'a [u8] {
        let stride = self.layout.stride();
        &self.bytes[offset as usize * stride..][..stride]
    }

    /// Asks for the block of a point ahead of time.
    #[inline]
    pub(crate) fn prefetch(&self, offset: u32) {
        let stride = self.layout.stride();
        if let Some(block) = self.bytes.get(offset as usize * stride..).and_then(|rest| rest.get(..stride)) {
            Kernels::prefetch(block);
        }
    }

    /// Asks for the vector of a point ahead of time.
    #[inline]
    pub(crate) fn prefetch_row(&self, offset: u32) {
        let start = offset as usize * self.layout.stride();
        if let Some(row) = self.bytes.get(start..start + self.layout.row().end) {
            Kernels::prefetch(row);
        }
    }

    /// Writes the components of a point's vector, as they were sent but for what the precision lost.
    ///
    /// # Panics
    /// If rows are codes.
    pub(crate) fn read_vector(&self, offset: u32, out: &mut [f32]) {
        match row(self.layout, self.block(offset)) {
            Row::F32(row) => out.copy_from_slice(&row[..out.len()]),
            Row::U8(row) => out.iter_mut().zip(row).for_each(|(out, component)| *out = f32::from(*component)),
            Row::F16(row) => Kernels::best().widen_row(row, out),
            Row::Codes(_) => unreachable!("vectors of coded rows are stored"),
        }
    }
}

/// The row of a block.
#[derive(Clone, Copy)]
pub(crate) enum Row<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    U8(&'a [u8]),
    /// Of the place less the centre, rotated, over the row's scale.
    Codes(&'a [i8]),
}

/// The row of a block, padding included.
#[inline]
pub(crate) fn row<'a>(layout: &Layout, block: &'a [u8]) -> Row<'a> {
    let bytes = &block[layout.row()];
    match layout.precision() {
        Precision::F32 => Row::F32(<[f32]>::ref_from_bytes(bytes).expect("rows start at cache lines")),
        Precision::U8 => Row::U8(bytes),
        Precision::F16 => Row::F16(<[u16]>::ref_from_bytes(bytes).expect("rows start at cache lines")),
        Precision::Int8 | Precision::Compact => Row::Codes(codes(bytes)),
    }
}

#[inline]
fn codes(bytes: &[u8]) -> &[i8] {
    <[i8]>::ref_from_bytes(bytes).expect("bytes are aligned anywhere")
}

/// Writes the row of a block: `vector`, or its rotated place, with what makes the vector a place. Tells whether nothing
/// was lost.
pub(crate) fn write_row(layout: &Layout, block: &mut [u8], vector: &[f32], rotated: &[f32], scale: f32) -> bool {
    let mut head = Head { factor_scale: 1.0, row_scale: scale, vector_scale: scale };
    let bytes = &mut block[layout.row()];
    let lossless = match layout.precision() {
        Precision::F32 => {
            bytes[..size_of_val(vector)].copy_from_slice(vector.as_bytes());
            true
        }
        Precision::U8 => quantize::narrow_u8(vector, &mut bytes[..vector.len()]),
        Precision::F16 => {
            let row = <[u16]>::mut_from_bytes(bytes).expect("rows start at cache lines");
            quantize::narrow_f16(vector, &mut row[..vector.len()])
        }
        Precision::Int8 | Precision::Compact => {
            let row = <[i8]>::mut_from_bytes(bytes).expect("bytes are aligned anywhere");
            head.row_scale = quantize::narrow_i8(rotated, row);
            false
        }
    };
    block[layout.head_at()].copy_from_slice(head.as_bytes());
    lossless
}

/// Writes codes, factors and links of a block. One for each thread.
pub(crate) struct LinkWriter {
    bits: Vec<u64>,
    words: usize,
}

impl LinkWriter {
    /// For places of `padded_dims` components after rotation.
    pub(crate) fn new(padded_dims: usize) -> Self {
        let words = padded_dims / BLOCK_DIMS;
        Self { bits: vec![0; words * DEGREE], words }
    }

    /// Writes the links of the point at `own`, whose rotated place is `center`. `rotated` tells that of a neighbour.
    pub(crate) fn write<'r>(
        &mut self,
        layout: &Layout,
        block: &mut [u8],
        own: u32,
        center: &[f32],
        links: &[u32],
        rotated: impl Fn(u32) -> &'r [f32],
    ) {
        assert!(links.len() <= DEGREE, "{} links", links.len());
        let mut factors = [Factors::default(); DEGREE];
        for ((link, factors), bits) in links.iter().zip(&mut factors).zip(self.bits.chunks_exact_mut(self.words)) {
            *factors = quantize::encode(rotated(*link), center, bits);
        }
        let rows: Vec<&[u64]> = self.bits.chunks_exact(self.words).take(links.len()).collect();
        quantize::pack(&rows, &mut block[layout.codes()]);
        let tail: &mut Tail = layout.tail_mut(block);
        let factor_scale = quantize::narrow_factors(&factors[..links.len()], &mut tail.add, &mut tail.rescale);
        tail.add[links.len()..].fill(FAR);
        tail.links[..links.len()].copy_from_slice(links);
        tail.links[links.len()..].fill(own);
        let head = Head { factor_scale, ..*layout.head(block) };
        block[layout.head_at()].copy_from_slice(head.as_bytes());
    }
}
