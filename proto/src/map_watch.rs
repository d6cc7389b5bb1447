//! Following the cluster map: one task that watches a coordinator, and a handle for everybody who reads the map.
//!
//! Any coordinator will do. The task moves on to the next one when a stream breaks, says nothing for long, or
//! has no news although somebody asked for some. The map never goes back: a lower epoch is passed over, and a
//! map of another cluster is refused. Routers and nodes follow it alike.

use std::sync::Arc;
use std::time::Duration;

use shoal_model::{Change, ClusterId, ClusterMap, Epoch};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::internal::v1 as wire;
use crate::internal::v1::coordinator_service_client::CoordinatorServiceClient;
use crate::map::{MapDecodeError, changes_from_wire, id_to_bytes, map_from_wire};
use crate::status::{RemoteError, from_status};

/// How long a coordinator may take to open a stream.
const OPEN_WITHIN: Duration = Duration::from_secs(3);
/// Silence after which the next coordinator is asked: this one may be cut off from the others.
const SILENCE: Duration = Duration::from_secs(10);
/// Silence after which the next is asked when somebody knows that there is news.
const SILENCE_REFRESHING: Duration = Duration::from_millis(100);
/// Least time between two such moves, so that requests cannot drive the task in circles.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// Pause after the first round in which every coordinator failed; it doubles with each further round.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Size of the whole map on the wire.
const MAP_BYTES_MAX: usize = 256 << 20;

/// The newest cluster map this process knows. Cheap to clone; all clones show the same map.
#[derive(Clone, Debug)]
pub struct MapWatch {
    maps: watch::Sender<Arc<ClusterMap>>,
    wanted: Arc<Notify>,
}

/// Why a stream of the map came to its end, or a map was refused.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("refused a map of cluster {theirs}, this process belongs to {ours}; check the coordinators' addresses")]
    OtherCluster { ours: ClusterId, theirs: ClusterId },
    #[error("changes of epoch {got} do not follow epoch {have}")]
    Gap { have: Epoch, got: Epoch },
    #[error(transparent)]
    Malformed(#[from] MapDecodeError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("did not open a stream within {OPEN_WITHIN:?}")]
    NotOpened,
    #[error("ended the stream")]
    Ended,
}

/// What a coordinator tells.
enum News {
    Whole(ClusterMap),
    Changes(Epoch, Vec<Change>),
}

impl MapWatch {
    /// A handle that holds an empty map, and the task that fills it until `stop` fires. The caller spawns it.
    ///
    /// `coordinators`: URIs, already checked with [`crate::server::check_address`]; malformed ones are passed over.
    pub fn start(
        coordinators: Vec<String>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        Self::start_from(ClusterMap::default(), coordinators, stop)
    }

    /// The same, beginning with `known`, a map kept from before. If that names a cluster, no other one's map is ever
    /// taken, not even at first: a process that keeps data must not be led astray by a wrong address.
    pub fn start_from(
        known: ClusterMap,
        coordinators: Vec<String>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (maps, _) = watch::channel(Arc::new(known));
        let watch = Self { maps, wanted: Arc::new(Notify::new()) };
        let follower = watch.clone();
        let task = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follower.follow_any(&coordinators) => {}
            }
        };
        (watch, task)
    }

    /// The newest map; the empty one, of epoch 0, until a coordinator was heard.
    #[must_use]
    pub fn current(&self) -> Arc<ClusterMap> {
        self.maps.borrow().clone()
    }

    /// Every map from now on. A receiver may miss some, but not the newest. Never closes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.maps.subscribe()
    }

    /// Hints that there is news: a coordinator that has none for us is soon left for the next.
    pub fn refresh(&self) {
        self.wanted.notify_one();
    }

    /// The first map beyond `epoch`. Waits for it without end: the caller brings the deadline.
    pub async fn wait_beyond(&self, epoch: Epoch) -> Arc<ClusterMap> {
        let mut maps = self.maps.subscribe();
        loop {
            let map = maps.borrow_and_update().clone();
            if map.epoch > epoch {
                return map;
            }
            // Fails only without a sender, and `self` holds one.
            let _ = maps.changed().await;
        }
    }

    async fn follow_any(&self, coordinators: &[String]) {
        let channel = |address: &String| Some((address.clone(), crate::server::channel(address).ok()?));
        let channels: Vec<(String, Channel)> = coordinators.iter().filter_map(channel).collect();
        if channels.is_empty() {
            tracing::error!(?coordinators, "no coordinator to watch");
            return std::future::pending().await;
        }
        let mut failures = 0_usize;
        let mut refresh_after = Instant::now();
        for (address, channel) in channels.iter().cycle() {
            let before = self.current().epoch;
            match self.follow_one(channel.clone(), &mut refresh_after).await {
                // Silent, not broken.
                Ok(()) => failures = 0,
                Err(error) => {
                    failures = if self.current().epoch > before { 1 } else { failures.saturating_add(1) };
                    tell(address, &error);
                }
            }
            if failures >= channels.len() {
                sleep(pause(failures / channels.len())).await;
            }
        }
    }

    /// Follows one coordinator until it fails, or is silent for so long that another is worth asking.
    async fn follow_one(&self, channel: Channel, refresh_after: &mut Instant) -> Result<(), WatchError> {
        let mut client = CoordinatorServiceClient::new(channel).max_decoding_message_size(MAP_BYTES_MAX);
        let map = self.current();
        let named = map.cluster != ClusterId::default();
        let cluster = if named { id_to_bytes(map.cluster.0) } else { bytes::Bytes::new() };
        let opened =
            timeout(OPEN_WITHIN, client.watch_map(wire::WatchMapRequest { epoch: map.epoch.0, cluster })).await;
        let opened = opened.map_err(|_| WatchError::NotOpened)?;
        let mut stream = opened.map_err(|status| from_status(&status))?.into_inner();
        let mut leave_at = Instant::now() + SILENCE;
        let mut refreshing = false;
        loop {
            tokio::select! {
                message = stream.message() => {
                    let message = message.map_err(|status| from_status(&status))?.ok_or(WatchError::Ended)?;
                    self.install(news(message)?)?;
                    leave_at = Instant::now() + SILENCE;
                    refreshing = false;
                }
                () = self.wanted.notified(), if !refreshing => {
                    refreshing = true;
                    let soon = Instant::now() + SILENCE_REFRESHING;
                    leave_at = leave_at.min(soon.max(*refresh_after));
                }
                () = sleep_until(leave_at) => {
                    if refreshing {
                        *refresh_after = Instant::now() + REFRESH_EVERY;
                    }
                    return Ok(());
                }
            }
        }
    }

    fn install(&self, news: News) -> Result<(), WatchError> {
        let mut result = Ok(());
        self.maps.send_if_modified(|map| match followed(map, news) {
            Ok(None) => false,
            Ok(Some(next)) => {
                tracing::debug!(epoch = next.epoch.0, "cluster map followed");
                *map = Arc::new(next);
                true
            }
            Err(error) => {
                result = Err(error);
                false
            }
        });
        result
    }
}

fn tell(address: &str, error: &WatchError) {
    match error {
        WatchError::OtherCluster { .. } | WatchError::Gap { .. } | WatchError::Malformed(_) => {
            tracing::error!(address, %error, "watching the cluster map");
        }
        _ => tracing::debug!(address, %error, "watching the cluster map; asking the next coordinator"),
    }
}

fn pause(rounds: usize) -> Duration {
    let doublings = u32::try_from(rounds.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    (PAUSE_FIRST * 2_u32.pow(doublings)).min(PAUSE_MAX)
}

fn news(message: wire::WatchMapResponse) -> Result<News, MapDecodeError> {
    use wire::watch_map_response::Kind;
    match message.kind.ok_or(MapDecodeError { what: "map message" })? {
        Kind::Whole(map) => Ok(News::Whole(map_from_wire(map)?)),
        Kind::Changes(changes) => changes_from_wire(changes).map(|(epoch, list)| News::Changes(epoch, list)),
    }
}

/// The map after `news`; `None` if that is nothing new.
fn followed(map: &ClusterMap, news: News) -> Result<Option<ClusterMap>, WatchError> {
    let mut next = match news {
        News::Whole(whole) => {
            check_cluster(map, whole.cluster)?;
            if whole.epoch <= map.epoch {
                return Ok(None);
            }
            whole
        }
        News::Changes(epoch, _) if epoch <= map.epoch => return Ok(None),
        News::Changes(epoch, changes) => {
            if epoch != map.epoch.next() {
                return Err(WatchError::Gap { have: map.epoch, got: epoch });
            }
            let mut next = map.clone();
            next.publish(epoch, changes);
            check_cluster(map, next.cluster)?;
            next
        }
    };
    // History is for coordinators, who serve watchers.
    next.recent.clear();
    Ok(Some(next))
}

/// A map without a name is older than the cluster's naming, and may become any.
fn check_cluster(map: &ClusterMap, theirs: ClusterId) -> Result<(), WatchError> {
    let unnamed = ClusterId::default();
    if map.cluster == unnamed || theirs == unnamed || map.cluster == theirs {
        return Ok(());
    }
    Err(WatchError::OtherCluster { ours: map.cluster, theirs })
}

#[cfg(test)]
mod tests;
