//! Whether code and catalogue of failpoints agree.
//!
//! A name that code meets and the catalogue lacks does not compile. What is left to check is that the code meets each name of
//! the catalogue, and at one place, so that a name says where something happened.

use std::fs;

use crate::Outcome;
use crate::house;
use crate::workspace::Workspace;

const CATALOGUE: &str = "model/src/failpoints/catalogue.rs";

/// Fails with every name that the code does not meet at one place.
pub(crate) fn check(workspace: &Workspace) -> Outcome {
    let mut sources = String::new();
    for file in house::files(workspace)? {
        let name = file.to_string_lossy();
        let is_code = name.contains("/src/") && name.ends_with(".rs");
        let only_names_them = ["model/", "tests/", "xtask/"].iter().any(|folder| name.starts_with(folder));
        if is_code && !only_names_them {
            // One that was removed and not committed meets nothing.
            sources += &fs::read_to_string(workspace.root.join(&file)).unwrap_or_default();
        }
    }
    let catalogue = fs::read_to_string(workspace.root.join(CATALOGUE)).map_err(|e| format!("{CATALOGUE}: {e}."))?;
    let names = names(&catalogue);
    let complaints: Vec<String> = names.iter().filter_map(|name| complaint(name, &sources)).collect();
    if complaints.is_empty() {
        crate::report::note(&format!("{} failpoints", names.len()));
        return Ok(());
    }
    Err(format!("The code and {CATALOGUE} disagree:\n    {}", complaints.join("\n    ")))
}

/// Lines that are a name and a comma.
fn names(catalogue: &str) -> Vec<&str> {
    let lines = catalogue.lines().filter_map(|line| line.trim().strip_suffix(','));
    lines.filter(|line| !line.is_empty() && line.chars().all(char::is_alphanumeric)).collect()
}

fn complaint(name: &str, sources: &str) -> Option<String> {
    let whole = |rest: &&str| !rest.starts_with(|next: char| next.is_alphanumeric());
    let count = sources.split(&format!("Failpoint::{name}")).skip(1).filter(whole).count();
    (count != 1).then(|| format!("{name} is met at {count} places"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_wants_one_place() {
        assert_eq!(
            names("//! Text,\nx! {\n    /// First, of all.\n    NodeApply,\n    NodeApplyWrite,\n}"),
            ["NodeApply", "NodeApplyWrite"]
        );
        let sources = "meet(Failpoint::NodeApplyWrite)?; meet(Failpoint::NodeErase)?; meet(Failpoint::NodeErase)?;";
        assert_eq!(complaint("NodeApplyWrite", sources), None);
        assert_eq!(complaint("NodeApply", sources), Some("NodeApply is met at 0 places".to_owned()));
        assert_eq!(complaint("NodeErase", sources), Some("NodeErase is met at 2 places".to_owned()));
    }
}
