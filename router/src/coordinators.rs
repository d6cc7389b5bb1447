//! Asking coordinators: any of them will do, and the next one is tried when one does not answer.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shoal_model::{ErrorKind, InputError};
use shoal_proto::status::{RemoteError, from_status, innermost, to_status};
use shoal_proto::v1::cluster_service_client::ClusterServiceClient;
use shoal_proto::v1::collections_service_client::CollectionsServiceClient;
use shoal_proto::{server, trace};
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// Least time one coordinator is given, if the deadline leaves as much.
const ATTEMPT_MIN: Duration = Duration::from_secs(1);
/// Pause after a round in which none answered.
const ROUND_PAUSE: Duration = Duration::from_millis(50);

/// Size of an answer: the description of every collection with its shards.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Channels to the coordinators, and which one answered last.
#[derive(Debug)]
pub(crate) struct Coordinators {
    /// With their addresses.
    channels: Vec<(String, Channel)>,
    current: AtomicUsize,
}

/// What asking came to.
pub(crate) struct Asked<A> {
    pub(crate) result: Result<Response<A>, Status>,
    /// An earlier attempt may have done the work without our hearing of it.
    pub(crate) repeated: bool,
}

impl Coordinators {
    /// Channels to all of them; none is connected yet.
    pub(crate) fn new(addresses: &[String]) -> Result<Self, InputError> {
        let channel = |address: &String| Ok((address.clone(), server::channel(address)?));
        let channels = addresses.iter().map(channel).collect::<Result<_, InputError>>()?;
        Ok(Self { channels, current: AtomicUsize::new(0) })
    }

    /// Asks one coordinator after another until one answers, or the deadline comes. `message` must bear repeating.
    pub(crate) async fn ask<Q: Clone, A>(
        &self,
        metadata: &MetadataMap,
        message: &Q,
        deadline: Instant,
        call: impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Asked<A> {
        let mut repeated = false;
        let mut attempts = 0_usize;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let within = (left / 2).max(ATTEMPT_MIN).min(left);
            let current = self.current.load(Ordering::Relaxed);
            // Configuration names one coordinator at least.
            let (address, channel) = &self.channels[current % self.channels.len()];
            let answer = timeout(within, call(channel.clone(), request(metadata, message, within))).await;
            let result = answer.unwrap_or_else(|_| Err(Status::unavailable("it did not answer in time")));
            let failed = match result {
                Err(status) if worth_another(&status) => status,
                result => return Asked { result, repeated },
            };
            attempts += 1;
            repeated = true;
            // Only the first of those who meet the failure moves on.
            let next = current.wrapping_add(1);
            let _ = self.current.compare_exchange(current, next, Ordering::Relaxed, Ordering::Relaxed);
            let pause = if attempts.is_multiple_of(self.channels.len()) { ROUND_PAUSE } else { Duration::ZERO };
            if Instant::now() + pause >= deadline {
                return Asked { result: Err(too_late(address, &failed)), repeated };
            }
            sleep(pause).await;
        }
    }
}

/// A client of a coordinator, for collections.
pub(crate) fn collections(channel: Channel) -> CollectionsServiceClient<Channel> {
    CollectionsServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// A client of a coordinator, for the cluster.
pub(crate) fn cluster(channel: Channel) -> ClusterServiceClient<Channel> {
    ClusterServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}

fn request<Q: Clone>(metadata: &MetadataMap, message: &Q, within: Duration) -> Request<Q> {
    let mut request = Request::new(message.clone());
    *request.metadata_mut() = metadata.clone();
    request.set_timeout(within);
    trace::inject(request.metadata_mut());
    request
}

/// Whether another coordinator, or this one a little later, could do better. What the transport made says nothing
/// about the request, and an attempt has less time than the request.
fn worth_another(status: &Status) -> bool {
    use ErrorKind::{Cancelled, DeadlineExceeded, NotLeader, Unavailable};
    let kind = from_status(status).kind;
    status.source().is_some() || matches!(kind, Unavailable | NotLeader | Cancelled | DeadlineExceeded)
}

/// The last failure as the caller is told it. A call that its own deadline ended was not cancelled by the caller.
fn too_late(address: &str, failed: &Status) -> Status {
    let error = from_status(failed);
    let problem = match failed.source() {
        // The transport made it: "connection refused" lies deeper than "tcp connect error".
        Some(source) => format!("{}; see that it runs, and that this router reaches it there", innermost(source)),
        None => error.message.clone(),
    };
    let message = format!("no coordinator served the call in time; {address} was asked last: {problem}");
    let kind = match error.kind {
        ErrorKind::Cancelled | ErrorKind::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        _ => ErrorKind::Unavailable,
    };
    to_status(&RemoteError { kind, message, ..error })
}
