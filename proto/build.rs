//! Generates the wire types and services with a compiler written in Rust: no `protoc` is needed.

use std::path::PathBuf;
use std::{env, fs, io};

use prost::Message as _;

const FILES: [&str; 10] = [
    "shoal/internal/v1/coordinator.proto",
    "shoal/internal/v1/map.proto",
    "shoal/internal/v1/raft.proto",
    "shoal/internal/v1/replica.proto",
    "shoal/internal/v1/shard.proto",
    "shoal/v1/cluster.proto",
    "shoal/v1/collections.proto",
    "shoal/v1/points.proto",
    "shoal/v1/search.proto",
    "shoal/v1/types.proto",
];

fn main() -> io::Result<()> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."]).map_err(io::Error::other)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?);
    // Reflection shows clients the public services alone.
    fs::write(out.join("shoal.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".") // equal messages are equal bytes
        .compile_fds(descriptors)
}
