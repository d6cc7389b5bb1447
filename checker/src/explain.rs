//! Operations as sentences and as a timeline, for the engineer who has to find out what went wrong.

use shoal_model::PointId;

use crate::history::{Call, Level, Operation, Outcome, Write};
use crate::ledger::{Ledger, Place};
use crate::register::{Action, Event};

/// Columns of the timeline between the first moment and the last.
const COLUMNS: usize = 60;

/// Seconds with all nine decimals.
pub(crate) fn time(ns: u64) -> String {
    format!("{}.{:09} s", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// `write 17`, or that there was nothing.
pub(crate) fn value(write: Option<Write>) -> String {
    write.map_or_else(|| "no point".to_owned(), |write| format!("write {write}"))
}

/// An operation with its client, times and outcome, after words for what it did.
pub(crate) fn sentence(operation: &Operation, did: &str) -> String {
    let Operation { number, client, invoke_ns, .. } = operation;
    let end = match (operation.outcome, operation.return_ns) {
        (Outcome::Ok, Some(at)) => format!("answered at {}", time(at)),
        (Outcome::Failed, _) => "failed".to_owned(),
        (_, Some(at)) => format!("given up at {}, outcome unknown", time(at)),
        (_, None) => "outcome unknown".to_owned(),
    };
    format!("operation {number}: client {client} {did}; invoked at {}, {end}", time(*invoke_ns))
}

/// What an operation is called when it is named alone.
pub(crate) fn name(operation: &Operation) -> String {
    sentence(operation, &format!("called {}", operation.call.kind().name()))
}

/// The events with what they did, in the order of invocation, and below that a timeline.
pub(crate) fn events(ledger: &Ledger, events: &[Event]) -> String {
    let mut sorted: Vec<&Event> = events.iter().collect();
    sorted.sort_by_key(|event| ledger.operations[event.place].invoke_ns);
    let mut text = String::new();
    for event in &sorted {
        let operation = &ledger.operations[event.place];
        text += &format!("    {}\n", sentence(operation, &did(operation, event.action)));
        text += &promise(ledger, operation, event);
    }
    text + &timeline(ledger, &sorted)
}

fn did(operation: &Operation, action: Action) -> String {
    match (action, &operation.call) {
        (Action::Write(write), _) => format!("upserted write {write}"),
        (Action::Delete, _) => "deleted the point".to_owned(),
        (Action::Read(found), Call::Get { .. }) => format!("read {}", value(found)),
        (Action::Read(found), call) => format!("saw {} in a {}", value(found), call.kind().name()),
    }
}

/// Of a read that may look back: how far.
fn promise(ledger: &Ledger, operation: &Operation, event: &Event) -> String {
    let numbers = |places: &[Place]| {
        places.iter().map(|place| ledger.operations[*place].number.to_string()).collect::<Vec<_>>().join(", ")
    };
    match operation.call.level() {
        None | Some(Level::Linearizable) => String::new(),
        Some(Level::Eventual { .. }) => format!("        it may show what was current since {}\n", time(event.start)),
        Some(Level::Session { .. }) if event.after.is_empty() => {
            format!("        its token lets it show what was current since {}\n", time(event.start))
        }
        Some(Level::Session { .. }) => {
            format!("        its token covers, of this point, operation {}\n", numbers(&event.after))
        }
    }
}

/// One row for each event, from invoke to return; `>` where the end is not known.
fn timeline(ledger: &Ledger, events: &[&Event]) -> String {
    let spans: Vec<(u64, Option<u64>)> = events.iter().map(|event| span(&ledger.operations[event.place])).collect();
    let first = spans.iter().map(|(start, _)| *start).min().unwrap_or(0);
    let last = spans.iter().map(|(start, end)| end.unwrap_or(*start)).max().unwrap_or(0);
    let column = |at: u64| {
        let share = u128::from(at - first) * (COLUMNS as u128 - 1) / u128::from((last - first).max(1));
        usize::try_from(share).unwrap_or(0)
    };
    let rows = events.iter().zip(&spans).map(|(event, (start, end))| {
        let operation = &ledger.operations[event.place];
        let label = format!("{} {}", operation.number, short(event.action));
        format!("    {label:<22} {}\n", bar(column(*start), end.map(column)))
    });
    format!("    {:<22} {} ... {}\n{}", "", time(first), time(last), rows.collect::<String>())
}

fn span(operation: &Operation) -> (u64, Option<u64>) {
    (operation.invoke_ns, operation.return_ns.filter(|_| operation.is_ok()))
}

fn short(action: Action) -> String {
    match action {
        Action::Write(write) => format!("upsert {write}"),
        Action::Delete => "delete".to_owned(),
        Action::Read(Some(write)) => format!("read {write}"),
        Action::Read(None) => "read nothing".to_owned(),
    }
}

fn bar(start: usize, end: Option<usize>) -> String {
    let blank = " ".repeat(start);
    match end {
        None => format!("{blank}|{}>", "-".repeat(COLUMNS - 1 - start)),
        Some(end) if end == start => format!("{blank}|"),
        Some(end) => format!("{blank}|{}|", "-".repeat(end - start - 1)),
    }
}

/// `point 42`.
pub(crate) fn point(id: &PointId) -> String {
    match id {
        PointId::Text(text) => format!("point {text:?}"),
        _ => format!("point {id}"),
    }
}
