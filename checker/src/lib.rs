//! Histories of clients, and what must hold of them, whoever made them: a simulation or real processes.
//!
//! A recorder notes what each client asked and was told, a [`Ledger`] sorts that by point, and the checkers
//! work on that.
//!
//! | file | says or asks |
//! |---|---|
//! | `history` | the words of a history, and what a recorder owes the checkers |
//! | `file` | histories as files: appended line by line, read back in spite of a torn end |
//! | `ledger` | a history sorted by point, refused if it breaks the recorder's rules |
//! | `linear` | is there one order of all writes and reads of each point that explains every answer? |
//! | `register` | the search for such an order, and why it is fast |
//! | `session` | how far back may a read look: levels and tokens as intervals and edges of that order |
//! | `explain`, `finding` | what was found, in sentences and timelines |
//!
//! What is unknown or under way at the same time excuses: nothing is reported that an honest cluster could have
//! answered. Pure code: the same history always gives the same verdict, word for word.
//!
//! Does not know about: clocks, sockets, randomness, files other than what it is handed; how points are hashed to
//! shards (the caller's function says); the cluster at all.

mod explain;
pub mod file;
mod finding;
pub mod history;
mod ledger;
pub mod linear;
mod register;
mod session;
#[cfg(test)]
mod testing;

pub use finding::Findings;
pub use ledger::Ledger;
