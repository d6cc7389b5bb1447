//! Bytes that change under a view: what it answers is right, or it says that it cannot answer.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rand::SeedableRng;

use super::*;
use crate::IndexError;
use crate::file::{FileScrub, Residency};
use crate::segment::Precision;

const POINTS: u16 = 600;
const DIM: u16 = 24;
const SEED: u64 = 44;
/// Flips in each section of each file.
const FLIPS: usize = 10;

/// A view of one segment, whose files lie in a folder, and what is true of it.
struct Rig {
    view: Arc<View>,
    points: Points,
    files: Vec<PathBuf>,
    metric: Metric,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new(metric: Metric, precision: Option<Precision>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut rng = StdRng::seed_from_u64(SEED);
        let mut set = PointSet::new(u32::from(DIM), metric, Policy { delta_points_max: 10_000, ..POLICY });
        let mut points = Points::new();
        for number in 0..POINTS {
            let vector = (0..DIM).map(|_| rng.random_range(-1.0_f32..1.0)).collect();
            let point = Point { version: u64::from(number) + 1, vector, size: i64::from(number % 50) };
            upsert(&mut set, &mut points, PointId::Number(number.into()), point);
        }
        let delta = set.seal(None).expect("it has points");
        let (name, residency) = ("1".to_owned(), Residency::Mapped);
        let target = Target::Folder { folder: folder.path().to_owned(), name, residency };
        let input = set.begin(Job::Build { delta }).expect("it is a delta");
        let parameters = Parameters { precision, ..parameters(metric) };
        let product = input.execute(&parameters, &target, &never).expect("the disk has room");
        set.install(product).expect("the job runs");
        Self { view: set.publish(), points, files: target.files(), metric, _folder: folder }
    }

    /// Asks everything that can be asked; tells what could not be answered. What is answered must be right.
    fn refusals(&self, rng: &mut StdRng, name: &str) -> usize {
        let vector: Vec<f32> = (0..DIM).map(|_| rng.random_range(-1.0_f32..1.0)).collect();
        let mut refused = 0;
        for filter in [Filter::default(), at_least(48), at_least(20)] {
            let prepared = prepare(&self.view, &filter);
            for look in [Look::Exact, Look::Walk(Effort::Recall(0.95)), Look::Walk(Effort::Beam(80))] {
                let query = SetQuery { filter: Some(&prepared), ..query(&vector, 10, look) };
                refused += usize::from(!self.is_answered(&query, &filter, name));
            }
            let count = self.view.count(Some(&prepared), &never).expect("the payload index lies in memory");
            assert_eq!(count, self.passing(&filter).count() as u64, "{name}: count");
        }
        refused + usize::from(!self.is_scrolled(name))
    }

    fn passing<'a>(&'a self, filter: &'a Filter) -> impl Iterator<Item = &'a PointId> {
        let payload = |point: &Point| Payload::from([("size".to_owned(), Value::Integer(point.size))]);
        self.points.iter().filter(move |(id, point)| filter.matches(id, &payload(point))).map(|(id, _)| id)
    }

    fn is_answered(&self, query: &SetQuery<'_>, filter: &Filter, name: &str) -> bool {
        let found = match self.view.search(&mut Scratch::new(), query) {
            Ok((found, _)) => found,
            Err(error) => {
                assert!(matches!(error, IndexError::Damaged { .. }), "{name}: {error}");
                return false;
            }
        };
        let truth = naive(self.metric, &self.points, query, filter);
        if query.look == Look::Exact {
            assert_eq!(hits(&found), truth, "{name}: an exact search");
        }
        let exact = Exact::new(self.metric, query.vector);
        let passing: BTreeSet<&PointId> = self.passing(filter).collect();
        let mut is_whole = true;
        for found in &found {
            let point = &self.points[&found.id];
            assert!(passing.contains(&found.id), "{name}: {} does not pass", found.id);
            assert_eq!(found.score.to_bits(), exact.score(&point.vector).to_bits(), "{name}: a score");
            is_whole &= self.is_read(found.row, point, name);
        }
        is_whole
    }

    fn is_read(&self, row: Row, point: &Point, name: &str) -> bool {
        let (vector, read) = (self.view.vector(row), self.view.payload(row));
        if let Ok(vector) = &vector {
            assert_eq!(*vector, point.vector, "{name}: a vector");
        }
        if let Ok(read) = &read {
            assert_eq!(*read, payload(point.size), "{name}: payload");
        }
        vector.is_ok() && read.is_ok()
    }

    fn is_scrolled(&self, name: &str) -> bool {
        let page = self.view.scroll(None, usize::from(POINTS), None, &never).expect("ids lie in memory");
        assert!(page.iter().map(|(id, _)| id).eq(self.points.keys()), "{name}: a page");
        let reads: Vec<bool> = page.iter().map(|(id, row)| self.is_read(*row, &self.points[id], name)).collect();
        reads.into_iter().all(|is_sound| is_sound)
    }

    /// Whether a scrub finds both files sound.
    fn is_sound(&self) -> bool {
        let segment = self.view.segments().next().expect("there is one");
        [segment.graph_image(), segment.stored_image()].into_iter().all(|image| {
            let Ok(mut scrub) = FileScrub::begin(image) else { return false };
            (0..scrub.blocks()).all(|block| scrub.check(block).is_ok())
        })
    }
}

/// Names and places of a file's parts: header, sections, checksums.
fn parts(bytes: &[u8]) -> Vec<(String, std::ops::Range<usize>)> {
    let number =
        |at: usize| usize::try_from(u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))).expect("small");
    let sections = (0..16).map(|i| 32 + i * 24).map(|at| {
        let (start, length) = (number(at + 8), number(at + 16));
        (String::from_utf8_lossy(&bytes[at..at + 8]).trim().to_owned(), start..start + length)
    });
    let mut all: Vec<_> = sections.filter(|(_, range)| !range.is_empty()).collect();
    let end = all.iter().map(|(_, range)| range.end.next_multiple_of(4_096)).max().expect("there are sections");
    all.extend([("header".to_owned(), 0..4_096), ("checksums".to_owned(), end..bytes.len())]);
    all
}

#[test]
fn bytes_that_change_under_a_view_spoil_no_answer() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let forms = [
        (Metric::Cosine, None),
        (Metric::Euclidean, Some(Precision::F16)),
        (Metric::Dot, Some(Precision::Int8)),
        (Metric::Cosine, Some(Precision::Compact)),
    ];
    let (mut flips, mut noticed) = (0, 0);
    for (metric, precision) in forms {
        let rig = Rig::new(metric, precision);
        assert!(rig.is_sound() && rig.refusals(&mut rng, "untouched") == 0);
        for path in &rig.files {
            let file = File::options().write(true).open(path).expect("a file");
            let whole = fs::read(path).expect("read");
            for (name, range) in parts(&whole) {
                for _ in 0..FLIPS {
                    let at = rng.random_range(range.clone());
                    let flipped = whole[at] ^ (1 << rng.random_range(0..8));
                    file.write_at(&[flipped], at as u64).expect("written");
                    let name = format!("{precision:?}, byte {at} in {name} of {}", path.display());
                    noticed += usize::from(rig.refusals(&mut rng, &name) > 0);
                    assert!(!rig.is_sound(), "{name}: the scrub does not find it");
                    file.write_at(&whole[at..=at], at as u64).expect("written");
                    flips += 1;
                }
            }
        }
        assert!(rig.is_sound() && rig.refusals(&mut rng, "mended") == 0);
    }
    println!("{flips} flips, all found by the scrub, {noticed} by reads; no answer was wrong");
    assert!(noticed > 0);
}
