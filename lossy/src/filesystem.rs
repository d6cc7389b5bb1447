//! The disk as the kernel asks for it. Every request passes the faults first and takes the lock for as long as it copies.
//!
//! The kernel caches what it reads, so that files can be mapped, and writes through. It is told to forget when content
//! changes behind its back. Names and attributes it asks for each time.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::io::Errno;

use crate::controls::{Shared, State};
use crate::disk::{Attributes, Boot, Disk};
use crate::faults::Op;
use crate::journal::{Ino, Place};

/// Names and attributes may change at any time.
const NO_CACHING: Duration = Duration::ZERO;
/// The largest write that the kernel hands over at once.
const WRITE_BYTES_MAX: u32 = 1 << 20;
/// Numbers are not given out twice.
const GENERATION: Generation = Generation(0);
/// `FALLOC_FL_KEEP_SIZE`
const KEEP_SIZE: i32 = 1;

/// What fuser serves.
pub(crate) struct Served {
    shared: Arc<Shared>,
    backing: PathBuf,
}

impl Served {
    pub(crate) fn new(shared: Arc<Shared>, backing: PathBuf) -> Self {
        Self { shared, backing }
    }

    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        self.shared.lock()
    }

    /// Waits and fails as the faults say, without the lock while it waits.
    fn pass(&self, op: Op, path: impl FnOnce(&Disk) -> String) -> io::Result<()> {
        let mut state = self.state()?;
        let delay = state.faults.delay(op);
        let verdict = if state.faults.has_rules() {
            let path = path(&state.disk);
            state.faults.strike(op, &path)
        } else {
            Ok(())
        };
        drop(state);
        if let Some(delay) = delay {
            thread::sleep(delay);
        }
        Ok(verdict?)
    }

    fn pass_node(&self, op: Op, ino: INodeNo) -> io::Result<()> {
        self.pass(op, |disk| disk.path(ino.0))
    }

    fn pass_name(&self, op: Op, folder: INodeNo, name: &OsStr) -> io::Result<()> {
        self.pass(op, |disk| format!("{}/{}", disk.path(folder.0), name.to_string_lossy()).trim_matches('/').to_owned())
    }

    fn attributes(&self, ino: Ino) -> io::Result<FileAttr> {
        self.state()?.disk.attributes(ino).map(file_attr)
    }

    fn try_lookup(&self, folder: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let state = self.state()?;
        state.disk.attributes(state.disk.lookup(folder.0, name)?).map(file_attr)
    }

    fn try_open(&self, ino: INodeNo) -> io::Result<Boot> {
        self.pass_node(Op::Open, ino)?;
        self.state()?.disk.open_node(ino.0)
    }

    fn try_create(&self, folder: INodeNo, name: &OsStr, mode: u32) -> io::Result<(FileAttr, Boot)> {
        self.pass_name(Op::Create, folder, name)?;
        let mut state = self.state()?;
        let ino = state.disk.create_file(folder.0, name, mode)?;
        let boot = state.disk.open_node(ino)?;
        Ok((file_attr(state.disk.attributes(ino)?), boot))
    }

    fn try_mknod(&self, folder: INodeNo, name: &OsStr, mode: u32) -> io::Result<FileAttr> {
        if rustix::fs::FileType::from_raw_mode(mode) != rustix::fs::FileType::RegularFile {
            return Err(Errno::OPNOTSUPP.into());
        }
        self.pass_name(Op::Create, folder, name)?;
        let mut state = self.state()?;
        let ino = state.disk.create_file(folder.0, name, mode)?;
        state.disk.attributes(ino).map(file_attr)
    }

    fn try_mkdir(&self, folder: INodeNo, name: &OsStr, mode: u32) -> io::Result<FileAttr> {
        self.pass_name(Op::Mkdir, folder, name)?;
        let mut state = self.state()?;
        let ino = state.disk.create_folder(folder.0, name, mode)?;
        state.disk.attributes(ino).map(file_attr)
    }

    fn try_remove(&self, folder: INodeNo, name: &OsStr, is_folder: bool) -> io::Result<()> {
        self.pass_name(Op::Remove, folder, name)?;
        let disk = &mut self.state()?.disk;
        if is_folder { disk.remove_folder(folder.0, name) } else { disk.remove_file(folder.0, name) }
    }

    fn try_rename(&self, from: Place, to: Place, flags: RenameFlags) -> io::Result<()> {
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return Err(Errno::INVAL.into());
        }
        self.pass_name(Op::Rename, INodeNo(from.folder), &from.name)?;
        self.state()?.disk.rename(from, to, flags.contains(RenameFlags::RENAME_NOREPLACE))
    }

    fn try_read(&self, ino: INodeNo, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        self.pass_node(Op::Read, ino)?;
        let mut state = self.state()?;
        state.stats.reads += 1;
        state.disk.read(ino.0, offset, size as usize)
    }

    fn try_write(&self, ino: INodeNo, boot: Boot, offset: u64, data: &[u8]) -> io::Result<()> {
        self.pass_node(Op::Write, ino)?;
        let mut state = self.state()?;
        let size = state.disk.attributes(ino.0)?.size;
        state.faults.check_growth(size, offset + data.len() as u64)?;
        state.disk.write(ino.0, boot, offset, data)?;
        state.stats.writes += 1;
        state.stats.bytes_written += data.len() as u64;
        Ok(())
    }

    fn try_fallocate(&self, ino: INodeNo, boot: Boot, end: u64, mode: i32) -> io::Result<()> {
        if mode & !KEEP_SIZE != 0 {
            return Err(Errno::OPNOTSUPP.into());
        }
        self.pass_node(Op::Write, ino)?;
        let mut state = self.state()?;
        let size = state.disk.attributes(ino.0)?.size;
        state.faults.check_growth(size, end)?;
        if mode == KEEP_SIZE || end <= size { Ok(()) } else { state.disk.resize(ino.0, Some(boot), end) }
    }

    fn try_resize(&self, ino: INodeNo, handle: Option<FileHandle>, size: u64) -> io::Result<()> {
        self.pass_node(Op::Truncate, ino)?;
        self.state()?.disk.resize(ino.0, handle.map(|handle| handle.0), size)
    }

    fn try_sync_file(&self, ino: INodeNo, boot: Boot) -> io::Result<()> {
        if let Err(error) = self.pass_node(Op::Fsync, ino) {
            self.state()?.disk.fail_sync(ino.0)?;
            return Err(error);
        }
        let mut state = self.state()?;
        state.disk.sync_file(ino.0, boot)?;
        state.stats.syncs += 1;
        Ok(())
    }

    fn try_sync_folder(&self, ino: INodeNo, boot: Boot) -> io::Result<()> {
        self.pass_node(Op::FsyncDir, ino)?;
        let mut state = self.state()?;
        state.disk.sync_folder(ino.0, boot)?;
        state.stats.folder_syncs += 1;
        Ok(())
    }

    /// Fills in names until the reply is full. The cookie of a name follows from its number, so that a name that goes
    /// between two calls makes no other be skipped.
    fn try_list(&self, folder: INodeNo, after: u64, reply: &mut ReplyDirectory) -> io::Result<()> {
        const DOTS: u64 = 2;
        let state = self.state()?;
        let dots = [(folder.0, "."), (state.disk.parent(folder.0), "..")];
        for (cookie, (ino, name)) in (1..=DOTS).zip(dots) {
            if cookie > after && reply.add(INodeNo(ino), cookie, FileType::Directory, name) {
                return Ok(());
            }
        }
        for entry in state.disk.list(folder.0)?.into_iter().filter(|entry| entry.ino + DOTS > after) {
            if reply.add(INodeNo(entry.ino), entry.ino + DOTS, file_type(entry.is_folder), &entry.name) {
                break;
            }
        }
        Ok(())
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Refused only if it is more than fuser can take, which then takes what it can.
        let _ = config.set_max_write(WRITE_BYTES_MAX);
        Ok(())
    }

    fn destroy(&mut self) {
        if let Err(error) = self.state().and_then(|mut state| state.disk.close()) {
            eprintln!("lossy: unmounted, but not everything is durable: {error}");
        }
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply_entry(self.try_lookup(parent, name), reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply_attr(self.attributes(ino.0), reply);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = || {
            if let Some(size) = size {
                self.try_resize(ino, handle, size)?;
            }
            if let Some(mode) = mode {
                self.state()?.disk.set_mode(ino.0, mode)?;
            }
            if let Some(time) = mtime {
                self.state()?.disk.set_modified(ino.0, at(time))?;
            }
            self.attributes(ino.0)
        };
        reply_attr(change(), reply);
    }

    fn mknod(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply_entry(self.try_mknod(parent, name, mode), reply);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        reply_entry(self.try_mkdir(parent, name, mode), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.try_remove(parent, name, false), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.try_remove(parent, name, true), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = (Place::new(parent.0, name), Place::new(new_parent.0, new_name));
        reply_empty(self.try_rename(from, to, flags), reply);
    }

    /// RocksDB copies instead if it is told that links are not supported.
    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(fuser::Errno::ENOTSUP);
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.try_open(ino) {
            Ok(boot) => reply.opened(FileHandle(boot), FopenFlags::empty()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        match self.try_create(parent, name, mode) {
            Ok((attr, boot)) => {
                reply.created(&NO_CACHING, &attr, GENERATION, FileHandle(boot), FopenFlags::empty());
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.try_read(ino, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.try_write(ino, handle.0, offset, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).expect("no more than a request holds")),
            Err(error) => reply.error(error.into()),
        }
    }

    fn fallocate(&self, _: &Request, ino: INodeNo, fh: FileHandle, from: u64, len: u64, mode: i32, reply: ReplyEmpty) {
        reply_empty(self.try_fallocate(ino, fh.0, from.saturating_add(len), mode), reply);
    }

    /// The kernel then no longer asks at every close.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty(self.state().and_then(|mut state| state.disk.close_node(ino.0, handle.0)), reply);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        reply_empty(self.try_sync_file(ino, handle.0), reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.state().and_then(|mut state| state.disk.open_node(ino.0)) {
            Ok(boot) => reply.opened(FileHandle(boot), FopenFlags::empty()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.try_list(ino, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error.into()),
        }
    }

    fn releasedir(&self, _: &Request, ino: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        reply_empty(self.state().and_then(|mut state| state.disk.close_node(ino.0, handle.0)), reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        reply_empty(self.try_sync_folder(ino, handle.0), reply);
    }

    /// As the backing file system has it, but for the room that is told of.
    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let about = rustix::fs::statvfs(&self.backing).map_err(io::Error::from);
        let told = about.and_then(|about| {
            let block = about.f_frsize.max(1);
            let free = |state: &State, blocks: u64| state.faults.told_free(blocks.saturating_mul(block)) / block;
            let state = self.state()?;
            Ok((free(&state, about.f_bfree), free(&state, about.f_bavail), about))
        });
        match told {
            Ok((bfree, bavail, about)) => {
                let narrow = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
                let (bsize, frsize, names) = (narrow(about.f_bsize), narrow(about.f_frsize), narrow(about.f_namemax));
                reply.statfs(about.f_blocks, bfree, bavail, about.f_files, about.f_ffree, bsize, names, frsize);
            }
            Err(error) => reply.error(error.into()),
        }
    }

    /// The kernel asks before every write, until it is told that there is no such thing.
    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }
}

fn reply_entry(result: io::Result<FileAttr>, reply: ReplyEntry) {
    match result {
        Ok(attr) => reply.entry(&NO_CACHING, &attr, GENERATION),
        Err(error) => reply.error(error.into()),
    }
}

fn reply_attr(result: io::Result<FileAttr>, reply: ReplyAttr) {
    match result {
        Ok(attr) => reply.attr(&NO_CACHING, &attr),
        Err(error) => reply.error(error.into()),
    }
}

fn reply_empty(result: io::Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.into()),
    }
}

fn file_type(is_folder: bool) -> FileType {
    if is_folder { FileType::Directory } else { FileType::RegularFile }
}

fn file_attr(attributes: Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.ino),
        size: attributes.size,
        blocks: attributes.size.div_ceil(512),
        atime: attributes.modified,
        mtime: attributes.modified,
        ctime: attributes.modified,
        crtime: attributes.modified,
        kind: file_type(attributes.is_folder),
        perm: u16::try_from(attributes.mode).expect("twelve bits"),
        nlink: attributes.links,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn at(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}
