//! `cargo xtask`: set up a machine, start a cluster, run every test and check.
//!
//! No dependencies, so that it starts seconds after a clone. It calls cargo, apt, pip and buf, and keeps
//! what is slow to make (RocksDB's library, the target folder, buf) in one cache folder outside the checkout.
//!
//! Does not know about: anything inside the crates of Shoal, beyond their names and manifests.

mod bench;
mod cargo_tree;
mod chaos;
mod checks;
mod failpoints;
mod house;
mod layers;
mod licences;
mod proto_lint;
mod report;
mod rocksdb;
mod setup;
mod target_dir;
mod workspace;

use std::convert::Infallible;
use std::env;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask <command>

  setup          install what the build needs, build RocksDB's library once
  up [ARGS]      setup, build, then run `shoal up ARGS`
  test [FILTER]  setup, every check, then every test; with FILTER only the tests whose name contains it
  check [NAME]   one step of `test` alone; without NAME: list them
  bench [ARGS]   setup, build, then run `shoal-bench ARGS`; `bench ann --help` tells more (docs/benchmarks.md)
  chaos [ARGS]   setup, build, then run `shoal-chaos ARGS`: faults on real processes, and a verdict; `chaos --help`
                 tells more

The cache folder is $SHOAL_CACHE, else $XDG_CACHE_HOME/shoal, else ~/.cache/shoal.
CARGO_TARGET_DIR and ROCKSDB_LIB_DIR are honoured where set.";

/// Why a command stopped, as sentences for the person who started it.
type Outcome<T = ()> = Result<T, String>;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let outcome = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["setup"] => prepared(setup::FOR_TESTS).map(drop),
        ["up", rest @ ..] => up(rest),
        ["test"] => prepared(setup::FOR_TESTS).and_then(|workspace| checks::run_all(&workspace)),
        ["test", filter] => prepared(setup::FOR_BUILDS).and_then(|workspace| checks::run_tests(&workspace, filter)),
        ["check"] => {
            checks::list();
            Ok(())
        }
        // 1 says that a gate was missed.
        ["bench", rest @ ..] => {
            return bench::run(rest).map_or_else(|reason| failed(&reason, 2), |never| match never {});
        }
        // 1 says that something did not hold, 2 that nothing was proved.
        ["chaos", rest @ ..] => {
            return chaos::run(rest).map_or_else(|reason| failed(&reason, 2), |never| match never {});
        }
        ["check", name] => prepared(setup::FOR_TESTS).and_then(|workspace| checks::run_one(&workspace, name)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => failed(&reason, 1),
    }
}

fn failed(reason: &str, code: u8) -> ExitCode {
    eprintln!("\nerror: {reason}");
    ExitCode::from(code)
}

/// The workspace, on a machine that has what `needs` asks for, with RocksDB's library in place.
fn prepared(needs: &[setup::Need]) -> Outcome<Workspace> {
    let mut workspace = Workspace::locate()?;
    setup::run(&workspace, needs)?;
    target_dir::prepare(&mut workspace)?;
    rocksdb::prepare(&mut workspace)?;
    workspace.publish()?;
    Ok(workspace)
}

/// Builds the `shoal` binary and becomes it, so that Ctrl-C reaches the cluster and not a parent of it.
fn up(args: &[&str]) -> Outcome {
    let workspace = prepared(setup::FOR_BUILDS)?;
    workspace.build("shoal")?;
    become_it(Command::new(workspace.binary("shoal")).arg("up").args(args)).map(|never| match never {})
}

/// Replaces this process; returns only if that fails.
fn become_it(command: &mut Command) -> Outcome<Infallible> {
    let failure = command.exec();
    Err(format!("{} does not start: {failure}.", command.get_program().display()))
}
