//! All points of one shard replica: a few parts, one writer, any number of readers.
//!
//! ```text
//! upsert, delete ──▶ PointSet ──publish──▶ View ──▶ search, count, scroll, get
//!                      │  one delta that grows, sealed deltas, segments
//!                      └─ plan ──▶ begin ──▶ JobInput ──(CPU pool)──▶ Product ──▶ install
//! ```
//!
//! A living point is in exactly one part: the writer tombstones the older copy with the same call that takes the newer
//! one, and readers see both at the next publish or neither. Jobs read immutable things and take as long as they take;
//! what dies meanwhile is written down, and dead in the part that they install.
//!
//! | file | has |
//! | --- | --- |
//! | `part`, `frozen`, `live`, `known` | what parts are; which points and ids a segment has |
//! | `point_set` | the writer |
//! | `plan` | which parts to turn into which; a pure function |
//! | `jobs` | a job's input, its product, and how one becomes the other for readers |
//! | `restart` | which points of segments still live, told by a replay of the store |
//! | `view` | what readers see; points by id |
//! | `search`, `scan` | the nearest, over all parts; exactly, in a segment |
//! | `filtered`, `evaluated` | filters, and how a filtered segment is searched; what passed earlier queries' filters |
//! | `pages` | count and scroll |
//!
//! # The caller's duties
//! 1. Apply writes in the order of their versions, then [`PointSet::publish`] and hand the view to readers.
//! 2. [`PointSet::seal`] when [`PointSet::is_full`] says so.
//! 3. Whenever a job may run: [`PointSet::plan`], [`PointSet::begin`]; on a CPU pool [`JobInput::execute`];
//!    then [`PointSet::install`] and publish. [`PointSet::abandon`] if the job failed.
//!    Once nothing was written for a while, seal what [`PointSet::is_worth_a_segment`] and go by
//!    [`PointSet::plan_quiet`].
//! 4. Drop [`Retired`] parts on a thread that may wait, once they are unused: giving back the memory of a hundred
//!    thousand points takes milliseconds, which no search should pay.
//! 5. Keep files: which part came from which is known by [`PartId`].

mod error;
mod evaluated;
mod filtered;
mod frozen;
mod jobs;
mod known;
mod live;
mod pages;
mod part;
mod plan;
mod point_set;
mod restart;
mod scan;
mod search;
mod view;

#[cfg(test)]
mod tests;

pub use error::SetError;
pub use filtered::{SetFilter, ViewFilter};
pub use frozen::Frozen;
pub use jobs::{Died, Installed, JobError, JobInput, Product, Retired};
pub use live::Live;
pub use part::{JobId, Part, PartId, PartKind};
pub use plan::{Job, Policy, plan, plan_quiet};
pub use point_set::PointSet;
pub use restart::Restart;
pub use search::{Found, Look, SetQuery, SetStats, Within};
pub use view::{Row, View};
