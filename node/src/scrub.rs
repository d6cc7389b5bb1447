//! Looking for what disks have spoilt, before somebody asks for it.
//!
//! One task goes over everything that the node has on disk, again and again, at a bounded rate: the files of each segment that
//! is served, then the store's log and tables. It reads past caches as far as the file system lets it, so that it sees the
//! disk, and what searches have mapped beside that. Damage is told where it is mended (`damage`); the pass goes on.
//!
//! What lies in memory alone is out of its sight: deltas, and what segments keep of their files.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shoal_index::IndexError;
use shoal_index::file::{Fault, FileError, FileScrub, Image};
use shoal_index::segment::Segment;
use shoal_runtime::{Store, Verified};

use crate::NodeError;
use crate::blocking;
use crate::metrics::Metrics;
use crate::replicas::Replicas;

/// The first pass begins so long after the start at the latest, which itself verifies much.
const FIRST_AFTER_MAX: Duration = Duration::from_secs(300);
/// The longest that one wait on a thread of its own lasts: it cannot be interrupted.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// The task and what it needs.
pub(crate) struct Scrub {
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) metrics: Metrics,
    /// At least 1.
    pub(crate) bytes_per_second: u64,
    /// From the end of a pass to the next.
    pub(crate) every: Duration,
}

/// Ends what runs on another thread when the task is dropped.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Scrub {
    /// Goes on until dropped.
    pub(crate) async fn run(self) {
        tokio::time::sleep(self.every.min(FIRST_AFTER_MAX)).await;
        loop {
            self.pass().await;
            self.metrics.scrub_passed();
            tokio::time::sleep(self.every).await;
        }
    }

    async fn pass(&self) {
        for replica in self.replicas.all() {
            let segments: Vec<Arc<Segment>> = replica.view().points.segments().cloned().collect();
            for segment in segments {
                self.segment(&segment).await;
            }
        }
        if let Err(error) = self.store().await {
            tracing::error!(%error, "the store could not be looked through");
        }
    }

    async fn segment(&self, segment: &Arc<Segment>) {
        for image in [Segment::graph_image, Segment::stored_image] {
            let checked = self.file(segment, image).await;
            match checked {
                Ok(Ok(())) => {}
                // It was replaced meanwhile, or set aside, or is in memory only.
                Ok(Err(FileError { fault: Fault::Missing, .. })) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "the scrub found a damaged segment");
                    self.metrics.scrub_found("segment");
                    let segment = segment.graph_image().checksum();
                    self.replicas.note_damage(&IndexError::Damaged { segment }.into());
                    return;
                }
                Err(error) => tracing::error!(%error, "a segment could not be looked through"),
            }
        }
    }

    /// Looks through one file of a segment, block by block.
    async fn file(
        &self,
        segment: &Arc<Segment>,
        image: fn(&Segment) -> &Image,
    ) -> Result<Result<(), FileError>, NodeError> {
        let of = segment.clone();
        let mut scrub = match blocking::run(move || FileScrub::begin(image(&of))).await? {
            Ok(scrub) => scrub,
            Err(error) => return Ok(Err(error)),
        };
        for number in 0..scrub.blocks() {
            let check = move || {
                let checked = scrub.check(number);
                (scrub, checked)
            };
            let (next, checked) = blocking::run(check).await?;
            scrub = next;
            match checked {
                Ok(bytes) => self.went(bytes as u64).await,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    }

    async fn went(&self, bytes: u64) {
        self.metrics.scrubbed(bytes);
        tokio::time::sleep(lasts(bytes, self.bytes_per_second)).await;
    }

    /// Looks through the store, on a thread of its own, as that reads and waits in turns for long.
    async fn store(&self) -> Result<(), NodeError> {
        let is_over = Arc::new(AtomicBool::new(false));
        let _stop = StopOnDrop(is_over.clone());
        let (store, metrics, rate) = (self.store.clone(), self.metrics.clone(), self.bytes_per_second);
        let verify = move || {
            store.verify(&mut |bytes| {
                metrics.scrubbed(bytes);
                wait(lasts(bytes, rate), &is_over)
            })
        };
        match blocking::run(verify).await?.map_err(NodeError::from) {
            Ok(Verified { log_damage: None }) => {}
            Ok(Verified { log_damage: Some(place) }) => {
                tracing::error!(place, "the write-ahead log was damaged; what it held is in tables now");
                self.metrics.scrub_found("log");
            }
            Err(error) if error.is_store_damage() => {
                tracing::error!(%error, "the scrub found a damaged table");
                self.metrics.scrub_found("table");
                self.replicas.note_damage(&error);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn lasts(bytes: u64, bytes_per_second: u64) -> Duration {
    #[allow(clippy::cast_precision_loss, reason = "a share of a second")]
    Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64)
}

/// Waits on this thread, unless it is over.
fn wait(mut rest: Duration, is_over: &AtomicBool) -> ControlFlow<()> {
    while !rest.is_zero() && !is_over.load(Ordering::Relaxed) {
        let now = rest.min(WAIT_MAX);
        std::thread::sleep(now);
        rest -= now;
    }
    if is_over.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
