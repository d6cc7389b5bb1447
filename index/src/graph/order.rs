//! Putting neighbours near each other in memory.

use super::links::Links;
use super::points::offset_of;

/// An order of all points in which a walk finds what it needs close together: breadth first from `root`.
pub(crate) fn order(links: &Links, root: u32) -> Vec<u32> {
    let mut order = Vec::with_capacity(links.len());
    let mut placed = vec![false; links.len()];
    let starts = std::iter::once(root).chain((0..links.len()).map(offset_of));
    for start in starts.take_while(|start| (*start as usize) < links.len()) {
        place(start, &mut order, &mut placed);
        let mut next = order.len().saturating_sub(1);
        while next < order.len() {
            for link in links[order[next]].iter() {
                place(*link, &mut order, &mut placed);
            }
            next += 1;
        }
    }
    order
}

fn place(offset: u32, order: &mut Vec<u32>, placed: &mut [bool]) {
    if !std::mem::replace(&mut placed[offset as usize], true) {
        order.push(offset);
    }
}
