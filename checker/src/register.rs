//! Whether one point behaved as a register: some order of the operations on it explains every answer.
//!
//! This is the search of Wing and Gong (JPDC 1993): build the order from the front, each time with an operation that
//! nothing left out has to come before, and go back where that leads nowhere. Lowe (2017) adds a memory of the pairs
//! (operations done, state) that have led nowhere. On a plain register that explodes with the number of operations
//! under way at once. Here it does not, because of what is special about points: **no value is written twice**. The
//! next paragraphs prove what the search makes of that. "Legal" is an order in which each read shows what was written
//! last; orders keep `a` before `b` where `a` ended before `b` started, or a token says so.
//!
//! 1. *Blocks.* In a legal order nothing but reads of `v` can stand between the write of `v` and the last read of `v`:
//!    after another write or delete `v` could not be read again. So a write and its reads are one item, placed as a
//!    whole: it starts when the last of them starts and ends when the first of them ends. A read that ended before its
//!    write started makes that impossible, and is found before.
//! 2. *Unknown writes.* If nobody saw the value, leave the write out of a legal order and the order is still legal, as
//!    only reads of it could miss it. If somebody saw it, it happened, and its block says by when.
//! 3. *Blocks first.* At any time, let a block be possible while no missing-reads (reads that found no point) are both
//!    possible and true now. If the rest can be ordered legally, it can with that block at its front: take such an
//!    order and move the block there. What now follows it is what stood first before: a block, or a delete, which do
//!    not care what stands before them; a missing-read it was not, by assumption. What follows the gap it left was a
//!    block or a delete too, as nothing else can follow a whole block. So there is nothing to try but the block.
//! 4. *True reads at once.* A missing-read that is possible while the point is missing changes nothing for others.
//! 5. *Deletes* are alike but for what has to come after them. Where no block is possible, and the next thing is a
//!    delete, of two possible deletes the one after which everything has to come that has to come after the other can
//!    go first: exchange them in any legal order. Without tokens that is the one that ended first, so there is nothing
//!    to try; with tokens two deletes may not compare, and there the search branches.
//! 6. *Unknown deletes* that were not acknowledged need not come at all, and nothing has to come after them. So a known
//!    one goes before them (by 5), one of them is used only to make a missing-read true, and which of them is all the
//!    same once it is possible: the state needs only how many are used.
//!
//! After a block is placed, its value matters no more: the state is whether the point is there. What is left to search
//! is the order of deletes that do not compare, which Lowe's memory bounds.

use std::collections::{HashMap, HashSet};

use crate::history::{FOREVER, Write};
use crate::ledger::Place;

/// One operation on the point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) place: Place,
    pub(crate) action: Action,
    /// The first moment at which it can have taken effect.
    pub(crate) start: u64,
    /// The last moment; [`FOREVER`] for a write of which it is not known whether it happened.
    pub(crate) end: u64,
    /// Operations that a token puts before this one. Those that are not among the events do not count.
    pub(crate) after: Vec<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Write(Write),
    Delete,
    /// `None`: the point was missing.
    Read(Option<Write>),
}

/// Why no order explains what was read. Numbers are places among the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Nobody wrote what this read shows.
    NeverWritten { read: usize },
    /// The read had its answer before the write was invoked.
    ReadBeforeWrite { read: usize, write: usize },
    /// Each is possible alone, all together are not.
    NoOrder,
    /// Too many orders of deletes to try.
    GaveUp,
}

/// States at branches that one search looks at before it gives up; far beyond what honest histories need.
const BRANCHES_MAX: usize = 50_000;

/// Searches an order. Gives what the point holds at its end.
///
/// `events` are sorted by place.
pub(crate) fn check(events: &[Event]) -> Result<Option<Write>, Broken> {
    Search::new(events)?.run()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Block(Write),
    Delete,
    MissingRead,
}

#[derive(Debug)]
struct Item {
    kind: Kind,
    /// When the last of its events starts.
    start: u64,
    /// When the first of its events ends.
    end: u64,
    /// Items that tokens put before it.
    after: Vec<usize>,
}

#[derive(Debug)]
struct Search {
    items: Vec<Item>,
    by_start: Vec<usize>,
    by_end: Vec<usize>,
    /// For each item that tokens put before others, which.
    before: HashMap<usize, Vec<usize>>,
    /// Starts of deletes that may never have happened, ascending.
    spare: Vec<u64>,
}

#[derive(Clone, Debug)]
struct State {
    done: Vec<u64>,
    left: usize,
    /// Everything before is done, in the order by start and by end.
    first_start: usize,
    first_end: usize,
    spare_used: usize,
    holds: Option<Write>,
}

enum Step {
    Finished,
    Stuck,
    Moved,
    Choose(Vec<usize>),
}

impl Search {
    fn new(events: &[Event]) -> Result<Self, Broken> {
        let (mut items, item_of) = gather(events)?;
        link(events, &item_of, &mut items);
        let mut before: HashMap<usize, Vec<usize>> = HashMap::new();
        for (number, item) in items.iter().enumerate() {
            item.after.iter().for_each(|earlier| before.entry(*earlier).or_default().push(number));
        }
        let is_spare = |event: &&Event| event.action == Action::Delete && event.end == FOREVER;
        let mut spare: Vec<u64> = events.iter().filter(is_spare).map(|event| event.start).collect();
        spare.sort_unstable();
        let mut by_start: Vec<usize> = (0..items.len()).collect();
        let mut by_end = by_start.clone();
        by_start.sort_by_key(|item| items[*item].start);
        by_end.sort_by_key(|item| items[*item].end);
        Ok(Self { items, by_start, by_end, before, spare })
    }

    fn run(&self) -> Result<Option<Write>, Broken> {
        let mut state = State::new(self.items.len());
        let mut untried: Vec<(State, usize)> = Vec::new();
        let mut seen: HashSet<(Vec<u64>, bool, usize)> = HashSet::new();
        loop {
            match self.step(&mut state) {
                Step::Moved => continue,
                Step::Finished => return Ok(state.holds),
                Step::Choose(deletes) => {
                    if seen.insert((state.done.clone(), state.holds.is_some(), state.spare_used)) {
                        untried.extend(deletes.into_iter().rev().map(|delete| (state.clone(), delete)));
                    }
                }
                Step::Stuck => {}
            }
            if seen.len() > BRANCHES_MAX {
                return Err(Broken::GaveUp);
            }
            let (back, delete) = untried.pop().ok_or(Broken::NoOrder)?;
            state = back;
            self.place(&mut state, delete);
        }
    }

    /// Does what needs no choice.
    fn step(&self, state: &mut State) -> Step {
        if state.left == 0 {
            return Step::Finished;
        }
        self.advance(state);
        let missing_reads = self.possible(state, Kind::MissingRead);
        if state.holds.is_none() && !missing_reads.is_empty() {
            missing_reads.into_iter().for_each(|read| self.place(state, read));
            return Step::Moved;
        }
        let is_block = |item: &usize| matches!(self.items[*item].kind, Kind::Block(_));
        let block = self.all_possible(state).find(is_block);
        if let Some(block) = block {
            self.place(state, block);
            return Step::Moved;
        }
        let deletes = self.urgent(state, self.possible(state, Kind::Delete));
        match deletes[..] {
            [] if !missing_reads.is_empty() && self.use_spare(state) => Step::Moved,
            [] => Step::Stuck,
            [delete] => {
                self.place(state, delete);
                Step::Moved
            }
            _ => Step::Choose(deletes),
        }
    }

    fn place(&self, state: &mut State, item: usize) {
        match self.items[item].kind {
            Kind::Block(write) => state.holds = Some(write),
            Kind::Delete => state.holds = None,
            Kind::MissingRead => {}
        }
        state.done[item / 64] |= 1 << (item % 64);
        state.left -= 1;
    }

    fn use_spare(&self, state: &mut State) -> bool {
        let is_possible = self.spare.get(state.spare_used).is_some_and(|start| *start <= self.ends(state).0);
        if is_possible {
            state.spare_used += 1;
            state.holds = None;
        }
        is_possible
    }

    fn advance(&self, state: &mut State) {
        while self.by_start.get(state.first_start).is_some_and(|item| state.is_done(*item)) {
            state.first_start += 1;
        }
        while self.by_end.get(state.first_end).is_some_and(|item| state.is_done(*item)) {
            state.first_end += 1;
        }
    }

    /// The first end among what is left, and the second.
    fn ends(&self, state: &State) -> (u64, u64) {
        let mut left = self.by_end[state.first_end..].iter().filter(|item| !state.is_done(**item));
        let mut next = || left.next().map_or(FOREVER, |item| self.items[*item].end);
        (next(), next())
    }

    /// Items left that nothing else left has to come before.
    fn all_possible<'a>(&'a self, state: &'a State) -> impl Iterator<Item = usize> + 'a {
        let (first, second) = self.ends(state);
        let ends_first = self.by_end[state.first_end..].iter().copied().find(|item| !state.is_done(*item));
        let in_time = move |item: &usize| {
            let others_end = if Some(*item) == ends_first { second } else { first };
            self.items[*item].start <= others_end
        };
        let left = self.by_start[state.first_start..].iter().copied().filter(|item| !state.is_done(*item));
        // Its own end does not bind an item, so one that starts after the first end may yet be possible.
        let started = left.take_while(move |item| self.items[*item].start <= second).filter(in_time);
        started.filter(|item| self.items[*item].after.iter().all(|earlier| state.is_done(*earlier)))
    }

    fn possible(&self, state: &State, kind: Kind) -> Vec<usize> {
        self.all_possible(state).filter(|item| self.items[*item].kind == kind).collect()
    }

    /// Leaves out deletes before which another can go without harm.
    fn urgent(&self, state: &State, mut deletes: Vec<usize>) -> Vec<usize> {
        deletes.sort_by_key(|delete| self.items[*delete].end);
        let mut kept: Vec<usize> = Vec::new();
        for delete in deletes {
            if !kept.iter().any(|other| self.goes_first(state, *other, delete)) {
                kept.push(delete);
            }
        }
        kept
    }

    /// Whether all that has to come after `b` has to come after `a` as well. `a` ended no later than `b`.
    fn goes_first(&self, state: &State, a: usize, b: usize) -> bool {
        let after = |delete: &usize| self.before.get(delete).map_or(&[][..], Vec::as_slice);
        let binds = |item: &usize| self.items[a].end < self.items[*item].start || after(&a).contains(item);
        after(&b).iter().all(|item| state.is_done(*item) || binds(item))
    }
}

impl State {
    fn new(items: usize) -> Self {
        Self {
            done: vec![0; items.div_ceil(64)],
            left: items,
            first_start: 0,
            first_end: 0,
            spare_used: 0,
            holds: None,
        }
    }

    fn is_done(&self, item: usize) -> bool {
        self.done[item / 64] >> (item % 64) & 1 == 1
    }
}

/// Joins events to items; tells the item of each event, if it has one.
fn gather(events: &[Event]) -> Result<(Vec<Item>, Vec<Option<usize>>), Broken> {
    let mut items: Vec<Item> = Vec::new();
    let mut item_of = vec![None; events.len()];
    let mut add = |kind, event: &Event| {
        items.push(Item { kind, start: event.start, end: event.end, after: Vec::new() });
        Some(items.len() - 1)
    };
    let mut writes: HashMap<Write, usize> = HashMap::new();
    let mut shown: HashSet<Write> = HashSet::new();
    for (number, event) in events.iter().enumerate() {
        match event.action {
            Action::Write(write) => drop(writes.insert(write, number)),
            Action::Delete if event.end == FOREVER => {}
            Action::Delete => item_of[number] = add(Kind::Delete, event),
            Action::Read(None) => item_of[number] = add(Kind::MissingRead, event),
            Action::Read(Some(write)) => drop(shown.insert(write)),
        }
    }
    for (number, event) in events.iter().enumerate() {
        if let Action::Write(write) = event.action
            && (event.end != FOREVER || shown.contains(&write))
        {
            item_of[number] = add(Kind::Block(write), event);
        }
    }
    for (number, event) in events.iter().enumerate() {
        let Action::Read(Some(write)) = event.action else { continue };
        let written = *writes.get(&write).ok_or(Broken::NeverWritten { read: number })?;
        if event.end < events[written].start {
            return Err(Broken::ReadBeforeWrite { read: number, write: written });
        }
        item_of[number] = item_of[written];
        if let Some(item) = item_of[written].map(|item| &mut items[item]) {
            item.start = item.start.max(event.start);
            item.end = item.end.min(event.end);
        }
    }
    Ok((items, item_of))
}

/// Carries the order that tokens give from events to items.
fn link(events: &[Event], item_of: &[Option<usize>], items: &mut [Item]) {
    for (event, item) in events.iter().zip(item_of) {
        let Some(item) = *item else { continue };
        for place in &event.after {
            let first = events.partition_point(|earlier| earlier.place < *place);
            let same = events[first..].iter().take_while(|earlier| earlier.place == *place).count();
            let earlier = item_of[first..first + same].iter().flatten();
            items[item].after.extend(earlier.filter(|earlier| **earlier != item));
        }
        items[item].after.sort_unstable();
        items[item].after.dedup();
    }
}

#[cfg(test)]
mod tests;
