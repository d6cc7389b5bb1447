//! One process of the cluster that is started again when it ends by itself, as the supervisor of a machine would.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::failure::Failure;
use crate::progress::say;

/// Pause before the first new start; it doubles with each that does not last.
const FIRST_REST: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_REST: Duration = Duration::from_secs(16);
/// How long a process has to run for its earlier ends to be forgotten.
const LASTS: Duration = Duration::from_secs(60);
/// Ends in quick succession after which it is given up: about a minute.
const ENDS_MAX: u32 = 6;

/// What can be looked after.
pub(crate) trait Supervised: Sized {
    /// Completes only if it cannot go on; says why.
    async fn failed(&mut self) -> Failure;

    /// Gives back its sockets and folder.
    async fn shut_down(self) -> Result<(), Failure>;
}

/// Looks after a process: completes only once it is given up, and says why. `running` is empty in between.
///
/// It may be dropped at any moment; what runs then is in `running`.
pub(crate) async fn look_after<P: Supervised>(
    name: &str,
    running: &mut Option<P>,
    mut start: impl AsyncFnMut() -> Result<P, Failure>,
) -> Failure {
    let mut ends: u32 = 0;
    loop {
        let started = Instant::now();
        let reason = match running.as_mut() {
            Some(process) => process.failed().await,
            None => match start().await {
                Ok(process) => {
                    say(&format!("{name} runs again"));
                    *running = Some(process);
                    continue;
                }
                Err(failure) => failure,
            },
        };
        if let Some(process) = running.take() {
            // Why it has ended is known; that it does not end well either is no news.
            let _ = process.shut_down().await;
        }
        ends = if started.elapsed() >= LASTS { 1 } else { ends + 1 };
        if ends >= ENDS_MAX {
            return Failure::new(format!("{name} has ended {ends} times in quick succession; the last time: {reason}"));
        }
        let rest = rest_after(ends);
        say(&format!("{name} has ended: {reason}; it is started again in {} s", rest.as_secs()));
        sleep(rest).await;
    }
}

fn rest_after(ends: u32) -> Duration {
    FIRST_REST.saturating_mul(1 << ends.saturating_sub(1).min(16)).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Ends after a while, or never.
    struct Fake {
        lasts: Option<Duration>,
        shut_down: Arc<AtomicU32>,
    }

    impl Supervised for Fake {
        async fn failed(&mut self) -> Failure {
            match self.lasts {
                Some(lasts) => sleep(lasts).await,
                None => std::future::pending().await,
            }
            Failure::new("disk failed")
        }

        async fn shut_down(self) -> Result<(), Failure> {
            self.shut_down.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        assert_eq!([1, 2, 3, 5, 6, 40].map(|ends| rest_after(ends).as_secs()), [1, 2, 4, 16, 16, 16]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_is_started_again_after_it_was_put_down() {
        let shut_down = Arc::new(AtomicU32::new(0));
        let mut running = Some(Fake { lasts: Some(Duration::from_secs(3)), shut_down: shut_down.clone() });
        let mut starts = 0;
        let start = async || {
            starts += 1;
            match starts {
                1 => Err(Failure::new("its folder is in use")),
                _ => Ok(Fake { lasts: None, shut_down: shut_down.clone() }),
            }
        };
        let looked = tokio::time::timeout(Duration::from_secs(600), look_after("node-2", &mut running, start)).await;
        assert!(looked.is_err(), "it is looked after for as long as it runs");
        assert!(running.is_some(), "and it runs");
        assert_eq!((starts, shut_down.load(Ordering::SeqCst)), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_at_once_again_and_again_is_given_up_in_words() {
        let shut_down = Arc::new(AtomicU32::new(0));
        let fake = || Fake { lasts: Some(Duration::from_secs(1)), shut_down: shut_down.clone() };
        let mut running = Some(fake());
        let began = Instant::now();
        let failure = look_after("node-2", &mut running, async || Ok(fake())).await;
        assert!(began.elapsed() < LASTS, "{:?}", began.elapsed());
        assert!(running.is_none());
        assert_eq!(
            failure.message, "node-2 has ended 6 times in quick succession; the last time: disk failed",
            "the reason is told"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_now_and_then_is_never_given_up() {
        let shut_down = Arc::new(AtomicU32::new(0));
        let fake = || Fake { lasts: Some(LASTS * 2), shut_down: shut_down.clone() };
        let mut running = Some(fake());
        let day = Duration::from_secs(24 * 3_600);
        let looked = tokio::time::timeout(day, look_after("node-2", &mut running, async || Ok(fake()))).await;
        assert!(looked.is_err(), "it is not given up");
        assert!(shut_down.load(Ordering::SeqCst) > 100);
    }
}
