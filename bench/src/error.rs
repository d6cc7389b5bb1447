//! Why a benchmark could not run. A gate that is missed is no error.

use std::io;
use std::path::PathBuf;

use shoal_client::ClientError;
use shoal_index::IndexError;
use shoal_index::segment::BuildError;
use shoal_index::set::JobError;
use shoal_model::{Classify, ErrorKind};

/// Why a benchmark could not run, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// A folder is not a data set.
    #[error("{}: {problem}; docs/benchmarks.md tells what a data set holds", .path.display())]
    Set { path: PathBuf, problem: String },
    /// Nobody knows a peer of this name.
    #[error("there is no peer {name:?}; there are: {known}")]
    UnknownPeer { name: String, known: String },
    /// Peers were asked for and there is nothing to run them with.
    #[error(
        "peers need a Python that has bench/peers/requirements.txt: start this as `cargo xtask bench`, which prepares one, or name one with --python"
    )]
    NoPython,
    /// A peer that cannot compare so.
    #[error("peer {peer} is not measured by {metric} here; leave it out of --peers")]
    PeerMetric { peer: &'static str, metric: &'static str },
    /// The process of a peer did not start.
    #[error("peer {peer} does not start ({program}); name another Python with --python", program = .program.display())]
    PeerStart { peer: String, program: PathBuf, source: io::Error },
    /// A peer answered that it could not.
    #[error("peer {peer} failed to {op}: {problem}; leave it out of --peers, or see what it printed:\n{printed}")]
    PeerFailed { peer: String, op: &'static str, problem: String, printed: String },
    /// The process of a peer is gone.
    #[error("peer {peer} ended while it was to {op}; leave it out of --peers, or see what it printed:\n{printed}")]
    PeerGone { peer: String, op: &'static str, printed: String },
    /// A peer answered what is no answer.
    #[error("peer {peer} answered {op} with {answer:?}, which is not the protocol of bench/peers/peer.py")]
    PeerGarbage { peer: String, op: &'static str, answer: String },
    /// A peer did not answer in time.
    #[error("peer {peer} did not {op} within {seconds} s; leave it out of --peers, or take a smaller set")]
    PeerSilent { peer: String, op: &'static str, seconds: u64 },
    /// Ours failed.
    #[error("shoal failed to search")]
    Index(#[from] IndexError),
    /// Ours was not built.
    #[error("shoal failed to build its index")]
    Build(#[from] BuildError),
    /// Ours did not turn parts of a set into others.
    #[error("shoal failed to build or merge a segment")]
    Job(#[from] JobError),
    /// The threads of a build did not start.
    #[error("no threads to build with")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// A cluster refused or failed.
    #[error("the cluster failed: {0}")]
    Cluster(#[from] ClientError),
    /// A cluster never came to rest.
    #[error("collection {collection} is still being built or merged after {seconds} s; see `shoal status`")]
    Unsettled { collection: String, seconds: u64 },
    /// What was written is not what is there.
    #[error("collection {collection} has {got} points, {want} were acknowledged: this is a bug")]
    Lost { collection: String, want: u64, got: u64 },
    /// What was written does not become visible.
    #[error("a point that was acknowledged is not found by node {node} after {seconds} s: this is a bug")]
    Hidden { node: u64, seconds: u64 },
    /// Data would be kept in memory.
    #[error("the temporary folder is on {file_system}, where a sync costs nothing; set TMPDIR to a folder on a disk")]
    NoDisk { file_system: String },
    /// A task of ours panicked.
    #[error("a task ended early: {0}")]
    Task(String),
    /// A thread could not be bound to a core.
    #[error("this thread cannot be pinned to core {core}; run where sched_setaffinity is allowed")]
    Pin { core: usize, source: io::Error },
    /// The disk.
    #[error("cannot {doing}; see that the folder is there and has room")]
    Io { doing: String, source: io::Error },
}

impl BenchError {
    /// A failure of the disk while `doing` something.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        |source| Self::Io { doing, source }
    }
}

impl Classify for BenchError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Set { .. } | Self::UnknownPeer { .. } | Self::PeerMetric { .. } => ErrorKind::Invalid,
            Self::NoPython | Self::NoDisk { .. } | Self::PeerStart { .. } | Self::Pin { .. } => ErrorKind::Precondition,
            Self::PeerSilent { .. } | Self::Unsettled { .. } => ErrorKind::DeadlineExceeded,
            Self::Index(error) => error.kind(),
            Self::Cluster(error) => error.kind(),
            Self::Lost { .. } | Self::Hidden { .. } => ErrorKind::Internal,
            Self::Build(_) | Self::Job(_) | Self::Threads(_) | Self::Task(_) => ErrorKind::Internal,
            Self::PeerFailed { .. } | Self::PeerGone { .. } | Self::PeerGarbage { .. } | Self::Io { .. } => {
                ErrorKind::Internal
            }
        }
    }
}
