//! How a group nobody uses falls asleep, and what it does when it wakes.
//!
//! A leader that has had nothing to do for some ticks, and whose members have all it has, invites them to sleep: with
//! its heartbeats, in the field that also carries the contexts of reads. A member that has nothing to do either falls
//! asleep and says so; when all have, the leader does. A group that sleeps is not ticked, so it sends nothing and
//! stands for no election. Any message, request or alarm from [`Processes`] wakes a replica. Then a follower counts as
//! having heard from its leader when the leader's process was last heard, so that an election comes as soon as it
//! would have come without sleep; and a leader that cannot hear a process counts its member as silent.
//!
//! A follower that woke alone, by a late message perhaps, hears nothing from a leader that sleeps; it says a word
//! before it would stand for election. Invitations and their answers carry the boots of both processes and a number,
//! so that late ones fool nobody.

use std::collections::BTreeMap;

use raft::StateRole;
use raft::eraftpb::{Message, MessageType};
use shoal_model::ReplicaId;

use super::Group;
use crate::core::processes::{Boot, Processes};
use crate::{ProcessId, RaftConfig};

const INVITATION: &[u8; 8] = b"sleep   ";
const ANSWER: &[u8; 8] = b"sleeps  ";

/// Whether a replica sleeps, and how far its group is from it.
#[derive(Debug, Default)]
pub(super) struct Sleep {
    /// Boots it depends on while it sleeps; `None` while it is awake.
    on: Option<Vec<Boot>>,
    /// Ticks for which the leader had nothing to do.
    idle: u64,
    /// Number of the leader's present invitation: the tick at which it began.
    round: u64,
    /// Members that sleep since, and where.
    sleepers: BTreeMap<u64, Boot>,
}

/// An invitation, or the answer to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    boot: Boot,
    round: u64,
    /// Whether an answer says yes.
    agrees: bool,
}

/// What a message says about sleep.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word {
    Nothing,
    Invitation {
        boot: Boot,
        agrees: bool,
    },
    Answer,
    /// Not worth waking up for: an answer that comes after the leader has fallen asleep, or what a replica wants that
    /// was removed and does not know. Raft would ignore it as well, as the leader is not silent.
    Murmur,
}

impl Group {
    pub(crate) fn sleeps_on(&self) -> Option<&[Boot]> {
        self.sleep.on.as_deref()
    }

    /// Ends the sleep, or what leads to it. `gone` is a process that is heard and yet of no use.
    pub(crate) fn wake(&mut self, gone: Option<ProcessId>, processes: &Processes, tick: u64, config: &RaftConfig) {
        let sleep = std::mem::take(&mut self.sleep);
        let Some(on) = sleep.on else { return };
        let silence = |boot: &Boot| {
            if gone == Some(boot.process) { u64::MAX } else { processes.silence(*boot, tick) }
        };
        let patience = config.election_ticks as u64;
        let raft = &mut self.raft.raft;
        if raft.state != StateRole::Leader {
            let silent = on.first().map_or(0, silence).min(patience);
            raft.election_elapsed = usize::try_from(silent).unwrap_or(config.election_ticks);
            self.heard.insert(raft.leader_id, tick.saturating_sub(silent));
            return;
        }
        raft.election_elapsed = 0;
        for (peer, boot) in &sleep.sleepers {
            let silent = silence(boot);
            self.heard.insert(*peer, tick.saturating_sub(silent));
            if let Some(progress) = raft.mut_prs().get_mut(*peer) {
                progress.recent_active = silent < patience;
            }
        }
    }

    /// A leader's part of one tick, before raft's.
    pub(super) fn tick_sleep(&mut self, tick: u64, config: &RaftConfig, processes: &Processes) {
        if !self.leads() {
            self.say_a_word(config);
            return;
        }
        if !self.has_nothing_to_do(tick, config) {
            self.sleep = Sleep::default();
            return;
        }
        self.sleep.idle += 1;
        if self.sleep.idle == config.idle_ticks {
            self.sleep.round = tick;
        }
        self.sleep_if_all_do(tick, config, processes);
    }

    /// Wakes a leader that sleeps. A voter that is not heard stands for election in the end, but a learner never does.
    fn say_a_word(&mut self, config: &RaftConfig) {
        let raft = &mut self.raft.raft;
        let after = (config.heartbeat_ticks + 1).max(config.election_ticks / 2);
        let silent = raft.election_elapsed;
        let is_due = silent > 0 && silent.is_multiple_of(after) && raft.leader_id != raft::INVALID_ID;
        if config.process.is_none() || !is_due {
            return;
        }
        let (to, term, commit) = (raft.leader_id, raft.term, raft.raft_log.committed);
        let mut message = Message { to, from: self.me.0, term, commit, ..Message::default() };
        message.set_msg_type(MessageType::MsgHeartbeatResponse);
        raft.msgs.push(message);
    }

    /// Whether a leader could stop sending heartbeats: all members have all it has, and know it.
    fn has_nothing_to_do(&self, tick: u64, config: &RaftConfig) -> bool {
        let raft = &self.raft.raft;
        let last = raft.raft_log.last_index();
        let is_up_to_date = |(id, progress): (&u64, &raft::Progress)| {
            *id == self.me.0
                || (progress.matched == last
                    && progress.committed_index == last
                    && progress.pending_snapshot == 0
                    && self.was_heard(*id, tick, config))
        };
        self.is_at_rest()
            && self.is_fed()
            && raft.commit_to_current_term()
            && raft.lead_transferee.is_none()
            && raft.pending_read_count() == 0
            && !raft.has_pending_conf()
            && self.members.leaving.is_empty()
            && self.change.is_none()
            && self.proposals.len() == 0
            && self.asked.is_empty()
            && raft.prs().iter().all(is_up_to_date)
    }

    /// Whether nothing is under way on this replica.
    fn is_at_rest(&self) -> bool {
        let log = &self.raft.raft.raft_log;
        let last = log.last_index();
        log.committed == last
            && self.handed_out == last
            && self.applied == last
            && self.unpersisted.is_empty()
            && self.restoring.is_none()
            && self.work.is_empty()
            && self.reads.len() == 0
            && self.snapshot_asked.is_none()
            && (self.is_fed() || self.is_witness())
    }

    /// Turns a heartbeat into an invitation, if the leader has been idle for long enough.
    pub(super) fn invite(&self, message: &mut Message, tick: u64, config: &RaftConfig) {
        let Some(boot) = boot(config) else { return };
        let is_plain = message.get_msg_type() == MessageType::MsgHeartbeat && message.context.is_empty();
        if is_plain && self.sleep.idle >= config.idle_ticks && self.has_nothing_to_do(tick, config) {
            message.context = Note { boot, round: self.sleep.round, agrees: false }.encode(INVITATION).into();
        }
    }

    /// Takes what a message says about sleep before raft takes the rest.
    pub(super) fn read_word(
        &mut self,
        message: &mut Message,
        tick: u64,
        config: &RaftConfig,
        processes: &mut Processes,
    ) -> Word {
        if self.sleep.on.is_some() && !is_of_leader(message) && self.raft.raft.prs().get(message.from).is_none() {
            return Word::Murmur;
        }
        match message.get_msg_type() {
            MessageType::MsgHeartbeat => {
                let Some(invitation) = Note::decode(INVITATION, &message.context) else { return Word::Nothing };
                processes.introduce(invitation.boot.process, tick, config);
                let agrees = self.accepts(message, invitation.boot, tick, config, processes);
                let answer = boot(config).map(|boot| Note { boot, agrees, ..invitation }.encode(ANSWER));
                message.context = answer.unwrap_or_default().into();
                Word::Invitation { boot: invitation.boot, agrees }
            }
            MessageType::MsgHeartbeatResponse => {
                let Some(answer) = Note::decode(ANSWER, &message.context) else { return Word::Nothing };
                message.context.clear();
                if message.term != self.raft.raft.term || !self.leads() {
                    return Word::Nothing;
                }
                if self.sleep.on.is_some() {
                    return Word::Murmur;
                }
                processes.introduce(answer.boot.process, tick, config);
                if answer.agrees && self.sleep.idle >= config.idle_ticks && answer.round == self.sleep.round {
                    self.sleep.sleepers.insert(message.from, answer.boot);
                }
                Word::Answer
            }
            _ => Word::Nothing,
        }
    }

    /// Whether a follower can sleep as long as the boot of its leader's process lasts.
    fn accepts(&self, message: &Message, leader: Boot, tick: u64, config: &RaftConfig, processes: &Processes) -> bool {
        let raft = &self.raft.raft;
        config.process.is_some()
            && raft.state == StateRole::Follower
            && (raft.term, raft.leader_id) == (message.term, message.from)
            && raft.raft_log.committed == message.commit
            && self.is_at_rest()
            && processes.is_up(leader, tick, config)
    }

    /// Falls asleep or wakes by what a message said; raft has it by now.
    pub(super) fn heed(&mut self, word: Word, tick: u64, config: &RaftConfig, processes: &Processes) {
        match word {
            Word::Invitation { boot, agrees: true } => self.sleep.on = Some(vec![boot]),
            Word::Answer => self.sleep_if_all_do(tick, config, processes),
            Word::Nothing | Word::Invitation { .. } | Word::Murmur => {}
        }
    }

    /// A leader falls asleep once all members have, in processes that are heard.
    fn sleep_if_all_do(&mut self, tick: u64, config: &RaftConfig, processes: &Processes) {
        if self.sleep.idle < config.idle_ticks || !self.has_nothing_to_do(tick, config) {
            return;
        }
        let others = self.raft.raft.prs().iter().map(|(id, _)| *id).filter(|id| *id != self.me.0);
        let on: Option<Vec<Boot>> = others
            .map(|id| self.sleep.sleepers.get(&id).copied().filter(|boot| processes.is_up(*boot, tick, config)))
            .collect();
        self.sleep.on = on;
    }

    /// Whether the process of `peer` is known to be up because the group sleeps.
    pub(super) fn is_vouched_for(&self, peer: ReplicaId) -> bool {
        self.sleep.on.is_some() && self.sleep.sleepers.contains_key(&peer.0)
    }
}

fn is_of_leader(message: &Message) -> bool {
    matches!(
        message.get_msg_type(),
        MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot | MessageType::MsgTimeoutNow
    )
}

/// This process, if it takes part.
fn boot(config: &RaftConfig) -> Option<Boot> {
    config.process.map(|process| Boot { process, nonce: config.boot_nonce })
}

impl Note {
    /// Another length than the context of a read has.
    fn encode(self, kind: &[u8; 8]) -> Vec<u8> {
        let words = [self.boot.process.0, self.boot.nonce, self.round, u64::from(self.agrees)];
        kind.iter().copied().chain(words.into_iter().flat_map(u64::to_le_bytes)).collect()
    }

    fn decode(kind: &[u8; 8], bytes: &[u8]) -> Option<Self> {
        let words: &[u8; 32] = bytes.strip_prefix(kind)?.try_into().ok()?;
        let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|byte| words[8 * i + byte]));
        let boot = Boot { process: ProcessId(word(0)), nonce: word(1) };
        Some(Self { boot, round: word(2), agrees: word(3) == 1 })
    }
}
