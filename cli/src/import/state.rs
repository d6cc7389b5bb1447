//! What an import has done so far, in a small file, so that a run that was cut short can be continued.
//!
//! The file's name depends on collection, file and id field, not on the file's content: a file whose bad row was
//! mended is the same file. Whether its acknowledged rows are still those that were sent, their digest tells; whether
//! the collection is still the one they were sent to, the ids of cluster and collection tell.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::acked::Mark;
use crate::failure::Failure;
use crate::rows::Source;

/// What a run that was cut short leaves behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// File that was being imported, for people who look here.
    pub(crate) file: PathBuf,
    /// Cluster and collection that took the rows.
    pub(crate) target: Target,
    /// Rows acknowledged without a gap.
    pub(crate) rows: u64,
    /// Their digest.
    pub(crate) digest: u64,
}

/// A collection, told apart from one of the same name elsewhere or later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    /// Identity of the cluster.
    pub(crate) cluster: String,
    /// Number of the collection.
    pub(crate) collection: u64,
}

/// The file that holds a state.
#[derive(Clone, Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file named by the user, or the usual one for this import.
    pub(crate) fn locate(named: Option<&Path>, collection: &str, source: &Source) -> Result<Self, Failure> {
        if let Some(path) = named {
            return Ok(Self { path: path.to_owned() });
        }
        let folder = crate::folders::state()?;
        Ok(Self { path: folder.join(format!("import-{:016x}.json", identity(collection, source))) })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What an earlier run left, if any. A file that cannot be read counts as none: the import begins anew, which is
    /// slower and never wrong.
    pub(crate) fn load(&self) -> Option<State> {
        serde_json::from_slice(&std::fs::read(&self.path).ok()?).ok()
    }

    /// The mark of an earlier run into the same target.
    pub(crate) fn resume(&self, target: &Target) -> Option<Mark> {
        let state = self.load().filter(|state| state.target == *target && state.rows > 0)?;
        Some(Mark { rows: state.rows, digest: state.digest })
    }

    /// Replaces the file.
    pub(crate) fn save(&self, state: &State) -> Result<(), Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(format!("cannot note the progress in {}: {error}", self.path.display()))
                .next("name another file with --state")
        };
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        serde_json::to_writer(&mut file, state).map_err(|error| failed(error.into()))?;
        file.flush().map_err(failed)?;
        file.persist(&self.path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// Removes the file, if there is one.
    pub(crate) fn remove(&self) {
        let _ = std::fs::remove_file(&self.path); // a stale file resumes behind the last row, which does no harm
    }
}

/// Hash of what an import is about: collection, files by their full paths, id field.
fn identity(collection: &str, source: &Source) -> u64 {
    let full = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let payload = source.payload.as_deref().map(full);
    xxh3_64(format!("{collection}\0{:?}\0{payload:?}\0{:?}", full(&source.file), source.id_field).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_reads_back_and_binds_to_its_target() {
        let folder = tempfile::tempdir().expect("a folder");
        let named = folder.path().join("deep").join("state.json");
        let file = StateFile::locate(Some(&named), "c", &Source::file("a.npy")).expect("named");
        let target = Target { cluster: "one".into(), collection: 7 };
        assert_eq!(file.resume(&target), None, "nothing was saved");

        let state = State { file: "a.npy".into(), target: target.clone(), rows: 40, digest: u64::MAX };
        file.save(&state).expect("the folder is made");
        assert_eq!(file.load(), Some(state));
        assert_eq!(file.resume(&target), Some(Mark { rows: 40, digest: u64::MAX }));
        for other in [Target { cluster: "two".into(), ..target.clone() }, Target { collection: 8, ..target.clone() }] {
            assert_eq!(file.resume(&other), None, "rows sent to {target:?} are not in {other:?}");
        }

        std::fs::write(&named, "{ torn").expect("written");
        assert_eq!(file.load(), None, "what cannot be read counts as none");
        file.remove();
        assert!(!named.exists());
    }

    #[test]
    fn other_imports_have_other_files() {
        let source = Source::file("a.npy");
        let mut all = vec![
            identity("c", &source),
            identity("d", &source),
            identity("c", &Source::file("b.npy")),
            identity("c", &Source { payload: Some("p.jsonl".into()), ..source.clone() }),
            identity("c", &Source { id_field: Some("key".into()), ..source }),
        ];
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 5);
    }
}
