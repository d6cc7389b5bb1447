//! Work that touches the disk or takes long, off the threads that serve sockets.

use crate::NodeError;

/// Runs `work` on a thread of its own. Errors: `Task` if it panics.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, NodeError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| NodeError::Task(error.to_string()))
}
