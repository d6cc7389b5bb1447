//! What `shoal up` prints once the cluster has answered: questions, recall, addresses, what to type next.

use std::env;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use shoal_client::Hit;
use shoal_model::Value;

use super::cluster::Cluster;
use crate::args::Format;
use crate::eval::run::{Outcome, Summary};
use crate::failure::Failure;
use crate::json::id_to_text;
use crate::output::{self, columns, escaped};
use crate::sample::{self, Question};

/// Where commands look for a router.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7700);

/// Questions that are shown.
const QUESTIONS: usize = 5;
/// Names that are shown with each.
const NAMES: usize = 4;

/// Where a process is.
pub(crate) struct Address {
    /// Its name.
    pub(crate) name: String,
    /// Where it takes calls.
    pub(crate) url: String,
    /// Where it shows its metrics.
    pub(crate) metrics: String,
}

/// Where every process is, the router first.
pub(crate) fn addresses(cluster: &Cluster) -> Vec<Address> {
    let address = |process: &crate::process::Process| Address {
        name: process.name().to_owned(),
        url: process.url(),
        metrics: process.metrics_url(),
    };
    cluster.processes().map(address).collect()
}

/// Everything that is shown.
pub(crate) struct Shown<'a> {
    pub(crate) home: &'a Path,
    pub(crate) addresses: Vec<Address>,
    pub(crate) summary: Summary,
    pub(crate) outcomes: Vec<Outcome>,
    /// Why the known answers are not those to expect, if so.
    pub(crate) changed: Option<String>,
    /// Where the router was asked to listen.
    pub(crate) listen: SocketAddr,
    /// This program's file, if typing `shoal` would not find it.
    pub(crate) program: Option<PathBuf>,
    /// Whether the cluster stops now.
    pub(crate) once: bool,
}

impl Shown<'_> {
    /// Prints it on stdout.
    pub(crate) fn print(&self, format: Format) -> Result<(), Failure> {
        let questions = sample::questions()?;
        output::print(format, || self.text(&questions), || self.json())
    }

    fn text(&self, questions: &[Question]) -> String {
        let mut text = format!("\nquestions to the sample collection {}:\n", sample::NAME);
        let step = (questions.len() / QUESTIONS).max(1);
        for (question, outcome) in questions.iter().zip(&self.outcomes).step_by(step).take(QUESTIONS) {
            text += &format!("  {:?}\n      {}\n", question.text, names(outcome, &question.package));
        }
        text += "  (* the package that the question was written for)\n";
        text += &format!("\n{}\n\n", self.measured());
        let rows = self.addresses.iter().map(|a| vec![a.name.clone(), a.url.clone(), a.metrics.clone()]);
        text += &columns(&["process", "address", "metrics"], rows.collect(), &[]);
        text += &format!("\ndata in {}\n\n", self.home.display());
        text + &self.next()
    }

    /// What to type next.
    fn next(&self) -> String {
        let heading = if self.once { "next:" } else { "next, in another terminal:" };
        let mut text = format!("{heading}\n");
        if let Some(program) = &self.program {
            text += &format!("  alias shoal={}\n", program.display());
        }
        if self.once {
            let listen = if self.default_router() { String::new() } else { format!(" --listen {}", self.listen) };
            return text + &format!("  shoal up --data {}{listen}\n", self.home.display());
        }
        if !self.default_router() {
            let router = self.addresses.first().map_or("", |router| router.url.as_str());
            text += &format!("  export SHOAL_ENDPOINT={router}\n");
        }
        text + NEXT
    }

    /// Whether commands find the router without being told where it is.
    fn default_router(&self) -> bool {
        self.listen == DEFAULT_LISTEN
    }

    /// One line of what was measured.
    fn measured(&self) -> String {
        let summary = &self.summary;
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2} ms"));
        let latency = &summary.latency_ms;
        let recall = summary.recall.map_or("not measured".to_owned(), |recall| format!("{recall:.3}"));
        let mut line = format!(
            "recall@{} {recall} over {} exact queries, p50 {}, p99 {}",
            summary.k,
            summary.queries,
            ms(latency.p50),
            ms(latency.p99)
        );
        if summary.errors + summary.partial > 0 {
            line += &format!(", {} failed, {} in part", summary.errors, summary.partial);
        }
        if let Some(changed) = &self.changed {
            line += &format!("\n({changed})");
        }
        line
    }

    fn json(&self) -> Json {
        let address = |a: &Address| json!({ "process": a.name, "address": a.url, "metrics": a.metrics });
        json!({
            "collection": sample::NAME,
            "measured": self.summary,
            "changed": self.changed,
            "processes": self.addresses.iter().map(address).collect::<Vec<_>>(),
            "data": self.home,
        })
    }
}

/// This program's file, unless a shell would find it as `shoal`.
pub(crate) fn program_to_name() -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join("shoal")).find(|file| file.is_file());
    let same = found.and_then(|file| file.canonicalize().ok()) == program.canonicalize().ok();
    (!same).then_some(program)
}

const NEXT: &str = "  shoal status
  shoal search packages --like 17 --fields name,summary
  shoal search packages --like 17 --fields name,section --filter '{\"must\": [{\"key\": \"section\", \"match\": \"games\"}]}'
  shoal import NAME vectors.npy --payload docs.jsonl.gz --create --metric cosine
Ctrl-C here stops the cluster; its data stays
";

/// Names of the first hits, nearest first; a star marks the package that the question was written for.
fn names(outcome: &Outcome, package: &str) -> String {
    let name = |hit: &Hit| match hit.payload.get("name") {
        Some(Value::Text(name)) if name == package => format!("{}* {:.3}", escaped(name), hit.score),
        Some(Value::Text(name)) => format!("{} {:.3}", escaped(name), hit.score),
        _ => format!("{} {:.3}", escaped(&id_to_text(&hit.id)), hit.score),
    };
    match &outcome.answer {
        Ok(answer) => answer.hits.iter().take(NAMES).map(name).collect::<Vec<_>>().join(", "),
        Err(error) => format!("failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_client::{Answer, AnswerInfo, SearchWork};
    use shoal_model::{Metric, PointId};

    use crate::eval::run::Latency;

    #[test]
    fn the_screen_tells_what_was_found_and_what_to_type() {
        let hit = |name: &str, score| Hit {
            id: PointId::Number(1),
            score,
            vector: None,
            payload: [("name".to_owned(), Value::Text(name.into()))].into(),
        };
        let answer = Answer {
            hits: vec![hit("dosbox", 0.75), hit("dosemu", 0.5)],
            metric: Metric::Cosine,
            info: AnswerInfo::default(),
            work: SearchWork::default(),
        };
        let latency_ms = Latency { p50: Some(1.0), p99: Some(2.5), ..Latency::default() };
        let shown = Shown {
            home: Path::new("/data"),
            addresses: vec![Address {
                name: "router".into(),
                url: "http://127.0.0.1:7701".into(),
                metrics: "http://127.0.0.1:9/metrics".into(),
            }],
            summary: Summary { queries: 50, k: 10, recall: Some(1.0), latency_ms, ..Summary::default() },
            outcomes: vec![Outcome { answer: Ok(answer), latency_ms: 1.0 }],
            changed: None,
            listen: ([127, 0, 0, 1], 7701).into(),
            program: Some("/bin/shoal".into()),
            once: false,
        };
        let question = Question { text: "Run old DOS applications".into(), package: "dosbox".into() };
        let want = format!(
            "
questions to the sample collection packages:
  \"Run old DOS applications\"
      dosbox* 0.750, dosemu 0.500
  (* the package that the question was written for)

recall@10 1.000 over 50 exact queries, p50 1.00 ms, p99 2.50 ms

PROCESS  ADDRESS                METRICS
router   http://127.0.0.1:7701  http://127.0.0.1:9/metrics

data in /data

next, in another terminal:
  alias shoal=/bin/shoal
  export SHOAL_ENDPOINT=http://127.0.0.1:7701
{NEXT}"
        );
        assert_eq!(shown.text(&[question]), want);
        assert_eq!(shown.json()["measured"]["recall"], 1.0);
        let changed = Shown { changed: Some("packages was changed".into()), ..shown };
        assert!(changed.measured().ends_with("\n(packages was changed)"), "{}", changed.measured());
        assert_eq!(
            Shown { once: true, ..changed }.next(),
            "next:\n  alias shoal=/bin/shoal\n  shoal up --data /data --listen 127.0.0.1:7701\n",
        );
    }
}
