//! Bugs that a simulation plants to see whether its checkers catch them.
//!
//! Without the feature `planted-bugs`, which nothing that ships turns on, no bug can be planted and every question here is a
//! constant `false`, so that the compiler drops what hangs on it. With it, a thread chooses one bug for itself; other threads
//! have none.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// Raft's writes count as durable before a sync.
    AcknowledgeBeforeSync,
    /// Term and vote are not written.
    VoteWithoutPersisting,
    /// A leader commits what one follower has acknowledged.
    CommitWithoutQuorum,
    /// The log is cut behind what is committed, applied or not.
    CutLogBeyondApplied,
    /// A leader answers linearizable reads without asking anybody.
    StaleLease,
    /// All reads of a process are asked for under one context.
    ReuseReadContext,
    /// After a restart all of the log is applied again.
    ApplyTwiceAfterRestart,
    /// Which writes were applied is forgotten at a restart.
    ForgetOperationsAtRestart,
    /// A snapshot does not carry which writes were applied.
    SnapshotWithoutOperations,
    /// A segment that was fetched lives with all of its points.
    AdoptTheDead,
    /// What died during a job lives in what it made.
    ForgetDiedDuringJob,
    /// A segment is installed only where its files are.
    InstallWhereReady,
    /// A snapshot is restored without its last point, and nobody counts.
    RestoreWithoutLast,
    /// In the simulated node: the epoch of a call is not looked at.
    SkipEpochCheck,
    /// In the simulated node: the token of a session is ignored.
    IgnoreSessionToken,
    /// In the simulated node: a write is answered when it is proposed.
    AnswerWhenProposed,
    /// In the simulated node: an emptied disk comes back under its old identity.
    EmptiedDiskKeepsIdentity,
    /// A coordinator whose disk was emptied comes back as the member that it was.
    EmptiedCoordinatorKeepsIdentity,
    /// In the simulated router: what is sent again has a new identity.
    NewIdentityForRetry,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::AcknowledgeBeforeSync,
        Self::VoteWithoutPersisting,
        Self::CommitWithoutQuorum,
        Self::CutLogBeyondApplied,
        Self::StaleLease,
        Self::ReuseReadContext,
        Self::ApplyTwiceAfterRestart,
        Self::ForgetOperationsAtRestart,
        Self::SnapshotWithoutOperations,
        Self::AdoptTheDead,
        Self::ForgetDiedDuringJob,
        Self::InstallWhereReady,
        Self::RestoreWithoutLast,
        Self::SkipEpochCheck,
        Self::IgnoreSessionToken,
        Self::AnswerWhenProposed,
        Self::EmptiedDiskKeepsIdentity,
        Self::EmptiedCoordinatorKeepsIdentity,
        Self::NewIdentityForRetry,
    ];
}

/// Whether bugs can be planted in this build.
pub const CAN_PLANT: bool = cfg!(feature = "planted-bugs");

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug on this thread, or none.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether a bug is planted on this thread.
#[cfg(feature = "planted-bugs")]
#[inline]
#[must_use]
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether a bug is planted: never.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
#[must_use]
pub const fn is_planted(_: Bug) -> bool {
    false
}
