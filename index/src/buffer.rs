//! Memory of our own on huge pages, for blocks that are being written.

use std::io;
use std::ops::{Deref, DerefMut, Range};

use memmap2::MmapMut;

/// Size of a huge page of x86-64, and of 64-bit ARM with pages of 4 KiB.
const HUGE_BYTES: usize = 2 << 20;

/// Bytes, zero at first, that start at a multiple of 4 KiB; those of many megabytes at one of 2 MiB.
#[derive(Debug)]
pub(crate) struct Buffer {
    pages: Option<MmapMut>,
    used: Range<usize>,
}

impl Buffer {
    /// Errors: the system's refusal.
    pub(crate) fn zeroed(len: usize) -> io::Result<Self> {
        if len == 0 {
            return Ok(Self { pages: None, used: 0..0 });
        }
        let is_huge = len >= HUGE_BYTES;
        let pages = MmapMut::map_anon(if is_huge { len.saturating_add(HUGE_BYTES) } else { len })?;
        let address = pages.as_ptr().addr();
        let start = if is_huge { address.next_multiple_of(HUGE_BYTES) - address } else { 0 };
        // Before the first touch, which decides the size of a page. A wish; where it is not granted, pages are small.
        #[cfg(target_os = "linux")]
        let _ = pages.advise_range(memmap2::Advice::HugePage, start, len);
        Ok(Self { pages: Some(pages), used: start..start + len })
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.pages.as_ref().map_or(&[], |pages| &pages[self.used.clone()])
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.pages.as_mut().map_or(&mut [], |pages| &mut pages[self.used.clone()])
    }
}
