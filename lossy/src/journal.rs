//! Creations, renames and removals that are not durable yet, and which of them a sync makes so.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use rand::Rng as _;
use rand::rngs::StdRng;

/// Number of a file or folder; never given out twice.
pub(crate) type Ino = u64;

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) folder: Ino,
    pub(crate) name: OsString,
}

impl Place {
    pub(crate) fn new(folder: Ino, name: &OsStr) -> Self {
        Self { folder, name: name.to_owned() }
    }
}

/// A creation has no `from`, a removal has no `to`, a rename has both.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) node: Ino,
    pub(crate) from: Option<Place>,
    pub(crate) to: Option<Place>,
    /// What a rename replaced.
    pub(crate) replaced: Option<Ino>,
    /// To be done on disk as soon as the folders that it needs are there.
    pub(crate) is_synced: bool,
}

impl Change {
    fn concerns(&self, node: Ino) -> bool {
        self.node == node || self.replaced == Some(node)
    }

    fn is_within(&self, folder: Ino) -> bool {
        self.places().any(|place| place.folder == folder)
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.from.iter().chain(&self.to)
    }
}

/// Changes in the order in which they were made.
#[derive(Default)]
pub(crate) struct Journal {
    changes: Vec<Change>,
}

impl Journal {
    pub(crate) fn push(&mut self, node: Ino, from: Option<Place>, to: Option<Place>, replaced: Option<Ino>) {
        self.changes.push(Change { node, from, to, replaced, is_synced: false });
    }

    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Hands out all changes; those that are not done yet come back by [`Journal::restore`].
    pub(crate) fn take(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    pub(crate) fn restore(&mut self, changes: Vec<Change>) {
        self.changes = changes;
    }

    /// Marks everything.
    pub(crate) fn sync_all(&mut self) {
        self.changes.iter_mut().for_each(|change| change.is_synced = true);
    }

    /// Marks everything up to the last change that concerns `node`, or what it holds if it is a folder.
    pub(crate) fn sync_prefix(&mut self, node: Ino) {
        let last = self.changes.iter().rposition(|change| change.concerns(node) || change.is_within(node));
        self.sync_first(last.map_or(0, |last| last + 1));
    }

    /// Marks what changed names in `folder`, and what must have happened before.
    pub(crate) fn sync_folder(&mut self, folder: Ino) {
        for change in &mut self.changes {
            change.is_synced |= change.is_within(folder);
        }
        self.sync_needed();
    }

    /// Marks what chance has it that the disk wrote before the power went: a prefix.
    pub(crate) fn sync_some_prefix(&mut self, random: &mut StdRng) {
        let count = random.random_range(0..=self.changes.len());
        self.sync_first(count);
    }

    /// Marks what chance has it that the disk wrote before the power went: any changes.
    pub(crate) fn sync_any(&mut self, random: &mut StdRng) {
        for change in &mut self.changes {
            change.is_synced |= random.random::<bool>();
        }
        self.sync_needed();
    }

    fn sync_first(&mut self, count: usize) {
        self.changes[..count].iter_mut().for_each(|change| change.is_synced = true);
    }

    /// Marks what a marked change builds on: earlier changes of the same names, and thereby of the same things, and, if
    /// a folder is removed, of what was in it.
    fn sync_needed(&mut self) {
        let (mut places, mut removed) = (BTreeSet::new(), BTreeSet::new());
        for change in self.changes.iter_mut().rev() {
            let is_needed = change.places().any(|place| places.contains(place) || removed.contains(&place.folder));
            change.is_synced |= is_needed;
            if change.is_synced {
                places.extend(change.places().cloned());
                removed.extend(change.to.is_none().then_some(change.node).into_iter().chain(change.replaced));
            }
        }
    }
}
