//! What a test does to the disk while processes use it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::faults::Faults;
use crate::journal::Ino;
use crate::{Command, Fault, Loss, LossyError, Op, PowerLoss};

/// What has happened and what is at stake.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Reads that the kernel's cache did not answer.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes of all writes.
    pub bytes_written: u64,
    /// Syncs of files that succeeded.
    pub syncs: u64,
    /// Syncs of folders that succeeded.
    pub folder_syncs: u64,
    /// Operations that failed on command or because the disk was full.
    pub faults: u64,
    /// Bytes in whole pages that a power loss would drop now.
    pub unsynced_bytes: u64,
    /// Files with content or a size that a power loss would undo now.
    pub unsynced_files: u64,
    /// Creations, renames and removals that a power loss would undo now.
    pub unsynced_changes: u64,
    /// Power losses so far.
    pub power_losses: u64,
    /// The last of them.
    pub last_loss: Option<Loss>,
}

/// Everything behind the mount, under one lock: a request copies some pages and makes a system call or two.
pub(crate) struct State {
    pub(crate) disk: Disk,
    pub(crate) faults: Faults,
    pub(crate) stats: Stats,
}

/// Shared by the threads that serve the mount and those that control it.
pub(crate) struct Shared(Mutex<State>);

impl Shared {
    pub(crate) fn new(disk: Disk) -> Self {
        Self(Mutex::new(State { disk, faults: Faults::default(), stats: Stats::default() }))
    }

    /// After a panic the state may be anything, so every request fails; the test is to see that.
    pub(crate) fn lock(&self) -> io::Result<MutexGuard<'_, State>> {
        self.0.lock().map_err(|_| Errno::IO.into())
    }
}

/// Controls of a mounted disk. Cheap to clone; of no effect once it is unmounted.
#[derive(Clone)]
pub struct Controls {
    shared: Arc<Shared>,
    notifier: Notifier,
}

impl Controls {
    pub(crate) fn new(shared: Arc<Shared>, notifier: Notifier) -> Self {
        Self { shared, notifier }
    }

    /// Loses what was not synced. Returns once readers see what is left.
    ///
    /// The processes that have files open are the caller's to kill, as a real power loss would.
    pub fn power_loss(&self, power_loss: PowerLoss) -> Result<Loss, LossyError> {
        eprintln!("lossy: power loss {power_loss:?}");
        let (loss, seen) = self.cut(power_loss).map_err(LossyError::io("power loss"))?;
        eprintln!("lossy: {loss:?}");
        self.invalidate(&seen)?;
        Ok(loss)
    }

    fn cut(&self, power_loss: PowerLoss) -> io::Result<(Loss, Vec<Ino>)> {
        let mut state = self.shared.lock()?;
        let seen = state.disk.all();
        let loss = state.disk.power_loss(power_loss)?;
        state.stats.power_losses += 1;
        state.stats.last_loss = Some(loss.clone());
        Ok((loss, seen))
    }

    /// Flips bit 0 to 7 of the byte at `offset` of what is durable of `file`, a path from the root.
    ///
    /// Seen by the next read, unless the page was written and not synced since.
    pub fn flip(&self, file: &str, offset: u64, bit: u32) -> Result<(), LossyError> {
        let what = || format!("flip bit {bit} of byte {offset} of {file}");
        let flipped = self.state()?.disk.flip(file, offset, bit);
        self.invalidate(&[flipped.map_err(LossyError::io(what()))?])
    }

    /// Lets operations fail. Faults add up; the first that applies decides.
    pub fn fail(&self, fault: Fault) -> Result<(), LossyError> {
        let (op, seen) = (fault.op, self.state()?.disk.all());
        self.state()?.faults.add(fault);
        // What the kernel has it does not ask for.
        if op == Op::Read { self.invalidate(&seen) } else { Ok(()) }
    }

    /// Delays every `op`; zero ends it. No more than [`crate::Lossy::THREADS`] wait at a time, others behind them.
    pub fn slow(&self, op: Op, delay: Duration) -> Result<(), LossyError> {
        self.state()?.faults.set_delay(op, delay);
        Ok(())
    }

    /// Refuses, or takes again, what makes a file longer, with `ENOSPC`.
    pub fn set_full(&self, is_full: bool) -> Result<(), LossyError> {
        self.state()?.faults.set_full(is_full);
        Ok(())
    }

    /// Tells that no more than so many bytes are free, and refuses nothing; `None` tells what is.
    pub fn set_room(&self, bytes: Option<u64>) -> Result<(), LossyError> {
        self.state()?.faults.set_room(bytes);
        Ok(())
    }

    /// Ends faults, delays and fullness.
    pub fn clear(&self) -> Result<(), LossyError> {
        self.state()?.faults.clear();
        Ok(())
    }

    /// Counts since the mount, and what is unsynced now.
    pub fn stats(&self) -> Result<Stats, LossyError> {
        let state = self.state()?;
        let unsynced = state.disk.unsynced();
        Ok(Stats {
            faults: state.faults.injected(),
            unsynced_bytes: unsynced.bytes,
            unsynced_files: unsynced.files,
            unsynced_changes: unsynced.changes,
            ..state.stats.clone()
        })
    }

    /// Does as told; the answer is empty, or JSON of [`Loss`] or [`Stats`].
    pub fn run(&self, command: Command) -> Result<String, LossyError> {
        match command {
            Command::PowerLoss(power_loss) => return Ok(json(&self.power_loss(power_loss)?)),
            Command::Stats => return Ok(json(&self.stats()?)),
            Command::Flip { file, offset, bit } => self.flip(&file, offset, bit)?,
            Command::Fail(fault) => self.fail(fault)?,
            Command::Slow(op, delay) => self.slow(op, delay)?,
            Command::Full(is_full) => self.set_full(is_full)?,
            Command::Room(bytes) => self.set_room(bytes)?,
            Command::Clear => self.clear()?,
        }
        Ok(String::new())
    }

    fn state(&self) -> Result<MutexGuard<'_, State>, LossyError> {
        self.shared.lock().map_err(LossyError::io("the disk has panicked"))
    }

    /// Lets the kernel forget content. Never under the lock: the kernel waits for reads that are under way.
    fn invalidate(&self, seen: &[Ino]) -> Result<(), LossyError> {
        let forget = |ino: &Ino| self.notifier.inval_inode(INodeNo(*ino), 0, 0);
        seen.iter().try_for_each(forget).map_err(LossyError::io("let the kernel forget what it read"))
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("counts and names are JSON")
}
