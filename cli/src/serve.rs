//! `shoal serve`: one role, until it is told to stop.

use std::io::{ErrorKind, Write as _};
use std::time::Duration;

use tokio::net::TcpListener;

use crate::args::{Role, ServeArgs};
use crate::config::{self, CoordinatorFile, NodeFile, RouterFile};
use crate::failure::{Exit, Failure};
use crate::process::{Process, Sockets};
use crate::signals;

/// How long a process that cannot go on waits for open calls.
const FAILED_DRAIN_WITHIN: Duration = Duration::from_millis(500);

/// Runs `shoal serve`.
pub(crate) async fn run(args: &ServeArgs) -> Result<(), Failure> {
    let mut process = tokio::select! {
        started = start(args) => started.map_err(|failure| failure.while_doing(args.config.display()))?,
        () = signals::stop() => return Ok(()), // asked to stop before it served
    };
    let role = match args.role {
        Role::Coordinator => "coordinator",
        Role::Node => "node",
        Role::Router => "router",
    };
    ready(&format!("ready role={role} address={} metrics={}", process.url(), process.metrics_url()));
    let failed = tokio::select! {
        failure = process.failed() => Some(failure),
        () = signals::stop() => None,
    };
    tracing::info!(role, "shutting down: no new calls, open calls finish, logs are synced");
    let Some(failure) = failed else { return process.shut_down().await };
    // Open calls may wait for what will never come, and others wait for this one to be gone.
    let _ = tokio::time::timeout(FAILED_DRAIN_WITHIN, process.shut_down()).await;
    if failure.next.is_some() {
        return Err(failure);
    }
    Err(failure.next("look into the log above, mend what it names, and start again"))
}

async fn start(args: &ServeArgs) -> Result<Process, Failure> {
    if args.replaces.is_some() && args.role != Role::Node {
        return Err(Failure::new("--replaces is for nodes: others need no such word").exit(Exit::Usage));
    }
    match args.role {
        Role::Coordinator => {
            let file: CoordinatorFile = config::read(&args.config)?;
            let sockets = sockets(&file.listen, &file.metrics_listen).await?;
            let name = format!("coordinator {}", file.coordinator.id);
            Process::coordinator(name, file.coordinator, sockets, &file.data).await
        }
        Role::Node => {
            let file: NodeFile = config::read(&args.config)?;
            let sockets = sockets(&file.listen, &file.metrics_listen).await?;
            let replaces = args.replaces.as_deref().or(file.replaces.as_deref());
            Process::node(format!("node {}", file.node.name), file.node, sockets, &file.data, replaces).await
        }
        Role::Router => {
            let file: RouterFile = config::read(&args.config)?;
            let sockets = sockets(&file.listen, &file.metrics_listen).await?;
            Process::router("router".to_owned(), file.router, sockets).await
        }
    }
}

async fn sockets(calls: &str, metrics: &str) -> Result<Sockets, Failure> {
    Ok(Sockets { calls: bind("listen", calls).await?, metrics: bind("metrics_listen", metrics).await? })
}

/// Listens on `address`, which `field` gave.
pub(crate) async fn bind(field: &str, address: &str) -> Result<TcpListener, Failure> {
    let failed = |error: std::io::Error| {
        let failure = Failure::new(format!("{field}: listen on {address}: {error}"));
        // An address that is none is a mistake of whoever wrote it.
        if error.kind() == ErrorKind::InvalidInput { failure.exit(Exit::Usage) } else { failure }
    };
    TcpListener::bind(address).await.map_err(failed)
}

/// Tells whoever started the process that it serves. A closed stdout is no reason to fail.
fn ready(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
