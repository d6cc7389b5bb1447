//! Linearizable reads of one group: which wait, and under which context raft was asked.
//!
//! raft 0.7.0 answers an unrelated read with an old index when a context is used twice, so each attempt gets one of
//! its own and is never sent again; a repeat is a new attempt. One attempt serves all reads that wait when it starts.

use std::collections::VecDeque;

use shoal_model::LogIndex;

use crate::{Answer, RequestId};

/// Attempts that may be under way; further reads wait and share the next one.
const ATTEMPTS_MAX: usize = 16;

#[derive(Debug)]
struct Read {
    request: RequestId,
    since_tick: u64,
}

#[derive(Debug)]
struct Attempt {
    context: [u8; 24],
    since_tick: u64,
    reads: Vec<Read>,
}

/// Reads of one group.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Vec<Read>,
    attempts: VecDeque<Attempt>,
}

impl Reads {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.attempts.iter().map(|attempt| attempt.reads.len()).sum::<usize>()
    }

    pub(crate) fn push(&mut self, request: RequestId, now_tick: u64) {
        self.waiting.push(Read { request, since_tick: now_tick });
    }

    /// Whether a new attempt is due.
    pub(crate) fn want_attempt(&self) -> bool {
        !self.waiting.is_empty() && self.attempts.len() < ATTEMPTS_MAX
    }

    /// All that wait are asked for under `context`.
    pub(crate) fn begin(&mut self, context: [u8; 24], now_tick: u64) {
        let reads = std::mem::take(&mut self.waiting);
        self.attempts.push_back(Attempt { context, since_tick: now_tick, reads });
    }

    /// raft answered `context`. An attempt that was given up is no longer known, and its answer is dropped.
    pub(crate) fn answer(&mut self, context: &[u8], index: u64, answers: &mut Vec<(RequestId, Answer)>) {
        let Some(at) = self.attempts.iter().position(|attempt| attempt.context == context) else { return };
        let attempt = self.attempts.remove(at);
        let reads = attempt.into_iter().flat_map(|attempt| attempt.reads);
        answers.extend(reads.map(|read| (read.request, Answer::ReadAt(LogIndex(index)))));
    }

    /// Gives up all attempts: the leader they were asked of is gone.
    pub(crate) fn restart(&mut self) {
        for attempt in std::mem::take(&mut self.attempts) {
            self.waiting.extend(attempt.reads);
        }
    }

    /// Gives up attempts older than `retry_ticks`, and reads older than `ticks_max`.
    pub(crate) fn tick(
        &mut self,
        now_tick: u64,
        retry_ticks: u64,
        ticks_max: u64,
        answers: &mut Vec<(RequestId, Answer)>,
    ) {
        while let Some(attempt) = self.attempts.pop_front_if(|attempt| now_tick >= attempt.since_tick + retry_ticks) {
            self.waiting.extend(attempt.reads);
        }
        self.waiting.retain(|read| {
            let keep = now_tick < read.since_tick + ticks_max;
            if !keep {
                answers.push((read.request, Answer::ReadExpired));
            }
            keep
        });
    }

    /// Requests that have no answer.
    pub(crate) fn requests(&self) -> impl Iterator<Item = RequestId> {
        let asked = self.attempts.iter().flat_map(|attempt| &attempt.reads);
        self.waiting.iter().chain(asked).map(|read| read.request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_was_given_up_answers_nobody() {
        let mut reads = Reads::default();
        let mut answers = Vec::new();
        reads.push(RequestId(1), 0);
        reads.push(RequestId(2), 0);
        reads.begin([1; 24], 0);
        reads.tick(5, 5, 20, &mut answers);
        assert!(reads.want_attempt(), "the reads wait again");
        reads.answer(&[1; 24], 7, &mut answers);
        assert_eq!(answers, [], "the old context is not known any more");
        reads.begin([2; 24], 5);
        reads.push(RequestId(3), 6);
        reads.answer(&[2; 24], 9, &mut answers);
        assert_eq!(answers, [1, 2].map(|i| (RequestId(i), Answer::ReadAt(LogIndex(9)))), "3 came after the attempt");
        answers.clear();
        reads.tick(26, 5, 20, &mut answers);
        assert_eq!(answers, [(RequestId(3), Answer::ReadExpired)]);
        assert_eq!(reads.len(), 0);
    }
}
