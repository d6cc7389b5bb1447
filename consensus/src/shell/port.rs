//! The way from the thread to one group's state machine.

use std::collections::VecDeque;

use bytes::Bytes;
use shoal_model::LogIndex;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};

use super::Apply;
use crate::GroupStatus;

/// Mailbox, what does not fit it, and what is told about the group.
pub(super) struct Port<R> {
    mailbox: mpsc::Sender<Apply<R>>,
    /// Bounded by the backlog that the core allows.
    held_back: VecDeque<Apply<R>>,
    snapshot: Option<oneshot::Receiver<(LogIndex, Bytes)>>,
    status: watch::Sender<GroupStatus>,
}

impl<R> Port<R> {
    pub(super) fn new(mailbox: mpsc::Sender<Apply<R>>, status: watch::Sender<GroupStatus>) -> Self {
        Self { mailbox, held_back: VecDeque::new(), snapshot: None, status }
    }

    pub(super) fn hand(&mut self, work: Apply<R>) {
        self.held_back.push_back(work);
    }

    pub(super) fn ask_for_snapshot(&mut self) {
        let (reply, replied) = oneshot::channel();
        self.snapshot = Some(replied);
        self.hand(Apply::Snapshot { reply });
    }

    /// Moves what fits into the mailbox; false if nobody empties it any more.
    pub(super) fn flush(&mut self) -> bool {
        while let Some(work) = self.held_back.pop_front() {
            match self.mailbox.try_send(work) {
                Ok(()) => {}
                Err(TrySendError::Full(work)) => {
                    self.held_back.push_front(work);
                    return true;
                }
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        !self.mailbox.is_closed()
    }

    /// The snapshot that was asked for, once it is there.
    pub(super) fn take_snapshot(&mut self) -> Option<(LogIndex, Bytes)> {
        let received = self.snapshot.as_mut()?.try_recv();
        if !matches!(received, Err(TryRecvError::Empty)) {
            self.snapshot = None;
        }
        received.ok()
    }

    pub(super) fn waits(&self) -> bool {
        !self.held_back.is_empty() || self.snapshot.is_some()
    }

    /// Publishes the status; wakes those who watch only for what they wait for.
    pub(super) fn publish(&self, status: GroupStatus) {
        self.status.send_if_modified(|shown| {
            let key = |status: &GroupStatus| (status.role, status.leader, status.term);
            let wake = key(shown) != key(&status) || shown.members != status.members;
            *shown = status;
            wake
        });
    }
}
