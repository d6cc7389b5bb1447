//! `shoal collection create|ls|describe|rm`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use serde_json::json;
use shoal_client::{Collection, NewCollection, Shard};

use crate::args::CreateArgs;
use crate::command::Context;
use crate::failure::{Exit, Failure};
use crate::output::{self, bytes, columns};
use crate::progress::{grouped, say};

pub(crate) async fn create(context: &Context, args: CreateArgs) -> Result<(), Failure> {
    let new = NewCollection {
        shards: args.spread.shards,
        replicas: args.spread.replicas,
        embedding: args.spread.embedding,
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
    output::print(context.format, || description(&collection), || json!(collection))
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
    let points = grouped(collection.points_reported());
    let _ = write!(std::io::stderr(), "This removes {name} with about {points} points. Type its name to go on: ");
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
            collection.replicas.to_string(),
            grouped(collection.points_reported()),
            health(&collection.shards),
        ]
    };
    let header = ["name", "dim", "metric", "shards", "replicas", "points", "health"];
    columns(&header, all.iter().map(row).collect(), &[1, 3, 4, 5])
}

/// How many shards are served, and how many have all their replicas.
fn health(shards: &[Shard]) -> String {
    let unavailable = shards.iter().filter(|shard| shard.leader().is_none()).count();
    let degraded = shards.iter().filter(|shard| shard.leader().is_some() && !is_whole(shard)).count();
    match (unavailable, degraded) {
        (0, 0) => "healthy".to_owned(),
        (0, degraded) => format!("{degraded} degraded"),
        (unavailable, 0) => format!("{unavailable} unavailable"),
        (unavailable, degraded) => format!("{unavailable} unavailable, {degraded} degraded"),
    }
}

fn is_whole(shard: &Shard) -> bool {
    shard.replicas_alive() == shard.replicas.len()
}

fn description(collection: &Collection) -> String {
    let embedding = if collection.embedding.is_empty() { "-" } else { &collection.embedding };
    let candidate = collection.candidate_version.map(|version| format!(", candidate {version}")).unwrap_or_default();
    format!(
        "{} (number {}): {} dimensions, {}, {} shards × {} replicas, about {} points, {}\n\
         index version {}{candidate}, embedding {embedding}\n\n{}",
        collection.name,
        collection.id,
        collection.dim,
        collection.metric.name(),
        collection.shards.len(),
        collection.replicas,
        grouped(collection.points_reported()),
        health(&collection.shards),
        collection.active_version,
        shards_table(&collection.shards),
    )
}

fn shards_table(shards: &[Shard]) -> String {
    let mut rows = Vec::new();
    for shard in shards {
        for replica in &shard.replicas {
            let reported = replica.report.as_ref();
            let of = |text: fn(&shoal_client::ReplicaReport) -> String| reported.map_or("-".to_owned(), text);
            rows.push(vec![
                shard.id.to_string(),
                shard.range.to_string(),
                replica.node_id.to_string(),
                of(|report| if report.leader { "leader" } else { "follower" }.to_owned()).replace('-', "out of reach"),
                of(|report| report.applied_index.to_string()),
                of(|report| grouped(report.points)),
                of(|report| bytes(report.memory_bytes)),
            ]);
        }
    }
    columns(&["shard", "range", "node", "role", "applied", "points", "memory"], rows, &[0, 2, 4, 5, 6])
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_client::{Replica, ReplicaReport};
    use shoal_model::{HashRange, Metric};

    fn shard(id: u64, leader: bool, reports: &[bool]) -> Shard {
        let replica = |(i, alive): (usize, &bool)| Replica {
            id: id * 10 + i as u64,
            node_id: i as u64 + 1,
            report: alive.then_some(ReplicaReport {
                leader: leader && i == 0,
                applied_index: 41,
                commit_index: 42,
                points: 1_500,
                memory_bytes: 3 << 20,
            }),
        };
        let range = HashRange::divide(2)[(id % 2) as usize];
        Shard { id, range, epoch: 3, replicas: reports.iter().enumerate().map(replica).collect() }
    }

    fn collection(shards: Vec<Shard>) -> Collection {
        Collection {
            id: 1,
            name: "news".into(),
            dim: 384,
            metric: Metric::Cosine,
            embedding: String::new(),
            active_version: 1,
            candidate_version: None,
            replicas: 2,
            shards,
        }
    }

    #[test]
    fn lists_align_and_tell_health() {
        let all = [
            collection(vec![shard(2, true, &[true, true]), shard(3, true, &[true, true])]),
            Collection {
                name: "other".into(),
                ..collection(vec![shard(4, true, &[true, false]), shard(5, false, &[true])])
            },
        ];
        let want = "\
NAME   DIM  METRIC  SHARDS  REPLICAS  POINTS  HEALTH
news   384  cosine       2         2   3,000  healthy
other  384  cosine       2         2   1,500  1 unavailable, 1 degraded
";
        assert_eq!(list_table(&all), want);
    }

    #[test]
    fn descriptions_show_every_replica() {
        let want = "\
news (number 1): 384 dimensions, cosine, 1 shards × 2 replicas, about 1,500 points, 1 degraded
index version 1, embedding -

SHARD  RANGE                               NODE  ROLE          APPLIED  POINTS   MEMORY
    2  0000000000000000..7fffffffffffffff     1  leader             41   1,500  3.0 MiB
    2  0000000000000000..7fffffffffffffff     2  out of reach        -       -        -
";
        assert_eq!(description(&collection(vec![shard(2, true, &[true, false])])), want);
    }

    #[test]
    fn json_names_what_programs_read() {
        let json = json!(collection(vec![shard(2, true, &[true])]));
        assert_eq!(json["metric"], "cosine");
        assert_eq!(json["shards"][0]["range"], "0000000000000000..7fffffffffffffff");
        assert_eq!(json["shards"][0]["replicas"][0]["report"]["points"], 1_500);
    }
}
