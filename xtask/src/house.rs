//! Cheap checks of what a compiler does not see.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::workspace::{Workspace, output};

/// The largest file in git, in bytes: the sample data fits, a forgotten data set does not.
const LARGEST_FILE_BYTES: u64 = 8 << 20;

/// Fails with everything found, not with the first.
pub(crate) fn check(workspace: &Workspace) -> Outcome {
    let files = files(workspace)?;
    let mut complaints = Vec::new();
    for file in &files {
        let path = workspace.root.join(file);
        // A file that git knows and the disk no longer has is a deletion not yet committed.
        let Ok(about) = path.metadata() else { continue };
        complaints.extend(too_large(file, about.len()));
        let name = file.to_string_lossy();
        if name.ends_with(".rs") {
            complaints.extend(headless(&name, &text(&path)?));
        } else if name.ends_with(".md") {
            complaints.extend(broken_links(&path, &name, &text(&path)?));
        }
    }
    if complaints.is_empty() {
        crate::report::note(&format!("{} files", files.len()));
        return Ok(());
    }
    Err(format!("The house rules in xtask/src/house.rs do not hold:\n    {}", complaints.join("\n    ")))
}

/// What is in git or would be with the next `git add`.
pub(crate) fn files(workspace: &Workspace) -> Outcome<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(&workspace.root);
    Ok(output(&mut git)?.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect())
}

fn text(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(|e| format!("{} cannot be read: {e}.", path.display()))
}

fn too_large(file: &Path, size_bytes: u64) -> Option<String> {
    let is_larger = size_bytes > LARGEST_FILE_BYTES;
    is_larger.then(|| format!("{}: {size_bytes} bytes, the limit is {LARGEST_FILE_BYTES}", file.display()))
}

/// Every file opens by saying what lives there, but for one that is called `tests.rs` and so says it already;
/// a library says also what it does not know.
fn headless(name: &str, text: &str) -> Option<String> {
    let header = text.lines().take_while(|line| line.starts_with("//!")).collect::<String>();
    if header.is_empty() && !name.ends_with("/tests.rs") {
        return Some(format!("{name}: does not open with a `//!` header"));
    }
    let is_library = name.ends_with("src/lib.rs") && !name.starts_with("tests/");
    (is_library && !header.contains("Does not know"))
        .then(|| format!("{name}: the header does not say what the crate does not know about"))
}

/// Relative links whose file is not there. Links in code blocks are examples, not links.
fn broken_links(path: &Path, name: &str, text: &str) -> Vec<String> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let missing = |link: &&str| !folder.join(link).exists();
    relative_links(text)
        .into_iter()
        .filter(missing)
        .map(|link| format!("{name}: links to {link}, which is not there"))
        .collect()
}

fn relative_links(text: &str) -> Vec<&str> {
    let outside_code = text.split("```").step_by(2);
    let targets = outside_code.flat_map(|part| part.split("](").skip(1)).filter_map(|rest| rest.split_once(')'));
    let files = targets.map(|(target, _)| target.split('#').next().unwrap_or_default());
    files.filter(|file| !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_beyond_the_limit_are_too_large() {
        assert_eq!(too_large(Path::new("a"), LARGEST_FILE_BYTES), None);
        assert!(too_large(Path::new("a"), LARGEST_FILE_BYTES + 1).is_some());
    }

    #[test]
    fn headers() {
        for (name, text, is_fine) in [
            ("x/src/a.rs", "//! A.\nfn a() {}", true),
            ("x/src/a.rs", "fn a() {}", false),
            ("x/src/lib.rs", "//! X.\n//!\n//! Does not know about: Y.\n", true),
            ("x/src/a/tests.rs", "use super::*;", true),
            ("x/src/lib.rs", "//! X.\n", false),
            ("tests/src/lib.rs", "//! X.\n", true),
        ] {
            assert_eq!(headless(name, text).is_none(), is_fine, "{name}: {text:?}");
        }
    }

    #[test]
    fn links_are_found_where_they_are_links() {
        let text = "[a](docs/a.md) [b](https://b.example/) [c](#c) [d](d.md#part)\n```\n[e](e.md)\n```\n[f](f.md)";
        assert_eq!(relative_links(text), ["docs/a.md", "d.md", "f.md"]);
    }
}
