//! Raft messages over gRPC: one stream to each peer process, filled from a bounded queue.
//!
//! A lane that is full, broken or without an address drops what it is given; Raft sends again by itself. The
//! stream's loss is never papered over by sending a message twice (see `shoal_runtime::Transport`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shoal_model::{GroupId, ReplicaId};
use shoal_runtime::{Envelope, Transport};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::internal::v1::raft_service_client::RaftServiceClient;
use crate::internal::v1::raft_service_server::RaftService;
use crate::internal::v1::{RaftMessage, SendRequest, SendResponse};

/// Messages that wait for one peer process.
const LANE_MESSAGES: usize = 4_096;
/// Messages that travel in one frame.
const FRAME_MESSAGES: usize = 256;
/// Bytes after which a frame is full.
const FRAME_BYTES: usize = 1 << 20;
/// Frames that wait for the network.
const LANE_FRAMES: usize = 4;
/// Pause before a broken lane is set up again.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);
/// A Raft message holds at most one entry of the largest size and some more; see the consensus crate's caps.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Says where a member of a group can be reached; `None` drops the message.
pub type Resolve = dyn Fn(GroupId, ReplicaId) -> Option<String> + Send + Sync;

/// Sends Raft messages to peer processes.
pub struct RaftLanes {
    resolve: Box<Resolve>,
    lanes: Mutex<BTreeMap<String, mpsc::Sender<Envelope>>>,
    runtime: tokio::runtime::Handle,
}

impl RaftLanes {
    /// No lanes yet; each begins with the first message to its address, on the runtime that calls this.
    #[must_use]
    pub fn new(resolve: Box<Resolve>) -> Arc<Self> {
        Arc::new(Self { resolve, lanes: Mutex::default(), runtime: tokio::runtime::Handle::current() })
    }

    fn lane(&self, address: String) -> mpsc::Sender<Envelope> {
        // The map is whole at every moment, so a panic elsewhere leaves it usable.
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes.entry(address).or_insert_with_key(|address| {
            let (lane, queue) = mpsc::channel(LANE_MESSAGES);
            // Ends when its sender, in the map, is dropped together with these lanes.
            self.runtime.spawn(run_lane(address.clone(), queue));
            lane
        });
        lane.clone()
    }
}

impl Transport for RaftLanes {
    fn send(&self, envelope: Envelope) {
        if let Some(address) = (self.resolve)(envelope.group, envelope.to) {
            // A full lane drops: the peer is slow or gone, and Raft sends again.
            let _ = self.lane(address).try_send(envelope);
        }
    }
}

async fn run_lane(address: String, mut queue: mpsc::Receiver<Envelope>) {
    let Ok(channel) = crate::server::channel(&address) else {
        tracing::error!(address, "the map holds a malformed address; messages to it are dropped");
        return;
    };
    while !queue.is_closed() {
        let (frames, stream) = mpsc::channel(LANE_FRAMES);
        let mut client = RaftServiceClient::new(channel.clone());
        let call = client.send(ReceiverStream::new(stream));
        tokio::select! {
            result = call => {
                tracing::debug!(address, ?result, "Raft lane broke");
                tokio::time::sleep(RECONNECT_AFTER).await;
                // What waited meanwhile is old news.
                while queue.try_recv().is_ok() {}
            }
            () = fill(&mut queue, &frames) => {}
        }
    }
}

/// Moves messages into frames until the queue or the stream ends.
async fn fill(queue: &mut mpsc::Receiver<Envelope>, frames: &mpsc::Sender<SendRequest>) {
    while let Some(first) = queue.recv().await {
        let mut bytes = first.data.len();
        let mut messages = vec![to_wire(first)];
        while messages.len() < FRAME_MESSAGES
            && bytes < FRAME_BYTES
            && let Ok(next) = queue.try_recv()
        {
            bytes += next.data.len();
            messages.push(to_wire(next));
        }
        if frames.send(SendRequest { messages }).await.is_err() {
            // The call that reads the frames has ended, and its end decides what happens next.
            return std::future::pending().await;
        }
    }
}

fn to_wire(envelope: Envelope) -> RaftMessage {
    RaftMessage { group: envelope.group.0, from: envelope.from.0, to: envelope.to.0, data: envelope.data }
}

fn from_wire(message: RaftMessage) -> Envelope {
    Envelope {
        group: GroupId(message.group),
        from: ReplicaId(message.from),
        to: ReplicaId(message.to),
        data: message.data,
    }
}

/// Receives Raft messages of peer processes and hands each to `deliver`, which must not block.
pub struct RaftInbox<F> {
    deliver: F,
    stop: CancellationToken,
}

impl<F: Fn(Envelope) + Send + Sync + 'static> RaftInbox<F> {
    /// The service that hands messages to `deliver` until `stop` fires, which ends the peers' streams.
    pub fn service(
        stop: CancellationToken,
        deliver: F,
    ) -> crate::internal::v1::raft_service_server::RaftServiceServer<Self> {
        crate::internal::v1::raft_service_server::RaftServiceServer::new(Self { deliver, stop })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl<F: Fn(Envelope) + Send + Sync + 'static> RaftService for RaftInbox<F> {
    async fn send(&self, request: Request<Streaming<SendRequest>>) -> Result<Response<SendResponse>, Status> {
        let mut frames = request.into_inner();
        let mut next = async || {
            tokio::select! {
                () = self.stop.cancelled() => None,
                frame = frames.next() => frame,
            }
        };
        while let Some(frame) = next().await {
            frame?.messages.into_iter().map(from_wire).for_each(&self.deliver);
        }
        Ok(Response::new(SendResponse {}))
    }
}
