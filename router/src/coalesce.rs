//! Calls of one batch that are made in the same instant and go to the same node travel as one.
//!
//! A fan-out knows nothing of it: it makes a call and gets that call's answer, so retries, deadlines and coverage stay
//! each search's own. Calls gather in a queue; whoever serves the batch polls the carrier beside the fan-outs, and what
//! has gathered by then goes out, one call a node. Nodes answer each search as it is done: none waits for another.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use prost::Message as _;
use shoal_proto::internal::v1 as wire;
use shoal_proto::internal::v1::shard_service_client::ShardServiceClient;
use shoal_proto::recipient::Recipient;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tonic::transport::Channel;

use crate::flight::NodeCall;
use crate::nodes::timed;

/// Bytes of an item in its list, beside its own.
const ITEM_FRAME_BYTES: usize = 16;

/// What one call may carry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// Where the calls of a batch gather.
pub(crate) struct Gathering {
    /// Holds no more than the open calls of the batch's fan-outs, each of which has one a replica at most.
    queue: mpsc::UnboundedSender<Letter>,
}

/// A search on its way to a node.
struct Letter {
    to: Recipient,
    channel: Channel,
    item: wire::SearchBatchItem,
    within: Duration,
    reply: Reply,
}

type Reply = oneshot::Sender<Result<wire::SearchResponse, Status>>;

/// Letters that travel as one call.
struct Load {
    to: Recipient,
    channel: Channel,
    items: Vec<wire::SearchBatchItem>,
    /// By item; none where it is answered.
    replies: Vec<Option<Reply>>,
    bytes: usize,
    within: Duration,
}

impl Gathering {
    /// A place for calls to gather, and the carrier that takes them to their nodes until that place is gone.
    pub(crate) fn new(
        capacity: Capacity,
        client: impl Fn(Channel) -> ShardServiceClient<Channel>,
    ) -> (Self, impl Future<Output = ()>) {
        let (queue, letters) = mpsc::unbounded_channel();
        (Self { queue }, carry(letters, capacity, client))
    }

    /// Makes a call, which is in the queue when this returns.
    pub(crate) fn ask(
        &self,
        NodeCall { to, channel, within, .. }: NodeCall,
        search: wire::SearchRequest,
    ) -> impl Future<Output = Result<wire::SearchResponse, Status>> + use<> {
        let (reply, answer) = oneshot::channel();
        let timeout_us = u64::try_from(within.as_micros()).unwrap_or(u64::MAX);
        let item = wire::SearchBatchItem { search: Some(search), timeout_us };
        // Without a carrier the letter is dropped, and its reply with it.
        let _ = self.queue.send(Letter { to, channel, item, within, reply });
        async move { answer.await.map_err(|_| Status::cancelled("the batch is over"))? }
    }
}

async fn carry(
    mut letters: mpsc::UnboundedReceiver<Letter>,
    capacity: Capacity,
    client: impl Fn(Channel) -> ShardServiceClient<Channel>,
) {
    let mut calls = FuturesUnordered::new();
    let mut gathered = Vec::new();
    loop {
        tokio::select! {
            count = letters.recv_many(&mut gathered, usize::MAX) => {
                if count == 0 {
                    return;
                }
                let loads = loads(std::mem::take(&mut gathered), capacity);
                calls.extend(loads.into_iter().map(|load| deliver(client(load.channel.clone()), load)));
            }
            Some(()) = calls.next() => {}
        }
    }
}

/// Puts letters to the same node together, as many as a call may carry.
fn loads(letters: Vec<Letter>, capacity: Capacity) -> Vec<Load> {
    let mut by_node: BTreeMap<Recipient, Vec<Load>> = BTreeMap::new();
    for letter in letters {
        let bytes = letter.item.encoded_len() + ITEM_FRAME_BYTES;
        let loads = by_node.entry(letter.to).or_default();
        match loads.last_mut().filter(|load| load.has_room(bytes, capacity)) {
            Some(load) => load.add(letter, bytes),
            None => loads.push(Load::of(letter, bytes)),
        }
    }
    by_node.into_values().flatten().collect()
}

impl Load {
    fn of(letter: Letter, bytes: usize) -> Self {
        let Letter { to, channel, item, within, reply } = letter;
        Self { to, channel, items: vec![item], replies: vec![Some(reply)], bytes, within }
    }

    fn has_room(&self, bytes: usize, capacity: Capacity) -> bool {
        self.items.len() < capacity.items && self.bytes + bytes <= capacity.bytes
    }

    fn add(&mut self, letter: Letter, bytes: usize) {
        self.items.push(letter.item);
        self.replies.push(Some(letter.reply));
        self.bytes += bytes;
        self.within = self.within.max(letter.within);
    }
}

/// Makes one call and hands its answers out. A call that fails fails whatever it has not answered by then.
async fn deliver(mut node: ShardServiceClient<Channel>, load: Load) {
    let Load { to, items, mut replies, within, .. } = load;
    let request = timed(wire::SearchBatchRequest { items }, to, within);
    let ended = receive(&mut node, request, &mut replies).await;
    let silent = || Status::unavailable("the answer to a batch ended early");
    let status = ended.err().unwrap_or_else(silent);
    for reply in replies.into_iter().flatten() {
        // One whose search is over hears nothing more.
        let _ = reply.send(Err(status.clone()));
    }
}

async fn receive(
    node: &mut ShardServiceClient<Channel>,
    request: tonic::Request<wire::SearchBatchRequest>,
    replies: &mut [Option<Reply>],
) -> Result<(), Status> {
    let mut answers = node.search_batch(request).await?.into_inner();
    while let Some(wire::SearchBatchResponse { position, answer }) = answers.message().await? {
        let place = usize::try_from(position).ok().and_then(|position| replies.get_mut(position));
        if let Some(reply) = place.and_then(Option::take) {
            let _ = reply.send(Ok(answer.unwrap_or_default()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_model::{ClusterId, NodeId};
    use shoal_proto::server;

    fn letter(node: u64, vector_bytes: usize, within_ms: u64) -> Letter {
        let vector = shoal_proto::v1::Vector {
            encoding: Some(shoal_proto::v1::vector::Encoding::F32Le(vec![0; vector_bytes].into())),
        };
        let search = wire::SearchRequest { vector: Some(vector), ..Default::default() };
        Letter {
            to: Recipient { cluster: ClusterId(1), node: NodeId(node) },
            channel: server::channel("http://127.0.0.1:1").expect("well-formed"),
            item: wire::SearchBatchItem { search: Some(search), timeout_us: within_ms * 1_000 },
            within: Duration::from_millis(within_ms),
            reply: oneshot::channel().0,
        }
    }

    #[tokio::test]
    async fn letters_to_one_node_travel_together_up_to_the_capacity() {
        let capacity = Capacity { items: 3, bytes: 1_000 };
        for (name, letters, want) in [
            ("two nodes", vec![letter(1, 4, 5), letter(2, 4, 5), letter(1, 4, 5)], vec![2, 1]),
            ("by count", (0..7).map(|_| letter(1, 4, 5)).collect(), vec![3, 3, 1]),
            ("by size", (0..4).map(|_| letter(1, 400, 5)).collect(), vec![2, 2]),
            ("one that is too large alone", vec![letter(1, 4, 5), letter(1, 5_000, 5), letter(1, 4, 5)], vec![1, 1, 1]),
        ] {
            let count = letters.len();
            let loads = loads(letters, capacity);
            assert_eq!(loads.iter().map(|load| load.items.len()).collect::<Vec<_>>(), want, "{name}");
            assert_eq!(loads.iter().map(|load| load.replies.len()).sum::<usize>(), count, "{name}");
        }
        let loads = loads(vec![letter(1, 4, 5), letter(1, 4, 9), letter(1, 4, 7)], capacity);
        assert_eq!(loads[0].within, Duration::from_millis(9), "a call lasts as long as the longest search in it");
    }
}
