//! What a cluster under chaos runs on: as much as this machine allows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::schedule::{Allowed, Nemesis};
use crate::{Clocks, DataFolder, Network, Role, Setup, Shape, SmallDisk};

/// The cluster.
pub(crate) const SHAPE: Shape = Shape { coordinators: 3, nodes: 5, routers: 2 };

/// Nodes with a disk that can be filled, where it is to be; the others have a real one.
const SMALL_DISKS: [Role; 2] = [Role::Node(3), Role::Node(4)];
/// What such a node needs several times over.
const SMALL_DISK_BYTES: u64 = 384 << 20;

/// Small deltas and segments, so that builds and merges happen all the time.
const NODE_SETTINGS: &str = "delta_points_max = 100\nsegment_points_max = 400\nquiet_after_ms = 2000\n";

/// What is there, and what of the wishes can be done with it.
#[derive(Debug)]
pub(crate) struct Place {
    /// For the cluster.
    pub(crate) setup: Setup,
    /// For the schedule.
    pub(crate) allowed: Allowed,
    /// What is left out, and why.
    pub(crate) skipped: Vec<String>,
}

impl Place {
    /// Prepares what `wanted` needs; `folder` is for files of its own, `logs` for those of the processes.
    ///
    /// Errors: a folder cannot be made.
    pub(crate) fn prepare(wanted: &BTreeSet<Nemesis>, folder: &Path, logs: &Path) -> std::io::Result<Self> {
        let mut skipped = Vec::new();
        let mut nemeses = wanted.clone();
        let mut setup = Setup { node_settings: NODE_SETTINGS.to_owned(), ..Setup::new(SHAPE) };
        setup.logs = Some(logs.to_owned());
        if wanted.contains(&Nemesis::Partition) {
            let names: Vec<String> = SHAPE.roles().into_iter().map(Role::name).collect();
            setup.network = given(Network::new(&names), Nemesis::Partition, &mut nemeses, &mut skipped);
        }
        if wanted.contains(&Nemesis::Clock) {
            let clocks = folder.join("clocks");
            std::fs::create_dir_all(&clocks)?;
            setup.clocks = given(Clocks::new(clocks), Nemesis::Clock, &mut nemeses, &mut skipped);
        }
        if wanted.contains(&Nemesis::DiskFull) {
            let disks = small_disks(folder)?;
            setup.folders = given(disks, Nemesis::DiskFull, &mut nemeses, &mut skipped).unwrap_or_default();
        }
        let small_disks = setup.folders.keys().copied().collect();
        Ok(Self { setup, allowed: Allowed { shape: SHAPE, nemeses, small_disks }, skipped })
    }
}

/// What there is; without it the nemesis is left out.
fn given<T>(
    made: Result<T, String>,
    nemesis: Nemesis,
    nemeses: &mut BTreeSet<Nemesis>,
    skipped: &mut Vec<String>,
) -> Option<T> {
    made.inspect_err(|reason| {
        nemeses.remove(&nemesis);
        skipped.push(format!("SKIPPED: {nemesis:?}, as {reason}"));
    })
    .ok()
}

fn small_disks(folder: &Path) -> std::io::Result<Result<BTreeMap<Role, DataFolder>, String>> {
    let mut folders = BTreeMap::new();
    for role in SMALL_DISKS {
        let mount = folder.join(format!("disk-of-{}", role.name()));
        std::fs::create_dir_all(&mount)?;
        match SmallDisk::mount(&mount, SMALL_DISK_BYTES) {
            Ok(disk) => folders.insert(role, DataFolder::Small(disk)),
            Err(reason) => return Ok(Err(reason)),
        };
    }
    Ok(Ok(folders))
}
