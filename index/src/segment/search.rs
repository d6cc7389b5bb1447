//! Asking a segment.

use std::cmp::Ordering;

use shoal_model::Metric;

use super::calibration;
use super::entries;
use super::frozen::Segment;
use super::walk::{Breadth, Cancelled, Scratch, walk};
use crate::IndexError;
use crate::payload_index::Matches;
use crate::score::Exact;

/// How hard to look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effort {
    /// As hard as it takes to find this share of the nearest, by the segment's own calibration.
    Recall(f32),
    /// As hard as visiting so many points on average: the `ef` of other indexes.
    Beam(usize),
}

/// What is looked for in one segment.
pub struct SegmentQuery<'a> {
    /// As many components as the segment has dimensions; passed `shoal_model::check_vector`.
    pub vector: &'a [f32],
    /// How many points are wanted at most.
    pub k: usize,
    /// How hard to look.
    pub effort: Effort,
    /// Which points live, a bit each, by offset; `None` if all do.
    pub live: Option<&'a [u64]>,
    /// Only points among them.
    pub filter: Option<&'a Matches>,
    /// Only points at least this near: a lowest score for cosine and dot, a highest for euclidean.
    pub score_limit: Option<f32>,
    /// Asked as the search goes; once it says yes, the search ends with `Cancelled`.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// A point that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Where it is in its segment.
    pub offset: u32,
    /// The metric's quantity between query and vector, in `f64`, rounded once.
    pub score: f32,
}

/// What a search of a segment did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalkStats {
    /// Points visited: their vectors were compared with the query.
    pub hops: u64,
    /// Distances estimated from codes.
    pub estimated: u64,
    /// Points that were scored again in `f64`.
    pub refined: u64,
}

impl From<Cancelled> for IndexError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl Segment {
    /// The nearest `k` points, nearly all of them, nearest first, ties by offset.
    ///
    /// `scratch` is one of the thread's own and serves all segments; once it has grown, a search allocates its answer.
    /// Errors: `Dimension`; `Cancelled` within 200 µs of `stop` saying so.
    pub fn search(&self, scratch: &mut Scratch, query: &SegmentQuery<'_>) -> Result<(Vec<Hit>, WalkStats), IndexError> {
        if query.vector.len() != self.space.dim() {
            let got = u32::try_from(query.vector.len()).unwrap_or(u32::MAX);
            return Err(IndexError::Dimension { want: self.dim(), got });
        }
        scratch.place.set(&self.space, &self.rotation, &self.center, query.vector);
        let entries = self.entries();
        let entry = entries::nearest(entries, &scratch.place);
        let (blocks, k) = (self.blocks(), query.k.min(self.len() as usize));
        if k == 0 {
            return Ok(Default::default());
        }
        let breadth = self.breadth(query.effort, k);
        let entry = entry.as_slice();
        let stop = query.stop;
        let lives = |live: &[u64], offset: u32| live[offset as usize / 64] >> (offset % 64) & 1 == 1;
        let hops = match (query.live, query.filter) {
            (None, None) => walk(blocks, scratch, entry, breadth, |_| true, stop),
            (Some(live), None) => walk(blocks, scratch, entry, breadth, |near| lives(live, near.offset), stop),
            (None, Some(filter)) => walk(blocks, scratch, entry, breadth, |near| filter.contains(near.offset), stop),
            (Some(live), Some(filter)) => walk(
                blocks,
                scratch,
                entry,
                breadth,
                |near| lives(live, near.offset) && filter.contains(near.offset),
                stop,
            ),
        }?;
        let hits = self.settle(scratch, query);
        let estimated = (hops + entries.len() as u64) * super::DEGREE as u64;
        Ok((hits.0, WalkStats { hops, estimated, refined: hits.1 }))
    }

    fn breadth(&self, effort: Effort, k: usize) -> Breadth {
        let sample = match effort {
            Effort::Recall(recall) => calibration::for_recall(&self.samples, recall),
            #[allow(clippy::cast_precision_loss, reason = "beams are far below 2^24")]
            Effort::Beam(beam) => calibration::for_hops(&self.samples, beam as f32),
        };
        sample.map_or(Breadth::beam(k), |sample| sample.breadth(k))
    }

    /// Scores what the walk left in `scratch`, nearest first, and how many that were.
    fn settle(&self, scratch: &mut Scratch, query: &SegmentQuery<'_>) -> (Vec<Hit>, u64) {
        let (dim, metric) = (self.space.dim(), self.space.metric());
        let exact = Exact::new(metric, query.vector);
        scratch.row.resize(dim, 0.0);
        let row = &mut scratch.row;
        let hits = scratch.nearest.drain().map(|near| {
            self.read_vector(near.offset, row);
            Hit { offset: near.offset, score: exact.score(row) }
        });
        let mut hits: Vec<Hit> = hits.collect();
        let refined = hits.len() as u64;
        if let Some(limit) = query.score_limit {
            hits.retain(|hit| metric.compare(hit.score, limit) != Ordering::Greater);
        }
        sort(metric, &mut hits);
        (hits, refined)
    }
}

fn sort(metric: Metric, hits: &mut [Hit]) {
    hits.sort_unstable_by(|a, b| metric.compare(a.score, b.score).then(a.offset.cmp(&b.offset)));
}
