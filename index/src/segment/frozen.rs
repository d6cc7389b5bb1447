//! A segment, open.

use std::sync::Arc;

use shoal_model::{Metric, PointId};
use zerocopy::FromBytes;

use super::blocks::Blocks;
use super::bounds::{self, Bounds};
use super::build::{About, metric_code, precision_code};
use super::calibration::{self, Sample};
use super::cells::{self, Cell};
use super::compact::{self, CELLS_MAX, Compact};
use super::entries;
use super::form::Form;
use super::ids::Ids;
use super::layout::{DEGREE, Layout, Precision};
use super::row_sums::{self, RowSums};
use super::sieve::Cells;
use super::sketch;
use super::space::Space;
use super::stored;
use super::target::Target;
use crate::file::{Fault, FileError, Image, Tag, Verify};
use crate::payload_index::PayloadIndex;
use crate::rotation::Rotation;

/// More than any collection has; twice as many fit all sums.
const DIM_MAX: u32 = 1 << 16;

/// Names of sections.
pub(super) mod tag {
    use crate::file::Tag;

    pub(crate) const BLOCKS: Tag = *b"blocks  ";
    pub(crate) const ENTRIES: Tag = *b"entries ";
    pub(crate) const CELLS: Tag = *b"cells   ";
    pub(crate) const CENTERS: Tag = *b"centers ";
    pub(crate) const SKETCHES: Tag = *b"sketches";
    pub(crate) const CENTER: Tag = *b"center  ";
    pub(crate) const IDS: Tag = *b"ids     ";
    pub(crate) const ID_ENDS: Tag = *b"id ends ";
    pub(crate) const ID_ORDER: Tag = *b"id order";
    pub(crate) const VERSIONS: Tag = *b"versions";
    pub(crate) const PAYLOAD: Tag = *b"payload ";
    pub(crate) const ROW_SUMS: Tag = *b"row sums";
    pub(crate) const CALIBRATION: Tag = *b"calibrat";
    pub(crate) const AMONG: Tag = *b"among   ";
    pub(crate) const BOUNDS: Tag = *b"bounds  ";
    pub(crate) const PAYLOAD_ENDS: Tag = *b"pl ends ";
    pub(crate) const PAYLOADS: Tag = *b"payloads";
    pub(crate) const VECTORS: Tag = *b"vectors ";
}

/// What follows the sketches decides which points there are, which pass a filter and what their rows must be. Nothing checks
/// it once the segment is open, so it lies in memory of our own, where damage to the file does not reach it.
const KEPT_FROM: Tag = tag::ENTRIES;

/// Points, frozen: found by walking, never changed. Which of them live is for the caller to know.
///
/// A point is named by its offset, below [`Segment::len`].
#[derive(Debug)]
pub struct Segment {
    image: Arc<Image>,
    stored: Image,
    about: About,
    pub(super) space: Space,
    pub(super) rotation: Rotation,
    layout: Layout,
    /// The cell of each point; empty but for the compact form.
    cells_of: Vec<u16>,
    entry_layout: Layout,
    pub(super) center: Vec<f32>,
    pub(super) samples: Vec<Sample>,
    /// Of walks among some of the points.
    pub(super) among: Vec<Sample>,
    pub(super) bounds: Vec<Bounds>,
    payload: PayloadIndex<Part>,
}

/// A section of an image that is shared.
#[derive(Clone, Debug)]
struct Part {
    image: Arc<Image>,
    tag: Tag,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        self.image.section(self.tag).unwrap_or_default()
    }
}

impl Segment {
    /// Opens what was built, every byte verified. Errors: all of [`FileError`]; `is_bad_file` tells those that a new
    /// build mends.
    pub fn open(target: &Target) -> Result<Self, FileError> {
        let graph = target.open_graph()?;
        let stored = target.open_stored(about(&graph)?.stored)?;
        Self::new(graph, stored)
    }

    /// Opens the bytes of both files, of which nothing is trusted. Errors: as [`Segment::open`].
    pub fn from_bytes(graph: &[u8], stored: &[u8]) -> Result<Self, FileError> {
        let image = |name, bytes| Image::from_bytes(name, bytes, Verify::Everything);
        Self::new(image("graph", graph)?, image("stored", stored)?)
    }

    pub(super) fn new(mut image: Image, stored: Image) -> Result<Self, FileError> {
        image.keep_from(KEPT_FROM)?;
        let path = image.path().to_owned();
        let malformed = |problem| FileError { path: path.clone(), fault: Fault::Malformed { problem } };
        let about = about(&image)?;
        let image = Arc::new(image);
        let metric = [Metric::Cosine, Metric::Dot, Metric::Euclidean].into_iter();
        let metric = metric.into_iter().find(|m| metric_code(*m) == about.metric).ok_or(malformed("no such metric"))?;
        let precision = Precision::ALL.into_iter().find(|p| precision_code(*p) == about.precision);
        let precision = precision.ok_or(malformed("no such precision"))?;
        if precision.is_coded() && about.lossless == 1 {
            return Err(malformed("codes are not vectors as they were sent"));
        }
        if about.dim == 0 || about.dim > DIM_MAX {
            return Err(malformed("no such dimension"));
        }
        let points = u32::try_from(about.points).ok().filter(|points| (*points as usize) < super::walk::POINTS_MAX);
        let points = points.ok_or(malformed("too many points"))?;
        let space = Space::new(metric, about.dim as usize, about.reach);
        let dims = u32::try_from(space.dims()).expect("dimensions were checked");
        let part = |tag| Part { image: Arc::clone(&image), tag };
        let payload = PayloadIndex::open(part(tag::PAYLOAD), points);
        let mut segment = Self {
            about,
            space,
            rotation: Rotation::new(dims, about.seed),
            layout: Layout::new(about.dim as usize, space.dims(), precision),
            cells_of: Vec::new(),
            entry_layout: entries::layout(space.dims()),
            center: image.table::<f32>(tag::CENTER)?.to_vec(),
            samples: image.table::<Sample>(tag::CALIBRATION)?.to_vec(),
            among: image.table::<Sample>(tag::AMONG)?.to_vec(),
            bounds: image.table::<Bounds>(tag::BOUNDS)?.to_vec(),
            payload: payload.map_err(|_| malformed("the payload index cannot be read"))?,
            image: Arc::clone(&image),
            stored,
        };
        segment.check(points as usize).map_err(malformed)?;
        if precision == Precision::Compact {
            segment.cells_of = compact::cells_of(segment.cell_table());
        }
        Ok(segment)
    }

    /// Whether sections fit each other: all that searches rely on.
    fn check(&self, points: usize) -> Result<(), &'static str> {
        let whole = |tag, stride: usize, blocks: usize| {
            self.image.section(tag).is_some_and(|section| blocks.checked_mul(stride) == Some(section.len()))
        };
        let entry_stride = self.entry_layout.stride();
        let entries = self.image.section(tag::ENTRIES).unwrap_or_default().len() / entry_stride;
        if !whole(tag::BLOCKS, self.block_stride(), points) || !whole(tag::ENTRIES, entry_stride, entries) {
            return Err("blocks are not as many as points");
        }
        let cells = self.image.table::<Cell>(tag::CELLS).unwrap_or_default();
        let sketches = points.checked_mul(sketch::stride(self.rotation.padded_dim()));
        if sketches != Some(self.section(tag::SKETCHES).len()) || !cells::check(cells, self.len()) {
            return Err("cells do not divide the points");
        }
        let centers = cells.len().checked_mul(cells::center_stride(self.rotation.padded_dim()));
        if centers != Some(self.section(tag::CENTERS).len()) {
            return Err("cells are not as many as centres");
        }
        if self.is_compact() && cells.len() > CELLS_MAX {
            return Err("there are too many cells");
        }
        if cells.len().div_ceil(DEGREE) != entries {
            return Err("cells are not as many as entry points");
        }
        if (entries == 0) != (points == 0) {
            return Err("there are no entry points");
        }
        if self.center.len() != self.space.dims() || !self.center.iter().all(|component| component.is_finite()) {
            return Err("the centre is no place");
        }
        if !calibration::check(&self.samples) || !calibration::check(&self.among) || !bounds::check(&self.bounds) {
            return Err("the calibration does not ascend");
        }
        let tables = self.image.table::<u64>(tag::VERSIONS).is_ok_and(|versions| versions.len() == points)
            && self.image.table::<u64>(tag::ID_ENDS).is_ok_and(|ends| ends.len() == points)
            && self.image.table::<u32>(tag::ID_ORDER).is_ok_and(|order| order.len() == points)
            && self.image.table::<RowSums>(tag::ROW_SUMS).is_ok_and(|sums| sums.len() == points);
        if !tables {
            return Err("ids, versions or checksums are not as many as points");
        }
        self.ids().check()?;
        if self.about.stored != self.stored.checksum() {
            return Err("what is stored belongs to another graph");
        }
        stored::check(&self.stored, points, self.space.dim(), !self.is_lossless())
    }

    /// How many points there are, dead ones included.
    #[must_use]
    pub fn len(&self) -> u32 {
        u32::try_from(self.about.points).expect("checked when it was opened")
    }

    /// Whether there is no point.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.about.points == 0
    }

    /// Components of each vector.
    #[must_use]
    pub fn dim(&self) -> u32 {
        self.about.dim
    }

    /// How nearness is measured.
    #[must_use]
    pub fn metric(&self) -> Metric {
        self.space.metric()
    }

    /// Whether blocks have vectors as they were sent.
    #[must_use]
    pub fn is_lossless(&self) -> bool {
        self.about.lossless == 1
    }

    /// Checks every byte of both files again: some 0.1 ms a MiB. Errors: those that `is_bad_file` tells.
    pub fn verify(&self) -> Result<(), FileError> {
        self.image.verify()?;
        self.stored.verify()
    }

    /// The file that has the graph.
    #[must_use]
    pub fn graph_image(&self) -> &Image {
        &self.image
    }

    /// The file that has what else is kept.
    #[must_use]
    pub fn stored_image(&self) -> &Image {
        &self.stored
    }

    /// Which points have which payload.
    #[must_use]
    pub fn payload_index(&self) -> &PayloadIndex<impl AsRef<[u8]>> {
        &self.payload
    }

    /// Id of a point.
    ///
    /// # Panics
    /// If there is no such point.
    #[must_use]
    pub fn id(&self, offset: u32) -> PointId {
        self.ids().get(offset).expect("ids were checked when the segment was opened")
    }

    /// Where the point with an id is.
    #[must_use]
    pub fn find(&self, id: &PointId) -> Option<u32> {
        self.ids().find(id)
    }

    /// Offsets in the order of ids.
    pub(crate) fn by_id(&self) -> &[u32] {
        self.ids().order
    }

    /// Log index of the write that made each point, by offset.
    #[must_use]
    pub fn versions(&self) -> &[u64] {
        self.image.table(tag::VERSIONS).expect("checked when the segment was opened")
    }

    /// Writes the components of a point's vector, as they were sent.
    ///
    /// # Panics
    /// If there is no such point, or `out` is of another dimension.
    pub fn read_vector(&self, offset: u32, out: &mut [f32]) {
        match (stored::vector(&self.stored, offset, self.space.dim()), self.form()) {
            (Some(vector), _) => out.copy_from_slice(vector),
            (None, Form::Full(blocks)) => blocks.read_vector(offset, out),
            (None, Form::Compact(_)) => panic!("there is no point {offset}"),
        }
    }

    /// The vectors of all points as they were sent, one after the other, of a segment whose blocks have them not.
    pub(super) fn stored_vectors(&self) -> &[f32] {
        self.stored.table(tag::VECTORS).expect("checked when the segment was opened")
    }

    /// Checksums of the rows of all points.
    pub(super) fn row_sums(&self) -> &[RowSums] {
        self.image.table(tag::ROW_SUMS).expect("checked when the segment was opened")
    }

    /// Whether [`Segment::read_vector`] of a point gives what was written, and searches compared that. Some 10 ns for a
    /// kilobyte in cache.
    ///
    /// # Panics
    /// If there is no such point.
    #[must_use]
    pub fn is_vector_sound(&self, offset: u32) -> bool {
        self.sent().is_sound(offset)
    }

    /// Whether [`Segment::payload`] of a point gives what was written.
    ///
    /// # Panics
    /// If there is no such point.
    #[must_use]
    pub fn is_payload_sound(&self, offset: u32) -> bool {
        row_sums::of_payload(self.payload(offset), offset) == self.row_sums()[offset as usize].payload
    }

    /// Neighbours of a point; a free place holds its own offset. A file may name any number.
    ///
    /// # Panics
    /// If there is no such point.
    #[must_use]
    pub fn links(&self, offset: u32) -> [u32; DEGREE] {
        *self.form().links(offset)
    }

    /// Whom a point is linked to: [`Segment::links`] but for free places, and for what only a damaged file would name.
    pub(super) fn neighbours(&self, offset: u32) -> impl Iterator<Item = u32> {
        self.links(offset).into_iter().filter(move |link| *link != offset && *link < self.len())
    }

    /// Packed payload of a point.
    #[must_use]
    pub fn payload(&self, offset: u32) -> &[u8] {
        stored::payload(&self.stored, offset)
    }

    /// How vectors are kept in blocks.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.layout.precision()
    }

    pub(super) fn form(&self) -> Form<'_> {
        let blocks = self.section(tag::BLOCKS);
        if self.is_compact() {
            let (padded_dims, sketches) = (self.rotation.padded_dim(), self.section(tag::SKETCHES));
            Form::Compact(Compact::new(padded_dims, blocks, sketches, self.cell_table(), &self.cells_of))
        } else {
            Form::Full(Blocks::new(&self.layout, blocks))
        }
    }

    fn is_compact(&self) -> bool {
        self.precision() == Precision::Compact
    }

    /// Bytes of a block.
    fn block_stride(&self) -> usize {
        if self.is_compact() { compact::stride(self.rotation.padded_dim()) } else { self.layout.stride() }
    }

    /// Points by region, for scans.
    pub(super) fn cells(&self) -> Cells<'_> {
        Cells {
            table: self.cell_table(),
            sketches: self.section(tag::SKETCHES),
            stride: sketch::stride(self.rotation.padded_dim()),
            centers: self.section(tag::CENTERS),
            center_stride: cells::center_stride(self.rotation.padded_dim()),
            form: self.form(),
        }
    }

    fn cell_table(&self) -> &[Cell] {
        self.image.table(tag::CELLS).expect("checked when the segment was opened")
    }

    pub(super) fn entries(&self) -> Blocks<'_> {
        Blocks::new(&self.entry_layout, self.section(tag::ENTRIES))
    }

    fn ids(&self) -> Ids<'_> {
        Ids {
            keys: self.section(tag::IDS),
            ends: self.image.table(tag::ID_ENDS).expect("checked when the segment was opened"),
            order: self.image.table(tag::ID_ORDER).expect("checked when the segment was opened"),
        }
    }

    fn section(&self, tag: Tag) -> &[u8] {
        self.image.section(tag).unwrap_or_default()
    }
}

/// What a graph says of itself. Errors: `Malformed`.
fn about(graph: &Image) -> Result<About, FileError> {
    let problem = Fault::Malformed { problem: "parameters have no such length" };
    About::read_from_bytes(graph.parameters()).map_err(|_| FileError { path: graph.path().to_owned(), fault: problem })
}
