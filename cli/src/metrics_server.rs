//! `GET /metrics` of one process, in OpenMetrics text.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// How long open scrapes may take when the process stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A server of metrics.
pub(crate) struct MetricsServer {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl MetricsServer {
    /// Serves what is registered in `registry`.
    pub(crate) fn start(listener: TcpListener, registry: Registry) -> Result<Self, Failure> {
        let address = listener.local_addr().map_err(|error| Failure::new(format!("metrics: {error}")))?;
        let registry = Arc::new(registry);
        let answer = move || std::future::ready(scrape(&registry));
        let stop = CancellationToken::new();
        let routes = Router::new().route("/metrics", get(answer));
        #[cfg(feature = "failpoints")]
        let routes = routes.route("/failpoints", axum::routing::put(arm));
        let serving = axum::serve(listener, routes);
        let task = tokio::spawn(serving.with_graceful_shutdown(stop.clone().cancelled_owned()).into_future());
        Ok(Self { address, stop, task })
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/metrics", self.address)
    }

    /// Finishes open scrapes, and stops.
    pub(crate) async fn shut_down(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(DRAIN_WITHIN, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// Takes `NAME=ACTIONS`.
#[cfg(feature = "failpoints")]
async fn arm(body: String) -> Result<(), (StatusCode, String)> {
    shoal_model::failpoints::arm(&body).map_err(|problem| (StatusCode::BAD_REQUEST, problem))
}

fn scrape(registry: &Registry) -> Response {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    async fn request(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: shoal\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("UTF-8");
        answer
    }

    #[tokio::test]
    async fn metrics_and_nothing_else_are_served() {
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        registry.register("shoal_test_calls", "Calls.", counter.clone());
        counter.inc();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let server = MetricsServer::start(listener, registry).expect("an address");
        let address = server.address;

        let answer = request(address, "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(OPEN_METRICS) && answer.contains("shoal_test_calls_total 1"), "{answer}");
        assert!(request(address, "/").await.starts_with("HTTP/1.1 404"));
        server.shut_down().await;
        assert!(TcpStream::connect(address).await.is_err(), "it has stopped");
    }
}
