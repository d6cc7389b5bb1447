//! Recall, and throughput at a recall: one set of rules for every contender.

use crate::npy::Matrix;

/// What one setting of a contender reaches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// Share of the exact nearest that was found, 0 to 1.
    pub(crate) recall: f64,
    /// Queries answered each second.
    pub(crate) qps: f64,
}

/// What a contender reaches over its settings, in the order they were tried.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Curve(pub(crate) Vec<Point>);

/// Share of the `k` nearest by `truth` that are among `found`, over all queries.
///
/// A row of `found` holds ids in any order; an id that stands there twice counts once, −1 is nobody's.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(crate) fn recall(truth: &Matrix<i64>, found: &Matrix<i64>, k: usize) -> f64 {
    assert_eq!(truth.len(), found.len(), "an answer to each query");
    let hits = |(truth, found): (&[i64], &[i64])| truth[..k].iter().filter(|id| found.contains(id)).count();
    let hits: usize = truth.rows().zip(found.rows()).map(hits).sum();
    hits as f64 / (truth.len() * k) as f64
}

impl Curve {
    /// The points that no other point beats in both recall and throughput, by rising recall.
    pub(crate) fn envelope(&self) -> Vec<Point> {
        let mut points = self.0.clone();
        points.sort_by(|a, b| b.recall.total_cmp(&a.recall).then(b.qps.total_cmp(&a.qps)));
        let mut fastest = 0.0;
        points.retain(|point| {
            let stands = point.qps > fastest;
            fastest = f64::max(fastest, point.qps);
            stands
        });
        points.reverse();
        points
    }

    /// Throughput at a recall of at least `target`; `None` if no setting reaches it.
    ///
    /// Between two points of the envelope the logarithm of the throughput is linear in the recall. A contender whose
    /// every setting finds more than `target` has the throughput of its fastest.
    pub(crate) fn qps_at(&self, target: f64) -> Option<f64> {
        let envelope = self.envelope();
        let above = envelope.iter().position(|point| point.recall >= target)?;
        let Some(below) = above.checked_sub(1) else { return Some(envelope[above].qps) };
        let (a, b) = (envelope[below], envelope[above]);
        let share = (target - a.recall) / (b.recall - a.recall);
        Some((a.qps.ln() + share * (b.qps.ln() - a.qps.ln())).exp())
    }
}

/// The middle value; of an even number the mean of the two in the middle. `None` of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.len() / 2;
    match sorted.len() % 2 {
        _ if sorted.is_empty() => None,
        0 => Some(f64::midpoint(sorted[upper - 1], sorted[upper])),
        _ => Some(sorted[upper]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn curve(points: &[(f64, f64)]) -> Curve {
        Curve(points.iter().map(|(recall, qps)| Point { recall: *recall, qps: *qps }).collect())
    }

    #[test]
    fn recall_counts_each_of_the_nearest_once() {
        let truth = Matrix::new(3, vec![1, 2, 3, 4, 5, 6]);
        for (name, found, want) in [
            ("all, in another order", vec![2, 1, 5, 4], 1.0),
            ("the third nearest does not count at k = 2", vec![3, 1, 6, 4], 0.5),
            ("an id twice counts once", vec![1, 1, 4, 4], 0.5),
            ("of another query", vec![4, 5, 1, 2], 0.0),
            ("nothing found", vec![-1, -1, -1, -1], 0.0),
        ] {
            let recall = recall(&truth, &Matrix::new(2, found), 2);
            assert!((recall - want).abs() < 1e-12, "{name}: {recall}");
        }
    }

    #[test]
    fn throughput_is_read_off_the_envelope() {
        let sweep = [(0.90, 8000.0), (0.94, 4000.0), (0.93, 1000.0), (0.98, 1000.0)];
        for (name, points, target, want) in [
            ("a point itself", &sweep[..], 0.94, Some(4000.0)),
            ("half way in the logarithm", &sweep[..], 0.96, Some(2000.0)),
            ("less than any setting finds", &sweep[..], 0.80, Some(8000.0)),
            (
                "a point that is beaten does not pull the curve down",
                &sweep[..],
                0.92,
                Some((8000.0_f64 * 4000.0).sqrt()),
            ),
            ("out of reach", &sweep[..], 0.99, None),
            ("exact search", &[(1.0, 170.0)][..], 0.95, Some(170.0)),
            ("no points", &[][..], 0.95, None),
        ] {
            let got = curve(points).qps_at(target);
            let near = match (got, want) {
                (Some(got), Some(want)) => (got / want - 1.0).abs() < 1e-9,
                (got, want) => got == want,
            };
            assert!(near, "{name}: {got:?}");
        }
    }

    #[test]
    fn medians() {
        for (values, want) in
            [(&[][..], None), (&[3.0][..], Some(3.0)), (&[9.0, 1.0, 2.0][..], Some(2.0)), (&[4.0, 1.0][..], Some(2.5))]
        {
            assert_eq!(median(values), want, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn more_recall_never_costs_less(points in prop::collection::vec((0.0..=1.0, 1.0..1e6), 1..20)) {
            let curve = curve(&points);
            let at: Vec<Option<f64>> = (0..=100).map(|percent| curve.qps_at(f64::from(percent) / 100.0)).collect();
            for pair in at.windows(2) {
                match (pair[0], pair[1]) {
                    (Some(less), Some(more)) => prop_assert!(more <= less * (1.0 + 1e-9), "{less} then {more}"),
                    (None, Some(_)) => prop_assert!(false, "more recall is reached where less is not"),
                    _ => {}
                }
            }
        }

        #[test]
        fn order_of_the_settings_does_not_matter(mut points in prop::collection::vec((0.0..=1.0, 1.0..1e6), 1..20)) {
            let one = curve(&points).envelope();
            points.reverse();
            prop_assert_eq!(one, curve(&points).envelope());
        }
    }
}
