//! The first links, by `hnsw_rs`.
//!
//! Points go in one after the other, as that is what makes `hnsw_rs` deterministic. Of what it makes, the lowest layer
//! is taken: lists above a point's own level are residue, and its lists are neither diverse nor symmetric, which is for
//! the caller to mend.

use std::collections::HashMap;

use hnsw_rs::prelude::{Distance, Hnsw};

use super::points::Points;
use crate::segment::{DEGREE, Near};

/// `hnsw_rs` demands this many layers at most, whatever the size.
const LAYERS_MAX: usize = 16;

/// Compares points by their numbers, so that `hnsw_rs` holds no copy of a vector.
struct ByNumber<'a>(&'a Points);

impl Distance<u32> for ByNumber<'_> {
    fn eval(&self, a: &[u32], b: &[u32]) -> f32 {
        self.0.distance(a[0], b[0])
    }
}

/// Candidates for the neighbours of each of the first `len` points.
pub(crate) fn seed(points: &Points, len: usize, ef_construction: usize) -> Vec<Vec<Near>> {
    let graph: Hnsw<'_, u32, ByNumber<'_>> =
        Hnsw::new(DEGREE / 2, len.max(1), LAYERS_MAX, ef_construction, ByNumber(points));
    let numbers: Vec<u32> = (0..len).map(super::points::offset_of).collect();
    for (index, number) in numbers.iter().enumerate() {
        graph.insert((std::slice::from_ref(number), index));
    }
    let mut candidates = vec![Vec::new(); len];
    let indexation = graph.get_point_indexation();
    let mut origins = HashMap::new();
    for layer in 0..LAYERS_MAX {
        for point in indexation.get_layer_iterator(layer) {
            origins.insert(point.get_point_id(), point.get_origin_id());
        }
    }
    for layer in 0..LAYERS_MAX {
        for point in indexation.get_layer_iterator(layer) {
            let own = point.get_origin_id();
            for neighbour in &point.get_neighborhood_id()[0] {
                let Some(other) = origins.get(&neighbour.p_id) else { continue };
                link(&mut candidates, own, *other, neighbour.distance);
            }
        }
    }
    candidates
}

/// Both ways: what is near to one is near to the other.
fn link(candidates: &mut [Vec<Near>], a: usize, b: usize, distance: f32) {
    for (own, other) in [(a, b), (b, a)] {
        candidates[own].push(Near { distance, offset: super::points::offset_of(other) });
    }
}
