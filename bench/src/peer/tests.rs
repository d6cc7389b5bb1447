use super::*;
use crate::npy::Matrix;
use crate::set::tests::line;

/// Answers as `peer.py` does, but for what a test puts in place of one answer.
const FAKE: &str = r#"
while read -r request; do
    case "$request" in
        *'"op":"load"'*) answer='{"version": "1"}' ;;
        *'"op":"build"'*) answer='{"seconds": 1.5, "bytes": 640}' ;;
        *'"op":"pin"'*) answer='{}' ;;
        *'"op":"search"'*) answer='{"seconds": 0.25}' ;;
        *'"op":"time"'*) answer='{"seconds": 0.75, "core_seconds": 0.5}' ;;
    esac
    case "$request" in *'"op":"'"$1"'"'*) eval "$2" ;; esac
    echo "$answer"
done
"#;

/// A fake that runs the shell line `instead` when it is asked for `op`.
fn fake(set: &Set, shared: &Shared, op: &str, instead: &str) -> Result<Peer, BenchError> {
    let mut command = Command::new("sh");
    command.args(["-c", FAKE, "fake", op, instead]);
    let deadlines = Deadlines { answer: Duration::from_secs(20), build: Duration::from_secs(20) };
    Peer::start("fake", command, set, shared, 2, deadlines)
}

fn parts() -> (Set, Shared) {
    let set = line(3);
    let shared = Shared::write(&set).expect("the temporary folder is writable");
    (set, shared)
}

/// Leaves ids where the fake would have written them.
fn put_ids(shared: &Shared, descr: &str, shape: &str, data: &[u8]) {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let length = u16::try_from(header.len()).expect("a short header");
    let bytes = [b"\x93NUMPY\x01\x00", &length.to_le_bytes()[..], header.as_bytes(), data].concat();
    fs::write(shared.scratch("fake.ids.npy"), bytes).expect("the temporary folder is writable");
}

#[test]
fn a_peer_that_answers_is_understood() {
    let (set, shared) = parts();
    let mut peer = fake(&set, &shared, "", "").expect("it loads");
    assert_eq!(peer.build(2, &shared).expect("it builds"), Built { seconds: 1.5, bytes: 640.0 });
    peer.pin(0).expect("it pins");
    put_ids(&shared, "<i8", "(1, 2)", &[1_i64, 0].map(i64::to_le_bytes).concat());
    let found = peer.search(10).expect("it searches");
    assert_eq!(found, Found { ids: Matrix::new(2, vec![1, 0]), seconds: 0.25 });
    let elapsed = peer.time(10, 3, 1).expect("it takes its time");
    assert_eq!(elapsed, Elapsed { seconds: 0.75, core_seconds: 0.5 });
}

#[test]
fn a_peer_that_misbehaves_is_an_error_with_its_name_and_what_it_printed() {
    for (name, op, instead, want) in [
        ("dies at once", "load", "echo no module >&2; exit 3", "ended while it was to load"),
        ("dies in a build", "build", "echo out of memory >&2; exit 1", "out of memory"),
        ("cannot", "build", r#"answer='{"error": "ValueError: dim"}'"#, "failed to build: ValueError: dim"),
        ("prints text", "build", "answer=done", "answered build with \"done\""),
        ("prints bytes", "build", r"printf '\377\376\n'", "answered build with \"stream did not contain valid UTF-8\""),
        ("answers another question", "build", r#"answer='{"seconds": 1}'"#, "answered build with"),
        ("answers with a list", "build", "answer='[1, 2]'", "answered build with"),
        ("took no time", "time", r#"answer='{"seconds": 0, "core_seconds": 0}'"#, "answered time with \"0 s\""),
        ("wrote no ids", "search", ":", "answered search with \"ids: cannot be read"),
    ] {
        let (set, shared) = parts();
        let outcome = fake(&set, &shared, op, instead).and_then(|mut peer| {
            peer.build(2, &shared)?;
            peer.time(10, 1, 1)?;
            peer.search(10).map(drop)
        });
        let text = outcome.expect_err(name).to_string();
        assert!(text.contains("peer fake") && text.contains(want), "{name}: {text}");
    }
}

#[test]
fn ids_of_another_shape_are_refused() {
    let (set, shared) = parts();
    let mut peer = fake(&set, &shared, "", "").expect("it loads");
    put_ids(&shared, "<i8", "(1, 1)", &7_i64.to_le_bytes());
    let text = peer.search(10).expect_err("one id is not two").to_string();
    assert!(text.contains("ids: 1 × 1, not 1 × 2"), "{text}");
}

#[test]
fn a_peer_that_stays_silent_is_given_up_on_and_ended() {
    let (set, shared) = parts();
    let mut command = Command::new("sh");
    command.args(["-c", "while read -r request; do :; done"]);
    let deadlines = Deadlines { answer: Duration::from_millis(50), build: Duration::ZERO };
    let silent = Peer::start("silent", command, &set, &shared, 2, deadlines);
    assert!(matches!(silent, Err(BenchError::PeerSilent { op: "load", .. })), "nothing was answered");
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let (set, shared) = parts();
    let missing = Peer::start("x", Command::new("/no/such/python"), &set, &shared, 2, Deadlines::default());
    let text = missing.err().expect("there is no such program").to_string();
    assert!(text.contains("/no/such/python"), "{text}");
}

#[test]
fn names_stand_for_contenders() {
    let names = |names: &[&str]| contenders(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    assert_eq!(names(&["symqg", "hnswlib", "symqg"]).expect("all are known"), ["symqg", "symqg8", "hnswlib"]);
    assert!(names(&[]).expect("none is fine").is_empty());
    let text = names(&["annoy"]).expect_err("nobody knows it").to_string();
    assert!(text.contains("\"annoy\"") && text.contains("hnswlib, faiss, symqg, usearch"), "{text}");
}
