//! Mounts a lossy disk, or sends a command to one.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use shoal_lossy::{COMMANDS, Lossy, LossyError, Metadata};
use tokio::signal::unix::{SignalKind, signal};

/// A disk under power loss and faults, for tests.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Mounts a folder until SIGTERM or SIGINT, which make everything durable; SIGKILL is a power loss.
    Mount {
        /// Holds what is durable.
        backing: PathBuf,
        /// An empty folder outside it.
        mountpoint: PathBuf,
        /// Unix socket on which to take commands.
        #[arg(long)]
        control: PathBuf,
        /// What makes names durable.
        #[arg(long, value_enum, default_value_t)]
        metadata: Names,
    },
    /// Sends a command to a mounted disk and prints the answer.
    #[command(after_help = COMMANDS)]
    Control {
        /// The socket given to `mount`.
        socket: PathBuf,
        /// The command and its arguments.
        #[arg(required = true)]
        command: Vec<String>,
    },
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Names {
    /// As on ext4 and XFS.
    #[default]
    Journaled,
    /// As POSIX promises.
    Strict,
}

impl From<Names> for Metadata {
    fn from(names: Names) -> Self {
        match names {
            Names::Journaled => Self::Journaled,
            Names::Strict => Self::Strict,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Arguments::parse().task {
        Task::Mount { backing, mountpoint, control, metadata } => {
            // First, so that a signal that comes while it mounts finds somebody.
            let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            let mut lossy = Lossy::mount(&backing, &mountpoint, metadata.into())?;
            lossy.listen(&control)?;
            println!("mounted {}", lossy.path().display());
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            Ok(())
        }
        Task::Control { socket, command } => Ok(tell(&socket, &command.join(" "))?),
    }
}

fn tell(socket: &std::path::Path, command: &str) -> Result<(), LossyError> {
    let answer = shoal_lossy::ask(socket, command)?;
    if !answer.is_empty() {
        println!("{answer}");
    }
    Ok(())
}
