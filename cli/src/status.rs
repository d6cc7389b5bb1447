//! `shoal status`: the cluster on one screen, and what to do about it.

use serde_json::json;
use shoal_client::{ClusterStatus, CoordinatorStanding, CoordinatorStatus, Health, NodeStatus};

use crate::collections::{health_name, list_table};
use crate::command::Context;
use crate::failure::{Exit, Failure};
use crate::output::{self, bytes, columns};
use crate::progress::counted;

/// What to do where even the status cannot be had.
const OUT_OF_REACH: &str = "see whether the router and its coordinators run, and what their logs say; `shoal up` starts a \
                            cluster here, --endpoint names another";

/// Warnings that fit the screen.
const WARNINGS_SHOWN: usize = 5;
/// Shards that are named where they are unavailable.
const SHARDS_SHOWN: usize = 8;

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let status = context.client.status().await.map_err(|error| {
        let failure = Failure::from(error);
        if failure.exit == Exit::Failed { failure } else { failure.next(OUT_OF_REACH) }
    })?;
    output::print(context.format, || screen(&status), || json!(status))?;
    verdict(&status)
}

/// What a script learns from the exit code: whether the cluster takes changes, and all its points are within reach.
fn verdict(status: &ClusterStatus) -> Result<(), Failure> {
    let unavailable = status.shards_that_are(Health::Unavailable);
    let mut problems = Vec::new();
    if !status.has_quorum() {
        problems.push("no quorum among the coordinators".to_owned());
    }
    if !unavailable.is_empty() {
        problems.push(format!("unavailable: {}", named(&unavailable)));
    }
    if problems.is_empty() {
        return Ok(());
    }
    let next = "do what is said above to need attention";
    Err(Failure::new(problems.join("; ")).exit(Exit::Unwell).next(next))
}

/// How many shards, and which, by the names of their collections: `2 shards (docs 7, docs 8)`.
fn named(shards: &[(&str, u64)]) -> String {
    let mut names: Vec<String> =
        shards.iter().take(SHARDS_SHOWN).map(|(collection, shard)| format!("{collection} {shard}")).collect();
    names.extend((shards.len() > SHARDS_SHOWN).then(|| format!("{} more", shards.len() - SHARDS_SHOWN)));
    format!("{} ({})", counted(shards.len(), "shard"), names.join(", "))
}

/// The whole screen.
fn screen(status: &ClusterStatus) -> String {
    let mut text = format!("cluster {}, map version {}\n", status.cluster_id, status.epoch);
    if status.stale && status.epoch == 0 {
        text += "NO LEADER: the cluster has not begun\n";
    } else if status.stale {
        text += "NO LEADER: changes wait; searches and writes go on. Below is what one coordinator last knew\n";
    }
    text += &format!("{}\n{}\n", quorum(&status.coordinators), nodes_line(&status.nodes));
    text += &format!("{}\n", shards_line(status));
    text += &format!("\n{}", coordinators_table(&status.coordinators));
    if !status.nodes.is_empty() {
        text += &format!("\n{}", nodes_table(&status.nodes));
    }
    if !status.collections.is_empty() {
        text += &format!("\n{}", list_table(&status.collections));
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
    let awaited = match nodes.iter().filter(|node| node.awaited).count() {
        0 => String::new(),
        awaited => format!(", {awaited} not heard of yet"),
    };
    let known: u64 = nodes.iter().filter_map(|node| node.disk_bytes).sum();
    let disk = match nodes.iter().filter(|node| node.disk_bytes.is_none()).count() {
        0 => bytes(known),
        unknown if unknown == nodes.len() => "an unknown size".to_owned(),
        _ => format!("at least {}", bytes(known)),
    };
    format!("nodes         {alive} of {} alive{awaited}, {disk} on disk", nodes.len())
}

fn shards_line(status: &ClusterStatus) -> String {
    let count = |health| status.shards_that_are(health).len();
    let always = [Health::Healthy, Health::Degraded, Health::Unavailable];
    let mut told: Vec<_> = always.map(|health| format!("{} {}", count(health), health_name(health))).into();
    let rarely = [Health::Starting, Health::Unknown].into_iter().filter(|health| count(*health) > 0);
    told.extend(rarely.map(|health| format!("{} {}", count(health), health_name(health))));
    format!("shards        {}", told.join(", "))
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
    let row = |node: &NodeStatus| {
        let state = match (node.alive, node.silent_ms) {
            (true, _) if !node.has_room => "alive, disk full".to_owned(),
            (true, _) => "alive".to_owned(),
            (false, _) if node.awaited => "not heard of yet".to_owned(),
            // Rounded as in the warnings.
            (false, Some(silent_ms)) => format!("silent for {} s", silent_ms / 1_000),
            (false, None) => "silent".to_owned(),
        };
        let zone = if node.zone.is_empty() { "-" } else { &node.zone };
        vec![
            node.id.to_string(),
            node.name.clone(),
            state,
            node.replicas.to_string(),
            node.disk_bytes.map_or("-".to_owned(), bytes),
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
    use shoal_client::{Collection, Shard, Warning};
    use shoal_model::{GraphSpec, HashRange, Metric};

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
            awaited: false,
            silent_ms,
            replicas: 2,
            disk_bytes: silent_ms.map(|_| 5 << 20),
            disk_free_bytes: silent_ms.map(|_| 3 << 30),
            has_room: true,
        };
        ClusterStatus {
            cluster_id: "c0ffee".into(),
            epoch: 9,
            coordinators: vec![coordinator(1, true, true), coordinator(2, false, true), coordinator(3, false, false)],
            nodes: vec![node(1, true, Some(200)), node(2, false, Some(42_900)), node(3, false, None)],
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
nodes         1 of 3 alive, at least 10.0 MiB on disk
shards        0 healthy, 0 degraded, 0 unavailable

COORDINATOR  STATE         APPLIED  ADDRESS
          1  leader            120  http://127.0.0.1:7901
          2  follower          120  http://127.0.0.1:7902
          3  out of reach        0  http://127.0.0.1:7903

NODE  NAME    STATE            REPLICAS     DISK     FREE  ZONE  ADDRESS
   1  node-1  alive                   2  5.0 MiB  3.0 GiB  -     http://127.0.0.1:7801
   2  node-2  silent for 42 s         2  5.0 MiB  3.0 GiB  -     http://127.0.0.1:7802
   3  node-3  silent                  2        -        -  -     http://127.0.0.1:7803

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
        let first = screen(&ClusterStatus { epoch: 0, ..lost.clone() });
        assert!(
            first.lines().nth(1).is_some_and(|line| line.ends_with("has not begun")),
            "nothing goes on in it: {first}"
        );
        assert!(screen(&lost).ends_with("nothing needs attention\n"));
    }

    fn collection(shards: &[(u64, Health)]) -> Collection {
        let shard = |(id, health): &(u64, Health)| Shard {
            id: *id,
            range: HashRange::divide(1)[0],
            epoch: 1,
            health: *health,
            replicas: vec![],
        };
        Collection {
            id: 1,
            name: "news".into(),
            dim: 2,
            metric: Metric::Dot,
            embedding: String::new(),
            graph: GraphSpec::DEFAULT,
            active_version: 1,
            candidate_version: None,
            replicas: 1,
            witness: false,
            shards: shards.iter().map(shard).collect(),
        }
    }

    #[test]
    fn what_a_new_leader_has_not_heard_is_not_told_as_lost() {
        let mut begun = status();
        for node in &mut begun.nodes[1..] {
            (node.awaited, node.silent_ms, node.disk_bytes) = (true, None, None);
        }
        begun.collections = vec![collection(&[(7, Health::Healthy), (8, Health::Unknown)])];
        let shown = screen(&begun);
        for line in [
            "nodes         1 of 3 alive, 2 not heard of yet, at least 5.0 MiB on disk",
            "shards        1 healthy, 0 degraded, 0 unavailable, 1 not heard of yet",
            "   2  node-2  not heard of yet         2        -  3.0 GiB  -     http://127.0.0.1:7802",
            "news    2  dot          2         1       ?  1 not heard of yet",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line:?} is missing from:\n{shown}");
        }
        assert_eq!(verdict(&begun), Ok(()));
    }

    #[test]
    fn the_exit_code_tells_scripts_how_it_is() {
        let with = |shards| ClusterStatus { collections: vec![collection(shards)], ..status() };
        let lost = ClusterStatus { stale: true, ..status() };
        let many: Vec<_> = (0..9).map(|id| (id, Health::Unavailable)).collect();
        let few = [(7, Health::Unavailable), (8, Health::Degraded), (9, Health::Unavailable)];
        for (name, status, want) in [
            ("only warnings", status(), None),
            ("a copy less", with(&[(7, Health::Degraded), (8, Health::Starting)]), None),
            ("a shard is lost", with(&few), Some("unavailable: 2 shards (news 7, news 9)")),
            (
                "many are",
                with(&many),
                Some("9 shards (news 0, news 1, news 2, news 3, news 4, news 5, news 6, news 7, 1 more)"),
            ),
            ("nobody leads", lost, Some("no quorum among the coordinators")),
        ] {
            let failure = verdict(&status).err();
            assert_eq!(failure.as_ref().map(|failure| failure.exit), want.map(|_| Exit::Unwell), "{name}");
            assert!(failure.is_none_or(|failure| failure.message.contains(want.unwrap_or_default())), "{name}");
        }
        let mut without = status();
        without.coordinators[1].standing = CoordinatorStanding::Joining;
        assert!(verdict(&without).is_err_and(|failure| failure.exit == Exit::Unwell), "one vote of three is no quorum");
    }
}
