//! A file read as it is on the disk, or as it is in the page cache: to see whether the two are what was written.
//!
//! A file system that has no reads past the page cache (one in memory, say) is read as usual; what the disk below it has
//! under a page that is cached is then not seen.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSliceMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What direct reads begin at and are a multiple of, in the file and in memory.
const PAGE_BYTES: usize = 4 << 10;

/// A file that is read in two ways.
#[derive(Debug)]
pub struct DiskFile {
    cached: File,
    /// Past the page cache, if that can be.
    direct: Option<File>,
    room: Vec<u8>,
}

impl DiskFile {
    /// Opens a file to be read in pieces of `piece_bytes` at most.
    pub fn open(path: &Path, piece_bytes: usize) -> io::Result<Self> {
        let room = vec![0; piece_bytes.next_multiple_of(PAGE_BYTES) + PAGE_BYTES];
        Ok(Self { cached: File::open(path)?, direct: open_direct(path), room })
    }

    /// How long it is.
    pub fn length(&self) -> io::Result<u64> {
        Ok(self.cached.metadata()?.len())
    }

    /// `length` bytes from `from` on as they are on the disk. Errors: `UnexpectedEof` if there are fewer.
    ///
    /// # Panics
    /// If `from` is no multiple of 4 KiB, or `length` is more than a piece.
    pub fn read(&mut self, from: u64, length: usize) -> io::Result<&[u8]> {
        assert!(from.is_multiple_of(PAGE_BYTES as u64), "byte {from} is not at a page");
        let start = self.room.as_ptr().align_offset(PAGE_BYTES);
        loop {
            let room = &mut self.room[start..][..length.next_multiple_of(PAGE_BYTES)];
            let file = self.direct.as_ref().unwrap_or(&self.cached);
            match fill(file, room, from, length) {
                // A file system may let a file be opened so, and not be read.
                Err(error) if error.kind() == ErrorKind::InvalidInput && self.direct.is_some() => self.direct = None,
                read => return read.map(|()| &self.room[start..][..length]),
            }
        }
    }

    /// The same as they are in the page cache, at any place; `None` if not all of them are there.
    ///
    /// # Panics
    /// If `length` is more than a piece.
    pub fn read_cached(&mut self, from: u64, length: usize) -> Option<&[u8]> {
        let room = &mut self.room[..length];
        (read_if_cached(&self.cached, room, from) == Some(length)).then_some(&self.room[..length])
    }
}

/// Reads at least `wanted` bytes to `room`.
fn fill(file: &File, room: &mut [u8], from: u64, wanted: usize) -> io::Result<()> {
    let mut done = 0;
    while done < wanted {
        match file.read_at(&mut room[done..], from + done as u64) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => done += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> Option<File> {
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_path: &Path) -> Option<File> {
    None
}

#[cfg(target_os = "linux")]
fn read_if_cached(file: &File, room: &mut [u8], from: u64) -> Option<usize> {
    use rustix::io::ReadWriteFlags;
    rustix::io::preadv2(file, &mut [IoSliceMut::new(room)], from, ReadWriteFlags::NOWAIT).ok()
}

#[cfg(not(target_os = "linux"))]
fn read_if_cached(_file: &File, _room: &mut [u8], _from: u64) -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_to_its_end_and_no_further() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bytes: Vec<u8> = (0..10_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let path = folder.path().join("file");
        std::fs::write(&path, &bytes).expect("written");
        let mut file = DiskFile::open(&path, 8_192).expect("opened");
        assert_eq!(file.length().expect("it is there"), 10_000);
        assert_eq!(file.read(0, 8_192).expect("read"), &bytes[..8_192]);
        assert_eq!(file.read(8_192, 1_808).expect("read"), &bytes[8_192..]);
        assert_eq!(file.read(8_192, 1_809).expect_err("its end").kind(), ErrorKind::UnexpectedEof);
        assert!(file.read_cached(5, 100).is_none_or(|read| read == &bytes[5..105]));
    }
}
