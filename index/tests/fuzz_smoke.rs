//! The fuzz targets on stable Rust: over their corpus, and over mutations of it.
//!
//! `SHOAL_SEED=7 cargo test -p shoal-index --test fuzz_smoke` repeats a run; `SHOAL_ROUNDS=1000000` makes a longer one.

use std::fs;
use std::path::Path;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng, rngs::StdRng};

#[allow(unreachable_pub, reason = "the modules of another crate, included for their functions")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

const ROUNDS: usize = 3_000;

/// What libFuzzer is told in the README to stay below.
const LENGTH_MAX: usize = 1_024;

/// Says which input it was, should a target panic on it.
struct Input<'a> {
    target: &'a str,
    bytes: &'a [u8],
}

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            println!("target {} broke on the bytes {hex}", self.target);
        }
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(folder)
        .expect("every target has a corpus")
        .map(|entry| entry.expect("an entry of the corpus").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "the corpus of {target} is empty");
    paths.iter().map(|path| fs::read(path).expect("a file of the corpus")).collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().expect("a number"))
}

/// A seed with a few changes, or a piece of one before a piece of another.
fn mutate(rng: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut pick = || corpus.choose(rng).cloned().unwrap_or_default();
    let (mut bytes, other) = (pick(), pick());
    if rng.random_bool(0.3) {
        bytes.truncate(rng.random_range(0..=bytes.len()));
        bytes.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
    }
    for _ in 0..rng.random_range(1..8) {
        let at = rng.random_range(0..=bytes.len());
        match (rng.random_range(0..5), bytes.get_mut(at)) {
            (0, Some(byte)) => *byte ^= 1 << rng.random_range(0..8),
            (1, Some(byte)) => *byte = rng.random(),
            (2, Some(byte)) => *byte = *[0, 1, 6, 7, 0x7f, 0x80, 0xff].choose(rng).unwrap_or(&0),
            (3, Some(_)) => drop(bytes.remove(at)),
            _ => bytes.insert(at, rng.random()),
        }
    }
    bytes.truncate(LENGTH_MAX);
    bytes
}

fn smoke(target: &str, run: fn(&[u8])) {
    let corpus = corpus(target);
    let check = |bytes: &[u8]| {
        let _input = Input { target, bytes };
        run(bytes);
    };
    corpus.iter().for_each(|bytes| check(bytes));
    let seed = number("SHOAL_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}; replay with SHOAL_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let rounds = number("SHOAL_ROUNDS").map_or(Ok(ROUNDS), usize::try_from).expect("rounds that fit this machine");
    (0..rounds).for_each(|_| check(&mutate(&mut rng, &corpus)));
}

#[test]
fn image() {
    smoke("image", targets::image::run);
}

#[test]
fn segment() {
    smoke("segment", targets::segment::run);
}

#[test]
fn payload() {
    smoke("payload", targets::payload::run);
}

#[test]
fn payload_index() {
    smoke("payload_index", targets::payload_index::run);
}

#[test]
fn filter() {
    smoke("filter", targets::filter::run);
}

#[test]
fn delta() {
    smoke("delta", targets::delta::run);
}
