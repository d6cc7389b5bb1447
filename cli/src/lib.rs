//! The `shoal` binary as a library: the command line, every command, and the processes of a cluster (`up`, `serve`).
//!
//! Data goes to stdout, progress and hints go to stderr, and exit codes tell programs what happened. Admin commands
//! use `shoal-client` alone; `up` and `serve` link the services and own nothing but their sockets, folders and order.
//!
//! Does not know about: how a service does its work.

pub mod args;
mod collections;
mod command;
mod config;
mod effort;
mod eval;
pub mod failure;
mod folders;
mod import;
mod json;
mod metrics_server;
mod nodes;
mod output;
mod points;
mod process;
mod progress;
mod rows;
mod sample;
mod serve;
mod signals;
mod status;
mod store_home;
mod telemetry;
mod up;

use std::process::ExitCode;

use clap::Parser as _;

// One build serves the tests that plant bugs and those with failpoints; nothing that ships has either.
const _: () = assert!(
    !shoal_model::planted::CAN_PLANT || cfg!(feature = "failpoints"),
    "a binary with planted bugs must not be built"
);

/// Runs the command line of this process, and tells how it ended.
#[must_use]
pub fn main() -> ExitCode {
    command::main(args::Cli::parse()) // wrong usage ends the process with exit code 2
}
