//! What a build needs from the machine: found, or installed, or named.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, iter};

use crate::workspace::{Workspace, output};
use crate::{Outcome, proto_lint, report, rocksdb};

/// One thing that has to be on the machine.
pub(crate) struct Need {
    what: &'static str,
    /// The package of Debian and Ubuntu that brings it.
    package: &'static str,
    is_there: fn(&Workspace) -> bool,
}

const COMPILER: Need = Need { what: "a C++ compiler", package: "g++", is_there: has_compiler };
const LIBCLANG: Need = Need { what: "libclang and its headers", package: "libclang-dev", is_there: has_libclang };
const PYTHON: Need = Need { what: "python3 with venv", package: "python3-venv", is_there: has_buf_or_python };
const GIT: Need = Need { what: "git", package: "git", is_there: |_| starts("git", "--version") };

const PYTHON_FOR_PEERS: Need =
    Need { what: "python3 with venv", package: "python3-venv", is_there: |_| python().is_some() };
const PYTHON_HEADERS: Need =
    Need { what: "the headers of python3", package: "python3-dev", is_there: |_| has_python_headers() };

/// RocksDB, lz4 and ring compile C and C++; RocksDB's bindings are made from its header with libclang.
pub(crate) const FOR_BUILDS: &[Need] = &[COMPILER, LIBCLANG];

/// The proto lint comes from PyPI; the house checks ask git which files are ours.
pub(crate) const FOR_TESTS: &[Need] = &[COMPILER, LIBCLANG, PYTHON, GIT];

/// The peers of a benchmark come from PyPI, hnswlib as source: it is compiled for the machine that it runs on.
pub(crate) const FOR_PEERS: &[Need] = &[COMPILER, LIBCLANG, PYTHON_FOR_PEERS, PYTHON_HEADERS];

/// Makes sure that everything in `needs` is there.
///
/// Fails with the command to type where it may not install by itself.
pub(crate) fn run(workspace: &Workspace, needs: &[Need]) -> Outcome {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.is_there)(workspace)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    report::header("setup");
    install(&missing)?;
    match missing.iter().find(|need| !(need.is_there)(workspace)) {
        None => Ok(()),
        Some(need) => Err(format!("Package {} is installed, and still {} is not found.", need.package, need.what)),
    }
}

fn install(missing: &[&Need]) -> Outcome {
    let names = |part: fn(&Need) -> &str, joint| missing.iter().map(|need| part(need)).collect::<Vec<_>>().join(joint);
    let (what, packages) = (names(|need| need.what, ", "), names(|need| need.package, " "));
    if !starts("apt-get", "--version") {
        return Err(format!(
            "This machine lacks {what}. On Debian the packages are: {packages}. Install their like, then run this again."
        ));
    }
    if !is_root() {
        return Err(format!(
            "This machine lacks {what}. Run this, then try again:\n    \
             sudo apt-get update && sudo apt-get install --yes --no-install-recommends {packages}"
        ));
    }
    report::note(&format!("installing {packages}"));
    apt(&["update"])?;
    apt(&iter::once("install")
        .chain(["--yes", "--no-install-recommends"])
        .chain(packages.split(' '))
        .collect::<Vec<_>>())
}

/// Quiet unless it fails.
fn apt(args: &[&str]) -> Outcome {
    output(Command::new("apt-get").arg("--quiet=2").args(args).env("DEBIAN_FRONTEND", "noninteractive")).map(drop)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|about| about.uid() == 0)
}

/// Whether the program starts and is content with the one argument.
pub(crate) fn starts(program: &str, argument: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn has_compiler(_: &Workspace) -> bool {
    starts(&rocksdb::compiler(), "--version")
}

/// Looks where bindgen looks. The headers are those of the compiler itself, such as `stddef.h`.
fn has_libclang(_: &Workspace) -> bool {
    if env::var_os("LIBCLANG_PATH").is_some() {
        return true;
    }
    let folders = library_folders();
    let holds_library = |dir: &PathBuf| entries(dir).iter().any(|path| is_libclang(path));
    let holds_headers =
        |dir: &PathBuf| entries(&dir.join("clang")).iter().any(|path| path.join("include/stddef.h").is_file());
    folders.iter().any(holds_library) && folders.iter().any(holds_headers)
}

fn is_libclang(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.contains(".so")
        && (name.starts_with("libclang.so") || name.starts_with("libclang-1") || name.starts_with("libclang-2"))
}

fn library_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from).into();
    let below = entries(Path::new("/usr/lib"));
    folders.extend(below.iter().filter(|path| path.to_string_lossy().ends_with("-linux-gnu")).cloned());
    folders.extend(below.iter().filter(|path| path.to_string_lossy().contains("/llvm")).map(|path| path.join("lib")));
    folders
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|found| found.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn has_buf_or_python(workspace: &Workspace) -> bool {
    proto_lint::buf(workspace).is_file() || python().is_some()
}

/// A Python that can make virtual environments. Debian's own comes second: apt helps only that one.
pub(crate) fn python() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"].into_iter().find(|python| python_runs(python, "import ensurepip, venv"))
}

/// Whether extensions can be compiled for that Python.
fn has_python_headers() -> bool {
    const LOOK: &str = "import os, sys, sysconfig; \
                        sys.exit(not os.path.isfile(os.path.join(sysconfig.get_path('include'), 'Python.h')))";
    python().is_some_and(|python| python_runs(python, LOOK))
}

fn python_runs(python: &str, program: &str) -> bool {
    let mut command = Command::new(python);
    command.args(["-c", program]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libclang_is_told_from_its_neighbours() {
        for (name, want) in [
            ("libclang.so", true),
            ("libclang.so.1", true),
            ("libclang-14.so.14.0.6", true),
            ("libclang-cpp.so.14", false),
            ("libclang.a", false),
            ("libclangAST.so", false),
        ] {
            assert_eq!(is_libclang(&Path::new("/usr/lib").join(name)), want, "{name}");
        }
    }
}
