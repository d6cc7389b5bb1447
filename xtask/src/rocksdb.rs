//! RocksDB's library, built once per machine and not once per target folder.
//!
//! Its C++ takes a quarter of an hour on two cores. The build script of `librocksdb-sys` links a ready library
//! when ROCKSDB_LIB_DIR names one, so the library is built from the very sources of that crate, with the features
//! the workspace asks for, and kept in the cache under a key of everything that shapes it.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::Outcome;
use crate::report;
use crate::workspace::{Workspace, output, run};

const LIBRARY: &str = "librocksdb.a";

/// Points the workspace at a folder with `librocksdb.a`, building it first where it is missing.
pub(crate) fn prepare(workspace: &mut Workspace) -> Outcome {
    if let Some(own) = env::var_os("ROCKSDB_LIB_DIR").filter(|dir| !dir.is_empty()) {
        workspace.rocksdb = own.into();
        return Ok(());
    }
    let key = key(workspace)?;
    let libraries = workspace.cache.join("librocksdb");
    let folder = libraries.join(key.folder());
    if !folder.join(LIBRARY).is_file() {
        fs::create_dir_all(&libraries).map_err(|e| format!("{} cannot be created: {e}.", libraries.display()))?;
        let _only_one_builds = lock(&libraries.join("lock"))?;
        if !folder.join(LIBRARY).is_file() {
            build(workspace, &key, &folder)?;
        }
    }
    workspace.rocksdb = folder;
    Ok(())
}

/// Everything that changes the bytes of the library.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    version: String,
    features: String,
    target: String,
    compiler: String,
    compiler_flags: String,
    cpu_flags: String,
}

impl Key {
    /// What a person looks for first in plain text, the rest as a hash.
    fn folder(&self) -> String {
        format!("{}-{}-{:016x}", self.version, self.target, fnv1a(self.text().as_bytes()))
    }

    fn text(&self) -> String {
        let Key { version, features, target, compiler, compiler_flags, cpu_flags } = self;
        format!(
            "librocksdb-sys {version}\nfeatures {features}\ntarget {target}\ncompiler {compiler}\n\
             compiler flags {compiler_flags}\ncpu flags {cpu_flags}\n"
        )
    }
}

fn key(workspace: &Workspace) -> Outcome<Key> {
    let tree = ["tree", "--package", "librocksdb-sys", "--depth", "0", "--edges", "normal", "--prefix", "none"];
    let listed = output(workspace.cargo(tree).args(["--format", "{p}|{f}"]))?;
    let (version, features) =
        package(&listed).ok_or_else(|| format!("cargo tree does not tell librocksdb-sys' version: {listed:?}."))?;
    let compiler = output(Command::new(compiler()).arg("--version"))?;
    let flags = |name| env::var(name).unwrap_or_default();
    Ok(Key {
        version,
        features,
        target: env!("XTASK_TARGET").to_owned(),
        compiler: compiler.lines().next().unwrap_or_default().to_owned(),
        compiler_flags: [flags("CXXFLAGS"), flags("ROCKSDB_CXX_STD")].join(" ").trim().to_owned(),
        cpu_flags: cpu_flags(env!("XTASK_RUSTFLAGS")),
    })
}

/// The C++ compiler that build scripts will call.
pub(crate) fn compiler() -> String {
    env::var("CXX").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "c++".to_owned())
}

/// Version and features from a line such as `librocksdb-sys v0.19.0+11.8.1|lz4,static`.
fn package(listed: &str) -> Option<(String, String)> {
    let (package, features) = listed.lines().next()?.split_once('|')?;
    let version = package.split_whitespace().nth(1)?.strip_prefix('v')?;
    Some((version.to_owned(), features.to_owned()))
}

/// The rustflags that reach the C++ compiler: the build script passes the CPU on and nothing else.
fn cpu_flags(rustflags: &str) -> String {
    let flags = rustflags.split_whitespace().map(|flag| flag.strip_prefix("-C").unwrap_or(flag));
    flags
        .filter(|flag| flag.starts_with("target-cpu=") || flag.starts_with("target-feature="))
        .collect::<Vec<_>>()
        .join(" ")
}

/// FNV-1a: stable across Rust releases, unlike the hasher of `std`.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Held until dropped, or until this process ends in whatever way.
fn lock(path: &Path) -> Outcome<File> {
    let failed = |e: &dyn std::fmt::Display| format!("{} cannot be locked: {e}.", path.display());
    let file = File::create(path).map_err(|e| failed(&e))?;
    if file.try_lock().is_err() {
        report::note("another run is building RocksDB's library; waiting for it");
        file.lock().map_err(|e| failed(&e))?;
    }
    Ok(file)
}

fn build(workspace: &Workspace, key: &Key, folder: &Path) -> Outcome {
    report::header("build RocksDB's library (once per machine, about 30 minutes of CPU time)");
    report::note(&format!("into {}", folder.display()));
    let scratch = workspace.cache.join("librocksdb-build");
    // An older .cargo/local.toml may still name a library; COMPILE wins over LIB_DIR.
    let mut cargo = workspace.cargo(["build", "--release", "--package", "librocksdb-sys", "--target-dir"]);
    run(cargo.arg(&scratch).env("ROCKSDB_COMPILE", "1"))?;
    let built =
        newest_library(&scratch).ok_or_else(|| format!("The build left no {LIBRARY} below {}.", scratch.display()))?;
    store(&built, key, folder).map_err(|e| format!("{LIBRARY} cannot be kept in {}: {e}.", folder.display()))?;
    // Only room is lost if this fails.
    let _ = fs::remove_dir_all(&scratch);
    Ok(())
}

/// The archive lands in the output folder of the build script, whose name carries a hash of cargo's.
fn newest_library(scratch: &Path) -> Option<PathBuf> {
    let outputs = fs::read_dir(scratch.join("release/build")).ok()?.flatten();
    let libraries = outputs.map(|entry| entry.path().join("out").join(LIBRARY)).filter(|path| path.is_file());
    libraries.max_by_key(|path| path.metadata().and_then(|about| about.modified()).unwrap_or(SystemTime::UNIX_EPOCH))
}

/// The folder appears complete or not at all.
fn store(built: &Path, key: &Key, folder: &Path) -> std::io::Result<()> {
    let temporary = folder.with_extension(format!("{}.tmp", std::process::id()));
    fs::create_dir_all(&temporary)?;
    fs::copy(built, temporary.join(LIBRARY))?;
    fs::write(temporary.join("key"), key.text())?;
    fs::rename(&temporary, folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Key {
        Key {
            version: "0.19.0+11.8.1".to_owned(),
            features: "lz4,static".to_owned(),
            target: "x86_64-unknown-linux-gnu".to_owned(),
            compiler: "c++ 12.2.0".to_owned(),
            compiler_flags: String::new(),
            cpu_flags: "target-cpu=x86-64-v2".to_owned(),
        }
    }

    #[test]
    fn package_reads_what_cargo_tree_prints() {
        for (listed, want) in [
            ("librocksdb-sys v0.19.0+11.8.1|lz4,static\n", Some(("0.19.0+11.8.1", "lz4,static"))),
            ("librocksdb-sys v0.19.0|\n", Some(("0.19.0", ""))),
            ("", None),
            ("librocksdb-sys|lz4", None),
        ] {
            let want = want.map(|(version, features)| (version.to_owned(), features.to_owned()));
            assert_eq!(package(listed), want, "{listed:?}");
        }
    }

    #[test]
    fn only_cpu_flags_reach_the_key() {
        for (rustflags, want) in [
            ("", ""),
            ("-Dwarnings -Clinker=mold", ""),
            ("-Ctarget-cpu=native -Dwarnings", "target-cpu=native"),
            ("-C target-cpu=native -C target-feature=+avx2", "target-cpu=native target-feature=+avx2"),
        ] {
            assert_eq!(cpu_flags(rustflags), want, "{rustflags:?}");
        }
    }

    #[test]
    fn every_part_of_the_key_changes_the_folder() {
        let changes: [fn(&mut Key); 6] = [
            |key| key.version.push('1'),
            |key| key.features.push_str(",zstd"),
            |key| key.target.push('x'),
            |key| key.compiler.push('1'),
            |key| key.compiler_flags.push_str("-O1"),
            |key| key.cpu_flags.push('x'),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut key = example();
            change(&mut key);
            assert_ne!(key.folder(), example().folder(), "part {number}");
        }
    }
}
