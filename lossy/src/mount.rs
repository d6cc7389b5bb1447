//! Mounting, and unmounting whatever happens.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, MountOption};
use rustix::mount::UnmountFlags;
use rustix::process::{Resource, Rlimit};

use crate::control::Server;
use crate::controls::Shared;
use crate::disk::Disk;
use crate::filesystem::Served;
use crate::{Controls, LossyError, Metadata};

/// How long an unmount waits for what is still open.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(2);

/// A mounted disk. Unmounted when dropped, when its process ends, and when its process is killed.
pub struct Lossy {
    mountpoint: PathBuf,
    controls: Controls,
    server: Option<Server>,
    session: Option<BackgroundSession>,
    keeper: Child,
}

impl Lossy {
    /// Threads that serve, and so operations that can be slow at a time.
    pub const THREADS: usize = 16;

    /// Mounts the content of `backing` at `mountpoint`, two folders of which neither holds the other.
    ///
    /// Errors: `Unavailable` if this machine or user cannot; tests skip then.
    pub fn mount(backing: &Path, mountpoint: &Path, metadata: Metadata) -> Result<Self, LossyError> {
        check_available()?;
        check_apart(backing, mountpoint)?;
        raise_open_files();
        let disk = Disk::open(backing, metadata).map_err(LossyError::io(format!("open {}", backing.display())))?;
        let shared = Arc::new(Shared::new(disk));
        let failed = LossyError::io(format!("mount {}", mountpoint.display()));
        let mountpoint = mountpoint.canonicalize().map_err(LossyError::io("find the mount point"))?;
        let served = Served::new(shared.clone(), backing.to_owned());
        let session = fuser::spawn_mount(served, &mountpoint, &config()).map_err(|error| match error.kind() {
            // Without the right to mount, fuser looks for a set-uid helper.
            io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound => unavailable(&error),
            _ => failed(error),
        })?;
        let keeper = start_keeper(&mountpoint).map_err(LossyError::io("start the child that unmounts"))?;
        let controls = Controls::new(shared, session.notifier());
        Ok(Self { mountpoint, controls, server: None, session: Some(session), keeper })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// What a test does to the disk.
    #[must_use]
    pub fn controls(&self) -> &Controls {
        &self.controls
    }

    /// Takes commands on a Unix socket as long as it is mounted; see [`crate::COMMANDS`] and [`crate::ask`].
    pub fn listen(&mut self, socket: &Path) -> Result<(), LossyError> {
        let server = Server::start(socket, self.controls.clone());
        self.server = Some(server.map_err(LossyError::io(format!("listen on {}", socket.display())))?);
        Ok(())
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.server = None;
        // Detached, so that it is gone from the tree even if a process has files open.
        let _ = rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH);
        if let Some(session) = self.session.take() {
            wait_for_end(&session, &self.mountpoint);
        }
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// The session makes everything durable as it ends, which is when the last open file is closed.
fn wait_for_end(session: &BackgroundSession, mountpoint: &Path) {
    let deadline = Instant::now() + UNMOUNT_PATIENCE;
    while !session.guard.is_finished() {
        if Instant::now() >= deadline {
            eprintln!("lossy: files of {} are still open; what was not synced stays so", mountpoint.display());
            return;
        }
        thread::sleep(Duration::from_millis(1)); // polling a thread that has no other way to tell
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("lossy".to_owned()), MountOption::NoAtime];
    config.n_threads = Some(Lossy::THREADS);
    config
}

fn check_available() -> Result<(), LossyError> {
    if !rustix::process::geteuid().is_root() {
        return Err(LossyError::Unavailable { reason: "only root mounts without a set-uid helper".to_owned() });
    }
    OpenOptions::new().read(true).write(true).open("/dev/fuse").map(drop).map_err(|error| unavailable(&error))
}

fn unavailable(error: &io::Error) -> LossyError {
    LossyError::Unavailable { reason: format!("/dev/fuse or mount: {error}") }
}

/// A disk that is stored on itself would wait for itself.
fn check_apart(backing: &Path, mountpoint: &Path) -> Result<(), LossyError> {
    let real = |path: &Path| fs::canonicalize(path).map_err(LossyError::io(format!("find {}", path.display())));
    let (backing, mountpoint) = (real(backing)?, real(mountpoint)?);
    if !backing.starts_with(&mountpoint) && !mountpoint.starts_with(&backing) {
        return Ok(());
    }
    Err(LossyError::command(format!("{} and {} hold one another", backing.display(), mountpoint.display())))
}

/// Each file that a process has open takes one here too. What cannot be raised shows when it is needed.
fn raise_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// A child whose input ends when this process does, however that ends, and which then unmounts.
///
/// In a process group of its own, so that it outlives what is sent to ours.
fn start_keeper(mountpoint: &Path) -> io::Result<Child> {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "read -r _; umount -l \"$1\"", "lossy-keeper"]).arg(mountpoint);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.process_group(0).current_dir("/").spawn()
}
