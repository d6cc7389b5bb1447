//! A run of rows: vectors side by side, and what belongs to them.

use std::sync::Arc;

use bytes::Bytes;
use shoal_model::PointId;

use super::codes::{Code, Codes};
use crate::kernels::BATCH;

/// Bytes of vectors in a chunk: what a writer copies when a view still shows the chunk it appends to.
const VECTOR_BYTES: usize = 256 << 10;

/// Most rows of a chunk, so that short vectors do not make its ids and payloads dear to copy.
const ROWS_MAX: usize = 1_024;

/// Where vectors should start, so that loads of dimensions divisible by 16 do not straddle two cache lines:
/// with AVX-512 each of them would, which costs a tenth of a scan.
const LINE_BYTES: usize = 64;

/// What belongs to a row besides its vector.
#[derive(Clone, Debug)]
pub(super) struct Label {
    pub(super) id: PointId,
    /// The log index at which the row was written.
    pub(super) version: u64,
    /// How many rows were written before it.
    pub(super) arrival: u64,
    pub(super) payload: Bytes,
}

/// Rows in the order in which they came. Never longer than what it was made for, so it never moves in memory.
#[derive(Debug)]
pub(super) struct Chunk {
    dim: usize,
    rows_max: usize,
    /// Padding up to a cache line, then the rows.
    vectors: Vec<f32>,
    padding: usize,
    scales: Vec<f32>,
    labels: Vec<Label>,
    codes: Option<Codes>,
    /// Heap bytes of ids and payloads.
    outside_bytes: usize,
}

/// Rows of a chunk: whole batches of codes, if there is room for one.
pub(super) fn rows_max(dim: usize) -> usize {
    let rows = VECTOR_BYTES / (size_of::<f32>() * dim);
    let whole = if rows < BATCH { rows } else { rows - rows % BATCH };
    whole.clamp(1, ROWS_MAX)
}

impl Chunk {
    fn new(dim: usize, codes: Option<Codes>) -> Self {
        let rows = rows_max(dim);
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
            labels: Vec::with_capacity(rows),
            codes,
            outside_bytes: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.labels.len() == self.rows_max
    }

    /// Adds a row. `scale` is what [`super::bound::Bound`] wants to know of the vector.
    fn push(&mut self, label: Label, vector: &[f32], scale: f32, code: Option<&Code<'_>>) {
        let text_bytes = if let PointId::Text(text) = &label.id { text.len() } else { 0 };
        self.outside_bytes += label.payload.len() + text_bytes;
        if let (Some(codes), Some(code)) = (&mut self.codes, code) {
            codes.put(self.labels.len(), code);
        }
        self.vectors.extend_from_slice(vector);
        self.scales.push(scale);
        self.labels.push(label);
    }

    pub(super) fn vector(&self, row: usize) -> &[f32] {
        let start = self.padding + row * self.dim;
        &self.vectors[start..start + self.dim]
    }

    pub(super) fn scale(&self, row: usize) -> f32 {
        self.scales[row]
    }

    pub(super) fn label(&self, row: usize) -> &Label {
        &self.labels[row]
    }

    /// Codes of the rows; all chunks of a delta have them or none.
    pub(super) fn codes(&self) -> Option<&Codes> {
        self.codes.as_ref()
    }

    /// Batches of codes that have rows.
    pub(super) fn batches(&self) -> usize {
        self.labels.len().div_ceil(BATCH)
    }

    fn memory_bytes(&self) -> usize {
        let row_bytes = size_of::<f32>() * (self.dim + 1) + size_of::<Label>();
        let code_bytes = self.codes.as_ref().map_or(0, Codes::memory_bytes);
        self.rows_max * row_bytes + self.outside_bytes + code_bytes
    }
}

/// Keeps the room for rows to come, which a derived clone would not.
impl Clone for Chunk {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.dim, self.codes.clone());
        copy.vectors.extend_from_slice(&self.vectors[self.padding..]);
        copy.scales.extend_from_slice(&self.scales);
        copy.labels.extend_from_slice(&self.labels);
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
        self.words.iter().enumerate().flat_map(|(i, word)| ones(*word).map(move |bit| i * 64 + bit))
    }

    /// Those of a batch of 32, one bit each.
    #[inline]
    fn batch(&self, batch: usize) -> u32 {
        let word = self.words.get(batch / 2).copied().unwrap_or(0);
        #[allow(clippy::cast_possible_truncation, reason = "one half of it is meant")]
        let half = (word >> (batch % 2 * BATCH)) as u32;
        half
    }
}

/// Places of the ones in a word, ascending.
pub(super) fn ones(word: u64) -> impl Iterator<Item = usize> {
    let some = |word: u64| (word != 0).then_some(word);
    std::iter::successors(some(word), move |word| some(word & (word - 1))).map(|word| word.trailing_zeros() as usize)
}

/// A chunk and its tombstones. Cloning shares both; a change to a shared one copies it first.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    chunk: Arc<Chunk>,
    live: Arc<Live>,
}

impl Slot {
    /// An empty chunk. `codes` has room for [`rows_max`] of them.
    pub(super) fn new(dim: usize, codes: Option<Codes>) -> Self {
        Self { chunk: Arc::new(Chunk::new(dim, codes)), live: Arc::default() }
    }

    pub(super) fn chunk(&self) -> &Chunk {
        &self.chunk
    }

    /// Rows that live, ascending.
    pub(super) fn rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.live.rows()
    }

    /// Rows that live in a batch of 32, one bit each.
    #[inline]
    pub(super) fn live_batch(&self, batch: usize) -> u32 {
        self.live.batch(batch)
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
    pub(super) fn push(&mut self, label: Label, vector: &[f32], scale: f32, code: Option<&Code<'_>>) -> usize {
        let row = self.chunk.len();
        Arc::make_mut(&mut self.chunk).push(label, vector, scale, code);
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
