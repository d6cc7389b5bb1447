//! The steps of `cargo xtask test`, cheapest first, the tests last.

use std::process::Command;
use std::time::Instant;

use crate::workspace::{Workspace, output, run};
use crate::{Outcome, failpoints, house, layers, licences, proto_lint, report, setup};

struct Check {
    name: &'static str,
    what: &'static str,
    run: fn(&Workspace) -> Outcome,
}

const CHECKS: [Check; 10] = [
    Check { name: "rustfmt", what: "the code is formatted", run: rustfmt },
    Check { name: "proto", what: "the protos follow buf's STANDARD rules", run: proto_lint::check },
    Check { name: "licences", what: "every dependency is under an allowed licence", run: licences::check },
    Check { name: "layers", what: "our crates depend on each other in one direction", run: layers::check },
    Check { name: "house", what: "file sizes, file headers, links between documents", run: house::check },
    Check { name: "failpoints", what: "the code meets each failpoint of the catalogue", run: failpoints::check },
    Check { name: "clippy", what: "no warning", run: clippy },
    Check { name: "rustdoc", what: "no warning, no broken link", run: rustdoc },
    Check { name: "faults", what: "planted bugs are caught, the cluster comes back from each failpoint", run: faults },
    Check { name: "tests", what: "every test of the workspace", run: tests },
];

/// Names and meanings for `cargo xtask check`.
pub(crate) fn list() {
    for check in &CHECKS {
        println!("{:10} {}", check.name, check.what);
    }
}

/// Runs every check and stops at the first that fails. What the test runner prints comes last.
pub(crate) fn run_all(workspace: &Workspace) -> Outcome {
    let (last, first) = CHECKS.split_last().ok_or("There is no check.")?;
    let mut times = Vec::with_capacity(first.len());
    for check in first {
        let start = Instant::now();
        run_with_header(workspace, check)?;
        report::note(&format!("{} passed in {}", check.name, report::elapsed(start.elapsed())));
        times.push((check.name, start.elapsed()));
    }
    report::table(&times);
    run_with_header(workspace, last)
}

/// Runs the check of this name.
pub(crate) fn run_one(workspace: &Workspace, name: &str) -> Outcome {
    let names = || CHECKS.map(|check| check.name).join(", ");
    let check = CHECKS.iter().find(|check| check.name == name);
    run_with_header(workspace, check.ok_or_else(|| format!("There is no check {name:?}. There are: {}.", names()))?)
}

/// Runs the tests whose name contains `filter`.
pub(crate) fn run_tests(workspace: &Workspace, filter: &str) -> Outcome {
    report::header("tests");
    run_tests_with(workspace, &[filter])
}

fn run_with_header(workspace: &Workspace, check: &Check) -> Outcome {
    report::header(check.name);
    (check.run)(workspace)
        .map_err(|reason| format!("{reason}\n\n{0} failed. This step alone: cargo xtask check {0}", check.name))
}

fn rustfmt(workspace: &Workspace) -> Outcome {
    component("rustfmt", "cargo-fmt")?;
    run(&mut workspace.cargo(["fmt", "--all", "--check"]))
}

/// In the release profile like everything else: build scripts and macros are compiled once.
fn clippy(workspace: &Workspace) -> Outcome {
    component("clippy", "cargo-clippy")?;
    run(&mut workspace.cargo(["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn rustdoc(workspace: &Workspace) -> Outcome {
    let doc = ["doc", "--release", "--workspace", "--no-deps", "--document-private-items"];
    run(workspace.cargo(doc).env("RUSTDOCFLAGS", "-D warnings"))
}

fn tests(workspace: &Workspace) -> Outcome {
    run_tests_with(workspace, &[])
}

/// End-to-end tests start the binary that SHOAL_BIN names.
fn run_tests_with(workspace: &Workspace, filter: &[&str]) -> Outcome {
    workspace.build("shoal")?;
    run(workspace.cargo(["test", "--release", "--workspace"]).args(filter).env("SHOAL_BIN", workspace.binary("shoal")))
}

/// What these two need is in no other build; they share one, and run side by side: one computes, the other waits for elections.
fn faults(workspace: &Workspace) -> Outcome {
    const FEATURES: &str = "shoal-sim/planted-bugs,shoal-cli/failpoints,shoal-tests/failpoints";
    let program = "shoal-failpoints";
    let build = ["build", "--release", "--workspace", "--features", FEATURES];
    // In one call, so that the features of dependencies are those of tests for the program, too.
    run(workspace.cargo(build).args(["--bin", program, "--test", "planted", "--test", "failpoints"]))?;
    let test = |name| {
        let mut test = workspace.cargo(["test", "--release", "--workspace", "--features", FEATURES, "--test", name]);
        test.args(["--", "--nocapture"]).env("SHOAL_BIN", workspace.binary(program));
        test
    };
    std::thread::scope(|scope| {
        let failpoints = scope.spawn(|| output(&mut test("failpoints")));
        let planted = run(&mut test("planted"));
        // Last, so that what went wrong among hundreds of episodes ends the output.
        let failpoints = failpoints.join().map_err(|_| "The thread that waits for a test panicked.")?;
        println!("{}", failpoints?);
        planted
    })
}

/// A part of the Rust toolchain that a minimal installation lacks.
fn component(name: &str, program: &str) -> Outcome {
    if setup::starts(program, "--version") {
        return Ok(());
    }
    report::note(&format!("adding {name} to the Rust toolchain"));
    run(Command::new("rustup").args(["component", "add", name])).map_err(|reason| {
        format!("{reason} This toolchain lacks {name}; add it, for instance with `rustup component add {name}`.")
    })
}
