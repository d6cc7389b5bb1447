//! Both files of a segment with bytes changed and all checksums made right: refused, or searched without harm.

use std::sync::{Arc, LazyLock};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use shoal_index::IndexError;
use shoal_index::file::{BLOCK_BYTES, Image, Tag, Verify};
use shoal_index::packed;
use shoal_index::segment::{Effort, Parameters, Precision, Rows, Scratch, Segment, SegmentQuery, Target};
use shoal_index::set::{Look, PointSet, Policy, SetFilter, SetQuery};
use shoal_model::{Condition, Filter, Metric, Payload, PointId, Predicate, Scalar, Value};

use super::image::{HEADER_BYTES, seal};

const DIM: u32 = 6;
const POINTS: u16 = 150;

/// Of more changes one is nearly always refused.
const CHANGES_MAX: usize = 4;

/// Where the header has the parameters of the creator.
const PARAMETERS_AT: usize = 416;

/// Where those of a graph have the checksum of what is stored with it.
const STORED_AT: usize = PARAMETERS_AT + 16;

/// Bytes of parameters that mean something.
const PARAMETERS_BYTES: usize = 56;

/// Segments of each form that are sound: the graph, and what is stored with it.
static SOUND: LazyLock<Vec<[Vec<u8>; 2]>> = LazyLock::new(|| {
    let forms = [
        (Metric::Euclidean, None),
        (Metric::Cosine, Some(Precision::F16)),
        (Metric::Dot, Some(Precision::Int8)),
        (Metric::Cosine, Some(Precision::Compact)),
    ];
    forms.map(|(metric, precision)| build(metric, precision)).into()
});

fn build(metric: Metric, precision: Option<Precision>) -> [Vec<u8>; 2] {
    let mut rows = Rows::with_capacity(DIM, POINTS.into());
    for number in 0..POINTS {
        let component = |i: u16| f32::from((number + 1).wrapping_mul(i * 773 + 91) % 97) - 40.5;
        let vector: Vec<f32> = (0..6).map(component).collect();
        let payload = Payload::from([("a".to_owned(), Value::Bool(number.is_multiple_of(2)))]);
        rows.push(PointId::Number(number.into()), number.into(), &vector, Bytes::from(packed::encode(&payload)));
    }
    let parameters = Parameters { metric, precision, ef_construction: 20, seed: 1 };
    let segment = Segment::build(&rows, &parameters, &Target::Memory, &|| false).expect("nothing stops the build");
    [segment.graph_image().bytes().to_vec(), segment.stored_image().bytes().to_vec()]
}

/// Data is a number of a form, and what to change.
pub fn run(data: &[u8]) {
    // An input that ends early has done what it could.
    let _ = forge(&mut Unstructured::new(data));
}

fn forge(u: &mut Unstructured<'_>) -> Result<()> {
    let mut files = u.choose(&SOUND)?.clone();
    let changes = u.int_in_range(0..=CHANGES_MAX)?;
    for _ in 0..changes {
        patch(&mut files[usize::from(u.ratio(1, 5)?)], u)?;
    }
    let [graph, stored] = &mut files;
    let Some(checksum) = seal_all(stored) else { return Ok(()) };
    graph[STORED_AT..STORED_AT + 8].copy_from_slice(&checksum.to_le_bytes());
    seal_all(graph);
    match Segment::from_bytes(graph, stored) {
        Ok(segment) => search(segment),
        Err(error) => assert!(changes > 0, "what was built opens: {error}"),
    }
    Ok(())
}

fn seal_all(bytes: &mut [u8]) -> Option<u64> {
    let blocks = (bytes.len() - HEADER_BYTES - 8).div_ceil(BLOCK_BYTES + 8);
    seal(bytes, blocks)
}

/// Writes a few bytes to the parameters, to the header, or anywhere in a section.
fn patch(bytes: &mut [u8], u: &mut Unstructured<'_>) -> Result<()> {
    let at = match u.int_in_range(0..=7)? {
        0 => PARAMETERS_AT + u.int_in_range(0..=PARAMETERS_BYTES - 1)?,
        1 => 8 * u.int_in_range(0..=60)?,
        _ => within_section(bytes, u)?,
    };
    let number: u64 = match u.int_in_range(0..=4)? {
        0 => u.arbitrary()?,
        1 => u.int_in_range(0..=200)?,
        2 => f32::NAN.to_bits().into(),
        3 => f32::INFINITY.to_bits().into(),
        _ => u64::MAX - u.int_in_range(0..=200)?,
    };
    let width = (*u.choose(&[1, 2, 4, 8])?).min(bytes.len() - at);
    bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
    Ok(())
}

/// A place in a section, which are as likely as each other; the header's end if there is none.
fn within_section(bytes: &[u8], u: &mut Unstructured<'_>) -> Result<usize> {
    let Ok(image) = Image::from_bytes("file", bytes, Verify::Header) else { return Ok(HEADER_BYTES) };
    let tags: Vec<Tag> = image.tags().collect();
    let section = image.section(*u.choose(&tags)?).unwrap_or_default();
    let start = section.as_ptr().addr() - image.bytes().as_ptr().addr();
    let at = u.int_in_range(0..=section.len().saturating_sub(1))?;
    Ok((start + if u.ratio(1, 2)? { at / 4 * 4 } else { at }).min(bytes.len() - 1))
}

/// Asks for everything, in every way.
fn search(segment: Segment) {
    let len = segment.len();
    let mut vector = vec![0.0; segment.dim() as usize];
    for offset in 0..len {
        segment.read_vector(offset, &mut vector);
        let _ = (segment.id(offset), segment.payload(offset), segment.links(offset));
    }
    vector.iter_mut().zip(1_u8..).for_each(|(component, i)| *component = f32::from(i) - 2.5);
    let predicate = Predicate::Match(Scalar::Bool(true));
    let filter = Filter { must: vec![Condition::Field { key: "a".into(), predicate }], ..Filter::default() };
    let matches = segment.payload_index().evaluate(&filter, &|id| segment.find(id)).ok();
    let live: Vec<u64> = vec![0x5555_5555_5555_5555; (len as usize).div_ceil(64)];
    let mut scratch = Scratch::new();
    for (effort, k, limit) in [
        (Effort::Recall(0.9), 5, None),
        (Effort::Beam(20), usize::MAX, None),
        (Effort::Recall(f32::NAN), 100, Some(7.0)),
    ] {
        for (live, filter) in [(None, None), (Some(&live[..]), None), (Some(&live[..]), matches.as_ref())] {
            let query = SegmentQuery {
                vector: &vector,
                k,
                effort,
                live,
                filter,
                packed: None,
                score_limit: limit,
                stop: &|| false,
            };
            let (hits, _) = segment.search(&mut scratch, &query).expect("a fitting query is answered");
            assert!(hits.len() <= len as usize && hits.iter().all(|hit| hit.offset < len));
        }
    }
    look_at_all(segment, &vector, filter);
}

/// Compares every point, as a view does.
fn look_at_all(segment: Segment, vector: &[f32], filter: Filter) {
    let policy = Policy { delta_points_max: 10, delta_bytes_max: 1 << 20, segment_points_max: 1_000 };
    let points: Vec<(PointId, u64)> =
        (0..segment.len()).map(|offset| (segment.id(offset), segment.versions()[offset as usize])).collect();
    let (dim, metric) = (segment.dim(), segment.metric());
    let mut restart = PointSet::with_segments(dim, metric, policy, vec![segment], vec![], None).expect("its own shape");
    for (id, version) in &points {
        assert!(restart.record(id, *version), "it was read there");
    }
    let view = restart.finish().publish();
    let filter = view.filter(&Arc::new(SetFilter::new(filter)));
    for filter in [None, Some(&filter)] {
        let query = SetQuery { vector, k: 9, look: Look::Exact, filter, score_limit: None, stop: &|| false };
        match view.search(&mut Scratch::new(), &query) {
            Ok((found, _)) => found.iter().for_each(|found| drop(view.vector(found.row).expect("it was compared"))),
            Err(error) => assert!(matches!(error, IndexError::PayloadIndex(_) | IndexError::Damaged { .. }), "{error}"),
        }
    }
}
