//! Joining the top k of shards.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::{Metric, PointId};

/// Anything with a score and an id, so that one merge serves hits with and without payload.
pub trait Scored {
    /// The metric's quantity; which way it points is for [`Metric::compare`] to say.
    fn score(&self) -> f32;
    /// Id of the point, which breaks ties.
    fn id(&self) -> &PointId;
}

/// A point that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// Id of the point.
    pub id: PointId,
    /// The metric's quantity between query and point.
    pub score: f32,
}

impl Scored for Hit {
    fn score(&self) -> f32 {
        self.score
    }

    fn id(&self) -> &PointId {
        &self.id
    }
}

/// The nearest `k` of all `lists`: by score, ties by id, each id once (at its nearest score).
///
/// An id can come twice while a hash range moves between shards. The lists need not be sorted. Merging in
/// any grouping gives what merging at once gives.
#[must_use]
pub fn merge_top_k<T: Scored>(metric: Metric, k: usize, lists: Vec<Vec<T>>) -> Vec<T> {
    let mut all: Vec<T> = lists.into_iter().flatten().collect();
    all.sort_by(|a, b| nearest_first(metric, a, b));
    let mut seen = BTreeSet::new();
    let keep: Vec<bool> = all.iter().map(|hit| seen.len() < k && seen.insert(hit.id().clone())).collect();
    all.into_iter().zip(keep).filter_map(|(hit, keep)| keep.then_some(hit)).collect()
}

fn nearest_first<T: Scored>(metric: Metric, a: &T, b: &T) -> Ordering {
    metric.compare(a.score(), b.score()).then_with(|| a.id().cmp(b.id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(list: &[(u64, f32)]) -> Vec<Hit> {
        list.iter().map(|(id, score)| Hit { id: PointId::Number(*id), score: *score }).collect()
    }

    #[test]
    fn merge_is_by_score_then_id_without_repeats() {
        for (name, metric, k, lists, want) in [
            ("no shard answered", Metric::Dot, 2, vec![], hits(&[])),
            ("k beyond all", Metric::Dot, 9, vec![hits(&[(1, 0.5)]), hits(&[])], hits(&[(1, 0.5)])),
            (
                "ties by id",
                Metric::Cosine,
                3,
                vec![hits(&[(9, 0.5), (3, 0.1)]), hits(&[(2, 0.5)])],
                hits(&[(2, 0.5), (9, 0.5), (3, 0.1)]),
            ),
            (
                "one id on two shards",
                Metric::Euclidean,
                2,
                vec![hits(&[(1, 0.2), (5, 0.9)]), hits(&[(1, 0.1)])],
                hits(&[(1, 0.1), (5, 0.9)]),
            ),
        ] {
            assert_eq!(merge_top_k(metric, k, lists), want, "{name}");
        }
    }

    #[test]
    fn any_grouping_gives_the_same() {
        // A fixed walk through many small lists; no two runs differ.
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        for _ in 0..200 {
            #[allow(clippy::cast_precision_loss, reason = "small numbers")]
            let lists: Vec<Vec<Hit>> = (0..3)
                .map(|_| (0..next() % 6).map(|_| (next() % 10, (next() % 4) as f32)).collect::<Vec<_>>())
                .map(|list| hits(&list))
                .collect();
            let k = usize::try_from(next() % 5).unwrap_or(0);
            let at_once = merge_top_k(Metric::Dot, k, lists.clone());
            let [a, b, c] = <[Vec<Hit>; 3]>::try_from(lists).expect("three lists");
            let stepwise = merge_top_k(Metric::Dot, k, vec![a, merge_top_k(Metric::Dot, k, vec![b, c])]);
            assert_eq!(at_once, stepwise);
        }
    }
}
