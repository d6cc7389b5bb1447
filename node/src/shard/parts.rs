//! The parts of a shard's index by their names in its log.
//!
//! A part is named by the position of the entry that made it: a delta by the one that sealed it, a segment by the one that
//! installed it. So names are the same on every replica, and are never used twice. What stands for a part in this replica's
//! set is its own affair: a segment whose files are missing is stood in for by the parts it was made of, or by one delta.
//!
//! Parts divide versions among them: a delta has the points that were written between two seals, a segment those of the
//! parts it was made of. So the version of a point alone tells the part that it is in.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use prost::Message as _;
use shoal_index::Center;
use shoal_index::segment::Segment;
use shoal_index::set::PartId;
use shoal_model::{InputError, ShardId};
use shoal_proto::convert;
use shoal_proto::internal::v1 as wire;
use shoal_runtime::{Batch, Store, Table};

use super::keys;
use crate::NodeError;

/// Name of a part.
pub type Name = u64;

/// What a segment's files are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Manifest {
    /// Of the graph's file; stands for every byte of both.
    pub checksum: u64,
    /// Of the graph's file.
    pub graph_bytes: u64,
    /// Of the file that has the rest.
    pub stored_bytes: u64,
}

/// A part and what stands for it here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NamedPart {
    /// `None` for a sealed delta.
    pub(crate) manifest: Option<Manifest>,
    pub(crate) versions: Versions,
    /// Parts of the set; several only for a segment whose files are missing.
    pub(crate) ids: Vec<PartId>,
    /// Number of a segment's files in the shard's folder, if they are there and open.
    pub(crate) file: Option<u64>,
    /// What codes of a sealed delta are made around: the same on every replica.
    pub(crate) center: Option<Center>,
}

/// All parts but the active delta.
pub(crate) type Parts = BTreeMap<Name, NamedPart>;

impl Manifest {
    /// That of an open segment.
    pub fn of(segment: &Segment) -> Self {
        let bytes = |image: &shoal_index::file::Image| image.bytes().len() as u64;
        Self {
            checksum: segment.graph_image().checksum(),
            graph_bytes: bytes(segment.graph_image()),
            stored_bytes: bytes(segment.stored_image()),
        }
    }

    pub(crate) fn to_wire(self) -> wire::SegmentManifest {
        let Self { checksum, graph_bytes, stored_bytes } = self;
        wire::SegmentManifest { checksum, graph_bytes, stored_bytes }
    }

    pub(crate) fn from_wire(manifest: wire::SegmentManifest) -> Self {
        let wire::SegmentManifest { checksum, graph_bytes, stored_bytes } = manifest;
        Self { checksum, graph_bytes, stored_bytes }
    }
}

impl NamedPart {
    /// As the store lists it.
    pub(crate) fn stored(&self) -> Stored {
        Stored {
            manifest: self.manifest,
            file: self.file,
            versions: self.versions.clone(),
            center: self.center.clone(),
        }
    }

    /// Whether it is a segment whose files are missing.
    pub(crate) fn is_lacking(&self) -> bool {
        self.manifest.is_some() && self.file.is_none()
    }
}

/// The versions of a part's points.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    /// Above the first, up to the second of each pair; ascending, none touches the next.
    ranges: Vec<(u64, u64)>,
}

impl Versions {
    /// Those above `after`, up to `through`.
    pub(crate) fn between(after: u64, through: u64) -> Self {
        Self { ranges: vec![(after, through)] }
    }

    /// Those of several parts.
    pub(crate) fn union<'a>(parts: impl Iterator<Item = &'a Self>) -> Self {
        let mut all: Vec<(u64, u64)> = parts.flat_map(|versions| versions.ranges.iter().copied()).collect();
        all.sort_unstable();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (after, through) in all {
            match ranges.last_mut() {
                Some((_, last)) if *last >= after => *last = through.max(*last),
                _ => ranges.push((after, through)),
            }
        }
        Self { ranges }
    }

    /// Whether a version is among them.
    pub(crate) fn contain(&self, version: u64) -> bool {
        let at = self.ranges.partition_point(|(_, through)| *through < version);
        self.ranges.get(at).is_some_and(|(after, _)| *after < version)
    }

    pub(crate) fn to_wire(&self) -> Vec<wire::VersionRange> {
        self.ranges.iter().map(|&(after, through)| wire::VersionRange { after, through }).collect()
    }

    pub(crate) fn from_wire(ranges: &[wire::VersionRange]) -> Self {
        let all: Vec<Self> = ranges.iter().map(|range| Self::between(range.after, range.through)).collect();
        Self::union(all.iter())
    }
}

/// A part as the store lists it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    /// `None` for a sealed delta.
    pub(crate) manifest: Option<Manifest>,
    /// Number of its files, if they are here.
    pub(crate) file: Option<u64>,
    pub(crate) versions: Versions,
    /// What codes of a sealed delta are made around.
    pub(crate) center: Option<Center>,
}

pub(crate) fn center_to_wire(center: &Center) -> wire::DeltaCenter {
    wire::DeltaCenter { mean_f32_le: convert::vector_to_f32_le(&center.mean), length: center.length }
}

/// Errors: codes cannot be made around it.
pub(crate) fn center_from_wire(center: &wire::DeltaCenter) -> Result<Center, InputError> {
    let center = Center { mean: convert::vector_from_f32_le(&center.mean_f32_le)?, length: center.length };
    let problem = || InputError::new("center", "is not finite, or too short or long".to_owned());
    center.is_of_use().then_some(center).ok_or_else(problem)
}

/// The parts that `store` lists of a shard.
pub(crate) fn load(store: &dyn Store, shard: ShardId) -> Result<BTreeMap<Name, Stored>, NodeError> {
    let (from, to) = keys::parts(shard);
    let (mut listed, mut is_whole) = (BTreeMap::new(), true);
    store.scan(Table::Meta, &from, &to, &mut |key, value| {
        match (keys::number_at_end(key), wire::StoredPart::decode(value)) {
            (Some(name), Ok(wire::StoredPart { segment, file, versions, center })) => {
                let (manifest, versions) = (segment.map(Manifest::from_wire), Versions::from_wire(&versions));
                match center.map(|center| center_from_wire(&center)).transpose() {
                    Ok(center) => drop(listed.insert(name, Stored { manifest, file, versions, center })),
                    Err(_) => is_whole = false,
                }
            }
            _ => is_whole = false,
        }
        ControlFlow::Continue(())
    })?;
    if is_whole { Ok(listed) } else { Err(NodeError::Malformed { shard, what: "list of parts" }) }
}

/// Lists a part.
pub(crate) fn list(batch: &mut Batch, shard: ShardId, name: Name, part: &Stored) {
    let Stored { manifest, file, versions, center } = part;
    let (segment, center) = (manifest.map(Manifest::to_wire), center.as_ref().map(center_to_wire));
    let part = wire::StoredPart { segment, file: *file, versions: versions.to_wire(), center };
    batch.put(Table::Meta, keys::part(shard, name), Bytes::from(part.encode_to_vec()));
}

/// What codes of the active delta are made around, as `store` has it.
pub(crate) fn active_center(store: &dyn Store, shard: ShardId) -> Result<Option<Center>, NodeError> {
    let Some(bytes) = store.get(Table::Meta, &keys::center(shard))? else { return Ok(None) };
    let center = wire::DeltaCenter::decode(bytes).ok().and_then(|center| center_from_wire(&center).ok());
    center.map(Some).ok_or(NodeError::Malformed { shard, what: "centre of its active delta" })
}

/// Has codes of the active delta made around it, also after a restart.
pub(crate) fn set_active_center(batch: &mut Batch, shard: ShardId, center: Option<&Center>) {
    match center {
        Some(center) => batch.put(Table::Meta, keys::center(shard), center_to_wire(center).encode_to_vec()),
        None => batch.delete(Table::Meta, keys::center(shard)),
    }
}

/// Takes a part off the list.
pub(crate) fn unlist(batch: &mut Batch, shard: ShardId, name: Name) {
    batch.delete(Table::Meta, keys::part(shard, name));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_divide_versions() {
        let parts = [(0, 10), (10, 20), (30, 40)].map(|(after, through)| Versions::between(after, through));
        let all = Versions::union(parts.iter());
        assert_eq!(all, Versions { ranges: vec![(0, 20), (30, 40)] });
        assert_eq!(Versions::from_wire(&all.to_wire()), all);
        for (version, want) in
            [(0, false), (1, true), (10, true), (20, true), (21, false), (30, false), (31, true), (41, false)]
        {
            assert_eq!(all.contain(version), want, "{version}");
            assert!(parts.iter().filter(|part| part.contain(version)).count() <= 1, "{version} is in one part");
        }
        assert!(!Versions::default().contain(1));
    }
}
