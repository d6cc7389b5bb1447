//! A segment that is not written yet: a graph on its way into files.

use rayon::prelude::*;
use shoal_model::PointId;
use zerocopy::IntoBytes;

use super::blocks::Blocks;
use super::bounds::{Bounds, Ground};
use super::build::{About, BuildError, Parameters, metric_code, precision_code};
use super::calibration::{self, Sample};
use super::cells::{self, Cell};
use super::compact::{self, Compact};
use super::entries::{self, ENTRIES_MAX};
use super::form::Form;
use super::frozen::{Segment, tag};
use super::layout::{Layout, Precision};
use super::row_sums::{self, RowSums};
use super::target::Target;
use super::trial::Trial;
use super::walk::Cancelled;
use super::{ids, stored};
use crate::file::{Align, FileError, Image, ImageWriter, Residency, Tag};
use crate::graph::{self, Grown, Points, Repair};
use crate::kernels::Kernels;
use crate::payload_index::PayloadIndex;
use crate::rotation::shuffled;

/// Blocks that are written between two questions whether the segment is still wanted.
const PATIENCE_BLOCKS: usize = 1 << 12;

/// What is known of points beside their vectors, by their offset in a graph.
pub(super) struct Facts<'a> {
    pub(super) ids: Vec<PointId>,
    pub(super) versions: Vec<u64>,
    /// Packed payload.
    pub(super) payloads: Vec<&'a [u8]>,
}

impl Facts<'_> {
    /// Puts the point that was at `moved[i]` at `i`.
    pub(super) fn reordered(self, moved: &[u32]) -> Self {
        let Self { ids, versions, payloads } = self;
        Self {
            ids: moved.iter().map(|from| ids[*from as usize].clone()).collect(),
            versions: moved.iter().map(|from| versions[*from as usize]).collect(),
            payloads: moved.iter().map(|from| payloads[*from as usize]).collect(),
        }
    }
}

/// A segment that is not written yet.
pub(super) struct Draft<'a> {
    facts: Facts<'a>,
    points: Points,
    layout: Layout,
    grown: Grown,
    regions: Regions,
    /// Blocks of the compact form, in the order of the file, if that is wanted.
    compact: Option<Vec<u8>>,
    effort: Effort,
    about: About,
}

/// Which point lies where in the file.
#[derive(Default)]
struct Regions {
    /// The point at each place.
    order: Vec<u32>,
    /// The place of each point.
    places: Vec<u32>,
    /// Centres of cells, by point.
    entries: Vec<u32>,
    /// Centres named by their place.
    cells: Vec<Cell>,
    sketches: Vec<u8>,
    /// Codes of the cells' centres.
    centers: Vec<u8>,
}

/// How hard to look for a wanted recall.
struct Effort {
    /// Of walks among all points, and among some.
    walks: Vec<Sample>,
    among: Vec<Sample>,
    /// Of scans.
    bounds: Vec<Bounds>,
}

impl<'a> Draft<'a> {
    /// Gives every point of a graph a route and a place, and finds out how the graph is best searched.
    ///
    /// Errors: `Cancelled`.
    pub(super) fn new(
        facts: Facts<'a>,
        points: Points,
        layout: Layout,
        mut grown: Grown,
        parameters: &Parameters,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Self, Cancelled> {
        let sample = shuffled(points.len(), parameters.seed);
        let entries = &sample[..sample.len().min(ENTRIES_MAX)];
        let mut regions = Regions::default();
        if let Some(root) = points.medoid() {
            let Grown { links, blocks, .. } = &mut grown;
            Repair { points: &points, layout: &layout, links, blocks, stop }.run(root, entries)?;
            regions = Regions::new(&points, graph::order(&grown.links, root), entries);
        }
        let compact = (layout.precision() == Precision::Compact).then(|| write_compact(&points, &grown, &regions));
        // From the other end, so that they are no entry points unless there are few points.
        let queries = &sample[sample.len().saturating_sub(calibration::QUERIES)..];
        let effort = match &compact {
            Some(blocks) => regions.calibrate_compact(&points, blocks, queries, stop)?,
            None => regions.calibrate(&points, Blocks::new(&layout, &grown.blocks), queries, stop)?,
        };
        let about = about(&points, &layout, &grown, parameters);
        Ok(Self { facts, points, layout, grown, regions, compact, effort, about })
    }

    /// Writes both files, and opens what it wrote. Errors: those of writing; `Cancelled`, after which the first of them may
    /// be there.
    pub(super) fn freeze(self, target: &Target, stop: &(dyn Fn() -> bool + Sync)) -> Result<Segment, BuildError> {
        let stored = self.write_stored(target)?;
        let graph = self.write(target, stored.checksum(), stop)?;
        Ok(Segment::new(graph, stored)?)
    }

    fn write_stored(&self, target: &Target) -> Result<Image, FileError> {
        let payload = |offset: u32| self.facts.payloads[offset as usize];
        let points = self.regions.order.iter().map(|offset| (self.points.vector(*offset), payload(*offset)));
        let residency = if let Target::Memory = target { Residency::Resident } else { Residency::Mapped };
        stored::write(target.stored_writer()?, points, self.about.lossless == 0, residency)
    }

    fn write(&self, target: &Target, stored: u64, stop: &(dyn Fn() -> bool + Sync)) -> Result<Image, BuildError> {
        let mut writer = target.graph_writer()?;
        writer.begin_section(tag::BLOCKS, Align::Huge)?;
        match &self.compact {
            Some(blocks) => writer.write(blocks)?,
            None => self.write_blocks(&mut writer, stop)?,
        }
        if stop() {
            return Err(BuildError::Cancelled);
        }
        self.write_regions(&mut writer)?;
        self.write_points(&mut writer)?;
        let Effort { walks, among, bounds } = &self.effort;
        let sections: [(_, &[u8]); 3] =
            [(tag::CALIBRATION, walks.as_bytes()), (tag::AMONG, among.as_bytes()), (tag::BOUNDS, bounds.as_bytes())];
        write_sections(sections, &mut writer)?;
        Ok(writer.finish(About { stored, ..self.about }.as_bytes(), target.residency())?)
    }

    /// Blocks of the full form, in the order of the file.
    fn write_blocks(&self, writer: &mut ImageWriter, stop: &(dyn Fn() -> bool + Sync)) -> Result<(), BuildError> {
        let Regions { order, places, .. } = &self.regions;
        let blocks = Blocks::new(&self.layout, &self.grown.blocks);
        let mut block = vec![0_u32; self.layout.stride() / size_of::<u32>()];
        for (number, offset) in order.iter().enumerate() {
            if number.is_multiple_of(PATIENCE_BLOCKS) && stop() {
                return Err(BuildError::Cancelled);
            }
            let block = block.as_mut_bytes();
            block.copy_from_slice(blocks.block(*offset));
            self.layout.tail_mut(block).links.iter_mut().for_each(|link| *link = places[*link as usize]);
            writer.write(block)?;
        }
        Ok(())
    }

    /// Where walks start, and what scans read.
    fn write_regions(&self, writer: &mut ImageWriter) -> Result<(), FileError> {
        let Regions { places, entries, cells, sketches, centers, .. } = &self.regions;
        let layout = entries::layout(self.points.space().dims());
        let padded_dims = self.points.rotation().padded_dim();
        let mut entries = entries::write(&layout, padded_dims, entries, |offset| self.points.rotated(offset));
        for block in entries.chunks_exact_mut(layout.stride()) {
            layout.tail_mut(block).links.iter_mut().for_each(|link| *link = places[*link as usize]);
        }
        // What comes first is read where it lies, the rest is kept in memory.
        let sections: [(_, &[u8]); 5] = [
            (tag::SKETCHES, sketches),
            (tag::ENTRIES, &entries),
            (tag::CELLS, cells.as_bytes()),
            (tag::CENTERS, centers),
            (tag::CENTER, self.points.center().as_bytes()),
        ];
        write_sections(sections, writer)
    }

    /// Ids, versions, the payload index and checksums, in the order of the file.
    fn write_points(&self, writer: &mut ImageWriter) -> Result<(), FileError> {
        let offsets = || self.regions.order.iter().map(|offset| *offset as usize);
        let (keys, ends, order) = ids::sections(&offsets().map(|offset| &self.facts.ids[offset]).collect::<Vec<_>>());
        let versions: Vec<u64> = offsets().map(|offset| self.facts.versions[offset]).collect();
        let payload = PayloadIndex::build(offsets().map(|offset| self.facts.payloads[offset]));
        let sums = self.row_sums();
        let sections: [(_, &[u8]); 6] = [
            (tag::IDS, &keys),
            (tag::ID_ENDS, ends.as_bytes()),
            (tag::ID_ORDER, order.as_bytes()),
            (tag::VERSIONS, versions.as_bytes()),
            (tag::PAYLOAD, &payload),
            (tag::ROW_SUMS, sums.as_bytes()),
        ];
        write_sections(sections, writer)
    }

    /// Checksums of rows, in the order of the file.
    fn row_sums(&self) -> Vec<RowSums> {
        let blocks = self.compact.is_none().then(|| Blocks::new(&self.layout, &self.grown.blocks));
        let kernels = Kernels::best();
        let sums = |(place, own): (usize, &u32)| {
            let (vector, offset) = (self.points.vector(*own), u32::try_from(place).expect("points are below 2^31"));
            let block = blocks.map(|blocks| blocks.block(*own));
            let scale = || {
                block.map_or_else(|| self.points.space().scale(vector), |block| self.layout.head(block).vector_scale)
            };
            let scale = row_sums::bounding_scale(self.points.space().metric(), scale);
            let row = block.filter(|_| self.about.lossless == 1).map(|block| &block[self.layout.row()]);
            RowSums {
                vector: row_sums::of_vector(kernels.row_sum(row.unwrap_or(vector.as_bytes())), scale, offset),
                payload: row_sums::of_payload(self.facts.payloads[*own as usize], offset),
            }
        };
        self.regions.order.par_iter().enumerate().map(sums).collect()
    }
}

impl Regions {
    /// Sorts points into the cells of `entries`, else in `order`.
    fn new(points: &Points, mut order: Vec<u32>, entries: &[u32]) -> Self {
        let mut cells = cells::divide(points, entries, &mut order);
        let entries = cells.iter().map(|cell| cell.center).collect();
        let mut places = vec![0; order.len()];
        (0..).zip(&order).for_each(|(place, offset)| places[*offset as usize] = place);
        let sketches = cells::write_sketches(points, &order, &cells);
        let centers = cells::write_centers(points, &mut cells);
        cells.iter_mut().for_each(|cell| cell.center = places[cell.center as usize]);
        Self { order, places, entries, cells, sketches, centers }
    }

    /// Of blocks in the order of the graph.
    fn calibrate(
        &self,
        points: &Points,
        blocks: Blocks<'_>,
        queries: &[u32],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Effort, Cancelled> {
        let (form, entries) = (Form::Full(blocks), self.entries.clone());
        let trial = Trial { points, form, name: |offset| offset, queries: queries.to_vec(), entries, stop };
        let [walks, among] = trial.run()?;
        Ok(Effort { walks, among, bounds: self.bounds(points, queries) })
    }

    /// Of blocks in the order of the file.
    fn calibrate_compact(
        &self,
        points: &Points,
        blocks: &[u8],
        queries: &[u32],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Effort, Cancelled> {
        let cells_of = compact::cells_of(&self.cells);
        let padded_dims = points.rotation().padded_dim();
        let form = Form::Compact(Compact::new(padded_dims, blocks, &self.sketches, &self.cells, &cells_of));
        let placed = |offsets: &[u32]| offsets.iter().map(|offset| self.places[*offset as usize]).collect();
        let name = |place| self.order[place as usize];
        let (places, entries) = (placed(queries), placed(&self.entries));
        let [walks, among] = Trial { points, form, name, queries: places, entries, stop }.run()?;
        Ok(Effort { walks, among, bounds: self.bounds(points, queries) })
    }

    fn bounds(&self, points: &Points, queries: &[u32]) -> Vec<Bounds> {
        let Self { order, cells, sketches, centers, .. } = self;
        let queries = &queries[..queries.len().min(calibration::QUERIES_AMONG)];
        Ground { points, order, cells, sketches, centers }.measure(queries)
    }
}

fn about(points: &Points, layout: &Layout, grown: &Grown, parameters: &Parameters) -> About {
    let (space, precision) = (points.space(), layout.precision());
    About {
        points: points.len() as u64,
        seed: parameters.seed,
        stored: 0,
        reach: space.reach(),
        dim: u32::try_from(space.dim()).expect("it came from 32 bits"),
        metric: metric_code(parameters.metric),
        precision: precision_code(precision),
        lossless: u32::from(grown.lossless && !precision.is_coded()),
        ef_construction: u32::try_from(parameters.ef_construction).unwrap_or(u32::MAX),
        spare: 0,
    }
}

fn write_sections<const N: usize>(sections: [(Tag, &[u8]); N], writer: &mut ImageWriter) -> Result<(), FileError> {
    sections.into_iter().try_for_each(|(tag, bytes)| {
        writer.begin_section(tag, Align::Page)?;
        writer.write(bytes)
    })
}

/// Blocks of the compact form, in the order of the file.
fn write_compact(points: &Points, grown: &Grown, regions: &Regions) -> Vec<u8> {
    let Regions { order, places, .. } = regions;
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
