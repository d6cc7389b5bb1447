//! How many points pass, told from counts alone.

/// How many points pass a filter: `low <= likely <= high`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// No fewer pass.
    pub low: u32,
    /// No more pass.
    pub high: u32,
    /// So many are to be expected, were conditions independent of each other.
    pub likely: f64,
}

impl Estimate {
    /// An estimate within its bounds.
    pub(super) fn new(low: u32, high: u32, likely: f64) -> Self {
        let high = high.max(low);
        Self { low, high, likely: likely.clamp(f64::from(low), f64::from(high)) }
    }

    /// Whether it is no estimate but the count.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.low == self.high
    }

    pub(super) fn all(points: u32) -> Self {
        Self::new(points, points, 0.0)
    }

    pub(super) fn none() -> Self {
        Self::new(0, 0, 0.0)
    }

    /// Of those that do not pass.
    pub(super) fn complement(self, points: u32) -> Self {
        Self::new(points - self.high.min(points), points - self.low.min(points), f64::from(points) - self.likely)
    }

    /// Of those that pass both.
    pub(super) fn and(self, other: Self, points: u32) -> Self {
        let both = u64::from(self.low) + u64::from(other.low);
        let low = u32::try_from(both.saturating_sub(u64::from(points))).unwrap_or(0);
        Self::new(low, self.high.min(other.high), self.likely * other.likely / f64::from(points.max(1)))
    }

    /// Of those that pass one or the other.
    pub(super) fn or(self, other: Self, points: u32) -> Self {
        self.complement(points).and(other.complement(points), points).complement(points)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_join_by_independence_within_bounds() {
        let exact = |count: u32| Estimate::new(count, count, 0.0);
        for (name, got, want) in [
            ("and", exact(50).and(exact(20), 100), (0, 20, 10.0)),
            ("and, both wide", exact(90).and(exact(80), 100), (70, 80, 72.0)),
            ("and with none", exact(0).and(exact(80), 100), (0, 0, 0.0)),
            ("and with all", exact(100).and(exact(30), 100), (30, 30, 30.0)),
            ("or", exact(50).or(exact(20), 100), (50, 70, 60.0)),
            ("or, both wide", exact(90).or(exact(80), 100), (90, 100, 98.0)),
            ("not", Estimate::new(10, 30, 15.0).complement(100), (70, 90, 85.0)),
            ("no points", exact(0).and(exact(0), 0), (0, 0, 0.0)),
        ] {
            assert_eq!((got.low, got.high), (want.0, want.1), "{name}");
            assert!((got.likely - want.2).abs() < 1e-9, "{name}: {got:?}");
        }
    }
}
