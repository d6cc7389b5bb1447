//! One file as processes see it: pages written since the last sync, over what is durable in the backing file.
//!
//! Invariant: what a page holds beyond the size of the file is zero, so a file that grows over it reads as zeros.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rand::Rng as _;
use rand::rngs::StdRng;

use crate::power_loss::Tear;

/// Bytes of a page, the unit in which an operating system remembers what is to be written.
pub(crate) const PAGE_BYTES: usize = 4096;
/// Bytes that a disk writes whole or not at all.
pub(crate) const SECTOR_BYTES: usize = 512;

struct Page {
    bytes: Box<[u8; PAGE_BYTES]>,
    /// A sync that failed leaves pages that are still read but that no later sync writes, as Linux does.
    is_dirty: bool,
}

/// Sizes, and the pages that the backing file does not hold yet.
pub(crate) struct FileCache {
    size: u64,
    /// How much of the backing file is still to be seen: less than all of it once the file was cut.
    base_size: u64,
    durable_size: u64,
    pages: BTreeMap<u64, Page>,
}

/// What a power loss left of one file's unsynced bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remains {
    pub(crate) bytes_kept: u64,
    pub(crate) bytes_dropped: u64,
}

impl FileCache {
    /// A file of which all `size` bytes are in the backing file.
    pub(crate) fn durable(size: u64) -> Self {
        Self { size, base_size: size, durable_size: size, pages: BTreeMap::new() }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn durable_size(&self) -> u64 {
        self.durable_size
    }

    /// Whether reads can need the backing file.
    pub(crate) fn has_base(&self) -> bool {
        self.base_size > 0
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.size == self.durable_size && self.base_size == self.durable_size && self.dirty(self.size).next().is_none()
    }

    pub(crate) fn unsynced_bytes(&self) -> u64 {
        self.dirty(self.size).map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Up to `len` bytes from `offset`, fewer at the end of the file.
    pub(crate) fn read(&self, base: Option<&File>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let end = self.size.min(offset.saturating_add(len as u64));
        if offset >= end {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; in_memory(end - offset)];
        self.read_base(base, offset, &mut bytes)?;
        for (index, page) in self.pages.range(page_of(offset)..=page_of(end - 1)) {
            let start = index * PAGE_BYTES as u64;
            let (from, to) = (start.max(offset), (start + PAGE_BYTES as u64).min(end));
            bytes[in_memory(from - offset)..in_memory(to - offset)]
                .copy_from_slice(&page.bytes[in_memory(from - start)..in_memory(to - start)]);
        }
        Ok(bytes)
    }

    pub(crate) fn write(&mut self, base: Option<&File>, offset: u64, data: &[u8]) -> io::Result<()> {
        let (mut at, mut left) = (offset, data);
        while !left.is_empty() {
            let within = in_memory(at % PAGE_BYTES as u64);
            let (part, rest) = left.split_at(left.len().min(PAGE_BYTES - within));
            let page = self.page_to_write(base, page_of(at), part.len() == PAGE_BYTES)?;
            page.bytes[within..within + part.len()].copy_from_slice(part);
            page.is_dirty = true;
            (at, left) = (at + part.len() as u64, rest);
        }
        self.size = self.size.max(at);
        Ok(())
    }

    /// Cuts the file, or lets it grow by zeros.
    pub(crate) fn resize(&mut self, size: u64) {
        self.pages.split_off(&size.div_ceil(PAGE_BYTES as u64));
        let within = in_memory(size % PAGE_BYTES as u64);
        if let Some(page) = self.pages.get_mut(&page_of(size)) {
            page.bytes[within..].fill(0);
        }
        self.base_size = self.base_size.min(size);
        self.size = size;
    }

    /// Writes what is dirty to the backing file.
    pub(crate) fn sync(&mut self, backing: &File) -> io::Result<()> {
        if self.base_size < self.durable_size {
            backing.set_len(self.base_size)?;
        }
        let mut length = self.base_size;
        for (offset, bytes) in self.dirty_runs() {
            backing.write_all_at(&bytes, offset)?;
            length = length.max(offset + bytes.len() as u64);
        }
        if length != self.size {
            backing.set_len(self.size)?;
        }
        self.pages.retain(|_, page| !page.is_dirty);
        (self.base_size, self.durable_size) = (self.size, self.size);
        Ok(())
    }

    /// Forgets that anything is to be written, as an operating system does when writing failed.
    pub(crate) fn fail_sync(&mut self) {
        self.pages.values_mut().for_each(|page| page.is_dirty = false);
    }

    /// Loses everything that was not synced.
    pub(crate) fn drop_unsynced(&mut self) -> Remains {
        let bytes_dropped = self.unsynced_bytes();
        *self = Self::durable(self.durable_size);
        Remains { bytes_kept: 0, bytes_dropped }
    }

    /// Loses what chance decides of what was not synced: a disk may have written any of it before the power went.
    ///
    /// Cut, size and each page or sector reach the backing file independently of each other.
    pub(crate) fn tear(&mut self, backing: &File, tear: Tear, random: &mut StdRng) -> io::Result<Remains> {
        let mut length = self.durable_size;
        if self.base_size < length && random.random() {
            length = self.base_size;
            backing.set_len(length)?;
        }
        // Where the cut is lost, the zeros behind the end of a page that survives are not.
        let end = self.size.max(length);
        let all = self.dirty(end).map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        let mut bytes_kept = 0;
        for (offset, bytes) in self.survivors(end, tear, random) {
            backing.write_all_at(bytes, offset)?;
            bytes_kept += bytes.len() as u64;
            length = length.max(offset + bytes.len() as u64);
        }
        if length < self.size && random.random() {
            length = self.size;
            backing.set_len(length)?;
        }
        *self = Self::durable(length);
        Ok(Remains { bytes_kept, bytes_dropped: all - bytes_kept })
    }

    /// Half of the time what was written up to some place, else some here and some there.
    fn survivors(&self, end: u64, tear: Tear, random: &mut StdRng) -> Vec<(u64, &[u8])> {
        let unit = tear.unit_bytes();
        let units = self.dirty(end).flat_map(|(offset, bytes)| {
            bytes.chunks(unit).enumerate().map(move |(place, chunk)| (offset + (place * unit) as u64, chunk))
        });
        let mut units: Vec<_> = units.collect();
        if random.random() {
            units.truncate(random.random_range(0..=units.len()));
        } else {
            units.retain(|_| random.random());
        }
        units
    }

    /// The page to write into, with what it held before unless `is_whole` of it is going to be written.
    fn page_to_write(&mut self, base: Option<&File>, index: u64, is_whole: bool) -> io::Result<&mut Page> {
        if !self.pages.contains_key(&index) {
            let mut bytes = Box::new([0; PAGE_BYTES]);
            if !is_whole {
                self.read_base(base, index * PAGE_BYTES as u64, bytes.as_mut_slice())?;
            }
            self.pages.insert(index, Page { bytes, is_dirty: false });
        }
        self.pages.get_mut(&index).ok_or_else(|| io::Error::other("the page was just inserted"))
    }

    /// Fills what of `bytes` lies within the visible part of the backing file.
    fn read_base(&self, base: Option<&File>, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let visible = in_memory(self.base_size.saturating_sub(offset).min(bytes.len() as u64));
        match base {
            Some(file) if visible > 0 => file.read_exact_at(&mut bytes[..visible], offset),
            _ => Ok(()),
        }
    }

    /// Offset and content of each dirty page, up to `end`, which is not before the end of the file.
    fn dirty(&self, end: u64) -> impl Iterator<Item = (u64, &[u8])> {
        self.pages.iter().filter(|(_, page)| page.is_dirty).map(move |(index, page)| {
            let offset = index * PAGE_BYTES as u64;
            let len = in_memory((end - offset).min(PAGE_BYTES as u64));
            (offset, &page.bytes[..len])
        })
    }

    /// Dirty pages, neighbours joined, so that a large file takes few writes.
    fn dirty_runs(&self) -> Vec<(u64, Vec<u8>)> {
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        for (offset, bytes) in self.dirty(self.size) {
            match runs.last_mut() {
                Some((start, run)) if *start + run.len() as u64 == offset => run.extend_from_slice(bytes),
                _ => runs.push((offset, bytes.to_vec())),
            }
        }
        runs
    }
}

fn page_of(offset: u64) -> u64 {
    offset / PAGE_BYTES as u64
}

/// Lengths and places within one request or page.
fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a request or page fits memory")
}
