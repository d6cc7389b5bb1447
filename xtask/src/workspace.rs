//! Where things are, and how cargo is called.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Outcome, report};

/// The checkout, and the folders outside it that outlive it.
pub(crate) struct Workspace {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// Everything slow to make, kept across checkouts.
    pub(crate) cache: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
    /// Holds `librocksdb.a`; empty until `rocksdb::prepare` has run.
    pub(crate) rocksdb: PathBuf,
    cargo: OsString,
}

impl Workspace {
    /// Finds the checkout through cargo and the cache folder through the environment.
    pub(crate) fn locate() -> Outcome<Workspace> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .ok_or("Call this as `cargo xtask`, it asks cargo where the checkout is.")?;
        let root = Path::new(&manifest).parent().ok_or("The xtask crate has no folder above it.")?.to_path_buf();
        let cache = cache_dir(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)).ok_or(
            "Neither SHOAL_CACHE, XDG_CACHE_HOME nor HOME is set, so there is no place for the cache. Set SHOAL_CACHE.",
        )?;
        let cache = std::path::absolute(&cache).map_err(|e| format!("{} is no usable path: {e}.", cache.display()))?;
        fs::create_dir_all(&cache)
            .map_err(|e| format!("The cache folder {} cannot be created: {e}.", cache.display()))?;
        Ok(Workspace {
            target: root.join("target"),
            rocksdb: PathBuf::new(),
            cargo: env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
            root,
            cache,
        })
    }

    /// A cargo call in the checkout that sees the cached folders.
    ///
    /// What `cargo run` set for xtask itself is taken away again: a build script that watches such a variable
    /// would otherwise rebuild its crate each time `cargo xtask` and plain `cargo` take turns.
    pub(crate) fn cargo<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = Command::new(&self.cargo);
        for (name, _) in env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("CARGO_PKG_") || name_text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&name);
            }
        }
        command.args(args).current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        if !self.rocksdb.as_os_str().is_empty() {
            command.env("ROCKSDB_LIB_DIR", &self.rocksdb).env("ROCKSDB_STATIC", "1");
        }
        command
    }

    /// Builds one binary of ours: the same build for `up`, for the end-to-end tests and for benches, so that they
    /// share every artefact.
    ///
    /// In view of the whole workspace, because that is what decides the features of the dependencies.
    pub(crate) fn build(&self, binary: &str) -> Outcome {
        report::header(&format!("build {binary}"));
        run(&mut self.cargo(["build", "--release", "--workspace", "--bin", binary]))
    }

    /// The binary that [`Workspace::build`] makes.
    pub(crate) fn binary(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// Writes `.cargo/local.toml`, so that plain `cargo build` finds the same folders.
    pub(crate) fn publish(&self) -> Outcome {
        let path = self.root.join(".cargo/local.toml");
        let text = local_config(&self.target, &self.rocksdb);
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        write_atomically(&path, &text).map_err(|e| format!("{} cannot be written: {e}.", path.display()))
    }
}

/// Where the cache goes, most specific variable first.
fn cache_dir(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("SHOAL_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("shoal")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".cache/shoal")))
}

fn local_config(target: &Path, rocksdb: &Path) -> String {
    let quote = |path: &Path| format!("\"{}\"", path.display().to_string().replace('\\', r"\\").replace('"', "\\\""));
    format!(
        "# Written by `cargo xtask` for this machine; not in git.\n\
         [env]\nROCKSDB_LIB_DIR = {}\nROCKSDB_STATIC = \"1\"\n\n[build]\ntarget-dir = {}\n",
        quote(rocksdb),
        quote(target)
    )
}

/// Replaces the file in one step: a reader sees the old text or the new one.
pub(crate) fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}

/// Runs a command whose output the person at the terminal sees.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let status = command.status().map_err(|e| not_started(command, &e))?;
    if status.success() { Ok(()) } else { Err(format!("`{}` failed ({status}).", shown(command))) }
}

/// Runs a command for its standard output; what it says on standard error is part of the failure.
pub(crate) fn output(command: &mut Command) -> Outcome<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| not_started(command, &e))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{}` failed ({}):\n{stdout}{stderr}", shown(command), output.status))
}

/// The command as one could type it, without its environment.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    std::iter::once(program).chain(command.get_args()).map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn not_started(command: &Command, error: &io::Error) -> String {
    format!("`{}` does not start: {error}.", shown(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_follows_the_most_specific_variable() {
        for (set, want) in [
            (&[("SHOAL_CACHE", "/s"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")][..], Some("/s")),
            (&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")][..], Some("/x/shoal")),
            (&[("HOME", "/h")][..], Some("/h/.cache/shoal")),
            (&[][..], None),
        ] {
            let got = cache_dir(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value)));
            assert_eq!(got, want.map(PathBuf::from), "{set:?}");
        }
    }

    #[test]
    fn paths_are_quoted_for_toml() {
        let text = local_config(Path::new("/a \"b\""), Path::new("/c"));
        assert!(text.contains(r#"target-dir = "/a \"b\"""#), "{text}");
        assert!(text.contains(r#"ROCKSDB_LIB_DIR = "/c""#), "{text}");
    }
}
