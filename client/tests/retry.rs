//! What the client promises about failures: transient ones are tried again inside the deadline and at the next
//! endpoint, final ones are reported at once with kind and field, and no call outlives its deadline.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use shoal_client::{BatchSearch, Client, ClientError, SearchOptions};
use shoal_model::{Classify as _, ErrorKind, InputError, Metric};
use shoal_proto::status::{RemoteError, from_status, to_search_failure, to_status};
use shoal_proto::v1::search_service_server::{SearchService, SearchServiceServer};
use shoal_proto::{convert, server, v1};
use tonic::{Request, Response, Status};

/// Answers searches from a script: each entry is an error to give; when the script is over, answers are empty. In a
/// batch, each search takes the next entry.
struct Scripted {
    script: Mutex<VecDeque<Status>>,
    hang: bool,
}

#[tonic::async_trait]
impl SearchService for Scripted {
    async fn search(&self, request: Request<v1::SearchRequest>) -> Result<Response<v1::SearchResponse>, Status> {
        assert!(request.metadata().contains_key("grpc-timeout"), "every call carries its deadline");
        if self.hang {
            std::future::pending::<()>().await;
        }
        if let Some(status) = self.script.lock().expect("no panics").pop_front() {
            return Err(status);
        }
        let metric = convert::metric_to_wire(Metric::Cosine).into();
        Ok(Response::new(v1::SearchResponse { metric, ..Default::default() }))
    }

    async fn search_batch(
        &self,
        request: Request<v1::SearchBatchRequest>,
    ) -> Result<Response<v1::SearchBatchResponse>, Status> {
        let mut script = self.script.lock().expect("no panics");
        let item = |search: v1::SearchRequest| {
            let metric = convert::metric_to_wire(Metric::Cosine).into();
            // The answer says which search it is of.
            let work = Some(v1::SearchWork { distances: search.k.into(), ..Default::default() });
            let answer = v1::SearchResponse { metric, work, ..Default::default() };
            let result = match script.pop_front() {
                None => v1::search_batch_item::Result::Answer(answer),
                Some(status) => v1::search_batch_item::Result::Failure(to_search_failure(&from_status(&status))),
            };
            v1::SearchBatchItem { result: Some(result) }
        };
        let items = request.into_inner().searches.into_iter().map(item).collect();
        Ok(Response::new(v1::SearchBatchResponse { items }))
    }
}

async fn start(script: Vec<Status>, hang: bool) -> String {
    let (listener, address) = server::listen("127.0.0.1:0").await.expect("a free port");
    let routes =
        tonic::service::Routes::new(SearchServiceServer::new(Scripted { script: Mutex::new(script.into()), hang }));
    tokio::spawn(server::serve(listener, routes, tokio_util::sync::CancellationToken::new()));
    url(address)
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn status(kind: ErrorKind) -> Status {
    to_status(&RemoteError { kind, field: String::new(), message: "on purpose".into() })
}

/// An address where nobody listens.
async fn vacant() -> String {
    let (listener, address) = server::listen("127.0.0.1:0").await.expect("a free port");
    drop(listener);
    url(address)
}

async fn search(endpoints: &[String], timeout_ms: u64) -> Result<(), ClientError> {
    let client = Client::connect(endpoints)?.with_timeout(Duration::from_millis(timeout_ms));
    client.search("c", &[1.0], &SearchOptions::default()).await.map(drop)
}

#[tokio::test]
async fn what_is_transient_is_tried_again() {
    let endpoint = start(vec![status(ErrorKind::Unavailable), status(ErrorKind::Overloaded)], false).await;
    assert_eq!(search(&[endpoint], 5_000).await, Ok(()));
}

#[tokio::test]
async fn searches_of_a_batch_are_tried_again_each_for_itself() {
    let refusal = to_status(&InputError::new("k", "is 4, must be 1 to 3"));
    let transient = || status(ErrorKind::Unavailable);
    // The second attempt is for the second and the third search.
    let script = vec![refusal, transient(), transient(), transient()];
    let client = Client::connect(&[start(script, false).await]).expect("an address");
    let options = [4, 5, 6].map(|k| SearchOptions { k, ..SearchOptions::default() });
    let searches: Vec<_> =
        options.iter().map(|options| BatchSearch { collection: "c", vector: &[1.0], options }).collect();
    let outcomes = client.search_batch(&searches).await.expect("the call is served");
    let told: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.as_ref().map(|answer| answer.work.distances).map_err(|e| (e.kind(), e.field())))
        .collect();
    assert_eq!(told, [Err((ErrorKind::Invalid, "k")), Ok(5), Ok(6)]);
}

#[tokio::test]
async fn a_batch_that_stays_out_of_reach_says_so() {
    let script = (0..1_000).map(|_| status(ErrorKind::Unavailable)).collect();
    let client = Client::connect(&[start(script, false).await]).expect("an address");
    let search = BatchSearch { collection: "c", vector: &[1.0], options: &SearchOptions::default() };
    let started = Instant::now();
    let outcomes = client.with_timeout(Duration::from_millis(300)).search_batch(&[search, search]).await;
    let kinds: Vec<_> =
        outcomes.expect("the call is served").into_iter().map(|outcome| outcome.map_err(|e| e.kind())).collect();
    assert!(kinds.iter().all(|kind| matches!(kind, Err(ErrorKind::Unavailable))), "{kinds:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "no call outlives its deadline by much");
}

#[tokio::test]
async fn the_next_endpoint_is_asked_when_one_is_out_of_reach() {
    let endpoints = [vacant().await, start(vec![], false).await];
    assert_eq!(search(&endpoints, 5_000).await, Ok(()));
}

#[tokio::test]
async fn what_is_final_is_reported_at_once() {
    let refusal = to_status(&InputError::new("k", "is 0, must be 1 to 10000"));
    let endpoint = start(vec![refusal], false).await;
    let error = search(&[endpoint], 5_000).await.expect_err("the script refuses it");
    assert_eq!((error.kind(), error.field()), (ErrorKind::Invalid, "k"));
    assert_eq!(error.to_string(), "k: is 0, must be 1 to 10000");
}

#[tokio::test]
async fn giving_up_says_who_was_asked_and_what_was_met() {
    let endpoint = vacant().await;
    let started = Instant::now();
    let error = search(std::slice::from_ref(&endpoint), 300).await.expect_err("nobody listens");
    assert!(started.elapsed() < Duration::from_secs(5), "no call outlives its deadline by much");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_transient());
    assert!(error.to_string().contains(&endpoint), "{error}");
}

#[tokio::test]
async fn nobody_listening_costs_no_more_than_the_patience() {
    let client = Client::connect(&[vacant().await]).expect("an address").with_timeout(Duration::from_secs(600));
    let started = Instant::now();
    let search = client.with_patience(Duration::from_millis(200)).search("c", &[1.0], &SearchOptions::default()).await;
    assert!(matches!(search, Err(ClientError::Unavailable { answered: false, .. })), "{search:?}");
    assert!(started.elapsed() < Duration::from_secs(60), "its deadline is ten minutes");
}

#[tokio::test]
async fn what_answered_is_told_from_what_did_not() {
    let endpoint = start((0..1_000).map(|_| status(ErrorKind::Unavailable)).collect(), false).await;
    let error = search(&[endpoint], 300).await.expect_err("the script refuses it");
    assert!(matches!(error, ClientError::Unavailable { answered: true, .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_not_a_router_is_named() {
    let endpoint = start(vec![], false).await;
    let client = Client::connect(&[&endpoint]).expect("an address");
    let error = client.status().await.expect_err("it serves searches alone");
    assert_eq!(error.kind(), ErrorKind::Unimplemented);
    assert!(error.to_string().contains(&format!("{endpoint} is not a Shoal router")), "{error}");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let error = search(&[url(address)], 5_000).await.expect_err("it speaks HTTP/1");
    assert!(error.to_string().contains("is not a Shoal router"), "{error}");
}

#[tokio::test]
async fn a_silent_server_costs_no_more_than_the_deadline() {
    let endpoint = start(vec![], true).await;
    let error = search(&[endpoint], 200).await.expect_err("it never answers");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
}
