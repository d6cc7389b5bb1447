//! `cargo xtask chaos`: builds `shoal-chaos` with the `shoal` that it starts, and becomes it.

use std::convert::Infallible;
use std::process::Command;

use crate::{Outcome, become_it, prepared, report, setup};

/// Returns only if it cannot be started.
pub(crate) fn run(args: &[&str]) -> Outcome<Infallible> {
    let workspace = prepared(setup::FOR_BUILDS)?;
    workspace.build("shoal")?;
    workspace.build("shoal-lossy")?;
    workspace.build("shoal-chaos")?;
    report::header("chaos");
    become_it(Command::new(workspace.binary("shoal-chaos")).args(args).env("SHOAL_BIN", workspace.binary("shoal")))
}
