//! Channels to nodes, and what their failures mean.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shoal_model::{ClusterMap, ErrorKind, InputError, NodeId, ShardId};
use shoal_proto::internal::v1 as wire;
use shoal_proto::recipient::Recipient;
use shoal_proto::status::from_status;
use shoal_proto::{server, trace};
use tonic::transport::Channel;
use tonic::{Request, Status, TimeoutExpired};

use crate::fanout::{Cause, Failure};

/// One channel to each address in use. A channel reconnects by itself.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl Nodes {
    /// The channel to `address`.
    pub(crate) fn channel(&self, address: &str) -> Result<Channel, InputError> {
        // The table is whole at every moment, so a panic elsewhere leaves it usable.
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = server::channel(address)?;
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Closes channels to addresses that the map no longer holds, once their calls have ended.
    pub(crate) fn retain(&self, map: &ClusterMap) {
        let addresses: BTreeSet<&str> = map.nodes.values().map(|node| node.address.as_str()).collect();
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|address, _| addresses.contains(address.as_str()));
    }
}

/// A call for one node that continues the current trace and ends `within`.
pub(crate) fn timed<Q>(message: Q, to: Recipient, within: Duration) -> Request<Q> {
    let mut request = Request::new(message);
    request.set_timeout(within);
    to.inject(request.metadata_mut());
    trace::inject(request.metadata_mut());
    request
}

/// Why a call to `node` failed as a whole.
pub(crate) fn call_failure(node: NodeId, status: &Status) -> Failure {
    let cause = match local_cause(status) {
        Some(cause) => cause,
        None => cause_of(from_status(status).kind),
    };
    Failure::new(cause, format!("node {node}: {}", status.message()))
}

/// The cause of a status that no peer sent: the transport made it, out of an error that it carries.
fn local_cause(status: &Status) -> Option<Cause> {
    let mut source = Some(status.source()?);
    while let Some(error) = source {
        if error.is::<TimeoutExpired>() {
            return Some(Cause::Deadline);
        }
        source = error.source();
    }
    Some(Cause::Unreachable)
}

fn cause_of(kind: ErrorKind) -> Cause {
    match kind {
        ErrorKind::StaleEpoch => Cause::StaleEpoch,
        ErrorKind::NotLeader => Cause::NotLeader,
        ErrorKind::Unavailable => Cause::Unreachable,
        ErrorKind::Overloaded => Cause::Overloaded,
        ErrorKind::DiskFull => Cause::DiskFull,
        ErrorKind::DeadlineExceeded | ErrorKind::Cancelled => Cause::Deadline,
        ErrorKind::Invalid => Cause::Invalid,
        ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::Precondition
        | ErrorKind::Unimplemented
        | ErrorKind::Corruption
        | ErrorKind::Internal => Cause::Internal,
    }
}

/// Why a node did not answer for one shard.
pub(crate) fn shard_failure(failure: wire::ShardFailure) -> (ShardId, Failure) {
    use wire::ShardFailureKind as Kind;
    let cause = match failure.kind() {
        Kind::StaleEpoch => Cause::StaleEpoch,
        Kind::NotReady => Cause::NotReady,
        Kind::NotLeader => Cause::NotLeader,
        Kind::Overloaded => Cause::Overloaded,
        Kind::DiskFull => Cause::DiskFull,
        Kind::Deadline => Cause::Deadline,
        Kind::Invalid => Cause::Invalid,
        Kind::Internal | Kind::Unspecified => Cause::Internal,
    };
    let leader = Some(NodeId(failure.leader_node)).filter(|node| node.0 > 0);
    (ShardId(failure.shard_id), Failure { cause, message: failure.message, leader })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_proto::status::{RemoteError, to_status};

    #[test]
    fn statuses_of_nodes_are_told_from_those_of_the_transport() {
        let told = |kind| to_status(&RemoteError { kind, field: String::new(), message: "x".into() });
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        for (name, status, want) in [
            ("a stale epoch", told(ErrorKind::StaleEpoch), Cause::StaleEpoch),
            ("push-back", told(ErrorKind::Overloaded), Cause::Overloaded),
            ("a full disk", told(ErrorKind::DiskFull), Cause::DiskFull),
            ("a deadline on the node", told(ErrorKind::DeadlineExceeded), Cause::Deadline),
            ("a bug", told(ErrorKind::Internal), Cause::Internal),
            ("an older node", Status::unimplemented("no such method"), Cause::Internal),
            ("a broken connection", Status::from_error(Box::new(broken)), Cause::Unreachable),
            ("our own deadline", Status::from_error(Box::new(TimeoutExpired(()))), Cause::Deadline),
        ] {
            assert_eq!(call_failure(NodeId(1), &status).cause, want, "{name}");
        }
    }

    #[tokio::test]
    async fn channels_are_dropped_with_their_node() {
        let nodes = Nodes::default();
        assert!(nodes.channel("nonsense").is_err());
        nodes.channel("http://127.0.0.1:1").expect("well-formed");
        nodes.retain(&ClusterMap::default());
        assert!(nodes.channels.lock().expect("no panic").is_empty());
    }
}
