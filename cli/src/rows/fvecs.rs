//! The `.fvecs` format: each row is its number of components (i32) and the components (f32), little-endian.

use std::io::{ErrorKind, Read as _};

use xxhash_rust::xxh3::Xxh3;

use super::npy::Component;
use super::{Bytes, DIM_MAX};

/// An open file.
pub(super) struct Fvecs {
    bytes: Bytes,
    dim: u32,
    row: Vec<u8>,
}

impl Fvecs {
    /// Looks at the first row's length, without taking it.
    pub(super) fn open(mut bytes: Bytes) -> Result<Self, String> {
        let ahead = bytes.fill_buf().map_err(|error| format!("cannot be read: {error}"))?;
        let first = ahead.first_chunk::<4>().ok_or("is too short to hold a row")?;
        let dim = i32::from_le_bytes(*first);
        let known = u32::try_from(dim).ok().filter(|dim| (1..=DIM_MAX).contains(&u64::from(*dim)));
        let dim = known.ok_or_else(|| format!("begins with a row of {dim} components; is it .fvecs?"))?;
        Ok(Self { bytes, dim, row: vec![0; dim as usize * 4] })
    }

    pub(super) fn dim(&self) -> u32 {
        self.dim
    }

    pub(super) fn read(&mut self, digest: &mut Xxh3) -> Result<Option<Vec<f32>>, String> {
        if self.bytes.fill_buf().map_err(|error| format!("cannot be read: {error}"))?.is_empty() {
            return Ok(None);
        }
        let torn = |error: std::io::Error| match error.kind() {
            ErrorKind::UnexpectedEof => "the file ends inside this row".to_owned(),
            _ => format!("cannot be read: {error}"),
        };
        let mut length = [0; 4];
        self.bytes.read_exact(&mut length).map_err(torn)?;
        let dim = i32::from_le_bytes(length);
        if u32::try_from(dim) != Ok(self.dim) {
            return Err(format!("vector has {dim} components, row 0 has {}", self.dim));
        }
        self.bytes.read_exact(&mut self.row).map_err(torn)?;
        digest.update(&self.row);
        Ok(Some(Component::F32.decode(&self.row)))
    }
}
