//! The pipeline of an import: one thread reads and checks rows, a few writes are under way at once, and what is
//! acknowledged without a gap is told to the caller.
//!
//! Bounded everywhere: two batches wait between reader and writers, and `concurrency` are under way. On the first row
//! or batch that fails, nothing more is read, and what is under way is finished.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, future, stream};
use shoal_client::{Client, ClientError, VectorEncoding};
use shoal_model::{Classify as _, Metric, Point, check_vector};
use tokio::sync::mpsc;

use super::acked::{Acked, Mark};
use crate::failure::{Exit, Failure};
use crate::progress::Progress;
use crate::rows::{Rows, RowsError};
use crate::signals;

/// A batch is closed at this size, whatever its number of rows: well below what a router takes.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Batches between reader and writers.
const BATCHES_WAITING: usize = 2;
/// Pause before a batch is sent again that failed for the moment; the client has tried for its deadline by then.
const PAUSE: Duration = Duration::from_millis(250);

/// How to load.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) client: Client,
    pub(crate) collection: String,
    pub(crate) metric: Metric,
    /// Rows in one write.
    pub(crate) batch: usize,
    /// Writes under way at once.
    pub(crate) concurrency: usize,
    /// Stop before this row.
    pub(crate) limit: Option<u64>,
    /// How long a write is repeated while the cluster is out of reach.
    pub(crate) give_up_after: Duration,
}

/// Why a load stopped before the end of the file.
enum Stop {
    /// A row is wrong.
    Row(RowsError),
    /// The batch whose first row this is was refused as a whole, or could not be written for too long.
    Write { first: u64, error: ClientError },
    /// Ctrl-C, or SIGTERM.
    Interrupted,
}

/// Rows that are sent together.
struct Batch {
    first: u64,
    points: Vec<Point>,
    /// Digest of the file up to and with each row.
    digests: Vec<u64>,
    bytes: usize,
}

/// What became of a batch.
struct Outcome {
    /// Its first row, and the mark behind the last one acknowledged.
    written: Option<(u64, Mark)>,
    stop: Option<Stop>,
}

/// What the writes of one load share.
struct Writers<'a> {
    load: &'a Load,
    file: String,
    encoding: VectorEncoding,
    progress: &'a Progress,
    /// Set once the load has failed: nothing more is taken, and what fails is not sent again.
    stopping: AtomicBool,
    /// Whether the user was told that the cluster is out of reach.
    waiting: AtomicBool,
}

impl Load {
    /// Sends all rows from the position of `rows` on, and calls `reached` whenever more is acknowledged without a gap.
    ///
    /// Errors name the row, and leave everything before it acknowledged.
    pub(crate) async fn run(
        &self,
        rows: Rows,
        progress: &Progress,
        mut reached: impl FnMut(Mark) -> Result<(), Failure>,
    ) -> Result<Mark, Failure> {
        let writers = Writers {
            load: self,
            file: rows.file().to_owned(),
            encoding: if rows.is_f16() { VectorEncoding::F16 } else { VectorEncoding::F32 },
            progress,
            stopping: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
        };
        let mut acked = Acked::from(Mark { rows: rows.position(), digest: rows.digest() });
        let mut done = rows.position();
        let (sender, inbox) = mpsc::channel(BATCHES_WAITING);
        let load = self.clone();
        let reader = tokio::task::spawn_blocking(move || load.read(rows, &sender));

        let batches = stream::unfold(inbox, |mut inbox| async { inbox.recv().await.map(|batch| (batch, inbox)) });
        let wanted = batches.take_while(|_| future::ready(!writers.stopping.load(Ordering::Relaxed)));
        let outcomes = wanted.map(|batch| writers.write(batch)).buffer_unordered(self.concurrency);
        let mut outcomes = Box::pin(outcomes);
        let interrupted = signals::stop();
        tokio::pin!(interrupted);
        let mut stop = None;
        loop {
            let outcome = tokio::select! {
                biased;
                () = &mut interrupted, if stop.is_none() => Outcome { written: None, stop: Some(Stop::Interrupted) },
                outcome = outcomes.next() => match outcome {
                    Some(outcome) => outcome,
                    None => break,
                },
            };
            if let Some((first, end)) = outcome.written {
                done += end.rows - first;
                progress.set(done);
                acked.add(first, end);
                reached(acked.reached())?;
            }
            stop = stop.or(outcome.stop);
            writers.stopping.store(stop.is_some(), Ordering::Relaxed);
        }
        // The reader may wait for a free place in the channel: with its receiver gone, it ends.
        drop(outcomes);
        reader.await.map_err(|error| Failure::new(format!("reading {}: {error}", writers.file)))?;
        match stop {
            None => Ok(acked.reached()),
            Some(stop) => Err(stop.into_failure(&acked)),
        }
    }

    /// Reads rows into batches until the end, a wrong row, or nobody takes them any more.
    fn read(&self, mut rows: Rows, sender: &mpsc::Sender<Result<Batch, RowsError>>) {
        loop {
            let (batch, error) = self.read_batch(&mut rows);
            let last = batch.points.len() < self.batch && batch.bytes < BATCH_BYTES_MAX;
            if !batch.points.is_empty() && sender.blocking_send(Ok(batch)).is_err() {
                return;
            }
            if let Some(error) = error {
                let _ = sender.blocking_send(Err(error)); // nobody there: the load has stopped already
                return;
            }
            if last {
                return;
            }
        }
    }

    /// The next rows, and the error that ended them early.
    fn read_batch(&self, rows: &mut Rows) -> (Batch, Option<RowsError>) {
        let mut batch = Batch { first: rows.position(), points: Vec::new(), digests: Vec::new(), bytes: 0 };
        while batch.points.len() < self.batch && batch.bytes < BATCH_BYTES_MAX {
            let row = rows.position();
            if self.limit.is_some_and(|limit| row >= limit) {
                break;
            }
            match self.read_point(rows) {
                Ok(Some(point)) => {
                    batch.bytes += point.vector.len() * 4 + shoal_model::size_bytes(&point.payload);
                    batch.points.push(point);
                    batch.digests.push(rows.digest());
                }
                Ok(None) => break,
                Err(error) => return (batch, Some(error)),
            }
        }
        (batch, None)
    }

    fn read_point(&self, rows: &mut Rows) -> Result<Option<Point>, RowsError> {
        let row = rows.position();
        let Some(point) = rows.next_point()? else { return Ok(None) };
        check_vector(&point.vector, rows.dim(), self.metric).map_err(|error| rows.wrong(row, error.to_string()))?;
        Ok(Some(point))
    }
}

impl Writers<'_> {
    async fn write(&self, batch: Result<Batch, RowsError>) -> Outcome {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return Outcome { written: None, stop: Some(Stop::Row(error)) },
        };
        let Err(error) = self.send(&batch.points).await else {
            return Outcome { written: batch.up_to(batch.points.len()), stop: None };
        };
        match refused_point(error.field()).filter(|(i, _)| *i < batch.points.len()) {
            None => Outcome { written: None, stop: Some(Stop::Write { first: batch.first, error }) },
            Some((i, field)) => {
                let kept = i > 0 && self.send(&batch.points[..i]).await.is_ok();
                let text = error.to_string();
                let own = text.strip_prefix(&format!("points[{i}]")).unwrap_or(&text);
                let problem = in_rows(own.trim_start_matches(['.', ':', ' ']), batch.first);
                let row = RowsError::Row { file: self.file.clone(), row: batch.first + i as u64, problem };
                tracing::debug!(field, "a row was refused");
                Outcome { written: batch.up_to(i).filter(|_| kept), stop: Some(Stop::Row(row)) }
            }
        }
    }

    /// Sends points until they are acknowledged, refused, or the cluster has been out of reach for too long.
    async fn send(&self, points: &[Point]) -> Result<(), ClientError> {
        let started = Instant::now();
        loop {
            let sent = self.load.client.upsert_as(&self.load.collection, points.to_vec(), self.encoding).await;
            let Err(error) = sent else {
                if self.waiting.swap(false, Ordering::Relaxed) {
                    self.progress.say("the cluster answers again");
                }
                return Ok(());
            };
            let stopping = self.stopping.load(Ordering::Relaxed);
            if stopping || !error.is_transient() || started.elapsed() >= self.load.give_up_after {
                return Err(error);
            }
            if !self.waiting.swap(true, Ordering::Relaxed) {
                self.progress.say(&format!("waiting for the cluster: {error}"));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Batch {
    /// The batch's first row, and the mark behind its first `count` rows.
    fn up_to(&self, count: usize) -> Option<(u64, Mark)> {
        let digest = *self.digests.get(count.checked_sub(1)?)?;
        Some((self.first, Mark { rows: self.first + count as u64, digest }))
    }
}

/// Which point of a batch a field names, and the rest of its path: `points[3].vector` is point 3.
fn refused_point(field: &str) -> Option<(usize, &str)> {
    let (number, rest) = field.strip_prefix("points[")?.split_once(']')?;
    Some((number.parse().ok()?, rest.trim_start_matches('.')))
}

/// A text about a batch, in which `points[3]` becomes the row of the file that it was.
fn in_rows(text: &str, first: u64) -> String {
    let mut parts = text.split("points[");
    let mut told = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(']').and_then(|(number, rest)| Some((number.parse::<u64>().ok()?, rest))) {
            Some((number, rest)) => told += &format!("row {}{rest}", first + number),
            None => told += &format!("points[{part}"),
        }
    }
    told
}

impl Stop {
    fn into_failure(self, acked: &Acked) -> Failure {
        let reached = acked.reached().rows;
        let rows = crate::progress::grouped(reached);
        let kept = match (reached, acked.has_gap()) {
            (0, false) => "nothing is known to be stored".to_owned(),
            (_, true) => format!("at least the first {rows} rows, and some later ones, are stored"),
            (_, false) => format!("at least the first {rows} rows are stored"),
        };
        match self {
            Self::Row(error) => {
                Failure::new(error).next(format!("{kept}; mend the file and repeat the command, which continues"))
            }
            Self::Write { first, error } => {
                let failure = Failure::from(error);
                let message = format!("the batch from row {first} on: {}", in_rows(&failure.message, first));
                Failure { message, ..failure }.next(format!("{kept}; repeat the command to continue"))
            }
            Self::Interrupted => Failure::new("interrupted")
                .exit(Exit::Interrupted)
                .next(format!("{kept}; repeat the command to continue")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_points_are_read_from_the_field() {
        for (field, want) in [
            ("points[3].vector", Some((3, "vector"))),
            ("points[12].payload.a.b", Some((12, "payload.a.b"))),
            ("points[0]", Some((0, ""))),
            ("points", None),
            ("points[x].id", None),
            ("", None),
        ] {
            assert_eq!(refused_point(field), want, "{field:?}");
        }
    }

    #[test]
    fn texts_about_a_batch_name_rows_of_the_file() {
        for (text, want) in [
            ("id: is that of points[3] too", "id: is that of row 103 too"),
            ("points[0] and points[12].id differ", "row 100 and row 112.id differ"),
            ("points[x] is no number", "points[x] is no number"),
            ("disk is full", "disk is full"),
        ] {
            assert_eq!(in_rows(text, 100), want);
        }
    }
}
