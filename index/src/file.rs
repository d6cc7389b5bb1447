//! The container of a frozen segment: a file that is its own image in memory.
//!
//! ```text
//! 0            header, 4 KiB
//!                 0  magic "SHOALSEG"
//!                 8  u32 format version
//!                12  u32 byte order, 0x0102_0304
//!                16  u64 length of the file
//!                24  u32 number of sections, at most 16
//!                28  u32 length of the parameters, at most 1,024
//!                32  section table: 16 × { [u8; 8] tag, u64 offset, u64 length }
//!               416  parameters, which mean something to the creator alone
//!             1,440  zeros
//!             4,088  u64 XXH3-64 of all before it
//! 4,096        sections, each at a multiple of 4 KiB or 2 MiB, zeros between them
//! …            checksums, at the next multiple of 4 KiB after the last section
//!                 0  XXH3-64 of each 256 KiB between the header and here; the last may be shorter
//!                 …  u64 XXH3-64 of the header and those checksums: the checksum of the file
//! ```
//!
//! Numbers are little-endian and of fixed width, and there are no pointers, so a section is used where it lies.
//! Magic, version and the header's checksum keep their places in every version, so that an old file is told from a
//! damaged one. A header has one form only: what [`ImageWriter`] would not have written is refused.
//!
//! # Who may touch a file
//! [`ImageWriter`] writes `name.tmp`, syncs it, renames it and syncs the folder: under its own name a file is whole or
//! not there, and it is never changed in place, only replaced by another rename. A [`Residency::Mapped`] image rests on
//! that. If someone else cuts the file short while it is open, or its disk fails to read, the process gets a SIGBUS; if
//! someone overwrites it, sections change under their readers. A [`Residency::Resident`] image has no such risk: it is
//! read, then verified, and from then on no file is touched. Of a mapped one, [`Image::keep_from`] copies what no reader checks.
//! A disk may spoil a file, too, whose pages are dropped and read again: [`FileScrub`] looks for that.
//!
//! # Costs
//! XXH3 takes 100 ms a gigabyte or less, so [`Verify::Everything`] is the default: opening is bound by the disk, or by
//! the copy where the file lies in the page cache. [`Verify::Header`] looks at 4 KiB and at 32 bytes for each megabyte.

mod error;
mod header;
mod image;
mod memory;
mod scrub;
mod sums;
#[cfg(test)]
mod tests;
mod writer;

pub use error::{Fault, FileError};
pub use image::{Image, Open};
pub use scrub::FileScrub;
pub use writer::{ImageWriter, remove_unfinished};

#[cfg(target_endian = "big")]
compile_error!("segment files are little-endian and used where they lie");

/// Name of a section, padded with whatever its creator likes.
pub type Tag = [u8; 8];

/// Most sections of a file.
pub const SECTIONS_MAX: usize = 16;

/// Most bytes of a creator's parameters.
pub const PARAMETERS_MAX_BYTES: usize = 1 << 10;

/// Bytes under one checksum.
pub const BLOCK_BYTES: usize = 256 << 10;

/// Length of the header, and what every section starts at a multiple of.
const PAGE: u64 = 4 << 10;

/// Where a section starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// At a multiple of 4 KiB.
    Page,
    /// At a multiple of 2 MiB, so that it can lie on huge pages from its first byte; for sections of many megabytes.
    Huge,
}

impl Align {
    fn bytes(self) -> u64 {
        match self {
            Self::Page => PAGE,
            Self::Huge => memory::HUGE_BYTES as u64,
        }
    }
}

/// Where the bytes of an image are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residency {
    /// In the page cache, shared with whoever else maps the file and dropped under pressure. Opens without a copy.
    #[default]
    Mapped,
    /// In memory of our own, on huge pages if the machine grants them. Random reads are 1.2 to 1.4 times as fast where
    /// the file system gives the page cache small pages only.
    Resident,
}

/// What is checked when an image is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Header, table and checksums of checksums: damage within sections is left for [`Image::verify`] to find.
    Header,
    /// Every byte.
    #[default]
    Everything,
}
