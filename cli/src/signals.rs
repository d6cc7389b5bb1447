//! When the user or the system wants the process to end.

use crate::failure::Exit;
use crate::progress::say;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Completes on Ctrl-C or SIGTERM. Whoever waits may take a while to end in order; a second signal ends the process at
/// once.
pub(crate) async fn stop() {
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt()), listen(SignalKind::terminate()));
    tokio::select! {
        () = next(&mut interrupt) => {}
        () = next(&mut terminate) => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            () = next(&mut interrupt) => {}
            () = next(&mut terminate) => {}
        }
        say("ending at once");
        std::process::exit(Exit::Interrupted as i32);
    });
}

/// `None` if the system does not let us listen; then the signal ends the process as it would have.
fn listen(kind: SignalKind) -> Option<Signal> {
    signal(kind).inspect_err(|error| tracing::warn!(%error, ?kind, "cannot listen to a signal")).ok()
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}
