//! What clients did and what they were told: the words of a history.
//!
//! Times are nanoseconds of one monotonic clock, simulated or real. The recorder owes the checkers this:
//!
//! - `invoke_ns` is read before the call leaves and `return_ns` after its answer has come.
//! - A write number is used once for each id; what is sent again by the client itself is one operation, from the
//!   first sending to the last answer.
//! - `Failed` means certainly without effect. Whatever is in doubt (deadlines, broken connections) is `Unknown`.
//! - A batch that failed on some shards and not on others is split into operations by id, or is `Unknown`.
//! - Answers of reads that lack a shard are `Failed`: they say nothing about what they lack.

use std::fmt;

use shoal_model::PointId;

/// Number of an operation, unique in its history; grows in the order in which a client invokes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpNumber(pub u64);

/// A client: whoever invokes operations one after the other and keeps a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// Names the vector and payload that a write gave a point. No two writes of one id share a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Write(pub u64);

impl fmt::Display for OpNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One call of one client, with what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Its number.
    pub number: OpNumber,
    /// Who called.
    pub client: ClientId,
    /// When the call left.
    pub invoke_ns: u64,
    /// When the client had its answer, or gave up; absent if it still waited at the end.
    pub return_ns: Option<u64>,
    /// What the client knows.
    pub outcome: Outcome,
    /// What was asked, and the answer.
    pub call: Call,
}

/// What the client knows of its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It happened, between invoke and return.
    Ok,
    /// It certainly did not happen and never will.
    Failed,
    /// It may have happened at any time after invoke, may still happen, or never.
    Unknown,
}

/// What was asked. Answers mean something only with [`Outcome::Ok`].
///
/// A batch is atomic for each shard at best, so each id in it counts as a call of its own.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Points written, each as a whole.
    Upsert {
        /// Ids, each once, with what was written.
        points: Vec<(PointId, Write)>,
    },
    /// Points removed.
    Delete {
        /// Ids, each once.
        ids: Vec<PointId>,
    },
    /// Points read by id.
    Get {
        /// How fresh the answer had to be.
        level: Level,
        /// Ids asked for, with what was found.
        found: Vec<(PointId, Option<Write>)>,
    },
    /// Points counted, all of the collection.
    Count {
        /// How fresh the answer had to be.
        level: Level,
        /// The answer.
        count: u64,
    },
    /// All points of the collection read, over all pages.
    Scroll {
        /// How fresh the answer had to be.
        level: Level,
        /// What was found, as it came.
        points: Vec<(PointId, Write)>,
    },
    /// Nearest points asked for.
    Search(Search),
}

/// A search with its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// How fresh the answer had to be.
    pub level: Level,
    /// Names the query vector.
    pub query: u64,
    /// How many hits were asked for.
    pub k: usize,
    /// Names the filter, if there was one.
    pub filter: Option<u64>,
    /// Whether every point had to be compared.
    pub exact: bool,
    /// The answer, as it came.
    pub hits: Vec<FoundHit>,
}

/// A hit of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundHit {
    /// Id of the point.
    pub id: PointId,
    /// The score that came with it.
    pub score: f32,
    /// Which write its payload comes from.
    pub write: Write,
}

/// How fresh an answer had to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Level {
    /// Every write acknowledged before the call.
    Linearizable,
    /// Everything that the presented tokens cover.
    Session {
        /// The token covers all that this client had completed before, reads included.
        own: bool,
        /// Completed operations that it covers besides. Only what these operations themselves wrote or saw is
        /// checked, not what their own tokens covered.
        after: Vec<OpNumber>,
    },
    /// What was current at some time since invoke less this many nanoseconds.
    Eventual {
        /// The bound asked for, with what clocks and heartbeats add to it.
        staleness_ns: u64,
    },
}

/// Kinds of calls, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallKind {
    /// Of [`Call::Upsert`].
    Upsert,
    /// Of [`Call::Delete`].
    Delete,
    /// Of [`Call::Get`].
    Get,
    /// Of [`Call::Count`].
    Count,
    /// Of [`Call::Scroll`].
    Scroll,
    /// Of [`Call::Search`].
    Search,
}

impl CallKind {
    /// All kinds, in the order in which they are shown.
    pub const ALL: [Self; 6] = [Self::Upsert, Self::Delete, Self::Get, Self::Count, Self::Scroll, Self::Search];

    /// The name shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upsert => "upsert",
            Self::Delete => "delete",
            Self::Get => "get",
            Self::Count => "count",
            Self::Scroll => "scroll",
            Self::Search => "search",
        }
    }
}

impl Call {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> CallKind {
        match self {
            Self::Upsert { .. } => CallKind::Upsert,
            Self::Delete { .. } => CallKind::Delete,
            Self::Get { .. } => CallKind::Get,
            Self::Count { .. } => CallKind::Count,
            Self::Scroll { .. } => CallKind::Scroll,
            Self::Search(_) => CallKind::Search,
        }
    }

    /// How fresh the answer had to be; `None` for writes.
    #[must_use]
    pub const fn level(&self) -> Option<&Level> {
        match self {
            Self::Upsert { .. } | Self::Delete { .. } => None,
            Self::Get { level, .. } | Self::Count { level, .. } | Self::Scroll { level, .. } => Some(level),
            Self::Search(search) => Some(&search.level),
        }
    }
}

impl Operation {
    /// Whether it certainly happened.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }

    /// The last moment at which it can have taken effect; [`FOREVER`] if that is not known.
    #[must_use]
    pub fn end_ns(&self) -> u64 {
        if self.is_ok() { self.return_ns.unwrap_or(FOREVER) } else { FOREVER }
    }
}

/// End of what may still happen.
pub const FOREVER: u64 = u64::MAX;

/// A history that breaks the rules in the header of this module, so that no verdict would mean anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("operation {number}: {problem}")]
pub struct HistoryError {
    /// The operation that breaks them.
    pub number: u64,
    /// Which rule.
    pub problem: String,
}

impl HistoryError {
    pub(crate) fn new(number: OpNumber, problem: impl Into<String>) -> Self {
        Self { number: number.0, problem: problem.into() }
    }
}
