//! `shoal up`: a whole cluster in one process, with a sample collection and questions that it answers.

mod cluster;
mod home;
mod show;
mod supervise;

use std::time::{Duration, Instant};

use shoal_client::{Client, Collection, Consistency, NewCollection, SearchOptions};
use shoal_model::{Classify as _, ErrorKind, Filter, Limits};

use self::cluster::Cluster;
use self::home::Home;
use self::show::Shown;
use crate::args::{Format, UpArgs};
use crate::eval::run::{Measurement, Outcome, Right, Summary};
use crate::failure::{Exit, Failure};
use crate::import::load::Load;
use crate::progress::{Progress, counted, grouped, say};
use crate::{folders, sample, signals};

/// How long the cluster may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often it is asked whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Results that each sample query asks for.
const K: u32 = 10;

/// Runs `shoal up`.
pub(crate) async fn run(format: Format, args: &UpArgs) -> Result<(), Failure> {
    let folder = args.data.clone().map_or_else(folders::data, Ok)?;
    check_replicas(args.replicas, home::nodes_in(&folder, args.nodes))?;
    let mut home = Home::open(&folder, args.nodes)?;
    say(&format!(
        "starting 3 coordinators, {} and a router; data in {}",
        counted(home.nodes() as usize, "node"),
        home.path().display()
    ));
    if home.added() > 0 {
        say(&added(home.added()));
    }
    let mut cluster = tokio::select! {
        cluster = Cluster::start(&mut home, args.listen) => cluster?,
        () = signals::stop() => return Ok(()),
    };
    let addresses = show::addresses(&cluster);
    let result = tokio::select! {
        biased;
        () = signals::stop() => Ok(()),
        failure = until_failed(&mut cluster, args.once) => Err(failure),
        result = live(format, args, &mut home, addresses) => result,
    };
    say("shutting down: no new calls, open calls finish, logs are synced");
    let stopped = cluster.shut_down().await;
    result.and(stopped)
}

/// Refuses replicas of the sample collection that could not be placed, before anything is made or started for them.
fn check_replicas(replicas: u32, nodes: u32) -> Result<(), Failure> {
    let most = nodes.min(Limits::default().replicas_max);
    if replicas <= most {
        return Ok(());
    }
    let problem =
        format!("--replicas: {replicas} replicas of a shard are more than {most}, the most with {nodes} nodes");
    Err(Failure::new(problem).exit(Exit::Usage).next("ask for fewer replicas, or for more nodes with --nodes"))
}

/// What becomes of nodes that are added to a cluster with collections.
fn added(nodes: u32) -> String {
    let (nodes, verb, them) = match nodes {
        1 => ("1 node".to_owned(), "is", "It gets"),
        more => (format!("{more} nodes"), "are", "They get"),
    };
    format!(
        "{nodes} {verb} new. {them} replicas of collections that are created from now on; those of others stay where they are"
    )
}

/// Completes only if the cluster cannot go on. With `--once` that is as soon as any process cannot: whoever asks for one
/// round wants to know of it. Else what ends is started again.
async fn until_failed(cluster: &mut Cluster, once: bool) -> Failure {
    if once { cluster.failed().await } else { cluster.look_after().await }
}

/// Makes the cluster useful and shows it; then waits for ever, or ends after one round.
async fn live(format: Format, args: &UpArgs, home: &mut Home, addresses: Vec<show::Address>) -> Result<(), Failure> {
    let router = addresses.first().map(|router| router.url.clone()).unwrap_or_default();
    let client = Client::connect(&[&router])?.with_timeout(READY_WITHIN);
    ready(&client, home.nodes() as usize).await?;
    let changed = load_sample(&client, home, args.replicas).await?;
    let (summary, outcomes) = ask(&client, changed.is_none()).await?;
    let shown = Shown {
        home: home.path(),
        addresses,
        summary,
        outcomes,
        changed,
        listen: args.listen,
        program: show::program_to_name(),
        once: args.once,
    };
    shown.print(format)?;
    if args.once {
        return verdict(&shown.summary, shown.changed.as_deref());
    }
    std::future::pending().await
}

/// Waits until a coordinator leads and every node is alive.
async fn ready(client: &Client, nodes: usize) -> Result<(), Failure> {
    let started = Instant::now();
    loop {
        let status = client.status().await?;
        let alive = status.nodes.iter().filter(|node| node.alive).count();
        if alive >= nodes && status.coordinators.iter().any(|coordinator| coordinator.leader) {
            return Ok(());
        }
        if started.elapsed() >= READY_WITHIN {
            let problem = format!("{alive} of {nodes} nodes are alive after {READY_WITHIN:?}");
            return Err(Failure::new(problem).exit(Exit::Timeout).next("start again with SHOAL_LOG=info to see why"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Creates the sample collection and loads it, unless that was done before. A load that was cut short is continued;
/// what the user has changed since a whole one is left alone, and told.
async fn load_sample(client: &Client, home: &mut Home, replicas: u32) -> Result<Option<String>, Failure> {
    let rows = sample::rows()?;
    let total = rows.total().unwrap_or_default();
    let collection = find_or_create(client, rows.dim(), replicas).await?;
    let count = client.count(&collection.name, &Filter::default(), &Consistency::Linearizable).await?;
    if home.sample_is_loaded(collection.id) || count >= total {
        say(&format!("the sample collection {} is there with {} points", collection.name, grouped(count)));
        home.note_sample(collection.id)?;
        return Ok(difference(count, total));
    }
    let load = Load {
        client: client.with_timeout(shoal_client::DEFAULT_TIMEOUT),
        collection: collection.name.clone(),
        metric: sample::METRIC,
        batch: 256,
        concurrency: 4,
        limit: None,
        give_up_after: READY_WITHIN,
    };
    let progress = Progress::new(format!("loading {}", sample::NAME), "points", Some(total));
    let started = Instant::now();
    let loaded = load.run(rows, &progress, |_| Ok(())).await;
    progress.finish();
    let end = loaded?;
    say(&format!(
        "loaded {} points into {} in {:.1} s",
        grouped(end.rows),
        sample::NAME,
        started.elapsed().as_secs_f64()
    ));
    home.note_sample(collection.id)?;
    Ok(None)
}

/// What shows that the sample's known answers are no longer those of the collection.
fn difference(count: u64, total: u64) -> Option<String> {
    (count != total).then(|| {
        let (count, total) = (grouped(count), grouped(total));
        format!("{} was changed: it holds {count} points, the sample has {total}", sample::NAME)
    })
}

async fn find_or_create(client: &Client, dim: u32, replicas: u32) -> Result<Collection, Failure> {
    match client.describe_collection(sample::NAME).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let new = NewCollection { replicas, ..NewCollection::new(sample::NAME, dim, sample::METRIC) };
            Ok(client.create_collection(new).await?)
        }
        Err(error) => Err(error.into()),
        Ok(collection) if collection.dim == dim && collection.metric == sample::METRIC => Ok(collection),
        Ok(_) => Err(Failure::new(format!("the collection {} is not the sample", sample::NAME))
            .next("move it elsewhere, or start with another --data")),
    }
}

/// Asks the sample's questions, one after another, so that each latency is its own. `known` says whether the known
/// answers are those to expect.
async fn ask(client: &Client, known: bool) -> Result<(Summary, Vec<Outcome>), Failure> {
    let queries = sample::queries()?;
    let truth = sample::truth(queries.len())?;
    let measurement =
        Measurement { client, collection: sample::NAME, queries: &queries, concurrency: 1, batch: 1, doc_key: None };
    // The known answers are the exact ones, and so are these: what an index finds is for `shoal eval` to say.
    let options = SearchOptions { k: K, exact: true, payload_fields: vec!["name".to_owned()], ..Default::default() };
    let progress = Progress::new("asking", "queries", Some(queries.len() as u64));
    let outcomes = measurement.run(&options, &progress).await;
    progress.finish();
    let right = Right { truth: known.then_some(truth.as_slice()), judgments: None };
    Ok((measurement.summarise(&outcomes, K as usize, right), outcomes))
}

/// What `--once` promises: every query was answered in full, and every answer is the exact one.
fn verdict(summary: &Summary, changed: Option<&str>) -> Result<(), Failure> {
    if let Some(error) = &summary.first_error {
        return Err(Failure::new(format!(
            "{} of {} queries failed; the first: {error}",
            summary.errors, summary.queries
        )));
    }
    if summary.partial > 0 {
        let problem = format!("{} of {} answers lack a shard", summary.partial, summary.queries);
        return Err(Failure::new(problem).exit(Exit::Partial));
    }
    const ANEW: &str = "name a new folder with --data, or remove the collection and start again: it is loaded anew";
    if let Some(changed) = changed {
        return Err(Failure::new(format!("recall was not measured: {changed}")).next(ANEW));
    }
    match summary.recall {
        Some(recall) if recall >= 1.0 => Ok(()),
        recall => {
            let problem = format!("recall is {:.4}, must be 1", recall.unwrap_or(0.0));
            Err(Failure::new(problem).next(format!("if you have changed points of {}: {ANEW}", sample::NAME)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_cannot_be_placed_are_refused_at_once() {
        for (replicas, nodes, is_refused) in [(0, 1, false), (3, 3, false), (9, 3, true), (4, 3, true), (8, 9, true)] {
            let checked = check_replicas(replicas, nodes);
            assert_eq!(checked.is_err_and(|failure| failure.exit == Exit::Usage), is_refused, "{replicas} on {nodes}");
        }
        assert!(added(1).starts_with("1 node is new. It gets") && added(2).starts_with("2 nodes are new. They get"));
    }

    #[test]
    fn once_succeeds_only_with_exact_answers() {
        let right = Summary { queries: 50, recall: Some(1.0), ..Summary::default() };
        for (name, summary, want) in [
            ("exact", right.clone(), None),
            ("not exact", Summary { recall: Some(0.998), ..right.clone() }, Some(Exit::Failed)),
            ("unknown", Summary { recall: None, ..right.clone() }, Some(Exit::Failed)),
            ("partial", Summary { partial: 1, ..right.clone() }, Some(Exit::Partial)),
            ("failed", Summary { errors: 1, first_error: Some("why".into()), ..right }, Some(Exit::Failed)),
        ] {
            assert_eq!(verdict(&summary, None).err().map(|failure| failure.exit), want, "{name}");
        }
        assert_eq!(difference(5_000, 5_000), None);
        let changed = difference(4_999, 5_000).expect("a point is missing");
        let unmeasured = Summary { queries: 50, recall: None, ..Summary::default() };
        let failure = verdict(&unmeasured, Some(&changed)).expect_err("nothing was proved");
        assert!(failure.message.contains("not measured") && failure.message.contains("4,999"), "{failure}");
        assert_eq!(failure.exit, Exit::Failed);
    }
}
