//! What is asked of the index, as rows of the report.

use shoal_model::RECALL_TARGET_DEFAULT;

use super::sweep::Sweep;
use crate::contender::{Built, Contender};
use crate::curve::Curve;
use crate::peer::PEERS;
use crate::report::{Better, Row, Standing};

/// Recalls at which throughput is told: as a column says it, and as a number.
pub(super) const TARGETS: [(&str, f64); 3] = [("0.90", 0.90), ("0.95", 0.95), ("0.99", 0.99)];

/// A contender with all that was found out about it.
pub(super) struct Measured {
    name: &'static str,
    is_ours: bool,
    build_seconds: f64,
    bytes_per_vector: f64,
    sweep: Sweep,
}

/// What the ratio to a peer must be, and what it should be.
#[derive(Clone, Copy, Default)]
struct Marks {
    gate: Option<f64>,
    goal: Option<f64>,
}

/// Of throughput (at .95 and .99), build time and size.
#[derive(Clone, Copy, Default)]
struct Asked {
    qps: Marks,
    build: Marks,
    bytes: Marks,
}

/// What is asked of the ratios of ours to this peer.
fn asked(peer: &str) -> Asked {
    let marks = |gate, goal| Marks { gate, goal };
    match peer {
        "hnswlib" => Asked { qps: marks(Some(4.0), None), build: marks(Some(1.0), None), ..Asked::default() },
        "symqg" => Asked {
            qps: marks(Some(0.9), Some(1.1)),
            build: marks(None, Some(1.0)),
            bytes: marks(Some(1.0), Some(0.8)),
        },
        _ => Asked::default(),
    }
}

impl Measured {
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub(super) fn new(contender: &Contender, sweep: Sweep, vectors: usize) -> Self {
        let Built { seconds, bytes } = contender.built;
        let bytes_per_vector = bytes / vectors as f64;
        Self { name: contender.name, is_ours: contender.is_ours(), build_seconds: seconds, bytes_per_vector, sweep }
    }

    pub(super) fn curve(&self) -> &Curve {
        &self.sweep.curve
    }

    pub(super) fn sweep(&self) -> &Sweep {
        &self.sweep
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            name: self.name.to_owned(),
            build_seconds: self.build_seconds,
            bytes_per_vector: self.bytes_per_vector,
            qps_at: TARGETS.iter().map(|(label, recall)| (*label, self.curve().qps_at(*recall))).collect(),
            curve: self.curve().0.iter().map(|point| [point.recall, point.qps]).collect(),
        }
    }
}

/// The one of ours that gates are about: the first.
pub(super) fn ours(measured: &[Measured]) -> Option<&Measured> {
    measured.iter().find(|it| it.is_ours)
}

/// Our figures, then their ratios to each peer that took part.
///
/// A peer with several contenders counts with the best of them in throughput and build time, and with the plainest in
/// size.
pub(super) fn rows(measured: &[Measured]) -> Vec<Row> {
    let Some(ours) = ours(measured) else { return Vec::new() };
    let mut rows = own_rows(ours);
    for (peer, members) in PEERS {
        let members: Vec<&Measured> = measured.iter().filter(|it| members.contains(&it.name)).collect();
        rows.extend(rows_against(ours, peer, &members));
    }
    rows
}

/// How many times as many queries two threads answer as one. Time on the wall counts, so it takes an idle machine.
pub(super) fn thread_scaling(ratio: Option<f64>) -> Row {
    Row::new("thread_scaling", ratio, "ratio", Better::Higher).expect(Some(1.85), None)
}

/// The recall that searches get which want `wanted`. What is wanted by default is held against what users are told.
pub(super) fn recall_where_wanted(wanted: f64, recall: Option<f64>) -> Row {
    let row = Row::new(format!("recall_where_wanted_{wanted}"), recall, "share", Better::Higher);
    #[allow(clippy::float_cmp, reason = "the same constant")]
    let is_default = wanted == RECALL_TARGET_DEFAULT;
    row.expect(is_default.then_some(0.97), None)
}

fn own_rows(ours: &Measured) -> Vec<Row> {
    let qps = TARGETS.map(|(label, recall)| {
        Row::new(format!("qps_at_{}", percent(label)), ours.curve().qps_at(recall), "1/s", Better::Higher)
    });
    let mut rows = Vec::from(qps);
    rows.push(Row::new("build_seconds", Some(ours.build_seconds), "s", Better::Lower));
    rows.push(Row::new("bytes_per_vector", Some(ours.bytes_per_vector), "B", Better::Lower));
    rows
}

fn rows_against(ours: &Measured, peer: &str, members: &[&Measured]) -> Vec<Row> {
    let Some(plainest) = members.first() else { return Vec::new() };
    let asked = asked(peer);
    let mut rows = Vec::new();
    for (label, recall) in TARGETS {
        let theirs = members.iter().filter_map(|it| it.curve().qps_at(recall)).reduce(f64::max);
        let ratio = ours.curve().qps_at(recall).zip(theirs).map(|(ours, theirs)| ours / theirs);
        let marks = if recall >= 0.95 { asked.qps } else { Marks::default() };
        rows.push(ratio_row(format!("qps_ratio_{peer}_at_{}", percent(label)), ratio, Better::Higher, marks));
    }
    let build = members.iter().map(|it| it.build_seconds).fold(f64::INFINITY, f64::min);
    let build_ratio = Some(ours.build_seconds / build);
    rows.push(ratio_row(format!("build_ratio_{peer}"), build_ratio, Better::Lower, asked.build));
    let bytes_ratio = Some(ours.bytes_per_vector / plainest.bytes_per_vector);
    rows.push(ratio_row(format!("bytes_ratio_{peer}"), bytes_ratio, Better::Lower, asked.bytes));
    rows
}

fn ratio_row(name: String, ratio: Option<f64>, better: Better, Marks { gate, goal }: Marks) -> Row {
    Row::new(name, ratio, "ratio", better).expect(gate, goal)
}

/// `0.95` as names of rows have it: `95`.
fn percent(label: &str) -> &str {
    label.trim_start_matches("0.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curve::Point;

    /// A contender with this throughput at every recall up to `reach`.
    fn measured(name: &'static str, qps: f64, reach: f64, build_seconds: f64, bytes_per_vector: f64) -> Measured {
        let curve = Curve(vec![Point { recall: reach, qps }]);
        let is_ours = name.starts_with("shoal");
        Measured {
            name,
            is_ours,
            build_seconds,
            bytes_per_vector,
            sweep: Sweep { curve, spread: 0.0, core_share: 1.0 },
        }
    }

    fn find<'a>(rows: &'a [Row], name: &str) -> &'a Row {
        rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no row {name}"))
    }

    #[test]
    fn ratios_are_to_the_better_of_a_peers_contenders_and_bytes_to_the_plain_one() {
        let rows = rows(&[
            measured("shoal", 100.0, 0.999, 10.0, 300.0),
            measured("shoal-exact", 1.0, 1.0, 0.0, 100.0),
            measured("hnswlib", 20.0, 0.999, 20.0, 200.0),
            measured("symqg", 90.0, 0.999, 12.0, 300.0),
            measured("symqg8", 105.0, 0.96, 9.0, 150.0),
        ]);
        for (name, value, met_gate, met_goal) in [
            ("qps_at_95", 100.0, None, None),
            ("build_seconds", 10.0, None, None),
            ("bytes_per_vector", 300.0, None, None),
            ("qps_ratio_hnswlib_at_90", 5.0, None, None),
            ("qps_ratio_hnswlib_at_95", 5.0, Some(true), None),
            ("build_ratio_hnswlib", 0.5, Some(true), None),
            ("bytes_ratio_hnswlib", 1.5, None, None),
            ("qps_ratio_symqg_at_95", 100.0 / 105.0, Some(true), Some(false)),
            ("qps_ratio_symqg_at_99", 100.0 / 90.0, Some(true), Some(true)),
            ("build_ratio_symqg", 10.0 / 9.0, None, Some(false)),
            ("bytes_ratio_symqg", 1.0, Some(true), Some(false)),
        ] {
            let row = find(&rows, name);
            assert!(row.value.is_some_and(|got| (got - value).abs() < 1e-9), "{name}: {:?}", row.value);
            assert_eq!((row.met_gate, row.met_goal), (met_gate, met_goal), "{name}");
        }
        assert!(rows.iter().all(|row| !row.name.contains("faiss")), "a peer that did not take part has no rows");
    }

    #[test]
    fn a_recall_that_is_not_reached_misses_the_gate() {
        let rows = rows(&[measured("shoal", 100.0, 0.96, 1.0, 1.0), measured("hnswlib", 1.0, 0.999, 1.0, 1.0)]);
        assert_eq!(find(&rows, "qps_ratio_hnswlib_at_95").met_gate, Some(true));
        let missed = find(&rows, "qps_ratio_hnswlib_at_99");
        assert_eq!((missed.value, missed.met_gate), (None, Some(false)));
    }
}
