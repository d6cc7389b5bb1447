//! The walk among wanted points, others being bridges between them.
//!
//! A walk over all points compares each with the query as it visits it, for that is what a visit reads anyway. Where only
//! some are wanted, more have to be looked at for as many answers, and a visit costs six times a comparison. So a wanted
//! point is compared first, and visited only if its neighbours seem worth it; others are visited for their neighbours
//! alone, and have to seem nearer for that.

use super::layout::DEGREE;
use super::queue::Waiting;
use super::walk::{Breadth, Cancelled, Near, PATIENCE_HOPS, Path, Scratch, Steps, admit};
use crate::kernels::Kernels;

/// What the estimates of points that are not wanted are multiplied by, and of those that are. In a table, as whether a
/// point is wanted is a coin toss that no processor foresees.
const HANDICAPS: [f32; 2] = [1.18, 1.0];

/// Set in the offset of a point that waits for a visit and was compared: see `POINTS_MAX`.
const COMPARED: u32 = 1 << 31;

/// As `walk`, but for `wanted` points only. At most `breadth.hops_max` points are visited.
///
/// Errors: `Cancelled`.
pub(crate) fn walk_among(
    graph: impl Steps,
    scratch: &mut Scratch,
    entries: &[Waiting],
    breadth: Breadth,
    wanted: impl Fn(u32) -> bool,
    mut accept: impl FnMut(Near),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Path, Cancelled> {
    let Scratch { place, nearest, queue, aid, seen, .. } = scratch;
    nearest.clear();
    queue.clear();
    seen.clear(graph.len());
    graph.prepare(place, aid);
    for entry in entries {
        if seen.insert(entry.offset) {
            queue.push(entry.estimate, entry.offset);
        }
    }
    let kernels = Kernels::best();
    let mut path = Path::default();
    let (mut limit, mut kept) = (f32::MAX, f32::MAX);
    let mut estimates = [0.0; DEGREE];
    let mut ahead: Option<Waiting> = None;
    while let Some(current) = ahead.filter(|ahead| ahead.estimate <= limit).or_else(|| queue.pop()) {
        if current.estimate > limit || path.visited >= breadth.hops_max {
            break;
        }
        if (path.visited + path.compared).is_multiple_of(PATIENCE_HOPS) && stop() {
            return Err(Cancelled);
        }
        ahead = queue.pop();
        if let Some(Waiting { offset, .. }) = ahead {
            if offset & COMPARED == 0 && wanted(offset) {
                graph.prefetch_row(offset);
            } else {
                graph.prefetch(offset & !COMPARED);
            }
        }
        let offset = current.offset & !COMPARED;
        let mut distance = current.estimate;
        if current.offset & COMPARED == 0 {
            distance = graph.distance(place, offset);
            path.compared += 1;
            if wanted(offset) {
                let near = Near { distance, offset };
                accept(near);
                limit = limit.min(admit(nearest, near, breadth));
                if distance <= limit {
                    queue.push(distance, offset | COMPARED);
                }
                continue;
            }
        }
        path.visited += 1;
        graph.approach(aid, seen, offset);
        graph.estimate(place, aid, seen, offset, distance, &mut estimates);
        let links = graph.links(offset);
        queue.extend(kernels.below32(&estimates, limit), |at| {
            // `seen` knows no offsets beyond the graph, whatever a file says.
            let (offset, is_new) = (links[at], seen.insert(links[at]));
            let estimate = estimates[at] * HANDICAPS[usize::from(wanted(offset))];
            (Waiting { estimate, offset }, is_new & (estimate <= limit))
        });
        if let Some(largest) = queue.trim(limit, breadth.keep) {
            (limit, kept) = (largest, largest);
        }
    }
    Ok(path.end(nearest, breadth, kept))
}
