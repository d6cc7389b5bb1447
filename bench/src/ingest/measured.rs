//! What `bench ingest` found out, as rows and as tables.

use super::fresh::Fresh;
use super::load::Loaded;
use crate::report::{Better, Row, columns, number};
use crate::spread::{Spread, millis};
use crate::usage::Usage;

/// What the load of a run cost.
#[derive(Debug, Default)]
pub(super) struct Cost {
    pub(super) clients: Usage,
    pub(super) router: Usage,
    pub(super) nodes: Usage,
    pub(super) coordinators: Usage,
    /// Syncs of all nodes, and how long they took together.
    pub(super) syncs: f64,
    pub(super) sync_seconds: f64,
}

/// One run: a new cluster, loaded, and built to the end.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) replicas: u32,
    pub(super) nodes: usize,
    pub(super) points: usize,
    pub(super) loaded: Loaded,
    pub(super) cost: Cost,
    /// Of what nodes build, from the first write until all is built.
    pub(super) build_cpu_seconds: f64,
    /// How long that took after the last write.
    pub(super) settled_seconds: f64,
    /// Points that were built.
    pub(super) points_built: u64,
    /// Beside nothing, beside a steady load, and beside the load that was measured.
    pub(super) fresh_idle: Fresh,
    pub(super) fresh_loaded: Fresh,
    pub(super) fresh_full: Fresh,
}

/// Takes a figure from a run.
type Figure<'a> = &'a dyn Fn(&Run) -> f64;

/// Threads of a node, by the first word of their names, and what they do.
const THREADS: [(&str, &str); 4] = [
    ("tokio", "calls, Raft's messages, applying"),
    ("consensus", "Raft, writing and syncing the log"),
    ("rocksdb", "flushes and compactions"),
    ("build", "builds and merges, with what is left of the cores"),
];

#[allow(clippy::cast_precision_loss, reason = "counts of points")]
impl Run {
    fn rate(&self) -> f64 {
        self.points as f64 / self.loaded.seconds
    }

    fn micros_per_vector(&self, seconds: f64) -> f64 {
        seconds * 1e6 / self.points as f64
    }

    /// Time on cores that the load itself took, everywhere; builds beside it have what nobody else wants.
    fn core_micros(&self) -> f64 {
        let Cost { clients, router, nodes, coordinators, .. } = &self.cost;
        let parts = [clients, router, nodes, coordinators].map(|usage| usage.core_seconds);
        self.micros_per_vector(parts.iter().sum::<f64>() - nodes.of_threads("build"))
    }

    fn written_bytes_per_vector(&self) -> f64 {
        self.cost.nodes.written_bytes / self.points as f64
    }

    fn syncs_per_second(&self) -> f64 {
        self.cost.syncs / self.nodes as f64 / self.loaded.seconds
    }

    fn sync_millis(&self) -> f64 {
        self.cost.sync_seconds * 1e3 / self.cost.syncs
    }

    fn build_micros(&self) -> f64 {
        self.build_cpu_seconds * 1e6 / self.points_built as f64
    }

    /// Time on cores by who spent it, in microseconds a vector.
    fn stages(&self) -> Vec<(String, f64)> {
        let Cost { clients, router, nodes, coordinators, .. } = &self.cost;
        let mut stages = vec![
            ("clients".to_owned(), clients.core_seconds),
            ("router".to_owned(), router.core_seconds),
            ("coordinators".to_owned(), coordinators.core_seconds),
        ];
        stages.extend(THREADS.map(|(family, what)| (format!("nodes: {what}"), nodes.of_threads(family))));
        let known: f64 = THREADS.iter().map(|(family, _)| nodes.of_threads(family)).sum();
        stages.push(("nodes: other threads".to_owned(), (nodes.core_seconds - known).max(0.0)));
        stages.into_iter().map(|(stage, seconds)| (stage, self.micros_per_vector(seconds))).collect()
    }

    /// One line, as soon as it is over.
    pub(super) fn line(&self) -> String {
        let [rate, core, build] = [self.rate(), self.core_micros(), self.build_cpu_seconds].map(number);
        format!("{rate} vectors/s, {core} µs of cores a vector, {build} s of cores for builds")
    }
}

/// All runs.
pub(super) struct Measured(pub(super) Vec<Run>);

impl Measured {
    fn of(&self, replicas: u32) -> impl Iterator<Item = &Run> + Clone {
        self.0.iter().filter(move |run| run.replicas == replicas)
    }

    fn spread(&self, replicas: u32, figure: impl Fn(&Run) -> f64) -> Spread {
        self.of(replicas).map(figure).collect()
    }

    fn fresh(&self, replicas: u32, times: impl Fn(&Run) -> &Vec<std::time::Duration>) -> Spread {
        let all: Vec<_> = self.of(replicas).flat_map(|run| times(run).clone()).collect();
        millis(&all)
    }

    /// The figures of the report.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (replicas, gate) in [(1, 20_000.0), (3, 8_000.0)] {
            let row = |name: &str, unit, better, figure: Figure<'_>| {
                self.spread(replicas, figure).row(format!("{name}_rf{replicas}"), unit, better)
            };
            let acknowledged = |share| move |run: &Run| millis(&run.loaded.acknowledged).at(share).unwrap_or(f64::NAN);
            rows.push(row("ingest_per_second", "vectors/s", Better::Higher, &Run::rate).expect(Some(gate), None));
            rows.push(row("ingest_core_us", "µs/vector", Better::Lower, &Run::core_micros));
            rows.push(row("acknowledged_ms_p50", "ms", Better::Lower, &acknowledged(0.5)));
            rows.push(row("acknowledged_ms_p99", "ms", Better::Lower, &acknowledged(0.99)));
            rows.push(row("syncs_per_second_of_node", "1/s", Better::Lower, &Run::syncs_per_second));
            rows.push(row("sync_ms_mean", "ms", Better::Lower, &Run::sync_millis));
            rows.push(row("written_bytes", "bytes/vector", Better::Lower, &Run::written_bytes_per_vector));
            rows.push(row("build_core_us", "µs/vector", Better::Lower, &Run::build_micros));
        }
        let builds = |replicas| self.spread(replicas, Run::build_micros).median();
        let ratio = builds(3).zip(builds(1)).map(|(three, one)| three / one);
        rows.push(Row::new("build_cpu_ratio_rf3_to_rf1", ratio, "ratio", Better::Lower).expect(Some(1.2), None));
        for (name, times) in self.fresh_times(3) {
            let p99 = Row::new(format!("{name}_ms_p99"), times.at(0.99), "ms", Better::Lower);
            rows.push(p99.expect(Some(50.0), Some(5.0)));
        }
        rows
    }

    fn fresh_times(&self, replicas: u32) -> [(&'static str, Spread); 6] {
        [
            ("found_session_idle", self.fresh(replicas, |run| &run.fresh_idle.session)),
            ("found_eventual_idle", self.fresh(replicas, |run| &run.fresh_idle.eventual)),
            ("found_session_loaded", self.fresh(replicas, |run| &run.fresh_loaded.session)),
            ("found_eventual_loaded", self.fresh(replicas, |run| &run.fresh_loaded.eventual)),
            ("found_session_full", self.fresh(replicas, |run| &run.fresh_full.session)),
            ("found_eventual_full", self.fresh(replicas, |run| &run.fresh_full.eventual)),
        ]
    }

    /// Median, least and most of all runs.
    pub(super) fn table(&self) -> String {
        let figures: [(&str, Figure<'_>); 8] = [
            ("vectors a second", &Run::rate),
            ("time on cores, µs a vector, builds aside", &Run::core_micros),
            ("acknowledged, p50, ms", &|run| millis(&run.loaded.acknowledged).at(0.5).unwrap_or(f64::NAN)),
            ("acknowledged, p99, ms", &|run| millis(&run.loaded.acknowledged).at(0.99).unwrap_or(f64::NAN)),
            ("syncs a second, of a node", &Run::syncs_per_second),
            ("a sync, mean, ms", &Run::sync_millis),
            ("written, bytes a vector, all nodes", &Run::written_bytes_per_vector),
            ("until all was built, s", &|run| run.settled_seconds),
        ];
        let line = |name: &str, figure: Figure<'_>| {
            let of = |replicas| self.spread(replicas, figure).cells();
            [vec![name.to_owned()], of(1).to_vec(), of(3).to_vec()].concat()
        };
        let mut lines: Vec<_> = figures.iter().map(|(name, figure)| line(name, figure)).collect();
        lines.push(line("builds, µs of cores a vector", &Run::build_micros));
        columns(&["rf 1, then rf 3", "median", "min", "max", "median", "min", "max"], lines, &[1, 2, 3, 4, 5, 6])
    }

    /// Where the time on cores goes.
    pub(super) fn stages_table(&self) -> String {
        let names: Vec<String> =
            self.0.first().map(Run::stages).unwrap_or_default().into_iter().map(|(name, _)| name).collect();
        let line = |(at, name): (usize, &String)| {
            let of = |replicas| self.spread(replicas, |run| run.stages()[at].1).cells();
            [vec![name.clone()], of(1).to_vec(), of(3).to_vec()].concat()
        };
        let lines = names.iter().enumerate().map(line).collect();
        let heads = ["µs of cores a vector", "rf 1", "min", "max", "rf 3", "min", "max"];
        columns(&heads, lines, &[1, 2, 3, 4, 5, 6])
    }

    /// How soon points are found.
    pub(super) fn fresh_table(&self) -> String {
        let mut lines = Vec::new();
        for replicas in [1, 3] {
            for (name, times) in self.fresh_times(replicas) {
                let cell = |share| times.at(share).map_or_else(|| "–".to_owned(), number);
                let what = format!("rf {replicas}: {}", name.replace('_', " "));
                lines.push(vec![what, times.len().to_string(), cell(0.5), cell(0.95), cell(0.99), cell(1.0)]);
            }
        }
        let heads = ["ms from acknowledgement", "reads", "p50", "p95", "p99", "max"];
        columns(&heads, lines, &[1, 2, 3, 4, 5])
    }
}
