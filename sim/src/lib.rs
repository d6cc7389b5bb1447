//! A seeded simulation of a whole cluster in one thread: coordinators, nodes, clients with their routers, a network, disks
//! and a clock, with trouble of every kind; afterwards every checker of `shoal-checker` looks at what clients saw.
//!
//! `SHOAL_SEED=7 cargo test -p shoal-sim` replays one run, `SHOAL_TRACE=1` tells it event by event, `SHOAL_SEEDS=1000` makes
//! that many runs. One seed, one run: nothing here asks a real clock, a thread or a random source other than the seed's.
//!
//! | file | has |
//! |---|---|
//! | `queue`, `event` | simulated time: what happens when |
//! | `network` | what may be lost, late, or not as it was written |
//! | `shape` | what one seed's cluster is like, and which trouble it meets |
//! | `process` | a process: the driver around the consensus core, power loss, restarts |
//! | `node`, `replica`, `jobs`, `restore`, `serving`, `upkeep` | what a node does around the state machine of its shards |
//! | `coordinator` | what a coordinator does around the cluster map |
//! | `client`, `workload` | clients, each with a small router, and what they ask for |
//! | `faults` | trouble, within what a cluster is to bear |
//! | `truth` | what must hold at every moment |
//! | `world`, `report` | a run from its beginning to the verdict |
//!
//! # Real
//! `MultiRaft` for every group, the shard's state machine with its index, segments and snapshots, the cluster map and its
//! state machine, placement, steps of membership, tokens, filters, what decides which replica is the odd one.
//!
//! # Simulated
//! Clock, network, disk and power, calls between processes, how long jobs and syncs take, and the glue that is async in a
//! real process. Each function of that glue names the one it mirrors.
//!
//! # Not modelled
//! gRPC itself, threads and their races within a process, the router's hedges and its grouping of calls by node, admission
//! and queues that are full, files that are damaged or lost at a power cut, disks that are full, coordinators that lose their
//! folders, witnesses. A driver that waits for a sync takes messages meanwhile, which its duties allow and the real one
//! does not do.
//!
//! Does not know about: real processes, sockets and disks; `tests` starts those.

mod client;
mod coordinator;
mod event;
mod faults;
mod jobs;
mod network;
mod node;
mod process;
mod queue;
mod replica;
mod report;
mod restore;
mod serving;
mod shape;
mod truth;
mod upkeep;
mod workload;
mod world;

pub use faults::FaultKind;
pub use report::{Report, Tally};
pub use shape::Shape;
pub use world::run;
