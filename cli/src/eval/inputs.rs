//! Files of an evaluation: queries, exact answers, filters, judgments.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value as Json;
use shoal_model::Filter;
use xxhash_rust::xxh3::Xxh3;

use super::metrics::{Gains, Truth};
use crate::failure::Failure;
use crate::json;
use crate::rows::{Bytes, Component, Lines, Source, npy_header, open};

/// A filter to measure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NamedFilter {
    pub(crate) name: String,
    pub(crate) filter: Filter,
}

/// Bytes of an array, and what to call them in errors.
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) bytes: Bytes,
}

impl Named {
    /// The bytes of a file.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        Ok(Self { name: path.display().to_string(), bytes: open(path)? })
    }
}

fn wrong(file: &Path, problem: impl std::fmt::Display) -> Failure {
    Failure::new(format!("{}: {problem}", file.display()))
}

/// The vectors of a file, at most `limit`.
pub(crate) fn queries(file: &Path, limit: Option<usize>) -> Result<Vec<Vec<f32>>, Failure> {
    let mut rows = Source::file(file).open()?;
    let mut queries = Vec::new();
    while limit.is_none_or(|limit| queries.len() < limit) {
        match rows.next_point()? {
            Some(point) => queries.push(point.vector),
            None => break,
        }
    }
    if queries.is_empty() { Err(wrong(file, "holds no queries")) } else { Ok(queries) }
}

/// An array of numbers of any shape.
struct Array {
    shape: Vec<usize>,
    component: Component,
    data: Vec<u8>,
}

fn array(mut bytes: Bytes) -> Result<Array, String> {
    let header = npy_header(&mut bytes)?;
    let component = Component::of(&header)?;
    let shape: Option<Vec<usize>> = header.shape().iter().map(|length| usize::try_from(*length).ok()).collect();
    let shape = shape.ok_or("is larger than this machine's memory")?;
    let product = shape.iter().try_fold(component.size(), |size, length| size.checked_mul(*length));
    let size = product.ok_or("is larger than this machine's memory")?;
    let mut data = Vec::new();
    bytes.take(size as u64).read_to_end(&mut data).map_err(|error| format!("cannot be read: {error}"))?;
    if data.len() < size {
        return Err(format!("ends after {} of {size} bytes", data.len()));
    }
    Ok(Array { shape, component, data })
}

/// Exact answers of each slice (one for each filter, or a single one): `[slice][query]`.
///
/// `slices` is `None` for arrays of queries × n, and the number of slices for those of slices × queries × n.
pub(crate) fn truth(
    ids: Named,
    distances: Option<Named>,
    slices: Option<usize>,
    queries: usize,
) -> Result<Vec<Vec<Truth>>, Failure> {
    let numbers = array(ids.bytes).map_err(|problem| Failure::new(format!("{}: {problem}", ids.name)))?;
    let wrong = |problem: String| Failure::new(format!("{}: {problem}", ids.name));
    let (slices, rows, n) = match (slices, numbers.shape.as_slice()) {
        (None, [rows, n]) if *rows >= queries => (1, *rows, *n),
        (Some(slices), [found, rows, n]) if *found == slices && *rows >= queries => (slices, *rows, *n),
        _ => {
            let want = slices.map(|slices| format!("{slices} filters × ")).unwrap_or_default();
            return Err(wrong(format!("has the shape {:?}, must be {want}{queries} queries × n", numbers.shape)));
        }
    };
    let all_ids = numbers.integers().map_err(wrong)?;
    let all_distances = match distances {
        Some(distances) => distances_of_shape(distances, &numbers.shape)?,
        None => Vec::new(),
    };
    let at = |slice: usize, query: usize| {
        let range = (slice * rows + query) * n..(slice * rows + query + 1) * n;
        let distances = all_distances.get(range.clone()).map(<[f32]>::to_vec).unwrap_or_default();
        Truth { ids: all_ids[range].to_vec(), distances }
    };
    Ok((0..slices).map(|slice| (0..queries).map(|query| at(slice, query)).collect()).collect())
}

fn distances_of_shape(named: Named, shape: &[usize]) -> Result<Vec<f32>, Failure> {
    let array = array(named.bytes).map_err(|problem| Failure::new(format!("{}: {problem}", named.name)))?;
    if array.shape == shape {
        return Ok(array.component.decode(&array.data));
    }
    Err(Failure::new(format!("{}: has the shape {:?}, the ids have {shape:?}", named.name, array.shape)))
}

impl Array {
    fn integers(&self) -> Result<Vec<i64>, String> {
        match self.component {
            Component::I32 => {
                Ok(self.data.as_chunks().0.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes))).collect())
            }
            Component::I64 => Ok(self.data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()),
            other => Err(format!("has elements of type {other:?}; ids are i4 or i8")),
        }
    }
}

/// The filters of a file: a list of `{"name", "filter"}`.
pub(crate) fn filters(file: &Path) -> Result<Vec<NamedFilter>, Failure> {
    let json: Json =
        serde_json::from_reader(open(file)?).map_err(|error| wrong(file, format!("is not JSON: {error}")))?;
    let items = json.as_array().ok_or_else(|| wrong(file, "is not a list of filters"))?;
    let convert = |(i, item): (usize, &Json)| {
        let name = item["name"].as_str().map_or_else(|| format!("filter {i}"), str::to_owned);
        let form = item.get("filter").ok_or_else(|| wrong(file, format!("item {i} has no `filter`")))?;
        let filter = json::filter(form).map_err(|error| wrong(file, format!("{name}: {error}")))?;
        Ok(NamedFilter { name, filter })
    };
    items.iter().enumerate().map(convert).collect()
}

/// Judgments by query: lines of `query_id`, `doc_id` and `gain`, with tabs between, after a header line.
pub(crate) fn judgments(file: &Path) -> Result<BTreeMap<String, Gains>, Failure> {
    let mut text = String::new();
    open(file)?.read_to_string(&mut text).map_err(|error| wrong(file, format!("cannot be read: {error}")))?;
    let mut lines = text.lines().enumerate();
    match lines.next() {
        Some((_, header)) if header.split('\t').eq(["query_id", "doc_id", "gain"]) => {}
        _ => return Err(wrong(file, "must begin with the line query_id, doc_id, gain, with tabs between")),
    }
    let mut all = BTreeMap::<String, Gains>::new();
    for (i, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let parts: Vec<&str> = line.split('\t').collect();
        let gain = parts.get(2).and_then(|gain| gain.trim().parse::<f64>().ok()).filter(|gain| gain.is_finite());
        match (parts.as_slice(), gain) {
            ([query, doc, _], Some(gain)) => {
                all.entry((*query).to_owned()).or_default().insert((*doc).to_owned(), gain);
            }
            _ => return Err(wrong(file, format!("line {} is not query_id, doc_id and a number", i + 1))),
        }
    }
    Ok(all)
}

/// Names of the first `count` queries: a field of each object of a `.jsonl` file, given as `FILE:FIELD`.
pub(crate) fn query_names(argument: &str, count: usize) -> Result<Vec<String>, Failure> {
    let (file, field) = argument
        .rsplit_once(':')
        .ok_or_else(|| Failure::new(format!("{argument:?} must be FILE:FIELD, such as queries.jsonl:query_id")))?;
    let file = Path::new(file);
    let mut lines = Lines::new(open(file)?);
    let mut names = Vec::with_capacity(count);
    while names.len() < count {
        let row = names.len();
        let object = lines.read(&mut Xxh3::new()).map_err(|problem| wrong(file, format!("row {row}: {problem}")))?;
        let object = object.ok_or_else(|| wrong(file, format!("has {row} rows, there are {count} queries")))?;
        match object.get(field) {
            Some(Json::String(name)) => names.push(name.clone()),
            Some(Json::Number(number)) => names.push(number.to_string()),
            _ => return Err(wrong(file, format!("row {row} has no `{field}` that is a text or number"))),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        (folder, path)
    }

    fn npy<T: npyz::Serialize + npyz::AutoSerialize + Copy>(shape: &[u64], values: &[T]) -> Vec<u8> {
        use npyz::WriterBuilder as _;
        let mut bytes = Vec::new();
        let options = npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes);
        let mut writer = options.begin_nd().expect("memory");
        writer.extend(values.iter().copied()).expect("memory");
        writer.finish().expect("memory");
        bytes
    }

    fn read(
        ids: &Path,
        distances: Option<&Path>,
        slices: Option<usize>,
        queries: usize,
    ) -> Result<Vec<Vec<Truth>>, Failure> {
        truth(Named::open(ids)?, distances.map(Named::open).transpose()?, slices, queries)
    }

    #[test]
    fn truth_is_read_by_slice_and_query() {
        let (_a, ids) = written("ids.npy", &npy(&[2, 2, 2], &[1_i32, 2, 3, 4, 5, -1, 7, 8]));
        let (_b, distances) = written("d.npy", &npy(&[2, 2, 2], &[0.1_f32, 0.2, 0.3, 0.4, 0.5, 2.0, 0.7, 0.8]));
        let all = read(&ids, Some(&distances), Some(2), 2).expect("well-formed");
        assert_eq!(all[1][0], Truth { ids: vec![5, -1], distances: vec![0.5, 2.0] });
        assert_eq!(read(&ids, None, Some(2), 1).expect("fewer queries are fine")[1].len(), 1);

        let (_c, flat) = written("flat.npy", &npy(&[2, 2], &[1_i64, 2, 3, 4]));
        assert_eq!(read(&flat, None, None, 2).expect("well-formed")[0][1].ids, [3, 4]);
        let mut torn = npy(&[2, 2], &[1_i64, 2, 3, 4]);
        torn.truncate(torn.len() - 1);
        let (_d, torn) = written("torn.npy", &torn);
        for (name, got, want) in [
            ("too few queries", read(&flat, None, None, 3), "3 queries"),
            ("not the filters", read(&ids, None, Some(3), 2), "3 filters"),
            ("other shape", read(&flat, Some(&distances), None, 2), "the ids have"),
            ("no ids", read(&distances, None, Some(2), 2), "ids are i4"),
            ("torn", read(&torn, None, None, 2), "ends after"),
        ] {
            let error = got.expect_err(name).to_string();
            assert!(error.contains(want), "{name}: {error}");
        }
    }

    #[test]
    fn judgments_are_read_by_query() {
        let (_a, file) = written("qrels.tsv", b"query_id\tdoc_id\tgain\n1\tx\t1\n1\ty\t2\n2\tx\t0.5\n");
        let all = judgments(&file).expect("well-formed");
        assert_eq!(all["1"], Gains::from([("x".to_owned(), 1.0), ("y".to_owned(), 2.0)]));
        for (text, want) in [
            ("1\tx\t1\n", "must begin"),
            ("query_id\tdoc_id\tgain\n1\tx\n", "line 2"),
            ("query_id\tdoc_id\tgain\n1\tx\t1\n2\tx\tlots\n", "line 3"),
        ] {
            let (_b, file) = written("qrels.tsv", text.as_bytes());
            let error = judgments(&file).expect_err(text).to_string();
            assert!(error.contains(want), "{text:?}: {error}");
        }
    }

    #[test]
    fn query_names_come_from_a_field() {
        let (_a, file) = written("q.jsonl", b"{\"query_id\":\"a\"}\n{\"query_id\":7}\n{\"id\":1}\n");
        let argument = format!("{}:query_id", file.display());
        assert_eq!(query_names(&argument, 2).expect("well-formed"), ["a", "7"]);
        assert!(query_names(&argument, 3).is_err(), "row 2 has no such field");
        assert!(query_names(&argument.replace("query_id", "id"), 3).is_err(), "row 0 has no such field");
        assert!(query_names("no colon", 1).is_err());
    }
}
