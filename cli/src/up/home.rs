//! The data folder of `shoal up`: one subfolder for each process, a lock, and notes about ports and size.
//!
//! Ports are remembered so that addresses stay the same from start to start; where one is taken meanwhile, another is
//! chosen, and the processes tell each other.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_storage::make_folder;
use tokio::net::TcpListener;

use crate::failure::Failure;
use crate::folders::write_json;

/// Nodes of a new folder.
const NODES: u32 = 3;

/// An open data folder. Nobody else has it open.
pub(crate) struct Home {
    folder: PathBuf,
    notes: Notes,
    /// Nodes that this start adds to a folder that had some.
    added: u32,
    _lock: File,
}

/// What is remembered from start to start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Notes {
    /// Nodes that may hold data.
    nodes: u32,
    /// Port by the name of its process.
    ports: BTreeMap<String, u16>,
    /// Number of the sample collection, once it was loaded whole. What its points are then is the user's matter.
    #[serde(default)]
    sample: Option<u64>,
}

/// How many nodes a cluster in `folder` will have, by what is asked for and what is there. Changes nothing.
pub(crate) fn nodes_in(folder: &Path, asked: Option<u32>) -> u32 {
    let text = fs::read(folder.join("up.json")).unwrap_or_default();
    // What does not read is told of when the folder is opened.
    let there = serde_json::from_slice(&text).map_or(0, |notes: Notes| notes.nodes);
    asked.unwrap_or(if there > 0 { there } else { NODES })
}

impl Home {
    /// Opens a folder for a cluster of `nodes` nodes, or makes it.
    ///
    /// Errors: another process has it open; or it holds the data of more nodes.
    pub(crate) fn open(folder: &Path, nodes: Option<u32>) -> Result<Self, Failure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Failure::new(format!("{what} {}: {error}", folder.display())).next("name another folder with --data")
        };
        make_folder(folder).map_err(|error| failed("make", &error))?;
        let lock = File::create(folder.join("lock")).map_err(|error| failed("write to", &error))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => failed("open", &"it is in use by another `shoal up`"),
            TryLockError::Error(error) => failed("lock", &error),
        })?;
        let mut notes = match fs::read(folder.join("up.json")) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| failed("read up.json in", &error))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Notes::default(),
            Err(error) => return Err(failed("read up.json in", &error)),
        };
        let wanted = nodes.unwrap_or(notes.nodes.max(NODES));
        if nodes.is_none() && notes.nodes > 0 {
            return Ok(Self { folder: folder.to_owned(), notes, added: 0, _lock: lock });
        }
        if wanted < notes.nodes {
            let problem = format!("{} holds the data of {} nodes, {wanted} are too few", folder.display(), notes.nodes);
            return Err(Failure::new(problem).next(format!("start it with --nodes {}", notes.nodes)));
        }
        let added = if notes.nodes == 0 { 0 } else { wanted - notes.nodes };
        notes.nodes = wanted;
        Ok(Self { folder: folder.to_owned(), notes, added, _lock: lock })
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> u32 {
        self.notes.nodes
    }

    /// How many nodes this start adds to those that the folder had.
    pub(crate) fn added(&self) -> u32 {
        self.added
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// The folder of one process.
    pub(crate) fn folder_of(&self, process: &str) -> PathBuf {
        self.folder.join(process)
    }

    /// Listens on the port that `name` had before, or on a free one.
    pub(crate) async fn listen(&mut self, name: &str) -> Result<TcpListener, Failure> {
        let before = match self.notes.ports.get(name) {
            Some(port) => TcpListener::bind(("127.0.0.1", *port)).await.ok(),
            None => None,
        };
        let listener = match before {
            Some(listener) => listener,
            None => self.listen_anew(name, IpAddr::V4(Ipv4Addr::LOCALHOST)).await?,
        };
        let bound = listener.local_addr().map_err(|error| Failure::new(format!("{name}: {error}")))?;
        self.notes.ports.insert(name.to_owned(), bound.port());
        Ok(listener)
    }

    /// Listens on a free port that no process has had before.
    pub(crate) async fn listen_anew(&self, name: &str, address: IpAddr) -> Result<TcpListener, Failure> {
        let failed = |error| Failure::new(format!("{name}: listen on a free port: {error}"));
        let mut held = Vec::new(); // so that the system offers others
        loop {
            let listener = TcpListener::bind((address, 0)).await.map_err(failed)?;
            let port = listener.local_addr().map_err(failed)?.port();
            if !self.notes.ports.values().any(|remembered| *remembered == port) {
                return Ok(listener);
            }
            held.push(listener); // at most as many as are remembered
        }
    }

    /// Whether this collection was loaded as the sample, whole, by this or an earlier start.
    pub(crate) fn sample_is_loaded(&self, collection: u64) -> bool {
        self.notes.sample == Some(collection)
    }

    /// Notes that this collection was loaded as the sample.
    pub(crate) fn note_sample(&mut self, collection: u64) -> Result<(), Failure> {
        self.notes.sample = Some(collection);
        self.save()
    }

    /// Notes ports and size for the next start.
    pub(crate) fn save(&self) -> Result<(), Failure> {
        write_json(&self.folder, "up.json", &self.notes)
            .map_err(|error| Failure::new(format!("write up.json in {}: {error}", self.folder.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ports_and_size_are_remembered() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut home = Home::open(folder.path(), Some(2)).expect("a new folder");
        let first = home.listen("node-1").await.expect("a free port");
        let port = first.local_addr().expect("bound").port();
        home.save().expect("saved");
        drop((home, first));

        let mut home = Home::open(folder.path(), None).expect("the same folder");
        assert_eq!(home.nodes(), 2);
        let again = home.listen("node-1").await.expect("the same port");
        assert_eq!(again.local_addr().expect("bound").port(), port);
        let other = home.listen("node-1").await.expect("another, since that one is taken");
        assert_ne!(other.local_addr().expect("bound").port(), port);
    }

    #[tokio::test]
    async fn a_free_port_is_none_that_is_remembered() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut home = Home::open(folder.path(), Some(1)).expect("a new folder");
        home.notes.ports = (1..=u16::MAX).map(|port| (port.to_string(), port)).collect();
        home.notes.ports.retain(|_, port| port.is_multiple_of(2));
        let listener = home.listen_anew("router", IpAddr::V4(Ipv4Addr::LOCALHOST)).await.expect("an odd port");
        assert_eq!(listener.local_addr().expect("bound").port() % 2, 1, "even ones are remembered");
    }

    #[test]
    fn nodes_are_known_before_anything_is_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let there = folder.path().join("there");
        assert_eq!((nodes_in(&there, None), nodes_in(&there, Some(5))), (3, 5));
        assert!(!there.exists(), "it was only looked at");
        let home = Home::open(&there, Some(4)).expect("a new folder");
        assert_eq!(home.added(), 0, "all are new, so none is");
        home.save().expect("saved");
        assert_eq!(nodes_in(&there, None), 4);
    }

    #[test]
    fn the_loaded_sample_is_remembered() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut home = Home::open(folder.path(), None).expect("a new folder");
        assert!(!home.sample_is_loaded(1));
        home.note_sample(1).expect("saved");
        drop(home);
        let home = Home::open(folder.path(), None).expect("the same folder");
        assert!(home.sample_is_loaded(1));
        assert!(!home.sample_is_loaded(2), "a collection that was created later is another");
    }

    #[test]
    fn one_process_has_it_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::open(folder.path(), None).expect("a new folder");
        assert_eq!(home.nodes(), 3);
        let error = Home::open(folder.path(), None).map(drop).expect_err("it is open already");
        assert!(error.message.contains("in use"), "{error}");
        drop(home);
        Home::open(folder.path(), None).map(drop).expect("it was let go");
    }

    #[test]
    fn fewer_nodes_than_hold_data_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        Home::open(folder.path(), Some(4)).expect("a new folder").save().expect("saved");
        let error = Home::open(folder.path(), Some(3)).map(drop).expect_err("node-4 would be missing");
        assert_eq!(error.next.as_deref(), Some("start it with --nodes 4"));
        let more = Home::open(folder.path(), Some(5)).expect("more are fine");
        assert_eq!((more.nodes(), more.added()), (5, 1));
    }
}
