//! NumPy's format: a header with type and shape, then the array row by row.

use std::io::{ErrorKind, Read as _};

use half::f16;
use npyz::{DType, NpyHeader, Order, TypeChar};
use xxhash_rust::xxh3::Xxh3;

use super::{Bytes, DIM_MAX};

/// An open array of two dimensions.
pub(super) struct Npy {
    bytes: Bytes,
    component: Component,
    rows: u64,
    dim: u32,
    read: u64,
    row: Vec<u8>,
}

/// Type of an array's elements; little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Component {
    U8,
    I8,
    U16,
    I16,
    I32,
    I64,
    F16,
    F32,
    F64,
}

impl Component {
    /// The type that a header names.
    pub(crate) fn of(header: &NpyHeader) -> Result<Self, String> {
        let DType::Plain(descr) = header.dtype() else {
            return Err("holds records; an array of numbers is needed".to_owned());
        };
        let little = descr.to_string().starts_with(['<', '|']);
        match (descr.type_char(), descr.size_field(), little) {
            (TypeChar::Uint, 1, _) => Ok(Self::U8),
            (TypeChar::Int, 1, _) => Ok(Self::I8),
            (TypeChar::Uint, 2, true) => Ok(Self::U16),
            (TypeChar::Int, 2, true) => Ok(Self::I16),
            (TypeChar::Int, 4, true) => Ok(Self::I32),
            (TypeChar::Int, 8, true) => Ok(Self::I64),
            (TypeChar::Float, 2, true) => Ok(Self::F16),
            (TypeChar::Float, 4, true) => Ok(Self::F32),
            (TypeChar::Float, 8, true) => Ok(Self::F64),
            _ => Err(format!(
                "has elements of type {descr}; little-endian f2, f4, f8, i1, i2, i4, i8, u1 or u2 are read"
            )),
        }
    }

    /// Bytes of one element.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    /// Elements as `f32`, rounded where they do not fit.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "components are f32")]
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::U8 => bytes.iter().map(|byte| f32::from(*byte)).collect(),
            Self::I8 => bytes.iter().map(|byte| f32::from(byte.cast_signed())).collect(),
            Self::U16 => each(bytes, |quad| f32::from(u16::from_le_bytes(quad))),
            Self::I16 => each(bytes, |quad| f32::from(i16::from_le_bytes(quad))),
            Self::F16 => each(bytes, |pair| f16::from_le_bytes(pair).to_f32()),
            Self::I32 => each(bytes, |quad| i32::from_le_bytes(quad) as f32),
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::I64 => each(bytes, |eight| i64::from_le_bytes(eight) as f32),
            Self::F64 => each(bytes, |eight| f64::from_le_bytes(eight) as f32),
        }
    }
}

fn each<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| decode(*chunk)).collect()
}

/// Reads a header and leaves `bytes` at the array.
pub(crate) fn header(bytes: &mut Bytes) -> Result<NpyHeader, String> {
    let header = NpyHeader::from_reader(bytes).map_err(|error| format!("is not a NumPy array: {error}"))?;
    if header.order() == Order::Fortran && header.shape().len() > 1 {
        return Err("is in Fortran order; save it with numpy.ascontiguousarray".to_owned());
    }
    Ok(header)
}

impl Npy {
    pub(super) fn open(mut bytes: Bytes) -> Result<Self, String> {
        let header = header(&mut bytes)?;
        let component = Component::of(&header)?;
        let (rows, dim) = match *header.shape() {
            [rows, dim] if (1..=DIM_MAX).contains(&dim) => (rows, dim),
            ref shape => return Err(format!("has the shape {shape:?}; rows × components are needed")),
        };
        let dim = u32::try_from(dim).map_err(|_| "has rows that are too long".to_owned())?;
        Ok(Self { bytes, component, rows, dim, read: 0, row: vec![0; dim as usize * component.size()] })
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn dim(&self) -> u32 {
        self.dim
    }

    pub(super) fn is_f16(&self) -> bool {
        self.component == Component::F16
    }

    pub(super) fn read(&mut self, digest: &mut Xxh3) -> Result<Option<Vec<f32>>, String> {
        if self.read == self.rows {
            // One look further, for the checksum at the end of gzip. Bytes behind the array are nobody's.
            return self.bytes.fill_buf().map(|_| None).map_err(|error| format!("cannot be read to its end: {error}"));
        }
        self.bytes.read_exact(&mut self.row).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => format!("the file ends here; its header promises {} rows", self.rows),
            _ => format!("cannot be read: {error}"),
        })?;
        self.read += 1;
        digest.update(&self.row);
        Ok(Some(self.component.decode(&self.row)))
    }
}
