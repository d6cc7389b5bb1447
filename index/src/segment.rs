//! The frozen form of many points: a graph of blocks that is walked where it lies in its file.
//!
//! ```text
//! Rows ──build──▶ file ──open──▶ Segment ──search──▶ hits
//!                  ▲                │
//!                  └─────merge──────┘
//! ```
//!
//! | file | has |
//! | --- | --- |
//! | `space` | metrics as squared euclidean distance |
//! | `layout`, `blocks` | where the parts of a block lie; reading and writing them |
//! | `compact`, `form` | blocks without codes of neighbours; a graph of the one form or the other |
//! | `place` | a query, ready to be compared |
//! | `entries` | where walks start |
//! | `walk`, `queue` | the walk, and the points that wait in it |
//! | `cells`, `sketch`, `packed` | points by region, one by one and those that pass a filter in batches |
//! | `sieve`, `contest` | scanning the points that pass a filter |
//! | `calibration`, `bounds` | how hard to walk and how far to scan for a wanted recall |
//! | `ids`, `stored` | ids; payload, and vectors that blocks have not exactly |
//! | `row_sums` | checksums of what is returned |
//! | `rows`, `target` | points before they are built in; where files go |
//! | `build`, `merge`, `draft` | making a segment: of rows, of segments, and what both come to before it is written |
//! | `trial` | walks that calibrate a draft |
//! | `frozen`, `search` | opening and asking a segment |
//! | `reach` | counting points that no walk finds, of which there must be none |
//!
//! # What is trusted
//! A file whose checksums hold was written by [`Segment::build`] or [`Segment::merge`], or by an enemy. Opening checks
//! all that would make a search panic or read what is not there; links may still lead anywhere within the graph, so an
//! enemy can spoil answers, not processes.
//!
//! That the bytes stay what they were is not trusted either, as a mapped file is read from its disk again and again. What
//! nothing checks later is copied to memory when a segment is opened; blocks, sketches, payload and vectors stay where they
//! are, damage to them can spoil no process, and rows are held against their checksums before they are returned.

mod among;
mod blocks;
mod bounds;
mod build;
mod calibration;
mod cells;
mod compact;
mod contest;
mod draft;
pub(crate) mod entries;
mod form;
mod frozen;
mod ids;
mod layout;
mod merge;
mod packed;
mod place;
mod queue;
mod reach;
mod row_sums;
mod rows;
mod search;
mod sent;
mod sieve;
mod sketch;
mod space;
mod stored;
mod target;
mod trial;
mod walk;

#[cfg(test)]
mod tests;

pub use build::{BuildError, Parameters};
pub use frozen::Segment;
pub use layout::Precision;
pub use merge::MergePart;
pub use packed::Packed;
pub use rows::Rows;
pub use search::{Effort, Hit, SegmentQuery, WalkStats};
pub use target::Target;
pub use walk::Scratch;

pub(crate) use blocks::{Blocks, LinkWriter, write_row};
pub(crate) use compact::Aid;
pub(crate) use layout::{DEGREE, Layout};
pub(crate) use place::Place;
pub(crate) use queue::Waiting;
pub(crate) use space::Space;
pub(crate) use walk::{Breadth, Cancelled, Near, Seen, Steps, walk};
