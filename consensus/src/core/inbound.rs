//! Messages from the network: what raft would panic on is refused here.

use protobuf::Message as _;
use raft::eraftpb::{EntryType, Message, MessageType};
use shoal_model::{GroupId, ReplicaId};
use shoal_runtime::Envelope;

use crate::ConsensusError;

/// Far beyond any index that a log reaches, and far enough from the end that sums do not wrap.
const INDEX_MAX: u64 = u64::MAX / 4;

/// Parses a message and checks all that can be checked without the group's state.
pub(crate) fn parse(envelope: &Envelope, me: ReplicaId) -> Result<Message, ConsensusError> {
    let bad = |problem| ConsensusError::BadMessage { group: envelope.group, problem };
    let message = Message::parse_from_bytes(&envelope.data).map_err(|_| bad("it does not parse"))?;
    if envelope.to != me || message.to != me.0 {
        return Err(bad("it is for another replica"));
    }
    if envelope.from.0 != message.from || message.from == 0 || message.from == me.0 {
        return Err(bad("it does not say who sent it"));
    }
    let numbers = [message.term, message.log_term, message.index, message.commit, message.reject_hint];
    if numbers.into_iter().any(|number| number > INDEX_MAX) {
        return Err(bad("it carries an impossible index or term"));
    }
    match problem_of(&message) {
        Some(problem) => Err(bad(problem)),
        None => Ok(message),
    }
}

fn problem_of(message: &Message) -> Option<&'static str> {
    match message.get_msg_type() {
        // Forwarded to the leader, and the one type that carries no term.
        MessageType::MsgReadIndex => (message.entries.len() != 1 || message.term != 0).then_some("it is not one read"),
        _ if message.term == 0 => Some("it carries no term"),
        MessageType::MsgReadIndexResp => (message.entries.len() != 1).then_some("it does not answer one read"),
        MessageType::MsgAppend => append_problem(message),
        MessageType::MsgSnapshot => snapshot_problem(message),
        MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTimeoutNow => (!message.entries.is_empty()).then_some("it carries entries it should not"),
        // Raft would forward these to its leader; here only leaders are asked.
        MessageType::MsgPropose | MessageType::MsgTransferLeader => Some("it is a request, not a message"),
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum => Some("it is a signal that does not travel"),
    }
}

fn append_problem(message: &Message) -> Option<&'static str> {
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in &message.entries {
        if entry.index != index + 1 {
            return Some("its entries have gaps");
        }
        if entry.term < term || entry.term > message.term {
            return Some("its entries have terms that cannot be");
        }
        (index, term) = (entry.index, entry.term);
    }
    // A log always starts behind an index above zero, so no leader sends these; a replica fed with them would never
    // learn the first membership.
    (message.index == 0 && !message.entries.is_empty()).then_some("it appends to an empty log")
}

fn snapshot_problem(message: &Message) -> Option<&'static str> {
    let metadata = message.get_snapshot().get_metadata();
    if metadata.index == 0 || metadata.index > INDEX_MAX || metadata.term == 0 || metadata.term > message.term {
        return Some("its snapshot is of an impossible place");
    }
    metadata.get_conf_state().voters.is_empty().then_some("its snapshot has no members")
}

/// Whether a replica without room on its disk drops the message: it brings data, in entries or a snapshot. Raft's own
/// entries pass, as no group could elect a leader without them.
pub(crate) fn brings_data(message: &Message) -> bool {
    match message.get_msg_type() {
        MessageType::MsgAppend => message
            .entries
            .iter()
            .any(|entry| entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty()),
        MessageType::MsgSnapshot => true,
        _ => false,
    }
}

/// Packs a message of raft for the network.
pub(crate) fn pack(group: GroupId, message: &Message) -> Envelope {
    Envelope {
        group,
        from: ReplicaId(message.from),
        to: ReplicaId(message.to),
        data: super::records::encode(message).into(),
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::{Entry, Snapshot};

    use super::*;

    fn message(kind: MessageType, change: impl FnOnce(&mut Message)) -> Envelope {
        let mut message = Message { from: 1, to: 2, term: 3, ..Message::default() };
        message.set_msg_type(kind);
        change(&mut message);
        pack(GroupId(9), &message)
    }

    fn entries(places: &[(u64, u64)]) -> Vec<Entry> {
        places.iter().map(|&(index, term)| Entry { index, term, ..Entry::default() }).collect()
    }

    #[test]
    fn what_raft_would_panic_on_is_refused() {
        use MessageType::*;
        let good = message(MsgHeartbeat, |_| ());
        let cases = [
            ("cut", Envelope { data: good.data.slice(..good.data.len() - 1), ..good.clone() }),
            ("noise", Envelope { data: vec![0xff; 40].into(), ..good.clone() }),
            ("to another", Envelope { to: ReplicaId(3), ..good.clone() }),
            ("inner receiver differs", message(MsgHeartbeat, |m| m.to = 3)),
            ("outer sender differs", Envelope { from: ReplicaId(3), ..good.clone() }),
            ("from nobody", message(MsgHeartbeat, |m| m.from = 0)),
            ("without a term", message(MsgAppend, |m| m.term = 0)),
            ("huge index", message(MsgAppend, |m| m.index = u64::MAX)),
            ("election signal", message(MsgHup, |_| ())),
            ("quorum signal", message(MsgCheckQuorum, |_| ())),
            ("proposal", message(MsgPropose, |m| m.set_entries(entries(&[(0, 0)]).into()))),
            ("read without context", message(MsgReadIndex, |m| m.term = 0)),
            ("read answer without context", message(MsgReadIndexResp, |_| ())),
            (
                "gap",
                message(MsgAppend, |m| {
                    m.index = 4;
                    m.set_entries(entries(&[(6, 3)]).into());
                }),
            ),
            (
                "falling terms",
                message(MsgAppend, |m| {
                    m.index = 4;
                    m.log_term = 2;
                    m.set_entries(entries(&[(5, 1)]).into());
                }),
            ),
            (
                "term of tomorrow",
                message(MsgAppend, |m| {
                    m.index = 4;
                    m.set_entries(entries(&[(5, 4)]).into());
                }),
            ),
            ("append to nothing", message(MsgAppend, |m| m.set_entries(entries(&[(1, 1)]).into()))),
            ("empty snapshot", message(MsgSnapshot, |_| ())),
            (
                "snapshot without members",
                message(MsgSnapshot, |m| {
                    let mut snapshot = Snapshot::default();
                    snapshot.mut_metadata().index = 5;
                    snapshot.mut_metadata().term = 1;
                    m.set_snapshot(snapshot);
                }),
            ),
        ];
        parse(&good, ReplicaId(2)).expect("a good one passes");
        for (name, envelope) in cases {
            assert!(parse(&envelope, ReplicaId(2)).is_err(), "{name} must be refused");
        }
    }
}
