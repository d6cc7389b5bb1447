//! Whether the collection as a whole holds what it must: Jepsen's set-full, on scrolls and counts.
//!
//! What counts as what, for each scroll that was answered and each point:
//!
//! - *lost*: not in the scroll, though an acknowledged (or seen) write had ended before the window of the scroll, and
//!   every delete invoked by the end of the window had ended before that write was invoked. A delete that is unknown,
//!   or under way at the same time as the write or the scroll, excuses.
//! - *resurrected*: in the scroll, though an acknowledged delete ended before the window, and every write invoked by
//!   the end of the window had ended before that delete was invoked. A write that is unknown and was not seen before
//!   that delete, or is under way at the same time as the delete or the scroll, excuses.
//! - *stale*: in the scroll with a value after whose end another write or delete was invoked that itself ended before
//!   the window, while the point may be there with another value.
//! - *phantom*: in the scroll with a value that nobody wrote, whose write failed, or whose write had not been invoked.
//! - *duplicated*: twice in one scroll.
//! - *miscounted*: a count below the number of points that were there throughout, or above the number of those that
//!   can have been there at some moment. Points are counted one by one, as no moment is common to all shards.
//!
//! The window of a scroll or count is what `session` says of its level; a scroll is not one moment.

use std::collections::HashSet;

use crate::explain;
use crate::finding::Findings;
use crate::history::{Call, Write};
use crate::ledger::{Key, Ledger, Place, What};
use crate::lifetime::{Lifetimes, Window};

/// What scrolls and counts show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetReport {
    /// Points compared with scrolls: each scroll with each point.
    pub comparisons: u64,
    /// Missing, though they must be there.
    pub lost: Findings,
    /// There, though they must be gone.
    pub resurrected: Findings,
    /// There with a value that was replaced before.
    pub stale: Findings,
    /// There with a value that nobody had written.
    pub phantom: Findings,
    /// More than once in one scroll.
    pub duplicated: Findings,
    /// Counts that no state explains.
    pub miscounted: Findings,
}

/// Compares every scroll and every count of the history with what was acknowledged.
#[must_use]
pub fn check(ledger: &Ledger) -> SetReport {
    check_with(ledger, &Lifetimes::new(ledger))
}

pub(crate) fn check_with(ledger: &Ledger, lifetimes: &Lifetimes<'_>) -> SetReport {
    let mut report = SetReport::default();
    for place in ledger.scrolls.iter().copied() {
        report.duplicates(ledger, place);
        for key in 0..ledger.ids.len() {
            report.compare(ledger, lifetimes, key, place);
        }
    }
    for (place, operation) in ledger.operations.iter().enumerate() {
        if let Call::Count { count, .. } = operation.call
            && operation.is_ok()
        {
            report.count(ledger, lifetimes, place, count);
        }
    }
    report
}

impl SetReport {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        let Self { comparisons: _, lost, resurrected, stale, phantom, duplicated, miscounted } = self;
        [lost, resurrected, stale, phantom, duplicated, miscounted].iter().all(|found| found.is_empty())
    }

    fn compare(&mut self, ledger: &Ledger, lifetimes: &Lifetimes<'_>, key: Key, place: Place) {
        self.comparisons += 1;
        let (life, window) = (lifetimes.of(key), lifetimes.window(key, place));
        let tell = |problem: String| {
            let point = explain::point(&ledger.ids[key]);
            format!("{point} {problem}\n{}", evidence(ledger, lifetimes, key, place, window))
        };
        let Some(write) = shown(ledger, key, place) else {
            if !life.can_be_missing(window) {
                self.lost.add(|| tell("is lost: written, not deleted since, and not in the scroll".into()));
            }
            return;
        };
        if life.can_show(write, window) {
            return;
        }
        if !life.was_written(write) {
            self.phantom.add(|| tell(format!("is a phantom: nobody wrote {write}, or its write failed")));
        } else if !life.was_written_by(write, window) {
            self.phantom.add(|| tell(format!("is a phantom: write {write} was invoked after the scroll")));
        } else if life.can_be_there(window) {
            self.stale.add(|| tell(format!("is stale: write {write} had been replaced before the scroll")));
        } else {
            self.resurrected.add(|| tell(format!("is resurrected: deleted, and back with write {write}")));
        }
    }

    fn duplicates(&mut self, ledger: &Ledger, place: Place) {
        let Call::Scroll { points, .. } = &ledger.operations[place].call else { return };
        let mut seen = HashSet::with_capacity(points.len());
        for (id, _) in points.iter().filter(|(id, _)| !seen.insert(id)) {
            let scroll = || explain::name(&ledger.operations[place]);
            self.duplicated.add(|| format!("{} is twice in one scroll\n    {}", explain::point(id), scroll()));
        }
    }

    fn count(&mut self, ledger: &Ledger, lifetimes: &Lifetimes<'_>, place: Place, count: u64) {
        let (mut certain, mut possible) = (0, 0);
        for key in 0..ledger.ids.len() {
            let (life, window) = (lifetimes.of(key), lifetimes.window(key, place));
            certain += u64::from(!life.can_be_missing(window));
            possible += u64::from(life.can_be_there(window));
        }
        if !(certain..=possible).contains(&count) {
            let call = explain::name(&ledger.operations[place]);
            self.miscounted
                .add(|| format!("{count} points were counted, {certain} to {possible} were there\n    {call}"));
        }
    }
}

fn shown(ledger: &Ledger, key: Key, place: Place) -> Option<Write> {
    ledger.touches_of(key, place).iter().find_map(|touch| match touch.what {
        What::Saw(found) => found,
        What::Wrote(_) => None,
    })
}

/// The read, and what had certainly happened before it.
fn evidence(ledger: &Ledger, lifetimes: &Lifetimes<'_>, key: Key, place: Place, window: Window) -> String {
    let mut text = format!("    {}", explain::name(&ledger.operations[place]));
    if let Some(settled) = lifetimes.of(key).settled_place(window) {
        text += &format!("\n    before it: {}", explain::name(&ledger.operations[settled]));
    }
    text
}

#[cfg(test)]
mod tests;
