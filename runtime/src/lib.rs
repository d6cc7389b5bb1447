//! Where Shoal meets the outside: the ports for disk and network with in-memory twins, and who owns which task.
//!
//! A port exists only where a second implementation does: [`Store`] is RocksDB in production (`shoal-storage`)
//! and [`MemoryStore`] in simulation; [`Transport`] is gRPC in production and a seeded queue in simulation.
//!
//! Does not know about: Raft, shards' contents, gRPC.

mod disk_file;
mod failure;
mod memory_store;
mod patient_store;
mod space;
mod store;
pub mod store_contract;
mod tasks;
mod transport;

pub use disk_file::DiskFile;
pub use failure::{Failure, Told};
pub use memory_store::MemoryStore;
pub use patient_store::PatientStore;
pub use space::{DiskState, DiskWatch, Reserve, Room, Space};
pub use store::{Batch, Store, StoreError, Table, Verified, Visit, Write};
pub use tasks::{TaskError, Tasks};
pub use transport::{Envelope, Transport};
