//! Building a segment of points.

use std::io;

use rayon::prelude::*;
use shoal_model::{Metric, PointId};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::blocks::Blocks;
use super::cells::{self, Cell};
use super::entries::{self, ENTRIES_MAX};
use super::frozen::{Segment, tag};
use super::layout::{Layout, Precision};
use super::queue::Waiting;
use super::rows::Rows;
use super::space::Space;
use super::target::Target;
use super::walk::{Breadth, Cancelled, Scratch, walk};
use super::{calibration, ids, stored};
use crate::file::{Align, FileError, Image, ImageWriter, Residency};
use crate::graph::{self, Grown, Points, Repair};
use crate::payload_index::PayloadIndex;
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
    #[error("a segment has at most 2^31 points, not {points}; split the shard")]
    TooMany {
        /// How many there are.
        points: usize,
    },
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
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
    /// 0 `f32`, 1 `f16`, 2 `u8`.
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
    /// Errors: all of [`BuildError`]; `Cancelled` within milliseconds of `stop` saying so.
    pub fn build(
        rows: &Rows,
        parameters: &Parameters,
        target: &Target,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Self, BuildError> {
        if rows.len() >= super::walk::POINTS_MAX {
            return Err(BuildError::TooMany { points: rows.len() });
        }
        let draft = Draft::new(rows, parameters, stop)?;
        let stored = draft.write_stored(target)?;
        let graph = draft.write(target, stored.checksum())?;
        Ok(Self::new(graph, stored)?)
    }
}

/// A segment that is not written yet.
struct Draft<'a> {
    rows: &'a Rows,
    /// The row of each point.
    shuffle: Vec<u32>,
    points: Points,
    layout: Layout,
    grown: Grown,
    entries: Vec<u32>,
    samples: Vec<calibration::Sample>,
    /// Offsets of points as they will be in the file: which point lies where.
    order: Vec<u32>,
    cells: Vec<Cell>,
    about: About,
}

impl<'a> Draft<'a> {
    fn new(rows: &'a Rows, parameters: &Parameters, stop: &(dyn Fn() -> bool + Sync)) -> Result<Self, BuildError> {
        let dim = rows.dim();
        let mut shuffle = shuffled(rows.len(), parameters.seed);
        let vectors: Vec<f32> =
            (shuffle.iter()).flat_map(|row| &rows.vectors[*row as usize * dim..][..dim]).copied().collect();
        let space = Space::fit(parameters.metric, dim, vectors.chunks_exact(dim));
        let dims = u32::try_from(space.dims()).expect("dimensions are far below 2^32");
        let mut points = Points::new(space, Rotation::new(dims, parameters.seed), vectors);
        let precision = parameters.precision.unwrap_or_else(|| lossless_precision(&rows.vectors));
        let layout = Layout::new(dim, space.dims(), precision);
        let grow = graph::Params { ef_construction: parameters.ef_construction };
        let mut grown = graph::grow(&mut points, &layout, grow, stop)?;
        shuffle = grown.moved.iter().map(|offset| shuffle[*offset as usize]).collect();
        let mut entries: Vec<u32> = (0..).take(rows.len().min(ENTRIES_MAX)).collect();
        let (mut order, mut cells) = (Vec::new(), Vec::new());
        if let Some(root) = points.medoid() {
            let Grown { links, blocks, .. } = &mut grown;
            Repair { points: &points, layout: &layout, links, blocks, stop }.run(root, &entries)?;
            order = graph::order(&grown.links, root);
            cells = cells::divide(&points, &entries, &mut order);
            entries = cells.iter().map(|cell| cell.center).collect();
        }
        let samples = calibrate(&points, &layout, &grown, &entries, stop)?;
        let about = About {
            points: rows.len() as u64,
            seed: parameters.seed,
            stored: 0,
            reach: space.reach(),
            dim: u32::try_from(dim).expect("it came from 32 bits"),
            metric: metric_code(parameters.metric),
            precision: precision_code(precision),
            lossless: u32::from(grown.lossless),
            ef_construction: u32::try_from(parameters.ef_construction).unwrap_or(u32::MAX),
            spare: 0,
        };
        Ok(Self { rows, shuffle, points, layout, grown, entries, samples, order, cells, about })
    }

    fn write_stored(&self, target: &Target) -> Result<Image, FileError> {
        let dim = self.rows.dim();
        let points = self.order.iter().map(|offset| {
            let row = self.shuffle[*offset as usize] as usize;
            (&self.rows.vectors[row * dim..][..dim], &self.rows.payloads[row][..])
        });
        let residency = if let Target::Memory = target { Residency::Resident } else { Residency::Mapped };
        stored::write(target.stored_writer()?, points, self.about.lossless == 0, residency)
    }

    fn write(&self, target: &Target, stored: u64) -> Result<Image, FileError> {
        let mut writer = target.graph_writer()?;
        let mut places = vec![0; self.order.len()];
        (0..).zip(&self.order).for_each(|(place, offset)| places[*offset as usize] = place);
        self.write_graph(&places, &mut writer)?;
        self.write_points(&mut writer)?;
        writer.begin_section(tag::CALIBRATION, Align::Page)?;
        writer.write(self.samples.as_bytes())?;
        writer.finish(About { stored, ..self.about }.as_bytes(), target.residency())
    }

    /// Blocks and entries, in the order of the file, links named by `places`.
    fn write_graph(&self, places: &[u32], writer: &mut ImageWriter) -> Result<(), FileError> {
        writer.begin_section(tag::BLOCKS, Align::Huge)?;
        let blocks = Blocks::new(&self.layout, &self.grown.blocks);
        let mut block = vec![0_u32; self.layout.stride() / size_of::<u32>()];
        for offset in &self.order {
            let block = block.as_mut_bytes();
            block.copy_from_slice(blocks.block(*offset));
            self.layout.tail_mut(block).links.iter_mut().for_each(|link| *link = places[*link as usize]);
            writer.write(block)?;
        }
        let layout = entries::layout(self.points.space().dims());
        let padded_dims = self.points.rotation().padded_dim();
        let mut entries = entries::write(&layout, padded_dims, &self.entries, |offset| self.points.rotated(offset));
        for block in entries.chunks_exact_mut(layout.stride()) {
            layout.tail_mut(block).links.iter_mut().for_each(|link| *link = places[*link as usize]);
        }
        writer.begin_section(tag::ENTRIES, Align::Page)?;
        writer.write(&entries)?;
        writer.begin_section(tag::SKETCHES, Align::Page)?;
        writer.write(&cells::write_sketches(&self.points, &self.order, &self.cells))?;
        writer.begin_section(tag::CELLS, Align::Page)?;
        let named = |cell: &Cell| Cell { center: places[cell.center as usize], ..*cell };
        writer.write(self.cells.iter().map(named).collect::<Vec<_>>().as_bytes())?;
        writer.begin_section(tag::CENTER, Align::Page)?;
        writer.write(self.points.center().as_bytes())
    }

    /// Ids, versions and the payload index, in the order of the file.
    fn write_points(&self, writer: &mut ImageWriter) -> Result<(), FileError> {
        let row = |offset: &u32| self.shuffle[*offset as usize] as usize;
        let point_ids: Vec<&PointId> = self.order.iter().map(|offset| &self.rows.ids[row(offset)]).collect();
        let (keys, ends, order) = ids::sections(&point_ids);
        let versions: Vec<u64> = self.order.iter().map(|offset| self.rows.versions[row(offset)]).collect();
        let payload = PayloadIndex::build(self.order.iter().map(|offset| &self.rows.payloads[row(offset)][..]));
        let sections: [(_, &[u8]); 5] = [
            (tag::IDS, &keys),
            (tag::ID_ENDS, ends.as_bytes()),
            (tag::ID_ORDER, order.as_bytes()),
            (tag::VERSIONS, versions.as_bytes()),
            (tag::PAYLOAD, &payload),
        ];
        sections.into_iter().try_for_each(|(tag, bytes)| {
            writer.begin_section(tag, Align::Page)?;
            writer.write(bytes)
        })
    }
}

fn calibrate(
    points: &Points,
    layout: &Layout,
    grown: &Grown,
    entry_points: &[u32],
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<calibration::Sample>, Cancelled> {
    let entry_layout = entries::layout(points.space().dims());
    let entry_blocks =
        entries::write(&entry_layout, points.rotation().padded_dim(), entry_points, |offset| points.rotated(offset));
    let (blocks, entries) = (Blocks::new(layout, &grown.blocks), Blocks::new(&entry_layout, &entry_blocks));
    // The last ones are as random as the first, and no entry points.
    let first = points.len().saturating_sub(calibration::QUERIES);
    let queries: Vec<u32> = (0..).take(points.len()).skip(first).collect();
    calibration::measure(
        blocks,
        &queries,
        |place, own| place.set(points.space(), points.rotation(), points.center(), points.vector(own)),
        |scratch: &mut Scratch, own, breadth: Breadth| {
            let entry = entries::nearest(entries, &scratch.place);
            walk(
                blocks,
                scratch,
                entry.map(Waiting::start).as_slice(),
                breadth,
                |_| 1.0,
                |near| near.offset != own,
                stop,
            )
        },
    )
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
    }
}
