//! Fetching from peers: files of a segment, and the records of a snapshot.
//!
//! Chunks carry checksums, a broken stream is taken up where it ended, and a file counts only once its own checksum, which
//! the log names, holds for every byte.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use shoal_index::file::FileError;
use shoal_index::segment::{Segment, Target};
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{NodeId, ShardId};
use shoal_proto::internal::v1 as wire;
use shoal_proto::status::{RemoteError, from_status};
use tokio::time::{Duration, timeout};
use tonic::Status;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::NodeError;
use crate::blocking;
use crate::peers::Peers;
use crate::shard::parts::Manifest;

/// Silence after which a stream counts as broken. A paced sender is never silent for so long.
const SILENCE: Duration = Duration::from_secs(10);
/// Times that a stream is taken up again before the next peer is asked.
const RESUMES_MAX: u32 = 3;

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// No peer is known to hold the shard.
    #[error("no other node holds the shard")]
    NoPeer,
    /// The peer said why not.
    #[error("node {node}: {error}")]
    Remote {
        /// Which.
        node: NodeId,
        /// What it said.
        error: RemoteError,
    },
    /// A chunk is not what was sent, or too much came.
    #[error("node {node} sent {problem}")]
    Damaged {
        /// Which.
        node: NodeId,
        /// What is wrong.
        problem: &'static str,
    },
    /// The disk failed.
    #[error("write {path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// What came is not the segment that was wanted.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not a segment of these parts, or they are gone.
    #[error(transparent)]
    Set(#[from] shoal_index::set::SetError),
    /// The node itself.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// It was no longer wanted.
    #[error("cancelled")]
    Cancelled,
}

impl FetchError {
    /// Whether a peer was asked and certainly has not got it.
    fn is_absence(&self) -> bool {
        use shoal_model::ErrorKind;
        matches!(self, Self::NoPeer) || matches!(self, Self::Remote { error, .. } if error.kind == ErrorKind::NotFound)
    }
}

/// How often a stream was taken up again since it last brought anything.
#[derive(Default)]
struct Resumes(u32);

impl Resumes {
    /// Allows to take it up once more. Errors: what broke it, if that will not help or was done often enough.
    fn after(&mut self, broken: FetchError, went_on: bool) -> Result<(), FetchError> {
        self.0 = if went_on { 1 } else { self.0 + 1 };
        let may_pass = matches!(broken, FetchError::Remote { .. } | FetchError::Damaged { .. }) && !broken.is_absence();
        if may_pass && self.0 <= RESUMES_MAX { Ok(()) } else { Err(broken) }
    }
}

/// Waits for an answer of a node, as long as it is not silent for too long.
async fn heard<T>(node: NodeId, answer: impl Future<Output = Result<T, Status>>) -> Result<T, FetchError> {
    let silent = |_| FetchError::Damaged { node, problem: "nothing for too long" };
    timeout(SILENCE, answer)
        .await
        .map_err(silent)?
        .map_err(|status| FetchError::Remote { node, error: from_status(&status) })
}

/// Fetches a segment from the first of `nodes` that has it, into `target`. The second value of an error says whether all of
/// them were asked and none has it.
pub(crate) async fn segment(
    peers: &Peers,
    shard: ShardId,
    manifest: Manifest,
    nodes: &[NodeId],
    target: &Target,
) -> Result<Segment, (FetchError, bool)> {
    let (mut last, mut nobody_has_it) = (FetchError::NoPeer, true);
    for node in nodes {
        match segment_from(peers, shard, manifest, *node, target).await {
            Ok(segment) => return Ok(segment),
            Err(error) => {
                nobody_has_it &= error.is_absence();
                last = error;
            }
        }
    }
    Err((last, nobody_has_it))
}

async fn segment_from(
    peers: &Peers,
    shard: ShardId,
    manifest: Manifest,
    node: NodeId,
    target: &Target,
) -> Result<Segment, FetchError> {
    // The graph comes last: where it is whole, so is the other.
    let mut images = Vec::new();
    let paths = target.files();
    for (file, bytes) in
        [(wire::SegmentFile::Stored, manifest.stored_bytes), (wire::SegmentFile::Graph, manifest.graph_bytes)]
    {
        let path = paths.get(usize::from(file == wire::SegmentFile::Stored));
        let sink = Sink::new(path.map(|path| path.as_path()), bytes)?;
        let wanted =
            wire::FetchFileRequest { shard_id: shard.0, checksum: manifest.checksum, file: file.into(), offset: 0 };
        images.push(file_from(peers, shard, node, wanted, sink).await?.finish().await?);
    }
    let target = target.clone();
    let open = move || match &images[..] {
        [Some(stored), Some(graph)] => Segment::from_bytes(graph, stored),
        _ => Segment::open(&target),
    };
    let segment = blocking::run(open).await??;
    if Manifest::of(&segment) != manifest {
        return Err(FetchError::Damaged { node, problem: "another segment" });
    }
    Ok(segment)
}

async fn file_from(
    peers: &Peers,
    shard: ShardId,
    node: NodeId,
    mut wanted: wire::FetchFileRequest,
    mut sink: Sink,
) -> Result<Sink, FetchError> {
    let mut resumes = Resumes::default();
    loop {
        wanted.offset = sink.len;
        let broken = match stream_into(peers, shard, node, wanted, &mut sink).await {
            Ok(()) if sink.len == sink.wanted => return Ok(sink),
            Ok(()) => FetchError::Damaged { node, problem: "less than the file" },
            Err(error) => error,
        };
        resumes.after(broken, sink.len > wanted.offset)?;
    }
}

async fn stream_into(
    peers: &Peers,
    shard: ShardId,
    node: NodeId,
    wanted: wire::FetchFileRequest,
    sink: &mut Sink,
) -> Result<(), FetchError> {
    let mut client = peers.client(shard, node)?;
    let mut chunks = heard(node, client.fetch_file(wanted)).await?.into_inner();
    while let Some(wire::FetchFileResponse { bytes, checksum }) = heard(node, chunks.message()).await? {
        if xxh3_64(&bytes) != checksum || sink.len + bytes.len() as u64 > sink.wanted {
            return Err(FetchError::Damaged { node, problem: "a chunk that is not what it says" });
        }
        sink.write(bytes).await?;
    }
    Ok(())
}

/// Where the bytes of a file go: to the file, or to memory.
struct Sink {
    file: Option<(String, File)>,
    memory: Vec<u8>,
    len: u64,
    wanted: u64,
}

impl Sink {
    fn new(path: Option<&Path>, wanted: u64) -> Result<Self, FetchError> {
        let create = |path: &Path| {
            let name = path.display().to_string();
            match meet(Failpoint::NodeFetchFile).map_err(Into::into).and_then(|()| File::create(path)) {
                Ok(file) => Ok((name, file)),
                Err(source) => Err(FetchError::Io { path: name, source }),
            }
        };
        Ok(Self { file: path.map(create).transpose()?, memory: Vec::new(), len: 0, wanted })
    }

    async fn write(&mut self, bytes: bytes::Bytes) -> Result<(), FetchError> {
        self.len += bytes.len() as u64;
        let Some((path, mut file)) = self.file.take() else {
            self.memory.extend_from_slice(&bytes);
            return Ok(());
        };
        let write = move || {
            let met = meet(Failpoint::NodeFetchWrite).map_err(Into::into);
            (met.and_then(|()| file.write_all(&bytes)), file)
        };
        let (written, file) = blocking::run(write).await?;
        written.map_err(|source| FetchError::Io { path: path.clone(), source })?;
        self.file = Some((path, file));
        Ok(())
    }

    /// Makes the file durable; the bytes, if they went to memory.
    async fn finish(self) -> Result<Option<Vec<u8>>, FetchError> {
        let Some((path, file)) = self.file else { return Ok(Some(self.memory)) };
        let folder = Path::new(&path).parent().map(Path::to_owned);
        let sync = move || {
            meet(Failpoint::NodeFetchSync)?;
            file.sync_all()?;
            folder.map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        blocking::run(sync).await?.map_err(|source| FetchError::Io { path, source })?;
        Ok(None)
    }
}

/// Fetches the records of a snapshot, in the order of their keys, and hands them to `take` in lots. Takes up a broken stream.
pub(crate) async fn records(
    peers: &Peers,
    shard: ShardId,
    node: NodeId,
    snapshot: u64,
    mut take: impl FnMut(Vec<wire::PointRecord>) -> Result<(), NodeError> + Send,
) -> Result<(), FetchError> {
    let (mut after, mut resumes) = (None, Resumes::default());
    loop {
        let from = after.clone();
        let wanted = wire::FetchRecordsRequest { shard_id: shard.0, snapshot_id: snapshot, after: from.clone() };
        match lots(peers, shard, node, wanted, &mut after, &mut take).await {
            Ok(()) => return Ok(()),
            Err(error) => resumes.after(error, after != from)?,
        }
    }
}

async fn lots(
    peers: &Peers,
    shard: ShardId,
    node: NodeId,
    wanted: wire::FetchRecordsRequest,
    after: &mut Option<bytes::Bytes>,
    take: &mut (impl FnMut(Vec<wire::PointRecord>) -> Result<(), NodeError> + Send),
) -> Result<(), FetchError> {
    let mut client = peers.client(shard, node)?;
    let mut stream = heard(node, client.fetch_records(wanted)).await?.into_inner();
    while let Some(wire::FetchRecordsResponse { records, checksum }) = heard(node, stream.message()).await? {
        if checksum_of(&records) != checksum {
            return Err(FetchError::Damaged { node, problem: "records that are not what they say" });
        }
        let Some(last) = records.last().map(|record| record.key.clone()) else { continue };
        take(records)?;
        *after = Some(last);
    }
    Ok(())
}

/// Of all keys and values, in order.
pub(crate) fn checksum_of(records: &[wire::PointRecord]) -> u64 {
    let mut hash = Xxh3::new();
    for wire::PointRecord { key, vector, payload } in records {
        [key, vector, payload].into_iter().for_each(|bytes| hash.update(bytes));
    }
    hash.digest()
}
