//! The space that graphs are walked in: squared euclidean distance, whatever the metric.
//!
//! | metric | a point becomes | so that the nearest in space |
//! | --- | --- | --- |
//! | euclidean | itself | is the nearest |
//! | cosine | its unit vector: `|q - x|^2 = 2 - 2 cos` | has the highest cosine |
//! | dot | `(x, sqrt(reach^2 - |x|^2))`, a query `(q, 0)` made `reach` long: `|q - x|^2 = 2 reach^2 - 2 <q, x>` | has the highest product |
//!
//! `reach` is the length of the longest vector. Source of the last: Bachrach et al., Speeding up the Xbox recommender
//! system using a euclidean transformation for inner-product spaces, RecSys 2014.

use shoal_model::Metric;

use crate::kernels::Kernels;

/// How vectors of one segment are placed in space.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Space {
    metric: Metric,
    dim: usize,
    /// Length of the longest vector under the dot metric; 1 under the others.
    reach: f64,
}

impl Space {
    /// The space that has room for `rows`, each of `dim` components.
    pub(crate) fn fit<'a>(metric: Metric, dim: usize, rows: impl Iterator<Item = &'a [f32]>) -> Self {
        let reach = if metric == Metric::Dot { rows.map(norm).fold(0.0, f64::max) } else { 1.0 };
        Self::new(metric, dim, reach)
    }

    /// The space of a known reach. A reach that is no positive number counts as 1.
    pub(crate) fn new(metric: Metric, dim: usize, reach: f64) -> Self {
        let reach = if reach.is_normal() && reach > 0.0 { reach } else { 1.0 };
        Self { metric, dim, reach }
    }

    pub(crate) fn metric(&self) -> Metric {
        self.metric
    }

    /// Components of a vector as it was sent.
    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    pub(crate) fn reach(&self) -> f64 {
        self.reach
    }

    /// Components of a place in space.
    pub(crate) fn dims(&self) -> usize {
        self.dim + usize::from(self.metric == Metric::Dot)
    }

    /// What a point's components are multiplied by to become its place, but for the added one.
    pub(crate) fn scale(&self, vector: &[f32]) -> f32 {
        if self.metric == Metric::Cosine { inverse(norm(vector)) } else { 1.0 }
    }

    /// Writes the place of a point.
    pub(crate) fn place(&self, vector: &[f32], out: &mut [f32]) {
        self.put(vector, self.scale(vector), out);
        if self.metric == Metric::Dot {
            let length = norm(vector);
            out[self.dim] = narrow((self.reach * self.reach - length * length).max(0.0).sqrt());
        }
    }

    /// Writes the place of a query.
    pub(crate) fn place_query(&self, vector: &[f32], out: &mut [f32]) {
        let scale = match self.metric {
            Metric::Euclidean => 1.0,
            Metric::Cosine => inverse(norm(vector)),
            Metric::Dot => narrow(self.reach) * inverse(norm(vector)),
        };
        self.put(vector, scale, out);
        out[self.dim..].fill(0.0);
    }

    fn put(&self, vector: &[f32], scale: f32, out: &mut [f32]) {
        assert_eq!((vector.len(), out.len()), (self.dim, self.dims()), "components of vector and place");
        for (place, component) in out.iter_mut().zip(vector) {
            *place = component * scale;
        }
    }
}

fn norm(vector: &[f32]) -> f64 {
    Kernels::best().dot_and_square_f64(vector, vector).0.sqrt()
}

/// One over a length, 0 for none.
fn inverse(length: f64) -> f32 {
    if length > 0.0 { narrow(1.0 / length) } else { 0.0 }
}

#[allow(clippy::cast_possible_truncation, reason = "rounding is what is wanted")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(metric: Metric, q: &[f32], x: &[f32]) -> f32 {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        match metric {
            Metric::Dot => dot(q, x),
            Metric::Cosine => dot(q, x) / (dot(q, q) * dot(x, x)).sqrt(),
            Metric::Euclidean => q.iter().zip(x).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt(),
        }
    }

    #[test]
    fn the_nearest_in_space_are_the_nearest_by_score() {
        let rows: [&[f32]; 5] = [&[3.0, 1.0], &[-2.0, 0.5], &[0.1, 0.2], &[1.0, -4.0], &[0.7, 0.7]];
        let query = [0.9_f32, 0.4];
        for metric in [Metric::Cosine, Metric::Dot, Metric::Euclidean] {
            let space = Space::fit(metric, 2, rows.iter().copied());
            let mut q = vec![0.0; space.dims()];
            space.place_query(&query, &mut q);
            let distance = |row: &[f32]| {
                let mut place = vec![0.0; space.dims()];
                space.place(row, &mut place);
                q.iter().zip(&place).map(|(a, b)| (a - b) * (a - b)).sum::<f32>()
            };
            let mut by_distance = rows;
            by_distance.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
            let mut by_score = rows;
            by_score.sort_by(|a, b| metric.compare(score(metric, &query, a), score(metric, &query, b)));
            assert_eq!(by_distance, by_score, "{metric:?}");
        }
    }

    #[test]
    fn vectors_without_length_have_a_place() {
        for metric in [Metric::Cosine, Metric::Dot, Metric::Euclidean] {
            let space = Space::fit(metric, 2, std::iter::once(&[0.0_f32, 0.0][..]));
            let mut place = vec![f32::NAN; space.dims()];
            space.place_query(&[0.0, 0.0], &mut place);
            assert!(place.iter().all(|c| *c == 0.0), "{metric:?}: {place:?}");
            space.place(&[0.0, 0.0], &mut place);
            assert!(place.iter().all(|c| c.is_finite()), "{metric:?}: {place:?}");
        }
    }
}
