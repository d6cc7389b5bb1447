//! What a run proves: every checker's word, and what speaks against the cluster besides.

use std::fmt;
use std::fs;
use std::path::Path;

use shoal_checker::digest::{self, Observation};
use shoal_checker::oracle::{SearchRules, Tolerance};
use shoal_checker::{Ledger, Verdict, judge};
use shoal_model::{Metric, PointId};

use super::figures::Recorded;
use super::settle::shard_at;
use super::values::{Plan, passes, score};

/// Operations a second outside of faults below which a run proves nothing.
pub(crate) const QUIET_PER_SECOND_MIN: f64 = 100.0;

/// A shard that acknowledges no write for so long while nothing is done to the cluster is stuck: its load brings several
/// writes a second.
pub(crate) const QUIET_OUTAGE_SECONDS_MAX: f64 = 4.0;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything held.
    Pass,
    /// Something did not.
    Fail,
    /// Too little was done, or it was cut short.
    Void,
}

impl Ending {
    /// The exit code of a program that ends so.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Fail => 1,
            Self::Void => 2,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Void => "VOID",
        })
    }
}

/// Judges the history of a collection. Errors: it breaks the rules of histories.
pub(crate) fn judge_one(plan: &Plan, recorded: &Recorded) -> Result<Verdict, String> {
    let shard_of = |id: &PointId| shard_at(&recorded.collection, id.hash());
    let ledger = Ledger::new(recorded.operations.clone(), Some(&shard_of)).map_err(|error| error.to_string())?;
    // The scores of the others are sums of small whole numbers, the same in any order.
    let tolerance = match plan.metric {
        Metric::Cosine => Tolerance { absolute: 1e-6, relative: 0.0 },
        Metric::Dot | Metric::Euclidean => Tolerance::default(),
    };
    let rules = SearchRules {
        metric: plan.metric,
        score: &|query, _, write| score(plan, query, write),
        passes: &|group, _, write| passes(group, write),
        tolerance,
    };
    Ok(judge(&ledger, Some(&rules), &[]))
}

/// Differences between replicas, in words; and how many positions could be compared.
#[must_use]
pub(crate) fn judge_digests(observations: &[Observation]) -> (Vec<String>, u64) {
    let report = digest::check(observations);
    (report.differences.iter().map(ToString::to_string).collect(), report.positions)
}

/// What no healthy process logs: panics, and the alarm that replicas differ, which are then made alike.
const ALARMS: [&str; 2] = ["panicked at", "replicas of one shard differ"];

/// Lines of logs that no healthy process writes.
#[must_use]
pub(crate) fn alarms(logs: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(logs).into_iter().flatten().flatten() {
        let text = fs::read(entry.path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let name = entry.file_name().to_string_lossy().into_owned();
        let lines = text.lines().filter(|line| ALARMS.iter().any(|alarm| line.contains(alarm)));
        found.extend(lines.map(|line| format!("{name}: {line}")));
    }
    found
}
