//! Memory that an image lies in. The one place of this module with `unsafe` in it.

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapMut, MmapOptions};

/// Size of a huge page of x86-64, and of 64-bit ARM with pages of 4 KiB.
pub(super) const HUGE_BYTES: usize = 2 << 20;

/// Bytes that start at a multiple of 4 KiB and do not change.
#[derive(Debug)]
pub(super) enum Memory {
    Mapped(Mmap),
    /// `len` bytes from `start` on; from [`HUGE_BYTES`] on, they start at a multiple of that.
    Resident {
        pages: Mmap,
        start: usize,
        len: usize,
    },
}

impl Memory {
    /// The first `len` bytes of a file, at least one. `prefetch`: have all of it read now, in the background.
    pub(super) fn map(file: &File, len: usize, prefetch: bool) -> io::Result<Self> {
        // SAFETY: the mapping is private to us and read-only, so nothing here can change what references to it see.
        // That nobody else does, by writing to the file or cutting it short, is what the header of `file` demands of
        // whoever holds the folder; files get there by rename and are not opened for writing again.
        let pages = unsafe { MmapOptions::new().len(len).map(file)? };
        advise_huge(|advice| pages.advise(advice));
        #[cfg(unix)]
        if prefetch {
            // A wish; without it pages are read when they are touched.
            let _ = pages.advise(memmap2::Advice::WillNeed);
        }
        Ok(Self::Mapped(pages))
    }

    /// `len` bytes of our own, at least one, which are zero until `fill` writes them.
    ///
    /// `refused` makes an error of the system's refusal.
    pub(super) fn resident<E>(
        len: usize,
        refused: impl Fn(io::Error) -> E,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let is_huge = len >= HUGE_BYTES;
        let room = if is_huge { len.saturating_add(HUGE_BYTES) } else { len };
        let mut pages = MmapMut::map_anon(room).map_err(&refused)?;
        let mut start = 0;
        if is_huge {
            let address = pages.as_ptr().addr();
            start = address.next_multiple_of(HUGE_BYTES) - address;
            // Before the first touch, which decides the size of a page.
            advise_huge(|advice| pages.advise_range(advice, start, len));
        }
        fill(&mut pages[start..start + len])?;
        Ok(Self::Resident { pages: pages.make_read_only().map_err(refused)?, start, len })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(pages) => pages,
            Self::Resident { pages, start, len } => &pages[*start..*start + *len],
        }
    }
}

/// A wish; where it is not granted, memory is on small pages.
#[cfg(target_os = "linux")]
fn advise_huge(advise: impl FnOnce(memmap2::Advice) -> io::Result<()>) {
    let _ = advise(memmap2::Advice::HugePage);
}

#[cfg(not(target_os = "linux"))]
fn advise_huge(_advise: impl FnOnce(memmap2::Advice) -> io::Result<()>) {}
