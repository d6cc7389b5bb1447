//! What a point can have been at some moment of a window, and what it was throughout, for certain.
//!
//! Answers here err on the side of the cluster: `can_show` is never wrongly false, `certain` never wrongly a value.
//! They look at pairs of writes only, which makes them cheap; [`crate::register`] sees what takes more than two.
//!
//! A write takes effect between its invocation and its *end*: its return if it was acknowledged, or the first return
//! of a read that showed it, whichever is first; else for ever. Write `a` is certainly before `b` if it ended before
//! `b` was invoked.

use std::collections::HashMap;

use crate::history::{Outcome, Write};
use crate::ledger::{Key, Ledger, Place, What};

/// The writes and deletes of one point, failed ones left out.
#[derive(Debug)]
pub(crate) struct Lifetime {
    mutations: Vec<Mutation>,
    of_write: HashMap<Write, usize>,
    of_place: HashMap<Place, usize>,
    /// Ends, ascending, each with the mutation that started last among those up to it.
    by_end: Vec<(u64, usize)>,
    /// Starts, ascending, each with what ends last among mutations up to it.
    by_start: Vec<(u64, Ends)>,
}

#[derive(Clone, Copy, Debug)]
struct Mutation {
    wrote: Option<Write>,
    start: u64,
    end: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    writes: Option<u64>,
    deletes: Option<u64>,
    /// The last end of all, whose it is, and the last end of the others.
    last: Option<(u64, usize)>,
    second: Option<u64>,
}

/// The moments at which a read can have taken effect on a point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The latest mutation that its token puts before it.
    after: Option<usize>,
}

/// Lifetimes of all points of a ledger.
#[derive(Debug)]
pub(crate) struct Lifetimes<'a> {
    ledger: &'a Ledger,
    points: Vec<Lifetime>,
}

impl<'a> Lifetimes<'a> {
    pub(crate) fn new(ledger: &'a Ledger) -> Self {
        Self { ledger, points: (0..ledger.ids.len()).map(|key| Lifetime::new(ledger, key)).collect() }
    }

    pub(crate) fn of(&self, key: Key) -> &Lifetime {
        &self.points[key]
    }

    /// The window of the read at `place`.
    pub(crate) fn window(&self, key: Key, place: Place) -> Window {
        let Ledger { operations, sessions, touches, .. } = self.ledger;
        let covered = sessions.covered(operations, &touches[key], key, place);
        Window {
            from: sessions.earliest_ns(operations, key, place),
            to: operations[place].end_ns(),
            after: self.points[key].latest(covered.into_iter().flat_map(|place| self.shown(key, place))),
        }
    }

    /// The mutations that an operation made or saw.
    fn shown(&self, key: Key, place: Place) -> impl Iterator<Item = usize> + '_ {
        let life = &self.points[key];
        self.ledger.touches_of(key, place).iter().filter_map(move |touch| match touch.what {
            What::Wrote(_) => life.of_place.get(&place).copied(),
            What::Saw(write) => write.and_then(|write| life.of_write.get(&write).copied()),
        })
    }
}

impl Lifetime {
    fn new(ledger: &Ledger, key: Key) -> Self {
        let mut life = Self {
            mutations: Vec::new(),
            of_write: HashMap::new(),
            of_place: HashMap::new(),
            by_end: Vec::new(),
            by_start: Vec::new(),
        };
        for touch in &ledger.touches[key] {
            let operation = &ledger.operations[touch.place];
            if let What::Wrote(wrote) = touch.what
                && operation.outcome != Outcome::Failed
            {
                life.of_place.insert(touch.place, life.mutations.len());
                wrote.map(|write| life.of_write.insert(write, life.mutations.len()));
                life.mutations.push(Mutation { wrote, start: operation.invoke_ns, end: operation.end_ns() });
            }
        }
        for touch in &ledger.touches[key] {
            if let What::Saw(Some(write)) = touch.what {
                life.end_by(write, ledger.operations[touch.place].end_ns());
            }
        }
        life.sort();
        life
    }

    /// Whoever has shown it by then, it had happened by then.
    fn end_by(&mut self, write: Write, at: u64) {
        if let Some(mutation) = self.of_write.get(&write).map(|number| &mut self.mutations[*number]) {
            mutation.end = mutation.end.min(at).max(mutation.start);
        }
    }

    fn sort(&mut self) {
        let mut numbers: Vec<usize> = (0..self.mutations.len()).collect();
        numbers.sort_by_key(|number| self.mutations[*number].end);
        let mut latest = None;
        for number in &numbers {
            let next = self.latest(latest.into_iter().chain([*number])).unwrap_or(*number);
            latest = Some(next);
            self.by_end.push((self.mutations[*number].end, next));
        }
        numbers.sort_by_key(|number| self.mutations[*number].start);
        let mut ends = Ends::default();
        for number in numbers {
            ends.add(self.mutations[number], number);
            self.by_start.push((self.mutations[number].start, ends));
        }
    }

    /// The one that started last.
    fn latest(&self, numbers: impl Iterator<Item = usize>) -> Option<usize> {
        numbers.max_by_key(|number| self.mutations[*number].start)
    }

    /// A mutation that has certainly taken effect before any moment of the window; the one that started last.
    fn settled(&self, window: Window) -> Option<usize> {
        let before = self.by_end.partition_point(|(end, _)| *end < window.from);
        let ended = before.checked_sub(1).map(|last| self.by_end[last].1);
        self.latest(ended.into_iter().chain(window.after))
    }

    /// Before this nothing can have ended that the window shows: what has, was replaced.
    fn bound(&self, window: Window) -> Option<u64> {
        self.settled(window).map(|number| self.mutations[number].start)
    }

    /// What had been invoked by the end of the window.
    fn invoked(&self, window: Window) -> Ends {
        let before = self.by_start.partition_point(|(start, _)| *start <= window.to);
        before.checked_sub(1).map_or_else(Ends::default, |last| self.by_start[last].1)
    }

    /// Whether a write of this value can have happened at all.
    pub(crate) fn was_written(&self, write: Write) -> bool {
        self.of_write.contains_key(&write)
    }

    /// Whether the value was written, and by the end of the window.
    pub(crate) fn was_written_by(&self, write: Write, window: Window) -> bool {
        self.of_write.get(&write).is_some_and(|number| self.mutations[*number].start <= window.to)
    }

    /// Whether the point can have been there, with this value, at a moment of the window.
    pub(crate) fn can_show(&self, write: Write, window: Window) -> bool {
        let Some(mutation) = self.of_write.get(&write).map(|number| self.mutations[*number]) else { return false };
        mutation.start <= window.to && self.bound(window).is_none_or(|bound| mutation.end >= bound)
    }

    /// Whether the point can have been there, with whatever value, at a moment of the window.
    pub(crate) fn can_be_there(&self, window: Window) -> bool {
        let last = self.invoked(window).writes;
        last.is_some_and(|end| self.bound(window).is_none_or(|bound| end >= bound))
    }

    /// Whether the point can have been missing at a moment of the window.
    pub(crate) fn can_be_missing(&self, window: Window) -> bool {
        let Some(bound) = self.bound(window) else { return true };
        self.invoked(window).deletes.is_some_and(|end| end >= bound)
    }

    /// The value that the point had at every moment of the window at which the read can have taken effect.
    pub(crate) fn certain(&self, window: Window) -> Option<Write> {
        let settled = self.settled(window)?;
        let others = self.invoked(window);
        let others_end = if others.last?.1 == settled { others.second } else { others.last.map(|(end, _)| end) };
        let is_last = others_end.is_none_or(|end| end < self.mutations[settled].start);
        self.mutations[settled].wrote.filter(|_| is_last)
    }

    /// Why the point must be there: what was written before the window and not deleted since.
    pub(crate) fn settled_place(&self, window: Window) -> Option<Place> {
        let settled = self.settled(window)?;
        self.of_place.iter().find(|(_, number)| **number == settled).map(|(place, _)| *place)
    }
}

impl Ends {
    fn add(&mut self, mutation: Mutation, number: usize) {
        let kind = if mutation.wrote.is_some() { &mut self.writes } else { &mut self.deletes };
        *kind = (*kind).max(Some(mutation.end));
        if self.last.is_none_or(|(end, _)| end <= mutation.end) {
            self.second = self.last.map(|(end, _)| end);
            self.last = Some((mutation.end, number));
        } else {
            self.second = self.second.max(Some(mutation.end));
        }
    }
}
