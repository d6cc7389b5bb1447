//! Waiting until a cluster has nothing left to build.

use std::time::{Duration, Instant};

use shoal_client::{Client, ClientError, ReplicaReport};

use crate::error::BenchError;

/// How often the cluster is asked how far it is: reports come once a second.
pub(crate) const ASK_EVERY: Duration = Duration::from_millis(250);
/// How long nothing must have changed.
const QUIET_FOR: Duration = Duration::from_secs(6);
/// What it may take at most.
const SETTLE_WITHIN: Duration = Duration::from_secs(900);

/// Waits until the collection's replicas have reported the same for a while, with no job under way.
pub(crate) async fn settle(client: &Client, collection: &str) -> Result<(), BenchError> {
    let started = Instant::now();
    let mut last: (Vec<ReplicaReport>, Instant) = (Vec::new(), started);
    while started.elapsed() < SETTLE_WITHIN {
        tokio::time::sleep(ASK_EVERY).await;
        let reports = reports(client, collection).await?;
        let busy = reports.is_empty() || reports.iter().any(|report| !report.jobs.is_empty());
        if busy || reports != last.0 {
            last = (reports, Instant::now());
        } else if last.1.elapsed() >= QUIET_FOR {
            return Ok(());
        }
    }
    Err(BenchError::Unsettled { collection: collection.to_owned(), seconds: SETTLE_WITHIN.as_secs() })
}

/// What the nodes say of the collection's replicas.
pub(crate) async fn reports(client: &Client, collection: &str) -> Result<Vec<ReplicaReport>, ClientError> {
    let collection = client.describe_collection(collection).await?;
    let replicas = collection.shards.into_iter().flat_map(|shard| shard.replicas);
    Ok(replicas.filter_map(|replica| replica.report).collect())
}
