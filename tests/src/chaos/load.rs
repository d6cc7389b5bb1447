//! A mixed load, open loop: operations begin at a steady pace, whatever became of those before.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use shoal_checker::history::{ClientId, Outcome, Write};
use shoal_model::{PointId, Token};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::transport::Channel;

use super::client::{Answer, Ask, Client, Freshness};
use super::recorder::Recorder;
use super::values::{GROUPS, Plan, id};

/// Clients of a collection at most; each has one operation under way.
const CLIENTS_MAX: u64 = 500;
/// Ids that get a third of the operations.
const HOT: u64 = 12;

/// A collection under load.
#[derive(Debug)]
pub(crate) struct Target {
    /// What it is.
    pub(crate) plan: Plan,
    /// Its history.
    pub(crate) recorder: Recorder,
    /// Clients with nothing under way. The one that came back last goes first, so that while all is well few clients do
    /// most, and their sessions see much.
    idle: Mutex<Vec<(ClientId, Token)>>,
}

impl Target {
    /// A collection with clients that have not asked anything.
    #[must_use]
    pub(crate) fn new(plan: Plan, recorder: Recorder) -> Self {
        let idle = (0..CLIENTS_MAX).rev().map(|client| (ClientId(client), Token::default())).collect();
        Self { plan, recorder, idle: Mutex::new(idle) }
    }

    /// One operation of one client, from its record to its record; `None` if all clients wait for answers.
    pub(crate) async fn ask(&self, routers: &[Channel], first: usize, ask: &Ask, tally: &Tally) -> Option<Outcome> {
        let (number, mut seen) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        let operation = self.recorder.begin(number, ask.call());
        let answer = Client { plan: &self.plan, routers, first, seen: &seen }.ask(ask).await;
        let outcome = match answer {
            Answer::Done(call, token) => {
                self.recorder.end(operation, Outcome::Ok, call);
                seen = seen.merge(&token);
                Outcome::Ok
            }
            Answer::Trouble(trouble) => {
                let outcome = if trouble.is_certain || !ask.is_write() { Outcome::Failed } else { Outcome::Unknown };
                self.recorder.end(operation, outcome, None);
                tally.trouble(trouble.text);
                outcome
            }
            // A read, as a write is answered by no more than a token: history cannot hold what it said.
            Answer::Wrong(text) => {
                let outcome = if ask.is_write() { Outcome::Unknown } else { Outcome::Failed };
                tally.wrong(format!("{}: operation {}: {text}", self.plan.name, operation.number));
                self.recorder.end(operation, outcome, None);
                outcome
            }
        };
        tally.count(ask, outcome);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((number, seen));
        Some(outcome)
    }
}

/// What is counted while it happens.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Acknowledged or answered.
    pub(crate) ok: AtomicU64,
    /// Without effect or answer.
    pub(crate) failed: AtomicU64,
    /// Of which it is not known.
    pub(crate) unknown: AtomicU64,
    /// Reads that were answered, and all reads.
    pub(crate) reads: [AtomicU64; 2],
    /// Not begun, as all clients waited.
    pub(crate) skipped: AtomicU64,
    troubles: Mutex<BTreeMap<String, u64>>,
    wrong: Mutex<Vec<String>>,
}

impl Tally {
    fn count(&self, ask: &Ask, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Ok => &self.ok,
            Outcome::Failed => &self.failed,
            Outcome::Unknown => &self.unknown,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if !ask.is_write() {
            self.reads[0].fetch_add(u64::from(outcome == Outcome::Ok), Ordering::Relaxed);
            self.reads[1].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn trouble(&self, text: String) {
        *self.troubles.lock().unwrap_or_else(PoisonError::into_inner).entry(text).or_default() += 1;
    }

    fn wrong(&self, text: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// Why operations were not answered, most frequent first.
    #[must_use]
    pub(crate) fn troubles(&self) -> Vec<(u64, String)> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let mut troubles: Vec<_> = troubles.iter().map(|(text, count)| (*count, text.clone())).collect();
        troubles.sort_by(|a, b| b.cmp(a));
        troubles
    }

    /// Answers that no state explains.
    #[must_use]
    pub(crate) fn wrong_answers(&self) -> Vec<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Begins `rate` operations a second until `stop`, then waits for those under way.
pub(crate) async fn run(
    targets: Arc<Vec<Target>>,
    routers: Arc<Vec<Channel>>,
    tally: Arc<Tally>,
    rate: u32,
    seed: u64,
    stop: Arc<AtomicBool>,
) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut pace = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    // What this machine could not begin in time is not made up for by a burst.
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut writes = 0;
    let mut under_way = JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        while under_way.try_join_next().is_some() {}
        // Half of it goes to the first, a third to the second.
        let place = [0, 0, 0, 1, 1, 2][random.random_range(0..6)].min(targets.len() - 1);
        let ask = draw(&mut random, &targets[place].plan, &mut writes);
        let (targets, routers, tally) = (targets.clone(), routers.clone(), tally.clone());
        let first = random.random_range(0..routers.len());
        under_way.spawn(async move {
            if targets[place].ask(&routers, first, &ask, &tally).await.is_none() {
                tally.skipped.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while under_way.join_next().await.is_some() {}
}

/// What a client does next. `writes` is the number of the last write.
fn draw(random: &mut StdRng, plan: &Plan, writes: &mut u64) -> Ask {
    let level = [Freshness::Linearizable, Freshness::Session, Freshness::Eventual][random.random_range(0..3)];
    match random.random_range(0..100) {
        0..34 => {
            let count = if random.random_bool(0.6) { 1 } else { random.random_range(2..6) };
            let mut write = || {
                *writes += 1;
                Write(*writes)
            };
            Ask::Upsert(ids(random, plan, count).into_iter().map(|id| (id, write())).collect())
        }
        34..42 => {
            let count = random.random_range(1..3);
            Ask::Delete(ids(random, plan, count))
        }
        42..70 => {
            let count = random.random_range(1..4);
            Ask::Get(level, ids(random, plan, count))
        }
        70..95 => {
            let group = random.random_bool(0.4).then(|| random.random_range(0..GROUPS));
            Ask::Search(level, random.random_range(0..1_000), group, random.random_bool(0.6))
        }
        95..98 => Ask::Count(level),
        _ => Ask::Scroll(level),
    }
}

/// Different ids.
fn ids(random: &mut StdRng, plan: &Plan, count: usize) -> Vec<PointId> {
    let mut numbers: Vec<u64> = Vec::new();
    while numbers.len() < count {
        let bound = if random.random_bool(0.33) { HOT } else { plan.ids };
        let number = random.random_range(0..bound);
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    numbers.into_iter().map(id).collect()
}
