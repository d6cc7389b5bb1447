//! `shoal collection create|ls|describe|rm`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use serde_json::json;
use shoal_client::{Collection, Health, NewCollection, NodeStatus, Replica, Shard, Standing};
use shoal_model::GraphSpec;

use crate::args::CreateArgs;
use crate::command::Context;
use crate::failure::{Exit, Failure};
use crate::output::{self, bytes, columns};
use crate::progress::{counted, grouped, say};

pub(crate) async fn create(context: &Context, args: CreateArgs) -> Result<(), Failure> {
    let new = NewCollection {
        shards: args.spread.shards,
        replicas: args.spread.replicas,
        witness: args.spread.witness,
        embedding: args.spread.embedding,
        graph: args.graph.options(),
        ..NewCollection::new(args.name, args.dim, args.metric)
    };
    let created = context.client.create_collection(new).await?;
    say(&format!("created; next: shoal import {} FILE", created.name));
    output::print(context.format, || list_table(std::slice::from_ref(&created)), || json!(created))
}

pub(crate) async fn list(context: &Context) -> Result<(), Failure> {
    let all = context.client.list_collections().await?;
    if all.is_empty() {
        say("there are no collections; next: shoal collection create NAME --dim DIM --metric cosine");
    }
    output::print(context.format, || list_table(&all), || json!({ "collections": all }))
}

pub(crate) async fn describe(context: &Context, name: &str) -> Result<(), Failure> {
    let collection = context.client.describe_collection(name).await?;
    let nodes = context.client.status().await?.nodes;
    output::print(context.format, || description(&collection, &nodes), || json!(collection))
}

pub(crate) async fn remove(context: &Context, name: &str, yes: bool) -> Result<(), Failure> {
    let collection = context.client.describe_collection(name).await?;
    if !yes {
        confirm(&collection)?;
    }
    context.client.drop_collection(name).await?;
    output::print(context.format, || format!("removed {name}\n"), || json!({ "removed": name }))
}

/// Lets the user type the name of what is to be removed.
fn confirm(collection: &Collection) -> Result<(), Failure> {
    let name = &collection.name;
    if !std::io::stdin().is_terminal() {
        let problem = format!("removing {name} needs its name typed, and stdin is no terminal");
        return Err(Failure::new(problem).exit(Exit::Usage).next(format!("shoal collection rm {name} --yes")));
    }
    let points = points_text(collection);
    let _ = write!(std::io::stderr(), "This removes {name} with {points}. Type its name to go on: ");
    let mut typed = String::new();
    let read = std::io::stdin().lock().read_line(&mut typed);
    read.map_err(|error| Failure::new(format!("read from stdin: {error}")))?;
    if typed.trim() == name {
        return Ok(());
    }
    Err(Failure::new("the names differ; nothing was removed"))
}

/// One line for each collection.
pub(crate) fn list_table(all: &[Collection]) -> String {
    let row = |collection: &Collection| {
        vec![
            collection.name.clone(),
            collection.dim.to_string(),
            collection.metric.name().to_owned(),
            collection.shards.len().to_string(),
            format!("{}{}", collection.replicas, if collection.witness { "+1" } else { "" }),
            collection.points_reported().map_or("?".to_owned(), grouped),
            health(&collection.shards),
        ]
    };
    let header = ["name", "dim", "metric", "shards", "replicas", "points", "health"];
    columns(&header, all.iter().map(row).collect(), &[1, 3, 4, 5])
}

/// About how many points a collection has, as far as its leaders tell.
fn points_text(collection: &Collection) -> String {
    let number = |points: u64| counted(usize::try_from(points).unwrap_or(usize::MAX), "point");
    let told = collection.points_reported().map(|points| format!("about {}", number(points)));
    told.unwrap_or_else(|| "an unknown number of points".to_owned())
}

/// How many shards are served, and how many have all their replicas.
fn health(shards: &[Shard]) -> String {
    let ill = [Health::Unavailable, Health::Unknown, Health::Starting, Health::Degraded];
    let counts = ill.map(|health| (health, shards.iter().filter(|shard| shard.health == health).count()));
    let told = counts.iter().filter(|(_, count)| *count > 0);
    let told: Vec<String> = told.map(|(health, count)| format!("{count} {}", health_name(*health))).collect();
    if told.is_empty() { "healthy".to_owned() } else { told.join(", ") }
}

/// What people are told of the health of a shard.
pub(crate) fn health_name(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Degraded => "degraded",
        Health::Starting => "starting",
        Health::Unavailable => "unavailable",
        Health::Unknown => "not heard of yet",
    }
}

/// What a replica does, on a node of which so much is known.
fn role(replica: &Replica, node: Option<&NodeStatus>) -> &'static str {
    match &replica.report {
        Some(report) if report.leader => "leader",
        Some(_) if replica.standing == Standing::Joining => "joining",
        Some(_) if replica.standing == Standing::Leaving => "leaving",
        Some(_) if replica.witness => "witness",
        Some(_) => "follower",
        None if node.is_some_and(|node| node.alive) => "starting",
        None if node.is_some_and(|node| node.awaited) => "not heard of yet",
        None => "out of reach",
    }
}

fn description(collection: &Collection, nodes: &[NodeStatus]) -> String {
    let embedding = if collection.embedding.is_empty() { "-" } else { &collection.embedding };
    let candidate = collection.candidate_version.map(|version| format!(", candidate {version}")).unwrap_or_default();
    format!(
        "{} (number {}): {} dimensions, {}, {} × {}, {}, {}\n\
         index version {}{candidate}, embedding {embedding}\n\
         graphs: {}\n\n{}{}",
        collection.name,
        collection.id,
        collection.dim,
        collection.metric.name(),
        counted(collection.shards.len(), "shard"),
        copies(collection),
        points_text(collection),
        health(&collection.shards),
        collection.active_version,
        graph_text(&collection.graph),
        shards_table(&collection.shards, nodes),
        jobs_lines(&collection.shards),
    )
}

/// What each shard has: `2 replicas and a witness`.
fn copies(collection: &Collection) -> String {
    let witness = if collection.witness { " and a witness" } else { "" };
    format!("{}{witness}", counted(collection.replicas as usize, "replica"))
}

fn graph_text(graph: &GraphSpec) -> String {
    format!(
        "m {}, ef_construction {}, quantization {}, seed {}",
        GraphSpec::M,
        graph.ef_construction,
        graph.quantization.name(),
        graph.seed
    )
}

fn shards_table(shards: &[Shard], nodes: &[NodeStatus]) -> String {
    let mut rows = Vec::new();
    for shard in shards {
        for replica in &shard.replicas {
            let reported = replica.report.as_ref();
            let node = nodes.iter().find(|node| node.id == replica.node_id);
            let of = |text: fn(&shoal_client::ReplicaReport) -> String| reported.map_or("-".to_owned(), text);
            rows.push(vec![
                shard.id.to_string(),
                shard.range.to_string(),
                replica.node_id.to_string(),
                node.map_or("-".to_owned(), |node| node.name.clone()),
                role(replica, node).to_owned(),
                of(|report| report.applied_index.to_string()),
                of(|report| grouped(report.points)),
                of(|report| bytes(report.memory_bytes)),
                of(|report| report.segments.to_string()),
                of(|report| grouped(report.delta_points)),
            ]);
        }
    }
    let header = ["shard", "range", "node", "name", "role", "applied", "points", "memory", "segments", "in deltas"];
    columns(&header, rows, &[0, 2, 5, 6, 7, 8, 9])
}

/// What replicas are building, and what they could not build; nothing if there is neither.
fn jobs_lines(shards: &[Shard]) -> String {
    let mut text = String::new();
    for shard in shards {
        for replica in &shard.replicas {
            let Some(report) = &replica.report else { continue };
            let at = format!("shard {} on node {}", shard.id, replica.node_id);
            text.extend(report.jobs.iter().map(|job| format!("{at}: {job}\n")));
            text.extend(report.job_failures.iter().map(|failure| format!("{at}: FAILED: {failure}\n")));
        }
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_client::ReplicaReport;
    use shoal_model::{HashRange, Metric, Quantization};

    fn shard(id: u64, leader: bool, reports: &[bool]) -> Shard {
        let replica = |(i, alive): (usize, &bool)| Replica {
            id: id * 10 + i as u64,
            node_id: i as u64 + 1,
            witness: false,
            standing: Standing::Member,
            report: alive.then_some(ReplicaReport {
                leader: leader && i == 0,
                applied_index: 41,
                commit_index: 42,
                points: 1_500,
                memory_bytes: 3 << 20,
                segments: 2,
                delta_points: 300,
                waiting_points: 200,
                segment_bytes: 5 << 20,
                jobs: vec!["building a segment of 200 points".to_owned()],
                job_failures: vec!["merging 4 segments: no room".to_owned()],
                missing_segments: 0,
            }),
        };
        let range = HashRange::divide(2)[(id % 2) as usize];
        let health = match reports {
            _ if !leader => Health::Unavailable,
            reports if reports.contains(&false) => Health::Degraded,
            _ => Health::Healthy,
        };
        Shard { id, range, epoch: 3, health, replicas: reports.iter().enumerate().map(replica).collect() }
    }

    fn collection(shards: Vec<Shard>) -> Collection {
        Collection {
            id: 1,
            name: "news".into(),
            dim: 384,
            metric: Metric::Cosine,
            embedding: String::new(),
            graph: GraphSpec { quantization: Quantization::Int8, ..GraphSpec::DEFAULT },
            active_version: 1,
            candidate_version: None,
            replicas: 2,
            witness: false,
            shards,
        }
    }

    #[test]
    fn lists_align_and_tell_health() {
        let all = [
            collection(vec![shard(2, true, &[true, true]), shard(3, true, &[true, true])]),
            Collection {
                name: "other".into(),
                witness: true,
                ..collection(vec![shard(4, true, &[true, false]), shard(5, false, &[true])])
            },
        ];
        let want = "\
NAME   DIM  METRIC  SHARDS  REPLICAS  POINTS  HEALTH
news   384  cosine       2         2   3,000  healthy
other  384  cosine       2       2+1       ?  1 unavailable, 1 degraded
";
        assert_eq!(list_table(&all), want);
    }

    fn node(id: u64, alive: bool) -> NodeStatus {
        NodeStatus {
            id,
            name: format!("node-{id}"),
            address: String::new(),
            zone: String::new(),
            alive,
            awaited: false,
            silent_ms: None,
            replicas: 1,
            disk_bytes: None,
            disk_free_bytes: None,
            has_room: true,
        }
    }

    #[test]
    fn a_replica_that_says_nothing_is_what_its_node_is() {
        let awaited = NodeStatus { awaited: true, ..node(2, false) };
        for (node, want) in
            [(node(2, true), "starting"), (awaited, "not heard of yet"), (node(2, false), "out of reach")]
        {
            let table = shards_table(&[shard(2, true, &[true, false])], &[node]);
            assert!(table.lines().any(|line| line.contains("  node-2  ") && line.contains(want)), "{want}: {table}");
        }
    }

    #[test]
    fn descriptions_show_every_replica() {
        let want = "\
news (number 1): 384 dimensions, cosine, 1 shard × 2 replicas and a witness, about 1,500 points, 1 degraded
index version 1, embedding -
graphs: m 16, ef_construction 100, quantization int8, seed 1

SHARD  RANGE                               NODE  NAME    ROLE          APPLIED  POINTS   MEMORY  SEGMENTS  IN DELTAS
    2  0000000000000000..7fffffffffffffff     1  node-1  leader             41   1,500  3.0 MiB         2        300
    2  0000000000000000..7fffffffffffffff     2  node-2  out of reach        -       -        -         -          -

shard 2 on node 1: building a segment of 200 points
shard 2 on node 1: FAILED: merging 4 segments: no room
";
        let witnessed = Collection { witness: true, ..collection(vec![shard(2, true, &[true, false])]) };
        assert_eq!(description(&witnessed, &[node(1, true), node(2, false)]), want);
    }

    #[test]
    fn json_names_what_programs_read() {
        let json = json!(collection(vec![shard(2, true, &[true])]));
        assert_eq!(json["metric"], "cosine");
        assert_eq!(json["graph"], json!({ "ef_construction": 100, "quantization": "int8", "seed": 1 }));
        assert_eq!(json["shards"][0]["range"], "0000000000000000..7fffffffffffffff");
        assert_eq!(json["shards"][0]["health"], "healthy");
        assert_eq!(json["shards"][0]["replicas"][0]["report"]["points"], 1_500);
    }
}
