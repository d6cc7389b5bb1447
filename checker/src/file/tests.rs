use super::*;
use crate::simulated::{Shape, run};
use proptest::prelude::*;

fn written(operations: &[Operation]) -> Vec<u8> {
    let mut writer = HistoryWriter::new(Vec::new()).expect("writing to memory");
    operations.iter().for_each(|operation| writer.append(operation).expect("writing to memory"));
    writer.finish().expect("writing to memory")
}

fn sample() -> Vec<Operation> {
    let ids = [PointId::Number(u64::MAX), PointId::Text("7 \"é\"\n".into()), PointId::Uuid(0xabc)];
    let call = Call::Delete { ids: ids.to_vec() };
    let (number, client) = (OpNumber(1), ClientId(2));
    let delete = Operation { number, client, invoke_ns: 3, return_ns: None, outcome: Outcome::Unknown, call };
    let level = Level::Session { own: true, after: vec![OpNumber(1), OpNumber(u64::MAX)] };
    let hits = ids.map(|id| FoundHit { id, score: -0.1, write: Write(u64::MAX) }).to_vec();
    let call = Call::Search(Search { level, query: 1, k: 3, filter: Some(4), exact: true, hits });
    let search = Operation { number: OpNumber(2), return_ns: Some(9), outcome: Outcome::Ok, call, ..delete.clone() };
    let count = Call::Count { level: Level::Eventual { staleness_ns: 5 }, count: 6 };
    let count = Operation { number: OpNumber(3), outcome: Outcome::Failed, call: count, ..search.clone() };
    vec![delete, search, count]
}

#[test]
fn the_format_is_this() {
    let text = String::from_utf8(written(&sample()[..1])).expect("JSON is UTF-8");
    let line = r#"[1,2,3,null,"unknown",{"delete":[18446744073709551615,"7 \"é\"\n",{"uuid":"00000000000000000000000000000abc"}]}]"#;
    assert_eq!(text, format!("{{\"shoal_history\":1}}\n{line}\n"));
}

#[test]
fn what_is_written_reads_back() {
    assert_eq!(read_history(&written(&sample())[..]).expect("a history"), sample());
    assert_eq!(read_history(&b""[..]).expect("an empty history"), vec![]);
}

proptest! {
    #[test]
    fn runs_read_back(seed in any::<u64>()) {
        let shape = Shape { clients: 3, operations: 60, keys: 4, unknown: 0.1, sweeps: true };
        let operations = run(shape, seed);
        prop_assert_eq!(read_history(&written(&operations)[..]).expect("a history"), operations);
    }
}

#[test]
fn a_torn_last_line_does_not_count() {
    let bytes = written(&sample());
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
    for len in 0..=bytes.len() {
        let mut reader = HistoryReader::new(&bytes[..len]).expect("the start of a history");
        let whole = bytes[..len].iter().filter(|byte| **byte == b'\n').count();
        let operations: Vec<Operation> = reader.by_ref().map(|operation| operation.expect("a whole line")).collect();
        assert_eq!(operations, sample()[..whole.saturating_sub(1)], "{len} bytes");
        assert_eq!(reader.is_torn(), len > 0 && bytes[len - 1] != b'\n', "{len} bytes");
    }
    assert_eq!(lines, 4);
}

#[test]
fn a_later_line_replaces_an_earlier_one() {
    let [write, search, _] = <[Operation; 3]>::try_from(sample()).expect("three");
    let done = Operation { return_ns: Some(20), outcome: Outcome::Ok, ..write.clone() };
    let bytes = written(&[write, search.clone(), done.clone()]);
    assert_eq!(read_history(&bytes[..]).expect("a history"), [done, search]);
}

#[test]
fn what_is_not_a_history_is_refused() {
    let header = "{\"shoal_history\":1}\n";
    for (name, text, want) in [
        ("another format", "{\"shoal_history\":2}\n".to_owned(), "not a history of format 1"),
        ("no header", "[1,2,3]\n".to_owned(), "not a history of format 1"),
        ("a torn line in the middle", format!("{header}[1,2,3\n[1,2,3]\n"), "line 2 of the history"),
        ("an unknown call", format!("{header}[1,2,3,4,\"ok\",{{\"move\":[]}}]\n"), "line 2 of the history"),
        ("an id of no kind", format!("{header}[1,2,3,4,\"ok\",{{\"delete\":[true]}}]\n"), "line 2 of the history"),
    ] {
        let error = read_history(text.as_bytes()).expect_err(name).to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
}
