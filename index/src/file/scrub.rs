//! Looking a segment's file through again while it is served.
//!
//! What searches see and what the disk has may differ for as long as a page lies in the page cache. So each block is looked
//! at twice: in the page cache, without reading what is not there, as searches that have the file mapped see that; and on
//! the disk, past the page cache, if the file system has such reads. What an image keeps of its own is in neither.

use std::io;
use std::path::PathBuf;

use shoal_runtime::DiskFile;

use super::header::{HEADER_BYTES, Header};
use super::image::Image;
use super::sums::Sums;
use super::{BLOCK_BYTES, Fault, FileError};

/// A file under scrutiny.
#[derive(Debug)]
pub struct FileScrub {
    path: PathBuf,
    disk: DiskFile,
    /// Where the blocks are.
    body: std::ops::Range<usize>,
    /// Checksums of blocks and file, which were found to be those that the image was opened with.
    sums: Vec<u8>,
}

impl FileScrub {
    /// Begins with header and checksums of an image's file.
    ///
    /// Errors: `Missing` if it is gone by now, as that of a segment which was replaced; `Io` if it cannot be read; else what
    /// is wrong with it.
    pub fn begin(image: &Image) -> Result<Self, FileError> {
        let at = FileError::at(image.path());
        let mut disk = DiskFile::open(image.path(), BLOCK_BYTES).map_err(unread).map_err(&at)?;
        let header = Header::decode(disk.read(0, HEADER_BYTES).map_err(unread).map_err(&at)?).map_err(&at)?;
        header.check_length(disk.length().map_err(unread).map_err(&at)?).map_err(&at)?;
        let (body, end) = (header.body(), image.bytes().len());
        let mut sums = Vec::with_capacity(end.saturating_sub(body.end));
        while body.end + sums.len() < end {
            let from = body.end + sums.len();
            sums.extend_from_slice(disk.read(from as u64, (end - from).min(BLOCK_BYTES)).map_err(unread).map_err(&at)?);
        }
        if sums.is_empty() {
            return Err(at(Fault::HeaderDamaged));
        }
        let got = Sums::new(&sums).file(&header.encode()).ok_or(Fault::ChecksumsDamaged).map_err(&at)?;
        if got != image.checksum() {
            return Err(at(Fault::Unexpected { want: image.checksum(), got }));
        }
        Ok(Self { path: image.path().to_owned(), disk, body, sums })
    }

    /// How many blocks there are.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.body.len().div_ceil(BLOCK_BYTES)
    }

    /// Looks at a block; tells how long it is. Errors: `Damaged`; `Io` if the disk does not give it.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn check(&mut self, number: usize) -> Result<usize, FileError> {
        let at = FileError::at(&self.path);
        let start = self.body.start + number * BLOCK_BYTES;
        let length = BLOCK_BYTES.min(self.body.end - start);
        let sums = Sums::new(&self.sums);
        let is_sound = |block: &[u8]| sums.hold_for(number, block);
        let damaged = || at(Fault::Damaged { block: number, offset: start as u64 });
        if !self.disk.read_cached(start as u64, length).is_none_or(is_sound) {
            return Err(damaged());
        }
        if is_sound(self.disk.read(start as u64, length).map_err(unread).map_err(&at)?) {
            Ok(length)
        } else {
            Err(damaged())
        }
    }
}

fn unread(error: io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::NotFound => Fault::Missing,
        _ => Fault::io("read")(error),
    }
}
