//! End-to-end tests: real processes of the `shoal` binary, real sockets on loopback, real folders.
//!
//! This library starts, kills and stops them; the tests are in `tests/`. Whatever it starts it ends, also when
//! a test fails. Ports are free ones, chosen when a cluster is made and kept for its life, so that a process
//! that was killed comes back where it was.

pub mod chaos;
mod clock;
mod cluster;
mod collector;
mod data_folder;
pub mod failpoints;
mod network;
mod process;

pub use clock::Clocks;
pub use cluster::{Cluster, Role, Setup, Shape};
pub use collector::{Collector, SpanSeen};
pub use data_folder::{DataFolder, LossyDisk, SmallDisk};
pub use network::Network;
pub use process::{Finished, Launch, Process, free_port, run, shoal_binary};

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A folder of the shared data sets, if it is there; prints why a test is skipped if not.
#[must_use]
pub fn data_set(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("SHOAL_DATA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let folder = root.join(name);
    if folder.join("meta.json").exists() {
        return Some(folder);
    }
    eprintln!("SKIPPED: data set {name} is not in {}; set SHOAL_DATA to the folder that holds it", root.display());
    None
}

/// How long something is waited for that comes in seconds.
const COMES_WITHIN: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
///
/// # Panics
/// If none comes within a minute.
pub fn wait_for<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + COMES_WITHIN;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "what is waited for does not come");
        std::thread::sleep(Duration::from_millis(20)); // polling for an end; nothing is synchronised by it
    }
}
