//! Chaos on real processes: a mixed load whose every answer is checked, while processes are killed, stopped, cut off and
//! starved.
//!
//! | file | does |
//! |---|---|
//! | `values` | what is written: vectors and payload that follow from the number of a write |
//! | `schedule` | which faults come when, as a pure function of a seed |
//! | `place` | what the cluster runs on, as far as this machine allows |
//! | `nemesis` | carries out the schedule |
//! | `load`, `client`, `attempt` | operations at a steady pace; one of them; its attempts and what is known after them |
//! | `recorder` | the history of a collection, as it is made |
//! | `settle` | waits for the end of all traces, and asks replicas what they hold |
//! | `figures`, `verdict` | what a run comes to, and what it proves |
//! | `run` | all of it in order |
//! | `failover` | how soon shards take writes again when their leader is killed |
//! | `screen` | what the person at the terminal sees |
//!
//! The checker of histories is the crate `shoal-checker`, which knows nothing of this.

mod attempt;
mod client;
pub mod failover;
mod figures;
mod load;
mod nemesis;
mod place;
mod recorder;
mod run;
mod schedule;
mod screen;
mod settle;
mod values;
mod verdict;

pub use run::{Options, run};
pub use schedule::{Action, Allowed, Cut, Fault, Nemesis, schedule};
pub use verdict::Ending;

pub(crate) use settle::Watcher;
