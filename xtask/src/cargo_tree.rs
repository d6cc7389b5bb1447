//! The dependency graph as cargo resolves it, read from the text of `cargo tree`.

use std::collections::{BTreeMap, BTreeSet};

use crate::Outcome;
use crate::workspace::{Workspace, output};

/// One package of the graph.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Package {
    /// Name and version, such as `bytes v1.10.0`.
    pub(crate) name: String,
    /// The licence expression of its manifest; empty where it has none.
    pub(crate) licence: String,
}

/// Every package that is linked into, or runs in the build of, a crate of the workspace; without its tests' own.
pub(crate) fn packages(workspace: &Workspace) -> Outcome<BTreeSet<Package>> {
    let tree = ["tree", "--workspace", "--edges", "normal,build", "--prefix", "none", "--no-dedupe"];
    let listed = output(workspace.cargo(tree).args(["--format", "{p}\t{l}"]))?;
    Ok(listed.lines().filter_map(package).collect())
}

fn package(line: &str) -> Option<Package> {
    let (package, licence) = line.split_once('\t')?;
    let mut words = package.split_whitespace();
    let name = format!("{} {}", words.next()?, words.next()?);
    Some(Package { name, licence: licence.trim().to_owned() })
}

/// For each crate of the workspace the crates of the workspace that it names in `[dependencies]`.
pub(crate) fn own_dependencies(workspace: &Workspace) -> Outcome<BTreeMap<String, BTreeSet<String>>> {
    let tree = ["tree", "--workspace", "--edges", "normal,build", "--prefix", "depth", "--depth", "1"];
    let listed = output(workspace.cargo(tree).args(["--no-dedupe", "--format", "\t{p}"]))?;
    Ok(edges(&listed))
}

/// Lines are a depth of 0 or 1, a tab, and a package; packages of the workspace show a path in parentheses.
fn edges(listed: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut user = String::new();
    for (depth, package) in listed.lines().filter_map(|line| line.split_once('\t')) {
        let name = package.split_whitespace().next().unwrap_or_default().to_owned();
        if depth == "0" {
            graph.entry(name.clone()).or_default();
            user = name;
        } else if package.contains("(/") {
            graph.entry(user.clone()).or_default().insert(name);
        }
    }
    graph
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_keeps_name_version_and_licence() {
        let read = |line| package(line).map(|package| (package.name, package.licence));
        for (line, want) in [
            ("bytes v1.10.0\tMIT", Some(("bytes v1.10.0", "MIT"))),
            ("shoal-cli v0.1.0 (/src/cli)\tApache-2.0", Some(("shoal-cli v0.1.0", "Apache-2.0"))),
            ("odd v1.0.0\t", Some(("odd v1.0.0", ""))),
            ("", None),
        ] {
            assert_eq!(read(line), want.map(|(name, licence)| (name.to_owned(), licence.to_owned())), "{line:?}");
        }
    }

    #[test]
    fn edges_are_those_between_crates_of_the_workspace() {
        let listed = "0\tshoal-node v0.1.0 (/src/node)\n1\tbytes v1.10.0\n1\tshoal-model v0.1.0 (/src/model)\n\n\
                      0\tshoal-model v0.1.0 (/src/model)\n1\tserde_derive v1.0.0 (proc-macro)\n";
        let graph = edges(listed);
        assert_eq!(graph["shoal-node"], BTreeSet::from(["shoal-model".to_owned()]));
        assert_eq!(graph["shoal-model"], BTreeSet::new());
        assert_eq!(graph.len(), 2);
    }
}
