//! Tasks with an owner: whoever spawns one waits for it.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The tasks of one service, and the signal that ends them.
///
/// A task ends by itself soon after [`Tasks::stop_signal`] fires. [`Tasks::shut_down`] fires it and waits.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<&'static str>,
    stop: CancellationToken,
}

/// How tasks failed to end as they should.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// A task panicked, which is a bug.
    #[error("a task panicked: {0}")]
    Panicked(String),
    /// Some tasks did not end within the time they were given.
    #[error("{count} tasks did not end within {within:?}")]
    Late {
        /// How many.
        count: usize,
        /// The time they were given.
        within: Duration,
    },
}

impl Tasks {
    /// No tasks yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Fires when the service is to stop.
    #[must_use]
    pub fn stop_signal(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs `task`; `name` tells which one it was when it ends.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits until a task ends, and says which; `None` when there is none. Before a stop, that is worth a word.
    pub async fn next_ended(&mut self) -> Option<Result<&'static str, TaskError>> {
        Some(self.set.join_next().await?.map_err(|error| TaskError::Panicked(error.to_string())))
    }

    /// Completes only if a task panics: what it did, nobody does any more. Safe to drop.
    pub async fn failed(&mut self) -> TaskError {
        loop {
            match self.next_ended().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error,
                None => std::future::pending().await,
            }
        }
    }

    /// Tells all tasks to stop and waits for them, at most `within`; then aborts the rest.
    pub async fn shut_down(mut self, within: Duration) -> Result<(), TaskError> {
        self.stop.cancel();
        let drained = tokio::time::timeout(within, async {
            let mut result = Ok(());
            while let Some(ended) = self.next_ended().await {
                result = result.and(ended.map(drop));
            }
            result
        });
        match drained.await {
            Ok(result) => result,
            Err(_) => {
                let count = self.set.len();
                self.set.shutdown().await;
                Err(TaskError::Late { count, within })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shut_down_waits_for_tasks_and_names_the_late() {
        let mut tasks = Tasks::new();
        let stop = tasks.stop_signal();
        tasks.spawn("obeys", async move { stop.cancelled().await });
        assert_eq!(tasks.shut_down(Duration::from_secs(1)).await, Ok(()));

        let mut tasks = Tasks::new();
        tasks.spawn("does not", std::future::pending());
        let within = Duration::from_secs(1);
        assert_eq!(tasks.shut_down(within).await, Err(TaskError::Late { count: 1, within }));
    }

    #[tokio::test]
    async fn a_panic_is_told() {
        let mut tasks = Tasks::new();
        tasks.spawn("panics", async { panic!("on purpose") });
        assert!(matches!(tasks.shut_down(Duration::from_secs(1)).await, Err(TaskError::Panicked(_))));
        let mut tasks = Tasks::new();
        tasks.spawn("ends", async {});
        tasks.spawn("panics", async { panic!("on purpose") });
        assert!(matches!(tasks.failed().await, TaskError::Panicked(_)), "while others have ended in order");
    }
}
