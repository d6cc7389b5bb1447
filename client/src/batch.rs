//! Several searches in one call.

use std::time::Instant;

use shoal_model::Classify as _;
use shoal_proto::status::from_search_failure;
use shoal_proto::v1;
use shoal_proto::v1::search_batch_item::Result as Found;
use shoal_proto::v1::search_service_client::SearchServiceClient;
use tracing::instrument;

use crate::answer::{Answer, answer};
use crate::client::{ANSWER_BYTES_MAX, Client};
use crate::error::{ClientError, is_transient};
use crate::options::SearchOptions;
use crate::retry::pause_after;

/// A search of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchSearch<'a> {
    /// Where to search.
    pub collection: &'a str,
    /// What to search for.
    pub vector: &'a [f32],
    /// How.
    pub options: &'a SearchOptions,
}

/// What became of each search.
type Outcomes = Vec<Result<Answer, ClientError>>;

impl Client {
    /// The nearest points of several vectors; outcomes are in the order of `searches`, and one that fails fails alone.
    ///
    /// What fails for the moment is sent again until the deadline, as if it had come alone.
    ///
    /// Errors: those that no search got past, such as more searches than the cluster takes at once.
    #[instrument(name = "client.search_batch", skip_all, fields(searches = searches.len()))]
    pub async fn search_batch(&self, searches: &[BatchSearch<'_>]) -> Result<Outcomes, ClientError> {
        let started = Instant::now();
        let mut outcomes = self.send_batch(searches).await?;
        for attempt in 1_u32.. {
            let failed: Vec<usize> = (0..outcomes.len()).filter(|i| is_open(&outcomes[*i])).collect();
            let pause = pause_after(attempt, rand::random());
            if failed.is_empty() || started.elapsed() + pause >= self.timeout() {
                break;
            }
            tokio::time::sleep(pause).await;
            let again: Vec<BatchSearch<'_>> = failed.iter().map(|i| searches[*i]).collect();
            let left = self.timeout().saturating_sub(started.elapsed());
            // If the call fails as a whole, what was told before says more.
            let Ok(answers) = self.with_timeout(left).send_batch(&again).await else { break };
            for (i, outcome) in failed.into_iter().zip(answers) {
                outcomes[i] = outcome;
            }
        }
        Ok(outcomes)
    }

    async fn send_batch(&self, searches: &[BatchSearch<'_>]) -> Result<Outcomes, ClientError> {
        let wire = |search: &BatchSearch<'_>| search.options.to_wire(search.collection, search.vector);
        let request = v1::SearchBatchRequest { searches: searches.iter().map(wire).collect() };
        let send = |channel, request| async move {
            let mut client = SearchServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
            client.search_batch(request).await
        };
        let items = self.call(request, send).await?.items;
        if items.len() != searches.len() {
            let problem = format!("{} searches were asked for, {} are answered", searches.len(), items.len());
            return Err(ClientError::Malformed(problem));
        }
        Ok(items.into_iter().map(outcome).collect())
    }
}

fn outcome(item: v1::SearchBatchItem) -> Result<Answer, ClientError> {
    match item.result {
        Some(Found::Answer(found)) => answer(found),
        Some(Found::Failure(failure)) => Err(ClientError::Refused(from_search_failure(failure))),
        None => Err(ClientError::Malformed("a search of a batch has no result".to_owned())),
    }
}

/// Whether another attempt may succeed.
fn is_open(outcome: &Result<Answer, ClientError>) -> bool {
    outcome.as_ref().is_err_and(|error| is_transient(error.kind()))
}
