//! What every bench ends with: figures under stable names, whether they meet their gates, and on which machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::error::BenchError;
use crate::machine::Machine;
use crate::set;

/// The whole of a run. As JSON it is the form that all benches share.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) bench: &'static str,
    /// Commit of the checkout it was built from, with `-dirty` behind it; `null` outside git.
    pub(crate) commit: Option<String>,
    pub(crate) machine: Machine,
    pub(crate) data: Vec<set::About>,
    pub(crate) rows: Vec<Row>,
    pub(crate) contenders: Vec<Standing>,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    /// Stays the same from run to run and from release to release.
    pub(crate) name: String,
    /// `None` if it could not be measured, such as throughput at a recall that was not reached.
    pub(crate) value: Option<f64>,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) gate: Option<f64>,
    pub(crate) goal: Option<f64>,
    /// `None` without a gate. A figure that could not be measured meets none.
    pub(crate) met_gate: Option<bool>,
    /// As `met_gate`.
    pub(crate) met_goal: Option<bool>,
}

/// Which way a figure improves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// How one contender did.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Standing {
    pub(crate) name: String,
    pub(crate) build_seconds: f64,
    pub(crate) bytes_per_vector: f64,
    /// Queries each second by recall, such as `0.95`; `null` where it was not reached.
    pub(crate) qps_at: BTreeMap<&'static str, Option<f64>>,
    /// Pairs of recall and queries each second, in the order they were measured.
    pub(crate) curve: Vec<[f64; 2]>,
}

impl Row {
    /// A figure that has to reach nothing.
    pub(crate) fn new(name: impl Into<String>, value: Option<f64>, unit: &'static str, better: Better) -> Self {
        Self { name: name.into(), value, unit, better, gate: None, goal: None, met_gate: None, met_goal: None }
    }

    /// The same figure with what it must reach, and what it should.
    #[must_use]
    pub(crate) fn expect(self, gate: Option<f64>, goal: Option<f64>) -> Self {
        let meets = |mark: f64| {
            self.value.is_some_and(|value| match self.better {
                Better::Higher => value >= mark,
                Better::Lower => value <= mark,
            })
        };
        let (met_gate, met_goal) = (gate.map(meets), goal.map(meets));
        Self { gate, goal, met_gate, met_goal, ..self }
    }
}

impl Report {
    /// Whether no gate is missed.
    pub(crate) fn gates_met(&self) -> bool {
        self.rows.iter().all(|row| row.met_gate != Some(false))
    }

    /// Writes it as one JSON object.
    pub(crate) fn write(&self, path: &Path) -> Result<(), BenchError> {
        let json = serde_json::to_string_pretty(self).expect("numbers and texts always have a JSON form");
        fs::write(path, json + "\n").map_err(BenchError::io(format!("write {}", path.display())))
    }

    /// The rows, for people.
    pub(crate) fn rows_table(&self) -> String {
        let mark = |mark: Option<f64>, met: Option<bool>| match (mark, met) {
            (Some(mark), Some(met)) => format!("{} {}", number(mark), if met { "met" } else { "MISSED" }),
            _ => String::new(),
        };
        let cells = |row: &Row| {
            let value = row.value.map_or_else(|| "not reached".to_owned(), number);
            let (gate, goal) = (mark(row.gate, row.met_gate), mark(row.goal, row.met_goal));
            vec![row.name.clone(), value, row.unit.to_owned(), gate, goal]
        };
        columns(&["figure", "value", "unit", "gate", "goal"], self.rows.iter().map(cells).collect(), &[1, 3, 4])
    }
}

/// Columns with a header; those in `right` are aligned to the right.
pub(crate) fn columns(header: &[&str], rows: Vec<Vec<String>>, right: &[usize]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    table.add_rows(rows);
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A figure with as many digits as mean something: `34,600`, `31.2`, `0.981`.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => thousands(&format!("{value:.0}")),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        // Of shares so near to all it is the rest that tells.
        size if size > 0.99 => format!("{value:.4}"),
        _ => format!("{value:.3}"),
    }
}

/// A comma before each third digit from the end.
fn thousands(digits: &str) -> String {
    let grouped = |(i, digit): (usize, char)| {
        let left = digits.len() - i;
        let comma = (i > 0 && left.is_multiple_of(3) && !digits[..i].ends_with('-')).then_some(',');
        comma.into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(grouped).collect()
}

/// Fails now if a file cannot be written, and not after the run that was to fill it.
pub(crate) fn check_writable(path: &Path) -> Result<(), BenchError> {
    let open = fs::OpenOptions::new().append(true).create(true).open(path);
    open.map(drop).map_err(BenchError::io(format!("write {}", path.display())))
}

/// The commit of the checkout that this was built from.
pub(crate) fn commit() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]);
    let output = git.stdin(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shoal_model::Metric;

    use super::*;

    fn report(rows: Vec<Row>) -> Report {
        let machine = Machine {
            cpu: "Some CPU".to_owned(),
            cores: 2,
            memory_bytes: 1 << 34,
            kernel: "6.1".to_owned(),
            huge_pages: "madvise".to_owned(),
        };
        let about = set::About {
            name: "line".to_owned(),
            metric: Metric::Euclidean,
            dim: 2,
            vectors: 10,
            queries: 1,
            quick: false,
        };
        let standing = Standing {
            name: "shoal".to_owned(),
            build_seconds: 1.5,
            bytes_per_vector: 64.0,
            qps_at: BTreeMap::from([("0.90", Some(9.0)), ("0.99", None)]),
            curve: vec![[0.9, 9.0]],
        };
        let commit = Some("abc".to_owned());
        Report { bench: "ann", commit, machine, data: vec![about], rows, contenders: vec![standing] }
    }

    #[test]
    fn json_has_the_form_that_all_benches_share() {
        let row = Row::new("qps_ratio_x_at_95", Some(4.5), "ratio", Better::Higher).expect(Some(4.0), None);
        let want = json!({
            "bench": "ann",
            "commit": "abc",
            "machine": {
                "cpu": "Some CPU", "cores": 2, "memory_bytes": 17_179_869_184_u64,
                "kernel": "6.1", "huge_pages": "madvise",
            },
            "data": [
                {"name": "line", "metric": "euclidean", "dim": 2, "vectors": 10, "queries": 1, "quick": false},
            ],
            "rows": [{
                "name": "qps_ratio_x_at_95", "value": 4.5, "unit": "ratio", "better": "higher",
                "gate": 4.0, "goal": null, "met_gate": true, "met_goal": null,
            }],
            "contenders": [{
                "name": "shoal", "build_seconds": 1.5, "bytes_per_vector": 64.0,
                "qps_at": {"0.90": 9.0, "0.99": null}, "curve": [[0.9, 9.0]],
            }],
        });
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("report.json");
        report(vec![row]).write(&path).expect("the temporary folder is writable");
        let text = fs::read_to_string(&path).expect("it was written");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("it is JSON"), want);
    }

    #[test]
    fn gates_are_met_from_the_right_side() {
        for (name, value, better, want) in [
            ("higher, above", Some(2.0), Better::Higher, true),
            ("higher, just there", Some(1.0), Better::Higher, true),
            ("higher, below", Some(0.9), Better::Higher, false),
            ("lower, below", Some(0.9), Better::Lower, true),
            ("lower, above", Some(2.0), Better::Lower, false),
            ("not measured", None, Better::Lower, false),
            ("not a number", Some(f64::NAN), Better::Lower, false),
        ] {
            let gated = Row::new(name, value, "ratio", better).expect(Some(1.0), None);
            assert_eq!((gated.met_gate, gated.met_goal), (Some(want), None), "{name}");
            assert_eq!(report(vec![gated]).gates_met(), want, "{name}");
            let wished = Row::new(name, value, "ratio", better).expect(None, Some(1.0));
            assert_eq!((wished.met_gate, wished.met_goal), (None, Some(want)), "{name}");
            assert!(report(vec![wished]).gates_met(), "a goal that is missed is no gate: {name}");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, want) in [
            (1_234_567.8, "1,234,568"),
            (34_567.0, "34,567"),
            (-1234.0, "-1,234"),
            (-123_456.0, "-123,456"),
            (999.7, "1000"),
            (31.24, "31.2"),
            (4.125, "4.12"),
            (0.9814, "0.981"),
            (0.0, "0.000"),
        ] {
            assert_eq!(number(value), want);
        }
    }
}
