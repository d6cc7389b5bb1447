//! How a coordinator begins: which replica of the coordinators' group its store is.
//!
//! A replica is never the same without its store: it would forget whom it voted for and what it acknowledged. So the first
//! members of the group are the coordinators' numbers, and a coordinator that comes with an empty store to a cluster that
//! exists is another replica, with a number that is drawn once and kept ([`newcomer`]).
//!
//! Whether the cluster exists an empty store cannot tell: it may have been emptied. *Every* other coordinator is asked
//! ([`decide`]), since a majority of them is not enough. Of three, the emptied one and one that never heard of an election
//! may be a majority, while the third, which is silent, has been elected by the vote that was lost and has committed an
//! entry with it. A vote or an acknowledgement, though, is always asked for by another coordinator, whose own term was on
//! disk by then: if none of the others knows a term, nobody ever got anything from this one. What it costs is that a first
//! start needs all coordinators once, and that one whose disk was lost finds its way back before the first election only
//! when all run. Later, one that knows is enough, as to join loses nothing.
//!
//! Whoever says that the cluster has begun knows a term beyond the first, so with pre-votes a majority had begun as first
//! members: those who join then find somebody to join.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_consensus::{GroupStatus, stored_replica};
use shoal_model::planted::{Bug, is_planted};
use shoal_model::{InputError, ReplicaId};
use shoal_proto::internal::v1::coordinator_service_client::CoordinatorServiceClient;
use shoal_proto::internal::v1::{GetBeginningRequest, GetBeginningResponse};
use shoal_runtime::{Batch, Store, StoreError, Table};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Request;

use crate::leadership::Shared;
use crate::machine::GROUP;
use crate::{CoordinatorConfig, CoordinatorError};

/// Where a newcomer keeps which replica it is, before the group has anything of it.
const KEY: &[u8] = b"coordinator/newcomer";
/// Bits of a replica's number that name its coordinator.
const COORDINATOR_BITS: u32 = 16;
/// The largest number of a coordinator.
pub(crate) const COORDINATOR_MAX: u64 = (1 << COORDINATOR_BITS) - 1;
/// How long another coordinator may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Pause before all are asked again.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How often it is told who is waited for.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The replica as which a coordinator is one of the first members.
#[must_use]
pub fn founder(coordinator: u64) -> ReplicaId {
    ReplicaId(coordinator)
}

/// A replica that a coordinator has never been; `random` is drawn anew for each.
#[must_use]
pub fn newcomer(coordinator: u64, random: u64) -> ReplicaId {
    let incarnation = (random >> COORDINATOR_BITS).max(1);
    ReplicaId(incarnation << COORDINATOR_BITS | coordinator)
}

/// The coordinator that a replica is, or was.
#[must_use]
pub fn coordinator_of(replica: ReplicaId) -> u64 {
    replica.0 & COORDINATOR_MAX
}

/// The replica that `store` is; none if it never was one.
pub fn stored(store: &dyn Store) -> Result<Option<ReplicaId>, CoordinatorError> {
    if let Some(replica) = stored_replica(store, GROUP)? {
        return Ok(Some(replica));
    }
    let Some(noted) = store.get(Table::Meta, KEY)? else { return Ok(None) };
    let noted = noted.as_ref().try_into().map(u64::from_be_bytes);
    let broken = |_| CoordinatorError::Task("the number of this coordinator's replica does not read back".to_owned());
    Ok(Some(ReplicaId(noted.map_err(broken)?)))
}

/// Keeps which replica a store is, before anybody hears of it.
pub fn note(store: &dyn Store, replica: ReplicaId) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    batch.put(Table::Meta, KEY, replica.0.to_be_bytes().to_vec());
    store.write(batch)?;
    store.sync()
}

/// Whether a replica knows that the cluster exists; `None` if it cannot say. `replica`: none while its coordinator asks
/// itself, since it has promised nobody anything then.
#[must_use]
pub fn has_begun(replica: Option<ReplicaId>, status: Option<&GroupStatus>) -> Option<bool> {
    match replica {
        None => Some(false),
        Some(replica) if replica != founder(coordinator_of(replica)) => Some(true),
        Some(_) => status.map(|status| !status.is_new()),
    }
}

/// What a coordinator with an empty store does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It is one of the first members.
    Found,
    /// The cluster exists: it joins as another replica.
    Join,
    /// These have to answer first.
    Wait(Vec<u64>),
}

/// What to do by what the `others` have said since the store was found empty: whether the cluster has begun.
#[must_use]
pub fn decide(others: &[u64], said: &BTreeMap<u64, bool>) -> Beginning {
    if is_planted(Bug::EmptiedCoordinatorKeepsIdentity) {
        return Beginning::Found;
    }
    if said.values().any(|has_begun| *has_begun) {
        return Beginning::Join;
    }
    let silent: Vec<u64> = others.iter().copied().filter(|other| !said.contains_key(other)).collect();
    if silent.is_empty() { Beginning::Found } else { Beginning::Wait(silent) }
}

/// Asks until it is known whether the cluster exists; never says [`Beginning::Wait`].
pub(crate) async fn find_out(shared: &Shared) -> Beginning {
    let others: Vec<u64> = shared.peers.iter().map(|(id, _)| *id).collect();
    let mut tell_at = Instant::now() + ANSWER_WITHIN;
    loop {
        let (said, odd) = ask_all(shared).await;
        let silent = match decide(&others, &said) {
            Beginning::Wait(silent) => silent,
            beginning => return beginning,
        };
        let waits_for = waits_for(&shared.config, &silent, &odd);
        if Instant::now() >= tell_at {
            tracing::warn!(id = shared.config.id, "the store is empty: this coordinator waits for {waits_for}");
            tell_at = Instant::now() + TELL_EVERY;
        }
        shared.wait_for(waits_for);
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// What is waited for, and what to do about it.
fn waits_for(config: &CoordinatorConfig, silent: &[u64], odd: &[String]) -> String {
    let name = |id: &u64| match config.address_of(founder(*id)) {
        Some(address) => format!("coordinator {id} ({address})"),
        None => format!("coordinator {id}"),
    };
    let names: Vec<String> = silent.iter().map(name).collect();
    let mut text = format!(
        "{} to say whether the cluster exists: an empty store may be new or emptied, so start all coordinators",
        names.join(" and ")
    );
    for odd in odd {
        text += &format!("; {odd}");
    }
    text
}

/// Whether the cluster has begun, as every other coordinator says that answers; and which answers are of no use.
async fn ask_all(shared: &Shared) -> (BTreeMap<u64, bool>, Vec<String>) {
    let mut asked = JoinSet::new();
    for (id, channel) in &shared.peers {
        let (id, mut client) = (*id, CoordinatorServiceClient::new(channel.clone()));
        asked.spawn(async move {
            let mut request = Request::new(GetBeginningRequest {});
            request.set_timeout(ANSWER_WITHIN);
            let answer = tokio::time::timeout(ANSWER_WITHIN, client.get_beginning(request)).await;
            Some((id, answer.ok()?.ok()?.into_inner()))
        });
    }
    let (mut said, mut odd) = (BTreeMap::new(), Vec::new());
    for (id, answer) in asked.join_all().await.into_iter().flatten() {
        match check_answer(&shared.config, id, &answer) {
            Ok(()) => drop(said.insert(id, answer.has_begun)),
            Err(problem) => odd.push(problem),
        }
    }
    (said, odd)
}

/// Refuses an answer of somebody else than was asked, or of one that counts on other members.
fn check_answer(config: &CoordinatorConfig, asked: u64, answer: &GetBeginningResponse) -> Result<(), String> {
    if answer.id != asked {
        return Err(format!("who answers for coordinator {asked} says it is {}: mend coordinator.peers", answer.id));
    }
    let mut own: Vec<u64> = config.peers.iter().map(|peer| peer.id).collect();
    own.sort_unstable();
    if !answer.has_begun && answer.peers != own {
        let theirs = &answer.peers;
        return Err(format!("coordinator {asked} has the peers {theirs:?} and this one {own:?}: make them the same"));
    }
    Ok(())
}

/// Refuses a store that is another coordinator's.
pub(crate) fn check_own(config: &CoordinatorConfig, replica: ReplicaId) -> Result<(), InputError> {
    let stored = coordinator_of(replica);
    if stored == config.id {
        return Ok(());
    }
    let problem = format!("is {}, and the data folder is that of coordinator {stored}; give each its own", config.id);
    Err(InputError::new("coordinator.id", problem))
}

#[cfg(test)]
mod tests {
    use shoal_runtime::MemoryStore;

    use super::*;

    #[test]
    fn who_is_silent_may_know_so_all_are_asked() {
        use Beginning::{Found, Join, Wait};
        for (name, others, said, want) in [
            ("alone", &[][..], &[][..], Found),
            ("a first start", &[2, 3], &[(2, false), (3, false)], Found),
            ("one is late", &[2, 3], &[(2, false)], Wait(vec![3])),
            ("nobody is there", &[2, 3], &[], Wait(vec![2, 3])),
            ("one knows, and one is silent", &[2, 3], &[(3, true)], Join),
            ("one knows, and one lags", &[2, 3], &[(2, false), (3, true)], Join),
            // The silent ones may have been elected with the vote that this one has lost.
            ("a majority of five knows nothing", &[2, 3, 4, 5], &[(2, false), (3, false), (4, false)], Wait(vec![5])),
        ] {
            assert_eq!(decide(others, &said.iter().copied().collect()), want, "{name}");
        }
    }

    #[test]
    fn a_replica_names_its_coordinator() {
        for random in [0, 1, 1 << 16, 0x1234_5678_9abc_def0, u64::MAX] {
            for coordinator in [1, 3, COORDINATOR_MAX] {
                let replica = newcomer(coordinator, random);
                assert_eq!(coordinator_of(replica), coordinator);
                assert_ne!(replica, founder(coordinator));
            }
        }
        assert_eq!(coordinator_of(founder(7)), 7);
        assert_ne!(newcomer(1, 1 << 20), newcomer(1, 1 << 21));
    }

    #[test]
    fn a_newcomer_is_the_same_after_a_restart() {
        let store = MemoryStore::new();
        assert_eq!(stored(&store).expect("read"), None);
        let replica = newcomer(2, u64::MAX);
        note(&store, replica).expect("written");
        store.crash(0);
        assert_eq!(stored(&store).expect("read"), Some(replica), "it is on disk before anybody hears of it");
    }

    #[test]
    fn a_newcomer_knows_and_one_that_asks_does_not() {
        assert_eq!(has_begun(None, None), Some(false));
        assert_eq!(has_begun(Some(newcomer(1, 99 << 16)), None), Some(true));
        assert_eq!(has_begun(Some(founder(1)), None), None, "its group is closed, as it cannot go on");
    }
}
