//! How good a ranking is: recall against exact answers, and precision, MRR and nDCG against judgments.
//!
//! Pure functions over one query's ranking; averages are taken over queries by the caller.

use std::collections::{BTreeMap, BTreeSet};

use shoal_model::Metric;

/// How much further than the k-th true answer a hit may be and still count, relative to the scale of distances.
const TOLERANCE: f64 = 1e-6;

/// A point that a query returned.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ranked {
    /// Its number, if it has one; truth files name no others.
    pub(crate) number: Option<i64>,
    /// Its score.
    pub(crate) score: f32,
    /// Its name in the judgments.
    pub(crate) name: String,
}

/// The exact answer of one query.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Truth {
    /// Nearest first; negative where fewer points exist.
    pub(crate) ids: Vec<i64>,
    /// Their distances, or nothing where they are not known.
    pub(crate) distances: Vec<f32>,
}

/// Distance of a hit as truth files state it: 1 − cosine, −inner product, or the euclidean distance.
pub(crate) fn distance(metric: Metric, score: f32) -> f64 {
    match metric {
        Metric::Cosine => 1.0 - f64::from(score),
        Metric::Dot => -f64::from(score),
        Metric::Euclidean => f64::from(score),
    }
}

/// Share of the exact top `k` that was returned, or `None` where there is nothing to return.
///
/// If fewer than `k` points exist, it is the share of those. Where distances are known, a hit as near as the k-th true
/// one counts as well, so that ties may fall either way; never more hits than there are true ones.
pub(crate) fn recall(ranking: &[Ranked], truth: &Truth, k: usize, metric: Metric) -> Option<f64> {
    let wanted: BTreeSet<i64> = truth.ids.iter().take(k).copied().filter(|id| *id >= 0).collect();
    if wanted.is_empty() {
        return None;
    }
    let farthest = truth.distances.get(wanted.len() - 1).map(|distance| {
        let distance = f64::from(*distance);
        // A cosine's rounding does not shrink with the distance: its scale is 1.
        let scale = if metric == Metric::Cosine { 1.0 } else { distance.abs() };
        distance + TOLERANCE * scale
    });
    let counts = |hit: &&Ranked| {
        hit.number.is_some_and(|number| wanted.contains(&number))
            || farthest.is_some_and(|farthest| distance(metric, hit.score) <= farthest)
    };
    let found = first_of_each(ranking, k).filter(counts).count().min(wanted.len());
    Some(ratio(found, wanted.len()))
}

/// The first `k` hits without repetitions.
fn first_of_each(ranking: &[Ranked], k: usize) -> impl Iterator<Item = &Ranked> {
    let mut seen = BTreeSet::new();
    ranking.iter().filter(move |hit| seen.insert(&hit.name)).take(k)
}

/// Gains of the judged documents of one query.
pub(crate) type Gains = BTreeMap<String, f64>;

/// What judgments say about one ranking.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Judged {
    /// Relevant hits among the first `k`, of `k`.
    pub(crate) precision: f64,
    /// 1 / rank of the first relevant hit, 0 if it is not among the first `k`.
    pub(crate) mrr: f64,
    /// Gains discounted by the logarithm of the rank, of the best that could be had.
    pub(crate) ndcg: f64,
    /// Relevant hits among the first `k`, of all relevant documents.
    pub(crate) recall: f64,
}

/// Judges the first `k` of a ranking, or `None` if nothing is relevant to its query. A gain above 0 is relevant.
/// Linear gain, as in trec_eval.
pub(crate) fn judge(ranking: &[Ranked], gains: &Gains, k: usize) -> Option<Judged> {
    let mut ideal: Vec<f64> = gains.values().copied().filter(|gain| *gain > 0.0).collect();
    if ideal.is_empty() {
        return None;
    }
    ideal.sort_by(|a, b| b.total_cmp(a));
    let gained: Vec<f64> = first_of_each(ranking, k).map(|hit| gains.get(&hit.name).copied().unwrap_or(0.0)).collect();
    let relevant = gained.iter().filter(|gain| **gain > 0.0).count();
    let first = gained.iter().position(|gain| *gain > 0.0);
    let ideal_first = &ideal[..ideal.len().min(k)];
    Some(Judged {
        precision: ratio(relevant, k),
        mrr: first.map_or(0.0, |position| ratio(1, position + 1)),
        ndcg: discounted(&gained) / discounted(ideal_first),
        recall: ratio(relevant, ideal.len()),
    })
}

/// Sum of gains, each divided by log2(rank + 1).
#[allow(clippy::cast_precision_loss, reason = "ranks are small")]
fn discounted(gains: &[f64]) -> f64 {
    gains.iter().enumerate().map(|(i, gain)| gain / (i as f64 + 2.0).log2()).sum()
}

#[allow(clippy::cast_precision_loss, reason = "counts are small")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// The mean, or `None` of nothing.
#[allow(clippy::cast_precision_loss, reason = "counts are small")]
pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The value that a share of `sorted` values does not exceed (nearest rank), or `None` of nothing.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "ranks are small"
)]
pub(crate) fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranking(ids: &[i64]) -> Vec<Ranked> {
        ids.iter().map(|id| Ranked { number: Some(*id), score: 100.0, name: id.to_string() }).collect()
    }

    fn scored(hits: &[(i64, f32)]) -> Vec<Ranked> {
        hits.iter().map(|(id, score)| Ranked { number: Some(*id), score: *score, name: id.to_string() }).collect()
    }

    #[test]
    fn recall_is_the_share_of_the_exact_top_k() {
        let truth = |ids: &[i64]| Truth { ids: ids.to_vec(), distances: vec![] };
        for (name, got, want_ids, k, want) in [
            ("all", ranking(&[1, 2, 3]), truth(&[3, 2, 1]), 3, Some(1.0)),
            ("one of two", ranking(&[1, 9]), truth(&[1, 2]), 2, Some(0.5)),
            ("beyond k", ranking(&[9, 8, 1]), truth(&[1, 2, 3]), 2, Some(0.0)),
            ("true beyond k", ranking(&[3, 1]), truth(&[1, 2, 3]), 2, Some(0.5)),
            ("fewer exist", ranking(&[1, 2]), truth(&[2, 1, -1, -1]), 4, Some(1.0)),
            ("none exists", ranking(&[]), truth(&[-1, -1]), 2, None),
            ("nothing came", ranking(&[]), truth(&[1]), 1, Some(0.0)),
            ("one came twice", ranking(&[1, 1]), truth(&[1, 2]), 2, Some(0.5)),
        ] {
            assert_eq!(recall(&got, &want_ids, k, Metric::Cosine), want, "{name}");
        }
    }

    #[test]
    fn ties_may_fall_either_way() {
        let truth = Truth { ids: vec![1, 2, 3], distances: vec![1.0, 2.0, 2.0] };
        for (name, hits, metric, want) in [
            ("another of a tie", scored(&[(1, 1.0), (7, 2.0)]), Metric::Euclidean, 1.0),
            ("within rounding", scored(&[(1, 1.0), (7, 2.000_001)]), Metric::Euclidean, 1.0),
            ("farther", scored(&[(1, 1.0), (7, 2.000_01)]), Metric::Euclidean, 0.5),
            ("cosine", scored(&[(1, 0.0), (7, -1.0)]), Metric::Cosine, 1.0),
            ("dot", scored(&[(1, -1.0), (7, -2.0)]), Metric::Dot, 1.0),
            ("dot, farther", scored(&[(1, -1.0), (7, -2.1)]), Metric::Dot, 0.5),
        ] {
            assert_eq!(recall(&hits, &truth, 2, metric), Some(want), "{name}");
        }
    }

    #[test]
    fn judgments_are_counted_as_trec_eval_does() {
        let gains =
            |list: &[(&str, f64)]| list.iter().map(|(name, gain)| ((*name).to_owned(), *gain)).collect::<Gains>();
        let log = f64::log2;
        for (name, got, gains, k, want) in [
            ("perfect", ranking(&[1, 2]), gains(&[("1", 1.0), ("2", 1.0)]), 2, Some((1.0, 1.0, 1.0, 1.0))),
            ("second", ranking(&[9, 1]), gains(&[("1", 1.0)]), 2, Some((0.5, 0.5, 1.0 / log(3.0), 1.0))),
            ("beyond k", ranking(&[9, 8, 1]), gains(&[("1", 1.0)]), 2, Some((0.0, 0.0, 0.0, 0.0))),
            (
                "graded, in the wrong order",
                ranking(&[1, 2]),
                gains(&[("1", 1.0), ("2", 3.0)]),
                2,
                Some((1.0, 1.0, (1.0 + 3.0 / log(3.0)) / (3.0 + 1.0 / log(3.0)), 1.0)),
            ),
            ("more relevant than k", ranking(&[1]), gains(&[("1", 1.0), ("2", 1.0)]), 1, Some((1.0, 1.0, 1.0, 0.5))),
            ("fewer hits than k", ranking(&[1]), gains(&[("1", 1.0)]), 10, Some((0.1, 1.0, 1.0, 1.0))),
            ("judged irrelevant", ranking(&[1]), gains(&[("1", 0.0)]), 1, None),
            ("not judged", ranking(&[1]), gains(&[]), 1, None),
        ] {
            let want = want.map(|(precision, mrr, ndcg, recall)| Judged { precision, mrr, ndcg, recall });
            assert_eq!(judge(&got, &gains, k), want, "{name}");
        }
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        for (values, share, want) in [
            (&hundred[..], 0.5, Some(50.0)),
            (&hundred, 0.99, Some(99.0)),
            (&hundred, 1.0, Some(100.0)),
            (&hundred, 0.0, Some(1.0)),
            (&hundred[..1], 0.99, Some(1.0)),
            (&[], 0.5, None),
        ] {
            assert_eq!(percentile(values, share), want);
        }
        assert_eq!(mean(&[1.0, 2.0]), Some(1.5));
        assert_eq!(mean(&[]), None);
    }
}
