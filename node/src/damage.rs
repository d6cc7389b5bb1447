//! What is done about damage that is met while a node serves: whoever meets it tells it here, and answers nothing.
//!
//! A segment is fetched again; so is a shard's content if a record is not what was written. A store that cannot be read back
//! ends the process, and its next start makes the node anew from others: unless there are none, for then there would be
//! nothing left, while all that is not damaged can still be read.

use shoal_index::IndexError;
use shoal_runtime::Failure;

use crate::NodeError;
use crate::replica::{Errand, Replica};

/// Has the damage mended that an error of a replica tells of, if it does.
pub(crate) fn note(error: &NodeError, replica: &Replica, failure: &Failure) {
    let errand = match error {
        NodeError::Index(IndexError::Damaged { segment }) => Errand::Mend { segment: *segment },
        NodeError::Malformed { .. } => Errand::Rebuild,
        error => return note_store(error, replica.has_peers(), failure),
    };
    // One that has too much to do is told again by whoever meets the damage next.
    let _ = replica.send(errand);
}

/// Ends the process if its store is damaged and others have all that it holds.
pub(crate) fn note_store(error: &NodeError, has_peers: bool, failure: &Failure) {
    match error.is_store_damage() {
        true if has_peers => failure.tell_damage(error),
        true => tracing::error!(%error, "the store is damaged, and no other node has all that it holds"),
        false => {}
    }
}
