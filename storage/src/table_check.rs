//! Whether table files are what they were when they were first seen.
//!
//! RocksDB verifies what it reads of a table for somebody, by block. Reading all pairs so leaves out what only serves it: what
//! it cannot read of filters and properties it does without, and says nothing. Table files never change, so the first look
//! at one takes a sum of all its bytes, and each later one compares.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use shoal_runtime::DiskFile;
use xxhash_rust::xxh3::Xxh3;

/// What is read at once.
const PIECE_BYTES: usize = 256 << 10;

/// Sums of the table files that are there, by name: a checkpoint's are links to the store's own.
#[derive(Debug, Default)]
pub(crate) struct TableSums(Mutex<BTreeMap<OsString, u64>>);

/// What a look at all table files found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// All are as they were, or new.
    Sound,
    /// This one is not.
    Changed(OsString),
    /// The look was ended.
    Ended,
}

impl TableSums {
    /// Looks at all table files in a folder.
    pub(crate) fn look(&self, folder: &Path, went: &mut dyn FnMut(u64) -> ControlFlow<()>) -> io::Result<Found> {
        let mut sums = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "sst") {
                continue;
            }
            let sum = match sum(&path, went) {
                Ok(Some(sum)) => sum,
                Ok(None) => return Ok(Found::Ended),
                // A compaction has replaced it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            sums.insert(entry.file_name(), sum);
        }
        // A change is one call, so what a panic left is whole.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = known.iter().find(|(name, sum)| sums.get(*name).is_some_and(|now| now != *sum));
        if let Some((name, _)) = changed {
            return Ok(Found::Changed(name.clone()));
        }
        *known = sums;
        Ok(Found::Sound)
    }
}

/// The sum of a file's bytes as they are on the disk; `None` if the look was ended.
fn sum(path: &Path, went: &mut dyn FnMut(u64) -> ControlFlow<()>) -> io::Result<Option<u64>> {
    let mut file = DiskFile::open(path, PIECE_BYTES)?;
    let (mut hash, mut from, length) = (Xxh3::new(), 0, file.length()?);
    while from < length {
        let piece = usize::try_from(length - from).unwrap_or(usize::MAX).min(PIECE_BYTES);
        hash.update(file.read(from, piece)?);
        from += piece as u64;
        if went(piece as u64).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(hash.digest()))
}
