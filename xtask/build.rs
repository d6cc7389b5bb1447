//! Hands `xtask` what only cargo knows: the target triple and the rustflags in force.

use std::env;

fn main() {
    let target = env::var("TARGET").unwrap_or_default();
    // Flags are separated by 0x1f, which no flag contains.
    let rustflags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    println!("cargo::rustc-env=XTASK_TARGET={target}");
    println!("cargo::rustc-env=XTASK_RUSTFLAGS={}", rustflags.replace('\x1f', " "));
    println!("cargo::rerun-if-changed=build.rs");
}
