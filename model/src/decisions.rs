//! What changes of collections came to, so that one that is asked again is answered alike and made once.

use std::collections::VecDeque;

use crate::{CollectionId, MapError, OperationId, Reply};

/// How a change of a collection was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The caller's intent.
    pub operation: OperationId,
    /// The name it was about.
    pub name: String,
    /// What it came to.
    pub verdict: Verdict,
}

/// What a change of a collection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was created.
    Created(CollectionId),
    /// It was not created, as the name was taken.
    Taken,
    /// It was dropped.
    Dropped,
    /// It was not dropped, as there was none of that name.
    Unknown,
}

/// What a caller wants of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// That there be one of that name.
    Create,
    /// That there be none.
    Drop,
}

impl Decided {
    fn wish(&self) -> Wish {
        match self.verdict {
            Verdict::Created(_) | Verdict::Taken => Wish::Create,
            Verdict::Dropped | Verdict::Unknown => Wish::Drop,
        }
    }

    fn reply(&self) -> Result<Reply, MapError> {
        match self.verdict {
            Verdict::Created(id) => Ok(Reply::Collection(id)),
            Verdict::Taken => Err(MapError::CollectionExists { name: self.name.clone() }),
            Verdict::Dropped => Ok(Reply::Done),
            Verdict::Unknown => Err(MapError::UnknownCollection { name: self.name.clone() }),
        }
    }
}

/// How many decided changes of collections are remembered. Attempts of a call end with its deadline, a minute at most; so
/// many changes of collections take longer.
pub(crate) const DECIDED_MAX: usize = 1024;

/// The newest changes of collections that were decided, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions(VecDeque<Decided>);

impl Decisions {
    /// How a wish about a collection ended, if it was decided before and that is remembered.
    #[must_use]
    pub fn before(&self, operation: OperationId, wish: Wish, name: &str) -> Option<Result<Reply, MapError>> {
        let known = self.0.iter().rev().find(|decided| decided.operation == operation)?;
        let is_same = known.wish() == wish && known.name == name;
        Some(if is_same { known.reply() } else { Err(MapError::OperationReused) })
    }

    /// Remembers how a change was decided; returns the answer.
    pub(crate) fn decide(&mut self, operation: OperationId, name: String, verdict: Verdict) -> Result<Reply, MapError> {
        let decided = Decided { operation, name, verdict };
        let reply = decided.reply();
        if operation != OperationId::default() {
            self.0.push_back(decided);
            if self.0.len() > DECIDED_MAX {
                self.0.pop_front();
            }
        }
        reply
    }

    /// The oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Decided> {
        self.0.iter()
    }
}

impl FromIterator<Decided> for Decisions {
    fn from_iter<T: IntoIterator<Item = Decided>>(decided: T) -> Self {
        Self(decided.into_iter().collect())
    }
}
