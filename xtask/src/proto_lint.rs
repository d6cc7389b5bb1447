//! buf's lint of the protos. buf is a single program that PyPI carries as a wheel.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::workspace::{Workspace, output, run};
use crate::{Outcome, report, setup};

const VERSION: &str = "1.75.0";

/// Lints `proto/` by the rules in its `buf.yaml`.
pub(crate) fn check(workspace: &Workspace) -> Outcome {
    let buf = buf(workspace);
    if !buf.is_file() {
        install(workspace)?;
    }
    run(Command::new(&buf)
        .arg("lint")
        .current_dir(workspace.root.join("proto"))
        .env("BUF_CACHE_DIR", workspace.cache.join("buf-cache")))
}

/// Where the pinned buf is, once installed.
pub(crate) fn buf(workspace: &Workspace) -> PathBuf {
    environment(workspace).join("bin/buf")
}

fn environment(workspace: &Workspace) -> PathBuf {
    workspace.cache.join(format!("buf-{VERSION}"))
}

/// A half-made environment is never taken for a whole one: pip puts `bin/buf` in place last.
fn install(workspace: &Workspace) -> Outcome {
    report::note(&format!("installing buf {VERSION} from PyPI"));
    let environment = environment(workspace);
    let _ = fs::remove_dir_all(&environment); // what an interrupted install left
    let python =
        setup::python().ok_or("The proto lint needs python3 with venv. On Debian the package is python3-venv.")?;
    output(Command::new(python).args(["-m", "venv"]).arg(&environment))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"];
    output(Command::new(environment.join("bin/python")).args(pip).arg(format!("buf-bin=={VERSION}")))
        .map(drop)
        .map_err(|reason| format!("buf-bin {VERSION} cannot be installed. Is PyPI, or a mirror set in pip's configuration, in reach?\n{reason}"))
}
