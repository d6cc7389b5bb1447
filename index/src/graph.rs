//! Making a graph: who links to whom.
//!
//! ```text
//! seed    hnsw_rs links the first points, a random sample, one after the other
//! grow    the others come in batches: each point of a batch walks the graph so far, and links to a diverse few of
//!         those it met; then these link back. A last round does it again for every point, on the whole graph
//! repair  points that no route leads to are given one
//! order   neighbours are put near each other in memory
//! ```
//!
//! A merge has no seed: its largest part is what the others join, a part at a time.
//!
//! All of a batch see the same graph and are joined in order, so the result depends on points, parameters and seed, not
//! on how many threads there are. Walks run on the frozen form itself, blocks with codes, which is what makes a build
//! fast: one hop estimates 32 distances.
//! Sources: ParlayANN, arXiv 2305.04359 (batches); SymphonyQG, arXiv 2411.12229 (walking codes while building);
//! Vamana, NeurIPS 2019 (a second round).
//!
//! # Why `hnsw_rs` makes the seed alone
//! Inserting one after the other is what makes it deterministic, and on two cores that is slow: see
//! `docs/benchmarks.md` for what it takes for all points, and what the batches take.

mod grow;
mod growth;
mod links;
mod merge;
mod order;
mod points;
mod prune;
mod repair;
mod seed;
mod towards;

pub(crate) use grow::{Params, grow};
pub(crate) use growth::Grown;
pub(crate) use merge::{Part, merge};
pub(crate) use order::order;
pub(crate) use points::Points;
pub(crate) use repair::Repair;
