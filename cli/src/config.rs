//! Configuration files of `shoal serve`: sockets and data folder of the process, and the role's own section.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use shoal_coordinator::CoordinatorConfig;
use shoal_node::NodeConfig;
use shoal_router::RouterConfig;

use crate::failure::{Exit, Failure};

/// A coordinator's file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CoordinatorFile {
    /// Where it takes calls, `host:port`.
    pub(crate) listen: String,
    /// Where it shows its metrics, `host:port`.
    pub(crate) metrics_listen: String,
    /// Folder of its store.
    pub(crate) data: PathBuf,
    /// The role's own section.
    pub(crate) coordinator: CoordinatorConfig,
}

/// A node's file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeFile {
    /// Where it takes calls, `host:port`.
    pub(crate) listen: String,
    /// Where it shows its metrics, `host:port`.
    pub(crate) metrics_listen: String,
    /// Folder of its store.
    pub(crate) data: PathBuf,
    /// Number or name of a node whose disk is lost: this one takes its place if the folder is empty.
    #[serde(default)]
    pub(crate) replaces: Option<String>,
    /// The role's own section.
    pub(crate) node: NodeConfig,
}

/// A router's file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouterFile {
    /// Where it takes calls, `host:port`.
    pub(crate) listen: String,
    /// Where it shows its metrics, `host:port`.
    pub(crate) metrics_listen: String,
    /// The role's own section.
    pub(crate) router: RouterConfig,
}

/// Reads a file. Errors name the line and the field; the caller names the file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let usage = |failure: Failure| failure.exit(Exit::Usage).next("shoal serve --help shows the form of the file");
    let text =
        std::fs::read_to_string(path).map_err(|error| usage(Failure::new(format!("cannot be read: {error}"))))?;
    parse(&text).map_err(|problem| usage(Failure::new(problem)))
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "\
        listen = '127.0.0.1:0'\n\
        metrics_listen = '127.0.0.1:0'\n\
        data = '/var/lib/shoal'\n\
        [node]\n\
        name = 'node-1'\n\
        coordinators = ['http://127.0.0.1:7901']\n";

    #[test]
    fn every_role_has_its_file() {
        let node: NodeFile = parse(NODE).expect("well-formed");
        assert_eq!((node.node.name.as_str(), node.data), ("node-1", PathBuf::from("/var/lib/shoal")));
        assert_eq!(node.replaces, None);
        let replacing: NodeFile = parse(&format!("replaces = 'node-2'\n{NODE}")).expect("well-formed");
        assert_eq!(replacing.replaces.as_deref(), Some("node-2"));
        let coordinator = "\
            listen = 'a:1'\nmetrics_listen = 'a:2'\ndata = 'd'\n\
            [coordinator]\nid = 1\n[[coordinator.peers]]\nid = 1\naddress = 'http://a:1'\n";
        assert_eq!(parse::<CoordinatorFile>(coordinator).expect("well-formed").coordinator.peers.len(), 1);
        let router = "listen = 'a:1'\nmetrics_listen = 'a:2'\n[router]\ncoordinators = ['http://a:1']\n";
        assert_eq!(parse::<RouterFile>(router).expect("well-formed").router.coordinators, ["http://a:1"]);
    }

    #[test]
    fn the_files_of_the_manual_are_whole() {
        let manual = include_str!("../../docs/configuration.md");
        let (_, by_hand) = manual.split_once("## A cluster by hand").expect("the manual shows one");
        let blocks = by_hand.split("```toml\n").skip(1);
        let files: Vec<&str> = blocks.filter_map(|block| Some(block.split_once("```")?.0)).collect();
        let [coordinator, node, router] = files[..] else { panic!("one for each role, not {}", files.len()) };
        let coordinator = parse::<CoordinatorFile>(coordinator).expect("well-formed").coordinator;
        assert_eq!((coordinator.validate(), coordinator.peers.len()), (Ok(()), 3));
        let node = parse::<NodeFile>(node).expect("well-formed").node;
        assert_eq!((node.validate(), node.coordinators.len()), (Ok(()), 3));
        let router = parse::<RouterFile>(router).expect("well-formed").router;
        assert_eq!((router.validate(), router.coordinators.len()), (Ok(()), 3));
    }

    #[test]
    fn wrong_files_name_the_field() {
        for (name, text, want) in [
            ("unknown field", format!("colour = 1\n{NODE}"), "colour"),
            ("unknown field of the role", format!("{NODE}hartbeat_ms = 5\n"), "hartbeat_ms"),
            ("missing field", NODE.replacen("listen = '127.0.0.1:0'\n", "", 1), "listen"),
            ("wrong type", NODE.replace("'node-1'", "7"), "name"),
            ("section of another role", NODE.replace("[node]", "[router]"), "router"),
            ("unknown cap", format!("{NODE}[node.limits]\nk_maximum = 5\n"), "k_maximum"),
        ] {
            let error = parse::<NodeFile>(&text).map(drop).expect_err(name);
            assert!(error.contains(want), "{name}: {error}");
        }
    }
}
