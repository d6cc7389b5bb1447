//! Membership of a group as of each index that can still matter.
//!
//! Raft takes the membership as of the index that the state machine has applied, and a snapshot carries the one as
//! of its own index. Both may lie behind the newest change, so the changes since the start of the log are kept.

use protobuf::Message;
use raft::eraftpb::ConfState;

use super::records::encode;

/// Memberships, each with the index of the entry that brought it; ascending, never empty once a group has begun.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ConfHistory {
    changes: Vec<(u64, ConfState)>,
}

impl ConfHistory {
    pub(crate) fn new(index: u64, conf: ConfState) -> Self {
        Self { changes: vec![(index, conf)] }
    }

    /// The membership once `index` is applied; `None` if `index` lies before all that is known.
    pub(crate) fn at(&self, index: u64) -> Option<&ConfState> {
        self.changes.iter().rev().find(|(since, _)| *since <= index).map(|(_, conf)| conf)
    }

    /// The index since which `member` has been one without a break; `None` if it is none.
    pub(crate) fn member_since(&self, member: u64) -> Option<u64> {
        let with_it = self.changes.iter().rev().take_while(|(_, conf)| has_member(conf, member));
        with_it.last().map(|(since, _)| *since)
    }

    /// A change at `index`. One that was known already is replaced, with all after it: after a restart the same
    /// entries come again.
    pub(crate) fn push(&mut self, index: u64, conf: ConfState) {
        self.changes.retain(|(since, _)| *since < index);
        self.changes.push((index, conf));
    }

    /// Forgets what only matters before `index`; says whether there was any.
    pub(crate) fn forget_before(&mut self, index: u64) -> bool {
        let keep_from = self.changes.iter().rposition(|(since, _)| *since <= index).unwrap_or(0);
        self.changes.drain(..keep_from);
        keep_from > 0
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, conf) in &self.changes {
            let conf = encode(conf);
            bytes.extend_from_slice(&index.to_be_bytes());
            bytes.extend_from_slice(&(conf.len() as u64).to_be_bytes());
            bytes.extend_from_slice(&conf);
        }
        bytes
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut changes = Vec::new();
        while !bytes.is_empty() {
            let (index, rest) = bytes.split_first_chunk::<8>()?;
            let (len, rest) = rest.split_first_chunk::<8>()?;
            let (conf, rest) = rest.split_at_checked(usize::try_from(u64::from_be_bytes(*len)).ok()?)?;
            changes.push((u64::from_be_bytes(*index), ConfState::parse_from_bytes(conf).ok()?));
            bytes = rest;
        }
        let ascending = changes.is_sorted_by(|(a, _), (b, _)| a < b);
        (ascending && !changes.is_empty()).then_some(Self { changes })
    }
}

/// Whether a replica of this membership could restore a snapshot with it.
pub(crate) fn has_member(conf: &ConfState, member: u64) -> bool {
    [conf.get_voters(), conf.get_learners(), conf.get_voters_outgoing()].iter().any(|ids| ids.contains(&member))
}

#[cfg(test)]
mod tests {
    use shoal_model::ReplicaId;

    use super::*;
    use crate::core::records::voters;

    fn conf(id: u64) -> ConfState {
        voters(&[ReplicaId(id)])
    }

    #[test]
    fn the_membership_of_each_index_is_known() {
        let mut confs = ConfHistory::new(5, conf(1));
        confs.push(8, conf(2));
        confs.push(12, conf(3));
        for (index, want) in
            [(4, None), (5, Some(conf(1))), (7, Some(conf(1))), (8, Some(conf(2))), (99, Some(conf(3)))]
        {
            assert_eq!(confs.at(index), want.as_ref(), "at {index}");
        }
        assert_eq!(ConfHistory::decode(&confs.encode()), Some(confs.clone()), "what is written is read back");
        assert!(!confs.forget_before(7), "the membership at 7 came at 5");
        assert!(confs.forget_before(11));
        assert_eq!((confs.at(7), confs.at(11)), (None, Some(&conf(2))));
        confs.push(8, conf(4));
        assert_eq!(confs.at(99), Some(&conf(4)), "a replayed change drops what came after it");
    }

    #[test]
    fn broken_bytes_do_not_parse() {
        let mut confs = ConfHistory::new(5, conf(1));
        confs.push(8, conf(2));
        let bytes = confs.encode();
        for cut in [0, 1, 9, bytes.len() - 1] {
            assert_eq!(ConfHistory::decode(&bytes[..cut]), None, "cut at {cut}");
        }
    }
}
