//! Figures of several runs: the one in the middle, the least and the most.

use std::time::Duration;

use crate::report::{Better, Row, number};

/// Times in milliseconds.
pub(crate) fn millis<'a>(times: impl IntoIterator<Item = &'a Duration>) -> Spread {
    times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect()
}

/// A figure of each run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spread(Vec<f64>);

impl FromIterator<f64> for Spread {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
        figures.sort_by(f64::total_cmp);
        Self(figures)
    }
}

impl Spread {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The one in the middle; of two the mean. `None` of none.
    pub(crate) fn median(&self) -> Option<f64> {
        let middle = self.0.len() / 2;
        let upper = self.0.get(middle)?;
        match self.0.len().is_multiple_of(2) {
            true => Some(f64::midpoint(self.0[middle - 1], *upper)),
            false => Some(*upper),
        }
    }

    /// The figure that this share does not exceed. `None` of none.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank")]
    pub(crate) fn at(&self, share: f64) -> Option<f64> {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied()
    }

    /// The least.
    pub(crate) fn min(&self) -> Option<f64> {
        self.0.first().copied()
    }

    /// The most.
    pub(crate) fn max(&self) -> Option<f64> {
        self.0.last().copied()
    }

    /// Median, least and most, for a table.
    pub(crate) fn cells(&self) -> [String; 3] {
        [self.median(), self.min(), self.max()].map(|figure| figure.map_or_else(|| "–".to_owned(), number))
    }

    /// The median as a row of a report.
    pub(crate) fn row(&self, name: impl Into<String>, unit: &'static str, better: Better) -> Row {
        Row::new(name, self.median(), unit, better)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_that_of_what_was_measured() {
        let of = |figures: &[f64]| figures.iter().copied().collect::<Spread>();
        for (figures, want) in [
            (&[][..], None),
            (&[3.0], Some(3.0)),
            (&[9.0, 1.0], Some(5.0)),
            (&[7.0, 1.0, 2.0], Some(2.0)),
            (&[f64::NAN, 4.0], Some(4.0)),
        ] {
            assert_eq!(of(figures).median(), want, "{figures:?}");
        }
        let hundred: Spread = (1..=100).rev().map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| hundred.at(share)), [1.0, 50.0, 99.0, 100.0].map(Some));
        assert_eq!((of(&[2.0, 1.0]).min(), of(&[2.0, 1.0]).max()), (Some(1.0), Some(2.0)));
    }
}
