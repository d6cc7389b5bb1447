//! What each fuzz target does with its bytes: `run` of a module must neither panic nor run on for long.
//!
//! Does not know about: libFuzzer, which the targets in `fuzz_targets` hand these functions to; a test on stable Rust
//! runs the same functions over the corpus and mutations of it.

pub mod delta;
pub mod filter;
pub mod image;
pub mod payload;
pub mod payload_index;
pub mod segment;
mod shapes;
