//! Proposals of one leader that are not committed yet.
//!
//! A proposal is known by the index and term of its entry: no two entries of a group ever share both. So nothing has
//! to be stored in the entry, and an entry that takes a proposal's place is told from it.

use std::collections::VecDeque;

use crate::{Answer, RequestId};

#[derive(Debug)]
struct Proposal {
    index: u64,
    term: u64,
    request: RequestId,
}

/// Proposals in the order of their indexes.
#[derive(Debug, Default)]
pub(crate) struct Proposals {
    open: VecDeque<Proposal>,
}

impl Proposals {
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn push(&mut self, index: u64, term: u64, request: RequestId) {
        self.open.push_back(Proposal { index, term, request });
    }

    /// The entry at `index` is committed: who waits for it, if anybody. Those whose place it took are told.
    pub(crate) fn settle(
        &mut self,
        index: u64,
        term: u64,
        answers: &mut Vec<(RequestId, Answer)>,
    ) -> Option<RequestId> {
        while let Some(proposal) = self.open.pop_front_if(|proposal| proposal.index <= index) {
            if proposal.index == index && proposal.term == term {
                return Some(proposal.request);
            }
            answers.push((proposal.request, Answer::Superseded));
        }
        None
    }

    /// A lead is over, unless it is that of `term`: what becomes of its proposals will not be known here.
    pub(crate) fn lose(&mut self, term: Option<u64>, answers: &mut Vec<(RequestId, Answer)>) {
        self.open.retain(|proposal| {
            let keep = Some(proposal.term) == term;
            if !keep {
                answers.push((proposal.request, Answer::Unknown));
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proposals_are_told_apart_by_index_and_term() {
        let mut proposals = Proposals::default();
        let mut answers = Vec::new();
        for index in 3..7 {
            proposals.push(index, 2, RequestId(index));
        }
        assert_eq!(proposals.settle(2, 2, &mut answers), None, "an entry of before");
        assert_eq!(proposals.settle(3, 2, &mut answers), Some(RequestId(3)));
        assert_eq!(proposals.settle(4, 3, &mut answers), None, "another leader's entry");
        assert_eq!(answers, [(RequestId(4), Answer::Superseded)]);
        answers.clear();
        proposals.lose(None, &mut answers);
        assert_eq!(answers, [5, 6].map(|i| (RequestId(i), Answer::Unknown)));
    }
}
