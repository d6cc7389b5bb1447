//! Building a segment of points.

use std::io;

use rayon::prelude::*;
use shoal_model::Metric;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::draft::{Draft, Facts};
use super::frozen::Segment;
use super::layout::{Layout, Precision};
use super::rows::Rows;
use super::space::Space;
use super::target::Target;
use super::walk::{Cancelled, POINTS_MAX};
use crate::file::FileError;
use crate::graph::{self, Points};
use crate::quantize;
use crate::rotation::{Rotation, shuffled};

/// How a segment is built. The same points and parameters give the same bytes, however many threads build.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameters {
    /// How nearness is measured.
    pub metric: Metric,
    /// How blocks keep vectors; `None` takes what loses nothing.
    pub precision: Option<Precision>,
    /// Beam of the walks that find a point's neighbours, at least 1: more make a better graph and take longer.
    pub ef_construction: usize,
    /// Of the rotation, and of the order in which points come in.
    pub seed: u64,
}

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The caller's `stop` said so.
    #[error("the build was cancelled")]
    Cancelled,
    /// Memory for the blocks cannot be had.
    #[error("no memory to build a segment, free some and retry: {0}")]
    Memory(#[source] io::Error),
    /// More points than offsets can name.
    #[error("a segment has fewer than 2^31 points, not {points}; split the shard")]
    TooMany {
        /// How many there are.
        points: usize,
    },
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A segment that was to be merged is not as it was written: its disk or memory has spoilt it since it was opened.
    #[error("{0}; build its points in again from where they are kept")]
    Part(#[source] FileError),
}

impl From<Cancelled> for BuildError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// What a file says of itself before its sections.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct About {
    pub(super) points: u64,
    pub(super) seed: u64,
    /// Checksum of the file with what else is kept.
    pub(super) stored: u64,
    /// See [`Space`].
    pub(super) reach: f64,
    pub(super) dim: u32,
    /// 0 cosine, 1 dot, 2 euclidean.
    pub(super) metric: u32,
    /// 0 `f32`, 1 `f16`, 2 `u8`, 3 `i8` of rotated places, 4 compact.
    pub(super) precision: u32,
    /// 1 if rows are as they were sent.
    pub(super) lossless: u32,
    pub(super) ef_construction: u32,
    pub(super) spare: u32,
}

impl Segment {
    /// Builds a segment of `rows`, on the threads of the current rayon pool, and writes it.
    ///
    /// Memory beside `rows` and the file: their vectors again, 9 bytes a component and the blocks.
    /// Errors: all of [`BuildError`] but `Part`; `Cancelled` within milliseconds of `stop` saying so while walks are done
    /// or blocks written, which take most of the time, and at the next step else.
    pub fn build(
        rows: &Rows,
        parameters: &Parameters,
        target: &Target,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Self, BuildError> {
        check_len(rows.len())?;
        let (dim, order) = (rows.dim(), shuffled(rows.len(), parameters.seed));
        let vectors = gathered(order.len(), dim, |at, out| {
            out.copy_from_slice(&rows.vectors[order[at] as usize * dim..][..dim]);
        });
        let facts = Facts {
            ids: order.iter().map(|row| rows.ids[*row as usize].clone()).collect(),
            versions: order.iter().map(|row| rows.versions[*row as usize]).collect(),
            payloads: order.iter().map(|row| &rows.payloads[*row as usize][..]).collect(),
        };
        grown(facts, dim, vectors, parameters, stop)?.freeze(target, stop)
    }
}

/// Grows a graph of points in random order, from nothing.
pub(super) fn grown<'a>(
    facts: Facts<'a>,
    dim: usize,
    vectors: Vec<f32>,
    parameters: &Parameters,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Draft<'a>, BuildError> {
    let mut points = placed(parameters, dim, vectors);
    let layout = layout(&points, parameters);
    let (grown, moved) = graph::grow(&mut points, &layout, params(parameters), stop)?;
    Ok(Draft::new(facts.reordered(&moved), points, layout, grown, parameters, stop)?)
}

pub(super) fn params(parameters: &Parameters) -> graph::Params {
    graph::Params { ef_construction: parameters.ef_construction }
}

/// Errors: `TooMany`.
pub(super) fn check_len(points: usize) -> Result<(), BuildError> {
    if points >= POINTS_MAX { Err(BuildError::TooMany { points }) } else { Ok(()) }
}

/// The vectors of `len` points, each of which `read` writes.
pub(super) fn gathered(len: usize, dim: usize, read: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut vectors = vec![0.0; len * dim];
    vectors.par_chunks_exact_mut(dim).enumerate().for_each(|(at, vector)| read(at, vector));
    vectors
}

/// Places `vectors` of `dim` components in a space that has room for all.
pub(super) fn placed(parameters: &Parameters, dim: usize, vectors: Vec<f32>) -> Points {
    let space = Space::fit(parameters.metric, dim, vectors.chunks_exact(dim));
    let dims = u32::try_from(space.dims()).expect("dimensions are far below 2^32");
    Points::new(space, Rotation::new(dims, parameters.seed), vectors)
}

/// Blocks that keep the vectors of `points` as `parameters` say.
pub(super) fn layout(points: &Points, parameters: &Parameters) -> Layout {
    let precision = parameters.precision.unwrap_or_else(|| lossless_precision(points.vectors()));
    Layout::new(points.space().dim(), points.space().dims(), precision)
}

/// The shortest precision that keeps all of `vectors` as they are.
fn lossless_precision(vectors: &[f32]) -> Precision {
    let all = |fits: fn(&[f32]) -> bool| vectors.par_chunks(1 << 12).all(fits);
    if all(|chunk| quantize::narrow_u8(chunk, &mut vec![0; chunk.len()])) {
        Precision::U8
    } else if all(|chunk| quantize::narrow_f16(chunk, &mut vec![0; chunk.len()])) {
        Precision::F16
    } else {
        Precision::F32
    }
}

pub(super) fn metric_code(metric: Metric) -> u32 {
    match metric {
        Metric::Cosine => 0,
        Metric::Dot => 1,
        Metric::Euclidean => 2,
    }
}

pub(super) fn precision_code(precision: Precision) -> u32 {
    match precision {
        Precision::F32 => 0,
        Precision::F16 => 1,
        Precision::U8 => 2,
        Precision::Int8 => 3,
        Precision::Compact => 4,
    }
}
