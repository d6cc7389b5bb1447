//! Whether each point behaved as one register to all clients, whatever level each of them asked for.
//!
//! Every read of a point counts: by id, in a scroll (a point that is not in it was read as missing), as a hit of a
//! search. `session` tells how far back each may look, `register` finds an order. What is found is
//! cut down to operations of which none can be left out, so that the contradiction can be read off.

use std::collections::HashSet;

use crate::explain;
use crate::finding::Findings;
use crate::history::{FOREVER, Level, Outcome, Write};
use crate::ledger::{Key, Ledger, Place, What};
use crate::register::{self, Action, Broken, Event};

/// What the search over all points found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinearReport {
    /// Points searched.
    pub points: u64,
    /// Writes and reads of single points searched.
    pub events: u64,
    /// Points whose linearizable reads and writes have no order.
    pub non_linearizable: Findings,
    /// Points that have an order until session and eventual reads are added: those broke their own promise.
    pub stale: Findings,
    /// Reads that show what nobody had written by then.
    pub phantom: Findings,
    /// Points on which the search gave up. That is no proof of anything, and no pass either.
    pub undecided: Findings,
}

/// Searches an order for each point of the history.
#[must_use]
pub fn check(ledger: &Ledger) -> LinearReport {
    let mut report = LinearReport::default();
    for key in 0..ledger.ids.len() {
        let events = events(ledger, key);
        report.points += 1;
        report.events += events.len() as u64;
        if let Err(broken) = register::check(&events) {
            report.add(ledger, key, &events, broken);
        }
    }
    report
}

impl LinearReport {
    /// Whether every point has an order.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        [&self.non_linearizable, &self.stale, &self.phantom, &self.undecided].iter().all(|found| found.is_empty())
    }

    fn add(&mut self, ledger: &Ledger, key: Key, events: &[Event], broken: Broken) {
        let point = explain::point(&ledger.ids[key]);
        match broken {
            Broken::NeverWritten { read } => {
                let told = || explain::events(ledger, &[events[read].clone()]);
                self.phantom.add(|| format!("{point} was read with a value that nobody wrote:\n{}", told()));
            }
            Broken::ReadBeforeWrite { read, write } => {
                let told = || explain::events(ledger, &[events[read].clone(), events[write].clone()]);
                self.phantom.add(|| format!("{point} was read before its write was invoked:\n{}", told()));
            }
            Broken::GaveUp => {
                self.undecided.add(|| format!("{point}: too many orders of {} operations", events.len()));
            }
            Broken::NoOrder => {
                let strict = without_relaxed_reads(ledger, events);
                match register::check(&strict) {
                    Err(_) => self.non_linearizable.add(|| contradiction(ledger, &point, strict)),
                    Ok(_) => self.stale.add(|| contradiction(ledger, &point, events.to_vec())),
                }
            }
        }
    }
}

/// Everything that was done to a point or seen of it, in the order of operations.
fn events(ledger: &Ledger, key: Key) -> Vec<Event> {
    let touched = ledger.touches[key].iter().filter_map(|touch| match touch.what {
        What::Wrote(wrote) => write(ledger, touch.place, wrote),
        What::Saw(found) => Some(read(ledger, key, touch.place, found)),
    });
    let missed = ledger.scrolls_without(key).map(|place| read(ledger, key, place, None));
    let mut events: Vec<Event> = touched.chain(missed).collect();
    events.sort_by_key(|event| event.place);
    events
}

fn write(ledger: &Ledger, place: Place, wrote: Option<Write>) -> Option<Event> {
    let operation = &ledger.operations[place];
    let action = wrote.map_or(Action::Delete, Action::Write);
    let event = Event { place, action, start: operation.invoke_ns, end: operation.end_ns(), after: Vec::new() };
    (operation.outcome != Outcome::Failed).then_some(event)
}

fn read(ledger: &Ledger, key: Key, place: Place, found: Option<Write>) -> Event {
    Event {
        place,
        action: Action::Read(found),
        start: ledger.sessions.earliest_ns(&ledger.operations, key, place),
        end: ledger.operations[place].end_ns(),
        after: ledger.sessions.covered(&ledger.operations, &ledger.touches[key], key, place),
    }
}

fn without_relaxed_reads(ledger: &Ledger, events: &[Event]) -> Vec<Event> {
    let is_strict =
        |event: &&Event| matches!(ledger.operations[event.place].call.level(), None | Some(Level::Linearizable));
    events.iter().filter(is_strict).cloned().collect()
}

/// The smallest contradiction in `events`, as text.
fn contradiction(ledger: &Ledger, point: &str, events: Vec<Event>) -> String {
    let all = events.len();
    let core = shrink(events);
    let (told, deletes) = told(&core);
    let mut text = format!(
        "{point}: no order of these {} operations explains what was read (of {all} on it, these are enough):\n{}",
        told.len(),
        explain::events(ledger, &told)
    );
    let misses = core.iter().any(|event| event.action == Action::Read(None));
    if misses && deletes > 0 {
        text += &format!("    other deletes of the point ({deletes}) do not explain it either\n");
    }
    text + &last_consistent(ledger, &core)
}

/// What the point holds in an order of all but the read that ended last.
fn last_consistent(ledger: &Ledger, core: &[Event]) -> String {
    let reads = core.iter().enumerate().filter(|(_, event)| matches!(event.action, Action::Read(_)));
    let Some((last, event)) = reads.max_by_key(|(_, event)| event.end) else { return String::new() };
    let mut rest = core.to_vec();
    rest.remove(last);
    let number = ledger.operations[event.place].number;
    match register::check(&rest) {
        Ok(holds) => format!(
            "    without operation {number} they have an order, at whose end the point holds {}",
            explain::value(holds)
        ),
        Err(_) => String::new(),
    }
}

/// Leaves out whatever can be left out while the rest still has no order.
///
/// Sound: an order of the whole gives one of the rest. That holds when a read goes; when a write goes that no read
/// left shows; and when a delete need not have happened any more. So what remains contradicts itself.
fn shrink(mut events: Vec<Event>) -> Vec<Event> {
    let mut chunk = events.len().div_ceil(2).max(1);
    loop {
        let mut from = 0;
        while from < events.len() {
            let rest = without(&events, from, (from + chunk).min(events.len()));
            let is_smaller = rest != events;
            if is_smaller && register::check(&rest) == Err(Broken::NoOrder) {
                events = rest;
            } else {
                from += chunk;
            }
        }
        if chunk == 1 {
            return events;
        }
        chunk = chunk.div_ceil(2);
    }
}

/// The events less those from `from` to `to`; writes that the rest shows stay, deletes become possible ones.
fn without(events: &[Event], from: usize, to: usize) -> Vec<Event> {
    let outside = events[..from].iter().chain(&events[to..]);
    let shown: HashSet<Write> = outside
        .filter_map(|event| match event.action {
            Action::Read(found) => found,
            _ => None,
        })
        .collect();
    let keep = |(number, event): (usize, &Event)| {
        let is_outside = number < from || number >= to;
        match event.action {
            _ if is_outside => Some(event.clone()),
            Action::Write(write) if shown.contains(&write) => Some(event.clone()),
            Action::Delete => Some(Event { end: FOREVER, ..event.clone() }),
            _ => None,
        }
    };
    events.iter().enumerate().filter_map(keep).collect()
}

/// What is worth telling of a contradiction, and how many deletes are not: those that change nothing for it.
fn told(core: &[Event]) -> (Vec<Event>, usize) {
    let is_idle = |event: &&Event| event.action == Action::Delete && event.end == FOREVER;
    let told: Vec<Event> = core.iter().filter(|event| !is_idle(event)).cloned().collect();
    let idle = core.len() - told.len();
    (told, idle)
}

#[cfg(test)]
mod tests;
