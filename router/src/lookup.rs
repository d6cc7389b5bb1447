//! From a collection's name to its place in the cluster map.
//!
//! A name that the map lacks may be newer than the map, so a coordinator is asked before the answer is "not
//! found". Those questions are paced: a flood of unknown names costs the coordinators a bounded amount of work.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shoal_model::{ClusterMap, Collection, CollectionId, CollectionSpec, Epoch, ErrorKind, InputError};
use shoal_proto::status::from_status;
use shoal_proto::v1;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::RouterError;
use crate::call::Shared;
use crate::coordinators::collections;

/// Time between two questions to coordinators.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// How far ahead questions may be booked; a request beyond is refused.
const BOOKED_MAX: Duration = Duration::from_millis(500);
/// How long the coordinators may take to say whether they know a collection.
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// How long the map may take to show what a coordinator has just told.
const SHOWN_WITHIN: Duration = Duration::from_secs(2);

/// A collection in a map.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) map: Arc<ClusterMap>,
    id: CollectionId,
}

impl Located {
    fn find(map: Arc<ClusterMap>, name: &str) -> Option<Self> {
        let id = map.collection(name)?.id;
        Some(Self { map, id })
    }

    /// The collection.
    pub(crate) fn collection(&self) -> &Collection {
        // `find`, the only maker, has taken the id from this very map, which does not change.
        &self.map.collections[&self.id]
    }
}

/// Hands out moments at which a coordinator may be asked.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    next: Mutex<Option<Instant>>,
}

impl Pacer {
    /// The next free moment; `None` if it is too far away.
    fn book(&self, now: Instant) -> Option<Instant> {
        // One value, written whole.
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let moment = next.map_or(now, |next| next.max(now));
        (moment <= now + BOOKED_MAX).then(|| {
            *next = Some(moment + ASK_EVERY);
            moment
        })
    }
}

impl Shared {
    /// Finds a collection by name.
    pub(crate) async fn locate(&self, name: &str, deadline: Instant) -> Result<Located, RouterError> {
        match Located::find(self.air.watch.current(), name) {
            Some(located) => Ok(located),
            None => self.look_harder(name, deadline).await,
        }
    }

    async fn look_harder(&self, name: &str, deadline: Instant) -> Result<Located, RouterError> {
        if name.len() > CollectionSpec::MAX_NAME_BYTES {
            let problem = format!("has {} bytes, a name has at most {}", name.len(), CollectionSpec::MAX_NAME_BYTES);
            return Err(InputError::new("collection", problem).into());
        }
        let unknown = || RouterError::UnknownCollection { name: name.to_owned() };
        let first_map = timeout_at(deadline, self.air.watch.wait_beyond(Epoch::default()));
        let no_map = |_| RouterError::NoMap { coordinators: self.config.coordinators.join(", ") };
        let map = first_map.await.map_err(no_map)?;
        if let Some(located) = Located::find(map, name) {
            return Ok(located);
        }
        let moment = self.lookups.book(Instant::now()).ok_or(RouterError::TooManyUnknown)?;
        sleep_until(moment.min(deadline)).await;
        if let Some(located) = Located::find(self.air.watch.current(), name) {
            return Ok(located);
        }
        let told = self.ask_for(name, deadline).await?.ok_or_else(unknown)?;
        self.shown(epoch_of(&told), deadline).await;
        Located::find(self.air.watch.current(), name).ok_or_else(unknown)
    }

    /// What the coordinators know of a collection; `None` if there is none of that name.
    async fn ask_for(&self, name: &str, deadline: Instant) -> Result<Option<v1::Collection>, RouterError> {
        self.air.metrics.lookup();
        let deadline = deadline.min(Instant::now() + ASK_WITHIN);
        let message = v1::GetCollectionRequest { name: name.to_owned() };
        let ask = async |channel, request| collections(channel).get_collection(request).await;
        match self.coordinators.ask(&Default::default(), &message, deadline, ask).await.result {
            Ok(answer) => Ok(answer.into_inner().collection),
            Err(status) => match from_status(&status) {
                error if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Invalid) => Ok(None),
                error => Err(RouterError::NoCoordinator { reason: error.message }),
            },
        }
    }

    /// Waits until the map shows what a coordinator has just told, or for as long as that is worth it.
    pub(crate) async fn shown(&self, epoch: Epoch, deadline: Instant) {
        self.air.watch.refresh();
        let until = deadline.min(Instant::now() + SHOWN_WITHIN);
        // Whoever needs the map looks again; that it is late is no error here.
        let _ = timeout_at(until, self.air.watch.wait_beyond(Epoch(epoch.0.saturating_sub(1)))).await;
    }
}

/// The map version that holds a collection as a coordinator has told it.
pub(crate) fn epoch_of(told: &v1::Collection) -> Epoch {
    Epoch(told.shards.iter().map(|shard| shard.epoch).max().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn questions_are_spaced_and_not_booked_far_ahead() {
        let pacer = Pacer::default();
        let now = Instant::now();
        let booked: Vec<Instant> = std::iter::from_fn(|| pacer.book(now)).take(1_000).collect();
        assert!(booked.windows(2).all(|pair| pair[1] - pair[0] == ASK_EVERY), "questions are evenly spaced");
        assert_eq!(booked.len() as u128, BOOKED_MAX.as_millis() / ASK_EVERY.as_millis() + 1);
        let later = now + Duration::from_secs(60);
        assert_eq!(pacer.book(later), Some(later), "an idle pacer lets the next question through at once");
    }
}
