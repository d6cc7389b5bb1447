//! Rows of vector files, one at a time: `.npy`, `.fvecs` and `.jsonl`, plain or gzipped, with payload joined by row.
//!
//! Rows count from 0. Every row that was read goes into a running digest, so that a resumed import can tell whether
//! what it skips is what it sent. Nothing here holds more than one row.

mod fvecs;
mod jsonl;
mod npy;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value as Json};
use shoal_model::{Payload, Point, PointId};
use xxhash_rust::xxh3::Xxh3;

use crate::json;

pub(crate) use self::jsonl::Lines;
pub(crate) use self::npy::{Component, header as npy_header};

/// Longest row that is read, in bytes.
const ROW_BYTES_MAX: u64 = 64 << 20;

/// Most components of a row that are read.
const DIM_MAX: u64 = 1 << 20;

/// A source of bytes.
pub(crate) type Bytes = Box<dyn BufRead + Send>;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowsError {
    /// It cannot be opened.
    #[error("open {file}: {source}")]
    Open { file: String, source: std::io::Error },
    /// It is not of a form that can be read.
    #[error("{file}: {problem}")]
    Form { file: String, problem: String },
    /// One of its rows is wrong; those before are fine.
    #[error("{file}, row {row} (counted from 0): {problem}")]
    Row { file: String, row: u64, problem: String },
}

/// Where rows come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// The vectors.
    pub(crate) file: PathBuf,
    /// Payload by row number, for files that hold vectors alone.
    pub(crate) payload: Option<PathBuf>,
    /// Field that holds the id.
    pub(crate) id_field: Option<String>,
}

/// Rows of an open file.
pub(crate) struct Rows {
    file: String,
    form: Form,
    payload: Option<(String, Lines)>,
    id_field: Option<String>,
    next: u64,
    digest: Xxh3,
}

enum Form {
    Npy(npy::Npy),
    Fvecs(fvecs::Fvecs),
    Jsonl(jsonl::JsonRows),
}

/// An object of a line.
type Object = Map<String, Json>;

/// A row as it was read.
enum Raw {
    Vector(Vec<f32>),
    Object(Object),
}

impl Source {
    /// A file that holds ids and payload itself, or needs none.
    pub(crate) fn file(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), payload: None, id_field: None }
    }

    /// Opens the file and reads as much as tells its form and dimension.
    pub(crate) fn open(&self) -> Result<Rows, RowsError> {
        let payload = match &self.payload {
            Some(path) => Some((path.display().to_string(), open(path)?)),
            None => None,
        };
        let file = self.file.display().to_string();
        Rows::new(file, open(&self.file)?, payload, self.id_field.clone())
    }
}

/// The bytes of a file, unpacked where they begin like gzip.
pub(crate) fn open(path: &Path) -> Result<Bytes, RowsError> {
    let failed = |source| RowsError::Open { file: path.display().to_string(), source };
    let mut reader = BufReader::with_capacity(1 << 18, File::open(path).map_err(failed)?);
    let packed = reader.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
    Ok(if packed { unpacked(reader) } else { Box::new(reader) })
}

/// The bytes inside gzip.
pub(crate) fn unpacked(reader: impl BufRead + Send + 'static) -> Bytes {
    Box::new(BufReader::with_capacity(1 << 18, MultiGzDecoder::new(reader)))
}

impl Rows {
    /// Rows of `bytes`, whose form the end of the name `file` tells.
    pub(crate) fn new(
        file: String,
        bytes: Bytes,
        payload: Option<(String, Bytes)>,
        id_field: Option<String>,
    ) -> Result<Self, RowsError> {
        let wrong = |problem: String| RowsError::Form { file: file.clone(), problem };
        let plain = file.strip_suffix(".gz").unwrap_or(&file);
        let form = match plain.rsplit_once('.').map(|(_, extension)| extension) {
            Some("npy") => Form::Npy(npy::Npy::open(bytes).map_err(wrong)?),
            Some("fvecs") => Form::Fvecs(fvecs::Fvecs::open(bytes).map_err(wrong)?),
            Some("jsonl" | "ndjson") => Form::Jsonl(jsonl::JsonRows::open(bytes).map_err(wrong)?),
            _ => return Err(wrong("is not .npy, .fvecs or .jsonl, plain or with .gz".to_owned())),
        };
        if payload.is_some() && matches!(form, Form::Jsonl(_)) {
            return Err(wrong("holds its payload itself; leave out --payload".to_owned()));
        }
        let mut digest = Xxh3::new();
        digest.update(form.dim().to_string().as_bytes());
        let payload = payload.map(|(name, bytes)| (name, Lines::new(bytes)));
        Ok(Self { file, form, payload, id_field, next: 0, digest })
    }

    /// Name of the file.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// Components of each row.
    pub(crate) fn dim(&self) -> u32 {
        self.form.dim()
    }

    /// How many rows there are, where the file tells.
    pub(crate) fn total(&self) -> Option<u64> {
        match &self.form {
            Form::Npy(npy) => Some(npy.rows()),
            Form::Fvecs(_) | Form::Jsonl(_) => None,
        }
    }

    /// Whether components are 16-bit floats.
    pub(crate) fn is_f16(&self) -> bool {
        matches!(&self.form, Form::Npy(npy) if npy.is_f16())
    }

    /// Number of the next row.
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    /// Digest of the rows read so far.
    pub(crate) fn digest(&self) -> u64 {
        self.digest.digest()
    }

    /// An error about row `row`.
    pub(crate) fn wrong(&self, row: u64, problem: impl Into<String>) -> RowsError {
        RowsError::Row { file: self.file.clone(), row, problem: problem.into() }
    }

    /// The next point, or `None` behind the last row.
    pub(crate) fn next_point(&mut self) -> Result<Option<Point>, RowsError> {
        let row = self.next;
        let Some((raw, joined)) = self.read()? else { return Ok(None) };
        let point = match raw {
            Raw::Vector(vector) => self.joined_point(vector, joined),
            Raw::Object(object) => object_point(object, self.id_field.as_deref().unwrap_or("id")),
        };
        let point = point.map_err(|problem| self.wrong(row, problem))?;
        if point.vector.len() != self.dim() as usize {
            let problem = format!("vector has {} components, row 0 has {}", point.vector.len(), self.dim());
            return Err(self.wrong(row, problem));
        }
        Ok(Some(point))
    }

    /// Passes over rows without looking into them, up to row `end`. Whether there were as many.
    pub(crate) fn skip_to(&mut self, end: u64) -> Result<bool, RowsError> {
        while self.next < end {
            if self.read()?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next row and the object joined to it.
    fn read(&mut self) -> Result<Option<(Raw, Option<Object>)>, RowsError> {
        let row = self.next;
        let read = match &mut self.form {
            Form::Npy(npy) => npy.read(&mut self.digest).map(|row| row.map(Raw::Vector)),
            Form::Fvecs(fvecs) => fvecs.read(&mut self.digest).map(|row| row.map(Raw::Vector)),
            Form::Jsonl(rows) => rows.read(&mut self.digest).map(|row| row.map(Raw::Object)),
        };
        let Some(raw) = read.map_err(|problem| self.wrong(row, problem))? else { return Ok(None) };
        let joined = match &mut self.payload {
            None => None,
            Some((file, lines)) => {
                let wrong = |problem| RowsError::Row { file: file.clone(), row, problem };
                let object = lines.read(&mut self.digest).map_err(wrong)?;
                let object = object.ok_or_else(|| wrong("is missing; the file of vectors has more rows".to_owned()))?;
                check_joined(&object, row).map_err(wrong)?;
                Some(object)
            }
        };
        self.next += 1;
        Ok(Some((raw, joined)))
    }

    fn joined_point(&self, vector: Vec<f32>, joined: Option<Object>) -> Result<Point, String> {
        let mut fields = joined.unwrap_or_default();
        let row = fields.remove("id");
        let id = match self.id_field.as_deref() {
            None | Some("id") => PointId::Number(self.next - 1),
            Some(field) => taken_id(&mut fields, field)?,
        };
        drop(row); // equals the row number, as was checked
        Ok(Point { id, vector, payload: payload(fields)? })
    }
}

impl Form {
    fn dim(&self) -> u32 {
        match self {
            Self::Npy(npy) => npy.dim(),
            Self::Fvecs(fvecs) => fvecs.dim(),
            Self::Jsonl(rows) => rows.dim(),
        }
    }
}

/// A joined object that names its row must name this one: files that are out of step would mix up everything.
fn check_joined(object: &Object, row: u64) -> Result<(), String> {
    match object.get("id") {
        Some(id) if id.as_u64() != Some(row) => Err(format!("its `id` is {id}, must be the row number {row}")),
        _ => Ok(()),
    }
}

fn object_point(mut object: Object, id_field: &str) -> Result<Point, String> {
    let id = taken_id(&mut object, id_field)?;
    let vector = object.remove("vector").ok_or("has no `vector`")?;
    let vector = json::vector(&vector).map_err(|error| error.to_string())?;
    if let Some(Json::Object(inner)) = object.get("payload") {
        let inner = inner.clone();
        object.remove("payload");
        object.extend(inner);
    }
    Ok(Point { id, vector, payload: payload(object)? })
}

fn taken_id(object: &mut Object, field: &str) -> Result<PointId, String> {
    let value = object.remove(field).ok_or_else(|| format!("has no `{field}`, which should hold its id"))?;
    json::id(&value).map_err(|problem| format!("`{field}` {problem}"))
}

fn payload(fields: Object) -> Result<Payload, String> {
    json::payload(fields).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
