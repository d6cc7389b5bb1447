//! Where a segment is written to and opened from.

use std::path::PathBuf;

use crate::file::{FileError, Image, ImageWriter, Open, Residency};

/// Ending of the file that has the graph.
const GRAPH: &str = "graph";

/// Ending of the file that has what else is kept of points.
const STORED: &str = "stored";

/// A place for the two files of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `NAME.graph` and `NAME.stored` in a folder. The first is written last: where it is whole, so is the other.
    Folder {
        /// The folder, which exists.
        folder: PathBuf,
        /// What files are named by, without ending.
        name: String,
        /// Where the graph is to be; the other file is always mapped.
        residency: Residency,
    },
    /// Memory only.
    Memory,
}

impl Target {
    pub(super) fn graph_writer(&self) -> Result<ImageWriter, FileError> {
        self.writer(GRAPH)
    }

    pub(super) fn stored_writer(&self) -> Result<ImageWriter, FileError> {
        self.writer(STORED)
    }

    fn writer(&self, ending: &str) -> Result<ImageWriter, FileError> {
        match self {
            Self::Folder { folder, name, .. } => ImageWriter::create(folder, &format!("{name}.{ending}")),
            Self::Memory => Ok(ImageWriter::in_memory(ending)),
        }
    }

    pub(super) fn residency(&self) -> Residency {
        match self {
            Self::Folder { residency, .. } => *residency,
            Self::Memory => Residency::Resident,
        }
    }

    /// Opens the graph, and what is stored with it. Nothing is in memory that was not built there. Errors: as `Image::open`.
    pub(super) fn open_graph(&self) -> Result<Image, FileError> {
        self.open(GRAPH, &Open { residency: self.residency(), ..Open::default() })
    }

    /// Opens what belongs to a graph, by its checksum. Errors: as `Image::open`.
    pub(super) fn open_stored(&self, checksum: u64) -> Result<Image, FileError> {
        self.open(STORED, &Open { checksum: Some(checksum), ..Open::default() })
    }

    fn open(&self, ending: &str, how: &Open) -> Result<Image, FileError> {
        match self {
            Self::Folder { folder, name, .. } => Image::open(&folder.join(format!("{name}.{ending}")), how),
            Self::Memory => Err(FileError { path: PathBuf::from(ending), fault: crate::file::Fault::Missing }),
        }
    }

    /// The files, for their removal.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Folder { folder, name, .. } => {
                [GRAPH, STORED].map(|ending| folder.join(format!("{name}.{ending}"))).into()
            }
            Self::Memory => Vec::new(),
        }
    }
}
