//! Cargo's target folder: outside the checkout, so that a clean clone finds its dependencies compiled.
//!
//! One folder per path of a checkout. It cannot be one for all: cargo tells the crates of two checkouts apart by
//! nothing but the age of their files, and would run the code of the one for the other. The first build of a new
//! checkout starts from the folder of an older one instead, less what came from the workspace itself.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::Outcome;
use crate::report;
use crate::rocksdb::fnv1a;
use crate::workspace::{Workspace, output};

/// In each target folder: the path of the checkout that it serves. Its age is that of the last use.
const OWNER: &str = "checkout";

/// What cargo keeps about dependencies; all else is made again.
const KEPT: [&str; 3] = [".fingerprint", "build", "deps"];

/// Chooses the target folder; CARGO_TARGET_DIR wins where it is set.
pub(crate) fn prepare(workspace: &mut Workspace) -> Outcome {
    if let Some(own) = env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        workspace.target = workspace.root.join(own);
        return Ok(());
    }
    let all = workspace.cache.join("target");
    let folder = all.join(folder_name(&workspace.root));
    let failed = |e: std::io::Error| format!("The target folder {} cannot be prepared: {e}.", folder.display());
    fs::create_dir_all(&all).map_err(failed)?;
    workspace.target.clone_from(&folder);
    if !folder.is_dir() {
        let lock = File::create(all.join("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        if !folder.is_dir() {
            take_over(&all, &folder).map_err(failed)?;
            forget_own_crates(workspace)?;
        }
    }
    let owner = workspace.root.display().to_string();
    crate::workspace::write_atomically(&folder.join(OWNER), &owner).map_err(failed)
}

/// The checkout's own name for people, a hash of its path against confusion.
fn folder_name(root: &Path) -> String {
    let name = root.file_name().unwrap_or_default().to_string_lossy();
    format!("{name}-{:016x}", fnv1a(root.as_os_str().as_encoded_bytes()))
}

/// Makes `folder` from the youngest other one: moved where its checkout is gone, else copied.
fn take_over(all: &Path, folder: &Path) -> std::io::Result<()> {
    let mut others = owned_folders(all);
    others.sort_by_key(|other| (other.abandoned, other.used));
    let mut abandoned = others.iter().filter(|other| other.abandoned).rev();
    if let Some(youngest) = abandoned.next() {
        fs::rename(&youngest.path, folder)?;
        return abandoned.try_for_each(|older| fs::remove_dir_all(&older.path));
    }
    if let Some(youngest) = others.last() {
        report::header(&format!("copy compiled dependencies from {}", youngest.path.display()));
        let temporary = folder.with_extension("tmp");
        let _ = fs::remove_dir_all(&temporary); // what an interrupted copy left
        copy_dependencies(&youngest.path, &temporary)?;
        return fs::rename(temporary, folder);
    }
    fs::create_dir_all(folder)
}

struct Owned {
    path: PathBuf,
    used: SystemTime,
    abandoned: bool,
}

/// Those that have a checkout and hold compiled dependencies.
fn owned_folders(all: &Path) -> Vec<Owned> {
    let folders = fs::read_dir(all).into_iter().flatten().flatten().map(|entry| entry.path());
    let folders = folders.filter(|path| path.join("release/deps").is_dir());
    let owned = folders.filter_map(|path| {
        let owner = fs::read_to_string(path.join(OWNER)).ok()?;
        let used = path.join(OWNER).metadata().and_then(|about| about.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        Some(Owned { path, used, abandoned: !Path::new(&owner).exists() })
    });
    owned.collect()
}

/// `cp` keeps the times that cargo compares. A profile that cargo is building right now is left out.
fn copy_dependencies(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for profile in ["release", "debug"] {
        let Ok(cargo_lock) = File::open(from.join(profile).join(".cargo-lock")) else { continue };
        if cargo_lock.try_lock().is_err() {
            continue;
        }
        let mut parts = KEPT.map(|part| from.join(profile).join(part)).to_vec();
        parts.retain(|part| part.is_dir());
        if parts.is_empty() {
            continue;
        }
        let target = to.join(profile);
        fs::create_dir_all(&target)?;
        let copied = Command::new("cp").args(["--archive", "--reflink=auto"]).args(parts).arg(&target).status()?;
        if !copied.success() {
            return Err(std::io::Error::other(format!("cp ended with {copied}")));
        }
    }
    Ok(())
}

fn forget_own_crates(workspace: &Workspace) -> Outcome {
    output(&mut workspace.cargo(["clean", "--quiet", "--workspace", "--release"]))?;
    output(&mut workspace.cargo(["clean", "--quiet", "--workspace"])).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkouts_of_one_name_get_folders_of_their_own() {
        let [one, other] = ["/a/shoal", "/b/shoal"].map(|root| folder_name(Path::new(root)));
        assert!(one.starts_with("shoal-") && other.starts_with("shoal-"));
        assert_ne!(one, other);
    }

    /// A folder for one test, gone with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("the temporary folder is writable");
            Scratch(path)
        }

        /// A target folder with one dependency in it, owned by `checkout`.
        fn target(&self, name: &str, checkout: &Path) {
            let deps = self.0.join(name).join("release/deps");
            fs::create_dir_all(&deps).expect("the temporary folder is writable");
            fs::write(deps.join("libbytes.rlib"), name).expect("the temporary folder is writable");
            fs::write(deps.join("../.cargo-lock"), "").expect("the temporary folder is writable");
            let owner = checkout.display().to_string();
            fs::write(self.0.join(name).join(OWNER), owner).expect("the temporary folder is writable");
        }

        fn dependency(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.0.join(name).join("release/deps/libbytes.rlib")).ok()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn dependencies_of_a_living_checkout_are_copied() {
        let all = Scratch::new("copied");
        all.target("old", &all.0);
        take_over(&all.0, &all.0.join("new")).expect("copying works");
        assert_eq!(all.dependency("new").as_deref(), Some("old"));
        assert_eq!(all.dependency("old").as_deref(), Some("old"), "the source is left as it was");
        let times = ["old", "new"].map(|name| all.0.join(name).join("release/deps/libbytes.rlib").metadata());
        let [old, new] = times.map(|about| about.and_then(|about| about.modified()).expect("the file has a time"));
        assert_eq!(old, new, "cargo compares times");
    }

    #[test]
    fn the_folder_of_a_lost_checkout_is_moved() {
        let all = Scratch::new("moved");
        all.target("living", &all.0);
        all.target("lost", Path::new("/no/such/checkout"));
        take_over(&all.0, &all.0.join("new")).expect("moving works");
        assert_eq!(all.dependency("new").as_deref(), Some("lost"));
        assert_eq!(all.dependency("lost"), None, "moved, not copied");
        assert_eq!(all.dependency("living").as_deref(), Some("living"));
    }

    #[test]
    fn a_folder_that_cargo_is_building_in_is_not_copied() {
        let all = Scratch::new("busy");
        all.target("old", &all.0);
        let cargo_lock = File::open(all.0.join("old/release/.cargo-lock")).expect("the lock is there");
        cargo_lock.lock().expect("nobody holds the lock");
        take_over(&all.0, &all.0.join("new")).expect("starting empty works");
        assert!(all.0.join("new").is_dir());
        assert_eq!(all.dependency("new"), None);
    }
}
