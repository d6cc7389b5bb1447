//! Who takes part: an index that is built, knows its size, and answers the queries of a set at a beam width.

use std::path::Path;

use crate::error::BenchError;
use crate::exact::Exact;
use crate::hnsw_rs::{self, HnswRs};
use crate::npy::Matrix;
use crate::peer::{self, Deadlines, Peer};
use crate::segment::{Frozen, Tier};
use crate::set::{Set, Shared};
use crate::stopwatch::{Elapsed, Stopwatch};

/// What a build came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Built {
    /// Time from vectors in memory to an index that answers.
    pub(crate) seconds: f64,
    /// What the index takes: of a peer the size of its file, of ours the file or the memory.
    pub(crate) bytes: f64,
}

/// Answers to all queries of a set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    /// Queries × k, in any order within a row; −1 stands for none.
    pub(crate) ids: Matrix<i64>,
    /// Time for all of them, one after the other.
    pub(crate) seconds: f64,
}

/// An index, built.
pub(crate) struct Contender {
    /// Stable: figures are named after it.
    pub(crate) name: &'static str,
    pub(crate) built: Built,
    engine: Engine,
}

enum Engine {
    Ours(Ours),
    Library(Box<HnswRs>),
    Peer(Box<Peer>),
}

/// What of Shoal's takes part. It is called on the thread that measures.
enum Ours {
    Exact(Exact),
    Segment(Box<Frozen>),
}

/// Queries of a warm-up: enough to fill caches and train branches, few against a measurement.
const WARM_UP_QUERIES: usize = 256;

impl Contender {
    /// Ours: a frozen segment.
    pub(crate) fn shoal(set: &Set, k: usize, threads: usize, tier: Tier) -> Result<Self, BenchError> {
        let watch = Stopwatch::start();
        let segment = Frozen::build(set, k, threads, tier)?;
        let built = Built { seconds: watch.elapsed().seconds, bytes: segment.file_bytes() };
        Ok(Self { name: tier.contender(), built, engine: Engine::Ours(Ours::Segment(Box::new(segment))) })
    }

    /// Ours without an index: every vector compared, every answer right.
    pub(crate) fn shoal_exact(set: &Set, k: usize) -> Self {
        let watch = Stopwatch::start();
        let exact = Exact::build(set, k);
        let seconds = watch.elapsed().seconds;
        let built = Built { seconds, bytes: exact.memory_bytes() };
        Self { name: "shoal-exact", built, engine: Engine::Ours(Ours::Exact(exact)) }
    }

    /// A library of another project, in this process.
    pub(crate) fn hnsw_rs(set: &Set, k: usize, threads: usize) -> Result<Self, BenchError> {
        let watch = Stopwatch::start();
        let library = HnswRs::build(set, k, threads)?;
        let built = Built { seconds: watch.elapsed().seconds, bytes: library.file_bytes()? };
        Ok(Self { name: hnsw_rs::NAME, built, engine: Engine::Library(Box::new(library)) })
    }

    /// A library of another project, in a process of its own.
    pub(crate) fn peer(
        name: &'static str,
        python: &Path,
        set: &Set,
        shared: &Shared,
        k: usize,
        threads: usize,
    ) -> Result<Self, BenchError> {
        let command = peer::command(python, shared, name)?;
        let mut peer = Peer::start(name, command, set, shared, k, Deadlines::default())?;
        let built = peer.build(threads, shared)?;
        Ok(Self { name, built, engine: Engine::Peer(Box::new(peer)) })
    }

    /// How many times as many queries two threads answer as one; `None` if it is no segment of ours.
    pub(crate) fn thread_scaling(&self, set: &Set, beam: usize) -> Result<Option<f64>, BenchError> {
        match &self.engine {
            Engine::Ours(Ours::Segment(segment)) => segment.thread_scaling(&set.queries, beam).map(Some),
            _ => Ok(None),
        }
    }

    /// Recall where one is wanted, by the segment's own calibration; `None` if it is no segment of ours.
    pub(crate) fn recall_where_wanted(&mut self, set: &Set, wanted: f64) -> Result<Option<f64>, BenchError> {
        match &mut self.engine {
            Engine::Ours(Ours::Segment(segment)) => segment.recall_where_wanted(set, wanted).map(Some),
            _ => Ok(None),
        }
    }

    /// Whether it is Shoal's.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self.engine, Engine::Ours(_))
    }

    /// Keeps a peer on one core from now on. Others run on the thread that calls them, which the caller pins.
    pub(crate) fn pin(&mut self, core: usize) -> Result<(), BenchError> {
        match &mut self.engine {
            Engine::Ours(_) | Engine::Library(_) => Ok(()),
            Engine::Peer(peer) => peer.pin(core),
        }
    }

    /// Answers all queries once with one thread; `beam` is at least `k`.
    pub(crate) fn search(&mut self, set: &Set, beam: usize) -> Result<Found, BenchError> {
        if let Engine::Peer(peer) = &mut self.engine {
            return peer.search(beam);
        }
        let watch = Stopwatch::start();
        let ids = self.engine.answer(&set.queries, beam)?;
        Ok(Found { ids, seconds: watch.elapsed().seconds })
    }

    /// Times answering all queries `passes` times with one thread, after a short warm-up.
    pub(crate) fn time(&mut self, set: &Set, beam: usize, passes: usize) -> Result<Elapsed, BenchError> {
        if let Engine::Peer(peer) = &mut self.engine {
            return peer.time(beam, passes, WARM_UP_QUERIES);
        }
        self.engine.answer(&set.queries.head(WARM_UP_QUERIES), beam)?;
        let watch = Stopwatch::start();
        for _ in 0..passes {
            self.engine.answer(&set.queries, beam)?;
        }
        Ok(watch.elapsed())
    }
}

impl Engine {
    /// Answers queries one after the other, on this thread: queries × k.
    fn answer(&mut self, queries: &Matrix<f32>, beam: usize) -> Result<Matrix<i64>, BenchError> {
        match self {
            Self::Ours(ours) => ours.search(queries, beam),
            Self::Library(library) => Ok(library.search(queries, beam)),
            Self::Peer(peer) => Ok(peer.search(beam)?.ids),
        }
    }
}

impl Ours {
    /// Answers queries one after the other: queries × k.
    fn search(&mut self, queries: &Matrix<f32>, beam: usize) -> Result<Matrix<i64>, BenchError> {
        match self {
            Self::Exact(exact) => Ok(exact.search(queries)?),
            Self::Segment(segment) => segment.search(queries, beam),
        }
    }
}
