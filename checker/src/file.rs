//! Histories as files: a header line, then one JSON array a line for each operation, only ever appended.
//!
//! ```text
//! {"shoal_history":1}
//! [7,3,1000,1400,"ok",{"upsert":[[42,17],["text id",18]]}]
//! ```
//!
//! An array holds number, client, invoke, return (or null), outcome and call. Point ids are numbers, strings, or
//! `{"uuid":"32 hex digits"}`. Scores are the bits of the `f32`, because a decimal that is read back may round.
//!
//! A later line with the number of an earlier one replaces it: a recorder whose process may be killed writes each
//! write as unknown before it sends it, and again when the answer is there. What follows the last line break was
//! being written when the process died, and does not count.

use std::collections::HashMap;
use std::io::{self, BufRead, Write as Output};

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use shoal_model::PointId;

use crate::history::{Call, ClientId, FoundHit, Level, OpNumber, Operation, Outcome, Search, Write};

const FORMAT: u32 = 1;

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file itself.
    #[error("read history")]
    Io(#[from] io::Error),
    /// A whole line that is not one of ours.
    #[error("line {line} of the history")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Another format, or not a history.
    #[error("not a history of format {FORMAT}: it starts with {start:?}")]
    Format {
        /// The first line.
        start: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Header {
    shoal_history: u32,
}

/// Appends operations to a history. Buffering is the output's affair; a line is written at once.
#[derive(Debug)]
pub struct HistoryWriter<W> {
    output: W,
    line: Vec<u8>,
}

impl<W: Output> HistoryWriter<W> {
    /// Starts a history.
    pub fn new(mut output: W) -> io::Result<Self> {
        let mut line = serde_json::to_vec(&Header { shoal_history: FORMAT })?;
        line.push(b'\n');
        output.write_all(&line)?;
        Ok(Self { output, line })
    }

    /// Appends an operation, or what is now known of one that was appended before.
    pub fn append(&mut self, operation: &Operation) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, &Line::from(operation))?;
        self.line.push(b'\n');
        self.output.write_all(&self.line)
    }

    /// Hands what was appended to the operating system and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }
}

/// Reads a history line by line, so that it never has to be in memory as text.
#[derive(Debug)]
pub struct HistoryReader<R> {
    input: R,
    line: Vec<u8>,
    lines: u64,
    is_torn: bool,
}

impl<R: BufRead> HistoryReader<R> {
    /// Opens a history and checks its header. An empty file is an empty history.
    pub fn new(input: R) -> Result<Self, ReadError> {
        let mut reader = Self { input, line: Vec::new(), lines: 0, is_torn: false };
        if reader.next_line()? {
            let header: Option<Header> = serde_json::from_slice(&reader.line).ok();
            if header.is_none_or(|header| header.shoal_history != FORMAT) {
                let start = String::from_utf8_lossy(&reader.line[..reader.line.len().min(80)]).into_owned();
                return Err(ReadError::Format { start });
            }
        }
        Ok(reader)
    }

    /// Whether the file ended within a line; known once the last operation was read.
    pub fn is_torn(&self) -> bool {
        self.is_torn
    }

    fn next_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        self.input.read_until(b'\n', &mut self.line)?;
        let is_whole = self.line.ends_with(b"\n");
        self.is_torn |= !is_whole && !self.line.is_empty();
        self.lines += 1;
        Ok(is_whole)
    }

    fn read(&mut self) -> Result<Option<Operation>, ReadError> {
        if !self.next_line()? {
            return Ok(None);
        }
        let line: Line =
            serde_json::from_slice(&self.line).map_err(|e| ReadError::Line { line: self.lines, source: e })?;
        Ok(Some(line.into()))
    }
}

impl<R: BufRead> Iterator for HistoryReader<R> {
    type Item = Result<Operation, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Reads a whole history: each operation once, as it was last recorded, in the order of first mention.
pub fn read_history(input: impl BufRead) -> Result<Vec<Operation>, ReadError> {
    let mut operations: Vec<Operation> = Vec::new();
    let mut places: HashMap<OpNumber, usize> = HashMap::new();
    for operation in HistoryReader::new(input)? {
        let operation = operation?;
        match places.get(&operation.number) {
            Some(place) => operations[*place] = operation,
            None => {
                places.insert(operation.number, operations.len());
                operations.push(operation);
            }
        }
    }
    Ok(operations)
}

/// An operation as it stands in the file.
#[derive(Serialize, Deserialize)]
struct Line(u64, u64, u64, Option<u64>, LineOutcome, LineCall);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LineOutcome {
    Ok,
    Failed,
    Unknown,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum LineCall {
    Upsert(Vec<(Id, u64)>),
    Delete(Vec<Id>),
    Get { level: LineLevel, found: Vec<(Id, Option<u64>)> },
    Count { level: LineLevel, count: u64 },
    Scroll { level: LineLevel, points: Vec<(Id, u64)> },
    Search { level: LineLevel, query: u64, k: usize, filter: Option<u64>, exact: bool, hits: Vec<(Id, u32, u64)> },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum LineLevel {
    Linearizable,
    Session { own: bool, after: Vec<u64> },
    Eventual { staleness_ns: u64 },
}

impl From<&Operation> for Line {
    fn from(operation: &Operation) -> Self {
        let outcome = match operation.outcome {
            Outcome::Ok => LineOutcome::Ok,
            Outcome::Failed => LineOutcome::Failed,
            Outcome::Unknown => LineOutcome::Unknown,
        };
        let Operation { number, client, invoke_ns, return_ns, call, .. } = operation;
        Self(number.0, client.0, *invoke_ns, *return_ns, outcome, call.into())
    }
}

impl From<Line> for Operation {
    fn from(Line(number, client, invoke_ns, return_ns, outcome, call): Line) -> Self {
        let outcome = match outcome {
            LineOutcome::Ok => Outcome::Ok,
            LineOutcome::Failed => Outcome::Failed,
            LineOutcome::Unknown => Outcome::Unknown,
        };
        Self { number: OpNumber(number), client: ClientId(client), invoke_ns, return_ns, outcome, call: call.into() }
    }
}

impl From<&Call> for LineCall {
    fn from(call: &Call) -> Self {
        let written = |points: &[(PointId, Write)]| points.iter().map(|(id, w)| (Id(id.clone()), w.0)).collect();
        match call {
            Call::Upsert { points } => Self::Upsert(written(points)),
            Call::Delete { ids } => Self::Delete(ids.iter().cloned().map(Id).collect()),
            Call::Get { level, found } => Self::Get {
                level: level.into(),
                found: found.iter().map(|(id, write)| (Id(id.clone()), write.map(|w| w.0))).collect(),
            },
            Call::Count { level, count } => Self::Count { level: level.into(), count: *count },
            Call::Scroll { level, points } => Self::Scroll { level: level.into(), points: written(points) },
            Call::Search(search) => Self::Search {
                level: (&search.level).into(),
                query: search.query,
                k: search.k,
                filter: search.filter,
                exact: search.exact,
                hits: search.hits.iter().map(|h| (Id(h.id.clone()), h.score.to_bits(), h.write.0)).collect(),
            },
        }
    }
}

impl From<LineCall> for Call {
    fn from(call: LineCall) -> Self {
        let written = |points: Vec<(Id, u64)>| points.into_iter().map(|(id, write)| (id.0, Write(write))).collect();
        match call {
            LineCall::Upsert(points) => Self::Upsert { points: written(points) },
            LineCall::Delete(ids) => Self::Delete { ids: ids.into_iter().map(|id| id.0).collect() },
            LineCall::Get { level, found } => Self::Get {
                level: level.into(),
                found: found.into_iter().map(|(id, write)| (id.0, write.map(Write))).collect(),
            },
            LineCall::Count { level, count } => Self::Count { level: level.into(), count },
            LineCall::Scroll { level, points } => Self::Scroll { level: level.into(), points: written(points) },
            LineCall::Search { level, query, k, filter, exact, hits } => {
                let hit = |(id, bits, write): (Id, u32, u64)| FoundHit {
                    id: id.0,
                    score: f32::from_bits(bits),
                    write: Write(write),
                };
                let hits = hits.into_iter().map(hit).collect();
                Self::Search(Search { level: level.into(), query, k, filter, exact, hits })
            }
        }
    }
}

impl From<&Level> for LineLevel {
    fn from(level: &Level) -> Self {
        match level {
            Level::Linearizable => Self::Linearizable,
            Level::Session { own, after } => Self::Session { own: *own, after: after.iter().map(|n| n.0).collect() },
            Level::Eventual { staleness_ns } => Self::Eventual { staleness_ns: *staleness_ns },
        }
    }
}

impl From<LineLevel> for Level {
    fn from(level: LineLevel) -> Self {
        match level {
            LineLevel::Linearizable => Self::Linearizable,
            LineLevel::Session { own, after } => {
                Self::Session { own, after: after.into_iter().map(OpNumber).collect() }
            }
            LineLevel::Eventual { staleness_ns } => Self::Eventual { staleness_ns },
        }
    }
}

/// A point id as it stands in the file.
struct Id(PointId);

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            PointId::Number(number) => serializer.serialize_u64(*number),
            PointId::Text(text) => serializer.serialize_str(text),
            PointId::Uuid(uuid) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("uuid", &format!("{uuid:032x}"))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdVisitor)
    }
}

struct IdVisitor;

impl<'de> Visitor<'de> for IdVisitor {
    type Value = Id;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number, a string or {\"uuid\": \"32 hex digits\"}")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Id, E> {
        Ok(Id(PointId::Number(number)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Id, E> {
        Ok(Id(PointId::Text(text.into())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Id, A::Error> {
        let entry: Option<(String, String)> = map.next_entry()?;
        let (_, digits) = entry.filter(|(name, _)| name == "uuid").ok_or_else(|| de::Error::missing_field("uuid"))?;
        u128::from_str_radix(&digits, 16).map(|uuid| Id(PointId::Uuid(uuid))).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
