//! What a power loss is told, and what it tells.

use serde::{Deserialize, Serialize};

use crate::cache::{PAGE_BYTES, SECTOR_BYTES};

/// What of the unsynced is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerLoss {
    /// Decides what survives if the loss is torn. The same writes and the same seed leave the same disk.
    pub seed: u64,
    /// None: everything that was not synced is lost.
    pub tear: Option<Tear>,
}

impl PowerLoss {
    /// Everything that was not synced is lost.
    #[must_use]
    pub fn clean() -> Self {
        Self::default()
    }

    /// Of what was not synced, `seed` decides what survives.
    #[must_use]
    pub fn torn(seed: u64, tear: Tear) -> Self {
        Self { seed, tear: Some(tear) }
    }
}

/// What survives whole or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tear {
    /// 4096 bytes, as an operating system writes.
    Page,
    /// 512 bytes, as a disk writes.
    Sector,
}

impl Tear {
    pub(crate) fn unit_bytes(self) -> usize {
        match self {
            Self::Page => PAGE_BYTES,
            Self::Sector => SECTOR_BYTES,
        }
    }
}

/// What a power loss did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Replays it, together with `tear`.
    pub seed: u64,
    /// As asked for.
    pub tear: Option<Tear>,
    /// Files with content that was not synced.
    pub files_hit: u64,
    /// Unsynced bytes that are lost.
    pub bytes_dropped: u64,
    /// Unsynced bytes that reached the disk all the same.
    pub bytes_kept: u64,
    /// Creations, renames and removals that did not happen.
    pub changes_dropped: u64,
    /// Creations, renames and removals that reached the disk all the same.
    pub changes_kept: u64,
}
