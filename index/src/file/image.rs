//! Opening a segment file, and handing out its sections.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use zerocopy::{FromBytes, Immutable};

use super::header::{HEADER_BYTES, Header};
use super::memory::Memory;
use super::sums::Sums;
use super::{BLOCK_BYTES, Fault, FileError, Residency, Tag, Verify};

/// How to open a file; the default maps it and verifies everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Where its bytes shall be.
    pub residency: Residency,
    /// What is checked first.
    pub verify: Verify,
    /// The checksum that the file must have, as [`Image::checksum`] tells it: that this file is meant, and no other.
    pub checksum: Option<u64>,
    /// Have a mapped file read ahead in the background; of use when `verify` does not read it anyway.
    pub prefetch: bool,
}

/// A segment file in memory: immutable, shared by reference.
///
/// Sections start at multiples of 4 KiB in memory, too. Their places are sound; what is in them is for their readers
/// to distrust, as a checksum can be computed by anyone.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    memory: Memory,
    header: Header,
    checksum: u64,
    kept: Option<Kept>,
}

/// A copy of the end of the body, which no change of the file reaches.
#[derive(Debug)]
struct Kept {
    memory: Memory,
    /// Where it begins in the file.
    from: usize,
}

impl Image {
    /// Opens a file.
    ///
    /// Errors: `Missing`, `Io` and `NoMemory` by the system; else what is wrong with the file, which
    /// [`FileError::is_bad_file`] tells apart.
    pub fn open(path: &Path, how: &Open) -> Result<Self, FileError> {
        let memory = load(path, how).map_err(FileError::at(path))?;
        Self::new(path.to_owned(), memory, how)
    }

    /// A resident image of bytes that came from elsewhere. `name` stands for the path in errors. Errors: as `open`.
    pub fn from_bytes(name: &str, bytes: &[u8], verify: Verify) -> Result<Self, FileError> {
        let memory = copy(bytes).map_err(FileError::at(Path::new(name)))?;
        Self::new(PathBuf::from(name), memory, &Open { verify, ..Open::default() })
    }

    /// Takes over memory once it was found to hold an image.
    pub(super) fn new(path: PathBuf, memory: Memory, how: &Open) -> Result<Self, FileError> {
        let (header, checksum) = inspect(memory.bytes(), how.checksum).map_err(FileError::at(&path))?;
        let image = Self { path, memory, header, checksum, kept: None };
        if how.verify == Verify::Everything {
            image.verify_blocks()?;
        }
        Ok(image)
    }

    /// The bytes of a section, `None` if there is no such section.
    #[must_use]
    pub fn section(&self, tag: Tag) -> Option<&[u8]> {
        let range = self.header.section(tag)?;
        let bytes = match &self.kept {
            Some(kept) if range.start >= kept.from => {
                &kept.memory.bytes()[range.start - kept.from..range.end - kept.from]
            }
            _ => &self.bytes()[range],
        };
        debug_assert!(bytes.as_ptr().addr().is_multiple_of(64), "sections start at cache lines");
        Some(bytes)
    }

    /// Copies a section of a mapped image, and all that follow it, to memory of our own, from which they are read from now
    /// on: whatever becomes of the file, they stay as they were when it was opened. Nothing is done if there is no such
    /// section, or the image is resident anyway.
    ///
    /// Errors: `NoMemory`.
    pub fn keep_from(&mut self, tag: Tag) -> Result<(), FileError> {
        let Some(range) = self.header.section(tag).filter(|_| self.residency() == Residency::Mapped) else {
            return Ok(());
        };
        let bytes = &self.bytes()[range.start..self.header.body().end];
        if bytes.is_empty() {
            return Ok(());
        }
        let refused = no_memory(bytes.len() as u64);
        let memory = Memory::resident(bytes.len(), refused, |memory| {
            memory.copy_from_slice(bytes);
            Ok(())
        });
        self.kept = Some(Kept { memory: memory.map_err(FileError::at(&self.path))?, from: range.start });
        Ok(())
    }

    /// Memory that the image holds of its own, the file's pages aside.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let own = if self.residency() == Residency::Resident { self.bytes().len() } else { 0 };
        own + self.kept.as_ref().map_or(0, |kept| kept.memory.bytes().len())
    }

    /// A section as a row of items of fixed layout, such as `u32` or `half::f16`.
    ///
    /// Errors: `NoSection`, or `SectionShape` if it is no whole number of items.
    pub fn table<T: FromBytes + Immutable>(&self, tag: Tag) -> Result<&[T], FileError> {
        let at = FileError::at(&self.path);
        let bytes = self.section(tag).ok_or(Fault::NoSection { tag }).map_err(&at)?;
        let shape = Fault::SectionShape { tag, length: bytes.len(), item: size_of::<T>() };
        <[T]>::ref_from_bytes(bytes).map_err(|_| at(shape))
    }

    /// Tags of the sections, in the order in which they lie.
    pub fn tags(&self) -> impl Iterator<Item = Tag> + '_ {
        self.header.tags()
    }

    /// What the creator put beside the sections.
    #[must_use]
    pub fn parameters(&self) -> &[u8] {
        &self.header.parameters
    }

    /// The checksum of the file, which stands for all of its bytes.
    #[must_use]
    pub fn checksum(&self) -> u64 {
        self.checksum
    }

    /// All bytes, to be sent or written elsewhere.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.memory.bytes()
    }

    /// The file, or what stands for its name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the bytes are.
    #[must_use]
    pub fn residency(&self) -> Residency {
        match self.memory {
            Memory::Mapped(_) => Residency::Mapped,
            Memory::Resident { .. } => Residency::Resident,
        }
    }

    /// Checks every byte again. Errors: `HeaderDamaged`, `ChecksumsDamaged`, `Damaged` and their like.
    pub fn verify(&self) -> Result<(), FileError> {
        inspect(self.bytes(), Some(self.checksum)).map_err(FileError::at(&self.path))?;
        self.verify_blocks()
    }

    /// How many blocks there are, for a scrub that takes them one at a time.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.header.body().len().div_ceil(BLOCK_BYTES)
    }

    /// Checks a block, in some 20 µs if it is in memory. Errors: `Damaged`.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn verify_block(&self, number: usize) -> Result<(), FileError> {
        let body = self.header.body();
        let start = body.start + number * BLOCK_BYTES;
        let block = &self.bytes()[start..body.end.min(start + BLOCK_BYTES)];
        if Sums::new(&self.bytes()[body.end..]).hold_for(number, block) {
            return Ok(());
        }
        Err(FileError::at(&self.path)(Fault::Damaged { block: number, offset: start as u64 }))
    }

    fn verify_blocks(&self) -> Result<(), FileError> {
        (0..self.blocks()).try_for_each(|number| self.verify_block(number))
    }
}

/// Brings a file into memory once its header and length allow it.
fn load(path: &Path, how: &Open) -> Result<Memory, Fault> {
    let not_there = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Fault::Missing,
        _ => Fault::io("open")(error),
    };
    // Opening a pipe waits for whoever writes to it, for ever.
    if !fs::metadata(path).map_err(not_there)?.is_file() {
        return Err(Fault::Malformed { problem: "it is no file" });
    }
    let mut file = File::open(path).map_err(not_there)?;
    let length = file.metadata().map_err(Fault::io("look up"))?.len();
    let mut start = Vec::with_capacity(HEADER_BYTES);
    Read::by_ref(&mut file).take(HEADER_BYTES as u64).read_to_end(&mut start).map_err(Fault::io("read"))?;
    let header = Header::decode(&start)?;
    header.check_length(length)?;
    let len = usize::try_from(length).map_err(|_| no_memory(length)(io::ErrorKind::OutOfMemory.into()))?;
    match how.residency {
        Residency::Mapped => Memory::map(&file, len, how.prefetch).map_err(Fault::io("map")),
        Residency::Resident => Memory::resident(len, no_memory(length), |memory| read(&mut file, memory)),
    }
}

/// As [`load`], from bytes.
fn copy(bytes: &[u8]) -> Result<Memory, Fault> {
    let length = bytes.len() as u64;
    Header::decode(bytes)?.check_length(length)?;
    Memory::resident(bytes.len(), no_memory(length), |memory| {
        memory.copy_from_slice(bytes);
        Ok(())
    })
}

/// Errors: `Truncated` if someone cuts the file short meanwhile.
fn read(file: &mut File, memory: &mut [u8]) -> Result<(), Fault> {
    file.seek(SeekFrom::Start(0)).map_err(Fault::io("seek"))?;
    let want = memory.len() as u64;
    file.read_exact(memory).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Fault::Truncated { want, got: file.stream_position().unwrap_or(0) },
        _ => Fault::io("read")(error),
    })
}

/// Header and checksum of an image whose header and checksums are what they should be.
pub(super) fn inspect(bytes: &[u8], expected: Option<u64>) -> Result<(Header, u64), Fault> {
    let header = Header::decode(bytes)?;
    header.check_length(bytes.len() as u64)?;
    let sums = Sums::new(&bytes[header.body().end..]);
    let got = sums.file(&bytes[..HEADER_BYTES]).ok_or(Fault::ChecksumsDamaged)?;
    match expected {
        Some(want) if want != got => Err(Fault::Unexpected { want, got }),
        _ => Ok((header, got)),
    }
}

pub(super) fn no_memory(bytes: u64) -> impl Fn(io::Error) -> Fault {
    move |error| Fault::NoMemory { bytes, error }
}
