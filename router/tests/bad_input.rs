//! Bad input gets a typed error that names the field, is sent nowhere, and changes nothing.

mod fakes;

use fakes::{Rig, id, point, refusal, search, upsert};
use shoal_model::Limits;
use shoal_proto::{convert, v1};
use tonic::Code::{self, InvalidArgument, NotFound};

fn limits() -> Limits {
    Limits {
        k_max: 100,
        ef_search_max: 200,
        batch_points_max: 8,
        payload_bytes_max: 64,
        payload_depth_max: 2,
        filter_depth_max: 3,
        filter_conditions_max: 4,
        timeout_ms_max: 5_000,
        ..Limits::default()
    }
}

fn text(text: &str) -> v1::Value {
    v1::Value { kind: Some(v1::value::Kind::Text(text.into())) }
}

fn payload(value: v1::Value) -> Option<v1::Payload> {
    Some(v1::Payload { fields: [("f".to_owned(), value)].into() })
}

fn list(item: v1::Value) -> v1::Value {
    v1::Value { kind: Some(v1::value::Kind::List(v1::ListValue { items: vec![item] })) }
}

fn is_null(key: &str) -> v1::Condition {
    let predicate = Some(v1::field_condition::Predicate::IsNull(true));
    v1::Condition { kind: Some(v1::condition::Kind::Field(v1::FieldCondition { key: key.into(), predicate })) }
}

fn nested(levels: usize) -> v1::Filter {
    (1..levels).fold(v1::Filter { must: vec![is_null("f")], ..Default::default() }, |inner, _| v1::Filter {
        must: vec![v1::Condition { kind: Some(v1::condition::Kind::Filter(inner)) }],
        ..Default::default()
    })
}

fn second(bad: v1::Point) -> Vec<v1::Point> {
    vec![point(1, &[1.0, 1.0]), bad]
}

#[tokio::test]
async fn bad_points_are_refused_by_field() {
    let rig = Rig::with(2, 2, |config| config.limits = limits()).await;
    let good = point(2, &[1.0, 1.0]);
    let number = |number| v1::Value { kind: Some(v1::value::Kind::Number(number)) };
    for (name, points, want) in [
        ("no points", vec![], "points"),
        ("too many", (0..9).map(|n| point(n, &[1.0, 1.0])).collect(), "points"),
        ("no id", second(v1::Point { id: None, ..good.clone() }), "points[1].id"),
        ("no vector", second(v1::Point { vector: None, ..good.clone() }), "points[1].vector"),
        ("dimension", second(point(2, &[1.0])), "points[1].vector"),
        ("not a number", second(point(2, &[1.0, f32::NAN])), "points[1].vector[1]"),
        ("infinite", second(point(2, &[f32::INFINITY, 0.0])), "points[1].vector[0]"),
        (
            "payload size",
            second(v1::Point { payload: payload(text(&"x".repeat(65))), ..good.clone() }),
            "points[1].payload",
        ),
        (
            "payload depth",
            second(v1::Point { payload: payload(list(list(text("x")))), ..good.clone() }),
            "points[1].payload",
        ),
        (
            "payload number",
            second(v1::Point { payload: payload(number(f64::NAN)), ..good.clone() }),
            "points[1].payload.f",
        ),
        (
            "payload kind",
            second(v1::Point { payload: payload(v1::Value { kind: None }), ..good.clone() }),
            "points[1].payload.f",
        ),
        ("twice", second(point(1, &[1.0, 1.0])), "points[1].id"),
    ] {
        assert_eq!(refusal(rig.points().upsert(upsert(points)).await), (InvalidArgument, want.into()), "{name}");
    }
    nothing_was_sent(&rig);
}

#[tokio::test]
async fn bad_searches_are_refused_by_field() {
    let rig = Rig::with(2, 2, |config| config.limits = limits()).await;
    let good = search(&[1.0, 1.0], 10);
    let floats =
        |components| Some(v1::Vector { encoding: Some(v1::vector::Encoding::Floats(v1::FloatVector { components })) });
    let wide = v1::Filter { should: (0..5).map(|_| is_null("f")).collect(), ..Default::default() };
    let token = v1::Consistency { tokens: vec![b"hello"[..].into()], ..Default::default() };
    for (name, request, want) in [
        ("k of 0", v1::SearchRequest { k: 0, ..good.clone() }, "k"),
        ("huge k", v1::SearchRequest { k: 101, ..good.clone() }, "k"),
        ("no vector", v1::SearchRequest { vector: None, ..good.clone() }, "vector"),
        ("dimension", v1::SearchRequest { vector: floats(vec![1.0; 3]), ..good.clone() }, "vector"),
        ("not a number", v1::SearchRequest { vector: floats(vec![1.0, f32::NAN]), ..good.clone() }, "vector[1]"),
        ("deep filter", v1::SearchRequest { filter: Some(nested(4)), ..good.clone() }, "filter"),
        ("wide filter", v1::SearchRequest { filter: Some(wide), ..good.clone() }, "filter"),
        ("score limit", v1::SearchRequest { score_limit: Some(f32::NAN), ..good.clone() }, "score_limit"),
        ("coverage above", v1::SearchRequest { min_coverage: Some(1.1), ..good.clone() }, "min_coverage"),
        ("coverage below", v1::SearchRequest { min_coverage: Some(-0.1), ..good.clone() }, "min_coverage"),
        ("coverage of NaN", v1::SearchRequest { min_coverage: Some(f64::NAN), ..good.clone() }, "min_coverage"),
        ("recall of 0", v1::SearchRequest { recall_target: Some(0.0), ..good.clone() }, "recall_target"),
        ("recall above 1", v1::SearchRequest { recall_target: Some(1.01), ..good.clone() }, "recall_target"),
        ("recall of NaN", v1::SearchRequest { recall_target: Some(f64::NAN), ..good.clone() }, "recall_target"),
        ("narrow beam", v1::SearchRequest { ef_search: Some(9), ..good.clone() }, "ef_search"),
        ("wide beam", v1::SearchRequest { ef_search: Some(201), ..good.clone() }, "ef_search"),
        (
            "empty field name",
            v1::SearchRequest { payload_fields: vec![String::new()], ..good.clone() },
            "payload_fields[0]",
        ),
        ("timeout", v1::SearchRequest { timeout_ms: 5_001, ..good.clone() }, "timeout_ms"),
        ("index version", v1::SearchRequest { index_version: 2, ..good.clone() }, "index_version"),
        ("token", v1::SearchRequest { consistency: Some(token), ..good.clone() }, "consistency.tokens"),
    ] {
        assert_eq!(refusal(rig.searches().search(request).await), (InvalidArgument, want.into()), "{name}");
    }
    nothing_was_sent(&rig);
}

#[tokio::test]
async fn bad_reads_and_removals_are_refused_by_field() {
    let rig = Rig::with(2, 2, |config| config.limits = limits()).await;
    let bad_uuid = v1::PointId { kind: Some(v1::point_id::Kind::Uuid("1-2".into())) };
    for (name, ids, want) in [
        ("no ids", vec![], "ids"),
        ("too many", (0..9).map(id).collect(), "ids"),
        ("no kind", vec![id(1), v1::PointId { kind: None }], "ids[1]"),
        ("bad uuid", vec![bad_uuid], "ids[0].uuid"),
        ("twice", vec![id(1), id(2), id(1)], "ids[2]"),
    ] {
        let get = v1::GetRequest { collection: "c".into(), ids: ids.clone(), ..Default::default() };
        assert_eq!(refusal(rig.points().get(get).await), (InvalidArgument, want.into()), "get: {name}");
        let delete = v1::DeleteRequest { collection: "c".into(), ids, ..Default::default() };
        assert_eq!(refusal(rig.points().delete(delete).await), (InvalidArgument, want.into()), "delete: {name}");
    }
    let scroll = v1::ScrollRequest { collection: "c".into(), ..Default::default() };
    for (name, request, want) in [
        ("huge page", v1::ScrollRequest { limit: 9, ..scroll.clone() }, "limit"),
        ("bad cursor", v1::ScrollRequest { after: Some(v1::PointId { kind: None }), ..scroll.clone() }, "after"),
        ("deep filter", v1::ScrollRequest { filter: Some(nested(4)), ..scroll.clone() }, "filter"),
    ] {
        assert_eq!(refusal(rig.points().scroll(request).await), (InvalidArgument, want.into()), "scroll: {name}");
    }
    let count = v1::CountRequest { collection: "c".into(), filter: Some(nested(4)), ..Default::default() };
    assert_eq!(refusal(rig.points().count(count).await), (InvalidArgument, "filter".into()));
    nothing_was_sent(&rig);
}

#[tokio::test]
async fn unknown_collections_are_not_found() {
    let rig = Rig::start(1, 1).await;
    for name in ["", "other", "../etc", "C"] {
        let request = v1::SearchRequest { collection: name.into(), ..search(&[1.0, 1.0], 1) };
        assert_eq!(refusal(rig.searches().search(request).await), (NotFound, "collection".into()), "{name:?}");
    }
    let endless = v1::SearchRequest { collection: "ü".repeat(1 << 20), ..search(&[1.0, 1.0], 1) };
    assert_eq!(refusal(rig.searches().search(endless).await), (InvalidArgument, "collection".into()));
    nothing_was_sent(&rig);
}

#[tokio::test]
async fn messages_beyond_the_cap_are_refused() {
    let rig = Rig::with(1, 1, |config| config.limits.message_bytes_max = 1 << 16).await;
    let vector = Some(convert::vector_to_wire(&[1.0; 1 << 15]));
    let status = rig.points().upsert(upsert(vec![v1::Point { vector, ..point(1, &[1.0, 1.0]) }])).await;
    assert_eq!(status.expect_err("too large").code(), Code::OutOfRange);
    nothing_was_sent(&rig);
}

fn nothing_was_sent(rig: &Rig) {
    assert!(rig.nodes.iter().all(|node| node.calls().is_empty()), "what is refused is sent nowhere");
}
