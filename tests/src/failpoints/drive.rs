//! Carrying out a course: what brings a cluster to a point.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use shoal_client::{Client, ClusterStatus, NewCollection, Replica};
use shoal_model::Metric;
use shoal_model::failpoints::Failpoint;
use shoal_proto::internal::v1 as wire;
use shoal_proto::internal::v1::replica_service_client::ReplicaServiceClient;

use super::course::Course;
use super::rig::{ROWS, Rig};
use crate::Role;

/// The node that is killed and started again.
const RESTARTED: Role = Role::Node(0);
/// The node that is killed when another takes its place, or when it lags.
const REPLACED: Role = Role::Node(2);
/// Log of a shard beyond which it is cut, and some more.
const FLOOD_MEBIBYTES: usize = 14;
/// How long a node that was started again may take until it has its leads back.
const LEADS_BACK_WITHIN: Duration = Duration::from_secs(12);
/// Silence after which others lead, and do not keep the log for the one that is silent.
const SILENT_FOR: Duration = Duration::from_secs(2);
/// Between two attempts at a thing that takes a moment.
const AGAIN_AFTER: Duration = Duration::from_secs(3);
/// How often an errand is repeated that failed: each of three nodes may inject an error.
const ATTEMPTS_MORE: u32 = 3;
/// A collection that is created and dropped.
const FLEETING: &str = "fleeting";
/// A collection whose shards have one replica each.
const LONE: &str = "lone";

/// A course under way.
pub(crate) struct Drive {
    course: Course,
    /// When the last attempt was made.
    tried: Option<Instant>,
}

impl Drive {
    /// Does what comes before the point is armed; `start` is what a process is armed with that the course starts.
    pub(crate) fn begin(rig: &mut Rig, course: Course, start: Option<String>) -> Result<Self, String> {
        let environment: Vec<(String, String)> =
            start.into_iter().map(|text| ("SHOAL_FAILPOINTS".to_owned(), text)).collect();
        match course {
            Course::Restart => start_again(rig, RESTARTED, &environment, |_| Ok(()))?,
            Course::LoseFiles => start_again(rig, RESTARTED, &environment, lose_files)?,
            Course::Lag => {
                rig.cluster.kill(REPLACED);
                rig.write_wide(FLOOD_MEBIBYTES)?;
                rest(rig, SILENT_FOR)?;
                rig.write_wide(1)?;
                rig.cluster.launch_with(REPLACED, &environment);
            }
            Course::PutBack => {
                create(rig, LONE, 12, 1, false)?;
                start_again(rig, REPLACED, &environment, damage)?;
            }
            Course::Replace if !environment.is_empty() => start_again(rig, REPLACED, &environment, damage)?,
            _ => {}
        }
        // What the course starts is started once.
        Ok(Self { course, tried: (!environment.is_empty()).then(Instant::now) })
    }

    /// Does what leads to the point; called until it has fired.
    pub(crate) fn on(&mut self, rig: &mut Rig) -> Result<(), String> {
        let is_first = self.tried.is_none();
        let is_due = self.tried.is_none_or(|tried| tried.elapsed() > AGAIN_AFTER);
        match self.course {
            Course::Write => patiently(rig, |rig| rig.write(6))?,
            Course::Read => {
                patiently(rig, Rig::count)?;
                patiently(rig, Rig::read_by_id)?;
            }
            Course::Create => create_and_drop(rig, false)?,
            Course::Witness => create_and_drop(rig, true)?,
            Course::Segments if is_due => patiently(rig, |rig| rig.write(400))?,
            Course::Flood => rig.write_wide(2)?,
            Course::HandBack if self.tried.is_none_or(|tried| tried.elapsed() > LEADS_BACK_WITHIN) => {
                rig.cluster.kill(RESTARTED);
                rest(rig, SILENT_FOR)?; // others lead meanwhile
                rig.cluster.launch(RESTARTED);
                self.tried = Some(Instant::now());
            }
            Course::Rebuild if is_due => rebuild(rig),
            Course::Replace if is_first => start_again(rig, REPLACED, &[], damage)?,
            Course::Differ if is_due => differ(rig)?,
            _ => return Ok(()),
        }
        if is_due {
            self.tried = Some(Instant::now());
        }
        Ok(())
    }

    /// Takes back what stands in the way of a cluster that is whole.
    pub(crate) fn end(self, rig: &mut Rig) -> Result<(), String> {
        match self.course {
            Course::PutBack => drop_collection(rig, LONE),
            Course::Create | Course::Witness => drop_collection(rig, FLEETING),
            _ => Ok(()),
        }
    }
}

/// Lets time go by.
fn rest(rig: &mut Rig, long: Duration) -> Result<(), String> {
    let began = Instant::now();
    rig.wait_for(long * 2, "time stands still", |_| Ok(began.elapsed() > long))
}

/// An injected error may be the answer, of one process after another; then it is asked again.
fn patiently(rig: &mut Rig, mut ask: impl FnMut(&mut Rig) -> Result<(), String>) -> Result<(), String> {
    let mut answer = ask(rig);
    for _ in 0..ATTEMPTS_MORE {
        if answer.is_ok() {
            break;
        }
        answer = ask(rig);
    }
    answer
}

/// Kills a node, does something to its folder, and starts it.
fn start_again(
    rig: &mut Rig,
    node: Role,
    environment: &[(String, String)],
    meanwhile: impl FnOnce(&std::path::Path) -> Result<(), String>,
) -> Result<(), String> {
    rig.cluster.kill(node);
    meanwhile(&rig.cluster.data(node))?;
    rig.cluster.launch_with(node, environment);
    Ok(())
}

/// Removes the graphs of all segments.
fn lose_files(data: &std::path::Path) -> Result<(), String> {
    let list = |path: &std::path::Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = list(&data.join("segments")).flat_map(|shard| list(&shard).collect::<Vec<_>>());
    let graphs: Vec<_> = files.filter(|path| path.extension().is_some_and(|ending| ending == "graph")).collect();
    if graphs.is_empty() {
        return Err("there is no segment whose files could be lost".to_owned());
    }
    graphs.iter().try_for_each(fs::remove_file).map_err(|error| format!("a graph is not removed: {error}"))
}

/// Has the node believe that its store was found damaged.
fn damage(data: &std::path::Path) -> Result<(), String> {
    let path = data.join("node.json");
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(&path).map_err(|error| failed(&error))?;
    let mut notes: Value = serde_json::from_str(&text).map_err(|error| failed(&error))?;
    notes["damaged"] = Value::Bool(true);
    fs::write(&path, notes.to_string()).map_err(|error| failed(&error))
}

fn create(rig: &mut Rig, name: &'static str, shards: u32, replicas: u32, witness: bool) -> Result<(), String> {
    let new = NewCollection { shards, replicas, witness, ..NewCollection::new(name, 8, Metric::Euclidean) };
    let created = rig.call(move |client: Client| async move { client.create_collection(new).await });
    match created {
        Ok(_) => Ok(()),
        // Of an attempt before.
        Err(error) if error.to_string().contains("exists") => Ok(()),
        Err(error) => Err(format!("{name} is not created: {error}")),
    }
}

fn drop_collection(rig: &mut Rig, name: &'static str) -> Result<(), String> {
    let dropped = rig.call(move |client: Client| async move { client.drop_collection(name).await });
    match dropped {
        Ok(()) => Ok(()),
        Err(error) if error.to_string().contains("does not exist") => Ok(()),
        Err(error) => Err(format!("{name} is not dropped: {error}")),
    }
}

/// An injected error may be the answer; then it is asked again.
fn create_and_drop(rig: &mut Rig, witness: bool) -> Result<(), String> {
    let replicas = if witness { 2 } else { 3 };
    if let Err(problem) = create(rig, FLEETING, 3, replicas, witness).and_then(|()| drop_collection(rig, FLEETING)) {
        println!("asked again, as {problem}");
    }
    Ok(())
}

/// Tells a replica that does not lead to fetch the content of the others.
fn rebuild(rig: &mut Rig) {
    let turn = rig.next_turn();
    if rig.call(move |client| ask_to_rebuild(client, turn)).is_none() {
        println!("no replica is told to rebuild yet; asked again");
    }
}

async fn ask_to_rebuild(client: Client, turn: usize) -> Option<()> {
    let (shard, address) = a_follower(&client.status().await.ok()?, turn)?;
    let mut calls = ReplicaServiceClient::connect(address).await.ok()?;
    let digests = calls.get_digests(wire::GetDigestsRequest { shard_id: shard }).await.ok()?.into_inner().digests;
    let request = wire::RebuildRequest { shard_id: shard, digest: digests.last().cloned() };
    calls.rebuild(request).await.ok().map(drop)
}

/// A shard, and the address of a node whose replica of it follows; another one each turn, as a leader does not send two
/// snapshots to one replica within seconds.
fn a_follower(status: &ClusterStatus, turn: usize) -> Option<(u64, String)> {
    let rows = status.collections.iter().find(|collection| collection.name == ROWS)?;
    let replicas = rows.shards.iter().flat_map(|shard| shard.replicas.iter().map(|replica| (shard.id, replica)));
    let follows = |replica: &Replica| replica.report.as_ref().is_some_and(|report| !report.leader);
    let followers: Vec<_> = replicas.filter(|(_, replica)| follows(replica)).collect();
    let (shard, replica) = followers.get(turn % followers.len().max(1))?;
    let node = status.nodes.iter().find(|node| node.id == replica.node_id)?;
    Some((*shard, node.address.clone()))
}

/// Has the leaders take what another says for something else.
fn differ(rig: &mut Rig) -> Result<(), String> {
    for node in [0, 1, 2].map(Role::Node) {
        rig.cluster.arm(node, &format!("{}=1*return", Failpoint::NodeCompare.name()))?;
    }
    Ok(())
}
