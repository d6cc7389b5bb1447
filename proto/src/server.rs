//! Settings that every gRPC server and channel of Shoal shares: caps on what a peer may send, keep-alive in both
//! directions so that a dead peer is noticed, health and reflection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shoal_model::{InputError, Limits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::server::HealthReporter;

/// Streams that one connection may have open.
const STREAMS_MAX: u32 = 256;
/// Bytes of headers that one call may send.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// How often an idle peer is asked whether it lives.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);
/// How long it may take to answer.
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(5);
/// How long setting up a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How long open calls may take to finish once a server stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// A server that could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Reflection could not be set up, which is a bug.
    #[error("set up reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server failed while it ran.
    #[error("serve: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Listens on `address`; port 0 picks a free one.
pub async fn listen(address: &str) -> Result<(TcpListener, SocketAddr), ServerError> {
    let failed = |source| ServerError::Listen { address: address.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// The routes of health and reflection, and the reporter that says whether a service serves.
pub fn common_routes() -> Result<(Routes, HealthReporter), ServerError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(crate::FILE_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    Ok((Routes::new(health).add_service(reflection), reporter))
}

/// Serves until `stop` fires, then refuses new calls and lets the open ones finish, for a while: a stream that a
/// client leaves open must not keep a process from stopping.
pub async fn serve(listener: TcpListener, routes: Routes, stop: CancellationToken) -> Result<(), ServerError> {
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_WITHIN))
        .add_routes(routes);
    // Without it an answer waits for the acknowledgement of the one before: 40 ms.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = server.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    tokio::select! {
        result = serving => result?,
        () = drained(stop) => tracing::warn!("calls that were still open after {DRAIN_WITHIN:?} are cut off"),
    }
    Ok(())
}

async fn drained(stop: CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(DRAIN_WITHIN).await;
}

/// Refuses an address that no channel could be made to.
pub fn check_address(address: &str) -> Result<(), InputError> {
    endpoint(address).map(drop)
}

fn endpoint(address: &str) -> Result<Endpoint, InputError> {
    let malformed = || InputError::new("", format!("{address:?} is not of the form http://host:port"));
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|_| malformed())?;
    let uri = endpoint.uri();
    if uri.scheme_str() != Some("http") || uri.port().is_none() || uri.path().len() > 1 {
        return Err(malformed());
    }
    Ok(endpoint)
}

/// A channel to `address` (`http://host:port`) that connects when first used, and again whenever it breaks.
pub fn channel(address: &str) -> Result<Channel, InputError> {
    Ok(endpoint(address)?
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_WITHIN)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .connect_lazy())
}

/// When a call must be over: the shorter of its gRPC deadline and the time its request names, within the cap; the
/// default if it says neither.
#[must_use]
pub fn deadline(metadata: &MetadataMap, timeout_ms: u32, limits: &Limits) -> Instant {
    let cap = Duration::from_millis(limits.timeout_ms_max.into());
    let named = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms.into()));
    let asked = named.into_iter().chain(grpc_timeout(metadata)).min();
    let within = asked.unwrap_or(Duration::from_millis(limits.timeout_ms_default.into()));
    Instant::now() + within.min(cap)
}

/// Reads the `grpc-timeout` header: at most eight digits and a unit. A malformed one counts as absent.
fn grpc_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_as_the_protocol_says() {
        for (text, want) in [
            ("2S", Some(Duration::from_secs(2))),
            ("150m", Some(Duration::from_millis(150))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("7u", Some(Duration::from_micros(7))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("5x", None),
        ] {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().expect("ASCII"));
            let got = grpc_timeout(&metadata);
            assert_eq!(got, want, "{text:?}");
        }
    }

    #[test]
    fn the_default_deadline_binds_only_calls_that_name_none() {
        let limits = Limits { timeout_ms_default: 1_000, timeout_ms_max: 20_000, ..Limits::default() };
        for (name, header, timeout_ms, want) in [
            ("neither", "", 0, 1_000),
            ("header alone", "15S", 0, 15_000),
            ("field alone", "", 3_000, 3_000),
            ("the shorter of both", "2S", 3_000, 2_000),
            ("capped", "99S", 0, 20_000),
        ] {
            let mut metadata = MetadataMap::new();
            if !header.is_empty() {
                metadata.insert("grpc-timeout", header.parse().expect("ASCII"));
            }
            let left = deadline(&metadata, timeout_ms, &limits).saturating_duration_since(Instant::now());
            let want = Duration::from_millis(want);
            assert!(left <= want && want - left < Duration::from_millis(500), "{name}: {left:?}");
        }
    }

    #[tokio::test]
    async fn bad_addresses_are_refused() {
        for address in
            ["", "http://", "no scheme at all", "127.0.0.1:80", "http://host", "https://host:1", "http://h:1/x"]
        {
            assert!(channel(address).is_err(), "{address:?}");
        }
        assert!(check_address("http://127.0.0.1:7700").is_ok());
    }
}
