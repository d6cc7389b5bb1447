//! The `shoal` binary; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    shoal_cli::main()
}
