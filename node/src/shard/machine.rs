//! The state machine of a shard: what applying a log entry does to its points and parts.
//!
//! Total and deterministic: the same log gives the same points, parts and digests, in memory and on disk, on every
//! replica. It fails only on an entry that no node would have proposed or on a broken disk, and then the replica stops
//! rather than go on with less than the others have.
//!
//! Everything up to a position is written in one batch without a sync of its own: the log can replay it. In memory points
//! are a [`PointSet`]; the version of a point is the position of the write that made it.
//!
//! Parts change by entries alone: a leader says when a delta is sealed and which segment takes the place of which parts. A
//! replica that has that segment's files puts them there as it applies the entry; one that has not goes on with what it
//! has, under the same name, and puts them there once it does.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use shoal_index::Center;
use shoal_index::segment::{Segment, Target};
use shoal_index::set::{
    self, Died, Installed, Job, JobId, JobInput, Part, PartId, PartKind, PointSet, Policy, Product, Restart, Retired,
    SetError,
};
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::planted::{Bug, is_planted};
use shoal_model::{IndexSpec, LogIndex, PointId, ShardId};
use shoal_proto::convert;
use shoal_runtime::{Batch, MemoryStore, Store, Table};
use xxhash_rust::xxh3::Xxh3;

use super::command::{self, Command, Write};
use super::keys;
use super::operations::{Operations, Seen};
use super::parts::{self, Manifest, Name, NamedPart, Parts, Stored, Versions};
use super::records::{record, split_record};
use super::segment_files::{self, Opened, SegmentFiles};
use super::state::ShardState;
use crate::NodeError;
use crate::builder::Lane;

/// What one read sees: all points at one applied position. Cloning it is cloning two words.
#[derive(Clone)]
pub struct View {
    /// The points.
    pub points: Arc<set::View>,
    /// The position that they reflect.
    pub applied: LogIndex,
    /// Deltas that wait to be built.
    pub sealed: usize,
    /// Segments whose files are missing here, so that an approximate search may answer a little better than elsewhere.
    pub lacking: usize,
}

/// The state of one shard replica. Owned by its apply task.
pub struct ShardMachine {
    shard: ShardId,
    dim: u32,
    policy: Policy,
    points: PointSet,
    /// What codes of the active delta are made around.
    center: Option<Center>,
    files: SegmentFiles,
    parts: Parts,
    /// The parts of each job of the set.
    jobs: BTreeMap<JobId, Vec<Name>>,
    /// Segments that are made or fetched and not installed, by checksum.
    ready: BTreeMap<u64, Ready>,
    /// Parts of the set whose files are no longer what was written.
    damaged: BTreeSet<PartId>,
    state: ShardState,
    operations: Operations,
}

/// A segment that waits for the entry that installs it.
struct Ready {
    product: Product,
    /// Of its files.
    number: u64,
    replaced: Vec<Name>,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was applied at that position, now or, if its operation is known, before.
    At(LogIndex),
    /// Another write was applied under its operation; nothing changed.
    Reused,
}

/// What an entry leaves to be done.
#[derive(Default)]
pub struct Effect {
    /// For whoever waits for a write.
    pub applied: Option<Applied>,
    /// What is of no use any more.
    pub replaced: Replaced,
}

/// What is of no use any more.
#[derive(Default)]
pub struct Replaced {
    /// Parts to be dropped once no view shows them.
    pub retired: Vec<Retired>,
    /// Files that are listed no more, to be removed once that is durable.
    pub files: Vec<Target>,
}

/// A job to be done: what to make a segment of, and where its files go.
pub struct Begun {
    /// The parts as they were when it began.
    pub input: JobInput,
    /// Their names.
    pub replaced: Vec<Name>,
    /// Of the files.
    pub number: u64,
    /// Where these go.
    pub target: Target,
}

impl ShardMachine {
    /// The state that `store` holds, or an empty one; segments are those of the shard's folder under `root`, if any.
    ///
    /// Reads every vector record once, and payload only of points that no segment has. Tells beside it how many
    /// segments were missing or bad.
    /// Errors: `Malformed` if a record is not what was written, or the points are not those that the state tells.
    pub fn open(
        store: &dyn Store,
        shard: ShardId,
        spec: &IndexSpec,
        policy: Policy,
        root: Option<&Path>,
    ) -> Result<(Self, u64), NodeError> {
        meet(Failpoint::NodeReplicaOpen)?;
        let state = match read_state(store, shard)? {
            Some(state) => state,
            None => {
                // What a restore that was cut short has left is not taken for anything.
                erase_left_over(store, shard)?;
                ShardState::default()
            }
        };
        let listed = parts::load(store, shard)?;
        let Opened { files, segments, bad } = SegmentFiles::open(root, store, shard, spec, &listed)?;
        let mut open = BTreeMap::new();
        let (mut names, mut images) = (Vec::new(), Vec::new());
        for (name, number, segment) in segments {
            names.push(name);
            images.push(segment);
            open.insert(name, number);
        }
        // A delta stands in for each segment that is missing.
        let deltas: Vec<Name> = listed.keys().filter(|name| !open.contains_key(name)).copied().collect();
        let center = check_center(shard, spec, parts::active_center(store, shard)?)?;
        let around = |name: &Name| check_center(shard, spec, listed.get(name).and_then(|part| part.center.clone()));
        let centers = deltas.iter().map(around).collect::<Result<_, _>>()?;
        let mut restart = PointSet::with_segments(spec.dim, spec.metric, policy, images, centers, center.clone())?;
        let versions = deltas.iter().filter_map(|name| listed.get(name)).map(|part| &part.versions).collect();
        let mut loading =
            Loading { store, shard, dim: spec.dim, last_seal: state.last_seal, versions, found: ShardState::default() };
        loading.replay(&mut restart)?;
        if !loading.found.has_points_of(&state) && !is_planted(Bug::RestoreWithoutLast) {
            return Err(NodeError::Malformed { shard, what: "set of points: it is not the one that its digest tells" });
        }
        let points = restart.finish();
        let ids = |kind| points.parts().into_iter().filter(move |part| part.kind == kind).map(|part| part.id);
        let named = deltas.into_iter().zip(ids(PartKind::Sealed)).chain(names.into_iter().zip(ids(PartKind::Segment)));
        let part = |(name, id): (Name, PartId)| {
            let Stored { manifest, versions, center, .. } = listed.get(&name)?.clone();
            Some((name, NamedPart { manifest, versions, ids: vec![id], file: open.get(&name).copied(), center }))
        };
        let parts = named.filter_map(part).collect();
        let operations = Operations::load(store, shard)?;
        let (jobs, ready, damaged) = Default::default();
        let machine = Self {
            shard,
            dim: spec.dim,
            policy,
            points,
            center,
            files,
            parts,
            jobs,
            ready,
            damaged,
            state,
            operations,
        };
        Ok((machine, bad))
    }

    /// An empty one in memory, for as long as what the store has is damaged and another's content is not here yet.
    pub fn stand_in(shard: ShardId, spec: &IndexSpec, policy: Policy) -> Result<Self, NodeError> {
        Ok(Self::open(&MemoryStore::new(), shard, spec, policy, None)?.0)
    }

    /// The first number that no segment's files had here.
    pub fn files_from(&self) -> u64 {
        self.files.from()
    }

    /// Numbers files of segments from there on, if not from further on: an earlier machine's jobs may still write to theirs,
    /// and remove them.
    pub fn number_files_from(&mut self, first: u64) {
        self.files.number_from(first);
    }

    /// The position that the state reflects.
    pub fn applied(&self) -> LogIndex {
        self.state.applied
    }

    /// Stands for the content and the parts at this position: the same on every replica.
    pub fn digest(&self) -> u128 {
        let mut hash = Xxh3::new();
        hash.update(&self.state.encode());
        for (name, part) in &self.parts {
            hash.update(&name.to_le_bytes());
            hash.update(&part.manifest.map_or(0, |manifest| manifest.checksum).to_le_bytes());
        }
        hash.digest128()
    }

    /// The segments that are here and sound as far as is known, installed or ready.
    pub fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        let is_sound = |segment: &&Arc<Segment>| {
            let part = self.points.segment_of(segment.graph_image().checksum());
            part.is_none_or(|part| !self.damaged.contains(&part))
        };
        self.points.segments().filter(is_sound).chain(self.ready.values().filter_map(|ready| ready.product.segment()))
    }

    /// Applies the entry at `index`; its writes go to `batch`. An entry applied before changes nothing.
    pub fn apply(&mut self, index: LogIndex, entry: &Bytes, batch: &mut Batch) -> Result<Effect, NodeError> {
        if index <= self.state.applied && !is_planted(Bug::ApplyTwiceAfterRestart) {
            return Ok(Effect::default());
        }
        self.state.note_entry(index, entry);
        if entry.is_empty() {
            return Ok(Effect::default());
        }
        match command::decode(entry.clone()).map_err(|_| self.malformed("log entry"))? {
            Command::Write(write) => {
                let applied = Some(self.apply_write(index, write, entry, batch)?);
                Ok(Effect { applied, ..Effect::default() })
            }
            Command::Seal { after, center } => {
                if center.as_ref().is_some_and(|center| center.mean.len() != self.dim as usize) {
                    return Err(self.malformed("log entry"));
                }
                self.apply_seal(index, after, center, batch);
                Ok(Effect::default())
            }
            Command::Install { replaced, segment } => {
                Ok(Effect { applied: None, replaced: self.apply_install(index, &replaced, segment, batch)? })
            }
        }
    }

    fn apply_write(
        &mut self,
        index: LogIndex,
        write: Write,
        entry: &[u8],
        batch: &mut Batch,
    ) -> Result<Applied, NodeError> {
        match self.operations.look_up(write.operation, entry) {
            Seen::Never => {}
            Seen::At(before) => return Ok(Applied::At(before)),
            Seen::AsAnother => return Ok(Applied::Reused),
        }
        for point in write.upserts {
            if point.vector.len() != self.dim as usize {
                return Err(self.malformed("log entry"));
            }
            let key = keys::point(self.shard, &point.id);
            let vector = record(&key, index, &convert::vector_to_f32_le(&point.vector));
            batch.put(Table::Vectors, key.clone(), vector);
            batch.put(Table::Payload, key.clone(), record(&key, index, &point.payload));
            self.state.add_point(&point.id, index.0);
            // A copy: a slice would keep the whole log entry in memory as long as the point lives.
            let payload = Bytes::copy_from_slice(&point.payload);
            if let Some(version) = self.points.upsert(point.id.clone(), index.0, &point.vector, payload) {
                self.state.remove_point(&point.id, version);
            }
        }
        for id in write.deletes {
            let key = keys::point(self.shard, &id);
            batch.delete(Table::Vectors, key.clone());
            batch.delete(Table::Payload, key);
            if let Some(version) = self.points.delete(&id) {
                self.state.remove_point(&id, version);
            }
        }
        self.operations.note(self.shard, index, write.operation, entry, batch);
        Ok(Applied::At(index))
    }

    /// A seal that another has overtaken, and one of an empty delta, change nothing.
    fn apply_seal(&mut self, index: LogIndex, after: Name, center: Option<Center>, batch: &mut Batch) {
        if after != self.state.last_seal {
            return;
        }
        if let Some(id) = self.points.seal(center.clone()) {
            let versions = Versions::between(self.state.last_seal, index.0);
            self.state.last_seal = index.0;
            parts::set_active_center(batch, self.shard, center.as_ref());
            let center = std::mem::replace(&mut self.center, center);
            let part = NamedPart { manifest: None, versions, ids: vec![id], file: None, center };
            parts::list(batch, self.shard, index.0, &part.stored());
            self.parts.insert(index.0, part);
        }
    }

    /// An install of parts that are no more, as another leader has replaced them, changes nothing.
    fn apply_install(
        &mut self,
        index: LogIndex,
        replaced: &[Name],
        segment: Option<Manifest>,
        batch: &mut Batch,
    ) -> Result<Replaced, NodeError> {
        let mut left = Replaced::default();
        if replaced.is_empty() || !replaced.iter().all(|name| self.parts.contains_key(name)) {
            return Ok(left);
        }
        meet(Failpoint::NodeInstall)?;
        if is_planted(Bug::InstallWhereReady)
            && segment.is_some_and(|segment| !self.is_ready(segment.checksum, replaced))
        {
            return Ok(left);
        }
        let part = match segment {
            Some(manifest) => self.put_in_place(replaced, manifest, &mut left)?,
            None if self.live_in(replaced) > 0 => return Err(self.malformed("log entry: it drops points that live")),
            None => {
                self.drop_dead(replaced, &mut left)?;
                None
            }
        };
        for name in replaced {
            let Some(gone) = self.parts.remove(name) else { continue };
            parts::unlist(batch, self.shard, *name);
            left.files.extend(gone.file.map(|number| self.files.target(number)));
        }
        if let Some(part) = part {
            parts::list(batch, self.shard, index.0, &part.stored());
            self.parts.insert(index.0, part);
        }
        Ok(left)
    }

    /// What stands for a segment that replaces parts: itself if its files are here, or those parts. `None` if none of its
    /// points lives.
    fn put_in_place(
        &mut self,
        replaced: &[Name],
        manifest: Manifest,
        left: &mut Replaced,
    ) -> Result<Option<NamedPart>, NodeError> {
        if self.live_in(replaced) == 0 {
            self.drop_dead(replaced, left)?;
            return Ok(None);
        }
        let of = |name: &Name| self.parts.get(name).map(|part| &part.versions);
        let versions = Versions::union(replaced.iter().filter_map(of));
        let is_ready = self.is_ready(manifest.checksum, replaced);
        let ready = is_ready.then(|| self.ready.remove(&manifest.checksum)).flatten();
        let manifest = Some(manifest);
        let Some(ready) = ready else {
            self.abandon_on(replaced, left);
            return Ok(Some(NamedPart { manifest, versions, ids: self.ids_of(replaced), file: None, center: None }));
        };
        self.jobs.remove(&ready.product.job());
        let Installed { part, retired, .. } = self.points.install(ready.product)?;
        left.retired.push(retired);
        let id = part.ok_or_else(|| self.malformed("segment: none of its points lives"))?;
        Ok(Some(NamedPart { manifest, versions, ids: vec![id], file: Some(ready.number), center: None }))
    }

    /// Takes parts without living points out of the set.
    fn drop_dead(&mut self, replaced: &[Name], left: &mut Replaced) -> Result<(), NodeError> {
        self.abandon_on(replaced, left);
        let input = self.points.begin(Job::Gather { parts: self.ids_of(replaced) })?;
        left.retired.push(self.points.install(input.nothing()?)?.retired);
        Ok(())
    }

    /// How many points live in parts.
    fn live_in(&self, names: &[Name]) -> usize {
        let ids = self.ids_of(names);
        self.points.parts().iter().filter(|part| ids.contains(&part.id)).map(|part| part.live).sum()
    }

    /// Memory and files of parts: about what a job on them writes.
    pub fn bytes_of(&self, names: &[Name]) -> u64 {
        let ids = self.ids_of(names);
        self.points.parts().iter().filter(|part| ids.contains(&part.id)).map(|part| part.bytes as u64).sum()
    }

    fn ids_of(&self, names: &[Name]) -> Vec<PartId> {
        names.iter().filter_map(|name| self.parts.get(name)).flat_map(|part| part.ids.iter().copied()).collect()
    }

    /// Ends jobs on any of these parts; what they made is of no use.
    fn abandon_on(&mut self, names: &[Name], left: &mut Replaced) {
        let touches = |of: &[Name]| of.iter().any(|name| names.contains(name));
        let ended: Vec<JobId> = self.jobs.iter().filter(|(_, of)| touches(of)).map(|(job, _)| *job).collect();
        for job in ended {
            self.jobs.remove(&job);
            // It is one of the set's, and ends here.
            let _ = self.points.abandon(job);
        }
        let files = &self.files;
        left.files.extend(
            self.ready.extract_if(.., |_, ready| touches(&ready.replaced)).map(|(_, ready)| files.target(ready.number)),
        );
    }

    /// Adds the position to the batch that holds everything up to it.
    pub fn seal(&self, batch: &mut Batch) {
        batch.put(Table::Meta, keys::state(self.shard), self.state.encode());
    }

    /// What reads may see from now on.
    pub fn publish(&mut self) -> View {
        let sealed = self.deltas_waiting();
        let lacking = self.parts.values().filter(|part| part.is_lacking()).count();
        View { points: self.points.publish(), applied: self.state.applied, sealed, lacking }
    }

    /// The entry that has what was written last become a part, if it is time: the delta is full, or, if the shard
    /// `is_quiet`, worth a segment.
    pub fn wants_seal(&self, is_quiet: bool) -> Option<Bytes> {
        let is_time = self.points.is_full() || (is_quiet && self.points.is_worth_a_segment());
        is_time.then(|| command::encode_seal(self.state.last_seal, self.points.center().as_ref()))
    }

    /// How many sealed deltas are no segment yet.
    pub fn deltas_waiting(&self) -> usize {
        self.parts.values().filter(|part| part.manifest.is_none()).count()
    }

    /// The next job of a lane, on parts that are in no job. If the shard `is_quiet` and nothing waits to be built, also
    /// merges that would not pay while more is written.
    pub fn plan(&self, lane: Lane, is_quiet: bool) -> Option<Vec<Name>> {
        let kind = match lane {
            Lane::Build => PartKind::Sealed,
            Lane::Merge => PartKind::Segment,
        };
        let taken: BTreeSet<Name> = self.jobs.values().flatten().copied().collect();
        let named: BTreeMap<PartId, Name> = (self.parts.iter())
            .filter(|(name, part)| !part.is_lacking() && !taken.contains(name))
            .flat_map(|(name, part)| part.ids.iter().map(|id| (*id, *name)))
            .collect();
        // One that nothing lives in is of no use whether its files are here or not.
        let is_dead = |name: &&Name| {
            self.parts.get(*name).is_some_and(|part| part.manifest.is_some()) && self.live_in(&[**name]) == 0
        };
        if lane == Lane::Merge
            && let Some(dead) = self.parts.keys().filter(|name| !taken.contains(name)).find(is_dead)
        {
            return Some(vec![*dead]);
        }
        let is_built = self.deltas_waiting() == 0;
        let is_free = |part: &Part| part.kind == kind && named.contains_key(&part.id);
        let free: Vec<Part> = self.points.parts().into_iter().filter(is_free).collect();
        let plan = if is_quiet && is_built { set::plan_quiet } else { set::plan };
        let job = plan(&free, &self.policy)?;
        Some(job.parts().iter().filter_map(|id| named.get(id).copied()).collect())
    }

    /// Takes a segment off the list whose files are damaged: it is one that is missing from now on, and what is in memory of it
    /// stands in for it. `None` if there is none of that checksum, or its damage is known.
    pub fn set_aside(&mut self, checksum: u64, store: &dyn Store) -> Result<Option<Replaced>, NodeError> {
        let mut left = Replaced::default();
        if let Some(names) = self.ready.get(&checksum).map(|ready| ready.replaced.clone()) {
            self.abandon_on(&names, &mut left);
            return Ok(Some(left));
        }
        let Some(part) = self.points.segment_of(checksum).filter(|part| !self.damaged.contains(part)) else {
            return Ok(None);
        };
        let Some((name, named)) = self.parts.iter_mut().find(|(_, named)| named.ids.contains(&part)) else {
            return Ok(None);
        };
        let (name, number) = (*name, named.file.take());
        self.damaged.insert(part);
        if let Some(number) = number {
            let mut batch = Batch::default();
            parts::list(&mut batch, self.shard, name, &named.stored());
            store.write(batch)?;
            segment_files::set_aside(&self.files.target(number));
        }
        self.abandon_on(&[name], &mut left);
        Ok(Some(left))
    }

    /// Whether what stands for a part is damaged.
    pub fn is_damaged(&self, name: Name) -> bool {
        self.parts.get(&name).is_some_and(|part| part.ids.iter().any(|id| self.damaged.contains(id)))
    }

    /// Whether any part is damaged, so that walks may miss what they should find, and rows be refused.
    pub fn has_damage(&self) -> bool {
        // What nothing lives in is not read, and is dropped rather than fetched.
        !self.damaged.is_empty() && self.parts.keys().any(|name| self.is_damaged(*name) && self.live_in(&[*name]) > 0)
    }

    /// A segment whose files are missing and that is in no job; one that is damaged before others.
    pub fn lacks(&self) -> Option<(Name, Manifest)> {
        let taken = |name: &Name| self.jobs.values().any(|of| of.contains(name));
        let lacking =
            self.parts.iter().filter(|(name, part)| part.is_lacking() && !taken(name) && self.live_in(&[**name]) > 0);
        let first = lacking.min_by_key(|(name, _)| (!self.is_damaged(**name), **name));
        first.and_then(|(name, part)| Some((*name, part.manifest?)))
    }

    /// Begins a job on parts; jobs on any of them end.
    ///
    /// Errors: `Set` if one is not there.
    pub fn begin(&mut self, names: &[Name]) -> Result<(Begun, Replaced), NodeError> {
        let mut left = Replaced::default();
        self.abandon_on(names, &mut left);
        let job = self.job_on(names);
        let input = self.points.begin(job)?;
        self.jobs.insert(input.id(), names.to_vec());
        let number = self.files.reserve();
        Ok((Begun { input, replaced: names.to_vec(), number, target: self.files.target(number) }, left))
    }

    fn job_on(&self, names: &[Name]) -> Job {
        let is_delta = |name: &Name| self.parts.get(name).is_some_and(|part| part.manifest.is_none());
        let is_whole = |name: &Name| self.parts.get(name).is_some_and(|part| part.file.is_some());
        match (&self.ids_of(names)[..], names) {
            ([delta], [name]) if is_delta(name) => Job::Build { delta: *delta },
            ([segment], [name]) if is_whole(name) => Job::Rewrite { segment: *segment },
            (segments, names) if names.iter().all(is_whole) => Job::Merge { segments: segments.to_vec() },
            (parts, _) => Job::Gather { parts: parts.to_vec() },
        }
    }

    /// Whether a job has not been ended.
    pub fn runs(&self, job: JobId) -> bool {
        self.jobs.contains_key(&job)
    }

    /// Whether all of these are parts.
    pub fn has(&self, names: &[Name]) -> bool {
        !names.is_empty() && names.iter().all(|name| self.parts.contains_key(name))
    }

    /// What has died that a product does not know.
    pub fn died(&self, product: &Product) -> Result<Died, NodeError> {
        Ok(self.points.died(product)?)
    }

    /// Whether a segment of that checksum is ready to take the place of these parts.
    pub fn is_ready(&self, checksum: u64, replaced: &[Name]) -> bool {
        self.ready.get(&checksum).is_some_and(|ready| ready.replaced == replaced)
    }

    /// Keeps what a job made until an entry installs it; tells what it is, `None` if nothing lived.
    ///
    /// Errors: `Set` if the job was ended meanwhile.
    pub fn hold(&mut self, product: Product, number: u64) -> Result<(Vec<Name>, Option<Manifest>), NodeError> {
        let job = product.job();
        let replaced = self.jobs.get(&job).cloned().ok_or(SetError::NoSuchJob { job })?;
        let Some(manifest) = product.segment().map(|segment| Manifest::of(segment)) else {
            self.abandon(job)?;
            return Ok((replaced, None));
        };
        self.ready.insert(manifest.checksum, Ready { product, number, replaced: replaced.clone() });
        Ok((replaced, Some(manifest)))
    }

    /// Puts the files of a segment that were missing in the place of what stood in for them; `store` lists them.
    pub fn complete(
        &mut self,
        name: Name,
        product: Product,
        number: u64,
        store: &dyn Store,
    ) -> Result<Replaced, NodeError> {
        meet(Failpoint::NodeComplete)?;
        self.jobs.remove(&product.job());
        let Installed { part, retired, .. } = self.points.install(product)?;
        let mut left = Replaced { retired: vec![retired], files: Vec::new() };
        let Some(named) = self.parts.get_mut(&name) else { return Ok(left) };
        match part {
            Some(id) => {
                (named.ids, named.file) = (vec![id], Some(number));
                let mut batch = Batch::default();
                parts::list(&mut batch, self.shard, name, &named.stored());
                store.write(batch)?;
            }
            // All its points died meanwhile: its leader will drop it.
            None => {
                named.ids = Vec::new();
                left.files.push(self.files.target(number));
            }
        }
        Ok(left)
    }

    /// Ends a job that made nothing; it may have been ended already.
    pub fn abandon(&mut self, job: JobId) -> Result<(), NodeError> {
        if self.jobs.remove(&job).is_some() {
            self.points.abandon(job)?;
        }
        Ok(())
    }

    /// Forgets segments that are ready, whose entries will not come; their files may go.
    pub fn forget_ready(&mut self) -> Replaced {
        let mut left = Replaced::default();
        let names: Vec<Name> = self.ready.values().flat_map(|ready| ready.replaced.clone()).collect();
        self.abandon_on(&names, &mut left);
        left
    }

    /// Forgets what a job made if no entry has installed it by now.
    pub fn forget_overdue(&mut self, job: JobId) -> Replaced {
        let mut left = Replaced::default();
        let overdue = self.ready.values().find(|ready| ready.product.job() == job);
        if let Some(names) = overdue.map(|ready| ready.replaced.clone()) {
            self.abandon_on(&names, &mut left);
        }
        left
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
    /// Versions beyond it are in the active delta.
    last_seal: u64,
    /// Of the deltas to be filled.
    versions: Vec<&'a Versions>,
    /// What the points come to.
    found: ShardState,
}

impl Loading<'_> {
    /// Shows `restart` every point, in the order of ids.
    fn replay(&mut self, restart: &mut Restart) -> Result<(), NodeError> {
        let (from, to) = keys::points(self.shard);
        let mut failed = None;
        let store = self.store;
        store.scan(Table::Vectors, &from, &to, &mut |key, record| match self.load(key, record, restart) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn load(&mut self, key: &[u8], record: &[u8], restart: &mut Restart) -> Result<(), NodeError> {
        let id = PointId::from_key(keys::id_part(key)).map_err(|_| self.malformed("point id"))?;
        let (index, vector) = split_record(key, record).ok_or_else(|| self.malformed("vector"))?;
        self.found.add_point(&id, index.0);
        if restart.record(&id, index.0) {
            return Ok(());
        }
        let vector = convert::vector_from_f32_le(vector).map_err(|_| self.malformed("vector"))?;
        if vector.len() != self.dim as usize {
            return Err(self.malformed("vector"));
        }
        let delta = self.versions.iter().position(|versions| versions.contain(index.0));
        if delta.is_none() && index.0 <= self.last_seal {
            return Err(self.malformed("point: the segment of its version has it not"));
        }
        let payload = self.store.get(Table::Payload, key)?.ok_or_else(|| self.malformed("payload"))?;
        let (_, packed) = split_record(key, &payload).ok_or_else(|| self.malformed("payload"))?;
        restart.upsert(delta, id, index.0, &vector, payload.slice_ref(packed));
        Ok(())
    }

    fn malformed(&self, what: &'static str) -> NodeError {
        NodeError::Malformed { shard: self.shard, what }
    }
}

/// What a shard's stored content comes to; `None` if there is none.
pub fn read_state(store: &dyn Store, shard: ShardId) -> Result<Option<ShardState>, NodeError> {
    let malformed = NodeError::Malformed { shard, what: "state" };
    match store.get(Table::Meta, &keys::state(shard))? {
        None => Ok(None),
        Some(bytes) => ShardState::decode(&bytes).map(Some).ok_or(malformed),
    }
}

/// Removes everything of a shard but its log.
pub fn erase(store: &dyn Store, shard: ShardId, root: Option<&Path>) -> Result<(), NodeError> {
    meet(Failpoint::NodeErase)?;
    // Files first: as long as the store knows the shard, a crash has the rest removed at the next start.
    root.map_or(Ok(()), |root| segment_files::erase(root, shard))?;
    meet(Failpoint::NodeErased)?;
    let mut batch = Batch::default();
    erase_records(shard, &mut batch);
    Ok(store.write(batch)?)
}

/// Removes records without a state, if there are any.
fn erase_left_over(store: &dyn Store, shard: ShardId) -> Result<(), NodeError> {
    let mut is_empty = true;
    let ((first, last), (part, end)) = (keys::points(shard), keys::parts(shard));
    for (table, from, to) in [(Table::Vectors, first, last), (Table::Meta, part, end)] {
        store.scan(table, &from, &to, &mut |_, _| {
            is_empty = false;
            ControlFlow::Break(())
        })?;
    }
    if is_empty {
        return Ok(());
    }
    let mut batch = Batch::default();
    erase_records(shard, &mut batch);
    Ok(store.write(batch)?)
}

fn erase_records(shard: ShardId, batch: &mut Batch) {
    let (from, to) = keys::points(shard);
    batch.delete_range(Table::Vectors, from.clone(), to.clone());
    batch.delete_range(Table::Payload, from, to);
    for (from, to) in [keys::parts(shard), keys::operations(shard)] {
        batch.delete_range(Table::Meta, from, to);
    }
    batch.delete(Table::Meta, keys::center(shard));
    batch.delete(Table::Meta, keys::state(shard));
}

/// Errors: `Malformed` if a centre is of another dimension.
fn check_center(shard: ShardId, spec: &IndexSpec, center: Option<Center>) -> Result<Option<Center>, NodeError> {
    if center.as_ref().is_some_and(|center| center.mean.len() != spec.dim as usize) {
        return Err(NodeError::Malformed { shard, what: "centre of a delta" });
    }
    Ok(center)
}

mod snapshot;
#[cfg(test)]
mod tests;

pub use snapshot::{Restoring, scan_records, snapshot_of};
