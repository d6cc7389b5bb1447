//! The walk: from entry points to the nearest, block by block.
//!
//! A visited point has its distance computed from its vector; its neighbours' are estimated from their codes, all at
//! once, and the best of them wait in a pool, sorted by estimate. The walk takes the best that waits, and ends when
//! none does: no more than `beam` may wait, and none whose estimate exceeds the distance of the k-th nearest by more
//! than `slack`. The second rule is what makes a walk as long as its query is hard: at equal recall it visits a third
//! to a half fewer points than a fixed beam.
//!
//! Nothing is shared but what is read; a walk allocates only until its scratch has grown to its beam.
//! Sources: SymphonyQG, arXiv 2411.12229 (estimates beside links); Al-Jazzazi et al., Distance adaptive beam search,
//! arXiv 2505.15636 (the slack).

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::blocks::Blocks;
use super::compact::Aid;
use super::layout::DEGREE;
use super::place::Place;
use super::queue::{Queue, Waiting};
use super::sieve::Sieve;
use crate::kernels::Kernels;

/// Hops between two questions whether the answer is still wanted: some 50 µs.
pub(super) const PATIENCE_HOPS: u64 = 64;

/// Most points of a graph.
pub(crate) const POINTS_MAX: usize = 1 << 31;

/// The caller's `stop` said so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cancelled;

/// How far a walk goes: to points that seem no farther than `1 + slack` times the squared distance of the `width`-th
/// nearest that was accepted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Breadth {
    pub(crate) width: usize,
    pub(crate) slack: f32,
    /// Points that wait at most, or twice as many for a while; at least 1.
    pub(crate) keep: usize,
    /// Points that are visited at most. It ends the few walks that take long and find little.
    pub(crate) hops_max: u64,
}

impl Breadth {
    /// As far as the `width` nearest, as other graphs are searched with a beam.
    pub(crate) fn beam(width: usize) -> Self {
        Self { width, slack: 0.0, keep: width, hops_max: u64::MAX }
    }
}

/// What a walk did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path {
    /// Points visited for their neighbours.
    pub(crate) visited: u64,
    /// Points whose distance was computed.
    pub(crate) compared: u64,
    /// Whether it ended with less than there may be: after as many visits as it was allowed, with fewer points than it was
    /// to find, or after so many waited that it let go of some that seemed nearer than the farthest that it found.
    pub(crate) is_cut: bool,
}

impl Path {
    /// Tells how it ended: `kept` is the largest estimate that no better ones crowded out.
    pub(super) fn end(self, nearest: &BinaryHeap<Near>, breadth: Breadth, kept: f32) -> Self {
        let is_full = nearest.len() >= breadth.width;
        let is_whole = is_full && nearest.peek().is_none_or(|farthest| farthest.distance <= kept);
        Self { is_cut: !is_whole || self.visited >= breadth.hops_max, ..self }
    }
}

/// A point and its squared distance. Ordered by distance, ties by offset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Near {
    pub(crate) distance: f32,
    pub(crate) offset: u32,
}

impl Eq for Near {}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance.total_cmp(&other.distance).then(self.offset.cmp(&other.offset))
    }
}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a walk reads of a graph, in one form or the other.
pub(crate) trait Steps: Copy {
    /// How many points there are.
    fn len(&self) -> usize;

    /// Makes `aid` ready for a walk to `place`.
    fn prepare(&self, _place: &Place, _aid: &mut Aid) {}

    /// Asks for the block of a point ahead of time.
    fn prefetch(&self, offset: u32);

    /// Asks for what [`Steps::distance`] reads ahead of time.
    fn prefetch_row(&self, offset: u32) {
        self.prefetch(offset);
    }

    /// Asks for what [`Steps::estimate`] reads beside the block.
    fn approach(&self, _aid: &Aid, _seen: &Seen, _offset: u32) {}

    /// Squared distance of a point, as well as the form knows it.
    fn distance(&self, place: &Place, offset: u32) -> f32;

    /// Neighbours of a point; a free place holds its own offset. A file may say anything.
    fn links(&self, offset: u32) -> &[u32; DEGREE];

    /// Estimates of the squared distances of the neighbours of a point whose own is `distance`. What was seen may be told
    /// to be infinitely far.
    fn estimate(&self, place: &Place, aid: &mut Aid, seen: &Seen, offset: u32, distance: f32, out: &mut [f32; DEGREE]);
}

impl Steps for Blocks<'_> {
    fn len(&self) -> usize {
        Blocks::len(self)
    }

    #[inline]
    fn prefetch(&self, offset: u32) {
        Blocks::prefetch(self, offset);
    }

    #[inline]
    fn prefetch_row(&self, offset: u32) {
        Blocks::prefetch_row(self, offset);
    }

    #[inline]
    fn distance(&self, place: &Place, offset: u32) -> f32 {
        place.distance(self.layout(), self.block(offset))
    }

    #[inline]
    fn links(&self, offset: u32) -> &[u32; DEGREE] {
        &self.layout().tail(self.block(offset)).links
    }

    #[inline]
    fn estimate(
        &self,
        place: &Place,
        _aid: &mut Aid,
        _seen: &Seen,
        offset: u32,
        distance: f32,
        out: &mut [f32; DEGREE],
    ) {
        place.estimate(self.layout(), self.block(offset), distance, out);
    }
}

/// What a walk needs besides the graph. Keep one for each thread.
#[derive(Debug)]
pub struct Scratch {
    /// Where the query is.
    pub(crate) place: Place,
    /// The nearest that were accepted, farthest on top.
    pub(crate) nearest: BinaryHeap<Near>,
    /// The row that is being scored.
    pub(super) row: Vec<f32>,
    pub(super) queue: Queue,
    pub(super) sieve: Sieve,
    /// Points that were accepted, where their distances are to be settled.
    pub(super) met: Vec<Near>,
    pub(super) aid: Aid,
    pub(super) seen: Seen,
}

impl Scratch {
    /// Takes no memory yet.
    #[must_use]
    pub fn new() -> Self {
        let (place, nearest) = (Place::new(), BinaryHeap::new());
        Self {
            place,
            nearest,
            row: Vec::new(),
            queue: Queue::default(),
            sieve: Sieve::default(),
            met: Vec::new(),
            aid: Aid::default(),
            seen: Seen::default(),
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Walks from `entries`, shows `accept` each point that is visited, and leaves the nearest of those that it lets pass in
/// `scratch.nearest`: `breadth.width`.
///
/// Errors: `Cancelled`, within [`PATIENCE_HOPS`] of `stop` saying so.
pub(crate) fn walk(
    graph: impl Steps,
    scratch: &mut Scratch,
    entries: &[Waiting],
    breadth: Breadth,
    handicap: impl Fn(u32) -> f32,
    mut accept: impl FnMut(Near) -> bool,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Path, Cancelled> {
    let Scratch { place, nearest, queue, aid, seen, .. } = scratch;
    nearest.clear();
    queue.clear();
    seen.clear(graph.len());
    graph.prepare(place, aid);
    for entry in entries {
        if seen.insert(entry.offset) {
            graph.prefetch(entry.offset);
            queue.push(entry.estimate, entry.offset);
        }
    }
    let kernels = Kernels::best();
    let mut hops = 0_u64;
    let (mut limit, mut kept) = (f32::MAX, f32::MAX);
    let mut estimates = [0.0; DEGREE];
    let mut ahead: Option<Waiting> = None;
    while let Some(current) = ahead.filter(|ahead| ahead.estimate <= limit).or_else(|| queue.pop()) {
        if current.estimate > limit || hops >= breadth.hops_max {
            break;
        }
        if hops.is_multiple_of(PATIENCE_HOPS) && stop() {
            return Err(Cancelled);
        }
        hops += 1;
        ahead = queue.pop();
        if let Some(ahead) = ahead {
            graph.prefetch(ahead.offset);
        }
        graph.approach(aid, seen, current.offset);
        let distance = graph.distance(place, current.offset);
        let near = Near { distance, offset: current.offset };
        if accept(near) {
            limit = limit.min(admit(nearest, near, breadth));
        }
        graph.estimate(place, aid, seen, current.offset, distance, &mut estimates);
        let links = graph.links(current.offset);
        queue.extend(kernels.below32(&estimates, limit), |at| {
            // `seen` knows no offsets beyond the graph, whatever a file says.
            let (offset, is_new) = (links[at], seen.insert(links[at]));
            (Waiting { estimate: estimates[at] * handicap(offset), offset }, is_new)
        });
        if let Some(largest) = queue.trim(limit, breadth.keep) {
            (limit, kept) = (largest, largest);
        }
    }
    Ok(Path { visited: hops, compared: hops, is_cut: false }.end(nearest, breadth, kept))
}

/// Keeps `near` if it is among the nearest. Returns the largest estimate that is worth a visit from now on.
#[inline]
pub(super) fn admit(nearest: &mut BinaryHeap<Near>, near: Near, breadth: Breadth) -> f32 {
    if nearest.len() < breadth.width {
        nearest.push(near);
    } else if let Some(mut farthest) = nearest.peek_mut()
        && near < *farthest
    {
        *farthest = near;
    }
    match nearest.peek() {
        Some(farthest) if nearest.len() >= breadth.width => (farthest.distance * (1.0 + breadth.slack)).min(f32::MAX),
        _ => f32::MAX,
    }
}

/// Points that were in the pool: a bit each, cleared by what was set.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// A bit for each point, and one behind them, set, which stands for all that are none.
    words: Vec<u64>,
    len: u32,
    /// Words that have a bit set, those of the last word aside, and how many they are.
    touched: Vec<u32>,
    touches: usize,
}

impl Seen {
    pub(super) fn clear(&mut self, len: usize) {
        for word in &self.touched[..self.touches] {
            self.words[*word as usize] = 0;
        }
        self.touches = 0;
        // What stood behind the last point of another graph is cleared with it.
        if let Some(last) = self.words.last_mut() {
            *last = 0;
        }
        let words = len / 64 + 1;
        self.words.resize(words, 0);
        self.touched.resize(words, 0);
        self.words[words - 1] = 1 << (len % 64);
        self.len = u32::try_from(len).expect("a graph has at most 2^31 points");
    }

    #[inline]
    pub(super) fn is_new(&self, offset: u32) -> bool {
        let offset = offset.min(self.len);
        self.words[offset as usize / 64] >> (offset % 64) & 1 == 0
    }

    /// Tells whether the point is new. Without a branch: see [`Queue::extend`].
    #[inline]
    pub(super) fn insert(&mut self, offset: u32) -> bool {
        let offset = offset.min(self.len);
        let (number, bit) = (offset / 64, 1 << (offset % 64));
        let word = &mut self.words[number as usize];
        let before = *word;
        *word = before | bit;
        // The last word has a bit from the start, so the list never has more than the other words.
        self.touched[self.touches] = number;
        self.touches += usize::from(before == 0);
        before & bit == 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn each_point_is_new_once_in_a_walk_and_none_is_that_is_not_there() {
        let mut rng = StdRng::seed_from_u64(3);
        let mut seen = Seen::default();
        for len in [1, 64, 63, 65, 1_000, 7, 128, 0, 2_000] {
            seen.clear(len as usize);
            let mut model = HashSet::new();
            for _ in 0..3 * len {
                let offset = if rng.random_ratio(1, 9) { rng.random() } else { rng.random_range(0..len) };
                let want = offset < len && !model.contains(&offset);
                assert_eq!(seen.is_new(offset), want, "{offset} of {len}");
                assert_eq!(seen.insert(offset), want, "{offset} of {len}");
                model.insert(offset);
            }
            for offset in [len, len + 1, len + 63, u32::MAX] {
                assert!(!seen.insert(offset), "{offset} of {len}");
            }
        }
    }
}
