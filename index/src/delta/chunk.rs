//! A run of rows: vectors side by side, and what belongs to them.

use std::sync::Arc;

use bytes::Bytes;
use shoal_model::PointId;

/// Bytes of vectors in a chunk: what a writer copies when a view still shows the chunk it appends to.
const VECTOR_BYTES: usize = 256 << 10;

/// Most rows of a chunk, so that short vectors do not make its ids and payloads dear to copy.
const ROWS_MAX: usize = 1_024;

/// Where vectors should start, so that loads of dimensions divisible by 16 do not straddle two cache lines:
/// with AVX-512 each of them would, which costs a tenth of a scan.
const LINE_BYTES: usize = 64;

/// Rows in the order in which they came. Never longer than what it was made for, so it never moves in memory.
#[derive(Debug)]
pub(super) struct Chunk {
    dim: usize,
    rows_max: usize,
    /// Padding up to a cache line, then the rows.
    vectors: Vec<f32>,
    padding: usize,
    scales: Vec<f32>,
    ids: Vec<PointId>,
    payloads: Vec<Bytes>,
    /// Heap bytes of ids and payloads.
    outside_bytes: usize,
}

impl Chunk {
    pub(super) fn new(dim: usize) -> Self {
        let rows = (VECTOR_BYTES / (size_of::<f32>() * dim)).clamp(1, ROWS_MAX);
        let padding_max = LINE_BYTES / size_of::<f32>() - 1;
        let mut vectors: Vec<f32> = Vec::with_capacity(padding_max + rows * dim);
        let padding = vectors.as_ptr().align_offset(LINE_BYTES).min(padding_max);
        vectors.resize(padding, 0.0);
        Self {
            dim,
            rows_max: rows,
            vectors,
            padding,
            scales: Vec::with_capacity(rows),
            ids: Vec::with_capacity(rows),
            payloads: Vec::with_capacity(rows),
            outside_bytes: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.ids.len() == self.rows_max
    }

    /// Adds a row. `scale` is what [`super::bound::Bound`] wants to know of the vector.
    pub(super) fn push(&mut self, id: PointId, vector: &[f32], scale: f32, payload: Bytes) {
        let text_bytes = if let PointId::Text(text) = &id { text.len() } else { 0 };
        self.outside_bytes += payload.len() + text_bytes;
        self.vectors.extend_from_slice(vector);
        self.scales.push(scale);
        self.ids.push(id);
        self.payloads.push(payload);
    }

    pub(super) fn vector(&self, row: usize) -> &[f32] {
        let start = self.padding + row * self.dim;
        &self.vectors[start..start + self.dim]
    }

    pub(super) fn scale(&self, row: usize) -> f32 {
        self.scales[row]
    }

    pub(super) fn id(&self, row: usize) -> &PointId {
        &self.ids[row]
    }

    pub(super) fn payload(&self, row: usize) -> &Bytes {
        &self.payloads[row]
    }

    fn memory_bytes(&self) -> usize {
        let row_bytes = size_of::<f32>() * (self.dim + 1) + size_of::<PointId>() + size_of::<Bytes>();
        self.rows_max * row_bytes + self.outside_bytes
    }
}

/// Keeps the room for rows to come, which a derived clone would not.
impl Clone for Chunk {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.dim);
        copy.vectors.extend_from_slice(&self.vectors[self.padding..]);
        copy.scales.extend_from_slice(&self.scales);
        copy.ids.extend_from_slice(&self.ids);
        copy.payloads.extend_from_slice(&self.payloads);
        copy.outside_bytes = self.outside_bytes;
        copy
    }
}

/// Which rows of a chunk live: one bit each.
#[derive(Clone, Debug, Default)]
pub(super) struct Live {
    words: Vec<u64>,
    count: usize,
}

impl Live {
    /// Row `row`, the next one, lives.
    fn push(&mut self, row: usize) {
        if row.is_multiple_of(64) {
            self.words.push(0);
        }
        self.words[row / 64] |= 1 << (row % 64);
        self.count += 1;
    }

    /// Tombstones a row that lives.
    fn bury(&mut self, row: usize) {
        debug_assert!(self.words[row / 64] >> (row % 64) & 1 == 1, "a row dies once");
        self.words[row / 64] &= !(1 << (row % 64));
        self.count -= 1;
    }

    fn rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(i, word)| {
            let without_lowest = |bits: &u64| Some(bits & (bits - 1)).filter(|bits| *bits != 0);
            let bits = std::iter::successors(Some(*word).filter(|bits| *bits != 0), without_lowest);
            bits.map(move |bits| i * 64 + bits.trailing_zeros() as usize)
        })
    }
}

/// A chunk and its tombstones. Cloning shares both; a change to a shared one copies it first.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    chunk: Arc<Chunk>,
    live: Arc<Live>,
}

impl Slot {
    pub(super) fn new(dim: usize) -> Self {
        Self { chunk: Arc::new(Chunk::new(dim)), live: Arc::default() }
    }

    pub(super) fn chunk(&self) -> &Chunk {
        &self.chunk
    }

    /// Rows that live, ascending.
    pub(super) fn rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.live.rows()
    }

    /// How many rows live.
    pub(super) fn len(&self) -> usize {
        self.live.count
    }

    /// Whether more rows are dead than alive.
    pub(super) fn is_worn(&self) -> bool {
        2 * self.live.count < self.chunk.len()
    }

    /// Adds a living row and returns its number.
    pub(super) fn push(&mut self, id: PointId, vector: &[f32], scale: f32, payload: Bytes) -> usize {
        let row = self.chunk.len();
        Arc::make_mut(&mut self.chunk).push(id, vector, scale, payload);
        Arc::make_mut(&mut self.live).push(row);
        row
    }

    /// Tombstones a row that lives.
    pub(super) fn bury(&mut self, row: usize) {
        Arc::make_mut(&mut self.live).bury(row);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.chunk.memory_bytes() + size_of::<u64>() * self.live.words.capacity()
    }
}
