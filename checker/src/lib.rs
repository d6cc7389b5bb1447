//! Histories of clients, and what must hold of them, whoever made them: a simulation or real processes.
//!
//! A recorder notes what each client asked and was told, a [`Ledger`] sorts that by point, and [`judge`] runs every
//! checker over it.
//!
//! | file | says or asks |
//! |---|---|
//! | `history` | the words of a history, and what a recorder owes the checkers |
//! | `file` | histories as files: appended line by line, read back in spite of a torn end |
//! | `ledger` | a history sorted by point, refused if it breaks the recorder's rules |
//! | `linear` | is there one order of all writes and reads of each point that explains every answer? |
//! | `register` | the search for such an order, and why it is fast |
//! | `session` | how far back may a read look: levels and tokens as intervals and edges of that order |
//! | `set_full` | do scrolls and counts show what must be there, and nothing that must not? |
//! | `lifetime` | what a point can have been, and certainly was, in a window of time |
//! | `oracle` | do searches answer from what was acknowledged, with the right scores, and exact ones in full? |
//! | `digest` | do replicas that applied the same hold the same? |
//! | `verdict` | all of it as a table and a last line |
//! | `explain`, `finding` | what was found, in sentences and timelines |
//!
//! What is unknown or under way at the same time excuses: nothing is reported that an honest cluster could have
//! answered. Pure code: the same history always gives the same verdict, word for word.
//!
//! Does not know about: clocks, sockets, randomness, files other than what it is handed; how points are hashed to
//! shards, how vectors are scored or payload filtered (the caller's functions say); the cluster at all.

pub mod digest;
mod explain;
pub mod file;
mod finding;
pub mod history;
mod ledger;
mod lifetime;
pub mod linear;
pub mod oracle;
mod register;
mod session;
pub mod set_full;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod testing;
mod verdict;

pub use finding::Findings;
pub use ledger::Ledger;
pub use verdict::{Counts, Verdict, judge};
