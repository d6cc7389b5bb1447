//! The state machine of a shard: what applying a log entry does to its points.
//!
//! Total and deterministic: the same log gives the same points, in memory and on disk, on every replica. It
//! fails only on an entry that no node would have proposed or on a broken disk, and then the replica stops
//! rather than go on with less than the others have.
//!
//! Points, payload and the position they reflect are written in one batch without a sync of its own: the log
//! can replay it. In memory they are a [`PointSet`]; the version of a point is the position of the write that made it.
//! Which parts the set has is no part of the state: segments come and go as jobs end, with the same points in them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use shoal_index::segment::Target;
use shoal_index::set::{self, Died, Job, JobId, JobInput, Part, PartId, PartKind, PointSet, Policy, Product, Retired};
use shoal_index::set::{Restart, SetError};
use shoal_model::{IndexSpec, LogIndex, PointId, ShardId};
use shoal_proto::convert;
use shoal_runtime::{Batch, Store, Table};

use crate::builder::Lane;
use crate::command::{self, Command};
use crate::segment_files::{self, Opened, SegmentFiles};
use crate::{NodeError, keys};

/// What one read sees: all points at one applied position. Cloning it is cloning two words.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) points: Arc<set::View>,
    pub(crate) applied: LogIndex,
    /// Deltas that wait to be built.
    pub(crate) sealed: usize,
}

/// The state of one shard replica. Owned by its apply task.
pub(crate) struct ShardMachine {
    shard: ShardId,
    dim: u32,
    policy: Policy,
    points: PointSet,
    files: SegmentFiles,
    /// The number of the files of each segment.
    numbers: BTreeMap<PartId, u64>,
    applied: LogIndex,
}

/// What the end of a job left behind.
pub(crate) struct Replaced {
    /// Parts to be dropped once no view shows them.
    pub(crate) retired: Retired,
    /// Files that are listed no more.
    pub(crate) files: Vec<Target>,
}

impl ShardMachine {
    /// The state that `store` holds, or an empty one; segments are those of the shard's folder under `root`, if any.
    ///
    /// Reads every vector record once, and payload only of points that no segment has. Tells beside it how many
    /// segments were missing or bad.
    pub(crate) fn open(
        store: &dyn Store,
        shard: ShardId,
        spec: &IndexSpec,
        policy: Policy,
        root: Option<&Path>,
    ) -> Result<(Self, u64), NodeError> {
        let applied = read_applied(store, shard)?;
        let Opened { files, segments, bad } = SegmentFiles::open(root, store, shard, spec)?;
        let (numbers, segments): (Vec<u64>, Vec<_>) = segments.into_iter().unzip();
        let mut restart = PointSet::with_segments(spec.dim, spec.metric, policy, segments)?;
        Loading { store, shard, dim: spec.dim }.replay(&mut restart)?;
        let points = restart.finish();
        let segments = points.parts().into_iter().filter(|part| part.kind == PartKind::Segment);
        let numbers = segments.map(|part| part.id).zip(numbers).collect();
        Ok((Self { shard, dim: spec.dim, policy, points, files, numbers, applied }, bad))
    }

    /// The position that the state reflects.
    pub(crate) fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Applies the entry at `index`; its writes go to `batch`. An entry applied before changes nothing.
    pub(crate) fn apply(&mut self, index: LogIndex, entry: Bytes, batch: &mut Batch) -> Result<(), NodeError> {
        if index <= self.applied {
            return Ok(());
        }
        if !entry.is_empty() {
            let command = command::decode(entry).map_err(|_| self.malformed("log entry"))?;
            self.apply_command(index, command, batch)?;
        }
        self.applied = index;
        Ok(())
    }

    fn apply_command(&mut self, index: LogIndex, command: Command, batch: &mut Batch) -> Result<(), NodeError> {
        for point in command.upserts {
            if point.vector.len() != self.dim as usize {
                return Err(self.malformed("log entry"));
            }
            let key = keys::point(self.shard, &point.id);
            batch.put(Table::Vectors, key.clone(), record(index, &convert::vector_to_f32_le(&point.vector)));
            batch.put(Table::Payload, key, record(index, &point.payload));
            // A copy: a slice would keep the whole log entry in memory as long as the point lives.
            self.points.upsert(point.id, index.0, &point.vector, Bytes::copy_from_slice(&point.payload));
            if self.points.is_full() {
                self.points.seal();
            }
        }
        for id in command.deletes {
            let key = keys::point(self.shard, &id);
            batch.delete(Table::Vectors, key.clone());
            batch.delete(Table::Payload, key);
            self.points.delete(&id);
        }
        Ok(())
    }

    /// Adds the position to the batch that holds everything up to it.
    pub(crate) fn seal(&self, batch: &mut Batch) {
        batch.put(Table::Meta, keys::applied(self.shard), Bytes::copy_from_slice(&self.applied.0.to_be_bytes()));
    }

    /// What reads may see from now on.
    pub(crate) fn publish(&mut self) -> View {
        let points = self.points.publish();
        let sealed = points.parts().iter().filter(|part| part.kind == PartKind::Sealed).count();
        View { points, applied: self.applied, sealed }
    }

    /// Now that nothing is written, has what was written last become a segment if it is worth one.
    pub(crate) fn settle(&mut self) {
        if self.points.is_worth_a_segment() {
            self.points.seal();
        }
    }

    /// The next job of a lane, on parts that are not `taken`. If the shard `is_quiet` and nothing waits to be built,
    /// also merges that would not pay while more is written.
    pub(crate) fn plan(&self, lane: Lane, taken: &BTreeSet<PartId>, is_quiet: bool) -> Option<Job> {
        let kind = match lane {
            Lane::Build => PartKind::Sealed,
            Lane::Merge => PartKind::Segment,
        };
        let parts = self.points.parts();
        let is_built = parts.iter().all(|part| part.kind != PartKind::Sealed);
        let is_free = |part: &Part| part.kind == kind && !taken.contains(&part.id);
        let free: Vec<Part> = parts.into_iter().filter(is_free).collect();
        let plan = if is_quiet && is_built { set::plan_quiet } else { set::plan };
        plan(&free, &self.policy)
    }

    /// Begins a job; tells the number of the segment that it makes, and where that goes.
    pub(crate) fn begin(&mut self, job: Job) -> Result<(JobInput, u64, Target), NodeError> {
        let input = self.points.begin(job)?;
        let number = self.files.reserve();
        Ok((input, number, self.files.target(number)))
    }

    /// What has died that a product does not know.
    pub(crate) fn died(&self, product: &Product) -> Result<Died, NodeError> {
        Ok(self.points.died(product)?)
    }

    /// Has a product take the place of the parts it was made of, and lists it in `store` instead of them.
    pub(crate) fn install(&mut self, product: Product, number: u64, store: &dyn Store) -> Result<Replaced, NodeError> {
        let mut batch = Batch::default();
        if let Some(segment) = product.segment() {
            self.files.list(&mut batch, number, segment);
        }
        let installed = self.points.install(product)?;
        let mut gone: Vec<u64> = installed.replaced.iter().filter_map(|part| self.numbers.remove(part)).collect();
        match installed.part {
            Some(part) => drop(self.numbers.insert(part, number)),
            // All its points died meanwhile.
            None => gone.push(number),
        }
        gone.iter().for_each(|number| self.files.unlist(&mut batch, *number));
        let files = match store.write(batch) {
            Ok(()) => gone.iter().map(|number| self.files.target(*number)).collect(),
            Err(error) => {
                // Searches go on with what is in memory; the next start goes by the old list, whose files are there.
                tracing::warn!(shard = self.shard.0, %error, "the list of segments cannot be written");
                Vec::new()
            }
        };
        Ok(Replaced { retired: installed.retired, files })
    }

    /// Ends a job that made nothing.
    pub(crate) fn abandon(&mut self, job: JobId) -> Result<(), SetError> {
        self.points.abandon(job)
    }

    fn malformed(&self, what: &'static str) -> NodeError {
        NodeError::Malformed { shard: self.shard, what }
    }
}

/// Reading the points of a shard back.
struct Loading<'a> {
    store: &'a dyn Store,
    shard: ShardId,
    dim: u32,
}

impl Loading<'_> {
    /// Shows `restart` every point, in the order of ids.
    fn replay(&self, restart: &mut Restart) -> Result<(), NodeError> {
        let (from, to) = keys::points(self.shard);
        let mut failed = None;
        self.store.scan(Table::Vectors, &from, &to, &mut |key, record| match self.load(key, record, restart) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn load(&self, key: &[u8], record: &[u8], restart: &mut Restart) -> Result<(), NodeError> {
        let id = PointId::from_key(keys::id_part(key)).map_err(|_| self.malformed("point id"))?;
        let (index, vector) = split_record(record).ok_or_else(|| self.malformed("vector"))?;
        if restart.record(&id, index.0) {
            return Ok(());
        }
        let vector = convert::vector_from_f32_le(vector).map_err(|_| self.malformed("vector"))?;
        if vector.len() != self.dim as usize {
            return Err(self.malformed("vector"));
        }
        let payload = self.store.get(Table::Payload, key)?.ok_or_else(|| self.malformed("payload"))?;
        let (_, packed) = split_record(&payload).ok_or_else(|| self.malformed("payload"))?;
        restart.upsert(id, index.0, &vector, payload.slice_ref(packed));
        Ok(())
    }

    fn malformed(&self, what: &'static str) -> NodeError {
        NodeError::Malformed { shard: self.shard, what }
    }
}

/// The position that the stored points of a shard reflect.
pub(crate) fn read_applied(store: &dyn Store, shard: ShardId) -> Result<LogIndex, NodeError> {
    let malformed = NodeError::Malformed { shard, what: "applied position" };
    match store.get(Table::Meta, &keys::applied(shard))? {
        None => Ok(LogIndex::default()),
        Some(bytes) => bytes[..].try_into().map(|b| LogIndex(u64::from_be_bytes(b))).map_err(|_| malformed),
    }
}

/// A record: the position of the write that made it, then its content. Both records of a point carry the same
/// position, so that a reader notices when it read one before and one after a write.
fn record(index: LogIndex, content: &[u8]) -> Bytes {
    [&index.0.to_be_bytes()[..], content].concat().into()
}

/// The position and content of a record.
pub(crate) fn split_record(record: &[u8]) -> Option<(LogIndex, &[u8])> {
    let (index, content) = record.split_first_chunk()?;
    Some((LogIndex(u64::from_be_bytes(*index)), content))
}

/// Removes everything of a shard but its log.
pub(crate) fn erase(store: &dyn Store, shard: ShardId, root: Option<&Path>) -> Result<(), NodeError> {
    // Files first: as long as the store knows the shard, a crash has the rest removed at the next start.
    root.map_or(Ok(()), |root| segment_files::erase(root, shard))?;
    let (from, to) = keys::points(shard);
    let mut batch = Batch::default();
    batch.delete_range(Table::Vectors, from.clone(), to.clone());
    batch.delete_range(Table::Payload, from, to);
    let (from, to) = keys::segments(shard);
    batch.delete_range(Table::Meta, from, to);
    batch.delete(Table::Meta, keys::applied(shard));
    Ok(store.write(batch)?)
}

#[cfg(test)]
mod tests;
