//! Sends queries and measures what comes back.

use std::collections::BTreeMap;
use std::time::Instant;

use futures::{StreamExt as _, stream};
use serde::Serialize;
use shoal_client::{Answer, BatchSearch, Client, ClientError, Hit, SearchOptions, SearchWork};
use shoal_model::{Metric, PointId, Value};

use super::metrics::{Gains, Judged, Ranked, Truth, judge, mean, percentile, recall};
use crate::effort::Effort;
use crate::failure::Failure;
use crate::progress::Progress;

/// What to measure with.
pub(crate) struct Measurement<'a> {
    pub(crate) client: &'a Client,
    pub(crate) collection: &'a str,
    pub(crate) queries: &'a [Vec<f32>],
    /// Calls under way at once.
    pub(crate) concurrency: usize,
    /// Queries in one call.
    pub(crate) batch: usize,
    /// Payload field that names a point in judgments; its id where absent.
    pub(crate) doc_key: Option<&'a str>,
}

/// One query's outcome.
pub(crate) struct Outcome {
    /// The answer, or why there is none.
    pub(crate) answer: Result<Answer, ClientError>,
    /// Of its call, measured here, in milliseconds.
    pub(crate) latency_ms: f64,
}

/// What a run of all queries shows. Shares are 0 to 1; absent where nothing says what is right.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// Name of the filter, if any.
    pub(crate) filter: Option<String>,
    /// How hard the cluster was to look.
    #[serde(flatten)]
    pub(crate) effort: Effort,
    /// Queries in one call.
    pub(crate) batch: usize,
    /// Queries sent.
    pub(crate) queries: usize,
    /// Results asked for.
    pub(crate) k: usize,
    /// Share of the exact top k that was returned.
    pub(crate) recall: Option<f64>,
    /// Against judgments.
    pub(crate) precision: Option<f64>,
    /// Against judgments.
    pub(crate) mrr: Option<f64>,
    /// Against judgments.
    pub(crate) ndcg: Option<f64>,
    /// Share of what was judged relevant that was returned.
    pub(crate) judged_recall: Option<f64>,
    /// Queries answered in a second; absent where nobody took the time.
    pub(crate) qps: Option<f64>,
    /// Of queries that were answered.
    pub(crate) latency_ms: Latency,
    /// Steps through graphs, a query that was answered.
    pub(crate) hops: Option<f64>,
    /// Vectors compared, a query that was answered.
    pub(crate) distances: Option<f64>,
    /// Queries that failed.
    pub(crate) errors: usize,
    /// Queries whose answer lacked a shard.
    pub(crate) partial: usize,
    /// The first failure.
    pub(crate) first_error: Option<String>,
}

/// Latency in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) mean: Option<f64>,
    pub(crate) p50: Option<f64>,
    pub(crate) p95: Option<f64>,
    pub(crate) p99: Option<f64>,
}

/// What is right, by query; either may be missing.
#[derive(Clone, Copy, Default)]
pub(crate) struct Right<'a> {
    /// The exact answers.
    pub(crate) truth: Option<&'a [Truth]>,
    /// Judgments, with the names of the queries in them.
    pub(crate) judgments: Option<(&'a BTreeMap<String, Gains>, &'a [String])>,
}

impl Measurement<'_> {
    /// Sends every query once, in any order; outcomes are in the order of the queries.
    pub(crate) async fn run(&self, options: &SearchOptions, progress: &Progress) -> Vec<Outcome> {
        let ask = |queries| async move {
            let started = Instant::now();
            let answers = self.ask(queries, options).await;
            let latency_ms = started.elapsed().as_secs_f64() * 1000.0;
            answers.into_iter().map(move |answer| Outcome { answer, latency_ms })
        };
        let mut outcomes = Vec::with_capacity(self.queries.len());
        let mut answers = stream::iter(self.queries.chunks(self.batch)).map(ask).buffered(self.concurrency);
        while let Some(answered) = answers.next().await {
            outcomes.extend(answered);
            progress.set(outcomes.len() as u64);
        }
        outcomes
    }

    /// One call.
    async fn ask(&self, queries: &[Vec<f32>], options: &SearchOptions) -> Vec<Result<Answer, ClientError>> {
        if let [vector] = queries {
            return vec![self.client.search(self.collection, vector, options).await];
        }
        let search = |vector| BatchSearch { collection: self.collection, vector, options };
        let searches: Vec<_> = queries.iter().map(|vector| search(vector.as_slice())).collect();
        match self.client.search_batch(&searches).await {
            Ok(answers) => answers,
            Err(error) => vec![Err(error); queries.len()],
        }
    }

    /// Whether the judgments speak of the queries and of what they found at all. Where they do not, every figure would
    /// be 0 and say nothing.
    pub(crate) fn check_names(&self, outcomes: &[Outcome], right: Right<'_>) -> Result<(), Failure> {
        let Some((judgments, names)) = right.judgments else { return Ok(()) };
        if !names.iter().any(|name| judgments.contains_key(name)) {
            let problem = "the judgments name none of the queries";
            return Err(Failure::new(problem).next("give the names of the queries with --query-ids FILE:FIELD"));
        }
        let answers = outcomes.iter().filter_map(|outcome| outcome.answer.as_ref().ok());
        let hits: Vec<&Hit> = answers.flat_map(|answer| &answer.hits).collect();
        if hits.is_empty() {
            return Ok(()); // an empty collection has the ranking of one; failures are told elsewhere
        }
        if let Some(key) = self.doc_key.filter(|key| !hits.iter().any(|hit| hit.payload.contains_key(*key))) {
            let problem = format!("none of {} hits has the payload field {key:?}", hits.len());
            return Err(Failure::new(problem).next("name the field that holds the judged ids with --doc-key"));
        }
        let is_judged = |hit: &&Hit| judgments.values().any(|gains| gains.contains_key(&self.ranked(hit).name));
        if !hits.iter().any(is_judged) {
            let problem = format!("none of {} hits is named in the judgments", hits.len());
            return Err(Failure::new(problem).next("name the field that holds the judged ids with --doc-key"));
        }
        Ok(())
    }

    /// What the outcomes show.
    pub(crate) fn summarise(&self, outcomes: &[Outcome], k: usize, right: Right<'_>) -> Summary {
        let rankings: Vec<(Metric, Vec<Ranked>)> = outcomes.iter().map(|outcome| self.ranking(outcome)).collect();
        let mut latencies: Vec<f64> =
            outcomes.iter().filter(|outcome| outcome.answer.is_ok()).map(|outcome| outcome.latency_ms).collect();
        latencies.sort_by(f64::total_cmp);
        let judged = right.judgments.map(|judgments| judge_all(&rankings, judgments, k)).unwrap_or_default();
        let errors: Vec<&ClientError> = outcomes.iter().filter_map(|outcome| outcome.answer.as_ref().err()).collect();
        let is_partial =
            |outcome: &&Outcome| outcome.answer.as_ref().is_ok_and(|answer| !answer.info.coverage.is_full());
        let work = |count: fn(&SearchWork) -> u64| {
            let answers = outcomes.iter().filter_map(|outcome| outcome.answer.as_ref().ok());
            mean(&answers.map(|answer| count(&answer.work) as f64).collect::<Vec<_>>())
        };
        let of = |value: fn(&Judged) -> f64| mean(&judged.iter().map(value).collect::<Vec<_>>());
        Summary {
            batch: self.batch,
            queries: outcomes.len(),
            k,
            recall: right.truth.and_then(|truth| mean_recall(&rankings, truth, k)),
            precision: of(|judged| judged.precision),
            mrr: of(|judged| judged.mrr),
            ndcg: of(|judged| judged.ndcg),
            judged_recall: of(|judged| judged.recall),
            latency_ms: Latency {
                mean: mean(&latencies),
                p50: percentile(&latencies, 0.5),
                p95: percentile(&latencies, 0.95),
                p99: percentile(&latencies, 0.99),
            },
            hops: work(|work| work.hops),
            distances: work(|work| work.distances),
            errors: errors.len(),
            partial: outcomes.iter().filter(is_partial).count(),
            first_error: errors.first().map(|error| error.to_string()),
            ..Summary::default()
        }
    }

    /// The ranking of a query; an empty one if it failed.
    fn ranking(&self, outcome: &Outcome) -> (Metric, Vec<Ranked>) {
        match &outcome.answer {
            Err(_) => (Metric::Cosine, Vec::new()),
            Ok(answer) => (answer.metric, answer.hits.iter().map(|hit| self.ranked(hit)).collect()),
        }
    }

    fn ranked(&self, hit: &Hit) -> Ranked {
        let number = match hit.id {
            PointId::Number(number) => i64::try_from(number).ok(),
            PointId::Uuid(_) | PointId::Text(_) => None,
        };
        let name = match self.doc_key.map(|key| hit.payload.get(key)) {
            None => hit.id.to_string(),
            Some(Some(Value::Text(text))) => text.clone(),
            Some(Some(Value::Integer(integer))) => integer.to_string(),
            Some(_) => format!("unnamed {}", hit.id),
        };
        Ranked { number, score: hit.score, name }
    }
}

fn mean_recall(rankings: &[(Metric, Vec<Ranked>)], truth: &[Truth], k: usize) -> Option<f64> {
    let each = rankings.iter().zip(truth).filter_map(|((metric, ranking), truth)| recall(ranking, truth, k, *metric));
    mean(&each.collect::<Vec<_>>())
}

fn judge_all(
    rankings: &[(Metric, Vec<Ranked>)],
    (judgments, names): (&BTreeMap<String, Gains>, &[String]),
    k: usize,
) -> Vec<Judged> {
    let one = |((_, ranking), name): (&(Metric, Vec<Ranked>), &String)| judge(ranking, judgments.get(name)?, k);
    rankings.iter().zip(names).filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use shoal_client::{AnswerInfo, Coverage};
    use shoal_model::Payload;

    use crate::eval::inputs;

    fn measurement<'a>(client: &'a Client, doc_key: Option<&'a str>) -> Measurement<'a> {
        Measurement { client, collection: "c", queries: &[], concurrency: 1, batch: 1, doc_key }
    }

    fn outcome(hits: Vec<Hit>, latency_ms: f64, answered: u32) -> Outcome {
        let coverage = Coverage { shards_asked: 2, shards_answered: answered, gaps: vec![] };
        let info = AnswerInfo { coverage, ..AnswerInfo::default() };
        let work = SearchWork { hops: 30, distances: 40, ..SearchWork::default() };
        let answer = Answer { hits, metric: Metric::Cosine, info, work };
        Outcome { answer: Ok(answer), latency_ms }
    }

    fn hit(id: i64, score: f32, payload: Payload) -> Hit {
        Hit { id: PointId::Number(id.unsigned_abs()), score, vector: None, payload }
    }

    fn perfect(truth: &Truth) -> Vec<Hit> {
        let pairs = truth.ids.iter().zip(&truth.distances).filter(|(id, _)| **id >= 0);
        pairs.map(|(id, distance)| hit(*id, 1.0 - distance, Payload::new())).collect()
    }

    #[tokio::test]
    async fn summaries_count_what_failed_and_what_was_partial() {
        let client = Client::connect(&["http://127.0.0.1:1"]).expect("an address");
        let truth = vec![Truth { ids: vec![1, 2], distances: vec![] }; 4];
        let failed = Outcome { answer: Err(ClientError::Malformed("on purpose".into())), latency_ms: 900.0 };
        let full = |ms| outcome(vec![hit(1, 0.5, Payload::new()), hit(2, 0.4, Payload::new())], ms, 2);
        let outcomes = [full(1.0), full(3.0), outcome(vec![hit(1, 0.5, Payload::new())], 2.0, 1), failed];
        let right = Right { truth: Some(&truth), judgments: None };
        let summary = measurement(&client, None).summarise(&outcomes, 2, right);
        assert_eq!(summary.recall, Some((1.0 + 1.0 + 0.5 + 0.0) / 4.0), "a failed query has found nothing");
        assert_eq!((summary.queries, summary.errors, summary.partial), (4, 1, 1));
        assert_eq!(summary.latency_ms.p50, Some(2.0), "failures have no latency");
        assert_eq!((summary.hops, summary.distances), (Some(30.0), Some(40.0)), "failures have done no work");
        assert!(summary.first_error.is_some_and(|text| text.contains("on purpose")));
        assert_eq!(summary.ndcg, None, "nothing was judged");
    }

    #[tokio::test]
    async fn judgments_must_speak_of_what_was_asked_and_found() {
        let client = Client::connect(&["http://127.0.0.1:1"]).expect("an address");
        let judgments = BTreeMap::from([("q1".to_owned(), Gains::from([("d1".to_owned(), 1.0)]))]);
        let named = |text: &str| Payload::from([("doc".to_owned(), Value::Text(text.into()))]);
        let check = |key, query: &str, hits: Vec<Hit>| {
            let names = [query.to_owned()];
            let right = Right { truth: None, judgments: Some((&judgments, names.as_slice())) };
            let checked = measurement(&client, key).check_names(&[outcome(hits, 1.0, 2)], right);
            checked.map_err(|failure| failure.message)
        };
        assert_eq!(check(Some("doc"), "q1", vec![hit(1, 0.5, named("d1"))]), Ok(()));
        for (key, query, payload, want) in [
            (Some("doc"), "q1", Payload::new(), "none of 1 hits has the payload field \"doc\""),
            (Some("doc"), "q1", named("d2"), "none of 1 hits is named in the judgments"),
            (None, "q1", named("d1"), "none of 1 hits is named in the judgments"),
            (Some("doc"), "0", named("d1"), "the judgments name none of the queries"),
        ] {
            assert_eq!(check(key, query, vec![hit(1, 0.5, payload)]), Err(want.to_owned()), "{key:?}, query {query}");
        }
    }

    /// The sets beside the repository, if they are there.
    fn shared(set: &str) -> Option<std::path::PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(set);
        folder.is_dir().then_some(folder)
    }

    #[tokio::test]
    async fn exact_answers_reach_the_published_figures_of_scifact() {
        let Some(folder) = shared("scifact") else {
            eprintln!("skipped: ../shared/data/scifact is not here");
            return;
        };
        let file = |name: &str| folder.join(name);
        let truth =
            crate::eval::read_truth(&file("truth_ids.npy"), Some(&file("truth_dist.npy")), None, 300).expect("truth");
        let judgments = inputs::judgments(&file("qrels.tsv")).expect("judgments");
        let names =
            inputs::query_names(&format!("{}:query_id", file("queries.jsonl.gz").display()), 300).expect("names");
        let docs = inputs::query_names(&format!("{}:doc_id", file("docs.jsonl.gz").display()), 5_183).expect("docs");
        let outcomes: Vec<Outcome> = truth[0]
            .iter()
            .map(|truth| {
                let mut hits = perfect(truth);
                for found in &mut hits {
                    let PointId::Number(row) = found.id else { panic!("rows are numbers") };
                    let doc = docs[usize::try_from(row).expect("a row")].clone();
                    found.payload.insert("doc_id".to_owned(), Value::Text(doc));
                }
                outcome(hits, 1.0, 2)
            })
            .collect();
        let client = Client::connect(&["http://127.0.0.1:1"]).expect("an address");
        let right = Right { truth: Some(&truth[0]), judgments: Some((&judgments, &names)) };
        let at_10 = measurement(&client, Some("doc_id")).summarise(&outcomes, 10, right);
        let at_100 = measurement(&client, Some("doc_id")).summarise(&outcomes, 100, right);
        assert_eq!(at_10.recall, Some(1.0), "perfect answers have a recall of 1");
        for (name, got, want) in [
            ("nDCG@10", at_10.ndcg, 0.646),
            ("recall@10 of judged documents", at_10.judged_recall, 0.785),
            ("recall@100 of judged documents", at_100.judged_recall, 0.925),
        ] {
            let got = got.expect("judged");
            assert!((got - want).abs() <= 0.001, "{name} is {got:.4}, published is {want}");
        }
    }

    #[tokio::test]
    async fn exact_answers_reach_the_published_figures_of_debian_packages() {
        let Some(folder) = shared("debian-packages") else {
            eprintln!("skipped: ../shared/data/debian-packages is not here");
            return;
        };
        let file = |name: &str| folder.join(name);
        let filters = inputs::filters(&file("filters.json")).expect("filters");
        let (ids, distances) = (file("filtered_ids.npy"), file("filtered_dist.npy"));
        let filtered =
            crate::eval::read_truth(&ids, Some(&distances), Some(filters.len()), 495).expect("filtered truth");
        let client = Client::connect(&["http://127.0.0.1:1"]).expect("an address");
        for (filter, truth) in filters.iter().zip(&filtered) {
            let outcomes: Vec<Outcome> = truth.iter().map(|truth| outcome(perfect(truth), 1.0, 2)).collect();
            let right = Right { truth: Some(truth), judgments: None };
            let summary = measurement(&client, None).summarise(&outcomes, 100, right);
            assert_eq!(summary.recall, Some(1.0), "{}: rows padded with -1 count what there is", filter.name);
        }
        let truth = crate::eval::read_truth(&file("truth_ids.npy"), None, None, 495).expect("truth");
        let judgments = inputs::judgments(&file("qrels.tsv")).expect("judgments");
        let names: Vec<String> = (0..495).map(|row| row.to_string()).collect();
        let hits = |truth: &Truth| truth.ids.iter().map(|id| hit(*id, 0.0, Payload::new())).collect();
        let outcomes: Vec<Outcome> = truth[0].iter().map(|truth| outcome(hits(truth), 1.0, 2)).collect();
        let right = Right { truth: None, judgments: Some((&judgments, &names)) };
        let summary = measurement(&client, None).summarise(&outcomes, 10, right);
        for (name, got, want) in [("MRR@10", summary.mrr, 0.456), ("nDCG@10", summary.ndcg, 0.507)] {
            let got = got.expect("judged");
            assert!((got - want).abs() <= 0.001, "{name} is {got:.4}, published is {want}");
        }
    }
}
