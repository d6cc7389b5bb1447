//! Building a segment of points.

use std::io;

use rayon::prelude::*;
use shoal_model::{Metric, PointId};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::blocks::Blocks;
use super::bounds::{Bounds, Ground};
use super::cells::{self, Cell};
use super::compact::{self, Compact};
use super::entries::{self, ENTRIES_MAX};
use super::form::Form;
use super::frozen::{Segment, tag};
use super::layout::{Layout, Precision};
use super::place::Place;
use super::queue::Waiting;
use super::rows::Rows;
use super::space::Space;
use super::target::Target;
use super::walk::{Cancelled, Scratch};
use super::{calibration, ids, stored};
use crate::file::{Align, FileError, Image, ImageWriter, Residency, Tag};
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

/// One in so many points is looked for to calibrate walks among points that pass a filter: where fewer pass, a walk is
/// seldom chosen, and where more do, it finds more.
const SPARSE: u32 = 4;

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
    among: Vec<calibration::Sample>,
    bounds: Vec<Bounds>,
    /// Offsets of points as they will be in the file: which point lies where.
    order: Vec<u32>,
    /// What `order` says, by point.
    places: Vec<u32>,
    /// Centres named by their place in the file.
    cells: Vec<Cell>,
    sketches: Vec<u8>,
    /// Codes of the cells' centres.
    centers: Vec<u8>,
    /// Blocks of the compact form, in the order of the file, if that is wanted.
    compact: Option<Vec<u8>>,
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
        let mut places = vec![0; order.len()];
        (0..).zip(&order).for_each(|(place, offset)| places[*offset as usize] = place);
        let sketches = cells::write_sketches(&points, &order, &cells);
        let centers = cells::write_centers(&points, &mut cells);
        cells.iter_mut().for_each(|cell| cell.center = places[cell.center as usize]);
        let compact = (precision == Precision::Compact).then(|| write_compact(&points, &grown, &order, &places));
        // The last ones are as random as the first, and no entry points.
        let first = points.len().saturating_sub(calibration::QUERIES);
        let queries = (0..).take(points.len()).skip(first);
        let ground = Ground { points: &points, order: &order, cells: &cells, sketches: &sketches, centers: &centers };
        let bounds = ground.measure(&queries.clone().take(calibration::QUERIES_AMONG).collect::<Vec<_>>());
        let [samples, among] = if let Some(blocks) = &compact {
            let (padded_dims, cells_of) = (points.rotation().padded_dim(), compact::cells_of(&cells));
            let form = Form::Compact(Compact::new(padded_dims, blocks, &sketches, &cells, &cells_of));
            let place = |offset: u32| places[offset as usize];
            let (queries, entries) = (queries.map(place).collect(), entries.iter().copied().map(place).collect());
            Trial { points: &points, form, name: |place| order[place as usize], queries, entries, stop }.run()?
        } else {
            let form = Form::Full(Blocks::new(&layout, &grown.blocks));
            let (queries, entries) = (queries.collect(), entries.clone());
            Trial { points: &points, form, name: |offset| offset, queries, entries, stop }.run()?
        };
        let about = About {
            points: rows.len() as u64,
            seed: parameters.seed,
            stored: 0,
            reach: space.reach(),
            dim: u32::try_from(dim).expect("it came from 32 bits"),
            metric: metric_code(parameters.metric),
            precision: precision_code(precision),
            lossless: u32::from(grown.lossless && !precision.is_coded()),
            ef_construction: u32::try_from(parameters.ef_construction).unwrap_or(u32::MAX),
            spare: 0,
        };
        Ok(Self {
            rows,
            shuffle,
            points,
            layout,
            grown,
            entries,
            samples,
            among,
            bounds,
            order,
            places,
            cells,
            sketches,
            centers,
            compact,
            about,
        })
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
        writer.begin_section(tag::BLOCKS, Align::Huge)?;
        match &self.compact {
            Some(blocks) => writer.write(blocks)?,
            None => self.write_blocks(&mut writer)?,
        }
        self.write_regions(&mut writer)?;
        self.write_points(&mut writer)?;
        writer.begin_section(tag::CALIBRATION, Align::Page)?;
        writer.write(self.samples.as_bytes())?;
        writer.begin_section(tag::AMONG, Align::Page)?;
        writer.write(self.among.as_bytes())?;
        writer.begin_section(tag::BOUNDS, Align::Page)?;
        writer.write(self.bounds.as_bytes())?;
        writer.finish(About { stored, ..self.about }.as_bytes(), target.residency())
    }

    /// Blocks of the full form, in the order of the file.
    fn write_blocks(&self, writer: &mut ImageWriter) -> Result<(), FileError> {
        let blocks = Blocks::new(&self.layout, &self.grown.blocks);
        let mut block = vec![0_u32; self.layout.stride() / size_of::<u32>()];
        for offset in &self.order {
            let block = block.as_mut_bytes();
            block.copy_from_slice(blocks.block(*offset));
            self.layout.tail_mut(block).links.iter_mut().for_each(|link| *link = self.places[*link as usize]);
            writer.write(block)?;
        }
        Ok(())
    }

    /// Where walks start, and what scans read.
    fn write_regions(&self, writer: &mut ImageWriter) -> Result<(), FileError> {
        let layout = entries::layout(self.points.space().dims());
        let padded_dims = self.points.rotation().padded_dim();
        let mut entries = entries::write(&layout, padded_dims, &self.entries, |offset| self.points.rotated(offset));
        for block in entries.chunks_exact_mut(layout.stride()) {
            layout.tail_mut(block).links.iter_mut().for_each(|link| *link = self.places[*link as usize]);
        }
        let sections: [(_, &[u8]); 5] = [
            (tag::ENTRIES, &entries),
            (tag::SKETCHES, &self.sketches),
            (tag::CELLS, self.cells.as_bytes()),
            (tag::CENTERS, &self.centers),
            (tag::CENTER, self.points.center().as_bytes()),
        ];
        write_sections(sections, writer)
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
        write_sections(sections, writer)
    }
}

fn write_sections<const N: usize>(sections: [(Tag, &[u8]); N], writer: &mut ImageWriter) -> Result<(), FileError> {
    sections.into_iter().try_for_each(|(tag, bytes)| {
        writer.begin_section(tag, Align::Page)?;
        writer.write(bytes)
    })
}

/// Blocks of the compact form: of each point of `order`, whose place there `places` has.
fn write_compact(points: &Points, grown: &Grown, order: &[u32], places: &[u32]) -> Vec<u8> {
    let stride = compact::stride(points.rotation().padded_dim());
    let mut blocks = vec![0; order.len() * stride];
    let write = |(own, block): (&u32, &mut [u8])| {
        let links: Vec<u32> = grown.links[*own].iter().map(|link| places[*link as usize]).collect();
        let scale = points.space().scale(points.vector(*own));
        compact::write(places[*own as usize], &links, points.rotated(*own), scale, block);
    };
    order.par_iter().zip(blocks.par_chunks_exact_mut(stride)).for_each(write);
    blocks
}

/// Walks for points that are known, to find out how hard to look.
struct Trial<'a, N> {
    points: &'a Points,
    form: Form<'a>,
    /// The point that an offset of the form means.
    name: N,
    /// Offsets of the form.
    queries: Vec<u32>,
    /// Likewise.
    entries: Vec<u32>,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl<N: Fn(u32) -> u32 + Sync> Trial<'_, N> {
    /// What walks among all points take, and what those among one in [`SPARSE`] take.
    fn run(&self) -> Result<[Vec<calibration::Sample>; 2], Cancelled> {
        let Self { points, form, name, .. } = self;
        let layout = entries::layout(points.space().dims());
        let padded_dims = points.rotation().padded_dim();
        let entries = entries::write(&layout, padded_dims, &self.entries, |offset| points.rotated(name(offset)));
        let entries = Blocks::new(&layout, &entries);
        let distance = |place: &Place, offset: u32| {
            if form.is_coded() {
                place.distance_of(points.vector(name(offset)), form.vector_scale(offset))
            } else {
                form.distance(place, offset)
            }
        };
        let ask = |place: &mut Place, own: u32| {
            place.set(points.space(), points.rotation(), points.center(), points.vector(name(own)));
            place.narrow();
        };
        // Queries of callers have no point of their own whose links lead to all that is near; only a segment so small
        // that every point is an entry starts from it.
        let starts = |scratch: &Scratch, own| -> Vec<Waiting> {
            let entry = entries::nearest(entries, &scratch.place).map(Waiting::start);
            entry.into_iter().chain([Waiting::never(own)]).collect()
        };
        let settle = |scratch: &mut Scratch| {
            if form.is_coded() {
                form.refine(scratch, calibration::K, |_| (), |place, near| distance(place, near.offset));
            }
        };
        let all: Vec<u32> = (0..).take(points.len()).collect();
        let walks = calibration::measure(&all, &self.queries, ask, distance, |scratch: &mut Scratch, own, breadth| {
            let starts = starts(scratch, own);
            let hops = form.walk(scratch, &starts, breadth, |_| 1.0, |offset| offset != own, self.stop)?;
            settle(scratch);
            Ok(hops)
        })?;
        // Points come in a random order, so any part of them is a random one.
        let is_sparse = |offset: u32| name(offset).is_multiple_of(SPARSE);
        let sparse: Vec<u32> = all.into_iter().filter(|offset| is_sparse(*offset)).collect();
        let few = &self.queries[..self.queries.len().min(calibration::QUERIES_AMONG)];
        let among = calibration::measure(&sparse, few, ask, distance, |scratch: &mut Scratch, own, breadth| {
            let starts = starts(scratch, own);
            let wanted = |offset| offset != own && is_sparse(offset);
            let path = form.walk_among(scratch, &starts, breadth, wanted, self.stop)?;
            settle(scratch);
            Ok(path.visited)
        })?;
        Ok([walks, among])
    }
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
