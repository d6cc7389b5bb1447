//! The disk apart from FUSE: what processes see, what is durable, and how a power loss makes the second the first.
//!
//! One caller at a time. Invariants: the backing folder holds exactly what a power loss would leave (clean, not torn);
//! a folder that is durable lies in folders that are; after a power loss both views are the same.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::backing::{self, Backing, NAMELESS};
use crate::cache::FileCache;
use crate::journal::{Change, Ino, Journal, Place};
use crate::power_loss::{Loss, PowerLoss};

/// The folder that is mounted.
pub(crate) const ROOT: Ino = 1;

/// What makes names durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Metadata {
    /// Changes of names become durable in the order in which they were made. A sync of a file or folder makes durable
    /// the last change that concerns it and all before, as the journals of ext4 and XFS do.
    #[default]
    Journaled,
    /// What POSIX promises and no more: names are durable once their folder was synced, in any order.
    Strict,
}

enum Body {
    File(FileCache),
    Folder(BTreeMap<OsString, Ino>),
}

struct Node {
    body: Body,
    mode: u32,
    modified: SystemTime,
    /// Where processes see it.
    now: Option<Place>,
    /// Where the backing folder has it.
    durable: Option<Place>,
    opens: u32,
    /// The backing file, kept while processes have the file open.
    handle: Option<Arc<File>>,
    /// The removal is durable: it goes with its last handle.
    is_removed: bool,
}

/// What `stat` tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes {
    pub(crate) ino: Ino,
    pub(crate) is_folder: bool,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) modified: SystemTime,
    pub(crate) links: u32,
}

/// One name in a folder.
pub(crate) struct Entry {
    pub(crate) ino: Ino,
    pub(crate) is_folder: bool,
    pub(crate) name: OsString,
}

/// What a power loss would drop now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unsynced {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
    pub(crate) changes: u64,
}

/// Number of the power loss that a handle has not survived yet.
pub(crate) type Boot = u64;

/// See the head of the module.
pub(crate) struct Disk {
    backing: Backing,
    metadata: Metadata,
    nodes: BTreeMap<Ino, Node>,
    next_ino: Ino,
    journal: Journal,
    boot: Boot,
}

impl Disk {
    /// Takes everything in `root` as durable.
    pub(crate) fn open(root: &Path, metadata: Metadata) -> io::Result<Self> {
        let mut disk = Self {
            backing: Backing::open(root)?,
            metadata,
            nodes: BTreeMap::new(),
            next_ino: ROOT,
            journal: Journal::default(),
            boot: 0,
        };
        let about = fs::metadata(root)?;
        let root = disk.add(Node::durable(Body::Folder(BTreeMap::new()), &about, None));
        let path = disk.backing.root().to_owned();
        disk.load(root, &path)?;
        Ok(disk)
    }

    fn load(&mut self, folder: Ino, path: &Path) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let about = entry.metadata()?;
            let body = match about.file_type() {
                _ if folder == ROOT && entry.file_name() == NAMELESS => continue,
                kind if kind.is_dir() => Body::Folder(BTreeMap::new()),
                kind if kind.is_file() => Body::File(FileCache::durable(about.len())),
                _ => continue, // links and devices are not modelled
            };
            let ino = self.add(Node::durable(body, &about, Some(Place { folder, name: entry.file_name() })));
            self.names(folder)?.insert(entry.file_name(), ino);
            if about.is_dir() {
                self.load(ino, &entry.path())?;
            }
        }
        Ok(())
    }

    fn add(&mut self, node: Node) -> Ino {
        let ino = self.next_ino;
        self.next_ino += 1;
        self.nodes.insert(ino, node);
        ino
    }

    // What processes ask.

    pub(crate) fn lookup(&self, folder: Ino, name: &OsStr) -> io::Result<Ino> {
        match &self.node(folder)?.body {
            Body::Folder(names) => names.get(name).copied().ok_or_else(|| Errno::NOENT.into()),
            Body::File(_) => Err(Errno::NOTDIR.into()),
        }
    }

    /// The file or folder at a path from the root.
    pub(crate) fn find(&self, path: &str) -> io::Result<Ino> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(ROOT, |at, name| self.lookup(at, OsStr::new(name)))
    }

    /// The path from the root; empty for what has no name any more.
    pub(crate) fn path(&self, ino: Ino) -> String {
        let mut names = Vec::new();
        let mut at = ino;
        while let Some(place) = self.nodes.get(&at).and_then(|node| node.now.as_ref()) {
            names.push(place.name.to_string_lossy());
            at = place.folder;
        }
        names.reverse();
        names.join("/")
    }

    pub(crate) fn attributes(&self, ino: Ino) -> io::Result<Attributes> {
        let node = self.node(ino)?;
        let (is_folder, size) = match &node.body {
            Body::Folder(_) => (true, 0),
            Body::File(cache) => (false, cache.size()),
        };
        let links = if node.now.is_none() && ino != ROOT { 0 } else { 1 + u32::from(is_folder) };
        Ok(Attributes { ino, is_folder, size, mode: node.mode, modified: node.modified, links })
    }

    /// The folder that holds `ino`; the root holds itself.
    pub(crate) fn parent(&self, ino: Ino) -> Ino {
        self.nodes.get(&ino).and_then(|node| node.now.as_ref()).map_or(ROOT, |place| place.folder)
    }

    /// Names in a folder in an order that stays while others come and go.
    pub(crate) fn list(&self, folder: Ino) -> io::Result<Vec<Entry>> {
        let Body::Folder(names) = &self.node(folder)?.body else { return Err(Errno::NOTDIR.into()) };
        let entry = |(name, ino): (&OsString, &Ino)| Entry {
            ino: *ino,
            is_folder: self.nodes.get(ino).is_some_and(Node::is_folder),
            name: name.clone(),
        };
        let mut entries: Vec<Entry> = names.iter().map(entry).collect();
        entries.sort_by_key(|entry| entry.ino);
        Ok(entries)
    }

    /// Every file and folder, also those that are open and have no name.
    pub(crate) fn all(&self) -> Vec<Ino> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn unsynced(&self) -> Unsynced {
        let mut unsynced = Unsynced { changes: self.journal.len() as u64, ..Unsynced::default() };
        for node in self.nodes.values() {
            if let Body::File(cache) = &node.body {
                unsynced.bytes += cache.unsynced_bytes();
                unsynced.files += u64::from(!cache.is_synced());
            }
        }
        unsynced
    }

    // What processes do to names.

    pub(crate) fn create_file(&mut self, folder: Ino, name: &OsStr, mode: u32) -> io::Result<Ino> {
        self.create(Place::new(folder, name), Body::File(FileCache::durable(0)), mode)
    }

    pub(crate) fn create_folder(&mut self, folder: Ino, name: &OsStr, mode: u32) -> io::Result<Ino> {
        self.create(Place::new(folder, name), Body::Folder(BTreeMap::new()), mode)
    }

    fn create(&mut self, place: Place, body: Body, mode: u32) -> io::Result<Ino> {
        check_name(&place)?;
        if self.names(place.folder)?.contains_key(&place.name) {
            return Err(Errno::EXIST.into());
        }
        let ino = self.add(Node::new(body, mode, place.clone()));
        self.set_name(&place, Some(ino))?;
        self.journal.push(ino, None, Some(place), None);
        Ok(ino)
    }

    pub(crate) fn remove_file(&mut self, folder: Ino, name: &OsStr) -> io::Result<()> {
        let ino = self.lookup(folder, name)?;
        if self.node(ino)?.is_folder() {
            return Err(Errno::ISDIR.into());
        }
        self.remove(ino, Place::new(folder, name))
    }

    pub(crate) fn remove_folder(&mut self, folder: Ino, name: &OsStr) -> io::Result<()> {
        let ino = self.lookup(folder, name)?;
        if !self.names(ino)?.is_empty() {
            return Err(Errno::NOTEMPTY.into());
        }
        self.remove(ino, Place::new(folder, name))
    }

    fn remove(&mut self, ino: Ino, place: Place) -> io::Result<()> {
        self.set_name(&place, None)?;
        self.node_mut(ino)?.now = None;
        self.journal.push(ino, Some(place), None, None);
        Ok(())
    }

    /// Replaces what is at `to`, unless it `must_be_free`.
    pub(crate) fn rename(&mut self, from: Place, to: Place, must_be_free: bool) -> io::Result<()> {
        check_name(&to)?;
        let ino = self.lookup(from.folder, &from.name)?;
        let replaced = self.names(to.folder)?.get(&to.name).copied();
        match replaced {
            Some(_) if must_be_free => return Err(Errno::EXIST.into()),
            Some(same) if same == ino => return Ok(()),
            Some(other) => self.check_replaceable(ino, other)?,
            None => {}
        }
        self.set_name(&from, None)?;
        self.set_name(&to, Some(ino))?;
        self.node_mut(ino)?.now = Some(to.clone());
        if let Some(replaced) = replaced {
            self.node_mut(replaced)?.now = None;
        }
        self.journal.push(ino, Some(from), Some(to), replaced);
        Ok(())
    }

    fn check_replaceable(&self, by: Ino, other: Ino) -> io::Result<()> {
        match (self.node(by)?.is_folder(), &self.node(other)?.body) {
            (true, Body::File(_)) => Err(Errno::NOTDIR.into()),
            (false, Body::Folder(_)) => Err(Errno::ISDIR.into()),
            (true, Body::Folder(names)) if !names.is_empty() => Err(Errno::NOTEMPTY.into()),
            _ => Ok(()),
        }
    }

    fn set_name(&mut self, place: &Place, ino: Option<Ino>) -> io::Result<()> {
        let names = self.names(place.folder)?;
        match ino {
            Some(ino) => names.insert(place.name.clone(), ino),
            None => names.remove(&place.name),
        };
        self.node_mut(place.folder)?.modified = SystemTime::now();
        Ok(())
    }

    /// Durable at once: no program of ours relies on when a mode is.
    pub(crate) fn set_mode(&mut self, ino: Ino, mode: u32) -> io::Result<()> {
        let node = self.node_mut(ino)?;
        node.mode = mode & 0o7777;
        if node.durable.is_some() { backing::set_mode(&self.backing_path(ino)?, mode & 0o7777) } else { Ok(()) }
    }

    /// Never durable.
    pub(crate) fn set_modified(&mut self, ino: Ino, time: SystemTime) -> io::Result<()> {
        self.node_mut(ino)?.modified = time;
        Ok(())
    }

    // What processes do to content.

    /// The answer has to be handed in by whoever writes through this handle.
    pub(crate) fn open_node(&mut self, ino: Ino) -> io::Result<Boot> {
        self.node_mut(ino)?.opens += 1;
        Ok(self.boot)
    }

    pub(crate) fn close_node(&mut self, ino: Ino, boot: Boot) -> io::Result<()> {
        if boot != self.boot {
            return Ok(()); // the power loss has closed it
        }
        let node = self.node_mut(ino)?;
        node.opens -= 1;
        if node.opens > 0 {
            return Ok(());
        }
        node.handle = None;
        if node.is_removed { self.forget(ino) } else { Ok(()) }
    }

    /// Handles from before a power loss may read: what they read is the truth, and a mapping that could not be read
    /// would end the process.
    pub(crate) fn read(&mut self, ino: Ino, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let base = self.base(ino)?;
        self.cache(ino)?.read(base.as_deref(), offset, len)
    }

    pub(crate) fn write(&mut self, ino: Ino, boot: Boot, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_alive(boot)?;
        let base = self.base(ino)?;
        self.cache(ino)?.write(base.as_deref(), offset, data)?;
        self.set_modified(ino, SystemTime::now())
    }

    /// `boot` is none if the file is named by its path.
    pub(crate) fn resize(&mut self, ino: Ino, boot: Option<Boot>, size: u64) -> io::Result<()> {
        boot.map_or(Ok(()), |boot| self.check_alive(boot))?;
        self.cache(ino)?.resize(size);
        self.set_modified(ino, SystemTime::now())
    }

    /// Makes a file durable; what that means for its name is told by [`Metadata`].
    pub(crate) fn sync_file(&mut self, ino: Ino, boot: Boot) -> io::Result<()> {
        self.check_alive(boot)?;
        if self.metadata == Metadata::Journaled {
            self.journal.sync_prefix(ino);
            self.commit()?;
        }
        self.flush(ino)
    }

    /// What is left of a sync that fails: nothing is durable, and later syncs do not try again.
    pub(crate) fn fail_sync(&mut self, ino: Ino) -> io::Result<()> {
        self.cache(ino)?.fail_sync();
        Ok(())
    }

    pub(crate) fn sync_folder(&mut self, ino: Ino, boot: Boot) -> io::Result<()> {
        self.check_alive(boot)?;
        match self.metadata {
            Metadata::Journaled => self.journal.sync_prefix(ino),
            Metadata::Strict => self.journal.sync_folder(ino),
        }
        self.commit()
    }

    /// Makes everything durable and leaves the backing folder to others, as an orderly unmount does.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        self.journal.sync_all();
        self.commit()?;
        for ino in self.all() {
            if self.node(ino)?.durable.is_some() && !self.node(ino)?.is_folder() {
                self.flush(ino)?;
            }
        }
        self.backing.close()
    }

    fn flush(&mut self, ino: Ino) -> io::Result<()> {
        if self.cache(ino)?.is_synced() {
            return Ok(());
        }
        let file = self.backing_file(ino)?;
        self.cache(ino)?.sync(&file)
    }

    // What happens to the machine.

    /// Loses what was not synced. Handles that are open can no longer write.
    pub(crate) fn power_loss(&mut self, power_loss: PowerLoss) -> io::Result<Loss> {
        self.close_handles()?;
        let mut random = StdRng::seed_from_u64(power_loss.seed);
        let mut loss = Loss { seed: power_loss.seed, tear: power_loss.tear, ..Loss::default() };
        self.lose_names(power_loss, &mut random, &mut loss)?;
        for ino in self.all() {
            if !self.node(ino)?.is_folder() {
                self.lose_content(ino, power_loss, &mut random, &mut loss)?;
            }
        }
        self.restart()?;
        Ok(loss)
    }

    fn close_handles(&mut self) -> io::Result<()> {
        self.boot += 1;
        for node in self.nodes.values_mut() {
            node.opens = 0;
            node.handle = None;
        }
        let removed: Vec<Ino> = self.all().into_iter().filter(|ino| self.nodes[ino].is_removed).collect();
        removed.into_iter().try_for_each(|ino| self.forget(ino))
    }

    fn lose_names(&mut self, power_loss: PowerLoss, random: &mut StdRng, loss: &mut Loss) -> io::Result<()> {
        let before = self.journal.len();
        if power_loss.tear.is_some() {
            match self.metadata {
                Metadata::Journaled => self.journal.sync_some_prefix(random),
                Metadata::Strict => self.journal.sync_any(random),
            }
            self.commit()?;
        }
        let dropped = self.journal.take().len();
        loss.changes_dropped = dropped as u64;
        loss.changes_kept = (before - dropped) as u64;
        Ok(())
    }

    fn lose_content(&mut self, ino: Ino, how: PowerLoss, random: &mut StdRng, loss: &mut Loss) -> io::Result<()> {
        if self.cache(ino)?.is_synced() {
            self.cache(ino)?.drop_unsynced(); // pages of a failed sync are clean and yet not on disk
            return Ok(());
        }
        let is_durable = self.node(ino)?.durable.is_some();
        let remains = match how.tear.filter(|_| is_durable) {
            Some(tear) => {
                let file = self.backing_file(ino)?;
                self.cache(ino)?.tear(&file, tear, random)?
            }
            None => self.cache(ino)?.drop_unsynced(),
        };
        loss.files_hit += 1;
        loss.bytes_kept += remains.bytes_kept;
        loss.bytes_dropped += remains.bytes_dropped;
        Ok(())
    }

    /// Makes what is durable what processes see.
    fn restart(&mut self) -> io::Result<()> {
        self.nodes.retain(|ino, node| *ino == ROOT || node.durable.is_some());
        for node in self.nodes.values_mut() {
            node.now.clone_from(&node.durable);
            if let Body::Folder(names) = &mut node.body {
                names.clear();
            }
        }
        let places = self.nodes.iter().filter_map(|(ino, node)| Some((*ino, node.durable.clone()?)));
        for (ino, place) in places.collect::<Vec<_>>() {
            self.names(place.folder)?.insert(place.name, ino);
        }
        self.backing.clear_nameless()
    }

    /// Flips a bit on the medium. Pages that were written and not synced hide it, as they do on a real machine.
    pub(crate) fn flip(&mut self, path: &str, offset: u64, bit: u32) -> io::Result<Ino> {
        let ino = self.find(path)?;
        if bit > 7 || offset >= self.cache(ino)?.durable_size() {
            return Err(Errno::INVAL.into());
        }
        let file = self.backing_file(ino)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        file.write_all_at(&[byte[0] ^ (1 << bit)], offset)?;
        Ok(ino)
    }

    // How changes of names reach the backing folder.

    /// Does what is marked as synced, as far as the folders it needs are durable; the rest waits.
    fn commit(&mut self) -> io::Result<()> {
        let mut waiting: Vec<Change> = Vec::new();
        let mut changes = self.journal.take().into_iter();
        let mut done = Ok(());
        for change in changes.by_ref() {
            if !change.is_synced || !self.is_possible(&change) {
                waiting.push(change);
                continue;
            }
            done = self.apply(&change);
            if done.is_err() {
                waiting.push(change);
                break;
            }
            waiting.retain(|earlier| earlier.node != change.node); // where it was before never came to be
        }
        waiting.extend(changes);
        self.journal.restore(waiting);
        done
    }

    fn is_possible(&self, change: &Change) -> bool {
        let is_durable = |ino: Ino| ino == ROOT || self.nodes.get(&ino).is_some_and(|node| node.durable.is_some());
        is_durable(change.to.as_ref().map_or(change.node, |to| to.folder))
    }

    fn apply(&mut self, change: &Change) -> io::Result<()> {
        match &change.to {
            Some(to) => self.apply_placing(change.node, to, change.replaced),
            None => self.apply_removal(change.node),
        }
    }

    /// Creates or renames. Content that lacked a durable name gets one.
    fn apply_placing(&mut self, ino: Ino, to: &Place, replaced: Option<Ino>) -> io::Result<()> {
        if let Some(replaced) = replaced {
            self.keep_if_open(replaced)?;
        }
        let (source, target) = (self.backing_path(ino)?, self.durable_path(to)?);
        let node = self.node(ino)?;
        match node.body {
            _ if node.durable.is_some() || source.exists() => fs::rename(source, target)?,
            Body::File(_) => backing::create_file(&target, node.mode)?,
            Body::Folder(_) => backing::create_folder(&target, node.mode)?,
        }
        self.node_mut(ino)?.durable = Some(to.clone());
        replaced.map_or(Ok(()), |replaced| self.set_removed(replaced))
    }

    fn apply_removal(&mut self, ino: Ino) -> io::Result<()> {
        let path = self.backing_path(ino)?;
        let node = self.node(ino)?;
        match node.body {
            Body::Folder(_) => fs::remove_dir(path)?,
            Body::File(_) if node.opens > 0 => fs::rename(path, self.backing.nameless(ino))?,
            Body::File(_) => fs::remove_file(path)?,
        }
        self.set_removed(ino)
    }

    /// Processes that have a file open go on with it after its name went to another.
    fn keep_if_open(&self, ino: Ino) -> io::Result<()> {
        let node = self.node(ino)?;
        let is_needed = node.opens > 0 && node.durable.is_some() && !node.is_folder();
        if is_needed { fs::hard_link(self.backing_path(ino)?, self.backing.nameless(ino)) } else { Ok(()) }
    }

    fn set_removed(&mut self, ino: Ino) -> io::Result<()> {
        let node = self.node_mut(ino)?;
        node.durable = None;
        node.is_removed = true;
        if node.opens == 0 { self.forget(ino) } else { Ok(()) }
    }

    fn forget(&mut self, ino: Ino) -> io::Result<()> {
        self.nodes.remove(&ino);
        backing::remove_file_if_any(&self.backing.nameless(ino))
    }

    // Where things are.

    /// The backing file as far as reads and writes of parts of pages need it.
    fn base(&mut self, ino: Ino) -> io::Result<Option<Arc<File>>> {
        if self.cache(ino)?.has_base() { self.backing_file(ino).map(Some) } else { Ok(None) }
    }

    fn backing_file(&mut self, ino: Ino) -> io::Result<Arc<File>> {
        let node = self.node(ino)?;
        if let Some(file) = &node.handle {
            return Ok(file.clone());
        }
        let (path, is_nameless, is_open) = (self.backing_path(ino)?, node.durable.is_none(), node.opens > 0);
        let file = Arc::new(backing::open_file(&path, is_nameless)?);
        if is_nameless {
            backing::set_mode(&path, node.mode)?;
        }
        if is_open {
            self.node_mut(ino)?.handle = Some(file.clone());
        }
        Ok(file)
    }

    fn backing_path(&self, ino: Ino) -> io::Result<PathBuf> {
        match &self.node(ino)?.durable {
            Some(place) => self.durable_path(place),
            None => Ok(self.backing.nameless(ino)),
        }
    }

    fn durable_path(&self, place: &Place) -> io::Result<PathBuf> {
        if place.folder == ROOT {
            return Ok(self.backing.root().join(&place.name));
        }
        let above = self.node(place.folder)?.durable.as_ref().ok_or(Errno::STALE)?;
        Ok(self.durable_path(above)?.join(&place.name))
    }

    fn check_alive(&self, boot: Boot) -> io::Result<()> {
        if boot == self.boot { Ok(()) } else { Err(Errno::IO.into()) }
    }

    fn node(&self, ino: Ino) -> io::Result<&Node> {
        self.nodes.get(&ino).ok_or_else(|| Errno::STALE.into())
    }

    fn node_mut(&mut self, ino: Ino) -> io::Result<&mut Node> {
        self.nodes.get_mut(&ino).ok_or_else(|| Errno::STALE.into())
    }

    fn cache(&mut self, ino: Ino) -> io::Result<&mut FileCache> {
        match &mut self.node_mut(ino)?.body {
            Body::File(cache) => Ok(cache),
            Body::Folder(_) => Err(Errno::ISDIR.into()),
        }
    }

    fn names(&mut self, folder: Ino) -> io::Result<&mut BTreeMap<OsString, Ino>> {
        match &mut self.node_mut(folder)?.body {
            Body::Folder(names) => Ok(names),
            Body::File(_) => Err(Errno::NOTDIR.into()),
        }
    }
}

impl Node {
    fn new(body: Body, mode: u32, place: Place) -> Self {
        let (now, modified) = (Some(place), SystemTime::now());
        Self { body, mode: mode & 0o7777, modified, now, durable: None, opens: 0, handle: None, is_removed: false }
    }

    fn durable(body: Body, about: &fs::Metadata, place: Option<Place>) -> Self {
        let modified = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let mode = about.permissions().mode() & 0o7777;
        Self { body, mode, modified, now: place.clone(), durable: place, opens: 0, handle: None, is_removed: false }
    }

    fn is_folder(&self) -> bool {
        matches!(self.body, Body::Folder(_))
    }
}

fn check_name(place: &Place) -> io::Result<()> {
    let is_reserved = place.folder == ROOT && place.name == NAMELESS;
    if is_reserved { Err(Errno::ACCESS.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
