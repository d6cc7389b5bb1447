//! How disks stand, on the wire.

use shoal_runtime::{DiskState, Room, Space};

use crate::v1;

/// For the wire; `None` of a disk without bounds, or one that was never measured.
#[must_use]
pub fn disk_to_wire(disk: &DiskState) -> Option<v1::Disk> {
    let Space { path, free_bytes, size_bytes } = disk.space.clone();
    let room = match disk.room {
        Room::Enough => v1::Room::Enough,
        Room::Low => v1::Room::Low,
        Room::Exhausted => v1::Room::Exhausted,
    };
    let reserve_bytes = disk.reserve_bytes;
    (size_bytes > 0).then(|| v1::Disk { path, free_bytes, size_bytes, reserve_bytes, room: room.into() })
}

/// From the wire. What is not told is enough.
#[must_use]
pub fn disk_from_wire(disk: v1::Disk) -> DiskState {
    let room = match disk.room() {
        v1::Room::Unspecified | v1::Room::Enough => Room::Enough,
        v1::Room::Low => Room::Low,
        v1::Room::Exhausted => Room::Exhausted,
    };
    let v1::Disk { path, free_bytes, size_bytes, reserve_bytes, .. } = disk;
    DiskState { space: Space { path, free_bytes, size_bytes }, reserve_bytes, room }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_survive_the_wire() {
        for room in [Room::Enough, Room::Low, Room::Exhausted] {
            let space = Space { path: "/data".into(), free_bytes: 1, size_bytes: 9 };
            let disk = DiskState { space, reserve_bytes: 3, room };
            assert_eq!(disk_to_wire(&disk).map(disk_from_wire), Some(disk));
        }
        assert_eq!(disk_to_wire(&DiskState::default()), None);
    }
}
