//! Arrays of two dimensions in NumPy's format: read in any type that data sets use, written as `f32`.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::path::Path;

use half::f16;
use npyz::{DType, Deserialize, NpyFile, Order, TypeChar, WriterBuilder as _};

/// Rows of equal length, one behind the other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matrix<T> {
    columns: usize,
    values: Vec<T>,
}

impl<T> Matrix<T> {
    /// `values` row by row; their number is a multiple of `columns`, which is at least 1.
    pub(crate) fn new(columns: usize, values: Vec<T>) -> Self {
        assert!(columns > 0 && values.len().is_multiple_of(columns), "{} values in rows of {columns}", values.len());
        Self { columns, values }
    }

    /// How many rows.
    pub(crate) fn len(&self) -> usize {
        self.values.len() / self.columns
    }

    /// Values in a row.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// One row.
    pub(crate) fn row(&self, number: usize) -> &[T] {
        &self.values[number * self.columns..][..self.columns]
    }

    /// Row by row, from the first.
    pub(crate) fn rows(&self) -> impl ExactSizeIterator<Item = &[T]> + Clone {
        self.values.chunks_exact(self.columns)
    }

    /// Row by row, to change.
    pub(crate) fn rows_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [T]> {
        self.values.chunks_exact_mut(self.columns)
    }

    /// A copy of the first `len` rows, or of all if there are fewer.
    pub(crate) fn head(&self, len: usize) -> Self
    where
        T: Clone,
    {
        let end = self.values.len().min(len * self.columns);
        Self { columns: self.columns, values: self.values[..end].to_vec() }
    }

    /// Forgets all rows but the first `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.values.truncate(len * self.columns);
    }
}

/// Vectors of `f2`, `f4` or `u1`, widened to `f32`.
///
/// Errors: a sentence about what is wrong with the file, without its name.
pub(crate) fn read_vectors(path: &Path) -> Result<Matrix<f32>, String> {
    let (file, kind, shape) = open(path)?;
    let [columns] = two_axes(&shape)?;
    let values = match kind {
        (TypeChar::Float, 2) => values::<f16>(file)?.into_iter().map(f16::to_f32).collect(),
        (TypeChar::Float, 4) => values::<f32>(file)?,
        (TypeChar::Uint, 1) => values::<u8>(file)?.into_iter().map(f32::from).collect(),
        _ => return Err("holds neither f2, f4 nor u1, which is what vectors are read from".to_owned()),
    };
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(Matrix::new(columns, values)),
        Some(at) => Err(format!("row {} holds {}", at / columns, values[at])),
    }
}

/// Row numbers of `i4`, `i8` or `u4`; −1 stands for none.
///
/// Errors: as [`read_vectors`].
pub(crate) fn read_ids(path: &Path) -> Result<Matrix<i64>, String> {
    let (file, kind, shape) = open(path)?;
    let [columns] = two_axes(&shape)?;
    Ok(Matrix::new(columns, ids(file, kind)?))
}

/// As [`read_ids`], of an array of cases × rows × columns: a matrix for each case.
pub(crate) fn read_ids_of_cases(path: &Path) -> Result<Vec<Matrix<i64>>, String> {
    let (file, kind, shape) = open(path)?;
    let [_, rows, columns] = shape[..] else {
        return Err(format!("has the shape {shape:?}; cases × rows × columns are needed"));
    };
    let values = ids(file, kind)?;
    Ok(values.chunks_exact((rows * columns).max(1)).map(|case| Matrix::new(columns, case.to_vec())).collect())
}

fn ids(file: NpyFile<BufReader<File>>, kind: (TypeChar, u64)) -> Result<Vec<i64>, String> {
    Ok(match kind {
        (TypeChar::Int, 4) => values::<i32>(file)?.into_iter().map(i64::from).collect(),
        (TypeChar::Int, 8) => values::<i64>(file)?,
        (TypeChar::Uint, 4) => values::<u32>(file)?.into_iter().map(i64::from).collect(),
        _ => return Err("holds neither i4, i8 nor u4, which is what ids are read from".to_owned()),
    })
}

/// The columns of a matrix.
fn two_axes(shape: &[usize]) -> Result<[usize; 1], String> {
    match shape[..] {
        [_, columns] => Ok([columns]),
        _ => Err(format!("has the shape {shape:?}; rows × columns are needed")),
    }
}

/// Writes vectors as `f4`.
pub(crate) fn write_vectors(path: &Path, vectors: &Matrix<f32>) -> io::Result<()> {
    let shape = [vectors.len() as u64, vectors.columns as u64];
    let mut out = BufWriter::new(File::create(path)?);
    let mut array = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut out).begin_nd()?;
    array.extend(vectors.values.iter().copied())?;
    array.finish()?;
    out.flush()
}

/// An array that was not read yet, the type of its items, and its shape.
type Open = (NpyFile<BufReader<File>>, (TypeChar, u64), Vec<usize>);

/// Reads the header and sees that the file is as long as it promises, before anything is allocated for it.
fn open(path: &Path) -> Result<Open, String> {
    let unread = |error: io::Error| format!("cannot be read: {error}");
    let file = File::open(path).map_err(unread)?;
    let size_bytes = file.metadata().map_err(unread)?.len();
    let array = NpyFile::new(BufReader::new(file)).map_err(|error| format!("is not a NumPy array: {error}"))?;
    let DType::Plain(descr) = array.dtype() else {
        return Err("holds records; an array of numbers is needed".to_owned());
    };
    if array.order() == Order::Fortran {
        return Err("is in Fortran order; save it with numpy.ascontiguousarray".to_owned());
    }
    let item_bytes = descr.size_field();
    let promised_bytes = array.shape().iter().try_fold(item_bytes, |bytes, axis| bytes.checked_mul(*axis));
    if array.shape().last() == Some(&0) || promised_bytes.is_none_or(|bytes| bytes > size_bytes) {
        let shape: Vec<String> = array.shape().iter().map(u64::to_string).collect();
        let shape = shape.join(" × ");
        return Err(format!("promises {shape} values of {item_bytes} bytes and has {size_bytes} bytes"));
    }
    let kind = (descr.type_char(), item_bytes);
    let axes = array.shape().iter().map(|axis| usize::try_from(*axis));
    let shape = axes.collect::<Result<_, _>>().map_err(|_| "has rows that are too long".to_owned())?;
    Ok((array, kind, shape))
}

fn values<T: Deserialize>(file: NpyFile<BufReader<File>>) -> Result<Vec<T>, String> {
    file.into_vec().map_err(|error| format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file as NumPy writes it.
    fn file(folder: &Path, descr: &str, shape: &str, fortran: bool, data: &[u8]) -> std::path::PathBuf {
        let order = if fortran { "True" } else { "False" };
        let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let length = u16::try_from(header.len()).expect("a short header");
        let bytes = [b"\x93NUMPY\x01\x00", &length.to_le_bytes()[..], header.as_bytes(), data].concat();
        let path = folder.join("array.npy");
        fs::write(&path, bytes).expect("the temporary folder is writable");
        path
    }

    #[test]
    fn vectors_of_every_type_are_widened() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let halves: Vec<u8> = [1.0, 2.5].iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        let singles: Vec<u8> = [1.0_f32, 2.5].iter().flat_map(|x| x.to_le_bytes()).collect();
        for (name, descr, data, want) in [
            ("f2", "<f2", halves, [1.0, 2.5]),
            ("f4", "<f4", singles, [1.0, 2.5]),
            ("u1", "|u1", vec![0, 255], [0.0, 255.0]),
        ] {
            let read = read_vectors(&file(folder.path(), descr, "(2, 1)", false, &data));
            assert_eq!(read, Ok(Matrix::new(1, want.to_vec())), "{name}");
        }
    }

    #[test]
    fn ids_of_every_type_are_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let four: Vec<u8> = [7_i32, -1].iter().flat_map(|x| x.to_le_bytes()).collect();
        let eight: Vec<u8> = [7_i64, -1].iter().flat_map(|x| x.to_le_bytes()).collect();
        for (descr, data) in [("<i4", four), ("<i8", eight)] {
            let read = read_ids(&file(folder.path(), descr, "(1, 2)", false, &data));
            assert_eq!(read, Ok(Matrix::new(2, vec![7, -1])), "{descr}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.npy");
        let vectors = Matrix::new(3, vec![1.0, -2.0, 3.5, 0.0, f32::MIN_POSITIVE, 1e30]);
        write_vectors(&path, &vectors).expect("the temporary folder is writable");
        assert_eq!(read_vectors(&path), Ok(vectors));
    }

    #[test]
    fn what_is_no_such_array_is_refused_with_a_sentence() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, descr, shape, fortran, data, want) in [
            ("one dimension", "<f4", "(2,)", false, &[0; 8][..], "rows × columns"),
            ("columns first", "<f4", "(1, 2)", true, &[0; 8][..], "Fortran"),
            ("cut short", "<f4", "(400, 200)", false, &[0; 8][..], "promises"),
            ("a size that overflows", "<f4", "(9223372036854775807, 4)", false, &[0; 8][..], "promises"),
            ("no columns", "<f4", "(2, 0)", false, &[][..], "promises"),
            ("another type", "<f8", "(1, 1)", false, &[0; 8][..], "neither"),
            ("not a number", "<f4", "(1, 1)", false, &f32::NAN.to_le_bytes()[..], "row 0 holds NaN"),
        ] {
            let refused = read_vectors(&file(folder.path(), descr, shape, fortran, data));
            assert!(refused.as_ref().is_err_and(|problem| problem.contains(want)), "{name}: {refused:?}");
        }
        let text = folder.path().join("text.npy");
        fs::write(&text, "hello").expect("the temporary folder is writable");
        assert!(read_vectors(&text).is_err_and(|problem| problem.contains("not a NumPy array")));
    }
}
