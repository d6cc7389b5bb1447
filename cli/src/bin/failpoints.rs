//! The `shoal` binary for tests, with failpoints. Under a name of its own, so that nobody takes it for the other.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Err(problem) = shoal_model::failpoints::arm_from_environment() {
        eprintln!("SHOAL_FAILPOINTS: {problem}");
        return ExitCode::from(2);
    }
    shoal_cli::main()
}
