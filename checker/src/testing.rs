//! Histories for tables of tests, in short.
//!
//! ```text
//! put 1=17 @0-10      client wrote 17 to point 1 from 0 to 10, acknowledged
//! put 1=17 @0-?       outcome unknown          put 1=17 @0-10!     failed
//! del 1 @0-10         get 1=17,2=- @0-10       scroll 1=17 @0-10      count 3 @0-10
//! find 1=17,2=18 @0-10    hits in that order, k as many, score as `score` says; `exact` and `k=` may follow
//! ```
//!
//! After the times: `c3` the client (else each operation has its own), `~5` eventual within 5 ns, `own` session of
//! what the client completed, `after=1+2` session of those operations. Numbers count from 1.

use shoal_model::PointId;

use crate::history::{Call, ClientId, FoundHit, Level, OpNumber, Operation, Outcome, Search, Write};
use crate::ledger::Ledger;

/// Reads operations separated by `;`.
pub(crate) fn history(text: &str) -> Vec<Operation> {
    let lines = text.split(';').map(str::trim).filter(|line| !line.is_empty());
    lines.zip(1..).map(|(line, number)| operation(line, number)).collect()
}

/// The ledger of [`history`], each point a shard of its own.
pub(crate) fn ledger(text: &str) -> Ledger {
    Ledger::new(history(text), None).expect(text)
}

/// The score of a write for every query in tests.
#[allow(clippy::cast_precision_loss, reason = "small numbers")]
pub(crate) fn score(write: Write) -> f32 {
    write.0 as f32 / 8.0
}

fn operation(line: &str, number: u64) -> Operation {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [verb, what, times, options @ ..] = &words[..] else { panic!("{line}") };
    let (invoke_ns, return_ns, outcome) = interval(times);
    let option = |name: &str| options.iter().find_map(|option| option.strip_prefix(name));
    let level = if let Some(bound) = option("~") {
        Level::Eventual { staleness_ns: bound.parse().expect(line) }
    } else if option("own").is_some() || option("after=").is_some() {
        let after = option("after=").unwrap_or_default().split('+').filter(|number| !number.is_empty());
        let after = after.map(|number| OpNumber(number.parse().expect(line))).collect();
        Level::Session { own: option("own").is_some(), after }
    } else {
        Level::Linearizable
    };
    let call = match *verb {
        "put" => Call::Upsert { points: points(what) },
        "del" => Call::Delete { ids: pairs(what).map(|(id, _)| id).collect() },
        "get" => Call::Get { level, found: pairs(what).collect() },
        "count" => Call::Count { level, count: what.parse().expect(line) },
        "scroll" => Call::Scroll { level, points: points(what) },
        "find" => {
            let hits = points(what).into_iter().map(|(id, write)| FoundHit { id, score: score(write), write });
            let hits: Vec<FoundHit> = hits.collect();
            let k = option("k=").map_or(hits.len(), |k| k.parse().expect(line));
            let filter = option("filter=").map(|filter| filter.parse().expect(line));
            Call::Search(Search { level, query: 0, k, filter, exact: option("exact").is_some(), hits })
        }
        _ => panic!("{line}"),
    };
    let client = option("c").filter(|client| client.parse::<u64>().is_ok());
    let client = ClientId(client.map_or(1000 + number, |client| client.parse().expect(line)));
    Operation { number: OpNumber(number), client, invoke_ns, return_ns, outcome, call }
}

fn interval(times: &str) -> (u64, Option<u64>, Outcome) {
    let (from, to) = times.trim_start_matches('@').split_once('-').expect(times);
    let outcome = match to {
        "?" => Outcome::Unknown,
        to if to.ends_with('!') => Outcome::Failed,
        _ => Outcome::Ok,
    };
    (from.parse().expect(times), to.trim_end_matches('!').parse().ok(), outcome)
}

fn pairs(text: &str) -> impl Iterator<Item = (PointId, Option<Write>)> {
    text.split(',').filter(|pair| *pair != "none").map(|pair| {
        let (id, write) = pair.split_once('=').unwrap_or((pair, "-"));
        (PointId::Number(id.parse().expect(pair)), write.parse().ok().map(Write))
    })
}

fn points(text: &str) -> Vec<(PointId, Write)> {
    pairs(text).map(|(id, write)| (id, write.expect(text))).collect()
}
