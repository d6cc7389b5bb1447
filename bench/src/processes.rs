//! A cluster of real processes for a bench, on a real disk, and what each of them uses.

use std::fs;
use std::path::Path;

use shoal_client::Client;
use shoal_tests::{Cluster, Role, Setup, Shape};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::error::BenchError;
use crate::usage::Usage;

/// File systems in memory: a sync on them costs nothing, and says nothing.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// Threads for the clients of a bench.
pub(crate) fn threads() -> Result<Runtime, BenchError> {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    threads.map_err(BenchError::io("start threads"))
}

/// The processes. All are killed when this is dropped.
pub(crate) struct Processes {
    pub(crate) cluster: Cluster,
    _logs: TempDir,
}

impl Processes {
    /// Starts all of them in a temporary folder and waits until they serve.
    pub(crate) fn start(shape: Shape) -> Result<Self, BenchError> {
        let logs = tempfile::tempdir().map_err(BenchError::io("make a temporary folder"))?;
        let file_system = file_system_of(logs.path());
        if IN_MEMORY.contains(&file_system.as_str()) {
            return Err(BenchError::NoDisk { file_system });
        }
        let setup = Setup { logs: Some(logs.path().to_owned()), ..Setup::new(shape) };
        Ok(Self { cluster: Cluster::start_as(setup), _logs: logs })
    }

    /// A client of its router.
    pub(crate) fn client(&self) -> Result<Client, BenchError> {
        Ok(Client::connect(&[self.router()])?)
    }

    /// Where its router is.
    pub(crate) fn router(&self) -> String {
        self.cluster.address(Role::Router(0))
    }

    /// Its nodes.
    pub(crate) fn nodes(&self) -> Vec<Role> {
        self.cluster.roles().into_iter().filter(|role| matches!(role, Role::Node(_))).collect()
    }

    /// What a process has used so far.
    pub(crate) fn usage(&self, role: Role) -> Usage {
        self.cluster.process_id(role).map(Usage::of).unwrap_or_default()
    }

    /// What all processes of a kind have used so far.
    pub(crate) fn usage_of(&self, is_of_kind: impl Fn(Role) -> bool) -> Usage {
        let roles = self.cluster.roles().into_iter().filter(|role| is_of_kind(*role));
        roles.fold(Usage::default(), |all, role| all.plus(&self.usage(role)))
    }

    /// The sum of a metric over all nodes, as each tells it now.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.nodes().into_iter().map(|role| value_in(&self.cluster.scrape(role), name)).sum()
    }
}

/// The value of a metric without labels in what a process tells; 0 if it is not there.
fn value_in(told: &str, name: &str) -> f64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    told.lines().find_map(value).unwrap_or(0.0)
}

/// The kind of file system that a folder is on.
pub(crate) fn file_system_of(folder: &Path) -> String {
    kind_at(&fs::read_to_string("/proc/mounts").unwrap_or_default(), folder)
}

/// The mount with the longest path above the folder; of two at one place the later covers the earlier.
fn kind_at(mounts: &str, folder: &Path) -> String {
    let mount = |line: &str| {
        let mut words = line.split(' ');
        let (place, kind) = (words.nth(1)?, words.next()?);
        folder.starts_with(place).then(|| (place.len(), kind.to_owned()))
    };
    mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length).map_or_else(String::new, |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let told = "# TYPE a counter\na_total 3\na_seconds_sum 1.5\na_seconds_count 7\n";
        assert_eq!(
            ["a_total", "a_seconds_sum", "a_seconds", "b"].map(|name| value_in(told, name)),
            [3.0, 1.5, 0.0, 0.0]
        );
    }

    #[test]
    fn the_nearest_mount_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/data xfs rw 0 0\n";
        for (folder, want) in [("/home/x", "ext4"), ("/tmp/x", "tmpfs"), ("/tmp/data/x", "xfs"), ("/tmpdata", "ext4")] {
            assert_eq!(kind_at(mounts, Path::new(folder)), want, "{folder}");
        }
    }
}
