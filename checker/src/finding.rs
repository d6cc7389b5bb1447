//! What a checker found: all of it counted, the first of it told.

use std::fmt;

/// How many findings of one kind are told in full.
const SHOWN_MAX: usize = 10;

/// Findings of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// How many there are.
    pub total: u64,
    /// The first of them, each as sentences that name the point and the operations.
    pub shown: Vec<String>,
}

impl Findings {
    /// Counts a finding; `tell` is asked only while there is room for it.
    pub(crate) fn add(&mut self, tell: impl FnOnce() -> String) {
        self.total += 1;
        if self.shown.len() < SHOWN_MAX {
            self.shown.push(tell());
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }
}

/// Those that are told, one after the other.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown.iter().try_for_each(|text| writeln!(f, "{text}"))?;
        let more = self.total - self.shown.len() as u64;
        if more > 0 { writeln!(f, "and {more} more") } else { Ok(()) }
    }
}
