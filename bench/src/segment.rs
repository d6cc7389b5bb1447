//! Ours: every vector of a set in one frozen segment.

use bytes::Bytes;
use rayon::ThreadPoolBuilder;
use shoal_index::segment::{Effort, Hit, Parameters, Precision, Rows, Scratch, Segment, SegmentQuery, Target};
use shoal_model::{GraphSpec, PointId, Quantization};

use crate::curve::{median, recall};
use crate::error::BenchError;
use crate::npy::Matrix;
use crate::set::Set;
use crate::stopwatch::Stopwatch;

/// Beam of builds: the default of collections.
const EF_CONSTRUCTION: usize = GraphSpec::DEFAULT.ef_construction as usize;

/// Of the rotation and the order of points; a constant, so that figures compare.
const SEED: u64 = 1;

/// Samples of one thread and of two, in turns.
const SCALING_ROUNDS: usize = 7;

/// Passes over the queries are repeated until a sample takes this long.
const SCALING_SECONDS: f64 = 0.3;

/// How blocks keep vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tier {
    /// As they were sent.
    None,
    /// A byte a component.
    Int8,
    /// 4 bits a component, and no codes of neighbours.
    Compact,
}

impl Tier {
    /// Name of the contender.
    pub(crate) fn contender(self) -> &'static str {
        match self {
            Self::None => "shoal",
            Self::Int8 => "shoal-int8",
            Self::Compact => "shoal-compact",
        }
    }

    fn quantization(self) -> Quantization {
        match self {
            Self::None => Quantization::None,
            Self::Int8 => Quantization::Int8,
            Self::Compact => Quantization::Binary,
        }
    }
}

/// Rows of a set as points: the number of a row is the id, and the version too.
pub(crate) fn rows(set: &Set, numbers: impl ExactSizeIterator<Item = usize>) -> Rows {
    let mut rows = Rows::with_capacity(dim(set), numbers.len());
    for number in numbers {
        rows.push(PointId::Number(number as u64), number as u64, set.base.row(number), Bytes::new());
    }
    rows
}

/// Components of a set's vectors.
pub(crate) fn dim(set: &Set) -> u32 {
    u32::try_from(set.base.columns()).expect("a dimension is no larger than a file's header says")
}

/// How segments of a set are built.
pub(crate) fn parameters(set: &Set, tier: Tier) -> Parameters {
    let precision = Precision::of(tier.quantization());
    Parameters { metric: set.metric, precision, ef_construction: EF_CONSTRUCTION, seed: SEED }
}

/// What a segment answers to all queries.
pub(crate) struct Answers {
    /// Queries × k; −1 stands for none.
    pub(crate) ids: Matrix<i64>,
    /// Points visited, together.
    pub(crate) hops: u64,
}

/// Answers queries one after the other.
pub(crate) fn answer(
    segment: &Segment,
    scratch: &mut Scratch,
    queries: &Matrix<f32>,
    k: usize,
    effort: Effort,
) -> Result<Answers, BenchError> {
    let (mut ids, mut hops) = (Vec::with_capacity(queries.len() * k), 0);
    for vector in queries.rows() {
        let (hits, stats) = segment.search(scratch, &query(vector, k, effort))?;
        ids.extend(hits.iter().map(|hit| row(segment.versions()[hit.offset as usize])));
        ids.extend(std::iter::repeat_n(-1, k - hits.len()));
        hops += stats.hops;
    }
    Ok(Answers { ids: Matrix::new(k, ids), hops })
}

/// A segment, and what one thread needs to ask it.
pub(crate) struct Frozen {
    segment: Segment,
    scratch: Scratch,
    k: usize,
}

impl Frozen {
    /// Builds it with `threads`, in memory, to answer with `k` points.
    pub(crate) fn build(set: &Set, k: usize, threads: usize, tier: Tier) -> Result<Self, BenchError> {
        let (rows, parameters) = (rows(set, 0..set.base.len()), parameters(set, tier));
        let pool = ThreadPoolBuilder::new().num_threads(threads).build()?;
        let segment = pool.install(|| Segment::build(&rows, &parameters, &Target::Memory, &|| false))?;
        Ok(Self { segment, scratch: Scratch::new(), k })
    }

    /// Length of the file.
    #[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
    pub(crate) fn file_bytes(&self) -> f64 {
        self.segment.graph_image().bytes().len() as f64
    }

    /// Recall of the queries of a set, asked as hard as a wanted recall takes.
    pub(crate) fn recall_where_wanted(&mut self, set: &Set, wanted: f64) -> Result<f64, BenchError> {
        #[allow(clippy::cast_possible_truncation, reason = "recalls need no more digits")]
        let effort = Effort::Recall(wanted as f32);
        let found = answer(&self.segment, &mut self.scratch, &set.queries, self.k, effort)?;
        Ok(recall(&set.truth, &found.ids, self.k))
    }

    /// Answers one query, as hard as a recall takes.
    #[allow(clippy::cast_possible_truncation, reason = "recalls need no more digits")]
    pub(crate) fn search_one(&mut self, vector: &[f32], recall: f64) -> Result<Vec<Hit>, BenchError> {
        let effort = Effort::Recall(recall as f32);
        Ok(self.segment.search(&mut self.scratch, &query(vector, self.k, effort))?.0)
    }

    /// Answers the queries one after the other.
    pub(crate) fn search(&mut self, queries: &Matrix<f32>, beam: usize) -> Result<Matrix<i64>, BenchError> {
        Ok(answer(&self.segment, &mut self.scratch, queries, self.k, Effort::Beam(beam))?.ids)
    }

    /// How many times as many queries two threads answer as one, on the wall: the median of samples in turns.
    pub(crate) fn thread_scaling(&self, queries: &Matrix<f32>, beam: usize) -> Result<f64, BenchError> {
        let pass = self.seconds_of(queries, beam, 1, 1)?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
        let passes = (SCALING_SECONDS / pass).ceil() as usize;
        let ratios: Result<Vec<f64>, BenchError> = (0..SCALING_ROUNDS)
            .map(|_| {
                let one = self.seconds_of(queries, beam, passes, 1)?;
                Ok(2.0 * one / self.seconds_of(queries, beam, passes, 2)?)
            })
            .collect();
        Ok(median(&ratios?).expect("there are rounds"))
    }

    /// Time on the wall until each of some threads has answered the queries `passes` times.
    fn seconds_of(&self, queries: &Matrix<f32>, beam: usize, passes: usize, threads: usize) -> Result<f64, BenchError> {
        let watch = Stopwatch::start();
        let answer = || {
            let mut scratch = Scratch::new();
            let effort = Effort::Beam(beam);
            (0..passes).try_for_each(|_| answer(&self.segment, &mut scratch, queries, self.k, effort).map(drop))
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(answer)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("a search does not panic"))
        })?;
        Ok(watch.elapsed().seconds)
    }
}

fn query(vector: &[f32], k: usize, effort: Effort) -> SegmentQuery<'_> {
    SegmentQuery { vector, k, effort, live: None, filter: None, packed: None, score_limit: None, stop: &|| false }
}

/// Versions are rows here.
fn row(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(-1)
}
