//! A replica that votes and keeps the log, and has no points.
//!
//! With two others it makes a majority of three at the memory of two. It answers no reads and leads only for as long as
//! nobody else has the whole log.

use shoal_consensus::{Apply, Consensus, GroupStatus, StateMachine};
use shoal_model::failpoints::{Failpoint, meet};
use shoal_model::{ReplicaId, Shard, ShardId};
use shoal_runtime::{Batch, Store, Table};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::NodeError;
use crate::replica::{group_of, group_spec};
use crate::shard::keys;
use crate::shard::machine::Applied;
use crate::shard::state::ShardState;

/// An open witness.
#[derive(Clone)]
pub(crate) struct Witness {
    pub(crate) shard: ShardId,
    consensus: Consensus<Applied>,
}

impl Witness {
    /// Opens the witness `me` of a shard; the task ends when its group is closed.
    pub(crate) async fn open(
        shard: &Shard,
        me: ReplicaId,
        consensus: &Consensus<Applied>,
        store: &dyn Store,
    ) -> Result<(Self, JoinHandle<Result<(), NodeError>>), NodeError> {
        note(shard.id, store)?;
        let work = consensus.open_group(group_spec(shard, me, StateMachine::Witness)).await?;
        Ok((Self { shard: shard.id, consensus: consensus.clone() }, tokio::spawn(until_closed(work))))
    }

    /// How its group stands here.
    pub(crate) fn group_status(&self) -> Option<GroupStatus> {
        self.consensus.status(group_of(self.shard))
    }
}

/// Has the store know the shard, so that a crash has the rest of a drop done at the next start.
pub fn note(shard: ShardId, store: &dyn Store) -> Result<(), NodeError> {
    meet(Failpoint::NodeWitnessOpen)?;
    let mut batch = Batch::default();
    batch.put(Table::Meta, keys::state(shard), ShardState::default().encode());
    Ok(store.write(batch)?)
}

/// There is no work for a witness; its mailbox is held for as long as the group is open.
async fn until_closed(mut work: mpsc::Receiver<Apply<Applied>>) -> Result<(), NodeError> {
    while work.recv().await.is_some() {}
    Ok(())
}
