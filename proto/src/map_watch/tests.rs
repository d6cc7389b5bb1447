use std::sync::Mutex;

use shoal_model::{Command, StoreId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use wire::coordinator_service_server::{CoordinatorService, CoordinatorServiceServer};

use super::*;
use crate::map::{changes_to_wire, map_to_wire};
use crate::server;

const PATIENCE: Duration = Duration::from_secs(20);

fn map(cluster: u128, epochs: u64) -> ClusterMap {
    let mut map = ClusterMap::default();
    map.apply(Command::NameCluster { cluster: ClusterId(cluster) });
    while map.epoch.0 < epochs {
        let store = StoreId(map.epoch.0.into());
        let address = "http://127.0.0.1:1".to_owned();
        map.apply(Command::RegisterNode { store, name: "n".into(), address, zone: String::new(), replaces: None });
    }
    map
}

#[test]
fn the_map_never_goes_back_nor_to_another_cluster() {
    let whole = |cluster, epochs| News::Whole(map(cluster, epochs));
    let changes = |from: u64| {
        let all = map(7, 9).changes_since(Epoch(from)).expect("all are kept");
        News::Changes(all[0].0, all[0].1.clone())
    };
    for (name, have, news, want) in [
        ("first", ClusterMap::default(), whole(7, 3), Ok(Some(3))),
        ("newer", map(7, 3), whole(7, 5), Ok(Some(5))),
        ("older", map(7, 3), whole(7, 2), Ok(None)),
        ("same", map(7, 3), whole(7, 3), Ok(None)),
        ("next change", map(7, 3), changes(3), Ok(Some(4))),
        ("old change", map(7, 3), changes(1), Ok(None)),
        ("a change is missing", map(7, 3), changes(5), Err("do not follow")),
        ("another cluster", map(7, 3), whole(8, 9), Err("refused")),
        ("renamed", map(7, 3), News::Changes(Epoch(4), vec![Change::Named(ClusterId(8))]), Err("refused")),
    ] {
        match (followed(&have, news), want) {
            (Ok(got), Ok(want)) => assert_eq!(got.map(|map| map.epoch.0), want, "{name}"),
            (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{name}: {error}"),
            (got, want) => panic!("{name}: got {got:?}, want {want:?}"),
        }
    }
}

#[test]
fn pauses_grow_and_are_bounded() {
    assert_eq!(pause(1), PAUSE_FIRST);
    assert_eq!(pause(2), PAUSE_FIRST * 2);
    assert_eq!(pause(1_000_000), PAUSE_MAX);
}

type Script = Vec<wire::WatchMapResponse>;

/// Answers each stream with the next script and then keeps silent; without a further script it ends the stream.
struct Scripted {
    scripts: Mutex<std::collections::VecDeque<Script>>,
    asked: mpsc::UnboundedSender<u64>,
}

#[tonic::async_trait]
impl CoordinatorService for Scripted {
    type WatchMapStream = ReceiverStream<Result<wire::WatchMapResponse, Status>>;

    async fn watch_map(
        &self,
        request: Request<wire::WatchMapRequest>,
    ) -> Result<Response<Self::WatchMapStream>, Status> {
        self.asked.send(request.get_ref().epoch).expect("the test listens");
        let (sender, stream) = mpsc::channel(64);
        if let Some(script) = self.scripts.lock().expect("no panic").pop_front() {
            for message in script {
                sender.try_send(Ok(message)).expect("short scripts");
            }
            tokio::spawn(async move { sender.closed().await });
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn register_node(
        &self,
        _: Request<wire::RegisterNodeRequest>,
    ) -> Result<Response<wire::RegisterNodeResponse>, Status> {
        Err(crate::status::not_served_yet("registering with a script"))
    }

    async fn heartbeat(&self, _: Request<wire::HeartbeatRequest>) -> Result<Response<wire::HeartbeatResponse>, Status> {
        Err(crate::status::not_served_yet("a heartbeat to a script"))
    }

    async fn ping(&self, _: Request<wire::PingRequest>) -> Result<Response<wire::PingResponse>, Status> {
        Err(crate::status::not_served_yet("a ping to a script"))
    }

    async fn get_beginning(
        &self,
        _: Request<wire::GetBeginningRequest>,
    ) -> Result<Response<wire::GetBeginningResponse>, Status> {
        Err(crate::status::not_served_yet("asking a script whether the cluster has begun"))
    }

    async fn join_coordinators(
        &self,
        _: Request<wire::JoinCoordinatorsRequest>,
    ) -> Result<Response<wire::JoinCoordinatorsResponse>, Status> {
        Err(crate::status::not_served_yet("joining a script"))
    }
}

fn whole(map: &ClusterMap) -> wire::WatchMapResponse {
    wire::WatchMapResponse { kind: Some(wire::watch_map_response::Kind::Whole(map_to_wire(map))) }
}

fn changes(map: &ClusterMap, since: u64) -> Script {
    let changes = map.changes_since(Epoch(since)).expect("all are kept");
    let message = |(epoch, list): &(Epoch, Vec<Change>)| wire::WatchMapResponse {
        kind: Some(wire::watch_map_response::Kind::Changes(changes_to_wire(*epoch, list))),
    };
    changes.iter().map(message).collect()
}

async fn coordinator(scripts: Vec<Script>) -> (String, mpsc::UnboundedReceiver<u64>) {
    let (listener, address) = server::listen("127.0.0.1:0").await.expect("a free port");
    let (asked, asks) = mpsc::unbounded_channel();
    let service = Scripted { scripts: Mutex::new(scripts.into()), asked };
    let routes = Routes::new(CoordinatorServiceServer::new(service));
    tokio::spawn(server::serve(listener, routes, CancellationToken::new()));
    (format!("http://{address}"), asks)
}

async fn reaches(watch: &MapWatch, epoch: u64) -> Arc<ClusterMap> {
    let wanted = watch.wait_beyond(Epoch(epoch - 1));
    timeout(PATIENCE, wanted).await.unwrap_or_else(|_| panic!("the watch never came to epoch {epoch}"))
}

#[tokio::test]
async fn a_dead_coordinator_is_left_and_changes_are_followed() {
    let target = map(7, 6);
    let mut script = vec![whole(&map(7, 3))];
    script.extend(changes(&target, 3));
    let (address, _asks) = coordinator(vec![script]).await;
    let coordinators = vec!["not an address".into(), "http://127.0.0.1:1".into(), address];
    let stop = CancellationToken::new();
    let (watch, task) = MapWatch::start(coordinators, stop.clone());
    let task = tokio::spawn(task);
    let got = reaches(&watch, 6).await;
    assert_eq!((&got.nodes, got.cluster), (&target.nodes, target.cluster), "changes lead to the same map");
    stop.cancel();
    timeout(PATIENCE, task).await.expect("the task ends when told to").expect("no panic");
}

#[tokio::test]
async fn a_broken_stream_is_resumed_from_the_epoch_reached() {
    let (first, mut first_asks) = coordinator(vec![]).await;
    let (second, mut asks) = coordinator(vec![changes(&map(7, 5), 4)]).await;
    let (watch, task) = MapWatch::start_from(map(7, 4), vec![first, second], CancellationToken::new());
    tokio::spawn(task);
    reaches(&watch, 5).await;
    assert_eq!(first_asks.recv().await, Some(4), "the stream begins after the map kept from before");
    assert_eq!(asks.recv().await, Some(4), "the next coordinator is asked for what is missing");
}

#[tokio::test]
async fn a_silent_coordinator_is_left_when_news_is_wanted() {
    let (silent, mut asks) = coordinator(vec![vec![whole(&map(7, 3))]]).await;
    let (other, _asks) = coordinator(vec![changes(&map(7, 4), 3)]).await;
    let (watch, task) = MapWatch::start(vec![silent, other], CancellationToken::new());
    tokio::spawn(task);
    reaches(&watch, 3).await;
    assert_eq!(asks.recv().await, Some(0));
    watch.refresh();
    reaches(&watch, 4).await;
}

#[tokio::test]
async fn another_cluster_is_passed_over() {
    let (foreign, _foreign_asks) = coordinator(vec![vec![whole(&map(8, 9))]]).await;
    let (ours, _asks) = coordinator(vec![changes(&map(7, 5), 4)]).await;
    let (watch, task) = MapWatch::start_from(map(7, 4), vec![foreign, ours], CancellationToken::new());
    tokio::spawn(task);
    assert_eq!(reaches(&watch, 5).await.cluster, ClusterId(7));
}
