//! `SearchBatch`: several searches at once, each as if it had come alone.
//!
//! All run in one task and end with it. What they share: the lookup of a collection's name, calls to the same node
//! (`coalesce`), and the size of the answer.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, MaybeDone, join, join_all, maybe_done};
use prost::Message as _;
use shoal_model::{Classify as _, ErrorKind, InputError, Limits};
use shoal_proto::status::to_search_failure;
use shoal_proto::v1;
use shoal_proto::v1::search_batch_item::Result as Found;
use tokio::time::{Instant, timeout_at};

use crate::call::{Call, Shared};
use crate::coalesce::{Capacity, Gathering};
use crate::lookup::Located;
use crate::{RouterError, check};

/// The place of a collection, for all searches that name it.
type Lookup<'a> = futures::future::Shared<BoxFuture<'a, Result<Located, Arc<RouterError>>>>;

/// Bytes that the answers of a batch may still take.
struct Room(AtomicUsize);

impl Room {
    /// Half of a message: names and framing come on top.
    fn new(limits: &Limits) -> Self {
        Self(AtomicUsize::new(limits.message_bytes_max as usize / 2))
    }

    /// The answer, if there is room for it.
    fn take(&self, answer: v1::SearchResponse) -> Result<v1::SearchResponse, InputError> {
        let bytes = answer.encoded_len();
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        match taken {
            Ok(_) => Ok(answer),
            Err(left) => {
                let problem = format!("asks for an answer of {bytes} bytes, and the others of its batch leave {left}");
                Err(InputError::new("k", format!("{problem}; ask for fewer points or fields, or in smaller batches")))
            }
        }
    }
}

impl Shared {
    /// Serves every search of a batch; one that fails fails alone.
    pub(crate) async fn search_batch(
        &self,
        request: v1::SearchBatchRequest,
        call: &Call,
    ) -> Result<v1::SearchBatchResponse, RouterError> {
        let limits = &self.config.limits;
        check::searches(request.searches.len(), limits)?;
        let lookups = self.lookups(&request.searches);
        let room = Room::new(limits);
        let capacity = Capacity { items: limits.batch_queries_max as usize, bytes: limits.message_bytes_max as usize };
        let (gathering, carrier) = Gathering::new(capacity, |channel| self.client(channel));
        let searches = async {
            let gathering = gathering; // goes with the last search, which ends the carrier
            let one = |search: v1::SearchRequest| {
                let lookup = lookups[&search.collection].clone();
                self.search_of_batch(search, call, lookup, &gathering, &room)
            };
            all_at_once(request.searches.into_iter().map(one)).await
        };
        let (items, ()) = join(searches, carrier).await;
        Ok(v1::SearchBatchResponse { items })
    }

    /// A lookup for each name, which begins when a search needs it. It has as long as any search may: each search
    /// waits for it within its own deadline.
    fn lookups(&self, searches: &[v1::SearchRequest]) -> BTreeMap<String, Lookup<'_>> {
        let deadline = Instant::now() + Duration::from_millis(self.config.limits.timeout_ms_max.into());
        let lookup = |search: &v1::SearchRequest| {
            let name = search.collection.clone();
            let locate = async move { self.locate(&name, deadline).await.map_err(Arc::new) };
            (search.collection.clone(), locate.boxed().shared())
        };
        searches.iter().map(lookup).collect()
    }

    async fn search_of_batch(
        &self,
        search: v1::SearchRequest,
        call: &Call,
        lookup: Lookup<'_>,
        gathering: &Gathering,
        room: &Room,
    ) -> v1::SearchBatchItem {
        let answered = async {
            let call = call.part(search.timeout_ms, &self.config.limits)?;
            let locate = async {
                let late = |_| RouterError::NoCoordinator {
                    reason: "no coordinator has answered in time; try again".to_owned(),
                };
                timeout_at(call.deadline, lookup).await.map_err(late)?.map_err(RouterError::Shared)
            };
            let answer = self.search_by(search, &call, locate, |call, message| gathering.ask(call, message)).await?;
            Ok(room.take(answer)?)
        };
        let answered = answered.await;
        self.air.metrics.batched(&answered);
        let result = answered.map_or_else(|error| Found::Failure(failure(&error)), Found::Answer);
        v1::SearchBatchItem { result: Some(result) }
    }
}

/// Runs all of them. Each makes its first calls before any carrier is asked to take them: `join_all` alone would yield
/// after every second of them, and the calls would travel in pairs.
async fn all_at_once<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut each: Vec<_> = futures.map(|future| Box::pin(maybe_done(future))).collect();
    let first_round = |cx: &mut Context<'_>| {
        for future in &mut each {
            let _ = future.poll_unpin(cx);
        }
        Poll::Ready(())
    };
    poll_fn(first_round).await;
    let finish = |mut future: Pin<Box<MaybeDone<F>>>| async move {
        future.as_mut().await;
        future.as_mut().take_output().expect("it has just ended, and nobody else takes its output")
    };
    join_all(each.into_iter().map(finish)).await
}

fn failure(error: &RouterError) -> v1::SearchFailure {
    if error.kind() == ErrorKind::Internal {
        tracing::error!(%error, "search of a batch failed");
    }
    to_search_failure(error)
}
