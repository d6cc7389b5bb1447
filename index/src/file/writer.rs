//! Writing a segment file: sections in order, checksums on the way, visible under its name only when it is whole.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use shoal_model::failpoints::{Failpoint, meet};

use super::header::{HEADER_BYTES, Header, Section};
use super::image::{Image, Open, no_memory};
use super::memory::Memory;
use super::{
    Align, BLOCK_BYTES, Fault, FileError, PAGE, PARAMETERS_MAX_BYTES, Residency, SECTIONS_MAX, Tag, Verify, sums,
};

/// Blocks after which the disk is waited for.
///
/// What a log on the same file system syncs meanwhile may have to wait for all that we have not synced: 8 MiB of it,
/// not a whole segment.
const SYNC_BLOCKS: usize = 32;

/// What a file is called until it is whole.
const UNFINISHED: &str = "tmp";

/// Writes one segment, to a file or to memory; the bytes are the same.
///
/// An error ends it: it removes what it wrote at once, and every later write says `WriterFailed`, as does finishing.
/// Dropped unfinished, it removes its file as well; what a crash leaves is for [`remove_unfinished`].
#[derive(Debug)]
pub struct ImageWriter {
    path: PathBuf,
    /// `None` after an error.
    sink: Option<Sink>,
    sections: Vec<Section>,
    /// What is not in the sink yet of the body: less than a block.
    block: Vec<u8>,
    /// Where the next byte goes in the file.
    position: u64,
    sums: Vec<u8>,
}

impl ImageWriter {
    /// Begins `name.tmp` in `folder`, which [`ImageWriter::finish`] renames to `name`, replacing what has that name.
    ///
    /// Errors: `Io` if another writer is at it, among others; `DiskFull`.
    ///
    /// # Panics
    /// If `name` is not that of a file, but a path, say.
    pub fn create(folder: &Path, name: &str) -> Result<Self, FileError> {
        assert!(Path::new(name).file_name().is_some_and(|own| own == name), "{name:?} is the name of a file");
        let path = folder.join(name);
        let unfinished = Unfinished::create(folder.join(format!("{name}.{UNFINISHED}")));
        let sink = Sink::File(unfinished.map_err(FileError::at(&path))?);
        Ok(Self::new(path, sink))
    }

    /// Begins an image that will be in memory only. Errors of it carry `name` for a path.
    #[must_use]
    pub fn in_memory(name: &str) -> Self {
        Self::new(PathBuf::from(name), Sink::Memory(Vec::new()))
    }

    fn new(path: PathBuf, sink: Sink) -> Self {
        let block = Vec::with_capacity(BLOCK_BYTES);
        Self { path, sink: Some(sink), sections: Vec::new(), block, position: PAGE, sums: Vec::new() }
    }

    /// Ends the section before, if any, and begins the next. Errors: `DiskFull`, `Io`, `WriterFailed`.
    ///
    /// # Panics
    /// If there are 16 sections already, or one of this tag.
    pub fn begin_section(&mut self, tag: Tag, align: Align) -> Result<(), FileError> {
        assert!(self.sections.len() < SECTIONS_MAX, "a file has at most {SECTIONS_MAX} sections");
        assert!(self.sections.iter().all(|section| section.tag != tag), "a tag names one section");
        self.pad(align.bytes())?;
        self.sections.push(Section { tag, offset: self.position, length: 0 });
        Ok(())
    }

    /// Appends to the section that was begun last. Errors: `DiskFull`, `Io`, `WriterFailed`.
    ///
    /// # Panics
    /// If no section was begun.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let section = self.sections.last_mut().expect("a section is begun before it is written");
        section.length += bytes.len() as u64;
        self.push(bytes)
    }

    /// Writes checksums and header, makes the file durable under its name, and opens it.
    ///
    /// `parameters`: at most 1,024 bytes, which [`Image::parameters`] hands out again. What was just written is not
    /// read back, but for its header. An image in memory is always resident.
    /// Errors: `DiskFull`, `Io`, `WriterFailed`, and those of [`Image::open`].
    ///
    /// # Panics
    /// If there are more parameters.
    pub fn finish(mut self, parameters: &[u8], residency: Residency) -> Result<Image, FileError> {
        assert!(parameters.len() <= PARAMETERS_MAX_BYTES, "{} bytes of parameters", parameters.len());
        self.pad(PAGE)?;
        if !self.block.is_empty() {
            self.flush()?;
        }
        let at = FileError::at(&self.path);
        let header = Header::new(parameters.to_vec(), std::mem::take(&mut self.sections)).map_err(&at)?;
        let page = header.encode();
        let checksum = sums::of_file(&page, &self.sums);
        self.sums.extend_from_slice(&checksum.to_le_bytes());
        let how = Open { residency, verify: Verify::Header, checksum: Some(checksum), prefetch: false };
        match self.sink.take().ok_or(Fault::WriterFailed).map_err(&at)? {
            Sink::File(unfinished) => {
                unfinished.finish(&page, &self.sums, &self.path).map_err(&at)?;
                Image::open(&self.path, &how)
            }
            Sink::Memory(blocks) => {
                let memory = join(&page, blocks, &self.sums, header.length()).map_err(&at)?;
                Image::new(self.path.clone(), memory, &how)
            }
        }
    }

    /// Zeros up to a multiple of `align`.
    fn pad(&mut self, align: u64) -> Result<(), FileError> {
        const ZEROS: [u8; HEADER_BYTES] = [0; HEADER_BYTES];
        while !self.position.is_multiple_of(align) {
            let to_page = (self.position.next_multiple_of(PAGE) - self.position) as usize;
            self.push(&ZEROS[..if to_page == 0 { HEADER_BYTES } else { to_page }])?;
        }
        Ok(())
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<(), FileError> {
        if self.sink.is_none() {
            return Err(FileError::at(&self.path)(Fault::WriterFailed));
        }
        while !bytes.is_empty() {
            let room = BLOCK_BYTES - self.block.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.extend_from_slice(now);
            self.position += now.len() as u64;
            if self.block.len() == BLOCK_BYTES {
                self.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Hands a block on. An error drops the sink, and with it the file.
    fn flush(&mut self) -> Result<(), FileError> {
        self.sums.extend_from_slice(&sums::of_block(&self.block));
        let written = match self.sink.take() {
            None => Err(Fault::WriterFailed),
            Some(mut sink) => sink.append(&self.block).map(|()| self.sink = Some(sink)),
        };
        self.block.clear();
        written.map_err(FileError::at(&self.path))
    }
}

#[cfg(all(test, target_os = "linux"))]
impl ImageWriter {
    /// From here on, the disk is full.
    pub(super) fn fill_the_disk(&mut self) {
        let Some(Sink::File(unfinished)) = &mut self.sink else { panic!("no disk is written to") };
        unfinished.file = File::options().write(true).open("/dev/full").expect("a device that Linux has");
    }
}

/// Removes what writers left in `folder` that had no chance to: call it once, before the first writer there.
///
/// Tells how many files there were. Errors: `Io`.
pub fn remove_unfinished(folder: &Path) -> Result<usize, FileError> {
    let at = FileError::at(folder);
    let mut count = 0;
    for entry in fs::read_dir(folder).map_err(Fault::io("list")).map_err(&at)? {
        let path = entry.map_err(Fault::io("list")).map_err(&at)?.path();
        if path.extension().is_some_and(|extension| extension == UNFINISHED) {
            fs::remove_file(&path).map_err(Fault::io("remove")).map_err(FileError::at(&path))?;
            count += 1;
        }
    }
    Ok(count)
}

#[derive(Debug)]
enum Sink {
    File(Unfinished),
    Memory(Vec<Vec<u8>>),
}

impl Sink {
    fn append(&mut self, block: &[u8]) -> Result<(), Fault> {
        match self {
            Self::File(unfinished) => unfinished.append(block),
            Self::Memory(blocks) => {
                blocks.push(block.to_vec());
                Ok(())
            }
        }
    }
}

/// The file while it has its other name. Removed when dropped.
#[derive(Debug)]
struct Unfinished {
    file: File,
    path: PathBuf,
    blocks: usize,
    is_renamed: bool,
}

impl Unfinished {
    /// Leaves room for the header, which is written last.
    fn create(path: PathBuf) -> Result<Self, Fault> {
        let file = File::options().write(true).create_new(true).open(&path).map_err(Fault::io("create"))?;
        let mut unfinished = Self { file, path, blocks: 0, is_renamed: false };
        unfinished.file.write_all(&[0; HEADER_BYTES]).map_err(Fault::io("write"))?;
        Ok(unfinished)
    }

    fn append(&mut self, block: &[u8]) -> Result<(), Fault> {
        meet(Failpoint::IndexFileWrite).map_err(io::Error::from).map_err(Fault::io("write"))?;
        self.file.write_all(block).map_err(Fault::io("write"))?;
        self.blocks += 1;
        if self.blocks.is_multiple_of(SYNC_BLOCKS) {
            self.file.sync_data().map_err(Fault::io("sync"))?;
        }
        Ok(())
    }

    fn finish(mut self, header: &[u8], sums: &[u8], path: &Path) -> Result<(), Fault> {
        let write = |file: &mut File| {
            file.write_all(sums)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(header)
        };
        write(&mut self.file).map_err(Fault::io("write"))?;
        meet(Failpoint::IndexFileSync).map_err(io::Error::from).map_err(Fault::io("sync"))?;
        self.file.sync_all().map_err(Fault::io("sync"))?;
        meet(Failpoint::IndexFileRename).map_err(io::Error::from).map_err(Fault::io("rename"))?;
        fs::rename(&self.path, path).map_err(Fault::io("rename"))?;
        self.is_renamed = true;
        meet(Failpoint::IndexFileRenamed).map_err(io::Error::from).map_err(Fault::io("sync the folder"))?;
        sync_folder_of(path).map_err(Fault::io("sync the folder"))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_renamed {
            // What stays is found by `remove_unfinished`.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Without it, a rename may not survive a power cut.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Puts an image together, freeing each block once it is copied.
fn join(header: &[u8], blocks: Vec<Vec<u8>>, sums: &[u8], length: u64) -> Result<Memory, Fault> {
    let refused = no_memory(length);
    let len = usize::try_from(length).map_err(|_| refused(io::ErrorKind::OutOfMemory.into()))?;
    Memory::resident(len, refused, |memory| {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            memory[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(header);
        blocks.into_iter().for_each(|block| put(&block));
        put(sums);
        Ok(())
    })
}
