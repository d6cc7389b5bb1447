//! Every failpoint: where it is, and what happens there that may go wrong.
//!
//! An error at a point is whatever a caller there may get: that of a disk, of a peer, or a message that is lost. The code
//! holds each of these points and no other, and `tests/tests/failpoints.rs` says how each is reached; both are checked.

use super::failpoints;

failpoints! {
    /// A store is about to be opened: its log will be replayed.
    StorageOpen,
    /// A record is about to be read.
    StorageGet,
    /// Records are about to be read in order.
    StorageScan,
    /// A batch is about to be written to the write-ahead log.
    StorageWrite,
    /// A batch was written, and is not synced.
    StorageWritten,
    /// The write-ahead log is about to be synced.
    StorageSync,
    /// The write-ahead log is synced, and `SYNCED` does not say so yet.
    StorageWatermark,
    /// A checkpoint is about to be made of links to the store's files.
    StorageCheckpoint,
    /// A checkpoint was made, and is not opened yet: its folder may stay.
    StorageCheckpointOpen,

    /// What is stored of a group is about to be read.
    ConsensusOpen,
    /// A group is about to be deleted with its log.
    ConsensusDestroy,
    /// A proposal is about to be put at the end of a leader's log.
    ConsensusPropose,
    /// A message is about to leave; an error loses it.
    ConsensusSend,
    /// A message has come and is not looked at yet; an error loses it.
    ConsensusReceive,
    /// Term, vote or commit index are about to be put into the batch.
    ConsensusHardState,
    /// Entries are about to be put into the batch.
    ConsensusAppend,
    /// What all groups have to write is about to be written.
    ConsensusWrite,
    /// What was written is about to be synced; what speaks of it has not left.
    ConsensusSync,
    /// What was written is synced, and nobody knows yet.
    ConsensusSynced,
    /// A committed entry is about to go to its state machine.
    ConsensusHandOut,
    /// A member is about to ask how far it must have applied for a linearizable read.
    ConsensusReadIndex,
    /// A follower is about to ask its leader for a snapshot, as its state is damaged.
    ConsensusSnapshotWish,
    /// A state machine has made a snapshot, which the group is about to take.
    ConsensusSnapshotMade,
    /// A snapshot takes the place of a follower's log: it is about to be put into the batch.
    ConsensusSnapshotStore,
    /// A snapshot that was asked for has come, and is about to go to the state machine; the log stays.
    ConsensusSnapshotTake,
    /// A change of members is about to be proposed.
    ConsensusChange,
    /// A change of members is agreed on and about to take effect.
    ConsensusChangeApply,
    /// The lead is about to be handed over.
    ConsensusTransfer,
    /// The beginning of a log is about to be deleted.
    ConsensusCut,

    /// A node is about to write who it is.
    NodeIdentity,
    /// A node is about to ask a coordinator to register it.
    NodeRegister,
    /// A node is about to say that it lives; an error loses that.
    NodeHeartbeat,
    /// A map that the node is about to follow is not kept yet.
    NodeMapSave,
    /// What is stored of a replica is about to be read.
    NodeReplicaOpen,
    /// What is stored of a witness is about to be noted.
    NodeWitnessOpen,
    /// What is left of a replica that was dropped is about to be erased.
    NodeErase,
    /// The files of a replica that was dropped are gone, its records are not.
    NodeErased,
    /// Entries have come and are not applied.
    NodeApply,
    /// Entries are applied in memory and not written.
    NodeApplyWrite,
    /// Entries are applied and written; neither readers nor writers know.
    NodeApplyWritten,
    /// An installed segment is about to take the place of its parts.
    NodeInstall,
    /// A leader is about to propose that a delta be sealed.
    NodeSealPropose,
    /// A leader is about to propose that a segment be installed.
    NodeInstallPropose,
    /// A segment is about to be built or merged; an error ends the job.
    NodeBuild,
    /// A segment is built, its files are whole, and the replica does not know of it.
    NodeBuilt,
    /// A leader is about to offer a segment to a follower; an error loses the offer.
    NodeOffer,
    /// A follower is about to look at what it is offered.
    NodeOffered,
    /// A file of a segment is about to be created for what a peer sends.
    NodeFetchFile,
    /// A piece of a file has come and is not written.
    NodeFetchWrite,
    /// A file has come and is not synced.
    NodeFetchSync,
    /// A fetched segment is about to take the place of what stood in for it.
    NodeComplete,
    /// A piece of a file is about to be read for a peer.
    NodeSendFile,
    /// A lot of records is about to be read for a peer.
    NodeSendRecords,
    /// The segment files of a replica are about to be opened.
    NodeSegmentsOpen,
    /// What is listed of segments is synced; files that are not listed are about to go.
    NodeSegmentsClean,
    /// Files that a segment has replaced are about to be removed.
    NodeReclaim,
    /// A snapshot is about to be made.
    NodeSnapshot,
    /// A snapshot was made and is not told of.
    NodeSnapshotMade,
    /// A snapshot is about to be fetched; the old content is there.
    NodeRestore,
    /// Files of a snapshot are here; the old records are about to be erased.
    NodeRestoreBegin,
    /// Records of a snapshot have come and are not written.
    NodeRestoreWrite,
    /// All records of a snapshot are here; its state, which makes them count, is not written.
    NodeRestoreFinish,
    /// A replica is about to say what its content comes to.
    NodeDigests,
    /// A leader compares what a replica says with its own; an error is a replica that differs.
    NodeCompare,
    /// A leader is about to have the odd one fetch the content of the others.
    NodeRebuildAsk,
    /// A replica is about to put its content down to fetch that of the others.
    NodeRebuild,
    /// A leader is about to take a step towards the members that the map wants.
    NodeMembersStep,

    /// A block of a segment's file is about to be written.
    IndexFileWrite,
    /// A segment's file is whole and not synced.
    IndexFileSync,
    /// A segment's file is synced and does not have its name.
    IndexFileRename,
    /// A segment's file has its name, which a power cut may take away.
    IndexFileRenamed,

    /// The notes beside a node's store are about to be written.
    HomeNote,
    /// An entry of a damaged store is about to be moved aside.
    HomeSetAside,
    /// A damaged store is aside; an empty one is about to be opened in its place.
    HomeBeginAnew,
    /// An entry of a store that must not be given up is about to be moved back.
    HomePutBack,

    /// A command is about to be proposed to the coordinators' group.
    CoordinatorPropose,
    /// A command is agreed on and not applied to the map.
    CoordinatorApply,
    /// The map has changed in memory and is not written.
    CoordinatorSave,
    /// The map is written and nobody knows.
    CoordinatorSaved,
    /// A node has asked to be registered.
    CoordinatorRegister,
    /// A node has said that it lives.
    CoordinatorHeartbeat,
    /// A shard's leader has reported its members, and the map is about to take note.
    CoordinatorSettle,
    /// A watcher is about to be sent what changed in the map; an error ends its stream.
    CoordinatorWatch,

    /// A part of a write is about to go to its shard's leader.
    RouterWrite,
    /// A part of a write was answered; an error loses the answer.
    RouterWritten,
}
