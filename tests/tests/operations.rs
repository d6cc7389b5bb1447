//! What an operator relies on: health, reflection, metrics, traces, orderly stops.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_tests::{Cluster, Collector, Role, Shape};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

const SMALL: Shape = Shape { coordinators: 1, nodes: 2, routers: 1 };
const SHORTLY: Duration = Duration::from_secs(30);

async fn channel(address: String) -> Channel {
    Channel::from_shared(address).expect("an address").connect().await.expect("the process listens")
}

async fn reflect(channel: Channel, request: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let mut client = ServerReflectionClient::new(channel);
    let mut answers =
        client.server_reflection_info(tokio_stream::once(request)).await.expect("reflection").into_inner();
    let answer: ServerReflectionResponse = answers.message().await.expect("an answer").expect("one answer");
    answer.message_response.expect("a response")
}

#[tokio::test]
async fn every_role_answers_health_and_reflection() {
    let cluster = Cluster::start(SMALL);
    for (role, name, service) in [
        (Role::Coordinator(0), "shoal.coordinator", "shoal.v1.ClusterService"),
        (Role::Node(0), "shoal.node", "shoal.internal.v1.ShardService"),
        (Role::Router(0), "shoal.router", "shoal.v1.SearchService"),
    ] {
        let channel = channel(cluster.address(role)).await;
        for service in ["", name] {
            let request = HealthCheckRequest { service: service.to_owned() };
            let answer = HealthClient::new(channel.clone()).check(request).await.expect("health is served");
            assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{role:?} {service:?}");
        }
        // As grpcurl does: list the services, then ask for the file of one of them.
        let listed = reflect(channel.clone(), MessageRequest::ListServices(String::new())).await;
        let MessageResponse::ListServicesResponse(services) = listed else { panic!("{role:?}: {listed:?}") };
        assert!(services.service.iter().any(|s| s.name == service), "{role:?} lists {service}: {services:?}");
        let file = reflect(channel, MessageRequest::FileContainingSymbol(service.to_owned())).await;
        assert!(matches!(file, MessageResponse::FileDescriptorResponse(_)), "{role:?} describes {service}");
    }
}

fn names_served(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .filter_map(|line| line.split(' ').next())
        .filter(|name| name.starts_with("shoal_"))
        .map(str::to_owned)
        .collect()
}

fn names_documented() -> BTreeSet<String> {
    let page = include_str!("../../docs/metrics.md");
    let first_cell = |line: &str| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned());
    page.lines().filter_map(first_cell).filter(|name| name.starts_with("shoal_")).collect()
}

/// Creates a collection of three points and uses every kind of call.
fn use_it(cluster: &Cluster) {
    let points = cluster.folder().join("points.jsonl");
    let rows = r#"{"id":1,"vector":[1,0],"kind":"a"}
{"id":2,"vector":[0,1],"kind":"b"}
{"id":"three","vector":[1,1],"kind":"a"}
"#;
    std::fs::write(&points, rows).expect("the temporary folder is writable");
    let file = points.display().to_string();
    for command in [
        &["collection", "create", "small", "--dim", "2", "--metric", "cosine", "--shards", "2"][..],
        &["import", "small", &file],
        &["search", "small", "--vector", "[1, 0.1]", "--k", "2"],
        &["count", "small"],
        &["get", "small", "1"],
        &["delete", "small", "2"],
        &["status"],
    ] {
        let done = cluster.shoal(command, SHORTLY);
        assert_eq!(done.code, 0, "shoal {command:?}\n{}\n{}", done.stdout, done.stderr);
    }
    let refused = cluster.shoal(&["search", "small", "--vector", "[1, 2, 3]"], SHORTLY);
    assert_eq!(refused.code, 1, "a wrong dimension is refused\n{}", refused.stderr);
    assert!(refused.stderr.contains("dimensions"), "the refusal says why: {}", refused.stderr);
}

#[test]
fn metrics_are_those_that_are_documented() {
    let cluster = Cluster::start(SMALL);
    use_it(&cluster);
    let served: BTreeSet<String> =
        cluster.roles().into_iter().flat_map(|role| names_served(&cluster.scrape(role))).collect();
    let documented = names_documented();
    let undocumented: Vec<_> = served.difference(&documented).collect();
    let missing: Vec<_> = documented.difference(&served).collect();
    assert!(undocumented.is_empty(), "served but not in docs/metrics.md: {undocumented:?}");
    assert!(missing.is_empty(), "in docs/metrics.md but not served: {missing:?}");
}

#[test]
fn one_trace_goes_from_client_through_router_to_node() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let collector = runtime.block_on(Collector::start());
    let endpoint = collector.endpoint();
    let mut cluster =
        Cluster::start_with(SMALL, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "100")]);
    use_it(&cluster);
    cluster.stop(); // flushes what was not exported yet
    let spans = collector.spans();
    let traces_of = |name: &str| -> BTreeSet<Vec<u8>> {
        spans.iter().filter(|span| span.name == name).map(|span| span.trace.clone()).collect()
    };
    let (client, router, node) = (traces_of("client.search"), traces_of("router.search"), traces_of("node.search"));
    let names: BTreeSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert!(
        client.iter().any(|trace| router.contains(trace) && node.contains(trace)),
        "no trace holds spans of client, router and node; spans seen: {names:?}"
    );
}

#[test]
fn a_stopped_cluster_comes_back_with_its_data() {
    let mut cluster = Cluster::start(SMALL);
    use_it(&cluster);
    cluster.stop();
    for role in cluster.roles() {
        cluster.launch(role);
    }
    for role in cluster.roles() {
        cluster.wait_ready(role);
    }
    let counted = cluster.shoal(&["count", "small", "-o", "json"], SHORTLY);
    assert_eq!(counted.code, 0, "{}", counted.stderr);
    let count: serde_json::Value = serde_json::from_str(&counted.stdout).expect("JSON on standard output");
    assert_eq!(count["count"], 2, "three written, one deleted: {count}");
}
