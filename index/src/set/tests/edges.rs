//! What the set refuses, and what only happens at its edges.

use rand::{Rng, SeedableRng, rngs::StdRng};
use shoal_model::{Classify, ErrorKind};

use super::*;
use crate::IndexError;
use crate::segment::Rows;
use crate::set::{JobId, PartId, PartKind, Retired, SetError, SetStats};

/// A set of `len` points in `deltas` sealed deltas.
fn sealed(dim: u32, metric: Metric, len: u64, deltas: u64) -> (PointSet, Points) {
    let mut rng = StdRng::seed_from_u64(4);
    let (mut set, mut points) = (PointSet::new(dim, metric, POLICY), Points::new());
    for number in 0..len {
        let vector = (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect();
        let point = Point { version: number + 1, vector, size: (number % 10).cast_signed() };
        upsert(&mut set, &mut points, id(number), point);
        if (number + 1).is_multiple_of(len.div_ceil(deltas)) {
            set.seal(None);
        }
    }
    set.seal(None);
    (set, points)
}

fn job_of(set: &PointSet) -> Job {
    set.plan().expect("a sealed delta is there")
}

fn check_all(view: &View, points: &Points) {
    let page = view.scroll(None, usize::MAX, None, &never).expect("nothing stops it");
    let shown: Vec<_> = page.into_iter().map(|(id, row)| (id, point_at(view, row))).collect();
    let want: Vec<_> = points.iter().map(|(id, point)| (id.clone(), point.clone())).collect();
    assert_eq!(shown, want);
}

#[test]
fn sets_move_between_threads_and_views_are_shared_by_them() {
    fn moves<T: Send + 'static>() {}
    fn is_shared<T: Send + Sync + 'static>() {}
    moves::<PointSet>();
    moves::<Product>();
    moves::<Retired>();
    is_shared::<View>();
    is_shared::<ViewFilter>();
    is_shared::<JobInput>();
}

#[test]
fn what_dies_during_a_job_is_dead_in_its_segment() {
    let (mut set, mut points) = sealed(8, Metric::Euclidean, 120, 2);
    for _ in 0..2 {
        let job = job_of(&set);
        run(&mut set, job);
    }
    let segments: Vec<PartId> = set.parts().iter().filter(|p| p.kind == PartKind::Segment).map(|p| p.id).collect();
    let input = set.begin(Job::Merge { segments }).expect("both are free");
    let made = product(set.metric, &input);
    for number in 0..60 {
        if number % 2 == 0 {
            assert!(set.delete(&id(number)).is_some());
            points.remove(&id(number));
        } else {
            let point = Point { version: 1_000 + number, vector: vec![0.5; 8], size: 0 };
            upsert(&mut set, &mut points, id(number), point);
        }
    }
    let before = set.publish();
    let installed = set.install(made).expect("the job runs");
    assert!(!installed.retired.is_unused(), "a view shows the old parts");
    check_all(&before, &points);
    check_all(&set.publish(), &points);
    drop(before);
    assert!(installed.retired.is_unused());
    assert_eq!(set.parts().len(), 2, "a delta and a segment");
}

#[test]
fn a_job_whose_points_have_all_died_drops_its_parts() {
    let (mut set, _) = sealed(4, Metric::Dot, 30, 1);
    let input = set.begin(job_of(&set)).expect("it is free");
    let made = product(set.metric, &input);
    (0..30).for_each(|number| assert!(set.delete(&id(number)).is_some()));
    let installed = set.install(made).expect("the job runs");
    assert_eq!((installed.part, installed.replaced.len(), set.parts().len()), (None, 1, 1));

    let (mut set, _) = sealed(4, Metric::Dot, 30, 1);
    let job = job_of(&set);
    run(&mut set, job);
    (0..30).for_each(|number| assert!(set.delete(&id(number)).is_some()));
    let input = set.begin(set.plan().expect("a dead segment is to be dropped")).expect("it is free");
    assert!(input.is_empty());
    set.install(input.nothing().expect("nothing lives")).expect("the job runs");
    assert_eq!((set.parts().len(), set.plan(), set.is_empty()), (1, None, true));
    assert!(set.publish().is_empty());
}

#[test]
fn parts_are_in_one_job_at_a_time() {
    let (mut set, _) = sealed(4, Metric::Dot, 60, 2);
    let job = job_of(&set);
    let delta = job.parts()[0];
    let input = set.begin(job.clone()).expect("it is free");
    assert_ne!(set.plan().expect("there is another").parts(), [delta], "what is in a job is not planned");
    assert_eq!(set.begin(job.clone()).map(|_| ()), Err(SetError::Busy { part: delta }));
    assert_eq!(set.begin(Job::Rewrite { segment: delta }).map(|_| ()), Err(SetError::NoSuchPart { part: delta }));
    let nowhere = SetError::NoSuchPart { part: PartId(99) };
    assert_eq!(set.begin(Job::Build { delta: PartId(99) }).map(|_| ()), Err(nowhere.clone()));
    assert_eq!(nowhere.kind(), ErrorKind::NotFound);

    let made = product(set.metric, &input);
    set.abandon(input.id()).expect("the job runs");
    let gone = SetError::NoSuchJob { job: input.id() };
    assert_eq!(set.died(&made).map(|_| ()), Err(gone.clone()));
    let (mut other, _) = sealed(4, Metric::Dot, 60, 2);
    let same = other.begin(job_of(&other)).expect("it is free");
    assert_ne!(same.id(), input.id(), "no two jobs of a process have one number");
    let foreign = product(set.metric, &input);
    assert_eq!(other.install(foreign).map(|_| ()), Err(gone.clone()), "a job of another set is none");
    assert_eq!(set.install(made).map(|_| ()), Err(gone.clone()), "what was abandoned is not installed");
    assert_eq!(set.abandon(input.id()), Err(gone));
    run(&mut set, job);
    let segment = set.parts().last().expect("it was installed").id;
    let twice = Job::Merge { segments: vec![segment, segment] };
    assert_eq!(set.begin(twice).map(|_| ()), Err(SetError::Busy { part: segment }));
    assert!(set.begin(Job::Rewrite { segment }).is_ok(), "a refused job holds no part");
}

#[test]
fn a_segment_that_is_not_of_the_input_is_refused() {
    let (mut set, points) = sealed(4, Metric::Dot, 30, 1);
    let input = set.begin(job_of(&set)).expect("it is free");
    let other = |dim: u32, metric: Metric, versions: u64, skip: usize| {
        let mut rows = Rows::with_capacity(dim, 30);
        for (id, point) in points.iter().skip(skip) {
            rows.push(id.clone(), point.version + versions, &vec![1.0; dim as usize], Vec::new().into());
        }
        Segment::build(&rows, &parameters(metric), &Target::Memory, &never).expect("nothing stops the build")
    };
    let refused = |segment| input.product(segment).map(|_| ());
    let job = input.id();
    assert_eq!(refused(other(4, Metric::Dot, 0, 0)), Ok(()));
    assert!(matches!(refused(other(5, Metric::Dot, 0, 0)), Err(SetError::Shape { want_dim: 4, got_dim: 5, .. })));
    assert!(matches!(refused(other(4, Metric::Euclidean, 0, 0)), Err(SetError::Shape { .. })));
    assert_eq!(refused(other(4, Metric::Dot, 0, 1)), Err(SetError::Count { job, want: 30, got: 29 }));
    assert!(matches!(refused(other(4, Metric::Dot, 1, 0)), Err(SetError::Lost { job: JobId(_), .. })));
    assert_eq!(input.nothing().map(|_| ()), Err(SetError::Count { job, want: 30, got: 0 }));
    let shape = PointSet::with_segments(5, Metric::Dot, POLICY, vec![other(4, Metric::Dot, 0, 0)], vec![], None);
    assert_eq!(shape.map(|_| ()).map_err(|error| error.kind()), Err(ErrorKind::Corruption));
}

#[test]
fn a_set_adopts_what_another_of_the_same_writes_has_built() {
    let (mut leader, points) = sealed(4, Metric::Dot, 60, 1);
    let (mut follower, _) = sealed(4, Metric::Dot, 60, 1);
    let input = leader.begin(job_of(&leader)).expect("it is free");
    let both = |leader: &mut PointSet, follower: &mut PointSet, numbers: std::ops::Range<u64>| {
        for number in numbers {
            assert_eq!(leader.delete(&id(number)), follower.delete(&id(number)), "both tell the version of what died");
        }
    };
    both(&mut leader, &mut follower, 0..10);
    let later = follower.begin(job_of(&follower)).expect("it is free");
    both(&mut leader, &mut follower, 10..20);
    let built = build(Metric::Dot, &input);
    let (graph, stored) = (built.graph_image().bytes().to_vec(), built.stored_image().bytes().to_vec());
    let fetched = || Segment::from_bytes(&graph, &stored).expect("as it was built");
    let adopted = later.adopt(fetched()).expect("it has every living point");
    both(&mut leader, &mut follower, 20..30);
    leader.install(input.product(built).expect("it has every point")).expect("the job runs");
    follower.install(adopted).expect("the job runs");
    let living: Points = points.into_iter().filter(|(key, _)| (0..30).all(|n| id(n) != *key)).collect();
    for set in [&mut leader, &mut follower] {
        check_all(&set.publish(), &living);
    }
    let live = |set: &PointSet| set.segments[0].part.live.words().to_vec();
    assert_eq!(live(&leader), live(&follower), "the same rows live");

    let (mut stranger, _) = sealed(4, Metric::Dot, 61, 1);
    let input = stranger.begin(job_of(&stranger)).expect("it is free");
    assert!(matches!(input.adopt(fetched()).map(|_| ()), Err(SetError::Lost { .. })), "one point is not in it");
}

#[test]
fn a_restart_fills_deltas_as_it_is_told() {
    let mut restart =
        PointSet::with_segments(4, Metric::Dot, POLICY, vec![], vec![None; 3], None).expect("of one shape");
    for (number, delta) in [None, Some(0), Some(0), Some(2), Some(2), None, Some(0)].into_iter().enumerate() {
        let number = number as u64;
        restart.upsert(delta, id(number), number, &[1.0; 4], payload(0).into());
    }
    let mut set = restart.finish();
    let live: Vec<usize> = set.parts().iter().map(|part| part.live).collect();
    assert_eq!(live, [2, 3, 0, 2], "the active one first");
    let empty = set.parts()[2].id;
    let input = set.begin(Job::Build { delta: empty }).expect("an empty delta is a part, too");
    set.install(input.nothing().expect("nothing lives")).expect("the job runs");
    assert_eq!((set.len(), set.parts().len()), (7, 3));
}

#[test]
fn a_point_in_two_segments_lives_once() {
    let (mut set, points) = sealed(4, Metric::Cosine, 60, 1);
    let input = set.begin(job_of(&set)).expect("it is free");
    let segments = vec![build(set.metric, &input), build(set.metric, &input)];
    let mut restart = PointSet::with_segments(4, Metric::Cosine, POLICY, segments, vec![], None).expect("of one shape");
    for (number, (id, point)) in points.iter().enumerate() {
        match number % 3 {
            0 => {
                assert!(restart.record(id, point.version));
                assert!(restart.record(id, point.version), "and again");
            }
            1 => assert!(!restart.record(id, point.version + 1), "another version is not covered"),
            _ => {}
        }
    }
    assert!(!restart.record(&PointId::Number(999), 1));
    let mut set = restart.finish();
    assert_eq!((set.len(), set.parts().len()), (20, 3));
    let ids = set.publish().scroll(None, 100, None, &never).expect("nothing stops it");
    assert_eq!(ids.len(), 20);
    ids.iter().for_each(|(id, _)| assert!(set.delete(id).is_some()));
    assert!(set.is_empty());
    assert!(matches!(set.plan(), Some(Job::Rewrite { .. })), "dead segments are dropped");
}

#[test]
fn a_replay_in_any_order_finds_what_segments_have() {
    let (mut set, points) = sealed(4, Metric::Euclidean, 300, 1);
    let input = set.begin(job_of(&set)).expect("it is free");
    for order in ["of ids", "reversed", "every other first"] {
        let segments = vec![build(set.metric, &input)];
        let mut restart =
            PointSet::with_segments(4, Metric::Euclidean, POLICY, segments, vec![], None).expect("of one shape");
        let mut rows: Vec<_> = points.iter().enumerate().collect();
        match order {
            "reversed" => rows.reverse(),
            "every other first" => rows.sort_by_key(|(number, _)| number % 2),
            _ => {}
        }
        for (_, (id, point)) in rows {
            assert!(restart.record(id, point.version), "{order}: {id}");
        }
        check_all(&restart.finish().publish(), &points);
    }
}

#[test]
fn filters_of_any_share_keep_recall_on_large_segments() {
    let (mut set, points) = sealed(16, Metric::Euclidean, 9_000, 2);
    for _ in 0..2 {
        let job = job_of(&set);
        run(&mut set, job);
    }
    (0..1_000).for_each(|number| assert!(set.delete(&id(number * 7)).is_some()));
    let points: Points = points.into_iter().filter(|(key, _)| (0..1_000).all(|n| id(n * 7) != *key)).collect();
    let view = set.publish();
    for bound in [0, 1, 5, 9, 10] {
        let filter = at_least(bound);
        let prepared = prepare(&view, &filter);
        let (mut found, mut wanted, mut stats) = (0, 0, SetStats::default());
        for point in points.values().step_by(200) {
            let query = SetQuery { filter: Some(&prepared), ..query(&point.vector, 10, WALK) };
            let truth = naive(set.metric, &points, &query, &filter);
            let (got, did) = view.search(&mut Scratch::new(), &query).expect("it fits");
            let got = hits(&got);
            found += truth.iter().filter(|hit| got.contains(hit)).count();
            wanted += truth.len();
            stats.merge(&did);
        }
        assert!(found * 100 >= wanted * 95, "size >= {bound}: {found} of {wanted} found");
        assert_eq!(stats.walks > 0, bound < 10, "size >= {bound}: {stats:?}");
    }
}

#[test]
fn what_cannot_be_answered_is_an_error() {
    let (mut set, _) = sealed(4, Metric::Dot, 200, 2);
    let job = job_of(&set);
    run(&mut set, job);
    let view = set.publish();
    for look in [Look::Exact, WALK] {
        let asked = |vector: &[f32], stop: &(dyn Fn() -> bool + Sync)| {
            view.search(&mut Scratch::new(), &SetQuery { stop, ..query(vector, 5, look) }).map(|(found, _)| found.len())
        };
        assert_eq!(asked(&[1.0; 3], &never), Err(IndexError::Dimension { want: 4, got: 3 }));
        assert_eq!(asked(&[1.0; 4], &|| true), Err(IndexError::Cancelled));
        assert_eq!(asked(&[1.0; 4], &never), Ok(5));
    }
    let filter = prepare(&view, &at_least(3));
    assert_eq!(view.count(Some(&filter), &|| true), Err(IndexError::Cancelled));
    assert_eq!(view.scroll(None, 5, Some(&filter), &|| true), Err(IndexError::Cancelled));
    assert_eq!(view.scroll(None, 5, None, &|| true), Err(IndexError::Cancelled));
    assert_eq!(view.scroll(None, 0, None, &|| true), Ok(vec![]), "asks for nothing");
    assert_eq!((view.points_scanned(Look::Exact), view.points_scanned(WALK)), (200, 100));
}

#[test]
fn an_empty_set_answers() {
    let mut set = PointSet::new(3, Metric::Cosine, POLICY);
    assert_eq!((set.seal(None), set.plan(), set.is_full(), set.is_empty()), (None, None, false, true));
    let view = set.publish();
    assert!(search(&view, &query(&[1.0; 3], 5, WALK)).is_empty() && view.is_empty());
    assert_eq!((view.get(&id(1)), view.parts().len()), (None, 1));
    assert_eq!(set.delete(&id(1)), None);
}
