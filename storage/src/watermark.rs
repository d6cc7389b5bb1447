//! How far the write-ahead log was synced, kept beside the store.
//!
//! After a crash RocksDB replays its log up to the first record that is not whole. If power was cut, that is the end of what was
//! synced or beyond. If a byte of the log has changed, everything behind it is gone as well, acknowledged entries and votes
//! included, and RocksDB says nothing. So the last sequence number that a sync covered is written to a file of its own: a store
//! that comes back with less has lost what it must not lose.
//!
//! The file is written after each sync and not synced itself: a power cut may leave an older number, never a newer one. It
//! finds what a process that was killed has lost for certain, and what a power cut has but for the last moments.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

/// Name of the file in the store's folder.
const NAME: &str = "SYNCED";
/// Number and checksum.
const BYTES: usize = 16;

/// The file.
#[derive(Debug)]
pub(crate) struct Watermark {
    file: File,
}

impl Watermark {
    /// Opens the file in `folder`, or makes it; tells the number in it, 0 if there is none or it was cut short.
    pub(crate) fn open(folder: &Path) -> io::Result<(Self, u64)> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).to_owned();
        let file = options.open(folder.join(NAME))?;
        let mut bytes = [0; BYTES];
        let synced = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => decode(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
        };
        Ok((Self { file }, synced.unwrap_or(0)))
    }

    /// A sync has covered everything up to `sequence`.
    pub(crate) fn raise(&self, sequence: u64) -> io::Result<()> {
        let number = sequence.to_le_bytes();
        let bytes = [number, xxh3_64(&number).to_le_bytes()].concat();
        self.file.write_all_at(&bytes, 0)
    }
}

fn decode(bytes: [u8; BYTES]) -> Option<u64> {
    let (number, sum) = bytes.split_first_chunk::<8>()?;
    (sum == xxh3_64(number).to_le_bytes()).then_some(u64::from_le_bytes(*number))
}
