//! A contender in a process of its own: started, asked in JSON lines, given up on when it dies or stays silent.
//!
//! The other side is `bench/peers/peer.py`, which also writes the protocol down.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value as Json, json};
use shoal_model::Metric;

use crate::contender::{Built, Found};
use crate::error::BenchError;
use crate::hnsw_rs;
use crate::npy;
use crate::set::{Set, Shared};
use crate::stopwatch::Elapsed;

/// What `--peers` takes, and the contenders that each stands for, the plainest first.
pub(crate) const PEERS: [(&str, &[&str]); 5] = [
    ("hnswlib", &["hnswlib"]),
    ("faiss", &["faiss"]),
    ("symqg", &["symqg", "symqg8"]),
    ("usearch", &["usearch"]),
    (hnsw_rs::NAME, &[hnsw_rs::NAME]),
];

/// Lines of what a peer printed that go into an error.
const PRINTED_LINES: usize = 12;

/// How long a peer may take over an answer. Generous: they are there to end a run that hangs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    pub(crate) answer: Duration,
    pub(crate) build: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { answer: Duration::from_secs(20 * 60), build: Duration::from_secs(4 * 3600) }
    }
}

/// A running peer, with the set loaded. Dropping it ends the process.
pub(crate) struct Peer {
    name: String,
    k: usize,
    queries: usize,
    deadlines: Deadlines,
    ids: PathBuf,
    printed: PathBuf,
    child: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Deserialize)]
struct BuildAnswer {
    seconds: f64,
    bytes: f64,
}

#[derive(Deserialize)]
struct SearchAnswer {
    seconds: f64,
}

#[derive(Deserialize)]
struct TimeAnswer {
    seconds: f64,
    core_seconds: f64,
}

/// The contenders behind the names given to `--peers`.
pub(crate) fn contenders(names: &[String]) -> Result<Vec<&'static str>, BenchError> {
    let known = || PEERS.map(|(name, _)| name).join(", ");
    let members = |name: &String| {
        let peer = PEERS.iter().find(|(listed, _)| listed == name);
        peer.map(|(_, members)| *members).ok_or_else(|| BenchError::UnknownPeer { name: name.clone(), known: known() })
    };
    let mut all = Vec::new();
    for member in names.iter().map(members).collect::<Result<Vec<_>, _>>()?.concat() {
        if !all.contains(&member) {
            all.push(member);
        }
    }
    Ok(all)
}

/// The process of a contender that `peer.py` knows.
pub(crate) fn command(python: &Path, shared: &Shared, contender: &str) -> Result<Command, BenchError> {
    let script = shared.scratch("peer.py");
    fs::write(&script, include_str!("../peers/peer.py"))
        .map_err(BenchError::io("write the peers' program to a temporary folder"))?;
    let mut command = Command::new(python);
    command.arg(script).arg(contender);
    Ok(command)
}

impl Peer {
    /// Starts the process and has it load the set.
    ///
    /// Errors: every kind that names a peer; so do all other calls.
    pub(crate) fn start(
        name: &str,
        mut command: Command,
        set: &Set,
        shared: &Shared,
        k: usize,
        deadlines: Deadlines,
    ) -> Result<Self, BenchError> {
        let printed = shared.scratch(&format!("{name}.stderr"));
        let log = File::create(&printed).map_err(BenchError::io("write to a temporary folder"))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let spawned = command.spawn();
        let program = || PathBuf::from(command.get_program());
        let mut child =
            spawned.map_err(|source| BenchError::PeerStart { peer: name.to_owned(), program: program(), source })?;
        let requests = child.stdin.take().expect("stdin was asked to be piped");
        let output = child.stdout.take().expect("stdout was asked to be piped");
        let (lines, answers) = sync_channel(1);
        let read = move || {
            for line in BufReader::new(output).lines() {
                // Bytes that are no text become a line that is no answer.
                let line = line.unwrap_or_else(|error| error.to_string());
                if lines.send(line).is_err() {
                    return;
                }
            }
        };
        let reader = Some(std::thread::spawn(read));
        let ids = shared.scratch(&format!("{name}.ids.npy"));
        let queries = set.queries.len();
        let name = name.to_owned();
        let mut peer = Self { name, k, queries, deadlines, ids, printed, child, requests, answers, reader };
        let metric = if set.metric == Metric::Dot { "dot" } else { "euclidean" };
        let load = json!({"op": "load", "base": shared.base(), "queries": shared.queries(), "metric": metric, "k": k});
        peer.ask::<IgnoredAny>("load", load)?;
        Ok(peer)
    }

    /// Builds its index of the set.
    pub(crate) fn build(&mut self, threads: usize, shared: &Shared) -> Result<Built, BenchError> {
        let scratch = shared.scratch(&format!("{}.index", self.name));
        let request = json!({"op": "build", "threads": threads, "scratch": scratch});
        let BuildAnswer { seconds, bytes } = self.ask("build", request)?;
        Ok(Built { seconds, bytes })
    }

    /// Keeps the process on one core from now on.
    pub(crate) fn pin(&mut self, core: usize) -> Result<(), BenchError> {
        self.ask::<IgnoredAny>("pin", json!({"op": "pin", "core": core})).map(drop)
    }

    /// Answers all queries once.
    pub(crate) fn search(&mut self, beam: usize) -> Result<Found, BenchError> {
        let SearchAnswer { seconds } = self.ask("search", json!({"op": "search", "beam": beam, "ids": self.ids}))?;
        let ids = npy::read_ids(&self.ids).map_err(|problem| self.garbage("search", &format!("ids: {problem}")))?;
        if (ids.len(), ids.columns()) != (self.queries, self.k) {
            let shape = format!("ids: {} × {}, not {} × {}", ids.len(), ids.columns(), self.queries, self.k);
            return Err(self.garbage("search", &shape));
        }
        Ok(Found { ids, seconds: self.elapsed("search", seconds)? })
    }

    /// Times answering all queries `passes` times, after the first `warm_up` of them once.
    pub(crate) fn time(&mut self, beam: usize, passes: usize, warm_up: usize) -> Result<Elapsed, BenchError> {
        let request = json!({"op": "time", "beam": beam, "passes": passes, "warm_up": warm_up});
        let TimeAnswer { seconds, core_seconds } = self.ask("time", request)?;
        Ok(Elapsed { seconds: self.elapsed("time", seconds)?, core_seconds: self.elapsed("time", core_seconds)? })
    }

    fn elapsed(&self, op: &'static str, seconds: f64) -> Result<f64, BenchError> {
        if seconds > 0.0 { Ok(seconds) } else { Err(self.garbage(op, &format!("{seconds} s"))) }
    }

    /// One request, one answer.
    #[allow(clippy::needless_pass_by_value, reason = "requests are written in place")]
    fn ask<T: DeserializeOwned>(&mut self, op: &'static str, request: Json) -> Result<T, BenchError> {
        let deadline = if op == "build" { self.deadlines.build } else { self.deadlines.answer };
        writeln!(self.requests, "{request}").map_err(|_| self.gone(op))?;
        let answer = self.answers.recv_timeout(deadline).map_err(|error| match error {
            RecvTimeoutError::Disconnected => self.gone(op),
            RecvTimeoutError::Timeout => {
                BenchError::PeerSilent { peer: self.name.clone(), op, seconds: deadline.as_secs() }
            }
        })?;
        let json = serde_json::from_str::<Json>(&answer).ok().filter(Json::is_object);
        let json = json.ok_or_else(|| self.garbage(op, &answer))?;
        if let Some(problem) = json["error"].as_str() {
            let (peer, printed) = (self.name.clone(), self.printed());
            return Err(BenchError::PeerFailed { peer, op, problem: problem.to_owned(), printed });
        }
        serde_json::from_value(json).map_err(|_| self.garbage(op, &answer))
    }

    fn gone(&self, op: &'static str) -> BenchError {
        BenchError::PeerGone { peer: self.name.clone(), op, printed: self.printed() }
    }

    fn garbage(&self, op: &'static str, answer: &str) -> BenchError {
        BenchError::PeerGarbage { peer: self.name.clone(), op, answer: answer.chars().take(200).collect() }
    }

    /// The end of what it wrote to standard error.
    fn printed(&self) -> String {
        let text = fs::read(&self.printed).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(PRINTED_LINES)..].join("\n")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may be gone already
        let _ = self.child.wait();
        // The reader ends when the process has closed its end of the pipe or, if lines wait there, when nobody listens.
        self.answers = sync_channel(0).1;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
mod tests;
