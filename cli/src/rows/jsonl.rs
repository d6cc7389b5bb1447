//! Lines of JSON objects.

use std::io::{BufRead as _, Read as _};

use serde_json::{Map, Value as Json};
use xxhash_rust::xxh3::Xxh3;

use super::{Bytes, ROW_BYTES_MAX};
use crate::json;

/// Objects, one a line; empty lines are passed over and do not count.
pub(crate) struct Lines {
    bytes: Bytes,
    line: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { bytes, line: Vec::new() }
    }

    /// The next object, or `None` at the end.
    pub(crate) fn read(&mut self, digest: &mut Xxh3) -> Result<Option<Map<String, Json>>, String> {
        if !self.next_line()? {
            return Ok(None);
        }
        let object = serde_json::from_slice(&self.line).map_err(|error| format!("is not a JSON object: {error}"))?;
        digest.update(&self.line);
        Ok(Some(object))
    }

    /// Reads the next line that is not empty.
    fn next_line(&mut self) -> Result<bool, String> {
        loop {
            self.line.clear();
            let mut bounded = (&mut self.bytes).take(ROW_BYTES_MAX);
            let read = bounded.read_until(b'\n', &mut self.line).map_err(|error| format!("cannot be read: {error}"))?;
            if read == 0 {
                return Ok(false);
            }
            if read as u64 == ROW_BYTES_MAX && !self.line.ends_with(b"\n") {
                return Err(format!("is longer than {ROW_BYTES_MAX} bytes"));
            }
            let trimmed = self.line.trim_ascii_end().len();
            self.line.truncate(trimmed);
            if trimmed > 0 {
                return Ok(true);
            }
        }
    }
}

/// Objects that hold a vector each.
pub(super) struct JsonRows {
    lines: Lines,
    dim: u32,
    /// The first row, read to learn the dimension, with the digest of its line.
    first: Option<(Map<String, Json>, Vec<u8>)>,
}

impl JsonRows {
    pub(super) fn open(bytes: Bytes) -> Result<Self, String> {
        let mut lines = Lines::new(bytes);
        let first = lines.read(&mut Xxh3::new()).map_err(|problem| format!("row 0 (counted from 0): {problem}"))?;
        let first = first.ok_or("holds no rows")?;
        let vector = first.get("vector").ok_or("row 0 (counted from 0): has no `vector`")?;
        let vector = json::vector(vector).map_err(|error| format!("row 0 (counted from 0): {error}"))?;
        let dim = u32::try_from(vector.len()).map_err(|_| "row 0 (counted from 0): vector is too long")?;
        let line = lines.line.clone();
        Ok(Self { lines, dim, first: Some((first, line)) })
    }

    pub(super) fn dim(&self) -> u32 {
        self.dim
    }

    pub(super) fn read(&mut self, digest: &mut Xxh3) -> Result<Option<Map<String, Json>>, String> {
        match self.first.take() {
            Some((first, line)) => {
                digest.update(&line);
                Ok(Some(first))
            }
            None => self.lines.read(digest),
        }
    }
}
