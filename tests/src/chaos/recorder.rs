//! The history of one collection, as it is made: a file that is only appended to.
//!
//! A write is in the file, as unknown, before it is sent. Times are those of one clock for the whole run.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use shoal_checker::file::HistoryWriter;
use shoal_checker::history::{Call, ClientId, OpNumber, Operation, Outcome};

/// Nanoseconds since the run began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunClock(Instant);

impl RunClock {
    /// Begins now.
    #[must_use]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Now.
    #[must_use]
    pub(crate) fn now_ns(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Records operations of one collection.
#[derive(Debug)]
pub(crate) struct Recorder {
    clock: RunClock,
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    writer: HistoryWriter<File>,
    last_number: u64,
    /// The first error of the file; nothing is recorded after it.
    failed: Option<io::Error>,
}

impl Recorder {
    /// Starts a file. Errors: it cannot be written.
    pub(crate) fn create(path: &Path, clock: RunClock) -> io::Result<Self> {
        let inner = Inner { writer: HistoryWriter::new(File::create_new(path)?)?, last_number: 0, failed: None };
        Ok(Self { clock, path: path.to_owned(), inner: Mutex::new(inner) })
    }

    /// The file.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that `client` is about to call.
    #[must_use]
    pub(crate) fn begin(&self, client: ClientId, call: Call) -> Operation {
        let mut inner = self.inner();
        inner.last_number += 1;
        let number = OpNumber(inner.last_number);
        // Within the lock, so that numbers grow as clients invoke.
        let invoke_ns = self.clock.now_ns();
        let operation = Operation { number, client, invoke_ns, return_ns: None, outcome: Outcome::Unknown, call };
        if operation.call.level().is_none() {
            inner.append(&operation);
        }
        operation
    }

    /// Notes what came of it, now; `call` holds the answer of a read.
    pub(crate) fn end(&self, operation: Operation, outcome: Outcome, call: Option<Call>) {
        let return_ns = Some(self.clock.now_ns());
        let call = call.unwrap_or(operation.call);
        self.inner().append(&Operation { return_ns, outcome, call, ..operation });
    }

    /// Whether everything was written. Errors: what was not.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.inner().failed.take().map_or(Ok(()), Err)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn append(&mut self, operation: &Operation) {
        if self.failed.is_none() {
            self.failed = self.writer.append(operation).err();
        }
    }
}
