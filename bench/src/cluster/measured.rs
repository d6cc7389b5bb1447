//! What `bench cluster` found out, as rows and as a table.

use super::probe::Latencies;
use crate::report::{Better, Row, columns};

/// All that was found out.
#[derive(Default)]
pub(super) struct Measured {
    pub(super) in_process: Latencies,
    pub(super) wire: Latencies,
    pub(super) shards: Vec<OfShards>,
    /// At the pace of those below, beside nothing.
    pub(super) resting: Latencies,
    /// While all is written again, as fast as that goes, and until it is built.
    pub(super) reloading: Latencies,
    /// While points are written at a steady rate: searches beside no job, and beside one.
    pub(super) writing: Latencies,
    pub(super) building: Latencies,
}

/// Of a collection with so many shards.
#[derive(Default)]
pub(super) struct OfShards {
    pub(super) shards: u32,
    pub(super) recall: f64,
    pub(super) idle: Latencies,
}

impl Measured {
    /// Nothing yet, of collections with so many shards.
    pub(super) fn of(shards: &[u32]) -> Self {
        let of = |shards: &u32| OfShards { shards: *shards, ..OfShards::default() };
        Self { shards: shards.iter().map(of).collect(), ..Self::default() }
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        let millis = |name: String, latencies: &Latencies, share| {
            Row::new(name, latencies.millis_at(share), "ms", Better::Lower)
        };
        let mut rows = vec![
            millis("p99_ms_in_process".to_owned(), &self.in_process, 0.99),
            millis("p99_ms_wire".to_owned(), &self.wire, 0.99),
        ];
        let best = self.in_process.millis_at(0.99).zip(self.wire.millis_at(0.99)).map(|(a, b)| a + b);
        for OfShards { shards, recall, idle } in &self.shards {
            let recall = Row::new(format!("recall_{shards}_shards"), Some(*recall), "share", Better::Higher);
            rows.push(recall.expect(Some(0.97), None));
            rows.push(millis(format!("p50_ms_{shards}_shards"), idle, 0.5));
            rows.push(millis(format!("p99_ms_{shards}_shards"), idle, 0.99));
            let ratio = idle.millis_at(0.99).zip(best).map(|(ms, best)| ms / best);
            let name = format!("p99_ratio_{shards}_shards_to_in_process_and_wire");
            rows.push(Row::new(name, ratio, "ratio", Better::Lower).expect(None, Some(1.5)));
        }
        let idle = self.resting.millis_at(0.99);
        rows.push(millis("p99_ms_while_idle".to_owned(), &self.resting, 0.99));
        for (name, latencies, gate, goal) in [
            ("writing", &self.writing, None, None),
            ("building", &self.building, Some(2.0), Some(1.5)),
            ("reloading", &self.reloading, None, None),
        ] {
            rows.push(millis(format!("p99_ms_while_{name}"), latencies, 0.99));
            let ratio = latencies.millis_at(0.99).zip(idle).map(|(ms, idle)| ms / idle);
            let row = Row::new(format!("p99_ratio_while_{name}_to_idle"), ratio, "ratio", Better::Lower);
            rows.push(row.expect(gate, goal));
        }
        rows
    }

    pub(super) fn table(&self) -> String {
        let line = |name: String, recall: Option<f64>, latencies: &Latencies| {
            let ms = |share| latencies.millis_at(share).map_or_else(|| "–".to_owned(), |ms| format!("{ms:.2}"));
            let recall = recall.map_or_else(String::new, |recall| format!("{recall:.4}"));
            let searching = latencies.searching_millis_at(0.5).map_or_else(String::new, |ms| format!("{ms:.2}"));
            let searching_most = latencies.searching_millis_at(0.99).map_or_else(String::new, |ms| format!("{ms:.2}"));
            let times = [ms(0.5), ms(0.95), ms(0.99)];
            [vec![name, recall, latencies.len().to_string()], times.to_vec(), vec![searching, searching_most]].concat()
        };
        let mut lines =
            vec![line("in process".to_owned(), None, &self.in_process), line("the wire".to_owned(), None, &self.wire)];
        lines.extend(self.shards.iter().map(|of| line(format!("{} shards", of.shards), Some(of.recall), &of.idle)));
        lines.push(line("1 shard, every 10 ms".to_owned(), None, &self.resting));
        lines.push(line("1 shard, steady writes".to_owned(), None, &self.writing));
        lines.push(line("1 shard, beside a job".to_owned(), None, &self.building));
        lines.push(line("1 shard, a reload".to_owned(), None, &self.reloading));
        let heads = ["search", "recall", "searches", "p50 ms", "p95 ms", "p99 ms", "in node p50", "in node p99"];
        columns(&heads, lines, &[1, 2, 3, 4, 5, 6, 7])
    }
}
