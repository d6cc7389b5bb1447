//! What a run comes to in figures, from its histories and the times of its faults.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};
use shoal_checker::history::{Call, CallKind, Operation, Outcome};
use shoal_client::Collection;

use super::nemesis::Window;
use super::settle::shard_at;

/// A history with what it is of.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// The collection as it was laid out at the end.
    pub(crate) collection: Collection,
    /// Its history.
    pub(crate) operations: Vec<Operation>,
}

/// How long calls took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Latency {
    /// Calls that were answered.
    pub(crate) calls: u64,
    /// Half of them took no longer.
    pub p50: f64,
    /// All but one in a hundred took no longer.
    pub p99: f64,
    /// None took longer.
    pub(crate) max: f64,
}

/// Writes and reads.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Latencies {
    /// Of upserts and deletes.
    pub(crate) writes: Latency,
    /// Of the rest.
    pub(crate) reads: Latency,
}

/// A time in which a shard acknowledged no write.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outage {
    /// How long.
    pub(crate) seconds: f64,
    /// When it began, from the start of the run.
    pub(crate) from_seconds: f64,
    /// Which shard, in words.
    pub(crate) shard: String,
}

/// All faults of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct OfFault {
    /// How many.
    pub(crate) count: u64,
    /// How many processes they touched.
    pub(crate) processes: u64,
    /// The longest.
    pub(crate) outage: Outage,
}

/// All figures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// Seconds outside of faults.
    pub(crate) quiet_seconds: f64,
    /// Operations acknowledged or answered in each of them.
    pub(crate) quiet_per_second: f64,
    /// Outside of faults.
    pub(crate) quiet: Latencies,
    /// Inside.
    pub(crate) faulty: Latencies,
    /// By kind.
    pub(crate) faults: BTreeMap<&'static str, OfFault>,
    /// Outside of faults.
    pub(crate) quiet_outage: Outage,
    /// Of each kind and outcome.
    pub(crate) operations: BTreeMap<CallKind, [u64; 3]>,
}

impl Figures {
    /// From everything recorded between two times; faults are told with the time by which their traces should be gone.
    #[must_use]
    pub(crate) fn new(recorded: &[Recorded], windows: &[Window], from_ns: u64, to_ns: u64) -> Self {
        let spans = merged(windows.iter().map(|window| (window.from_ns, window.settled_ns().min(to_ns))));
        let overlaps = |from: u64, to: u64| spans.iter().any(|(start, end)| from < *end && *start < to);
        let mut figures = Self::default();
        let mut times: [[Vec<u64>; 2]; 2] = Default::default();
        let mut quiet_ok = 0_u64;
        for operation in recorded.iter().flat_map(|recorded| &recorded.operations) {
            figures.operations.entry(operation.call.kind()).or_default()[column(operation.outcome)] += 1;
            let Some(return_ns) = operation.return_ns.filter(|_| operation.is_ok()) else { continue };
            let faulty = overlaps(operation.invoke_ns, return_ns.max(operation.invoke_ns + 1));
            let write = operation.call.level().is_none();
            times[usize::from(faulty)][usize::from(write)].push(return_ns - operation.invoke_ns);
            quiet_ok += u64::from(!faulty && operation.invoke_ns >= from_ns && return_ns <= to_ns);
        }
        let [[mut quiet_reads, mut quiet_writes], [mut reads, mut writes]] = times;
        figures.quiet = Latencies { writes: latency(&mut quiet_writes), reads: latency(&mut quiet_reads) };
        figures.faulty = Latencies { writes: latency(&mut writes), reads: latency(&mut reads) };
        let faulty_ns: u64 =
            spans.iter().map(|(start, end)| end.min(&to_ns).saturating_sub(*start.max(&from_ns))).sum();
        figures.quiet_seconds = seconds((to_ns - from_ns).saturating_sub(faulty_ns));
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        let quiet_ok = quiet_ok as f64;
        figures.quiet_per_second = if figures.quiet_seconds > 0.0 { quiet_ok / figures.quiet_seconds } else { 0.0 };
        let acks = acknowledged(recorded);
        for window in windows {
            let of_kind = figures.faults.entry(window.kind).or_default();
            of_kind.count += 1;
            of_kind.processes += window.processes;
            of_kind.outage.take(longest(&acks, window.from_ns, window.settled_ns().min(to_ns)));
        }
        for (from, to) in between(&spans, from_ns, to_ns) {
            figures.quiet_outage.take(longest(&acks, from, to));
        }
        figures
    }

    /// As JSON.
    #[must_use]
    pub(crate) fn to_json(&self) -> Value {
        let latency = |l: &Latency| json!({"calls": l.calls, "p50_ms": l.p50, "p99_ms": l.p99, "max_ms": l.max});
        let both = |l: &Latencies| json!({"writes": latency(&l.writes), "reads": latency(&l.reads)});
        let fault = |(kind, OfFault { count, processes, outage }): (&&str, &OfFault)| {
            json!({
                "kind": kind, "count": count, "processes": processes,
                "write_outage_seconds_max": outage.seconds, "of_shard": outage.shard,
            })
        };
        let operations = |(kind, [ok, failed, unknown]): (&CallKind, &[u64; 3])| json!({"kind": kind.name(), "ok": ok, "failed": failed, "unknown": unknown});
        json!({
            "quiet_seconds": self.quiet_seconds,
            "quiet_operations_per_second": self.quiet_per_second,
            "quiet_write_outage_seconds_max": self.quiet_outage.seconds,
            "latency_outside_faults": both(&self.quiet),
            "latency_inside_faults": both(&self.faulty),
            "faults": self.faults.iter().map(fault).collect::<Vec<_>>(),
            "operations": self.operations.iter().map(operations).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<22}{:>8}{:>12}{:>28}", "fault", "times", "processes", "longest write outage, s")?;
        for (kind, OfFault { count, processes, outage: Outage { seconds, shard, .. } }) in &self.faults {
            writeln!(f, "{kind:<22}{count:>8}{processes:>12}{seconds:>28.2}  {shard}")?;
        }
        let Outage { seconds, shard, .. } = &self.quiet_outage;
        writeln!(f, "{:<22}{seconds:>48.2}  {shard}", "(none)")?;
        writeln!(f, "\n{:<22}{:>12}{:>12}{:>12}", "operation", "ok", "failed", "unknown")?;
        for (kind, [ok, failed, unknown]) in &self.operations {
            writeln!(f, "{:<22}{ok:>12}{failed:>12}{unknown:>12}", kind.name())?;
        }
        writeln!(f, "\n{:<22}{:>12}{:>12}{:>12}{:>12}", "latency, ms", "calls", "p50", "p99", "max")?;
        for (name, latency) in [
            ("writes, no fault", self.quiet.writes),
            ("writes, faults", self.faulty.writes),
            ("reads, no fault", self.quiet.reads),
            ("reads, faults", self.faulty.reads),
        ] {
            let Latency { calls, p50, p99, max } = latency;
            writeln!(f, "{name:<22}{calls:>12}{p50:>12.2}{p99:>12.2}{max:>12.2}")?;
        }
        writeln!(f, "\n{:.0} operations/s in {:.0} s outside of faults", self.quiet_per_second, self.quiet_seconds)
    }
}

fn column(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Ok => 0,
        Outcome::Failed => 1,
        Outcome::Unknown => 2,
    }
}

/// When each shard acknowledged a write.
fn acknowledged(recorded: &[Recorded]) -> BTreeMap<(String, u64), Vec<u64>> {
    let mut acks: BTreeMap<(String, u64), Vec<u64>> = BTreeMap::new();
    for Recorded { collection, operations } in recorded {
        let key = |shard| (collection.name.clone(), shard);
        acks.extend(collection.shards.iter().map(|shard| (key(shard.id), Vec::new())));
        for operation in operations.iter().filter(|operation| operation.is_ok()) {
            let ids: Vec<_> = match &operation.call {
                Call::Upsert { points } => points.iter().map(|(id, _)| id).collect(),
                Call::Delete { ids } => ids.iter().collect(),
                _ => continue,
            };
            for id in ids {
                acks.entry(key(shard_at(collection, id.hash()))).or_default().extend(operation.return_ns);
            }
        }
    }
    acks.values_mut().for_each(|acks| acks.sort_unstable());
    acks
}

impl Outage {
    /// Keeps the longer of two.
    fn take(&mut self, other: Self) {
        if other.seconds > self.seconds {
            *self = other;
        }
    }
}

/// The longest time between two others in which some shard acknowledged no write.
fn longest(acks: &BTreeMap<(String, u64), Vec<u64>>, from: u64, to: u64) -> Outage {
    let of = acks.iter().map(|(shard, acks)| (outage(acks, from, to), shard));
    let longest = of.max_by_key(|((outage, _), _)| *outage);
    longest.map_or_else(Outage::default, |((outage, from), (collection, shard))| Outage {
        seconds: seconds(outage),
        from_seconds: seconds(from),
        shard: format!("shard {shard} of {collection}"),
    })
}

/// The longest time between two others in which no acknowledgement came, and when it began.
fn outage(acks: &[u64], from: u64, to: u64) -> (u64, u64) {
    let within = &acks[acks.partition_point(|ack| *ack < from)..];
    let (mut longest, mut last) = ((0, from), from);
    for ack in within.iter().copied().take_while(|ack| *ack < to).chain([to]) {
        longest = longest.max((ack - last, last));
        last = ack;
    }
    longest
}

/// Overlapping spans as one.
fn merged(spans: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut spans: Vec<_> = spans.collect();
    spans.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (from, to) in spans {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// What lies between spans that do not overlap.
fn between(spans: &[(u64, u64)], from: u64, to: u64) -> Vec<(u64, u64)> {
    let starts = [from].into_iter().chain(spans.iter().map(|span| span.1));
    let ends = spans.iter().map(|span| span.0).chain([to]);
    starts.zip(ends).filter(|(start, end)| start < end).collect()
}

/// Of nanoseconds.
pub(crate) fn latency(times_ns: &mut [u64]) -> Latency {
    times_ns.sort_unstable();
    let at = |per_cent: usize| {
        let place = (times_ns.len() * per_cent).div_ceil(100).saturating_sub(1);
        times_ns.get(place).map_or(0.0, |time| seconds(*time) * 1_000.0)
    };
    Latency { calls: times_ns.len() as u64, p50: at(50), p99: at(99), max: at(100) }
}

#[allow(clippy::cast_precision_loss, reason = "a time to be shown")]
pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outages_are_counted_within_their_fault() {
        for (name, acks, want) in [
            ("steady", &[5, 10, 15, 20, 25, 30][..], (5, 15)),
            ("a gap within", &[5, 10, 18, 25, 30], (8, 10)),
            ("a gap that begins before", &[1, 18, 22, 30], (8, 10)),
            ("a gap that outlasts it", &[5, 10, 12, 90], (8, 12)),
            ("silence", &[], (10, 10)),
            ("silence after", &[1, 2], (10, 10)),
        ] {
            assert_eq!(outage(acks, 10, 20), want, "{name}");
        }
    }

    #[test]
    fn percentiles() {
        let mut times: Vec<u64> = (1..=200).map(|ms| ms * 1_000_000).collect();
        let latency = latency(&mut times);
        assert_eq!((latency.calls, latency.p50, latency.p99, latency.max), (200, 100.0, 198.0, 200.0));
    }

    #[test]
    fn spans_that_touch_are_one() {
        let spans = merged([(5, 9), (1, 3), (8, 12)].into_iter());
        assert_eq!(spans, [(1, 3), (5, 12)]);
        assert_eq!(between(&spans, 0, 20), [(0, 1), (3, 5), (12, 20)]);
        assert_eq!(between(&spans, 1, 12), [(3, 5)]);
    }
}
