//! Whether the files of the write-ahead log read back, while they are written.
//!
//! RocksDB reads its log when it opens, and never again: what it says is in memory until it is in table files. Damage there
//! shows at the next start, as the loss of what was acknowledged. So the log is looked through here, by its own checksums.
//!
//! ```text
//! file    = blocks of 32 KiB, of records; fewer than 7 bytes at the end of a block are padding
//! record  = masked CRC-32C of what follows (u32), length of the content (u16), type (u8), [number of the log (u32)], content
//! ```
//!
//! Source: RocksDB, `db/log_format.h`, `db/log_reader.cc`.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::thread;
use std::time::Duration;

use shoal_runtime::DiskFile;

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// Of a record that names its log, as files have that are used again.
const LONG_HEADER_BYTES: usize = 11;
/// Types of such records.
const LONG_TYPES: [u8; 6] = [5, 6, 7, 8, 11, 131];
/// What is being written when it is read is there as a whole soon after.
const SECOND_LOOKS: [Duration; 2] = [Duration::from_millis(50); 2];

/// Looks through every log file in a folder; says which is damaged first and where. `went` is told how many bytes it went on.
pub(crate) fn damage(folder: &Path, went: &mut dyn FnMut(u64) -> ControlFlow<()>) -> io::Result<Option<String>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        match first_bad(&path, went) {
            Ok(None) => {}
            Ok(Some(at)) => return Ok(Some(format!("{}, byte {at}", path.display()))),
            // All that it held is in tables by now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Where the first record begins that is not what was written.
fn first_bad(path: &Path, went: &mut dyn FnMut(u64) -> ControlFlow<()>) -> io::Result<Option<u64>> {
    let mut file = DiskFile::open(path, BLOCK_BYTES)?;
    for from in (0..).step_by(BLOCK_BYTES) {
        let block = read(&mut file, from)?;
        let (length, bad) = (block.len(), bad_in(block));
        if let Some(at) = bad
            && is_still_bad(&mut file, from, at)?
        {
            return Ok(Some(from + at as u64));
        }
        if went(length as u64).is_break() || length < BLOCK_BYTES {
            break;
        }
    }
    Ok(None)
}

/// What there is of the block that begins at `from`.
fn read(file: &mut DiskFile, from: u64) -> io::Result<&[u8]> {
    let rest = usize::try_from(file.length()?.saturating_sub(from)).unwrap_or(usize::MAX);
    file.read(from, rest.min(BLOCK_BYTES))
}

fn is_still_bad(file: &mut DiskFile, from: u64, at: usize) -> io::Result<bool> {
    for pause in SECOND_LOOKS {
        thread::sleep(pause);
        if bad_in(read(file, from)?) != Some(at) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where the first record of a block begins that is not sound.
fn bad_in(block: &[u8]) -> Option<usize> {
    let mut at = 0;
    while block.len() - at >= HEADER_BYTES {
        match record_bytes(&block[at..]) {
            Some(length) => at += length,
            None => return Some(at),
        }
    }
    // Less than a header is padding at the end of a block, and at that of a file half a record.
    (at < block.len() && block.len() < BLOCK_BYTES).then_some(at)
}

/// How long the record is that begins here, if it is sound.
fn record_bytes(rest: &[u8]) -> Option<usize> {
    let (masked, after) = rest.split_first_chunk::<4>()?;
    let &[low, high, kind, ..] = after else { return None };
    let header = if LONG_TYPES.contains(&kind) { LONG_HEADER_BYTES } else { HEADER_BYTES };
    let length = header + usize::from(u16::from_le_bytes([low, high]));
    let content = rest.get(6..length)?;
    (unmasked(u32::from_le_bytes(*masked)) == crc32c::crc32c(content)).then_some(length)
}

/// The checksum that was stored; RocksDB masks those that it stores.
fn unmasked(masked: u32) -> u32 {
    masked.wrapping_sub(0xa282_ead8).rotate_left(15)
}
