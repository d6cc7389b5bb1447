//! Errors, delays and a full disk, by command.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rustix::io::Errno;

use crate::LossyError;

/// What a process asks of the disk, as far as it can be told to fail or be slow.
///
/// Reads and writes are those that leave the kernel: it answers reads from its own cache if it can, and passes every
/// write on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Part of a file.
    Read,
    /// Part of a file; also its growth by `fallocate`.
    Write,
    /// `fsync` or `fdatasync` of a file.
    Fsync,
    /// `fsync` of a folder.
    FsyncDir,
    /// Of a file that is there.
    Open,
    /// Of a file.
    Create,
    /// Of a folder.
    Mkdir,
    /// Of a file or folder; named by what it is renamed from.
    Rename,
    /// Of a file or folder.
    Remove,
    /// Of a file, to any size.
    Truncate,
}

const OPS: [(Op, &str); 10] = [
    (Op::Read, "read"),
    (Op::Write, "write"),
    (Op::Fsync, "fsync"),
    (Op::FsyncDir, "fsyncdir"),
    (Op::Open, "open"),
    (Op::Create, "create"),
    (Op::Mkdir, "mkdir"),
    (Op::Rename, "rename"),
    (Op::Remove, "remove"),
    (Op::Truncate, "truncate"),
];

impl FromStr for Op {
    type Err = LossyError;

    fn from_str(text: &str) -> Result<Self, LossyError> {
        let found = OPS.iter().find(|(_, name)| *name == text);
        found.map(|(op, _)| *op).ok_or_else(|| LossyError::command(format!("no operation {text:?}")))
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = OPS.iter().find(|(op, _)| op == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// Operations that fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which operation.
    pub op: Op,
    /// On which paths from the root; `*` stands for any characters, slashes among them.
    pub pattern: String,
    /// Number of the error, as in `errno`.
    pub errno: i32,
    /// So many succeed first.
    pub after: u64,
    /// So many fail then; later ones succeed. None: all.
    pub times: Option<u64>,
}

impl Fault {
    /// Every `op` on `pattern` fails with `errno`.
    #[must_use]
    pub fn new(op: Op, pattern: &str, errno: i32) -> Self {
        Self { op, pattern: pattern.to_owned(), errno, after: 0, times: None }
    }

    fn hits(&self, op: Op, path: &str) -> bool {
        self.op == op && matches(&self.pattern, path)
    }

    /// Counts one operation and tells whether it fails.
    fn strike(&mut self) -> bool {
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        match &mut self.times {
            None => true,
            Some(0) => false,
            Some(times) => {
                *times -= 1;
                true
            }
        }
    }
}

/// All that is to go wrong.
#[derive(Default)]
pub(crate) struct Faults {
    rules: Vec<Fault>,
    delays: BTreeMap<Op, Duration>,
    is_full: bool,
    /// What is told to be free, if that is less than there is.
    room: Option<u64>,
    injected: u64,
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) {
        self.rules.push(fault);
    }

    pub(crate) fn set_delay(&mut self, op: Op, delay: Duration) {
        if delay.is_zero() {
            self.delays.remove(&op);
        } else {
            self.delays.insert(op, delay);
        }
    }

    pub(crate) fn set_full(&mut self, is_full: bool) {
        self.is_full = is_full;
    }

    pub(crate) fn set_room(&mut self, bytes: Option<u64>) {
        self.room = bytes;
    }

    /// Of so many free bytes, those that are told of.
    pub(crate) fn told_free(&self, bytes: u64) -> u64 {
        if self.is_full { 0 } else { self.room.map_or(bytes, |room| room.min(bytes)) }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self { injected: self.injected, ..Self::default() };
    }

    pub(crate) fn injected(&self) -> u64 {
        self.injected
    }

    pub(crate) fn delay(&self, op: Op) -> Option<Duration> {
        self.delays.get(&op).copied()
    }

    /// Whether paths matter now; to make one costs something.
    pub(crate) fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Counts the operation with every rule that it matches; the first that says so makes it fail.
    pub(crate) fn strike(&mut self, op: Op, path: &str) -> Result<(), Errno> {
        let mut errno = None;
        for rule in self.rules.iter_mut().filter(|rule| rule.hits(op, path)) {
            if rule.strike() {
                errno = errno.or(Some(rule.errno));
            }
        }
        self.injected += u64::from(errno.is_some());
        errno.map_or(Ok(()), |errno| Err(Errno::from_raw_os_error(errno)))
    }

    /// A full disk takes nothing that makes a file longer.
    pub(crate) fn check_growth(&mut self, size: u64, end: u64) -> Result<(), Errno> {
        if !self.is_full || end <= size {
            return Ok(());
        }
        self.injected += 1;
        Err(Errno::NOSPC)
    }
}

fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((start, rest)) => path.strip_prefix(start).is_some_and(|path| {
            let ends = path.char_indices().map(|(end, _)| end).chain([path.len()]);
            ends.into_iter().any(|end| matches(rest, &path[end..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, path, want) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*", "a/b", true),
            ("*.log", "db/000004.log", true),
            ("*.log", "db/LOG", false),
            ("db/*.log", "other/1.log", false),
            ("*b*c", "abbcbc", true),
            ("*b*c", "abbcb", false),
        ] {
            assert_eq!(matches(pattern, path), want, "{pattern} {path}");
        }
    }

    #[test]
    fn faults_count() {
        for (name, after, times, want) in [
            ("always", 0, None, [true, true, true, true]),
            ("after two", 2, None, [false, false, true, true]),
            ("the second only", 1, Some(1), [false, true, false, false]),
        ] {
            let mut faults = Faults::default();
            faults.add(Fault { after, times, ..Fault::new(Op::Fsync, "*.log", 5) });
            let got = want.map(|_| faults.strike(Op::Fsync, "1.log").is_err());
            assert_eq!(got, want, "{name}");
            assert!(faults.strike(Op::Read, "1.log").is_ok() && faults.strike(Op::Fsync, "x").is_ok(), "{name}");
        }
    }

    #[test]
    fn little_room_is_told_and_refuses_nothing() {
        let mut faults = Faults::default();
        faults.set_room(Some(7));
        assert_eq!((faults.told_free(100), faults.told_free(3)), (7, 3));
        assert!(faults.check_growth(10, 11).is_ok());
        faults.set_full(true);
        assert_eq!(faults.told_free(100), 0);
        faults.clear();
        assert_eq!(faults.told_free(100), 100);
    }

    #[test]
    fn a_full_disk_refuses_growth_only() {
        let mut faults = Faults::default();
        faults.set_full(true);
        assert!(faults.check_growth(10, 10).is_ok());
        assert_eq!(faults.check_growth(10, 11), Err(Errno::NOSPC));
        faults.clear();
        assert!(faults.check_growth(10, 11).is_ok());
        assert_eq!(faults.injected(), 1);
    }
}
