//! How each failpoint is reached.

use shoal_model::failpoints::Failpoint;

/// What is done to the cluster until the point is met; the later, the longer it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Course {
    /// Nothing; processes do it by themselves.
    Wait,
    /// Points are written.
    Write,
    /// Points are counted and read.
    Read,
    /// A collection is created and dropped.
    Create,
    /// The same of one that has witnesses.
    Witness,
    /// A node is killed and started.
    Restart,
    /// So many points are written that segments are built and merged.
    Segments,
    /// Large points are written until logs are cut.
    Flood,
    /// A node is killed, loses the files of its segments, and is started.
    LoseFiles,
    /// A replica says something else than the others.
    Differ,
    /// A replica is told to fetch the content of the others.
    Rebuild,
    /// A node is killed, and finds a damaged store when it is started: another takes its place.
    Replace,
    /// The same, while the node has the only copy of a shard: the store is put back.
    PutBack,
    /// A node is killed for so long that it needs a snapshot.
    Lag,
    /// A node is away for so long that others lead, and gets its leads back.
    HandBack,
}

/// Where the point is armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// On the first node. It leads a shard and follows in others.
    Node,
    /// On all nodes.
    Nodes,
    /// On all nodes but the first.
    Others,
    /// On the coordinator.
    Coordinator,
    /// On the router.
    Router,
    /// On the node that the course starts again, before it starts.
    Start,
}

/// How a point is reached. There is no point without a way.
pub(crate) fn of(point: Failpoint) -> (Course, At) {
    use Failpoint as F;
    match point {
        F::StorageOpen | F::StorageScan | F::NodeRegister | F::NodeSegmentsOpen | F::NodeSegmentsClean => {
            (Course::Restart, At::Start)
        }
        F::ConsensusTransfer => (Course::HandBack, At::Others),
        F::CoordinatorRegister => (Course::Restart, At::Coordinator),
        F::StorageWrite
        | F::StorageWritten
        | F::StorageSync
        | F::StorageWatermark
        | F::ConsensusSend
        | F::ConsensusReceive
        | F::ConsensusHardState
        | F::ConsensusAppend
        | F::ConsensusWrite
        | F::ConsensusSync
        | F::ConsensusSynced
        | F::ConsensusHandOut
        | F::NodeApply
        | F::NodeApplyWrite
        | F::NodeApplyWritten => (Course::Write, At::Node),
        F::ConsensusPropose => (Course::Write, At::Nodes),
        F::RouterWrite | F::RouterWritten => (Course::Write, At::Router),
        F::StorageGet | F::ConsensusReadIndex => (Course::Read, At::Nodes),
        F::ConsensusOpen | F::ConsensusDestroy | F::NodeMapSave | F::NodeReplicaOpen | F::NodeErase | F::NodeErased => {
            (Course::Create, At::Node)
        }
        F::CoordinatorPropose
        | F::CoordinatorApply
        | F::CoordinatorSave
        | F::CoordinatorSaved
        | F::CoordinatorWatch => (Course::Create, At::Coordinator),
        F::NodeWitnessOpen => (Course::Witness, At::Nodes),
        F::NodeInstall
        | F::NodeSealPropose
        | F::NodeInstallPropose
        | F::NodeBuild
        | F::NodeBuilt
        | F::NodeOffer
        | F::NodeOffered
        | F::NodeFetchFile
        | F::NodeFetchWrite
        | F::NodeFetchSync
        | F::NodeSendFile
        | F::NodeReclaim
        | F::IndexFileWrite
        | F::IndexFileSync
        | F::IndexFileRename
        | F::IndexFileRenamed => (Course::Segments, At::Nodes),
        F::NodeComplete => (Course::LoseFiles, At::Start),
        F::StorageCheckpoint
        | F::StorageCheckpointOpen
        | F::ConsensusSnapshotWish
        | F::ConsensusSnapshotMade
        | F::ConsensusSnapshotTake
        | F::NodeSnapshot
        | F::NodeSnapshotMade
        | F::NodeSendRecords
        | F::NodeRestore
        | F::NodeRestoreBegin
        | F::NodeRestoreWrite
        | F::NodeRestoreFinish
        | F::NodeRebuild => (Course::Rebuild, At::Nodes),
        F::ConsensusCut => (Course::Flood, At::Node),
        F::ConsensusSnapshotStore => (Course::Lag, At::Start),
        F::NodeHeartbeat => (Course::Wait, At::Node),
        F::NodeDigests | F::NodeCompare => (Course::Wait, At::Nodes),
        F::CoordinatorHeartbeat => (Course::Wait, At::Coordinator),
        F::NodeRebuildAsk => (Course::Differ, At::Nodes),
        F::NodeIdentity | F::HomeNote | F::HomeSetAside | F::HomeBeginAnew => (Course::Replace, At::Start),
        F::ConsensusChange | F::NodeMembersStep => (Course::Replace, At::Nodes),
        F::ConsensusChangeApply => (Course::Replace, At::Node),
        F::CoordinatorSettle => (Course::Replace, At::Coordinator),
        F::HomePutBack => (Course::PutBack, At::Start),
    }
}
