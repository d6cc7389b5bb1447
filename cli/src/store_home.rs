//! The data folder of a node or coordinator: its store, and what is to be known of it when the store cannot be read.
//!
//! A store that is damaged is not mended in place: nobody knows what else is wrong with it, and what it once
//! acknowledged and voted for may be gone. It is set aside, and the process begins anew on an empty one. A node is another
//! node then that takes the place of the first, and its replicas are made anew from others; a coordinator joins the others
//! as another replica of their group. `node.json` or `coordinator.json` says which store the folder had, so that this works
//! when nothing can be read from it, and that a replacement is under way, so that a crash in between changes nothing.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{Classify as _, ErrorKind, StoreId};
use shoal_node::Replaced;
use shoal_runtime::{Store, StoreError};
use shoal_storage::{RocksStore, make_folder};

use crate::failure::Failure;
use crate::folders::write_json;

/// Where the last damaged store is kept, in a folder named by its identity.
const ASIDE: &str = "damaged";
/// What to do about a damaged store of which there is no copy.
const NO_COPY: &str = "this is the only coordinator, so nobody else has the cluster's map, and the store is kept as it is: \
                       bring back a copy of the folder, or begin a new cluster on an empty one";

/// What is known of a folder beside its store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Notes {
    /// Identity of the store, in hexadecimal; empty before it had one. That of a coordinator is a name and no more.
    store: String,
    /// Identity of the store that it takes the place of, until the coordinators know.
    replaces: String,
    /// Number or name of the node that it takes the place of, as an operator said, until the coordinators know.
    replaces_node: String,
    /// The store was found damaged while the node ran.
    damaged: bool,
}

/// A data folder.
#[derive(Debug)]
pub(crate) struct StoreHome {
    folder: PathBuf,
    /// Name of the file of notes.
    file: &'static str,
    /// Whether others may have what the store holds, so that it can be given up.
    has_copies: bool,
    notes: Notes,
}

impl StoreHome {
    /// The folder of a node; coordinators say whether its store can be given up ([`StoreHome::refused`]).
    pub(crate) fn of_node(folder: &Path) -> Result<Self, Failure> {
        Self::open(folder, "node.json", true)
    }

    /// The folder of a coordinator; `is_alone`: the only one.
    pub(crate) fn of_coordinator(folder: &Path, is_alone: bool) -> Result<Self, Failure> {
        Self::open(folder, "coordinator.json", !is_alone)
    }

    /// Reads the notes in a folder, which is made if it is not there.
    fn open(folder: &Path, file: &'static str, has_copies: bool) -> Result<Self, Failure> {
        let failed = |error: &dyn Display| Failure::new(format!("data folder {}: {error}", folder.display()));
        make_folder(folder).map_err(|error| failed(&error))?;
        let notes = match fs::read(folder.join(file)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(&format!("{file}: {error}")))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Notes::default(),
            Err(error) => return Err(failed(&format!("{file}: {error}"))),
        };
        Ok(Self { folder: folder.to_owned(), file, has_copies, notes })
    }

    /// Opens the store; one that is damaged is set aside, if others may have what it holds, and an empty one opened.
    pub(crate) fn open_store(&mut self) -> Result<Arc<dyn Store>, Failure> {
        if self.notes.damaged && self.has_copies {
            self.set_aside("it was found damaged before")?;
        }
        match RocksStore::open(&self.folder) {
            Ok(store) => Ok(Arc::new(store)),
            Err(error) if self.has_copies && error.kind() == ErrorKind::Corruption && !self.notes.store.is_empty() => {
                self.set_aside(&error)?;
                let opened = RocksStore::open(&self.folder).map_err(|error| self.failure(&error))?;
                Ok(Arc::new(opened))
            }
            Err(error) => Err(self.failure(&error)),
        }
    }

    fn failure(&self, error: &StoreError) -> Failure {
        let failure = Failure::new(format!("open the store in {}: {error}", self.folder.display()));
        if self.has_copies || error.kind() != ErrorKind::Corruption { failure } else { failure.next(NO_COPY) }
    }

    /// Names a store that has no name, so that it can be told from another that takes its place.
    pub(crate) fn name_store(&mut self) -> Result<(), Failure> {
        if self.notes.store.is_empty() {
            let store = StoreId(uuid::Uuid::new_v4().as_u128());
            self.notes = Notes { store: store.to_string(), ..Notes::default() };
            self.save()?;
        }
        Ok(())
    }

    /// Folder of segment files.
    pub(crate) fn segments(&self) -> PathBuf {
        self.folder.join("segments")
    }

    /// An operator says that the node of that number or name has lost its disk, and that this one takes its place. Noted
    /// before there is a store, so that it stays so after a crash, whatever is said then. Says nothing of a folder that
    /// is a node already, so that it may be said at every start.
    pub(crate) fn take_place_of(&mut self, called: String) -> Result<(), Failure> {
        if !self.notes.store.is_empty() || !self.notes.replaces.is_empty() {
            let folder = self.folder.display();
            tracing::info!(%folder, replaces = called, "this folder is a node's already, and stays it: nobody is replaced");
            return Ok(());
        }
        if self.notes.replaces_node != called {
            self.notes.replaces_node = called;
            self.save()?;
        }
        Ok(())
    }

    /// Whose place this one takes, if the coordinators do not know yet.
    pub(crate) fn replaces(&self) -> Option<Replaced> {
        let store = u128::from_str_radix(&self.notes.replaces, 16).ok();
        let called = &self.notes.replaces_node;
        let node = || (!called.is_empty()).then(|| Replaced::Node(called.clone()));
        store.map(|store| Replaced::Store(StoreId(store))).or_else(node)
    }

    /// The coordinators refuse this node. Whoever was to be replaced by an operator's word is not: the next word may name
    /// another. A store that was set aside is put back; without one there is nothing to put in the place of what is here.
    pub(crate) fn refused(&mut self) -> Result<(), Failure> {
        if !self.notes.replaces_node.is_empty() {
            self.notes.replaces_node.clear();
            self.save()?;
        }
        let was_set_aside = !self.notes.replaces.is_empty() && self.aside(&self.notes.replaces).is_dir();
        if was_set_aside { self.put_back() } else { Ok(()) }
    }

    /// The node serves: the coordinators know its store.
    pub(crate) fn registered(&mut self, store: StoreId) -> Result<(), Failure> {
        let notes = Notes { store: store.to_string(), ..Notes::default() };
        if self.notes != notes {
            self.notes = notes;
            self.save()?;
        }
        Ok(())
    }

    /// Whether others may have what the store holds.
    pub(crate) fn has_copies(&self) -> bool {
        self.has_copies
    }

    /// The store is damaged: the next start sets it aside, if others may have what it holds.
    pub(crate) fn note_damage(&mut self) -> Result<(), Failure> {
        if !self.has_copies {
            return Ok(());
        }
        self.notes.damaged = true;
        self.save()
    }

    /// The coordinators do not let the store be given up: it is put back, for whoever can mend it, and tried again at
    /// the next start. Cut short, that start sets aside again what is back already.
    fn put_back(&mut self) -> Result<(), Failure> {
        let aside = self.aside(&self.notes.replaces);
        let failed = |error: io::Error| Failure::new(format!("put {} back: {error}", aside.display()));
        self.empty().map_err(failed)?;
        // Before anything is back, so that nobody takes it for what may be removed.
        self.notes = Notes { store: std::mem::take(&mut self.notes.replaces), damaged: true, ..Notes::default() };
        self.save()?;
        for entry in fs::read_dir(&aside).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            meet(Failpoint::HomePutBack).map_err(io::Error::from).map_err(failed)?;
            fs::rename(entry.path(), self.folder.join(entry.file_name())).map_err(failed)?;
        }
        Ok(())
    }

    /// Moves everything but the notes away. Cut short, it goes on at the next start, since the damage is noted first.
    fn set_aside(&mut self, why: impl Display) -> Result<(), Failure> {
        let folder = self.folder.display();
        tracing::error!(%folder, %why, "the store is damaged: it is set aside, and what it held is fetched from others");
        if !self.notes.damaged {
            self.note_damage()?;
        }
        let failed = |error: io::Error| Failure::new(format!("set {} aside: {error}", self.folder.display()));
        if self.notes.store.is_empty() {
            // It never served. What it was to replace stays to be replaced.
            self.empty().map_err(failed)?;
        } else {
            self.move_to(&self.aside(&self.notes.store)).map_err(failed)?;
            self.notes.replaces = std::mem::take(&mut self.notes.store);
        }
        self.notes.damaged = false;
        self.save()?;
        meet(Failpoint::HomeBeginAnew).map_err(|injected| self.failure(&injected.into()))
    }

    fn aside(&self, store: &str) -> PathBuf {
        self.folder.join(ASIDE).join(store)
    }

    /// Moves what is in the folder to `aside`, and removes what other stores left there.
    fn move_to(&self, aside: &Path) -> io::Result<()> {
        fs::create_dir_all(aside)?;
        for entry in fs::read_dir(self.folder.join(ASIDE))? {
            let path = entry?.path();
            if path != aside {
                fs::remove_dir_all(path)?;
            }
        }
        for path in self.own_entries()? {
            meet(Failpoint::HomeSetAside)?;
            let name = path.file_name().map(PathBuf::from).unwrap_or_default();
            fs::rename(&path, aside.join(name))?;
        }
        Ok(())
    }

    /// Removes everything but the notes and what was set aside.
    fn empty(&self) -> io::Result<()> {
        for path in self.own_entries()? {
            if path.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
        }
        Ok(())
    }

    fn save(&self) -> Result<(), Failure> {
        let met = meet(Failpoint::HomeNote).map_err(io::Error::from);
        met.and_then(|()| write_json(&self.folder, self.file, &self.notes))
            .map_err(|error| Failure::new(format!("write {} in {}: {error}", self.file, self.folder.display())))
    }

    /// Everything in the folder but its notes and what was set aside.
    fn own_entries(&self) -> io::Result<Vec<PathBuf>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name() != self.file && entry.file_name() != ASIDE {
                entries.push(entry.path());
            }
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use shoal_runtime::{Batch, Table};

    use super::*;

    fn mark(store: &dyn Store, key: &'static str) {
        let mut batch = Batch::default();
        batch.put(Table::Meta, key, "here");
        store.write(batch).expect("written");
        store.sync().expect("synced");
    }

    fn has(store: &dyn Store, key: &str) -> bool {
        store.get(Table::Meta, key.as_bytes()).expect("read").is_some()
    }

    #[test]
    fn a_damaged_store_is_set_aside_until_another_takes_its_place() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut home = StoreHome::of_node(folder.path()).expect("opened");
        mark(&*home.open_store().expect("opened"), "first");
        home.registered(StoreId(7)).expect("noted");
        assert_eq!(home.replaces(), None);

        home.note_damage().expect("noted");
        let mut home = StoreHome::of_node(folder.path()).expect("opened");
        let store = home.open_store().expect("an empty one");
        assert!(!has(&*store, "first"));
        assert_eq!(home.replaces(), Some(Replaced::Store(StoreId(7))));
        drop(store);
        let mut again = StoreHome::of_node(folder.path()).expect("opened");
        assert!(!has(&*again.open_store().expect("opened"), "first"), "a restart in between changes nothing");
        assert_eq!(again.replaces(), Some(Replaced::Store(StoreId(7))));
        again.registered(StoreId(8)).expect("noted");
        assert_eq!(StoreHome::of_node(folder.path()).expect("opened").replaces(), None);
    }

    #[test]
    fn what_was_never_set_aside_is_not_put_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let replaces = StoreId(7).to_string();
        fs::write(folder.path().join("node.json"), format!("{{\"replaces\": \"{replaces}\"}}")).expect("written");
        let open = || StoreHome::of_node(folder.path()).expect("opened");
        let mut home = open();
        mark(&*home.open_store().expect("opened"), "drawn");
        home.refused().expect("there is nothing to do");
        let mut home = open();
        assert!(has(&*home.open_store().expect("opened"), "drawn"), "what is here stays");
        assert_eq!(home.replaces(), Some(Replaced::Store(StoreId(7))), "and it is tried again");
    }

    #[test]
    fn an_operators_word_counts_until_the_folder_is_a_node() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let open = || StoreHome::of_node(folder.path()).expect("opened");
        let node = |called: &str| Some(Replaced::Node(called.to_owned()));
        open().take_place_of("nod-2".to_owned()).expect("noted");
        assert_eq!(open().replaces(), node("nod-2"), "a crash changes nothing");
        open().refused().expect("nothing to put back");
        assert_eq!(open().replaces(), None, "a mistake is not repeated");

        let mut home = open();
        home.take_place_of("node-2".to_owned()).expect("noted");
        drop(home.open_store().expect("opened"));
        let mut home = open();
        drop(home.open_store().expect("opened"));
        assert_eq!(home.replaces(), node("node-2"), "also without the word, once it was given");
        home.registered(StoreId(7)).expect("noted");
        let mut home = open();
        home.take_place_of("node-2".to_owned()).expect("nothing to do");
        assert_eq!(home.replaces(), None, "it has happened");

        home.note_damage().expect("noted");
        let mut home = open();
        drop(home.open_store().expect("an empty one"));
        home.take_place_of("node-3".to_owned()).expect("nothing to do");
        assert_eq!(home.replaces(), Some(Replaced::Store(StoreId(7))), "what is under way comes first");
    }

    #[test]
    fn a_coordinators_store_is_given_up_only_where_there_are_others() {
        for is_alone in [false, true] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let open = || StoreHome::of_coordinator(folder.path(), is_alone).expect("opened");
            let mut home = open();
            mark(&*home.open_store().expect("opened"), "first");
            home.name_store().expect("named");
            let name = home.notes.store.clone();
            home.name_store().expect("nothing to do");
            assert_eq!(home.notes.store, name, "it keeps its name");
            home.note_damage().expect("noted");
            let mut home = open();
            let store = home.open_store().expect("opened");
            assert_eq!(has(&*store, "first"), is_alone);
            assert_eq!(folder.path().join(ASIDE).join(&name).is_dir(), !is_alone, "what was damaged is kept");
            home.name_store().expect("named");
            assert_eq!(home.notes.store == name, is_alone, "another store has another name");
        }
    }

    #[test]
    fn a_store_that_must_not_be_given_up_is_put_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut home = StoreHome::of_node(folder.path()).expect("opened");
        mark(&*home.open_store().expect("opened"), "first");
        home.registered(StoreId(7)).expect("noted");
        home.note_damage().expect("noted");
        drop(home.open_store().expect("an empty one"));
        home.refused().expect("put back");
        assert!(has(&RocksStore::open(folder.path()).expect("opened"), "first"));
        let mut home = StoreHome::of_node(folder.path()).expect("opened");
        drop(home.open_store().expect("an empty one"));
        assert_eq!(home.replaces(), Some(Replaced::Store(StoreId(7))), "and tried again at the next start");

        // Half of it is back when the process ends.
        let aside = folder.path().join(ASIDE).join(StoreId(7).to_string());
        home.empty().expect("emptied");
        home.notes = Notes { store: StoreId(7).to_string(), damaged: true, ..Notes::default() };
        home.save().expect("noted");
        let half: Vec<_> =
            fs::read_dir(&aside).expect("listed").step_by(2).map(|entry| entry.expect("listed")).collect();
        half.iter().for_each(|e| fs::rename(e.path(), folder.path().join(e.file_name())).expect("put back"));
        let mut home = StoreHome::of_node(folder.path()).expect("opened");
        drop(home.open_store().expect("an empty one"));
        home.refused().expect("put back");
        assert!(has(&RocksStore::open(folder.path()).expect("opened"), "first"), "nothing was taken for useless");
    }
}
