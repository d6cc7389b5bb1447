//! Giving every point a route.
//!
//! A walk starts at one of the entry points. It finds every point if each entry leads to the root and the root leads to
//! every point; both are made so here, by links that no other route depends on.

use std::collections::VecDeque;

use super::growth::write_block;
use super::links::Links;
use super::points::{Points, offset_of};
use super::towards::Towards;
use crate::segment::{Blocks, Breadth, Cancelled, Layout, LinkWriter, Near, Scratch, Waiting, walk};

/// Nearest points that are tried as the one to link from.
const TRIED: usize = 64;

/// No point.
const NONE: u32 = u32::MAX;

/// A graph under repair.
pub(crate) struct Repair<'a> {
    pub(crate) points: &'a Points,
    pub(crate) layout: &'a Layout,
    pub(crate) links: &'a mut Links,
    pub(crate) blocks: &'a mut [u8],
    pub(crate) stop: &'a (dyn Fn() -> bool + Sync),
}

impl Repair<'_> {
    /// Makes every point reachable from `root`, and `root` from each of `entries`. Returns how many links that took.
    ///
    /// Errors: `Cancelled`.
    pub(crate) fn run(&mut self, root: u32, entries: &[u32]) -> Result<usize, Cancelled> {
        let mut routes = Routes::new(self.links.len());
        routes.follow(self.links, root, root);
        let mut scratch = Scratch::new();
        let mut made = 0;
        for lost in (0..self.links.len()).map(offset_of) {
            if !routes.lead_to(lost) {
                let near = self.reachable_near(lost, root, &mut scratch)?;
                let from = routes.attach(self.links, &near, lost);
                routes.follow(self.links, lost, from);
                self.write(from);
                made += 1;
            }
        }
        for changed in lead_back(self.links, &routes, root, entries) {
            self.write(changed);
            made += 1;
        }
        Ok(made)
    }

    /// Points near `lost` that a walk from `root` meets, nearest first.
    fn reachable_near(&self, lost: u32, root: u32, scratch: &mut Scratch) -> Result<Vec<u32>, Cancelled> {
        let points = self.points;
        scratch.place.set_point(points.space(), points.vector(lost), points.rotated(lost));
        let breadth = Breadth::beam(TRIED);
        let graph = Towards { blocks: Blocks::new(self.layout, self.blocks), points, own: lost };
        walk(graph, scratch, &[Waiting::start(root)], breadth, |_| 1.0, |_| true, self.stop)?;
        let mut near: Vec<Near> = scratch.nearest.drain().collect();
        near.sort_unstable();
        Ok(near.into_iter().map(|near| near.offset).collect())
    }

    fn write(&mut self, own: u32) {
        let stride = self.layout.stride();
        let block = &mut self.blocks[own as usize * stride..][..stride];
        let mut writer = LinkWriter::new(self.points.rotation().padded_dim());
        write_block(self.points, self.layout, self.links, own, &mut writer, block);
    }
}

/// A tree of routes from the root: for each point the one before it.
struct Routes(Vec<u32>);

impl Routes {
    fn new(len: usize) -> Self {
        Self(vec![NONE; len])
    }

    fn lead_to(&self, offset: u32) -> bool {
        self.0[offset as usize] != NONE
    }

    /// Whether the route to `to` uses the link from `from`.
    fn use_link(&self, from: u32, to: u32) -> bool {
        self.0[to as usize] == from
    }

    /// Adds `start`, which `before` links to, and all that it leads to.
    fn follow(&mut self, links: &Links, start: u32, before: u32) {
        self.0[start as usize] = before;
        let mut queue = VecDeque::from([start]);
        while let Some(offset) = queue.pop_front() {
            for link in links[offset].iter() {
                if !self.lead_to(*link) {
                    self.0[*link as usize] = offset;
                    queue.push_back(*link);
                }
            }
        }
    }

    /// Links one of `near`, or else any point that is reachable, to `lost`. Returns which.
    fn attach(&self, links: &mut Links, near: &[u32], lost: u32) -> u32 {
        let len = offset_of(links.len());
        let all = (0..len).filter(|offset| self.lead_to(*offset));
        for from in near.iter().copied().chain(all) {
            if self.lead_to(from) && self.link(links, from, lost) {
                return from;
            }
        }
        // A tree over n points has n - 1 links, and every full list has 32: one that is reachable has one to spare.
        unreachable!("no reachable point has a link to spare")
    }

    /// Links `from` to `to`, in place of the least of its links that no route uses. Tells whether there was room.
    fn link(&self, links: &mut Links, from: u32, to: u32) -> bool {
        let list = &mut links[from];
        if !list.is_full() {
            list.push(to);
            return true;
        }
        let spare = (0..list.len()).rev().find(|at| !self.use_link(from, list[*at]));
        if let Some(at) = spare {
            list.replace(at, to);
        }
        spare.is_some()
    }
}

/// Links each entry that does not lead to the root to a point that does. Returns whose lists changed, ascending.
fn lead_back(links: &mut Links, routes: &Routes, root: u32, entries: &[u32]) -> Vec<u32> {
    let leads = leading_to(links, root);
    let mut changed = Vec::new();
    let stray = entries.iter().copied().filter(|entry| !leads[*entry as usize]);
    for entry in stray {
        // Without room, all its links are of routes: the first of them that has room links on.
        let mut at = entry;
        while !routes.link(links, at, root) {
            at = links[at][0];
        }
        changed.push(at);
    }
    changed.sort_unstable();
    changed.dedup();
    changed
}

/// For each point whether it leads to `root`.
fn leading_to(links: &Links, root: u32) -> Vec<bool> {
    let mut back = vec![Vec::new(); links.len()];
    for own in (0..links.len()).map(offset_of) {
        links[own].iter().for_each(|link| back[*link as usize].push(own));
    }
    let mut leads = vec![false; links.len()];
    leads[root as usize] = true;
    let mut queue = vec![root];
    while let Some(offset) = queue.pop() {
        for from in &back[offset as usize] {
            if !std::mem::replace(&mut leads[*from as usize], true) {
                queue.push(*from);
            }
        }
    }
    leads
}
