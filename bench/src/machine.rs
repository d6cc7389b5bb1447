//! The machine that a figure belongs to, and keeping work on one core of it.

use std::{fs, io};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

use crate::error::BenchError;

/// What a figure depends on besides the code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    /// Name of the processor, or its architecture where the system does not tell.
    pub(crate) cpu: String,
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// Main memory.
    pub(crate) memory_bytes: u64,
    /// Release of the Linux kernel.
    pub(crate) kernel: String,
    /// Mode of transparent huge pages: `always`, `madvise`, `never`, or `unknown`.
    pub(crate) huge_pages: String,
}

impl Machine {
    /// This one.
    pub(crate) fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: cpu(&text("/proc/cpuinfo")),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_bytes(&text("/proc/meminfo")),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            huge_pages: chosen(&text("/sys/kernel/mm/transparent_hugepage/enabled")),
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let Self { cpu, cores, memory_bytes, kernel, huge_pages } = self;
        let gib = (memory_bytes + (1 << 29)) >> 30;
        format!("{cpu}, {cores} cores, {gib} GiB, Linux {kernel}, huge pages: {huge_pages}")
    }
}

fn cpu(cpuinfo: &str) -> String {
    let names = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let mut models = names.filter(|(key, _)| key.trim() == "model name").map(|(_, value)| value.trim().to_owned());
    models.next().unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn memory_bytes(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}

/// The word in brackets.
fn chosen(modes: &str) -> String {
    let word = modes.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    word.map_or("unknown", |(word, _)| word).to_owned()
}

/// Says so if something else runs here that would show in the figures: threads that wanted a core over the last minute.
pub(crate) fn warn_if_busy() {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Option<f64> = text.split_whitespace().next().and_then(|load| load.parse().ok());
    if let Some(load) = load.filter(|load| *load > BUSY_LOAD) {
        eprintln!(
            "warning: the load of this machine is {load}; figures of a busy machine say little, times least of all"
        );
    }
}

/// A load above it disturbs: builds take every core.
const BUSY_LOAD: f64 = 0.7;

/// The core that contenders take turns on: the last this process may use, for interrupts tend to the first.
pub(crate) fn measuring_core() -> Result<usize, BenchError> {
    let allowed = sched_getaffinity(None).map_err(|errno| BenchError::Pin { core: 0, source: errno.into() })?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|core| allowed.is_set(*core));
    last.ok_or_else(|| BenchError::Pin { core: 0, source: io::Error::other("no core is allowed") })
}

/// Keeps the thread that made it on one core until it is dropped.
pub(crate) struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// Binds the calling thread to `core`.
    pub(crate) fn to(core: usize) -> Result<Self, BenchError> {
        let failed = |errno: rustix::io::Errno| BenchError::Pin { core, source: errno.into() };
        let before = sched_getaffinity(None).map_err(failed)?;
        let mut only = CpuSet::new();
        only.set(core);
        sched_setaffinity(None, &only).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.before); // it was allowed before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_tells_is_understood() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nprocessor\t: 1\nmodel name\t: Other\n";
        assert_eq!(cpu(cpuinfo), "Some CPU @ 2 GHz");
        assert_eq!(cpu("processor : 0\n"), std::env::consts::ARCH, "ARM tells no model name");
        assert_eq!(memory_bytes("MemTotal:       24689464 kB\nMemFree: 1 kB\n"), 24_689_464 << 10);
        assert_eq!(memory_bytes(""), 0);
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(chosen(""), "unknown");
    }

    #[test]
    fn a_pinned_thread_runs_on_its_core_and_is_free_again() {
        let before = sched_getaffinity(None).expect("every thread has an affinity");
        let core = measuring_core().expect("some core is allowed");
        let pinned = Pinned::to(core).expect("an allowed core can be chosen");
        assert_eq!(sched_getaffinity(None).expect("as before").count(), 1);
        assert_eq!(measuring_core().expect("one core is allowed"), core);
        drop(pinned);
        assert_eq!(sched_getaffinity(None).expect("as before"), before);
    }
}
