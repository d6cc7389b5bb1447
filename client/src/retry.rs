//! How long to pause before the next attempt of a call.

use std::time::Duration;

/// Pause after the first failed attempt.
const FIRST: Duration = Duration::from_millis(25);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(1);

/// The pause after attempt number `attempt` (from 1): doubling, capped, and spread over its upper half by `jitter`
/// (0 to 1), so that clients that failed together do not come back together.
pub(crate) fn pause_after(attempt: u32, jitter: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    doubled.min(LONGEST).mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_cap() {
        for (attempt, jitter, want_ms) in [
            (1, 1.0, 25.0),
            (1, 0.0, 12.5),
            (2, 1.0, 50.0),
            (4, 1.0, 200.0),
            (7, 1.0, 1000.0),
            (u32::MAX, 1.0, 1000.0),
            (u32::MAX, 0.0, 500.0),
            (0, 1.0, 25.0),
        ] {
            let got = pause_after(attempt, jitter).as_secs_f64() * 1000.0;
            assert!((got - want_ms).abs() < 1e-6, "attempt {attempt}, jitter {jitter}: {got} ms, not {want_ms} ms");
        }
    }
}
