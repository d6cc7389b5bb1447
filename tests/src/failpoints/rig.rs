//! A cluster whose processes are started again when they end, as a supervisor would, and a client that counts what is
//! acknowledged.

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::time::{Duration, Instant};

use shoal_checker::digest;
use shoal_client::{Client, ClientError, Consistency, NewCollection, ReadOptions, ScrollOptions, Standing};
use shoal_model::failpoints::Failpoint;
use shoal_model::{Filter, Metric, Payload, Point, PointId, Value};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::course::At;
use crate::chaos::Watcher;
use crate::{Cluster, Role, Setup, Shape};

/// The collection that every episode writes to: three shards, so that each node leads one.
pub(crate) const ROWS: &str = "rows";
/// A collection whose points are large.
pub(crate) const WIDE: &str = "wide";
/// Components of a large point: 8 KiB of vector.
const WIDE_DIM: u32 = 2_048;
/// Segments from few points, so that there are some soon.
const SETTINGS: &str = "delta_points_max = 100\nquiet_after_ms = 200\nheartbeat_ms = 250\n";
/// How long a call is tried.
const CALL_WITHIN: Duration = Duration::from_secs(40);
/// Between two looks at anything.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A cluster, and what it has acknowledged.
pub(crate) struct Rig {
    pub(crate) cluster: Cluster,
    pub(crate) client: Client,
    runtime: Runtime,
    watcher: Watcher,
    logs: TempDir,
    /// Rows 0 up to this were acknowledged.
    acknowledged: u64,
    /// Processes that have ended by themselves, since somebody asked.
    ended: Vec<Role>,
    turn: usize,
}

fn row(number: u64) -> Point {
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let vector = (0..8).map(|i| ((number * 37 + i * 11) % 1009) as f32 - 50.0).collect();
    let payload = Payload::from([("row".to_owned(), Value::Integer(number.cast_signed()))]);
    Point { id: PointId::Number(number), vector, payload }
}

impl Rig {
    /// Three nodes, a coordinator and a router, with points in them.
    pub(crate) fn start() -> Self {
        let logs = TempDir::with_prefix("shoal-failpoints-").expect("a temporary folder");
        let shape = Shape { coordinators: 1, nodes: 3, routers: 1 };
        let setup =
            Setup { node_settings: SETTINGS.to_owned(), logs: Some(logs.path().to_owned()), ..Setup::new(shape) };
        let cluster = Cluster::start_as(setup);
        let runtime = Runtime::new().expect("a runtime");
        let endpoint = cluster.address(Role::Router(0));
        let entered = runtime.enter();
        let client = Client::connect(&[&endpoint]).expect("an endpoint").with_timeout(CALL_WITHIN);
        let watcher = Watcher::new(&[endpoint]).expect("an endpoint");
        drop(entered);
        let mut rig = Self { cluster, client, runtime, watcher, logs, acknowledged: 0, ended: Vec::new(), turn: 0 };
        for (name, dim, shards) in [(ROWS, 8, 3), (WIDE, WIDE_DIM, 1)] {
            let new = NewCollection { shards, replicas: 3, ..NewCollection::new(name, dim, Metric::Euclidean) };
            rig.call(move |client| async move { client.create_collection(new).await }).expect("three nodes");
        }
        rig.write(100).expect("written");
        rig
    }

    /// Keeps the logs, and says where.
    pub(crate) fn keep(&mut self) {
        self.logs.disable_cleanup(true);
        println!("logs: {}", self.logs.path().display());
    }

    /// Starts what has ended.
    pub(crate) fn supervise(&mut self) {
        for (role, _) in self.cluster.reap() {
            self.ended.push(role);
            self.cluster.launch(role);
        }
    }

    /// A number that grows.
    pub(crate) fn next_turn(&mut self) -> usize {
        self.turn += 1;
        self.turn
    }

    /// Which processes have ended by themselves since this was last asked.
    pub(crate) fn take_ended(&mut self) -> Vec<Role> {
        std::mem::take(&mut self.ended)
    }

    /// Makes a call, while the cluster is supervised.
    pub(crate) fn call<T: Send + 'static, F>(&mut self, call: impl FnOnce(Client) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let under_way = self.runtime.spawn(call(self.client.clone()));
        while !under_way.is_finished() {
            self.supervise();
            std::thread::sleep(LOOK_EVERY); // a supervisor's rest; nothing is synchronised by it
        }
        self.runtime.block_on(under_way).expect("calls do not panic")
    }

    /// Writes the next so many rows. Errors: they were not acknowledged within all patience.
    pub(crate) fn write(&mut self, count: u64) -> Result<(), String> {
        let (first, last) = (self.acknowledged, self.acknowledged + count);
        let write = move |client: Client| async move {
            let points = (first..last).map(row).collect();
            client.upsert(ROWS, points).await.map(drop)
        };
        self.call(write).map_err(|error| format!("a write is not acknowledged: {error}"))?;
        self.acknowledged = last;
        Ok(())
    }

    /// Writes large points, a mebibyte at a time; always the same ones.
    pub(crate) fn write_wide(&mut self, mebibytes: usize) -> Result<(), String> {
        for _ in 0..mebibytes {
            let point = |id| Point {
                id: PointId::Number(id),
                vector: vec![1.0; WIDE_DIM as usize],
                payload: Payload::default(),
            };
            let write = move |client: Client| async move { client.upsert(WIDE, (0..128).map(point).collect()).await };
            self.call(write).map_err(|error| format!("a large write is not acknowledged: {error}"))?;
        }
        Ok(())
    }

    /// Counts, of the leaders. Errors: it is not what was acknowledged.
    pub(crate) fn count(&mut self) -> Result<(), String> {
        let count =
            self.call(|client| async move { client.count(ROWS, &Filter::default(), &Consistency::Linearizable).await });
        match count {
            Ok(count) if count == self.acknowledged => Ok(()),
            Ok(count) => Err(format!("{} rows were acknowledged, and there are {count}", self.acknowledged)),
            Err(error) => Err(format!("rows are not counted: {error}")),
        }
    }

    /// Reads the first rows by their ids. Errors: there is no answer, or one is not there.
    pub(crate) fn read_by_id(&mut self) -> Result<(), String> {
        let ids: Vec<PointId> = (0..50).map(PointId::Number).collect();
        let wanted = ids.len();
        let options = ReadOptions { consistency: Consistency::Linearizable, ..ReadOptions::default() };
        let found = self.call(move |client| async move { client.get(ROWS, &ids, &options).await });
        match found.map(|records| records.len()) {
            Ok(found) if found == wanted => Ok(()),
            Ok(found) => Err(format!("{found} of {wanted} rows are found")),
            Err(error) => Err(format!("rows are not read by id: {error}")),
        }
    }

    /// Reads all rows and compares them with what was written.
    pub(crate) fn read_everything(&mut self) -> Result<(), String> {
        let found = self.call(read_all).map_err(|error| format!("rows are not read: {error}"))?;
        let wanted: BTreeSet<String> = (0..self.acknowledged).map(|number| format!("{:?}", row(number))).collect();
        if found == wanted {
            return Ok(());
        }
        let (lost, more) = (wanted.difference(&found).next(), found.difference(&wanted).next());
        Err(format!("rows are not what was acknowledged: {lost:?} is not there, {more:?} is"))
    }

    /// What is missing until the cluster is whole: every process is heard of, every replica is a member and at the same
    /// position as the others. Errors, for good: replicas differ at a position.
    pub(crate) fn lacks(&mut self) -> Result<Option<String>, String> {
        self.supervise();
        if let Some(role) = self.stopping() {
            return Ok(Some(format!("{} has not ended yet", role.name())));
        }
        let status = match self.runtime.block_on(self.watcher.client().status()) {
            Ok(status) => status,
            Err(error) => return Ok(Some(format!("no status: {error}"))),
        };
        let replicas = status.collections.iter().flat_map(|collection| &collection.shards).flat_map(|s| &s.replicas);
        let comes = |replica: &&shoal_client::Replica| replica.standing != Standing::Member || replica.report.is_none();
        if let Some(replica) = replicas.clone().find(comes) {
            return Ok(Some(format!("replica {} on node {} is not (yet) there", replica.id, replica.node_id)));
        }
        match self.runtime.block_on(self.watcher.look()) {
            Err(missing) => Ok(Some(missing)),
            Ok(observations) => {
                let differences = digest::check(&observations).differences;
                differences.first().map_or(Ok(None), |difference| Err(difference.to_string()))
            }
        }
    }

    /// A process that has begun to end, as it says in its log, and has not ended.
    fn stopping(&self) -> Option<Role> {
        let stops = |role: &Role| {
            let text = self.cluster.log(*role).and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
            let (stop, serves) = (text.rfind("shutting down"), text.rfind(" serves"));
            stop > serves
        };
        self.cluster.roles().into_iter().find(stops)
    }

    /// Where points of this kind are armed while processes run.
    pub(crate) fn roles(at: At) -> Vec<Role> {
        match at {
            At::Node => vec![Role::Node(0)],
            At::Nodes => [0, 1, 2].map(Role::Node).to_vec(),
            At::Others => [1, 2].map(Role::Node).to_vec(),
            At::Coordinator => vec![Role::Coordinator(0)],
            At::Router => vec![Role::Router(0)],
            At::Start => Vec::new(),
        }
    }

    /// How often processes have told one of this of a point: `failpoints::FIRES` or `failpoints::FIRED`.
    pub(crate) fn told(&self, what: &str, point: Failpoint) -> usize {
        let line = format!("{what}{}\n", point.name());
        let logs = self.cluster.roles().into_iter().filter_map(|role| fs::read_to_string(self.cluster.log(role)?).ok());
        logs.map(|text| text.matches(&line).count()).sum()
    }

    /// Waits until something holds, while the cluster is supervised. Errors: `what`, if it does not within `within`.
    pub(crate) fn wait_for(
        &mut self,
        within: Duration,
        what: &str,
        mut holds: impl FnMut(&mut Self) -> Result<bool, String>,
    ) -> Result<(), String> {
        let deadline = Instant::now() + within;
        while !holds(self)? {
            self.supervise();
            if Instant::now() > deadline {
                return Err(format!("{what}, for {} s", within.as_secs()));
            }
            std::thread::sleep(LOOK_EVERY); // polling for an end; nothing is synchronised by it
        }
        Ok(())
    }
}

async fn read_all(client: Client) -> Result<BTreeSet<String>, ClientError> {
    let (mut options, mut found) = (ScrollOptions { limit: 2_000, ..ScrollOptions::default() }, BTreeSet::new());
    options.read.with_vectors = true;
    loop {
        let page = client.scroll(ROWS, &options).await?;
        found.extend(page.records.into_iter().map(|record| {
            let point = Point { id: record.id, vector: record.vector.unwrap_or_default(), payload: record.payload };
            format!("{point:?}")
        }));
        match page.next_after {
            Some(after) => options.after = Some(after),
            None => return Ok(found),
        }
    }
}
