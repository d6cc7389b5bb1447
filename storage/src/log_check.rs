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
use std::path::Path;
use std::thread;
use std::time::Duration;

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// Of a record that names its log, as files have that are used again.
const LONG_HEADER_BYTES: usize = 11;
/// Types of such records.
const LONG_TYPES: [u8; 6] = [5, 6, 7, 8, 11, 131];
/// Until what is being written when a file is read is there as a whole.
const SECOND_LOOK_AFTER: Duration = Duration::from_millis(50);

/// Looks through every log file in a folder; says what is wrong with the first that is damaged, and tells `went` how many
/// bytes each has.
pub(crate) fn damage(folder: &Path, went: &mut dyn FnMut(u64)) -> io::Result<Option<String>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let Some(bytes) = read(&path)? else { continue };
        went(bytes.len() as u64);
        if first_bad(&bytes).is_some()
            && let Some(at) = still_bad(&path)?
        {
            return Ok(Some(format!("{}, byte {at}", path.display())));
        }
    }
    Ok(None)
}

/// A second look: where it is bad, unless the file was only being written, or has gone.
fn still_bad(path: &Path) -> io::Result<Option<usize>> {
    let mut before = None;
    loop {
        thread::sleep(SECOND_LOOK_AFTER);
        let Some(bytes) = read(path)? else { return Ok(None) };
        let found = first_bad(&bytes);
        if found.is_none() || before == Some((found, bytes.len())) {
            return Ok(found);
        }
        // A place that stays while the file grows behind it is no write that is under way.
        if before.is_some_and(|(place, _)| place == found) {
            return Ok(found);
        }
        before = Some((found, bytes.len()));
    }
}

/// The bytes of a file; `None` if it has gone, as all its content is in tables by now.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// Where the first record begins that is not what was written.
fn first_bad(bytes: &[u8]) -> Option<usize> {
    bytes.chunks(BLOCK_BYTES).zip((0..).step_by(BLOCK_BYTES)).find_map(|(block, start)| Some(start + bad_in(block)?))
}

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
