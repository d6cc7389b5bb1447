//! What a shard is on one replica: a function of its log.
//!
//! Everything here is a value or a plain struct that its caller steps: no clock, no task, no network. The disk is behind
//! the store port and a folder of segment files. The same code runs in a node and in the simulation.
//!
//! | file | has |
//! | --- | --- |
//! | `command` | entries of the log: writes, seals, installs |
//! | `machine` | what applying one does |
//! | `state` | what the content comes to at a position, in digests |
//! | `operations` | which writes were applied lately, so that a repeat changes nothing |
//! | `parts` | names of the index's parts, the same on every replica |
//! | `records`, `keys` | how points and the rest lie in the store |
//! | `segment_files` | which files are a shard's, and whole |
//!
//! # What holds
//! - The same log gives the same points, the same parts and the same digests on every replica. Which of a segment's files
//!   a replica has is its own affair: it serves the points of one that is missing from the parts it was made of, or from
//!   a delta filled from the store.
//! - An entry that was applied changes nothing when it comes again, nor does a write whose operation was applied.

pub(crate) mod command;
pub(crate) mod keys;
pub(crate) mod machine;
pub(crate) mod operations;
pub(crate) mod parts;
pub(crate) mod records;
pub(crate) mod segment_files;
pub(crate) mod state;
