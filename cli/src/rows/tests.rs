//! Files as they come, and files as they should not.

use std::io::{Cursor, Write as _};

use shoal_model::Value;

use super::*;

fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let length = u16::try_from(header.len()).expect("a short header");
    [b"\x93NUMPY\x01\x00", &length.to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn f32s(components: &[f32]) -> Vec<u8> {
    components.iter().flat_map(|c| c.to_le_bytes()).collect()
}

fn fvecs(rows: &[&[f32]]) -> Vec<u8> {
    let row = |row: &&[f32]| [&i32::try_from(row.len()).expect("short").to_le_bytes()[..], &f32s(row)].concat();
    rows.iter().flat_map(row).collect()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// Writes files into a folder and opens the first, with the second as payload.
fn open_files(files: &[(&str, Vec<u8>)], id_field: Option<&str>) -> (tempfile::TempDir, Result<Rows, RowsError>) {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("written");
    }
    let source = Source {
        file: folder.path().join(files[0].0),
        payload: files.get(1).map(|(name, _)| folder.path().join(name)),
        id_field: id_field.map(str::to_owned),
    };
    let rows = source.open();
    (folder, rows)
}

/// All points up to the first error.
fn drain(rows: &mut Rows) -> (Vec<Point>, Option<RowsError>) {
    let mut points = Vec::new();
    loop {
        match rows.next_point() {
            Ok(Some(point)) => points.push(point),
            Ok(None) => return (points, None),
            Err(error) => return (points, Some(error)),
        }
    }
}

#[test]
fn every_form_gives_the_same_rows() {
    let want = [vec![1.0, -2.0], vec![3.0, 4.0], vec![0.0, 7.0]];
    let flat: Vec<f32> = want.concat();
    let halves: Vec<u8> = flat.iter().flat_map(|c| half::f16::from_f32(*c).to_le_bytes()).collect();
    let doubles: Vec<u8> = flat.iter().flat_map(|c| f64::from(*c).to_le_bytes()).collect();
    let bytes: Vec<u8> = vec![1, 254, 3, 4, 0, 7];
    let shorts: Vec<u8> = [1_i16, -2, 3, 4, 0, 7].iter().flat_map(|c| c.to_le_bytes()).collect();
    let lines = b"{\"id\":0,\"vector\":[1,-2]}\n\n{\"id\":1,\"vector\":[3,4]}\n{\"id\":2,\"vector\":[0,7]}".to_vec();
    for (name, file, bytes) in [
        ("f32", "a.npy", npy("<f4", "(3, 2)", &f32s(&flat))),
        ("f16", "a.npy", npy("<f2", "(3, 2)", &halves)),
        ("f64", "a.npy", npy("<f8", "(3, 2)", &doubles)),
        ("i8", "a.npy", npy("|i1", "(3, 2)", &bytes)),
        ("i16", "a.npy", npy("<i2", "(3, 2)", &shorts)),
        ("fvecs", "a.fvecs", fvecs(&[&want[0], &want[1], &want[2]])),
        ("jsonl", "a.jsonl", lines.clone()),
        ("packed npy", "a.npy.gz", gz(&npy("<f4", "(3, 2)", &f32s(&flat)))),
        ("packed fvecs", "a.fvecs.gz", gz(&fvecs(&[&want[0], &want[1], &want[2]]))),
        ("packed jsonl", "a.jsonl.gz", gz(&lines)),
    ] {
        let (_folder, rows) = open_files(&[(file, bytes)], None);
        let mut rows = rows.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(rows.dim(), 2, "{name}");
        assert_eq!(rows.is_f16(), name == "f16", "{name}");
        let (points, error) = drain(&mut rows);
        assert!(error.is_none(), "{name}: {error:?}");
        for (row, (point, vector)) in points.iter().zip(&want).enumerate() {
            assert_eq!((&point.id, &point.vector), (&PointId::Number(row as u64), vector), "{name}, row {row}");
        }
        assert_eq!(points.len(), 3, "{name}");
    }
}

#[test]
fn unsigned_bytes_stay_unsigned() {
    let (_folder, rows) = open_files(&[("a.npy", npy("|u1", "(1, 2)", &[0, 255]))], None);
    assert_eq!(drain(&mut rows.expect("well-formed")).0[0].vector, [0.0, 255.0]);
}

#[test]
fn broken_files_are_refused_with_what_is_wrong() {
    let two = f32s(&[1.0, 2.0]);
    for (name, file, bytes, want) in [
        ("no array", "a.npy", b"hello".to_vec(), "is not a NumPy array"),
        ("empty", "a.npy", vec![], "is not a NumPy array"),
        ("one dimension", "a.npy", npy("<f4", "(2,)", &two), "shape [2]"),
        ("no components", "a.npy", npy("<f4", "(2, 0)", &[]), "shape [2, 0]"),
        ("texts", "a.npy", npy("<U4", "(1, 2)", &[0; 32]), "type"),
        ("big-endian", "a.npy", npy(">f4", "(1, 2)", &two), "type"),
        ("complex", "a.npy", npy("<c8", "(1, 1)", &two), "type"),
        ("unknown form", "a.csv", vec![], "is not .npy"),
        ("short fvecs", "a.fvecs", vec![1, 0], "too short"),
        ("negative fvecs", "a.fvecs", (-1_i32).to_le_bytes().to_vec(), "-1 components"),
        ("no lines", "a.jsonl", b"\n\n".to_vec(), "no rows"),
        ("no vector", "a.jsonl", b"{\"id\":1}".to_vec(), "row 0"),
        ("no object", "a.jsonl", b"[1]".to_vec(), "row 0"),
        ("bad gzip", "a.npy.gz", [&[0x1f, 0x8b][..], &[0; 64]].concat(), "is not a NumPy array"),
    ] {
        let (_folder, rows) = open_files(&[(file, bytes)], None);
        let error = rows.err().unwrap_or_else(|| panic!("{name} must be refused")).to_string();
        assert!(error.contains(want) && error.contains(file), "{name}: {error}");
    }
}

#[test]
fn a_bad_row_is_named_and_those_before_it_are_kept() {
    let four = f32s(&[1.0, 2.0, 3.0, 4.0]);
    let packed = gz(&npy("<f4", "(40000, 2)", &vec![0x3f; 40_000 * 8]));
    let mut corrupt = gz(b"{\"id\":0,\"vector\":[1]}\n{\"id\":1,\"vector\":[2]}\n");
    let check = corrupt.len() - 8; // the checksum of all bytes
    corrupt[check] ^= 0xff;
    for (name, file, bytes, kept, want) in [
        ("truncated npy", "a.npy", npy("<f4", "(3, 2)", &four), 2, "promises 3 rows"),
        ("torn npy row", "a.npy", npy("<f4", "(3, 2)", &four[..12]), 1, "promises 3 rows"),
        ("truncated gzip", "a.npy.gz", packed[..packed.len() - 9].to_vec(), 0, "row"),
        ("bad checksum", "a.jsonl.gz", corrupt, 2, "cannot be read"),
        ("torn fvecs", "a.fvecs", fvecs(&[&[1.0], &[2.0]])[..15].to_vec(), 1, "ends inside"),
        ("ragged fvecs", "a.fvecs", fvecs(&[&[1.0], &[2.0, 3.0]]), 1, "2 components"),
        (
            "ragged jsonl",
            "a.jsonl",
            b"{\"id\":0,\"vector\":[1]}\n{\"id\":1,\"vector\":[1,2]}".to_vec(),
            1,
            "row 0 has 1",
        ),
        ("bad line", "a.jsonl", b"{\"id\":0,\"vector\":[1]}\n{\"id\":1,".to_vec(), 1, "not a JSON object"),
        ("no id", "a.jsonl", b"{\"id\":0,\"vector\":[1]}\n{\"vector\":[1]}".to_vec(), 1, "no `id`"),
        ("bad id", "a.jsonl", b"{\"id\":0,\"vector\":[1]}\n{\"id\":-1,\"vector\":[1]}".to_vec(), 1, "`id` is -1"),
        ("null", "a.jsonl", b"{\"id\":0,\"vector\":[1]}\n{\"id\":1,\"vector\":[null]}".to_vec(), 1, "vector[0]"),
    ] {
        let (_folder, rows) = open_files(&[(file, bytes)], None);
        let mut rows = rows.unwrap_or_else(|error| panic!("{name}: {error}"));
        let (points, error) = drain(&mut rows);
        let error = error.unwrap_or_else(|| panic!("{name} must be refused")).to_string();
        assert!(points.len() >= kept, "{name}: {} rows kept, {kept} are fine", points.len());
        let named = format!("row {}", points.len());
        assert!(error.contains(want) && error.contains(file) && error.contains(&named), "{name}: {error}");
    }
}

#[test]
fn payload_is_joined_by_row() {
    let vectors = npy("<f4", "(2, 1)", &f32s(&[1.0, 2.0]));
    let docs = b"{\"id\":0,\"t\":\"a\",\"doc\":\"x1\"}\n{\"id\":1,\"t\":\"b\",\"doc\":\"x2\"}\n".to_vec();
    let (_folder, rows) = open_files(&[("a.npy", vectors.clone()), ("docs.jsonl.gz", gz(&docs))], None);
    let (points, _) = drain(&mut rows.expect("well-formed"));
    assert_eq!(points[1].payload["t"], Value::Text("b".into()));
    assert!(!points[1].payload.contains_key("id"), "the id is no payload field");

    let (_folder, rows) = open_files(&[("a.npy", vectors.clone()), ("docs.jsonl", docs)], Some("doc"));
    let (points, _) = drain(&mut rows.expect("well-formed"));
    assert_eq!(points[1].id, PointId::Text("x2".into()));
    assert_eq!(points[1].payload.keys().collect::<Vec<_>>(), ["t"]);

    for (name, docs, want) in [
        ("out of step", &b"{\"id\":0}\n{\"id\":2}\n"[..], "its `id` is 2"),
        ("too few", b"{\"id\":0}\n", "is missing"),
        ("bad line", b"{\"id\":0}\nx\n", "not a JSON object"),
    ] {
        let (_folder, rows) = open_files(&[("a.npy", vectors.clone()), ("docs.jsonl", docs.to_vec())], None);
        let (points, error) = drain(&mut rows.expect("well-formed"));
        let error = error.unwrap_or_else(|| panic!("{name} must be refused")).to_string();
        assert!(points.len() == 1 && error.contains("docs.jsonl, row 1") && error.contains(want), "{name}: {error}");
    }
}

#[test]
fn json_payload_is_beside_the_vector_or_inside() {
    let lines = b"{\"id\":\"a\",\"vector\":[1],\"x\":1}\n{\"id\":\"b\",\"vector\":[1],\"payload\":{\"x\":2}}".to_vec();
    let (_folder, rows) = open_files(&[("a.jsonl", lines)], None);
    let (points, _) = drain(&mut rows.expect("well-formed"));
    assert_eq!([&points[0].payload["x"], &points[1].payload["x"]], [&Value::Integer(1), &Value::Integer(2)]);
    assert_eq!(points[1].payload.len(), 1);
}

#[test]
fn the_digest_tells_what_was_passed_over() {
    let line = |i: u32, x: u32| format!("{{\"id\":{i},\"vector\":[{x}]}}\n");
    let (first, last) = (line(0, 5) + &line(1, 6), line(2, 7));
    let digest_after_two = |text: String| {
        let bytes: Bytes = Box::new(Cursor::new(text.into_bytes()));
        let mut rows = Rows::new("a.jsonl".into(), bytes, None, None).expect("well-formed");
        assert!(rows.skip_to(2).expect("two rows"));
        rows.digest()
    };
    let sent = digest_after_two(first.clone() + &last);
    assert_eq!(sent, digest_after_two(first + "{ mended later }"), "rows behind it do not matter");
    assert_ne!(sent, digest_after_two(line(0, 5) + &line(1, 9) + &last), "a row that changed shows");
}
