//! Room on a disk: how much of it is kept free, and what that leaves to be written.
//!
//! A store that runs into the end of its disk can do nothing more, and what it needs to make room (compactions, a new log)
//! needs room itself. So the last of it is kept: who looks at [`DiskWatch`] stops what can wait before it is touched.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::{Store, StoreError};

/// How often the disk is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What must be free beyond a bound before things go on, as a part of the reserve: what comes and goes with every flush must
/// not turn writes on and off.
const SLACK_PARTS: u64 = 4;

/// A disk as the system tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// A folder on it.
    pub path: String,
    /// What this process may still write.
    pub free_bytes: u64,
    /// All of it.
    pub size_bytes: u64,
}

/// How much of a disk is kept free; the smaller of the two counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// In bytes; 0 keeps nothing.
    pub bytes: u64,
    /// In percent of the disk.
    pub percent: u32,
}

impl Reserve {
    /// What is kept of a disk of that size.
    #[must_use]
    pub fn of(&self, size_bytes: u64) -> u64 {
        self.bytes.min(size_bytes / 100 * u64::from(self.percent))
    }
}

/// What the space that is left allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Everything.
    #[default]
    Enough,
    /// The reserve is touched: nothing is begun that can wait. What is under way elsewhere, and reaches this process
    /// through a log, is taken.
    Low,
    /// Half of the reserve is gone: nothing is taken but what keeps a group together.
    Exhausted,
}

/// How a disk stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskState {
    /// As it was measured; of no size if it has no bounds or was never measured.
    pub space: Space,
    /// What is to be kept free of it.
    pub reserve_bytes: u64,
    /// What that leaves.
    pub room: Room,
}

impl DiskState {
    /// The state after `self` once `space` was measured.
    #[must_use]
    pub fn after(&self, space: Space, reserve: Reserve) -> Self {
        let reserve_bytes = reserve.of(space.size_bytes);
        let slack = |room: Room| if self.room >= room { reserve_bytes / SLACK_PARTS } else { 0 };
        let room = if space.free_bytes < (reserve_bytes / 2).saturating_add(slack(Room::Exhausted)) {
            Room::Exhausted
        } else if space.free_bytes < reserve_bytes.saturating_add(slack(Room::Low)) {
            Room::Low
        } else {
            Room::Enough
        };
        Self { space, reserve_bytes, room }
    }

    /// Whether so many bytes can be written without touching the reserve.
    #[must_use]
    pub fn has_room_for(&self, bytes: u64) -> bool {
        let is_bounded = self.reserve_bytes > 0;
        !is_bounded || self.space.free_bytes.saturating_sub(self.reserve_bytes) >= bytes
    }
}

impl fmt::Display for DiskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Space { path, free_bytes, size_bytes } = &self.space;
        let (free, size, reserve) = (Bytes(*free_bytes), Bytes(*size_bytes), Bytes(self.reserve_bytes));
        write!(f, "{free} of {size} are free at {path}, and {reserve} are to stay free")
    }
}

/// Bytes for people.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
        // Sizes of disks are far below what a float tells exactly.
        #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", UNITS[unit])
    }
}

/// Looks at the disk of a store, again and again.
pub struct DiskWatch {
    store: Arc<dyn Store>,
    reserve: Reserve,
    state: watch::Sender<DiskState>,
}

impl DiskWatch {
    /// A watch that has looked once.
    ///
    /// Errors: the system does not tell.
    pub fn new(store: Arc<dyn Store>, reserve: Reserve) -> Result<Self, StoreError> {
        let watch = Self { store, reserve, state: watch::channel(DiskState::default()).0 };
        watch.look()?;
        Ok(watch)
    }

    /// How the disk stood when it was last looked at.
    #[must_use]
    pub fn state(&self) -> DiskState {
        self.state.borrow().clone()
    }

    /// What there was room for then.
    #[must_use]
    pub fn room(&self) -> Room {
        self.state.borrow().room
    }

    /// Wakes whoever waits when there is room for more or less than before.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<DiskState> {
        self.state.subscribe()
    }

    /// Looks at the disk. May block for as long as the system takes.
    ///
    /// Errors: it does not tell; what was known stays.
    pub fn look(&self) -> Result<(), StoreError> {
        let Some(space) = self.store.space()? else { return Ok(()) };
        self.state.send_if_modified(|state| {
            let next = state.after(space, self.reserve);
            let wake = next.room != state.room;
            *state = next;
            wake
        });
        Ok(())
    }

    /// Looks again and again until dropped; tells `changed` when there is room for more or less than before, and at once if
    /// there is not enough.
    pub async fn follow(self: Arc<Self>, changed: impl Fn(&DiskState) + Send) {
        let mut interval = tokio::time::interval(LOOK_EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = Room::Enough;
        loop {
            let state = self.state();
            if state.room != told {
                told = state.room;
                changed(&state);
            }
            interval.tick().await;
            let this = self.clone();
            // What cannot be measured is as it was.
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_smaller_reserve_counts() {
        let reserve = Reserve { bytes: 1_024 * MIB, percent: 5 };
        for (size, want) in [(100 * MIB, 5 * MIB), (1 << 40, 1_024 * MIB), (0, 0)] {
            assert_eq!(reserve.of(size), want, "{size}");
        }
        assert_eq!(Reserve { bytes: 0, percent: 5 }.of(1 << 40), 0);
    }

    #[test]
    fn what_is_low_needs_more_to_be_enough_again() {
        let reserve = Reserve { bytes: 100 * MIB, percent: 100 };
        let mut state = DiskState::default();
        for (free, want) in [
            (100, Room::Enough),
            (99, Room::Low),
            (124, Room::Low),
            (125, Room::Enough),
            (50, Room::Low),
            (49, Room::Exhausted),
            (74, Room::Exhausted),
            (75, Room::Low),
            (49, Room::Exhausted),
            (200, Room::Enough),
        ] {
            let space = Space { path: "/data".into(), free_bytes: free * MIB, size_bytes: 1_000 * MIB };
            state = state.after(space, reserve);
            assert_eq!(state.room, want, "{free} MiB");
        }
        assert!(state.has_room_for(100 * MIB) && !state.has_room_for(101 * MIB));
        assert_eq!(state.to_string(), "200.0 MiB of 1000.0 MiB are free at /data, and 100.0 MiB are to stay free");
        assert!(DiskState::default().has_room_for(u64::MAX), "nothing is known of it");
    }
}
