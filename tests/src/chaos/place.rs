//! What a cluster under chaos runs on: as much as this machine allows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::schedule::{Allowed, Nemesis};
use crate::{Clocks, DataFolder, LossyDisk, Network, Role, Setup, Shape, SmallDisk};

/// The cluster.
pub(crate) const SHAPE: Shape = Shape { coordinators: 3, nodes: 5, routers: 2 };

/// Nodes whose disk can lose what was not synced, where it is to: as many as a shard has replicas, so that some shards lose
/// it on all of them at once.
const LOSSY_DISKS: [Role; 3] = [Role::Node(0), Role::Node(1), Role::Node(2)];
/// Nodes with a disk that can be filled, where it is to be.
const SMALL_DISKS: [Role; 2] = [Role::Node(3), Role::Node(4)];
/// What such a node needs several times over.
const SMALL_DISK_BYTES: u64 = 384 << 20;

/// Small deltas and segments, so that builds and merges happen all the time, and a scrub that is always at work.
const NODE_SETTINGS: &str =
    "delta_points_max = 100\nsegment_points_max = 400\nquiet_after_ms = 2000\nscrub_every_ms = 3000\n";

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
            let disks = folders(&SMALL_DISKS, folder, |mount| {
                SmallDisk::mount(mount, SMALL_DISK_BYTES).map(DataFolder::Small)
            })?;
            setup.folders.extend(given(disks, Nemesis::DiskFull, &mut nemeses, &mut skipped).unwrap_or_default());
        }
        if wanted.contains(&Nemesis::Power) {
            let disks = folders(&LOSSY_DISKS, folder, |folder| LossyDisk::mount(folder).map(DataFolder::Lossy))?;
            setup.folders.extend(given(disks, Nemesis::Power, &mut nemeses, &mut skipped).unwrap_or_default());
        }
        let those = |which: fn(&DataFolder) -> bool| {
            setup.folders.iter().filter(|(_, folder)| which(folder)).map(|(role, _)| *role).collect::<Vec<_>>()
        };
        let small_disks = those(|folder| folder.small_disk().is_some());
        let lossy_disks = those(|folder| folder.lossy_disk().is_some());
        Ok(Self { allowed: Allowed { shape: SHAPE, nemeses, small_disks, lossy_disks }, setup, skipped })
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

fn folders(
    roles: &[Role],
    within: &Path,
    make: impl Fn(&Path) -> Result<DataFolder, String>,
) -> std::io::Result<Result<BTreeMap<Role, DataFolder>, String>> {
    let mut folders = BTreeMap::new();
    for role in roles {
        let folder = within.join(format!("disk-of-{}", role.name()));
        std::fs::create_dir_all(&folder)?;
        match make(&folder) {
            Ok(made) => folders.insert(*role, made),
            Err(reason) => return Ok(Err(reason)),
        };
    }
    Ok(Ok(folders))
}
