//! What is done about damage that is met while a node serves: whoever meets it tells it here, and answers nothing.
//!
//! A segment is fetched again; so is a shard's content if a record is not what was written. A store that cannot be read back
//! ends the process, and its next start makes the node anew from others: unless there are none, for then there would be
//! nothing left, while all that is not damaged can still be read. The coordinators hear of that, and operators from them.

use std::fmt::Display;
use std::sync::{Arc, OnceLock};

use shoal_index::IndexError;
use shoal_runtime::Failure;

use crate::NodeError;
use crate::replica::{Errand, Replica};

/// Where damage is told.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    failure: Failure,
    /// The first damage that nobody can mend.
    lasting: Arc<OnceLock<String>>,
}

impl Damage {
    /// `failure` hears of a store that others have to replace.
    pub(crate) fn new(failure: Failure) -> Self {
        Self { failure, lasting: Arc::default() }
    }

    /// Has the damage mended that an error of a replica tells of, if it does.
    pub(crate) fn note(&self, error: &NodeError, replica: &Replica) {
        let errand = match error {
            NodeError::Index(IndexError::Damaged { segment }) => Errand::Mend { segment: *segment },
            NodeError::Malformed { .. } if !replica.has_peers() => return self.note_lasting(error),
            NodeError::Malformed { .. } => Errand::Rebuild,
            error => return self.note_store(error, replica.has_peers()),
        };
        // One that has too much to do is told again by whoever meets the damage next.
        let _ = replica.send(errand);
    }

    /// Ends the process if its store is damaged and others have all that it holds.
    pub(crate) fn note_store(&self, error: &NodeError, has_peers: bool) {
        match error.is_store_damage() {
            true if has_peers => self.failure.tell_damage(error),
            true => self.note_lasting(error),
            false => {}
        }
    }

    /// What was damaged and cannot be mended, since the process began.
    pub(crate) fn lasting(&self) -> Option<&str> {
        self.lasting.get().map(String::as_str)
    }

    fn note_lasting(&self, damage: impl Display) {
        if self.lasting.set(damage.to_string()).is_ok() {
            tracing::error!(%damage, "damaged, and no other node has all that this one holds");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_runtime::StoreError;

    #[tokio::test]
    async fn a_store_that_others_can_replace_ends_the_process_and_the_only_one_goes_on() {
        let failure = Failure::default();
        let damage = Damage::new(failure.clone());
        let table = |name: &str| {
            NodeError::Store(StoreError::Corruption { place: name.to_owned(), detail: "does not read".to_owned() })
        };
        damage.note_store(&table("first"), false);
        damage.note_store(&table("second"), false);
        assert!(damage.lasting().is_some_and(|text| text.contains("first")), "{:?}", damage.lasting());
        damage.note_store(&NodeError::NotReady { shard: shoal_model::ShardId(1) }, true);
        damage.note_store(&table("third"), true);
        let told = failure.told().await;
        assert!(told.is_damage && told.reason.contains("third"), "{told:?}");
    }
}
