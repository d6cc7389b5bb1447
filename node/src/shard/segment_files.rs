//! Files of a shard's segments: which are ours and whole, and which must go.
//!
//! Segments are caches: the store has every point. So a file that is missing or damaged is set aside and what it held
//! is built in again; only a folder that cannot be used at all keeps a replica from opening.
//!
//! The store lists each segment with the checksum of its graph, which stands for every byte of both files (`parts`). A file
//! that is not listed with its own checksum is not ours, whatever its name: a crash left it, or it came from another shard
//! or from a copy of the folder. A segment is listed once its files are durable, and what it replaces is removed once
//! the list is durable; so a crash leaves files that are not listed, and no entry without its files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use shoal_index::file::{Fault, FileError, Residency};
use shoal_index::segment::{Segment, Target};
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{IndexSpec, ShardId};
use shoal_runtime::{Batch, Store};

use super::parts::{self, Name, Stored};
use crate::NodeError;

/// What a file is called in addition once it was set aside.
const BAD: &str = "bad";

/// The files of one shard.
#[derive(Debug)]
pub struct SegmentFiles {
    shard: ShardId,
    /// `None` if segments are in memory only.
    folder: Option<PathBuf>,
    /// Greater than every number that was ever listed or is in the folder.
    next: u64,
}

/// What was found when a shard's segments were opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) files: SegmentFiles,
    /// Names, numbers and segments, the oldest first.
    pub(crate) segments: Vec<(Name, u64, Segment)>,
    /// Segments that were listed, and missing or bad.
    pub(crate) bad: u64,
}

/// The folder of a shard's segments within that of a node's.
pub(crate) fn folder_of(root: &Path, shard: ShardId) -> PathBuf {
    root.join(shard.to_string())
}

/// Removes the folder of a shard, if it is there.
pub fn erase(root: &Path, shard: ShardId) -> Result<(), NodeError> {
    let path = folder_of(root, shard);
    match fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(NodeError::SegmentFolder { path, source }),
        _ => Ok(()),
    }
}

impl SegmentFiles {
    /// A shard's folder that has none; it is made. Their numbers will begin at `first` or beyond.
    pub fn empty(root: &Path, shard: ShardId, first: u64) -> Result<Self, NodeError> {
        let folder = folder_of(root, shard);
        fs::create_dir_all(&folder).map_err(|source| NodeError::SegmentFolder { path: folder.clone(), source })?;
        Ok(Self { shard, folder: Some(folder), next: first.max(1) })
    }

    /// The next number.
    pub fn from(&self) -> u64 {
        self.next
    }

    /// Goes on from a number, if it is not further.
    pub(crate) fn number_from(&mut self, first: u64) {
        self.next = self.next.max(first);
    }

    /// Opens what the store has `listed` in the shard's folder under `root`, every byte verified, and cleans up the rest.
    pub(crate) fn open(
        root: Option<&Path>,
        store: &dyn Store,
        shard: ShardId,
        spec: &IndexSpec,
        listed: &BTreeMap<Name, Stored>,
    ) -> Result<Opened, NodeError> {
        let Some(root) = root else {
            return Ok(Opened { files: Self { shard, folder: None, next: 1 }, segments: Vec::new(), bad: 0 });
        };
        meet(Failpoint::NodeSegmentsOpen)?;
        let folder = folder_of(root, shard);
        fs::create_dir_all(&folder).map_err(|source| NodeError::SegmentFolder { path: folder.clone(), source })?;
        let next = listed.values().filter_map(|part| part.file).max().map_or(1, |last| last + 1);
        let mut files = Self { shard, folder: Some(folder.clone()), next };
        let (mut segments, mut aside, mut batch) = (Vec::new(), Vec::new(), Batch::default());
        for (name, part) in listed {
            let Some((manifest, number)) = part.manifest.zip(part.file) else { continue };
            match files.open_listed(number, manifest.checksum, spec) {
                Ok(segment) => segments.push((*name, number, segment)),
                Err(error) => {
                    tracing::warn!(shard = shard.0, %error, "a segment is set aside; it is fetched or built again");
                    aside.push(number);
                    parts::list(&mut batch, shard, *name, &Stored { file: None, ..part.clone() });
                }
            }
        }
        // Nothing is removed that a list which a power cut brings back would name.
        store.write(batch)?;
        store.sync()?;
        meet(Failpoint::NodeSegmentsClean)?;
        files.clean(&folder, &segments, &aside).map_err(|source| NodeError::SegmentFolder { path: folder, source })?;
        Ok(Opened { files, segments, bad: aside.len() as u64 })
    }

    fn open_listed(&self, number: u64, checksum: u64, spec: &IndexSpec) -> Result<Segment, FileError> {
        let segment = Segment::open(&self.target(number))?;
        let image = segment.graph_image();
        let fault = if image.checksum() != checksum {
            Fault::Unexpected { want: checksum, got: image.checksum() }
        } else if (segment.dim(), segment.metric()) != (spec.dim, spec.metric) {
            Fault::Malformed { problem: "its vectors are not the collection's" }
        } else {
            return Ok(segment);
        };
        Err(FileError { path: image.path().to_owned(), fault })
    }

    /// Sets files aside, and removes all that no open segment needs. Of those set aside the last ones are kept.
    fn clean(&mut self, folder: &Path, open: &[(Name, u64, Segment)], aside: &[u64]) -> io::Result<()> {
        let names = |number: u64| self.target(number).files();
        let needed: BTreeSet<PathBuf> = open.iter().flat_map(|(_, number, _)| names(*number)).collect();
        let aside: BTreeSet<PathBuf> = aside.iter().flat_map(|number| names(*number)).collect();
        for entry in fs::read_dir(folder)? {
            let (path, is_file) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?.is_file())))?;
            self.next = self.next.max(number_of(&path).map_or(0, |number| number.saturating_add(1)));
            let is_bad = path.extension() == Some(OsStr::new(BAD));
            let changed = if needed.contains(&path) || !is_file || (is_bad && aside.is_empty()) {
                Ok(())
            } else if aside.contains(&path) {
                fs::rename(&path, with_bad(&path))
            } else if is_bad && aside.iter().any(|name| with_bad(name) == path) {
                Ok(()) // set aside a moment ago
            } else {
                fs::remove_file(&path)
            };
            if let Err(error) = changed {
                // It costs disk, and nothing else: numbers are not used twice.
                tracing::warn!(shard = self.shard.0, path = %path.display(), %error, "a useless file stays");
            }
        }
        Ok(())
    }

    /// A number that no segment had, for the next, whose folder is there.
    pub fn reserve(&mut self) -> u64 {
        if let Some(folder) = &self.folder
            && let Err(error) = fs::create_dir_all(folder)
        {
            // Whoever writes there will say so as well.
            tracing::warn!(shard = self.shard.0, path = %folder.display(), %error, "cannot create a folder of segments");
        }
        self.next += 1;
        self.next - 1
    }

    /// Where the files of a segment are.
    pub fn target(&self, number: u64) -> Target {
        match &self.folder {
            None => Target::Memory,
            Some(folder) => {
                let name = format!("{number:08}");
                Target::Folder { folder: folder.clone(), name, residency: Residency::Mapped }
            }
        }
    }
}

/// Removes the files of a segment that nobody opens again; they may be mapped still.
pub fn remove(target: &Target) {
    for path in target.files() {
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            // The next start finds it.
            tracing::warn!(path = %path.display(), %error, "a useless file stays");
        }
    }
}

/// Gives the files of a segment that is damaged another name, under which they are kept for whoever wants to know more.
pub(crate) fn set_aside(target: &Target) {
    for path in target.files() {
        if let Err(error) = fs::rename(&path, with_bad(&path))
            && error.kind() != io::ErrorKind::NotFound
        {
            // They are listed no more, and the next start removes them.
            tracing::warn!(path = %path.display(), %error, "a damaged file keeps its name");
        }
    }
}

/// The number in the name of a segment's file. No segment has so large a one that none may follow it.
fn number_of(path: &Path) -> Option<u64> {
    let number = path.file_name()?.to_str()?.split('.').next()?.parse().ok()?;
    (number <= u64::MAX / 2).then_some(number)
}

fn with_bad(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(BAD);
    name.into()
}
