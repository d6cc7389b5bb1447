//! Which faults come when: a pure function of seed, length and what may be done.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};

use crate::{Role, Shape};

/// Before the first fault.
const WARM_UP: Duration = Duration::from_secs(6);

/// Kinds of faults, as one names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Nemesis {
    /// Processes are killed and come back after a while.
    Kill,
    /// All are killed and come back within seconds.
    Storm,
    /// Nodes are killed, and their disks lose what was not synced.
    Power,
    /// Processes stand still and go on.
    Stop,
    /// Processes do not hear each other.
    Partition,
    /// The wall clock of a process jumps, there and back.
    Clock,
    /// The disk of a node is full for a while.
    DiskFull,
    /// A byte of a segment file of a node that is down changes.
    FlipSegment,
    /// A byte of a table of the store of a node that is down changes.
    FlipTable,
}

impl Nemesis {
    /// Those that are done unless others are asked for: the cluster survives each.
    pub const DEFAULT: [Self; 9] = [
        Self::Kill,
        Self::Storm,
        Self::Power,
        Self::Stop,
        Self::Partition,
        Self::Clock,
        Self::DiskFull,
        Self::FlipSegment,
        Self::FlipTable,
    ];
}

/// Shapes of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Neither side hears the other.
    Full,
    /// The others do not hear those that are named; these hear the others.
    OneWay,
    /// Each node hears its two neighbours among the nodes alone.
    Ring,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Kills these; they come back at the end.
    Kill(Vec<Role>),
    /// Kills all.
    Storm,
    /// Kills these nodes at once, and then has their disks lose what was not synced, or of it what the number decides.
    Power(Vec<Role>, u64),
    /// Stops these as they stand; they go on at the end.
    Stop(Vec<Role>),
    /// Cuts the network; these are one side.
    Partition(Cut, Vec<Role>),
    /// Sets a clock so many seconds ahead; at the end it is right again.
    Clock(Role, i64),
    /// Fills the disk of a node.
    DiskFull(Role),
    /// Kills a node and changes a byte, which the number chooses.
    FlipSegment(Role, u64),
    /// The same in a table of its store.
    FlipTable(Role, u64),
}

/// A fault: what, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is done.
    pub action: Action,
    /// For how long.
    pub lasts: Duration,
}

/// What a schedule may do.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// The cluster.
    pub shape: Shape,
    /// Kinds, at least one.
    pub nemeses: BTreeSet<Nemesis>,
    /// Nodes whose disk can be filled.
    pub small_disks: Vec<Role>,
    /// Nodes whose disk can lose what was not synced.
    pub lossy_disks: Vec<Role>,
}

/// Faults of a run of this length, each with the time at which it begins, in that order: one or two at a time, with quiet
/// spells between. Every kind comes before any comes again.
#[must_use]
pub fn schedule(seed: u64, length: Duration, allowed: &Allowed) -> Vec<(Duration, Fault)> {
    let mut random = StdRng::seed_from_u64(seed);
    let longest = (length / 8).clamp(Duration::from_secs(3), Duration::from_secs(30));
    let mut deck = Vec::new();
    let mut at = WARM_UP;
    let mut faults: Vec<(Duration, Fault)> = Vec::new();
    loop {
        let Some(first) = draw(&mut random, &mut deck, allowed, longest, &BTreeSet::new()) else { return faults };
        if at + first.lasts > length {
            return faults;
        }
        let mut end = at + first.lasts;
        let touched = first.action.roles(allowed.shape);
        let second_at = at + first.lasts.mul_f64(random.random_range(0.1..0.8));
        let is_double = !matches!(first.action, Action::Storm) && random.random_bool(0.35);
        faults.push((at, first));
        if let Some(second) = is_double.then(|| draw(&mut random, &mut deck, allowed, longest, &touched)).flatten()
            && second_at + second.lasts <= length
        {
            end = end.max(second_at + second.lasts);
            faults.push((second_at, second));
        }
        at = end + Duration::from_millis(random.random_range(8_000..14_000));
    }
}

/// The next fault that leaves `spared` alone, if there is one.
fn draw(
    random: &mut StdRng,
    deck: &mut Vec<Nemesis>,
    allowed: &Allowed,
    longest: Duration,
    spared: &BTreeSet<Role>,
) -> Option<Fault> {
    if deck.is_empty() {
        deck.extend(&allowed.nemeses);
        deck.shuffle(random);
    }
    // What goes beside another fault is left in the deck if it does not fit; alone, all fit that have whom to fit.
    let place = (0..deck.len()).rev().find(|place| {
        let nemesis = deck[*place];
        (spared.is_empty() || !matches!(nemesis, Nemesis::Storm | Nemesis::Partition))
            && !candidates(nemesis, allowed, spared).is_empty()
    })?;
    let nemesis = deck.remove(place);
    let whom = candidates(nemesis, allowed, spared);
    let one = *whom.choose(random)?;
    let action = match nemesis {
        Nemesis::Kill => Action::Kill(some(random, &whom)),
        Nemesis::Storm => Action::Storm,
        Nemesis::Power if random.random_bool(0.5) => Action::Power(whom.clone(), random.random()),
        Nemesis::Power => Action::Power(some(random, &whom), random.random()),
        Nemesis::Stop => Action::Stop(some(random, &whom)),
        Nemesis::Partition => partition(random, &whom),
        Nemesis::Clock => Action::Clock(one, jump(random)),
        Nemesis::DiskFull => Action::DiskFull(one),
        Nemesis::FlipSegment => Action::FlipSegment(one, random.random()),
        Nemesis::FlipTable => Action::FlipTable(one, random.random()),
    };
    let longest_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    let lasts_ms = match nemesis {
        Nemesis::Storm => random.random_range(200..3_000),
        Nemesis::FlipSegment | Nemesis::FlipTable => random.random_range(1_000..3_000),
        _ => random.random_range(1_500..=longest_ms),
    };
    Some(Fault { action, lasts: Duration::from_millis(lasts_ms) })
}

fn candidates(nemesis: Nemesis, allowed: &Allowed, spared: &BTreeSet<Role>) -> Vec<Role> {
    let roles = match nemesis {
        Nemesis::DiskFull => allowed.small_disks.clone(),
        Nemesis::Power => allowed.lossy_disks.clone(),
        Nemesis::FlipSegment | Nemesis::FlipTable => (0..allowed.shape.nodes).map(Role::Node).collect(),
        _ => allowed.shape.roles(),
    };
    roles.into_iter().filter(|role| !spared.contains(role)).collect()
}

/// One, or a few, or all nodes: no majority is assumed to be left.
fn some(random: &mut StdRng, whom: &[Role]) -> Vec<Role> {
    let nodes: Vec<Role> = whom.iter().copied().filter(|role| matches!(role, Role::Node(_))).collect();
    let mut chosen: Vec<Role> = match random.random_range(0..100) {
        0..35 if !nodes.is_empty() => nodes.choose_multiple(random, 1).copied().collect(),
        35..60 => nodes.choose_multiple(random, 2).copied().collect(),
        60..70 => nodes.choose_multiple(random, 3).copied().collect(),
        70..77 => nodes,
        77..90 => whom.choose_multiple(random, 3).copied().collect(),
        _ => Vec::new(),
    };
    if chosen.is_empty() {
        chosen.extend(whom.choose(random));
    }
    chosen.sort_unstable();
    chosen
}

fn partition(random: &mut StdRng, whom: &[Role]) -> Action {
    let cut = *[Cut::Full, Cut::Full, Cut::OneWay, Cut::Ring].choose(random).unwrap_or(&Cut::Full);
    let nodes = whom.iter().copied().filter(|role| matches!(role, Role::Node(_)));
    let mut side: Vec<Role> = match cut {
        Cut::Ring => {
            let mut ring: Vec<Role> = nodes.collect();
            ring.shuffle(random);
            return Action::Partition(cut, ring);
        }
        // Half of the time nodes alone, so that what is cut is a shard's replicas.
        _ if random.random_bool(0.5) => {
            let nodes: Vec<Role> = nodes.collect();
            let count = random.random_range(1..=nodes.len().div_ceil(2));
            nodes.choose_multiple(random, count).copied().collect()
        }
        _ => {
            let count = random.random_range(1..whom.len().max(2));
            whom.choose_multiple(random, count).copied().collect()
        }
    };
    side.sort_unstable();
    Action::Partition(cut, side)
}

/// From a second to half an hour, either way.
fn jump(random: &mut StdRng) -> i64 {
    let seconds = *[1, 5, 30, 300, 1_800].choose(random).unwrap_or(&1);
    if random.random_bool(0.5) { seconds } else { -seconds }
}

impl Action {
    /// Those whom it touches.
    #[must_use]
    pub fn roles(&self, shape: Shape) -> BTreeSet<Role> {
        match self {
            Self::Kill(roles) | Self::Stop(roles) | Self::Partition(_, roles) | Self::Power(roles, _) => {
                roles.iter().copied().collect()
            }
            Self::Storm => shape.roles().into_iter().collect(),
            Self::Clock(role, _) | Self::DiskFull(role) | Self::FlipSegment(role, _) | Self::FlipTable(role, _) => {
                [*role].into()
            }
        }
    }

    /// Its kind, as figures are listed.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Kill(_) => "kill",
            Self::Storm => "storm",
            Self::Power(..) => "power loss",
            Self::Stop(_) => "stop",
            Self::Partition(Cut::Full, _) => "partition, full",
            Self::Partition(Cut::OneWay, _) => "partition, one-way",
            Self::Partition(Cut::Ring, _) => "partition, ring",
            Self::Clock(..) => "clock",
            Self::DiskFull(_) => "disk full",
            Self::FlipSegment(..) => "flip, segment",
            Self::FlipTable(..) => "flip, table",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |roles: &[Role]| roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(" ");
        write!(f, "{}", self.action.kind())?;
        match &self.action {
            Action::Storm => write!(f, ": everything")?,
            Action::Kill(roles) | Action::Stop(roles) | Action::Power(roles, _) => write!(f, ": {}", names(roles))?,
            Action::Partition(Cut::Full, side) => write!(f, ": {} | the rest", names(side))?,
            Action::Partition(Cut::OneWay, side) => write!(f, ": nobody else hears {}", names(side))?,
            Action::Partition(Cut::Ring, ring) => write!(f, ": {}", names(ring))?,
            Action::Clock(role, seconds) => write!(f, ": {} by {seconds:+} s", role.name())?,
            Action::DiskFull(role) | Action::FlipSegment(role, _) | Action::FlipTable(role, _) => {
                write!(f, ": {}", role.name())?;
            }
        }
        write!(f, ", for {:.1} s", self.lasts.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Allowed {
        let nemeses = Nemesis::DEFAULT.into();
        Allowed {
            shape: Shape { coordinators: 3, nodes: 5, routers: 2 },
            nemeses,
            small_disks: vec![Role::Node(3), Role::Node(4)],
            lossy_disks: vec![Role::Node(0), Role::Node(1), Role::Node(2)],
        }
    }

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_schedule_is_its_seed() {
        for seed in 0..50 {
            assert_eq!(schedule(seed, HOUR, &allowed()), schedule(seed, HOUR, &allowed()), "seed {seed}");
        }
        assert_ne!(schedule(1, HOUR, &allowed()), schedule(2, HOUR, &allowed()));
    }

    #[test]
    fn at_most_two_faults_at_a_time_and_never_on_the_same_process() {
        for seed in 0..200 {
            let faults = schedule(seed, HOUR, &allowed());
            assert!(faults.is_sorted_by_key(|(at, _)| *at), "seed {seed}");
            for (i, (at, fault)) in faults.iter().enumerate() {
                assert!(*at >= WARM_UP && *at + fault.lasts <= HOUR, "seed {seed}: {fault}");
                let others: Vec<_> = faults[..i].iter().filter(|(from, other)| *from + other.lasts > *at).collect();
                assert!(others.len() <= 1, "seed {seed}: {fault} at {at:?}");
                let shape = allowed().shape;
                for (_, other) in others {
                    let both = fault.action.roles(shape).intersection(&other.action.roles(shape)).count();
                    assert_eq!(both, 0, "seed {seed}: {fault} beside {other}");
                }
            }
        }
    }

    #[test]
    fn every_kind_comes_and_nothing_else() {
        for only in Nemesis::DEFAULT {
            let allowed = Allowed { nemeses: [only].into(), ..allowed() };
            assert!(!schedule(3, HOUR, &allowed).is_empty(), "{only:?}");
        }
        let kinds: BTreeSet<&str> = schedule(7, HOUR, &allowed()).iter().map(|(_, f)| f.action.kind()).collect();
        assert_eq!(kinds.len(), 11, "{kinds:?}");
        let nothing = Allowed { nemeses: [Nemesis::DiskFull].into(), small_disks: Vec::new(), ..allowed() };
        assert_eq!(schedule(7, HOUR, &nothing), []);
    }

    #[test]
    fn a_short_run_has_faults_too() {
        for seed in 0..50 {
            let allowed = Allowed { nemeses: [Nemesis::Kill, Nemesis::Stop, Nemesis::Partition].into(), ..allowed() };
            assert!(schedule(seed, Duration::from_secs(40), &allowed).len() >= 2, "seed {seed}");
        }
    }
}
