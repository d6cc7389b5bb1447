//! Rust client of Shoal: the calls of `shoal.v1` in the words of `shoal-model`.
//!
//! A [`Client`] is cheap to clone and connects when first used. It may know several endpoints (routers, or
//! coordinators for all but points): it asks one of them and turns to the next when that one is out of reach.
//! Every call has a deadline and can safely be repeated, so what is refused for the moment is tried again, with
//! growing, jittered pauses, until the deadline. Calls carry the trace context of the current span.
//!
//! ```no_run
//! use shoal_client::{Client, NewCollection, SearchOptions};
//! use shoal_model::{Metric, Point, PointId, Value};
//!
//! # async fn example() -> Result<(), shoal_client::ClientError> {
//! let client = Client::connect(&["http://127.0.0.1:7700"])?;
//! client.create_collection(NewCollection::new("news", 3, Metric::Cosine)).await?;
//!
//! let point = Point {
//!     id: PointId::Number(1),
//!     vector: vec![0.1, 0.7, 0.2],
//!     payload: [("language".to_owned(), Value::Text("en".into()))].into(),
//! };
//! let token = client.upsert("news", vec![point]).await?;
//!
//! let options = SearchOptions { k: 5, ..SearchOptions::default() }.after(token);
//! let answer = client.search("news", &[0.1, 0.6, 0.3], &options).await?;
//! for hit in &answer.hits {
//!     println!("{} {}", hit.id, hit.score);
//! }
//! assert!(answer.info.coverage.is_full());
//! # Ok(())
//! # }
//! ```
//!
//! Does not know about: how the cluster finds its answers, or any file format.

mod answer;
mod batch;
mod client;
mod cluster;
mod error;
mod options;
mod retry;

pub use answer::{Answer, AnswerInfo, Coverage, Gap, Hit, Page, Record, SearchWork, StageTimings};
pub use batch::BatchSearch;
pub use client::{Client, DEFAULT_TIMEOUT};
pub use cluster::{
    ClusterStatus, Collection, CoordinatorStanding, CoordinatorStatus, Health, NodeStatus, Replica, ReplicaReport,
    Shard, Standing, Warning,
};
pub use error::ClientError;
pub use options::{
    Consistency, GraphOptions, NewCollection, ReadOptions, ScrollOptions, SearchOptions, VectorEncoding,
};
