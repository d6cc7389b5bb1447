//! `cargo xtask bench`: builds `shoal-bench`, prepares the peers it is asked to run beside, and becomes it.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rocksdb::fnv1a;
use crate::workspace::{Workspace, output, write_atomically};
use crate::{Outcome, become_it, prepared, report, setup};

/// What the peers are: PyPI packages, each at one version.
const REQUIREMENTS: &str = "bench/peers/requirements.txt";

/// The benches that start the `shoal` built beside them.
const OF_PROCESSES: [&str; 4] = ["cluster", "idle", "ingest", "restart"];

/// In a whole environment, and only there.
const WHOLE: &str = "whole";

/// Returns only if the bench cannot be started.
pub(crate) fn run(args: &[&str]) -> Outcome<Infallible> {
    let with_peers = wants_peers(args);
    let workspace = prepared(if with_peers { setup::FOR_PEERS } else { setup::FOR_BUILDS })?;
    workspace.build("shoal-bench")?;
    if args.first().is_some_and(|bench| OF_PROCESSES.contains(bench)) {
        workspace.build("shoal")?;
    }
    let mut bench = Command::new(workspace.binary("shoal-bench"));
    if with_peers {
        bench.env("SHOAL_BENCH_PYTHON", peers(&workspace)?);
    }
    report::header("bench");
    become_it(bench.args(args))
}

/// Whether peers are asked for, and no Python that has them is named.
fn wants_peers(args: &[&str]) -> bool {
    let has = |flag: &str| args.iter().any(|arg| arg.split('=').next() == Some(flag));
    has("--peers") && !has("--python")
}

/// The Python of an environment that has what [`REQUIREMENTS`] lists: one environment for each text of that file.
fn peers(workspace: &Workspace) -> Outcome<PathBuf> {
    let requirements = workspace.root.join(REQUIREMENTS);
    let text = fs::read(&requirements).map_err(|e| format!("{} cannot be read: {e}.", requirements.display()))?;
    let environment = workspace.cache.join(format!("peers-{:016x}", fnv1a(&text)));
    if !environment.join(WHOLE).is_file() {
        install(&requirements, &environment)?;
    }
    Ok(environment.join("bin/python"))
}

fn install(requirements: &Path, environment: &Path) -> Outcome {
    report::header("install the peers from PyPI");
    let _ = fs::remove_dir_all(environment); // what an interrupted install left
    let python = setup::python().ok_or("The peers need python3 with venv. On Debian the package is python3-venv.")?;
    output(Command::new(python).args(["-m", "venv"]).arg(environment))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    output(Command::new(environment.join("bin/python")).args(pip).arg(requirements)).map_err(|reason| {
        format!(
            "The peers cannot be installed. They need Python 3.11 or later, and PyPI, or a mirror set in pip's \
             configuration, in reach.\n{reason}"
        )
    })?;
    let whole = environment.join(WHOLE);
    write_atomically(&whole, "").map_err(|e| format!("{} cannot be written: {e}.", whole.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_prepared_when_they_are_asked_for() {
        for (args, want) in [
            (&["ann", "--set", "x"][..], false),
            (&["ann", "--set", "x", "--peers", "hnswlib"][..], true),
            (&["ann", "--peers=hnswlib,faiss"][..], true),
            (&["ann", "--peers", "hnswlib", "--python", "python3"][..], false),
            (&["ann", "--peersonal"][..], false),
            (&[][..], false),
        ] {
            assert_eq!(wants_peers(args), want, "{args:?}");
        }
    }
}
