//! A query, made ready to be compared with blocks.

use shoal_model::Metric;

use super::blocks::{Row, row};
use super::layout::{DEGREE, Layout};
use super::space::Space;
use crate::kernels::{Kernels, LANES, Lut};
use crate::quantize;
use crate::rotation::Rotation;

/// Where a query lies in space. Kept in a scratch and set anew for each query, it needs no memory.
#[derive(Debug)]
pub(crate) struct Place {
    kernels: Kernels,
    /// Squared distance of a row at a right angle, for cosine and dot; `None` for euclidean.
    right_angle: Option<f32>,
    /// The query, padded as rows are.
    row: Vec<f32>,
    /// Its place less the segment's centre, rotated.
    rotated: Vec<f32>,
    centred: Vec<f32>,
    /// Squared distance of the query from the segment's centre.
    square: f32,
    lut: Lut,
    narrow: Narrow,
}

/// The rotated place in a byte a component, for products with codes of few bits. They lose so much more that it counts
/// for nothing.
#[derive(Debug, Default)]
struct Narrow {
    components: Vec<i8>,
    scale: f32,
    sum: i32,
}

impl Place {
    pub(crate) fn new() -> Self {
        let (kernels, lut, narrow) = (Kernels::best(), Lut::default(), Narrow::default());
        Self { kernels, right_angle: None, row: vec![], rotated: vec![], centred: vec![], square: 0.0, lut, narrow }
    }

    /// Takes the place of a query.
    pub(crate) fn set(&mut self, space: &Space, rotation: &Rotation, center: &[f32], query: &[f32]) {
        self.centred.resize(space.dims(), 0.0);
        space.place_query(query, &mut self.centred);
        self.set_row(space);
        for (component, center) in self.centred.iter_mut().zip(center) {
            *component -= center;
        }
        self.rotated.resize(rotation.padded_dim(), 0.0);
        rotation.rotate(&self.centred, &mut self.rotated);
        self.square = self.kernels.dot(&self.rotated, [&self.rotated])[0];
        self.lut.fill(&self.rotated);
    }

    /// Makes the place that was set ready for [`Place::dot_u4`].
    pub(crate) fn narrow(&mut self) {
        let Narrow { components, scale, sum } = &mut self.narrow;
        components.resize(self.rotated.len(), 0);
        *scale = quantize::narrow_i8(&self.rotated, components);
        *sum = components.iter().map(|component| i32::from(*component)).sum();
    }

    /// Product of the rotated place with the levels of a 4-bit code.
    #[inline]
    pub(crate) fn dot_u4(&self, codes: &[u8]) -> f32 {
        let Narrow { components, scale, sum } = &self.narrow;
        #[allow(clippy::cast_precision_loss, reason = "24 bits are plenty")]
        let (dot, sum) = (self.kernels.dot_u4_i8(codes, components) as f32, *sum as f32);
        scale * (dot - quantize::NIBBLE_MIDDLE * sum)
    }

    /// Squared distance in space from a vector as it was sent, given what makes it a place.
    pub(crate) fn distance_of(&self, vector: &[f32], scale: f32) -> f32 {
        let row = &self.row[..vector.len()];
        match self.right_angle {
            None => self.kernels.squared_euclidean(row, [vector])[0],
            Some(right_angle) => (right_angle - 2.0 * scale * self.kernels.dot(row, [vector])[0]).max(0.0),
        }
    }

    /// Squared distance of the query from the segment's centre.
    pub(crate) fn square(&self) -> f32 {
        self.square
    }

    /// The query's place less the segment's centre, rotated.
    pub(crate) fn rotated(&self) -> &[f32] {
        &self.rotated
    }

    /// Takes the place of a point: `vector`, whose rotated place is known.
    pub(crate) fn set_point(&mut self, space: &Space, vector: &[f32], rotated: &[f32]) {
        self.centred.resize(space.dims(), 0.0);
        space.place(vector, &mut self.centred);
        self.set_row(space);
        self.rotated.clear();
        self.rotated.extend_from_slice(rotated);
        self.lut.fill(rotated);
    }

    fn set_row(&mut self, space: &Space) {
        self.row.clear();
        self.row.extend_from_slice(&self.centred[..space.dim()]);
        self.row.resize(space.dim().next_multiple_of(LANES), 0.0);
        #[allow(clippy::cast_possible_truncation, reason = "rounding is what is wanted")]
        let twice_reach = (2.0 * space.reach() * space.reach()) as f32;
        self.right_angle = match space.metric() {
            Metric::Euclidean => None,
            Metric::Cosine => Some(2.0),
            Metric::Dot => Some(twice_reach),
        };
    }

    /// Squared distance in space from the row of a block.
    #[inline]
    pub(crate) fn distance(&self, layout: &Layout, block: &[u8]) -> f32 {
        let (kernels, query) = (self.kernels, &self.row);
        let turned = |angle: f32, dot: f32| (angle - 2.0 * layout.head(block).row_scale * dot).max(0.0);
        match (row(layout, block), self.right_angle) {
            (Row::F32(row), None) => kernels.squared_euclidean(query, [row])[0],
            (Row::F16(row), None) => kernels.squared_euclidean_f16(query, row),
            (Row::U8(row), None) => kernels.squared_euclidean_u8(query, row),
            (Row::F32(row), Some(angle)) => turned(angle, kernels.dot(query, [row])[0]),
            (Row::F16(row), Some(angle)) => turned(angle, kernels.dot_f16(query, row)),
            (Row::U8(row), Some(angle)) => turned(angle, kernels.dot_u8(query, row)),
            (Row::Codes(row), _) => kernels.squared_euclidean_i8(&self.rotated, row, layout.head(block).row_scale),
        }
    }

    /// Estimates of the squared distances from the neighbours of a block whose own is `base`.
    #[inline]
    pub(crate) fn estimate(&self, layout: &Layout, block: &[u8], base: f32, out: &mut [f32; DEGREE]) {
        let tail = layout.tail(block);
        let scale = layout.head(block).factor_scale;
        self.kernels.estimate32(&block[layout.codes()], &self.lut, &tail.add, &tail.rescale, scale, base, out);
    }
}
