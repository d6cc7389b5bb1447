//! All checks of a history as one table and one last line.

use std::collections::BTreeMap;
use std::fmt;

use crate::digest::{self, DigestReport, Observation};
use crate::finding::Findings;
use crate::history::{CallKind, Operation, Outcome};
use crate::ledger::Ledger;
use crate::lifetime::Lifetimes;
use crate::linear::{self, LinearReport};
use crate::oracle::{self, SearchReport, SearchRules};
use crate::set_full::{self, SetReport};

/// Operations of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Acknowledged or answered.
    pub ok: u64,
    /// Certainly without effect.
    pub failed: u64,
    /// Of which it is not known.
    pub unknown: u64,
}

/// What all checkers say of a history. Displayed: what was found, a table, and the verdict as the last line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Operations by kind.
    pub operations: BTreeMap<CallKind, Counts>,
    /// Of [`crate::linear`].
    pub linear: LinearReport,
    /// Of [`crate::set_full`].
    pub set: SetReport,
    /// Of [`crate::oracle`]; absent if nobody could say what scores should be.
    pub searches: Option<SearchReport>,
    /// Of [`crate::digest`].
    pub digests: DigestReport,
}

/// Runs every checker.
#[must_use]
pub fn judge(ledger: &Ledger, rules: Option<&SearchRules<'_>>, observations: &[Observation]) -> Verdict {
    let lifetimes = Lifetimes::new(ledger);
    Verdict {
        operations: count(&ledger.operations),
        linear: linear::check(ledger),
        set: set_full::check_with(ledger, &lifetimes),
        searches: rules.map(|rules| oracle::check_with(ledger, &lifetimes, rules)),
        digests: digest::check(observations),
    }
}

fn count(operations: &[Operation]) -> BTreeMap<CallKind, Counts> {
    let mut counts: BTreeMap<CallKind, Counts> = BTreeMap::new();
    for operation in operations {
        let of_kind = counts.entry(operation.call.kind()).or_default();
        match operation.outcome {
            Outcome::Ok => of_kind.ok += 1,
            Outcome::Failed => of_kind.failed += 1,
            Outcome::Unknown => of_kind.unknown += 1,
        }
    }
    counts
}

impl Verdict {
    /// Whether something was checked and nothing was found. A run in which nothing succeeded is no pass.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        self.operations.values().any(|counts| counts.ok > 0) && self.findings().iter().all(|(_, total, _)| *total == 0)
    }

    /// Every kind of finding: its name in the verdict, how many, and the checker's words.
    fn findings(&self) -> Vec<(&'static str, u64, String)> {
        let Self { linear, set, searches, digests, .. } = self;
        let phantom = linear.phantom.total + set.phantom.total;
        let stale = linear.stale.total + set.stale.total;
        let told = |findings: &[&Findings]| findings.iter().map(ToString::to_string).collect::<String>();
        let differences = digests.differences.iter().map(|difference| format!("{difference}\n"));
        let no_searches = Findings::default();
        let wrong = searches.as_ref().map_or(&no_searches, |searches| &searches.wrong);
        vec![
            ("lost", set.lost.total, told(&[&set.lost])),
            ("resurrected", set.resurrected.total, told(&[&set.resurrected])),
            ("phantom", phantom, told(&[&linear.phantom, &set.phantom])),
            ("non-linearizable", linear.non_linearizable.total, told(&[&linear.non_linearizable])),
            ("stale", stale, told(&[&linear.stale, &set.stale])),
            ("duplicated", set.duplicated.total, told(&[&set.duplicated])),
            ("miscounted", set.miscounted.total, told(&[&set.miscounted])),
            ("wrong search answers", wrong.total, told(&[wrong])),
            ("undecided", linear.undecided.total, told(&[&linear.undecided])),
            ("digest differences", digests.differences.len() as u64, differences.take(10).collect()),
        ]
    }

    fn last_line(&self) -> String {
        let checked: u64 = self.operations.values().map(|counts| counts.ok + counts.unknown).sum();
        if self.operations.values().all(|counts| counts.ok == 0) {
            return "FAIL no operation succeeded, so nothing was checked".to_owned();
        }
        let word = if self.is_pass() { "PASS" } else { "FAIL" };
        let always = ["lost", "resurrected", "phantom", "non-linearizable", "digest differences"];
        let shown = self.findings().into_iter().filter(|(name, total, _)| *total > 0 || always.contains(name));
        let parts: Vec<String> = shown.map(|(name, total, _)| format!("{} {name}", grouped(total))).collect();
        format!("{word} {} operations checked, {}", grouped(checked), parts.join(", "))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, _, text) in self.findings().into_iter().filter(|(_, total, _)| *total > 0) {
            writeln!(f, "{name}:\n\n{text}")?;
        }
        writeln!(f, "{:<10}{:>14}{:>14}{:>14}", "", "ok", "failed", "unknown")?;
        for kind in CallKind::ALL {
            let Counts { ok, failed, unknown } = self.operations.get(&kind).copied().unwrap_or_default();
            let [ok, failed, unknown] = [ok, failed, unknown].map(grouped);
            writeln!(f, "{:<10}{ok:>14}{failed:>14}{unknown:>14}", kind.name())?;
        }
        let searches = self.searches.clone().unwrap_or_default();
        for (what, count) in [
            ("points searched for an order", self.linear.points),
            ("writes and reads of them", self.linear.events),
            ("points compared with scrolls", self.set.comparisons),
            ("search answers compared", searches.searches),
            ("exact ones among them", searches.exact),
            ("hits compared", searches.hits),
            ("positions of shards compared", self.digests.positions),
        ] {
            writeln!(f, "{what:<38}{:>14}", grouped(count))?;
        }
        f.write_str(&self.last_line())
    }
}

/// With a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let comma = |place: usize| place > 0 && (digits.len() - place).is_multiple_of(3);
    digits
        .chars()
        .enumerate()
        .flat_map(|(place, digit)| comma(place).then_some(',').into_iter().chain([digit]))
        .collect()
}

#[cfg(test)]
mod tests;
