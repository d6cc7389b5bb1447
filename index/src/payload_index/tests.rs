use super::*;
use crate::filter::tests::{condition, filter};
use crate::packed::{encode, tests::payload};
use proptest::prelude::*;
use shoal_model::{Condition, Payload, Predicate, Range, Scalar, Value};
use std::sync::LazyLock;

/// In these tests point `i` has the id `i`, except that id 2 is in another segment.
fn offset_of(id: &PointId) -> Option<u32> {
    if let PointId::Number(id @ (0 | 1 | 3..)) = id { u32::try_from(*id).ok() } else { None }
}

fn id_of(offset: usize) -> PointId {
    if offset == 2 { PointId::Text("elsewhere".into()) } else { PointId::Number(offset as u64) }
}

fn build(payloads: &[Payload]) -> Vec<u8> {
    let packed: Vec<_> = payloads.iter().map(encode).collect();
    PayloadIndex::build(packed.iter().map(Vec::as_slice))
}

fn passing(payloads: &[Payload], filter: &Filter) -> Vec<u32> {
    let passes =
        |(offset, payload): (usize, &Payload)| filter.matches(&id_of(offset), payload).then_some(offset as u32);
    payloads.iter().enumerate().filter_map(passes).collect()
}

/// Evaluates a filter and compares with the model; the estimate must hold too.
fn check(payloads: &[Payload], index: &PayloadIndex<&[u8]>, filter: &Filter) -> Result<Estimate, TestCaseError> {
    let want = passing(payloads, filter);
    let got = index.evaluate(filter, &offset_of);
    let got = got.map_err(|error| TestCaseError::fail(format!("{error} for {filter:?}")))?;
    prop_assert_eq!(got.iter().collect::<Vec<_>>(), want.clone(), "the points that pass {:?}", filter);
    let estimate = index.estimate(filter).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let bounds = estimate.low..=estimate.high;
    prop_assert!(bounds.contains(&got.len()), "{} pass {:?}, not {:?}", got.len(), filter, estimate);
    prop_assert!((f64::from(estimate.low)..=f64::from(estimate.high)).contains(&estimate.likely), "{:?}", estimate);
    Ok(estimate)
}

fn must(condition: Condition) -> Filter {
    Filter { must: vec![condition], ..Filter::default() }
}

fn field(key: &str, predicate: Predicate) -> Filter {
    must(Condition::Field { key: key.into(), predicate })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn points_pass_as_their_payload_does(
        payloads in prop::collection::vec(payload(), 0..40),
        filters in prop::collection::vec(filter(), 8),
        conditions in prop::collection::vec(condition(), 12),
    ) {
        let bytes = build(&payloads);
        let index = PayloadIndex::open(&bytes[..], payloads.len() as u32).expect("an index that was just built");
        prop_assert_eq!(index.verify(), Ok(()));
        // One condition at a time, too: joined ones hide each other's mistakes.
        for filter in filters.into_iter().chain(conditions.into_iter().map(must)) {
            check(&payloads, &index, &filter)?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn damaged_indexes_get_an_answer_or_a_typed_error(
        payloads in prop::collection::vec(payload(), 1..20),
        filters in prop::collection::vec(filter(), 4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = build(&payloads);
        for (at, to) in damage {
            let at = 8 + at.index(bytes.len() - 8);
            bytes[at] = to;
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        for filter in &filters {
            let _ = evaluate_untrusted(&bytes, payloads.len() as u32, filter);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn damaged_sorted_columns_get_an_answer_or_a_typed_error(
        field_at in 0_usize..7,
        damage in prop::collection::vec((0_usize..80, any::<u8>(), any::<bool>()), 1..4),
        bounds in prop::array::uniform2(-50.0..5_050.0),
    ) {
        static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| build(&many()));
        let mut bytes = BYTES.clone();
        let index = PayloadIndex::open(&BYTES[..], 5_000).expect("an index that was just built");
        let view = index.view().expect("an index that opened");
        let ends = [0].into_iter().chain((0..view.fields()).filter_map(|at| view.ends.get_usize(at)));
        let ends: Vec<_> = ends.map(|end| bytes.len() - view.records.len() + end).collect();
        for (at, to, from_end) in damage {
            // Near the head of a field, or near its end, where the postings of the buckets lie.
            let record = ends[field_at]..ends[field_at + 1];
            let at = if from_end { record.end.saturating_sub(1 + at * 90) } else { record.start + at };
            bytes[at.clamp(record.start, record.end - 1)] = to;
        }
        let range = Predicate::Range(Range { gte: Some(bounds[0]), lt: Some(bounds[1]), ..Range::default() });
        for key in ["number", "double", "pair", "rare", "unique", "run", "kind"] {
            let _ = evaluate_untrusted(&bytes, 5_000, &field(key, range.clone()));
            let _ = evaluate_untrusted(&bytes, 5_000, &field(key, Predicate::IsNull(true)));
        }
    }

    #[test]
    fn damaged_payloads_are_indexed_as_far_as_they_read(
        payloads in prop::collection::vec(payload(), 1..8),
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..9), 1..6),
    ) {
        let mut packed: Vec<_> = payloads.iter().map(encode).collect();
        for (at, to) in damage {
            let len = packed.len();
            let payload = &mut packed[at.index(len)];
            let at = at.index(payload.len());
            payload[at] = to;
        }
        let bytes = PayloadIndex::build(packed.iter().map(Vec::as_slice));
        let index = PayloadIndex::open(&bytes[..], payloads.len() as u32).expect("an index that was just built");
        prop_assert_eq!(index.verify(), Ok(()));
    }
}

/// 5,000 points whose fields take every form: unique, few values, runs, gaps, lists, whole numbers and doubles.
fn many() -> Vec<Payload> {
    let point = |i: i64| {
        let mut payload: Payload = [
            ("unique".to_owned(), Value::Text(format!("text {i}"))),
            ("kind".to_owned(), Value::Text(format!("kind {}", i * i % 7))),
            ("number".to_owned(), Value::Integer(i * 7_919 % 5_003)),
            ("double".to_owned(), Value::Double((i % 1_000) as f64 / 8.0 - 40.0)),
            ("run".to_owned(), Value::Bool(i < 4_000)),
            ("pair".to_owned(), Value::List(vec![Value::Integer(i % 1_500), Value::Integer(i * 31 % 1_500)])),
        ]
        .into();
        if i % 100 == 3 {
            payload.insert("rare".to_owned(), Value::Integer(i));
        }
        payload
    };
    (0..5_000).map(point).collect()
}

#[test]
fn large_segments_pass_as_their_payload_does() {
    let payloads = many();
    let bytes = build(&payloads);
    assert_eq!(bytes, build(&payloads), "equal payloads make equal bytes");
    let index = PayloadIndex::open(&bytes[..], 5_000).expect("an index that was just built");
    assert_eq!(index.verify(), Ok(()), "a new index verifies");
    let range = |gte: f64, lt: f64| Predicate::Range(Range { gte: Some(gte), lt: Some(lt), ..Range::default() });
    let text = |value: String| Predicate::Match(Scalar::Text(value));
    let kinds = |kinds: &[i32]| Predicate::Any(kinds.iter().map(|k| Scalar::Text(format!("kind {k}"))).collect());
    for (key, predicate) in [
        ("unique", text("text 4711".into())),
        ("unique", text("text 5000".into())),
        ("unique", Predicate::Any((0..900).map(|i| Scalar::Text(format!("text {}", i * 3))).collect())),
        ("kind", kinds(&[1])),
        ("kind", kinds(&[0, 2, 4, 2, 9])),
        ("number", Predicate::Match(Scalar::Double(17.0))),
        ("number", range(17.0, 17.5)),
        ("number", range(100.5, 140.0)),
        ("number", range(10.0, 4_900.0)),
        ("number", range(-1e9, f64::INFINITY)),
        ("number", range(9.0, 3.0)),
        ("double", range(-40.0, 0.0)),
        ("double", range(0.125, 0.25)),
        ("run", Predicate::Match(Scalar::Bool(true))),
        ("run", Predicate::Any(vec![Scalar::Bool(false), Scalar::Integer(1), Scalar::Bool(false)])),
        ("rare", Predicate::IsNull(true)),
        ("rare", Predicate::IsNull(false)),
        ("rare", range(0.0, 1e9)),
        ("nowhere", Predicate::IsNull(true)),
        ("nowhere", range(0.0, 1.0)),
    ] {
        let filter = field(key, predicate);
        let estimate = check(&payloads, &index, &filter).unwrap_or_else(|error| panic!("{error}"));
        assert!(estimate.is_exact(), "one value a point, so the estimate is the count: {estimate:?} for {filter:?}");
    }
    let either = field("run", Predicate::Any(vec![Scalar::Bool(true), Scalar::Bool(false)]));
    let pairs = (0..60).map(|step| field("pair", range(f64::from(step * 25), f64::from(step * step))));
    for filter in pairs.chain([either]) {
        check(&payloads, &index, &filter).unwrap_or_else(|error| panic!("bounds alone are known: {error}"));
    }
}

#[test]
fn foreign_bytes_are_refused() {
    let bytes = build(&[[("a".to_owned(), Value::Integer(1))].into()]);
    let open = |bytes: &[u8], points| PayloadIndex::open(bytes, points).map(|_| ());
    assert_eq!(open(&bytes, 1), Ok(()));
    assert_eq!(open(&bytes, 2), Err(PayloadIndexError::Points { want: 2, found: 1 }), "of another segment");
    assert_eq!(open(&[], 0), Err(PayloadIndexError::Malformed), "nothing");
    let newer = [&[2][..], &bytes[1..]].concat();
    assert_eq!(open(&newer, 1), Err(PayloadIndexError::Format { found: 2 }), "of another format");
    for end in 8..bytes.len() - 1 {
        assert_eq!(open(&bytes[..end], 1), Err(PayloadIndexError::Malformed), "cut to {end} of {} bytes", bytes.len());
    }
}

#[test]
fn an_index_of_no_points_is_one() {
    for payloads in [vec![], vec![Payload::new()], vec![Payload::new(); 64]] {
        let bytes = build(&payloads);
        let points = payloads.len() as u32;
        let index = PayloadIndex::open(&bytes[..], points).expect("an index that was just built");
        let all = index.evaluate(&Filter::default(), &offset_of).expect("no posting to be malformed");
        assert_eq!((all.len(), all.points()), (points, points), "an empty filter lets all {points} pass");
        let null = field("a", Predicate::IsNull(true));
        assert_eq!(index.evaluate(&null, &offset_of).map(|m| m.len()), Ok(points), "a field that is nowhere is null");
    }
}

#[test]
fn long_texts_and_names_cost_no_more_than_short_ones() {
    let size = |len: usize| {
        let value = |i: u32| Value::Text(format!("{}{i}", "x".repeat(len)));
        let payloads: Vec<Payload> = (0..1_000).map(|i| [("n".repeat(len.min(900)), value(i))].into()).collect();
        build(&payloads).len()
    };
    assert_eq!(size(10), size(5_000), "texts and names are kept as hashes");
    assert!(size(10) < 1_000 * 16, "a unique text costs 12 bytes of hash and 2 to 3 of offset: {}", size(10));
}
