//! Which other processes are up, so that groups that sleep need no heartbeats of their own.
//!
//! Two processes with sleeping groups in common send each other a beacon every few ticks, whatever the number of
//! groups. A group sleeps as long as every process it depends on is heard, in the boot it had when the group fell
//! asleep: a follower depends on its leader's process, a leader on those of all other members. What a process owes
//! to a group besides being up is that it has it open; if it closes one, its beacons say so until that is
//! acknowledged.
//!
//! All of this is about when a group wakes up, never about what it may do: elections, commits and reads ask a quorum
//! as ever.

use std::collections::{BTreeMap, BTreeSet};

use shoal_model::{GroupId, ReplicaId};
use shoal_runtime::Envelope;

use crate::{BEACON_GROUP, ConsensusError, ProcessId, RaftConfig};

const FORMAT: u8 = 1;

/// One start of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boot {
    pub(crate) process: ProcessId,
    pub(crate) nonce: u64,
}

/// What is known of other processes.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    peers: BTreeMap<ProcessId, Peer>,
    /// Beacons sent so far.
    sent: u64,
}

#[derive(Debug, Default)]
struct Peer {
    /// Boot that was last heard and the number of its newest beacon; the same of the one before it.
    boot: Option<(u64, u64)>,
    retired: Option<(u64, u64)>,
    /// Tick of the newest beacon.
    heard: u64,
    /// Groups that sleep as long as it is heard.
    sleepers: BTreeSet<GroupId>,
    /// Until when it is to be heard even so, as a group is about to fall asleep.
    wanted_until: u64,
    /// Until when it wants to hear from here.
    asked_until: u64,
    /// Groups closed here, by the number of the first beacon that says so.
    closed: BTreeMap<GroupId, u64>,
}

/// What one process tells another.
#[derive(Debug, PartialEq, Eq)]
struct Beacon {
    nonce: u64,
    number: u64,
    /// Boot and number of the newest beacon from the other.
    seen: (u64, u64),
    /// Whether the sender depends on hearing from the other.
    asks: bool,
    closed: Vec<GroupId>,
}

/// Groups to wake.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    pub(crate) groups: Vec<GroupId>,
    /// The process because of which, if it is up and yet of no use to them.
    pub(crate) gone: Option<ProcessId>,
}

impl Processes {
    /// A group is about to depend on `process`.
    pub(crate) fn introduce(&mut self, process: ProcessId, tick: u64, config: &RaftConfig) {
        self.peers.entry(process).or_default().wanted_until = tick + 4 * config.election_ticks as u64;
    }

    /// Ticks since a process was last heard in this boot; as many as can be if it is not in that boot.
    pub(crate) fn silence(&self, boot: Boot, tick: u64) -> u64 {
        let peer = self.peers.get(&boot.process).filter(|peer| peer.is_in(boot.nonce));
        peer.map_or(u64::MAX, |peer| tick - peer.heard)
    }

    pub(crate) fn is_up(&self, boot: Boot, tick: u64, config: &RaftConfig) -> bool {
        self.silence(boot, tick) < config.election_ticks as u64
    }

    /// `group` sleeps as long as `on` are heard.
    pub(crate) fn put_to_sleep(&mut self, group: GroupId, on: &[Boot]) {
        for boot in on {
            self.peers.entry(boot.process).or_default().sleepers.insert(group);
        }
    }

    /// `group` is awake, or closed.
    pub(crate) fn forget_sleeper(&mut self, group: GroupId) {
        for peer in self.peers.values_mut() {
            peer.sleepers.remove(&group);
        }
    }

    /// `group` is not open here any more.
    pub(crate) fn note_closed(&mut self, group: GroupId) {
        self.forget_sleeper(group);
        let next = self.sent + 1;
        for peer in self.peers.values_mut() {
            peer.closed.insert(group, next);
        }
    }

    /// One tick passed: groups whose processes have fallen silent.
    pub(crate) fn tick(&mut self, tick: u64, config: &RaftConfig) -> Vec<GroupId> {
        let patience = config.election_ticks as u64;
        self.peers.retain(|_, peer| {
            let silent = tick >= peer.heard + patience;
            let needed = !peer.sleepers.is_empty() || tick <= peer.wanted_until.max(peer.asked_until);
            needed || (!silent && !peer.closed.is_empty())
        });
        let silent = self.peers.values().filter(|peer| tick >= peer.heard + patience);
        silent.flat_map(|peer| &peer.sleepers).copied().collect()
    }

    /// Beacons that are due.
    pub(crate) fn beacons(&mut self, tick: u64, config: &RaftConfig) -> Vec<Envelope> {
        let Some(me) = config.process else { return Vec::new() };
        if self.peers.is_empty() || !tick.is_multiple_of(config.heartbeat_ticks as u64) {
            return Vec::new();
        }
        self.sent += 1;
        let (nonce, number) = (config.boot_nonce, self.sent);
        let beacon = |(to, peer): (&ProcessId, &Peer)| {
            let asks = !peer.sleepers.is_empty() || tick <= peer.wanted_until;
            let seen = peer.boot.unwrap_or_default();
            let closed = peer.closed.keys().copied().collect();
            let data = Beacon { nonce, number, seen, asks, closed }.encode().into();
            Envelope { group: BEACON_GROUP, from: ReplicaId(me.0), to: ReplicaId(to.0), data }
        };
        self.peers.iter().map(beacon).collect()
    }

    /// Takes a beacon; returns the groups that cannot go on sleeping.
    ///
    /// Errors: `BadMessage`.
    pub(crate) fn receive(
        &mut self,
        envelope: &Envelope,
        tick: u64,
        config: &RaftConfig,
    ) -> Result<Alarm, ConsensusError> {
        let bad = |problem| ConsensusError::BadMessage { group: envelope.group, problem };
        if config.process.is_none_or(|me| me.0 != envelope.to.0 || me.0 == envelope.from.0) {
            return Err(bad("it is a beacon for another process"));
        }
        let beacon = Beacon::decode(&envelope.data).ok_or_else(|| bad("it does not parse"))?;
        let from = ProcessId(envelope.from.0);
        let peer = self.peers.entry(from).or_default();
        let mut alarm = Alarm::default();
        if !peer.is_news(beacon.nonce, beacon.number) {
            return Ok(alarm);
        }
        if !peer.is_in(beacon.nonce) {
            peer.retired = peer.boot;
            alarm.groups.extend(&peer.sleepers);
        }
        (peer.boot, peer.heard) = (Some((beacon.nonce, beacon.number)), tick);
        if beacon.asks {
            peer.asked_until = tick + 2 * config.election_ticks as u64;
        }
        if beacon.seen.0 == config.boot_nonce {
            peer.closed.retain(|_, since| *since > beacon.seen.1);
        }
        if alarm.groups.is_empty() {
            alarm.groups.extend(beacon.closed.iter().filter(|group| peer.sleepers.contains(group)));
            alarm.gone = Some(from);
        }
        Ok(alarm)
    }
}

impl Peer {
    fn is_in(&self, nonce: u64) -> bool {
        self.boot.is_some_and(|(at, _)| at == nonce)
    }

    /// Whether a beacon is not one that the network has held back. A last one of an ended boot may pass for the first
    /// of a new one, until the next that really is.
    fn is_news(&self, nonce: u64, number: u64) -> bool {
        let known = [self.boot, self.retired].into_iter().flatten().find(|(at, _)| *at == nonce);
        known.is_none_or(|(_, newest)| number > newest)
    }
}

impl Beacon {
    /// A format byte, whether it asks, then numbers of eight bytes, little-endian.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT, u8::from(self.asks)];
        let head = [self.nonce, self.number, self.seen.0, self.seen.1];
        let words = head.into_iter().chain(self.closed.iter().map(|group| group.0));
        bytes.extend(words.flat_map(u64::to_le_bytes));
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let ([FORMAT, asks @ (0 | 1)], rest) = bytes.split_first_chunk::<2>()? else { return None };
        let (words, []) = rest.as_chunks::<8>() else { return None };
        let mut words = words.iter().copied().map(u64::from_le_bytes);
        Some(Self {
            nonce: words.next()?,
            number: words.next()?,
            seen: (words.next()?, words.next()?),
            asks: *asks == 1,
            closed: words.map(GroupId).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(process: u64, nonce: u64) -> RaftConfig {
        RaftConfig { process: Some(ProcessId(process)), ..RaftConfig::new(nonce) }
    }

    /// The beacon of one process for another that knows it.
    fn beacon(from: &mut Processes, tick: u64, config: &RaftConfig) -> Envelope {
        from.beacons(tick, config).pop().expect("it has a peer")
    }

    #[test]
    fn sleepers_wake_when_their_process_is_silent_restarts_or_closes_them() {
        let (us, them, later) = (config(1, 10), config(2, 20), config(2, 21));
        let (mut here, mut there) = (Processes::default(), Processes::default());
        here.introduce(ProcessId(2), 0, &us);
        there.introduce(ProcessId(1), 0, &them);
        let boot = Boot { process: ProcessId(2), nonce: 20 };
        assert!(!here.is_up(boot, 0, &us), "it was not heard yet");
        let old = beacon(&mut there, 2, &them);
        assert!(here.receive(&old, 2, &us).expect("it parses").groups.is_empty());
        assert!(here.is_up(boot, 9, &us) && !here.is_up(boot, 10, &us), "eight ticks are silence");

        here.put_to_sleep(GroupId(7), &[boot]);
        here.put_to_sleep(GroupId(8), &[boot]);
        assert_eq!(here.tick(9, &us), []);
        assert_eq!(here.tick(10, &us), [GroupId(7), GroupId(8)], "it fell silent");

        there.note_closed(GroupId(8));
        let first = beacon(&mut there, 12, &them);
        let alarm = here.receive(&beacon(&mut there, 14, &them), 14, &us).expect("it parses");
        assert_eq!((alarm.groups, alarm.gone), (vec![GroupId(8)], Some(ProcessId(2))), "the first one was lost");
        assert!(here.receive(&first, 15, &us).expect("it parses").groups.is_empty(), "a late one says nothing");
        assert!(there.receive(&beacon(&mut here, 16, &us), 16, &them).expect("it parses").groups.is_empty());
        assert!(there.peers[&ProcessId(1)].closed.is_empty(), "that it is closed is acknowledged");

        let mut restarted = Processes::default();
        restarted.introduce(ProcessId(1), 0, &later);
        let alarm = here.receive(&beacon(&mut restarted, 2, &later), 18, &us).expect("it parses");
        assert_eq!((alarm.groups, alarm.gone), (vec![GroupId(7), GroupId(8)], None), "it restarted");
        assert_eq!(here.silence(boot, 18), u64::MAX, "the boot they depended on is over");
        assert!(here.receive(&old, 19, &us).expect("it parses").groups.is_empty(), "from before the restart");
        here.receive(&beacon(&mut there, 18, &them), 19, &us).expect("it parses");
        here.receive(&beacon(&mut restarted, 4, &later), 20, &us).expect("it parses");
        assert!(here.is_up(Boot { nonce: 21, ..boot }, 20, &us), "one that was held back is forgotten");
    }

    #[test]
    fn peers_with_nothing_in_common_are_forgotten_and_noise_is_refused() {
        let (us, them) = (config(1, 10), config(2, 20));
        let (mut here, mut there) = (Processes::default(), Processes::default());
        there.introduce(ProcessId(1), 0, &them);
        here.receive(&beacon(&mut there, 2, &them), 2, &us).expect("it parses");
        here.tick(18, &us);
        assert_eq!(here.peers.len(), 1, "it asked to hear");
        here.tick(19, &us);
        assert_eq!(here.peers.len(), 0, "it asks no more");
        let good = beacon(&mut there, 4, &them);
        for data in [&b""[..], b"\x02\x00", &good.data[..good.data.len() - 1]] {
            let noise = Envelope { data: data.to_vec().into(), ..good.clone() };
            assert!(here.receive(&noise, 20, &us).is_err(), "{data:?} is no beacon");
        }
        assert!(here.receive(&Envelope { to: ReplicaId(3), ..good }, 20, &us).is_err(), "it is for another process");
    }
}
