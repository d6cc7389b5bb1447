//! Checksums: one for each block of the body, one over those and the header.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::BLOCK_BYTES;

const SUM_BYTES: usize = size_of::<u64>();

/// Bytes that the checksums of a body take, the last one included.
pub(super) fn length(body_bytes: u64) -> u64 {
    (body_bytes.div_ceil(BLOCK_BYTES as u64) + 1) * SUM_BYTES as u64
}

/// The checksum of a block.
pub(super) fn of_block(block: &[u8]) -> [u8; SUM_BYTES] {
    xxh3_64(block).to_le_bytes()
}

/// The checksum of a file: over its header and the checksums of its blocks.
pub(super) fn of_file(header: &[u8], block_sums: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(header);
    hasher.update(block_sums);
    hasher.digest()
}

/// The checksums at the end of an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums<'a> {
    blocks: &'a [u8],
    file: u64,
}

impl<'a> Sums<'a> {
    /// `bytes`: as many as [`length`] says.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        // `length` is at least that of one checksum.
        let (blocks, file) = bytes.split_last_chunk().expect("checksums end with that of the file");
        Self { blocks, file: u64::from_le_bytes(*file) }
    }

    /// The checksum of the file, if it is that of the header and of the others.
    pub(super) fn file(&self, header: &[u8]) -> Option<u64> {
        (of_file(header, self.blocks) == self.file).then_some(self.file)
    }

    /// Whether a block is what was written. Panics if there is no such block.
    pub(super) fn hold_for(&self, number: usize, block: &[u8]) -> bool {
        self.blocks[number * SUM_BYTES..][..SUM_BYTES] == of_block(block)
    }
}
