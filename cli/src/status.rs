//! `shoal status`: the cluster on one screen, and what to do about it.

use serde_json::json;
use shoal_client::{ClusterStatus, CoordinatorStanding, CoordinatorStatus, NodeStatus};

use crate::collections::{Health, health_of, list_table};
use crate::command::Context;
use crate::failure::{Exit, Failure};
use crate::output::{self, bytes, columns};

/// What to do where even the status cannot be had.
const OUT_OF_REACH: &str = "see whether the router and its coordinators run, and what their logs say; `shoal up` starts a \
                            cluster here, --endpoint names another";

/// Warnings that fit the screen.
const WARNINGS_SHOWN: usize = 5;

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let status = context.client.status().await.map_err(|error| {
        let failure = Failure::from(error);
        if failure.exit == Exit::Failed { failure } else { failure.next(OUT_OF_REACH) }
    })?;
    output::print(context.format, || screen(&status), || json!(status))
}

/// The whole screen.
fn screen(status: &ClusterStatus) -> String {
    let mut text = format!("cluster {}, map version {}\n", status.cluster_id, status.epoch);
    if status.stale {
        text += "NO LEADER: changes wait; searches and writes go on. Below is what one coordinator last knew\n";
    }
    text += &format!("{}\n{}\n", quorum(&status.coordinators), nodes_line(&status.nodes));
    text += &format!("{}\n", shards_line(status));
    text += &format!("\n{}", coordinators_table(&status.coordinators));
    if !status.nodes.is_empty() {
        text += &format!("\n{}", nodes_table(&status.nodes));
    }
    if !status.collections.is_empty() {
        text += &format!("\n{}", list_table(&status.collections, &status.nodes));
    }
    text += "\n";
    text += &attention(status);
    text
}

fn quorum(members: &[CoordinatorStatus]) -> String {
    let reachable = members.iter().filter(|member| member.reachable).count();
    let votes = members.iter().filter(|member| member.standing == CoordinatorStanding::Member).count();
    let without = match reachable.saturating_sub(votes) {
        0 => String::new(),
        without => format!(", {without} without a vote"),
    };
    let needed = members.len() / 2 + 1;
    let leader = members.iter().find(|member| member.leader);
    let leader = leader.map_or("no leader".to_owned(), |leader| format!("{} leads", leader.id));
    let spare = match votes.checked_sub(needed) {
        None => "NO QUORUM".to_owned(),
        Some(0) => "quorum, none to spare".to_owned(),
        Some(spare) => format!("quorum, {spare} to spare"),
    };
    format!("coordinators  {reachable} of {} reachable{without}, {spare}, {leader}", members.len())
}

fn nodes_line(nodes: &[NodeStatus]) -> String {
    let alive = nodes.iter().filter(|node| node.alive).count();
    let disk = nodes.iter().map(|node| node.disk_bytes).sum();
    format!("nodes         {alive} of {} alive, {} on disk", nodes.len(), bytes(disk))
}

fn shards_line(status: &ClusterStatus) -> String {
    let shards: Vec<_> = status.collections.iter().flat_map(|collection| &collection.shards).collect();
    let count = |health| shards.iter().filter(|shard| health_of(shard, &status.nodes) == health).count();
    let starting = match count(Health::Starting) {
        0 => String::new(),
        starting => format!(", {starting} starting"),
    };
    format!(
        "shards        {} healthy, {} degraded, {} unavailable{starting}",
        count(Health::Healthy),
        count(Health::Degraded),
        count(Health::Unavailable)
    )
}

fn coordinators_table(members: &[CoordinatorStatus]) -> String {
    let row = |member: &CoordinatorStatus| {
        let state = match member.standing {
            _ if !member.reachable => "out of reach",
            CoordinatorStanding::Joining => "joining",
            CoordinatorStanding::Asking => "asking others",
            _ if member.leader => "leader",
            CoordinatorStanding::Member | CoordinatorStanding::Unknown => "follower",
        };
        vec![member.id.to_string(), state.to_owned(), member.applied_index.to_string(), member.address.clone()]
    };
    columns(&["coordinator", "state", "applied", "address"], members.iter().map(row).collect(), &[0, 2])
}

/// One line for each node.
pub(crate) fn nodes_table(nodes: &[NodeStatus]) -> String {
    #[allow(clippy::cast_precision_loss, reason = "seconds for people")]
    let row = |node: &NodeStatus| {
        let state = match (node.alive, node.silent_ms) {
            (true, _) if !node.has_room => "alive, disk full".to_owned(),
            (true, _) => "alive".to_owned(),
            (false, Some(silent_ms)) => format!("silent for {:.0} s", silent_ms as f64 / 1000.0),
            (false, None) => "never heard of".to_owned(),
        };
        let zone = if node.zone.is_empty() { "-" } else { &node.zone };
        vec![
            node.id.to_string(),
            node.name.clone(),
            state,
            node.replicas.to_string(),
            bytes(node.disk_bytes),
            node.disk_free_bytes.map_or("-".to_owned(), bytes),
            zone.to_owned(),
            node.address.clone(),
        ]
    };
    let header = ["node", "name", "state", "replicas", "disk", "free", "zone", "address"];
    columns(&header, nodes.iter().map(row).collect(), &[0, 3, 4, 5])
}

/// The most urgent warnings and what to type; how many more there are.
fn attention(status: &ClusterStatus) -> String {
    if status.warnings.is_empty() {
        return "nothing needs attention\n".to_owned();
    }
    let mut text = String::new();
    for warning in status.warnings.iter().take(WARNINGS_SHOWN) {
        text += &format!("attention: {}\n", warning.text);
        if !warning.next_step.is_empty() {
            text += &format!("     next: {}\n", warning.next_step);
        }
    }
    if let Some(more) = status.warnings.len().checked_sub(WARNINGS_SHOWN).filter(|more| *more > 0) {
        text += &format!("{more} more: shoal status -o json\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_client::Warning;

    fn status() -> ClusterStatus {
        let coordinator = |id, leader, reachable| CoordinatorStatus {
            id,
            address: format!("http://127.0.0.1:790{id}"),
            leader,
            reachable,
            applied_index: if reachable { 120 } else { 0 },
            standing: if reachable { CoordinatorStanding::Member } else { CoordinatorStanding::Unknown },
            waits_for: String::new(),
        };
        let node = |id: u64, alive, silent_ms| NodeStatus {
            id,
            name: format!("node-{id}"),
            address: format!("http://127.0.0.1:780{id}"),
            zone: String::new(),
            alive,
            silent_ms,
            replicas: 2,
            disk_bytes: 5 << 20,
            disk_free_bytes: silent_ms.map(|_| 3 << 30),
            has_room: true,
        };
        ClusterStatus {
            cluster_id: "c0ffee".into(),
            epoch: 9,
            coordinators: vec![coordinator(1, true, true), coordinator(2, false, true), coordinator(3, false, false)],
            nodes: vec![node(1, true, Some(200)), node(2, false, Some(42_000)), node(3, false, None)],
            collections: vec![],
            stale: false,
            warnings: vec![
                Warning { text: "node-2 is silent".into(), next_step: "start it again".into() },
                Warning { text: "node-3 is silent".into(), next_step: String::new() },
            ],
        }
    }

    #[test]
    fn the_screen_shows_what_needs_attention() {
        let want = "\
cluster c0ffee, map version 9
coordinators  2 of 3 reachable, quorum, none to spare, 1 leads
nodes         1 of 3 alive, 15.0 MiB on disk
shards        0 healthy, 0 degraded, 0 unavailable

COORDINATOR  STATE         APPLIED  ADDRESS
          1  leader            120  http://127.0.0.1:7901
          2  follower          120  http://127.0.0.1:7902
          3  out of reach        0  http://127.0.0.1:7903

NODE  NAME    STATE            REPLICAS     DISK     FREE  ZONE  ADDRESS
   1  node-1  alive                   2  5.0 MiB  3.0 GiB  -     http://127.0.0.1:7801
   2  node-2  silent for 42 s         2  5.0 MiB  3.0 GiB  -     http://127.0.0.1:7802
   3  node-3  never heard of          2  5.0 MiB        -  -     http://127.0.0.1:7803

attention: node-2 is silent
     next: start it again
attention: node-3 is silent
";
        assert_eq!(screen(&status()), want);
    }

    #[test]
    fn a_full_disk_is_told_beside_its_node() {
        let mut full = status();
        full.nodes[0].has_room = false;
        let line = screen(&full).lines().find(|line| line.contains("node-1")).map(str::to_owned);
        assert!(line.is_some_and(|line| line.contains("alive, disk full")));
    }

    #[test]
    fn a_coordinator_without_a_vote_does_not_count() {
        let mut joins = status();
        joins.coordinators[2].reachable = true;
        joins.coordinators[2].standing = CoordinatorStanding::Joining;
        let want = "coordinators  3 of 3 reachable, 1 without a vote, quorum, none to spare, 1 leads";
        assert_eq!(quorum(&joins.coordinators), want);
        let row = screen(&joins).lines().find(|line| line.contains(":7903")).map(str::to_owned);
        assert!(row.is_some_and(|row| row.contains("joining")), "the table says why");
    }

    #[test]
    fn a_lost_quorum_is_told() {
        let mut lost = status();
        for member in &mut lost.coordinators {
            member.reachable = false;
            member.leader = false;
            member.standing = CoordinatorStanding::Unknown;
        }
        lost.warnings.clear();
        lost.stale = true;
        assert!(screen(&lost).lines().nth(1).is_some_and(|line| line.starts_with("NO LEADER")), "told at the top");
        assert_eq!(quorum(&lost.coordinators), "coordinators  0 of 3 reachable, NO QUORUM, no leader");
        assert!(screen(&lost).ends_with("nothing needs attention\n"));
    }
}
