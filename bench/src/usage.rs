//! What a process has used, as Linux tells: time on cores by the names of its threads, and bytes written.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Sub;
use std::path::Path;

/// Since the process began, or between two moments.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Time on cores of all threads, those that have ended included.
    pub(crate) core_seconds: f64,
    /// That of the threads which are there, by the word that their names begin with.
    pub(crate) threads: BTreeMap<String, f64>,
    /// Bytes that went to disks, or will.
    pub(crate) written_bytes: f64,
}

impl Usage {
    /// That of a process so far; nothing if it is gone.
    pub(crate) fn of(process: u32) -> Self {
        let folder = format!("/proc/{process}");
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let mut threads: BTreeMap<String, f64> = BTreeMap::new();
        for thread in fs::read_dir(format!("{folder}/task")).into_iter().flatten().flatten() {
            let name = text(&thread.path().join("comm"));
            let seconds = seconds_scheduled(&text(&thread.path().join("schedstat")));
            *threads.entry(family(&name).to_owned()).or_default() += seconds;
        }
        let there: f64 = threads.values().sum();
        let whole = seconds_charged(&text(&Path::new(&folder).join("stat")));
        let written_bytes = written(&text(&Path::new(&folder).join("io")));
        Self { core_seconds: whole.max(there), threads, written_bytes }
    }

    /// Time on cores of a family of threads.
    pub(crate) fn of_threads(&self, family: &str) -> f64 {
        self.threads.get(family).copied().unwrap_or(0.0)
    }

    /// Both together.
    pub(crate) fn plus(mut self, other: &Self) -> Self {
        self.core_seconds += other.core_seconds;
        self.written_bytes += other.written_bytes;
        for (name, seconds) in &other.threads {
            *self.threads.entry(name.clone()).or_default() += seconds;
        }
        self
    }
}

impl Sub for &Usage {
    type Output = Usage;

    fn sub(self, before: Self) -> Usage {
        let spent = |(name, seconds): (&String, &f64)| {
            (name.clone(), (seconds - before.threads.get(name).copied().unwrap_or(0.0)).max(0.0))
        };
        Usage {
            core_seconds: self.core_seconds - before.core_seconds,
            threads: self.threads.iter().map(spent).collect(),
            written_bytes: self.written_bytes - before.written_bytes,
        }
    }
}

/// `rocksdb:low` and `rocksdb:high` are of one family, `build-0` and `build-1` of another.
fn family(name: &str) -> &str {
    name.trim().split([':', '-']).next().unwrap_or_default()
}

/// The first number of a thread's `schedstat`, in nanoseconds.
#[allow(clippy::cast_precision_loss, reason = "a hundred days fit")]
fn seconds_scheduled(schedstat: &str) -> f64 {
    let nanos = schedstat.split_whitespace().next().and_then(|first| first.parse::<u64>().ok());
    nanos.unwrap_or(0) as f64 / 1e9
}

/// User and system time of a process's `stat`, in ticks of Linux, which are of 10 ms for whoever reads them.
#[allow(clippy::cast_precision_loss, reason = "a number of ticks")]
fn seconds_charged(stat: &str) -> f64 {
    // The name, in brackets, may have spaces; the fields behind it are counted from 3.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let ticks = behind.split_whitespace().skip(14 - 3).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
    ticks.sum::<u64>() as f64 / 100.0
}

fn written(io: &str) -> f64 {
    let bytes = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    bytes.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_linux_tells_is_understood() {
        assert_eq!(
            [family("rocksdb:low\n"), family("build-3\n"), family("consensus\n")],
            ["rocksdb", "build", "consensus"]
        );
        assert!((seconds_scheduled("1500000000 7 3\n") - 1.5).abs() < 1e-9);
        let stat = "42 (a (b) c) S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 3 0 5";
        assert!((seconds_charged(stat) - 2.0).abs() < 1e-9);
        assert!((written("wchar: 5\nwrite_bytes: 4096\n") - 4_096.0).abs() < 1e-9);
        assert_eq!((seconds_scheduled(""), seconds_charged(""), written("")), (0.0, 0.0, 0.0));
    }

    #[test]
    fn time_on_cores_is_that_between_two_moments() {
        let before = Usage::of(std::process::id());
        let began = Instant::now();
        while began.elapsed().as_millis() < 100 {}
        let spent = &Usage::of(std::process::id()) - &before;
        assert!(spent.core_seconds > 0.01, "{spent:?}");
        assert!(spent.threads.values().sum::<f64>() > 0.01, "{spent:?}");
        assert_eq!(Usage::of(u32::MAX), Usage::default(), "nobody has that number");
    }
}
