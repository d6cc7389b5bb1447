//! Wall clocks of processes that can be set, one by one, while they run.
//!
//! Through libfaketime, which answers in the place of the system's clock. The monotonic clock stays the system's.

use std::fs;
use std::path::PathBuf;

/// Where Debian and its kin put the library.
const LIBRARY: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// A clock for each process.
#[derive(Debug)]
pub struct Clocks {
    library: &'static str,
    /// Holds a file for each process, which says how far its clock is off.
    folder: PathBuf,
}

impl Clocks {
    /// Clocks whose files are in `folder`, which exists. Errors: why there can be none.
    pub fn new(folder: PathBuf) -> Result<Self, String> {
        let library = LIBRARY.into_iter().find(|path| fs::exists(path).unwrap_or(false));
        let library = library.ok_or("libfaketime is not installed (Debian's package is faketime)")?;
        Ok(Self { library, folder })
    }

    /// What makes a process follow its clock.
    pub(crate) fn environment(&self, name: &str) -> Vec<(String, String)> {
        let file = self.folder.join(name);
        if !file.exists() {
            self.set(name, 0);
        }
        let file = file.display().to_string();
        let of = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        [
            ("LD_PRELOAD", self.library),
            ("FAKETIME_TIMESTAMP_FILE", &file),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_CACHE_DURATION", "1"),
        ]
        .map(of)
        .to_vec()
    }

    /// Sets the clock of a process ahead by so many seconds, or back; it follows within a second.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn set(&self, name: &str, ahead_seconds: i64) {
        // Replaced at once, so that nobody reads half of it.
        let (file, half) = (self.folder.join(name), self.folder.join(format!("{name}.new")));
        fs::write(&half, format!("{ahead_seconds:+}\n")).expect("the folder is writable");
        fs::rename(half, file).expect("the folder is writable");
    }
}
