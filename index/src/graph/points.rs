//! The points of a graph that is being made: vectors, places in space, and codes that compare fast.

use std::cmp::Ordering;

use rayon::prelude::*;

use crate::kernels::Kernels;
use crate::quantize;
use crate::rotation::Rotation;
use crate::segment::{Near, Space};

/// Points whose sums make one partial sum of the centre, so that it does not depend on threads.
const CENTER_CHUNK: usize = 4_096;

/// Places that tell where the middle of all is.
const MIDDLE_SAMPLE: usize = 512;

/// So many times as far from the middle as half of all places are, a place does not count for the centre.
const FAR: f64 = 16.0;

/// Points by offset.
///
/// Memory beside the vectors: 5 bytes a dimension and 8 a point. Codes of 8 bits are as precise as diversity wants, and
/// compare five times as fast as `f32`.
pub(crate) struct Points {
    space: Space,
    rotation: Rotation,
    kernels: Kernels,
    vectors: Vec<f32>,
    center: Vec<f32>,
    rotated: Vec<f32>,
    codes: Vec<i8>,
    scales: Vec<f32>,
    squares: Vec<f32>,
}

impl Points {
    /// Places `vectors`, one after the other, of `space.dim()` components each.
    pub(crate) fn new(space: Space, rotation: Rotation, vectors: Vec<f32>) -> Self {
        let (dim, dims, padded) = (space.dim(), space.dims(), rotation.padded_dim());
        let len = vectors.len() / dim;
        let center = center(&space, &vectors);
        let (mut rotated, mut codes) = (vec![0.0; len * padded], vec![0; len * padded]);
        let (mut scales, mut squares) = (vec![0.0; len], vec![0.0; len]);
        let kernels = Kernels::best();
        let outputs = rotated.par_chunks_exact_mut(padded).zip(codes.par_chunks_exact_mut(padded));
        let outputs = outputs.zip(scales.par_iter_mut().zip(squares.par_iter_mut()));
        outputs.zip(vectors.par_chunks_exact(dim)).for_each_init(
            || vec![0.0; dims],
            |place, (((rotated, codes), (scale, square)), vector)| {
                space.place(vector, place);
                place.iter_mut().zip(&center).for_each(|(component, center)| *component -= center);
                rotation.rotate(place, rotated);
                *scale = quantize::narrow_i8(rotated, codes);
                *square = product(*scale, *scale, kernels.dot_i8_i8(codes, codes));
            },
        );
        Self { space, rotation, kernels, vectors, center, rotated, codes, scales, squares }
    }

    /// Puts the point that was at `moved[i]` at `i`.
    pub(crate) fn reorder(&mut self, moved: &[u32]) {
        let (dim, padded) = (self.space.dim(), self.rotation.padded_dim());
        self.vectors = gathered(&self.vectors, dim, moved);
        self.rotated = gathered(&self.rotated, padded, moved);
        self.codes = gathered(&self.codes, padded, moved);
        self.scales = gathered(&self.scales, 1, moved);
        self.squares = gathered(&self.squares, 1, moved);
    }

    pub(crate) fn len(&self) -> usize {
        self.scales.len()
    }

    pub(crate) fn space(&self) -> &Space {
        &self.space
    }

    pub(crate) fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    /// Mean of all places but those that lie far beyond most.
    pub(crate) fn center(&self) -> &[f32] {
        &self.center
    }

    /// All vectors, as they were sent, one after the other.
    pub(crate) fn vectors(&self) -> &[f32] {
        &self.vectors
    }

    /// A vector, as it was sent.
    pub(crate) fn vector(&self, offset: u32) -> &[f32] {
        let dim = self.space.dim();
        &self.vectors[offset as usize * dim..][..dim]
    }

    /// A place less the centre, rotated.
    pub(crate) fn rotated(&self, offset: u32) -> &[f32] {
        let padded = self.rotation.padded_dim();
        &self.rotated[offset as usize * padded..][..padded]
    }

    /// Squared distance of two points in space, by their codes.
    #[inline]
    pub(crate) fn distance(&self, a: u32, b: u32) -> f32 {
        let dot = self.kernels.dot_i8_i8(self.codes(a), self.codes(b));
        let (a, b) = (a as usize, b as usize);
        let product = product(self.scales[a], self.scales[b], dot);
        (self.squares[a] + self.squares[b] - 2.0 * product).max(0.0)
    }

    /// `other`, as it lies from `own`.
    #[inline]
    pub(crate) fn near(&self, own: u32, other: u32) -> Near {
        Near { distance: self.distance(own, other), offset: other }
    }

    /// The point nearest to the centre; the first of several.
    pub(crate) fn medoid(&self) -> Option<u32> {
        let nearest = self.squares.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
        nearest.map(|(offset, _)| offset_of(offset))
    }

    fn codes(&self, offset: u32) -> &[i8] {
        let padded = self.rotation.padded_dim();
        &self.codes[offset as usize * padded..][..padded]
    }
}

/// The product of two rows from that of their codes. Order matters: equal rows have a distance of exactly 0.
#[inline]
fn product(a: f32, b: f32, dot: i32) -> f32 {
    #[allow(clippy::cast_precision_loss, reason = "24 bits of a sum of 8-bit products are plenty")]
    let dot = dot as f32;
    a * b * dot
}

/// Rows of `width`, in another order.
fn gathered<T: Copy + Default + Send + Sync>(rows: &[T], width: usize, moved: &[u32]) -> Vec<T> {
    let mut out = vec![T::default(); rows.len()];
    let copy = |(out, from): (&mut [T], &u32)| out.copy_from_slice(&rows[*from as usize * width..][..width]);
    out.par_chunks_exact_mut(width).zip(moved).for_each(copy);
    out
}

/// Narrows the number of a point, which fits: see `POINTS_MAX`.
pub(super) fn offset_of(index: usize) -> u32 {
    u32::try_from(index).expect("a graph has fewer than 2^31 points")
}

/// The mean of all places that are not [`FAR`] from the middle. One vector that is a million times as long as the others
/// would draw the mean so far from all of these that codes, which tell a direction from it, told nothing about them.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a mean of f32 is kept as f32")]
fn center(space: &Space, vectors: &[f32]) -> Vec<f32> {
    let (dim, dims) = (space.dim(), space.dims());
    let (middle, beyond) = middle(space, vectors);
    let partial = |chunk: &[f32]| {
        let (mut sum, mut count, mut place) = (vec![0.0_f64; dims], 0.0, vec![0.0; dims]);
        for vector in chunk.chunks_exact(dim) {
            space.place(vector, &mut place);
            if squared_f64(&place, &middle) <= beyond {
                sum.iter_mut().zip(&place).for_each(|(sum, component)| *sum += f64::from(*component));
                count += 1.0;
            }
        }
        (sum, count)
    };
    let partials: Vec<(Vec<f64>, f64)> = vectors.par_chunks(CENTER_CHUNK * dim).map(partial).collect();
    let len = partials.iter().map(|(_, count)| count).sum::<f64>().max(1.0);
    let total = |i: usize| partials.iter().map(|(sum, _)| sum[i]).sum::<f64>();
    (0..dims).map(|i| (total(i) / len) as f32).collect()
}

/// The median of each component over some places, and the squared distance from there that is [`FAR`].
fn middle(space: &Space, vectors: &[f32]) -> (Vec<f32>, f64) {
    let len = vectors.len() / space.dim();
    let step = len.div_ceil(MIDDLE_SAMPLE).max(1);
    let place = |vector: &[f32]| {
        let mut place = vec![0.0; space.dims()];
        space.place(vector, &mut place);
        place
    };
    let places: Vec<Vec<f32>> = vectors.chunks_exact(space.dim()).step_by(step).map(place).collect();
    let component = |i: usize| median(places.iter().map(|place| place[i]).collect(), f32::total_cmp);
    let middle: Vec<f32> = (0..space.dims()).map(|i| component(i).unwrap_or(0.0)).collect();
    let distances = places.iter().map(|place| squared_f64(place, &middle)).collect();
    let beyond = median(distances, f64::total_cmp).map_or(f64::INFINITY, |distance| FAR * FAR * distance);
    // Where half of all places are one, none is far from it.
    (middle, if beyond > 0.0 { beyond } else { f64::INFINITY })
}

fn squared_f64(a: &[f32], b: &[f32]) -> f64 {
    Kernels::best().squared_euclidean_f64(a, b)
}

fn median<T: Copy>(mut values: Vec<T>, order: impl Fn(&T, &T) -> Ordering) -> Option<T> {
    let at = values.len().checked_sub(1)? / 2;
    Some(*values.select_nth_unstable_by(at, order).1)
}
