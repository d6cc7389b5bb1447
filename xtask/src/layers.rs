//! Which crate may use which: the direction of dependency that keeps Shoal readable.

use std::collections::{BTreeMap, BTreeSet};

use crate::workspace::Workspace;
use crate::{Outcome, cargo_tree};

/// Crates of the workspace that a crate may name in `[dependencies]`; tests of a crate may use more.
const MAY_USE: &[(&str, &[&str])] = &[
    ("shoal-model", &[]),
    ("shoal-runtime", &["shoal-model"]),
    ("shoal-proto", &["shoal-runtime", "shoal-model"]),
    ("shoal-index", &["shoal-runtime", "shoal-model"]),
    ("shoal-consensus", &["shoal-runtime", "shoal-model"]),
    ("shoal-storage", &["shoal-runtime", "shoal-model"]),
    // Judges histories, whoever made them; only what nothing ships may use it, so no list below names it.
    ("shoal-checker", &["shoal-model"]),
    ("shoal-client", &["shoal-proto", "shoal-runtime", "shoal-model"]),
    ("shoal-router", &["shoal-proto", "shoal-runtime", "shoal-model"]),
    ("shoal-coordinator", &["shoal-consensus", "shoal-storage", "shoal-proto", "shoal-runtime", "shoal-model"]),
    ("shoal-node", &["shoal-index", "shoal-consensus", "shoal-storage", "shoal-proto", "shoal-runtime", "shoal-model"]),
    // The one binary: it starts every role, and is a client of all of them.
    (
        "shoal-cli",
        &[
            "shoal-client",
            "shoal-coordinator",
            "shoal-node",
            "shoal-router",
            "shoal-storage",
            "shoal-proto",
            "shoal-runtime",
            "shoal-model",
        ],
    ),
];

/// Crates that nothing ships: they may use everything and nothing may use them.
const ON_TOP: [&str; 5] = ["shoal-bench", "shoal-lossy", "shoal-sim", "shoal-tests", "xtask"];

/// The longest path through our own crates that a reader has to follow.
const LONGEST_CHAIN: usize = 5;

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Fails with every dependency that points the wrong way, and with a chain that is too long.
pub(crate) fn check(workspace: &Workspace) -> Outcome {
    let graph = cargo_tree::own_dependencies(workspace)?;
    let mut complaints = wrong_ways(&graph);
    let chain = longest_chain(&graph);
    if chain.len() > LONGEST_CHAIN {
        complaints.push(format!("{} is longer than {LONGEST_CHAIN} crates", chain.join(" -> ")));
    }
    if complaints.is_empty() {
        crate::report::note(&format!("{} crates, longest chain {}", graph.len(), chain.join(" -> ")));
        return Ok(());
    }
    Err(format!(
        "The crates depend on each other in a way that xtask/src/layers.rs rules out:\n    {}",
        complaints.join("\n    ")
    ))
}

fn wrong_ways(graph: &Graph) -> Vec<String> {
    let mut complaints = Vec::new();
    for (user, used) in graph.iter().filter(|(user, _)| !ON_TOP.contains(&user.as_str())) {
        match MAY_USE.iter().find(|(name, _)| name == user) {
            None => complaints.push(format!("{user} is not in the list of who may use whom")),
            Some((_, allowed)) => {
                let wrong = used.iter().filter(|name| !allowed.contains(&name.as_str()));
                complaints.extend(wrong.map(|name| format!("{user} must not use {name}")));
            }
        }
    }
    complaints
}

/// Cargo has ruled out cycles, and the graph is small enough to walk every path.
fn longest_chain(graph: &Graph) -> Vec<&str> {
    fn from<'a>(graph: &'a Graph, name: &'a str) -> Vec<&'a str> {
        let below = graph.get(name).into_iter().flatten().map(|next| from(graph, next));
        let mut chain = vec![name];
        chain.extend(below.max_by_key(Vec::len).unwrap_or_default());
        chain
    }
    let shipped = graph.keys().filter(|name| !ON_TOP.contains(&name.as_str()));
    shipped.map(|name| from(graph, name)).max_by_key(Vec::len).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        edges
            .iter()
            .map(|(user, used)| ((*user).to_owned(), used.iter().map(|name| (*name).to_owned()).collect()))
            .collect()
    }

    #[test]
    fn wrong_ways_are_named() {
        for (name, edges, want) in [
            ("downwards", &[("shoal-proto", &["shoal-model"][..])][..], vec![]),
            ("upwards", &[("shoal-model", &["shoal-proto"][..])][..], vec!["shoal-model must not use shoal-proto"]),
            ("sideways", &[("shoal-router", &["shoal-node"][..])][..], vec!["shoal-router must not use shoal-node"]),
            ("unknown", &[("shoal-new", &[][..])][..], vec!["shoal-new is not in the list of who may use whom"]),
            ("tests use all", &[("shoal-tests", &["shoal-node", "shoal-cli"][..])][..], vec![]),
            (
                "nobody uses tests",
                &[("shoal-cli", &["shoal-tests"][..])][..],
                vec!["shoal-cli must not use shoal-tests"],
            ),
        ] {
            assert_eq!(wrong_ways(&graph(edges)), want, "{name}");
        }
    }

    #[test]
    fn longest_chain_leaves_out_what_is_on_top() {
        let graph = graph(&[
            ("shoal-tests", &["shoal-node"]),
            ("shoal-node", &["shoal-proto", "shoal-model"]),
            ("shoal-proto", &["shoal-model"]),
            ("shoal-model", &[]),
        ]);
        assert_eq!(longest_chain(&graph), ["shoal-node", "shoal-proto", "shoal-model"]);
    }

    #[test]
    fn the_list_itself_allows_no_chain_that_is_too_long_and_no_cycle() {
        // Listed bottom up: a crate may use only what stands above it in the list.
        for (place, (user, allowed)) in MAY_USE.iter().enumerate() {
            for name in *allowed {
                let other = MAY_USE.iter().position(|(listed, _)| listed == name);
                assert!(other.is_some_and(|other| other < place), "{user} -> {name}");
            }
        }
        assert!(longest_chain(&graph(MAY_USE)).len() <= LONGEST_CHAIN);
    }
}
