//! The measurement itself: every contender at every beam width, taking turns on one core.

use std::iter;

use crate::contender::Contender;
use crate::curve::{Curve, Point, median, recall};
use crate::error::BenchError;
use crate::machine::Pinned;
use crate::report::number;
use crate::set::Set;
use crate::stopwatch::Elapsed;

/// How much is measured.
pub(super) struct Pace {
    /// Beam widths, ascending.
    beams: &'static [usize],
    /// Passes over the queries are repeated until a sample takes this long.
    sample_seconds: f64,
    /// Samples of each contender at each beam width.
    rounds: usize,
    /// The same where a sample is short.
    rounds_of_short: usize,
}

/// What one contender reached.
pub(super) struct Sweep {
    pub(super) curve: Curve,
    /// Over the points, the median of how far the samples lie apart, as a share of their median.
    pub(super) spread: f64,
    /// Share of the time that it had the core, the median over the points; below 1 on a machine that others use.
    pub(super) core_share: f64,
}

/// A contender that finds this share needs no wider beam: the targets are below.
const ENOUGH_RECALL: f64 = 0.998;

/// A sample below this many seconds is short.
const SHORT_SECONDS: f64 = 0.6;

impl Pace {
    pub(super) const FULL: Self = Self {
        beams: &[10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400, 500, 650, 800, 1000],
        sample_seconds: 0.3,
        rounds: 3,
        rounds_of_short: 5,
    };
    pub(super) const QUICK: Self = Self {
        beams: &[10, 20, 30, 45, 70, 100, 150, 250, 400, 700],
        sample_seconds: 0.1,
        rounds: 3,
        rounds_of_short: 3,
    };

    /// How often a sample goes over the queries.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    fn passes(&self, pass_seconds: f64) -> usize {
        ((self.sample_seconds / pass_seconds).ceil() as usize).clamp(1, 1_000_000)
    }

    fn rounds(&self, longest_sample_seconds: f64) -> usize {
        if longest_sample_seconds < SHORT_SECONDS { self.rounds_of_short } else { self.rounds }
    }
}

/// A contender at one beam width.
struct Turn {
    contender: usize,
    recall: f64,
    passes: usize,
    pass_seconds: f64,
    samples: Vec<Elapsed>,
}

/// Sweeps the beam: at each width one pass of each contender for its answers, then samples in turns, all on `core`.
///
/// A contender leaves when its recall is so high that a wider beam tells nothing; an exact one after the first.
pub(super) fn run(
    contenders: &mut [Contender],
    set: &Set,
    k: usize,
    core: usize,
    pace: &Pace,
) -> Result<Vec<Sweep>, BenchError> {
    let _pinned = Pinned::to(core)?;
    for contender in contenders.iter_mut() {
        contender.pin(core)?;
    }
    let mut curves = vec![Curve::default(); contenders.len()];
    let mut steadiness = vec![Vec::new(); contenders.len()];
    for beam in pace.beams {
        let wants_more = |(i, curve): (usize, &Curve)| {
            let done = curve.0.last().is_some_and(|point| point.recall >= ENOUGH_RECALL);
            (!done).then_some(i)
        };
        let active: Vec<usize> = curves.iter().enumerate().filter_map(wants_more).collect();
        for turn in take_turns(contenders, &active, set, k, *beam, pace)? {
            curves[turn.contender].0.push(turn.point(set.queries.len()));
            steadiness[turn.contender].push((turn.spread(), turn.core_share()));
        }
        eprintln!("{}", progress(*beam, contenders, &active, &curves));
    }
    let sweep = |(curve, steadiness): (Curve, Vec<(f64, f64)>)| {
        let (spreads, shares): (Vec<f64>, Vec<f64>) = steadiness.into_iter().unzip();
        Sweep { curve, spread: median(&spreads).unwrap_or(0.0), core_share: median(&shares).unwrap_or(1.0) }
    };
    Ok(iter::zip(curves, steadiness).map(sweep).collect())
}

/// Measures the `active` contenders at one beam width. Each round begins with another of them.
fn take_turns(
    contenders: &mut [Contender],
    active: &[usize],
    set: &Set,
    k: usize,
    beam: usize,
    pace: &Pace,
) -> Result<Vec<Turn>, BenchError> {
    let mut turns = Vec::with_capacity(active.len());
    for contender in active {
        let found = contenders[*contender].search(set, beam)?;
        let recall = recall(&set.truth, &found.ids, k);
        let passes = pace.passes(found.seconds);
        turns.push(Turn { contender: *contender, recall, passes, pass_seconds: found.seconds, samples: Vec::new() });
    }
    #[allow(clippy::cast_precision_loss, reason = "a small number")]
    let longest = turns.iter().map(|turn| turn.pass_seconds * turn.passes as f64).fold(0.0, f64::max);
    for round in 0..pace.rounds(longest) {
        for place in 0..turns.len() {
            let next = (place + round) % turns.len();
            let turn = &mut turns[next];
            turn.samples.push(contenders[turn.contender].time(set, beam, turn.passes)?);
        }
    }
    Ok(turns)
}

impl Turn {
    /// Throughput from the median of the samples; what others took of the core counts against nobody.
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn point(&self, queries: usize) -> Point {
        Point { recall: self.recall, qps: (queries * self.passes) as f64 / self.median_seconds() }
    }

    /// How far the samples lie apart, as a share of their median.
    fn spread(&self) -> f64 {
        let of_samples = |pick: fn(f64, f64) -> f64| self.core_seconds().reduce(pick).unwrap_or_default();
        (of_samples(f64::max) - of_samples(f64::min)) / self.median_seconds()
    }

    fn core_share(&self) -> f64 {
        let shares: Vec<f64> = self.samples.iter().map(|sample| sample.core_seconds / sample.seconds).collect();
        median(&shares).unwrap_or(1.0)
    }

    fn core_seconds(&self) -> impl Iterator<Item = f64> {
        self.samples.iter().map(|sample| sample.core_seconds)
    }

    /// Of a turn without samples, which no pace asks for, the one pass that gave the answers.
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn median_seconds(&self) -> f64 {
        median(&self.core_seconds().collect::<Vec<_>>()).unwrap_or(self.pass_seconds * self.passes as f64)
    }
}

fn progress(beam: usize, contenders: &[Contender], active: &[usize], curves: &[Curve]) -> String {
    let reached = active.iter().filter_map(|i| {
        let Point { recall, qps } = curves[*i].0.last()?;
        Some(format!("{} {recall:.4} {}/s", contenders[*i].name, number(*qps)))
    });
    format!("beam {beam}: {}", reached.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::measuring_core;
    use crate::set::tests::line;

    #[test]
    fn an_exact_contender_is_measured_once_and_finds_all() {
        let set = line(30);
        let mut contenders = vec![Contender::shoal_exact(&set, 10)];
        let pace = Pace { beams: &[10, 20], sample_seconds: 0.001, rounds: 3, rounds_of_short: 5 };
        let core = measuring_core().expect("some core is allowed");
        let sweeps = run(&mut contenders, &set, 10, core, &pace).expect("nothing can fail here");
        let [Point { recall, qps }] = sweeps[0].curve.0[..] else {
            panic!("measured at {} widths", sweeps[0].curve.0.len())
        };
        assert!((recall - 1.0).abs() < 1e-12 && qps > 0.0, "{recall} at {qps}/s");
    }

    #[test]
    fn short_passes_are_repeated_and_long_ones_sampled_less() {
        assert_eq!(Pace::FULL.passes(0.015), 20);
        assert_eq!(Pace::FULL.passes(3.0), 1);
        assert_eq!(Pace::FULL.passes(0.0), 1_000_000, "a clock too coarse for a pass is no reason to run forever");
        assert_eq!((Pace::FULL.rounds(0.3), Pace::FULL.rounds(3.0)), (5, 3));
    }

    #[test]
    fn a_point_is_the_median_of_its_samples() {
        let samples =
            [(8.0, 4.0), (2.0, 2.0), (1.0, 1.0)].map(|(seconds, core_seconds)| Elapsed { seconds, core_seconds });
        let turn = Turn { contender: 0, recall: 0.9, passes: 10, pass_seconds: 1.0, samples: samples.to_vec() };
        assert_eq!(turn.point(100), Point { recall: 0.9, qps: 500.0 });
        assert!((turn.spread() - 1.5).abs() < 1e-12, "{}", turn.spread());
        assert!((turn.core_share() - 1.0).abs() < 1e-12, "{}", turn.core_share());
    }
}
