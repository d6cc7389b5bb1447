//! Carries out a schedule on a cluster, and notes when it did what.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::recorder::RunClock;
use super::schedule::{Action, Cut, Fault};
use super::screen::Screen;
use crate::{Cluster, DataFolder, Role};

/// After a fault ended, until its traces should be gone: elections, reconnections, restarts.
const SETTLE_NS: u64 = 5_000_000_000;

/// How often a process that ends by itself is started again; then it stays down, and the run fails all the sooner.
const RESTARTS_MAX: usize = 5;

/// A fault that happened.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// Its kind.
    pub(crate) kind: &'static str,
    /// It in words.
    pub(crate) what: String,
    /// When it began.
    pub(crate) from_ns: u64,
    /// When it ended; absent while it lasts.
    pub(crate) to_ns: Option<u64>,
    /// How many processes were touched.
    pub(crate) processes: u64,
}

impl Window {
    /// When its traces should be gone.
    #[must_use]
    pub(crate) fn settled_ns(&self) -> u64 {
        self.to_ns.map_or(u64::MAX, |to| to.saturating_add(SETTLE_NS))
    }
}

/// A schedule under way.
#[derive(Debug)]
pub(crate) struct Nemesis {
    clock: RunClock,
    faults: Vec<Fault>,
    /// What is still to do, last first: when, which fault, and whether it begins.
    steps: Vec<(Duration, usize, bool)>,
    windows: BTreeMap<usize, Window>,
    /// Processes that ended by themselves.
    exits: Vec<String>,
    /// Damages for which a process has ended.
    excused: BTreeSet<usize>,
    /// Those that are to stay down until their fault ends.
    down: BTreeSet<Role>,
}

impl Nemesis {
    /// Ready to begin.
    #[must_use]
    pub(crate) fn new(schedule: Vec<(Duration, Fault)>, clock: RunClock) -> Self {
        let mut steps: Vec<_> = schedule
            .iter()
            .enumerate()
            .flat_map(|(i, (at, fault))| [(*at, i, true), (*at + fault.lasts, i, false)])
            .collect();
        steps.sort();
        steps.reverse();
        let faults = schedule.into_iter().map(|(_, fault)| fault).collect();
        let (windows, exits, excused, down) = Default::default();
        Self { clock, faults, steps, windows, exits, excused, down }
    }

    /// Does what is due; to be called every few milliseconds.
    ///
    /// Errors: the system refused something.
    pub(crate) fn act(&mut self, cluster: &mut Cluster, screen: &mut Screen) -> Result<(), String> {
        let now = Duration::from_nanos(self.clock.now_ns());
        self.look_after(cluster, screen);
        while let Some((_, fault, begins)) = self.steps.pop_if(|(at, ..)| *at <= now) {
            if begins { self.begin(fault, cluster, screen)? } else { self.end(fault, cluster, screen)? }
        }
        Ok(())
    }

    /// Ends whatever lasts, whether it was due or not; all processes run afterwards.
    ///
    /// Errors: the system refused something.
    pub(crate) fn heal(&mut self, cluster: &mut Cluster, screen: &mut Screen) -> Result<(), String> {
        self.steps.clear();
        let open: Vec<usize> =
            self.windows.iter().filter(|(_, window)| window.to_ns.is_none()).map(|(fault, _)| *fault).collect();
        for fault in open {
            self.end(fault, cluster, screen)?;
        }
        self.look_after(cluster, screen);
        Ok(())
    }

    /// Faults that began, in that order.
    #[must_use]
    pub(crate) fn windows(&self) -> Vec<Window> {
        self.windows.values().cloned().collect()
    }

    /// Processes that ended though nothing had been done that may end them, in words.
    #[must_use]
    pub(crate) fn exits(&self) -> &[String] {
        &self.exits
    }

    /// Starts again what has ended by itself. A damaged table excuses that, once for each.
    pub(crate) fn look_after(&mut self, cluster: &mut Cluster, screen: &mut Screen) {
        for (role, status) in cluster.reap() {
            let name = role.name();
            let damaged = self.windows.keys().find(|i| {
                let is_table = matches!(self.faults[**i].action, Action::FlipTable(node, _) if node == role);
                is_table && !self.excused.contains(i)
            });
            if let Some(flip) = damaged.copied() {
                screen.say(&format!("{name} ended by itself, as a table is damaged ({status})"));
                self.excused.insert(flip);
                cluster.launch(role);
            } else {
                let text = format!("{name} ended by itself ({status})");
                screen.say(&text);
                self.exits.push(text);
                let restarts = self.exits.iter().filter(|exit| exit.starts_with(&format!("{name} "))).count();
                if restarts <= RESTARTS_MAX {
                    cluster.launch(role);
                }
            }
        }
    }

    fn begin(&mut self, number: usize, cluster: &mut Cluster, screen: &mut Screen) -> Result<(), String> {
        let fault = self.faults[number].clone();
        let mut what = fault.to_string();
        screen.say(&what);
        let window = Window {
            kind: fault.action.kind(),
            what: what.clone(),
            from_ns: self.clock.now_ns(),
            to_ns: None,
            processes: fault.action.roles(cluster.setup().shape).len() as u64,
        };
        self.windows.insert(number, window);
        match &fault.action {
            Action::Kill(roles) => roles.iter().for_each(|role| self.kill(*role, cluster)),
            Action::Storm => cluster.roles().into_iter().for_each(|role| self.kill(role, cluster)),
            Action::Power(roles, seed) => {
                roles.iter().for_each(|role| self.kill(*role, cluster));
                for role in roles {
                    let disk = cluster.setup().folders.get(role).and_then(DataFolder::lossy_disk);
                    // Half of the losses are clean, half are torn.
                    disk.map_or(Ok(()), |disk| disk.power_loss(*seed, seed % 2 == 1))?;
                }
            }
            Action::Stop(roles) => roles.iter().for_each(|role| cluster.pause(*role)),
            Action::Partition(cut, side) => {
                let deaf = deaf(*cut, side, &cluster.roles());
                cluster.setup().network.as_ref().map_or(Ok(()), |network| network.cut(&deaf))?;
            }
            Action::Clock(role, seconds) => set_clock(cluster, *role, *seconds),
            Action::DiskFull(role) => {
                let disk = small_disk(cluster, *role);
                disk.map_or(Ok(()), |disk| disk.fill()).map_err(|error| format!("fill a disk: {error}"))?;
            }
            Action::FlipSegment(role, which) => {
                self.kill(*role, cluster);
                what = flip(&cluster.data(*role), &[".graph", ".stored"], *which);
                screen.say(&what);
            }
            Action::FlipTable(role, which) => {
                self.kill(*role, cluster);
                what = flip(&cluster.data(*role), &[".sst"], *which);
                screen.say(&what);
            }
        }
        Ok(())
    }

    fn end(&mut self, number: usize, cluster: &mut Cluster, screen: &mut Screen) -> Result<(), String> {
        match self.faults[number].action.clone() {
            Action::Kill(roles) | Action::Power(roles, _) => {
                roles.into_iter().for_each(|role| self.launch(role, cluster));
            }
            Action::Storm => cluster.roles().into_iter().for_each(|role| self.launch(role, cluster)),
            Action::Stop(roles) => roles.into_iter().for_each(|role| cluster.resume(role)),
            Action::Partition(..) => cluster.setup().network.as_ref().map_or(Ok(()), |network| network.heal())?,
            Action::Clock(role, _) => set_clock(cluster, role, 0),
            Action::DiskFull(role) => {
                small_disk(cluster, role).inspect(|disk| disk.free());
            }
            Action::FlipSegment(role, _) | Action::FlipTable(role, _) => self.launch(role, cluster),
        }
        let now = self.clock.now_ns();
        if let Some(window) = self.windows.get_mut(&number) {
            window.to_ns = Some(now);
            screen.say(&format!("over: {}", window.what));
        }
        Ok(())
    }

    fn kill(&mut self, role: Role, cluster: &mut Cluster) {
        self.down.insert(role);
        cluster.kill(role);
    }

    fn launch(&mut self, role: Role, cluster: &mut Cluster) {
        if self.down.remove(&role) {
            cluster.launch(role);
        }
    }
}

fn set_clock(cluster: &Cluster, role: Role, seconds: i64) {
    if let Some(clocks) = &cluster.setup().clocks {
        clocks.set(&role.name(), seconds);
    }
}

fn small_disk(cluster: &Cluster, role: Role) -> Option<&crate::SmallDisk> {
    cluster.setup().folders.get(&role).and_then(DataFolder::small_disk)
}

/// Who does not hear whom.
fn deaf(cut: Cut, side: &[Role], all: &[Role]) -> BTreeMap<String, BTreeSet<String>> {
    let is_cut = |to: Role, from: Role| {
        let (to_side, from_side) = (side.contains(&to), side.contains(&from));
        match cut {
            Cut::Full => to_side != from_side,
            Cut::OneWay => from_side && !to_side,
            Cut::Ring => {
                let place = |role| side.iter().position(|other| *other == role);
                place(to).zip(place(from)).is_some_and(|(a, b)| {
                    let apart = a.abs_diff(b);
                    apart > 1 && apart < side.len() - 1
                })
            }
        }
    };
    let names = |to: Role| {
        let from = all.iter().filter(|from| **from != to && is_cut(to, **from)).map(|from| from.name()).collect();
        (to.name(), from)
    };
    all.iter().map(|to| names(*to)).collect()
}

/// Changes a byte of one of the files in `folder` whose names end so, and says which.
fn flip(folder: &Path, ends: &[&str], which: u64) -> String {
    let mut files = Vec::new();
    collect(folder, ends, &mut files);
    files.sort();
    let Some(file) = pick(&files, which) else { return format!("no file ends in {}", ends.join(" or ")) };
    let mut bytes = match fs::read(file) {
        Ok(bytes) if !bytes.is_empty() => bytes,
        _ => return format!("{} has no byte to change", file.display()),
    };
    let place = usize::try_from(which / 7 % bytes.len() as u64).unwrap_or_default();
    bytes[place] ^= 1 << (which % 8);
    match fs::write(file, bytes) {
        Ok(()) => format!("changed byte {place} of {}", file.display()),
        Err(error) => format!("{} cannot be written: {error}", file.display()),
    }
}

fn collect(folder: &Path, ends: &[&str], files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, ends, files);
        } else if ends.iter().any(|end| path.to_string_lossy().ends_with(end)) {
            files.push(path);
        }
    }
}

fn pick<T>(list: &[T], which: u64) -> Option<&T> {
    let place = which.checked_rem(list.len() as u64)?;
    list.get(usize::try_from(place).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_hear_whom() {
        let all: Vec<Role> = (0..5).map(Role::Node).chain([Role::Router(0)]).collect();
        let node = |i: u16| Role::Node(i).name();
        let full = deaf(Cut::Full, &[Role::Node(0)], &all);
        assert_eq!((full[&node(0)].len(), full[&node(1)].clone()), (5, [node(0)].into()));
        let one_way = deaf(Cut::OneWay, &[Role::Node(0)], &all);
        assert_eq!((one_way[&node(0)].len(), one_way[&node(1)].clone()), (0, [node(0)].into()));
        let ring = deaf(Cut::Ring, &all[..5], &all);
        assert_eq!(ring[&node(0)], [node(2), node(3)].into(), "its neighbours are 1 and 4");
        assert!(ring["router-1"].is_empty());
    }
}
