//! Choosing a diverse few of many candidates.

use super::links::List;
use super::points::Points;
use crate::segment::{DEGREE, Near};

/// The neighbours of `own` among `candidates`: from the nearest on, each that is nearer to `own` than to any chosen
/// before; then, as a batch of codes costs the same however full it is, the nearest of those left out.
///
/// A copy of `own` stands for no other direction, so it leaves out nothing but other copies: else the first of many
/// equal vectors would be the only link of each. Sorts `candidates`; a point may be among them more than once, also at
/// distances that differ a little.
/// Sources: HNSW, algorithm 4 (arXiv 1603.09320); the rule is that of the relative neighbourhood graph.
pub(crate) fn prune(points: &Points, own: u32, candidates: &mut [Near]) -> List {
    candidates.sort_unstable();
    let mut chosen: Vec<Near> = Vec::with_capacity(DEGREE);
    let mut left_out: Vec<u32> = Vec::with_capacity(DEGREE);
    for candidate in candidates.iter() {
        let is_met = left_out.contains(&candidate.offset) || chosen.iter().any(|near| near.offset == candidate.offset);
        if candidate.offset == own || is_met {
            continue;
        }
        let hides = |other: &Near| {
            let is_copy = other.distance == 0.0 && candidate.distance > 0.0;
            !is_copy && points.distance(other.offset, candidate.offset) <= candidate.distance
        };
        if !chosen.iter().any(hides) {
            chosen.push(*candidate);
            if chosen.len() == DEGREE {
                break;
            }
        } else if left_out.len() < DEGREE {
            left_out.push(candidate.offset);
        }
    }
    let free = DEGREE - chosen.len();
    chosen.iter().map(|near| near.offset).chain(left_out.into_iter().take(free)).collect()
}
