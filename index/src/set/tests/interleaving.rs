//! Writes, jobs and restarts in any order: each view shows the points of its moment, and answers as a plain map does.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::set::PartKind;

/// Ids in use.
const IDS: u64 = 150;
const STEPS: usize = 400;
const SEEDS: u64 = 40;

/// A set, a map that has the same points, and all that is under way.
struct World {
    rng: StdRng,
    dim: u32,
    metric: Metric,
    set: PointSet,
    points: Points,
    version: u64,
    jobs: Vec<(JobInput, Option<Product>)>,
    views: Vec<(Arc<View>, Points)>,
    /// The files of every segment there ever was.
    files: Vec<(Vec<u8>, Vec<u8>)>,
}

#[test]
fn every_view_is_the_map_of_its_moment() {
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
            assert_eq!(world.set.len(), world.points.len());
        }
        world.publish();
        world.views.iter().for_each(|(view, points)| check(view, points, &mut world.rng));
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let metric = METRICS[rng.random_range(0..3)];
        let dim = *[1, 3, 20, 64].choose(&mut rng).expect("there are some");
        let (points, jobs, views, files) = Default::default();
        Self { rng, dim, metric, set: PointSet::new(dim, metric, POLICY), points, version: 0, jobs, views, files }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..50 => self.upsert(),
            50..70 => self.delete(),
            70..76 => drop(self.set.seal(None)),
            76..80 => self.begin_planned(),
            80..82 => self.begin_any(),
            82..87 => self.build(),
            87..89 => self.bury(),
            89..92 => self.install(),
            92..93 => self.abandon(),
            93..99 => self.publish(),
            _ => self.restart(),
        }
    }

    fn upsert(&mut self) {
        self.version += 1;
        let id = id(self.rng.random_range(0..IDS));
        let vector = coarse(&mut self.rng, self.dim, self.metric);
        let point = Point { version: self.version, vector, size: self.rng.random_range(0..10) };
        upsert(&mut self.set, &mut self.points, id, point);
        if self.set.is_full() {
            assert!(self.set.seal(None).is_some());
        }
    }

    fn delete(&mut self) {
        let id = id(self.rng.random_range(0..IDS));
        assert_eq!(
            self.set.delete(&id),
            self.points.remove(&id).map(|point| point.version),
            "there was such a point, or not"
        );
    }

    fn begin_planned(&mut self) {
        if let Some(job) = self.set.plan() {
            self.jobs.push((self.set.begin(job).expect("what is planned may begin"), None));
        }
    }

    /// A job that no policy would plan.
    fn begin_any(&mut self) {
        let of = |kind| self.set.parts().into_iter().filter(move |part| part.kind == kind).map(|part| part.id);
        let (sealed, segments): (Vec<_>, Vec<_>) = (of(PartKind::Sealed).collect(), of(PartKind::Segment).collect());
        let job = match self.rng.random_range(0..3) {
            0 => sealed.choose(&mut self.rng).map(|delta| Job::Build { delta: *delta }),
            1 => segments.choose(&mut self.rng).map(|segment| Job::Rewrite { segment: *segment }),
            _ => {
                let some = segments.choose_multiple(&mut self.rng, 3).copied().collect();
                Some(Job::Merge { segments: some })
            }
        };
        // Its parts may be in another.
        self.jobs.extend(job.and_then(|job| self.set.begin(job).ok()).map(|input| (input, None)));
    }

    fn build(&mut self) {
        let Some((input, made)) = self.jobs.iter_mut().find(|(_, made)| made.is_none()) else { return };
        let product = if input.is_empty() && self.rng.random() {
            // An empty segment is as good as none.
            input.product(build(self.metric, input)).expect("it was built of this input")
        } else {
            product(self.metric, input)
        };
        if let Some(part) = &product.segment {
            assert_eq!(part.segment.unreachable(), 0, "points that no walk finds");
            let bytes = |image: &crate::file::Image| image.bytes().to_vec();
            self.files.push((bytes(part.segment.graph_image()), bytes(part.segment.stored_image())));
        }
        *made = Some(product);
    }

    /// What has died so far, ahead of the install.
    fn bury(&mut self) {
        for made in self.jobs.iter_mut().filter_map(|(_, made)| made.as_mut()) {
            let died = self.set.died(made).expect("the job runs");
            made.bury(&died);
            made.bury(&died);
        }
    }

    fn install(&mut self) {
        let Some(at) = self.jobs.iter().position(|(_, made)| made.is_some()) else { return };
        let mut made = self.jobs.swap_remove(at).1.expect("it was looked for");
        if self.rng.random() {
            made.bury(&self.set.died(&made).expect("the job runs"));
        }
        let installed = self.set.install(made).expect("the job runs");
        let parts = self.set.parts();
        assert!(installed.replaced.iter().all(|gone| parts.iter().all(|part| part.id != *gone)));
        assert!(installed.part.is_none_or(|new| parts.iter().any(|part| part.id == new && part.live > 0)));
        assert_eq!(installed.retired.parts(), installed.replaced.len());
    }

    fn abandon(&mut self) {
        if let Some((input, _)) = self.jobs.pop() {
            self.set.abandon(input.id()).expect("the job runs");
        }
    }

    /// Looks at the oldest view that is kept, and keeps a new one.
    fn publish(&mut self) {
        self.views.push((self.set.publish(), self.points.clone()));
        if self.views.len() > 4 {
            let (view, points) = self.views.remove(0);
            check(&view, &points, &mut self.rng);
        }
    }

    /// Opens files, some of which are of parts that are long gone, and replays the points as a store does.
    fn restart(&mut self) {
        let parts = self.set.parts().iter().filter(|part| part.kind == PartKind::Segment).count();
        let mut files: Vec<_> = self.files.choose_multiple(&mut self.rng, parts + 2).collect();
        files.extend(self.files.last());
        let segments = files.iter().map(|(graph, stored)| Segment::from_bytes(graph, stored).expect("it was built"));
        let restart = PointSet::with_segments(self.dim, self.metric, POLICY, segments.collect(), vec![None; 2], None);
        let mut restart = restart.expect("segments are of this shape");
        let mut rows: Vec<_> = self.points.iter().collect();
        if self.rng.random() {
            rows.reverse();
        }
        for (id, point) in rows {
            if !restart.record(id, point.version) {
                let delta = [None, Some(0), Some(1)][self.rng.random_range(0..3)];
                restart.upsert(delta, id.clone(), point.version, &point.vector, payload(point.size).into());
            }
        }
        self.set = restart.finish();
        self.jobs.clear();
    }
}

/// Whether a view shows `points`, and answers as they do.
fn check(view: &View, points: &Points, rng: &mut StdRng) {
    assert_eq!(view.len(), points.len());
    let all = view.scroll(None, usize::MAX, None, &never).expect("nothing stops it");
    let shown: BTreeMap<_, _> = all.iter().map(|(id, row)| (id.clone(), point_at(view, *row))).collect();
    assert_eq!(all.len(), points.len(), "each point once");
    assert_eq!(&shown, points);
    assert!(all.is_sorted_by(|a, b| a.0 < b.0));
    for number in 0..IDS / 3 {
        let id = id(number);
        let row = view.get(&id);
        assert_eq!(row.map(|row| point_at(view, row)).as_ref(), points.get(&id), "point {id}");
    }
    let bound = rng.random_range(0..11);
    check_pages(view, points, &at_least(bound), rng);
    check_search(view, points, &Filter::default(), rng);
    check_search(view, points, &at_least(bound), rng);
}

fn check_pages(view: &View, points: &Points, filter: &Filter, rng: &mut StdRng) {
    let prepared = prepare(view, filter);
    let passes = |(id, point): &(&PointId, &Point)| {
        filter.matches(id, &Payload::from([("size".to_owned(), Value::Integer(point.size))]))
    };
    let passing: Vec<&PointId> = points.iter().filter(passes).map(|(id, _)| id).collect();
    assert_eq!(view.count(Some(&prepared), &never), Ok(passing.len() as u64));
    assert_eq!(view.count(None, &never), Ok(points.len() as u64));
    let after = points.keys().nth(rng.random_range(0..=points.len()));
    let limit = rng.random_range(0..30);
    let page = view.scroll(after, limit, Some(&prepared), &never).expect("nothing stops it");
    let want: Vec<&PointId> = passing.into_iter().filter(|id| Some(*id) > after).take(limit).collect();
    assert_eq!(page.iter().map(|(id, _)| id).collect::<Vec<_>>(), want);
}

fn check_search(view: &View, points: &Points, filter: &Filter, rng: &mut StdRng) {
    let vector = coarse(rng, view.dim(), view.metric());
    let k = rng.random_range(0..25);
    let prepared = (!filter.is_empty()).then(|| prepare(view, filter));
    let limit = points
        .values()
        .next()
        .filter(|_| rng.random())
        .map(|point| Exact::new(view.metric(), &vector).score(&point.vector));
    let exact = SetQuery { filter: prepared.as_ref(), score_limit: limit, ..query(&vector, k, Look::Exact) };
    let want = naive(view.metric(), points, &exact, filter);
    assert_eq!(hits(&search(view, &exact)), want, "an exact search finds what the definition says");
    for look in [Look::Exact, WALK] {
        let query = SetQuery { look, ..exact };
        let parts = rng.random_range(1..5);
        let mut scanned = 0;
        let part = |part| {
            let (found, stats) = view.search_part(part, parts, &mut Scratch::new(), &query).expect("it fits");
            scanned += stats.scan.scanned;
            found
        };
        let merged = Found::merge(view.metric(), k, (0..parts).map(part).collect());
        let whole = search(view, &query);
        assert_eq!(merged, whole, "parts merge to the whole");
        if look == Look::Exact {
            assert!(scanned <= points.len() as u64, "each point is compared once");
        }
        let all = naive(view.metric(), points, &SetQuery { k: usize::MAX, ..exact }, filter);
        for found in merged.iter().chain(&whole) {
            assert!(all.contains(&hits(std::slice::from_ref(found))[0]), "{found:?} lives, passes, and is so near");
            assert_eq!(&point_at(view, found.row), &points[&found.id]);
        }
        assert!(whole.is_sorted_by(|a, b| view.metric().compare(a.score, b.score).then(a.id.cmp(&b.id)).is_lt()));
    }
}
