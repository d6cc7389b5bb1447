//! Search by codes: estimate every row, look at the nearest by estimate, then at all that may be as near as those.
//!
//! The second step needs two passes, or its floor would only come as it goes: among rows in no order, one pass looks at
//! `ln(n / k)` times as many. Windows of some 16,000 rows keep the estimates in the cache between the two.
//!
//! With a filter that few rows pass, the nearest by estimate may all be turned away. Ever more of them are looked at
//! then, until `k` pass; what cannot end soon is left to the second pass, which goes from row to row in order.
//!
//! What is looked at when, and under which floor, depends on how rows lie in chunks, and these in windows. What is found does
//! not: see `probe`.

use std::ops::Range;

use super::chunk::{Slot, ones};
use super::probe::Probe;
use super::scan::Scan;
use crate::IndexError;
use crate::kernels::BATCH;

/// Batches of a window, at least: 64 KiB of estimates.
const WINDOW_BATCHES: usize = 512;

/// Rows looked at first, at least.
const BEST_MIN: usize = 64;

/// Rows looked at between two choices of what goes first, filter or bound.
const ORDER_ROWS: usize = 32;

/// Searches the chunks of `range`, which have codes.
pub(super) fn sieve(scan: &mut Scan<'_>, probe: &Probe, slots: &[Slot], range: Range<usize>) -> Result<(), IndexError> {
    let mut window = Window::default();
    let mut numbers = range;
    while !numbers.is_empty() {
        window.fill(scan, probe, slots, &mut numbers)?;
        window.look_at_best(scan, probe, slots)?;
        window.look_at_rest(scan, probe, slots)?;
    }
    Ok(())
}

/// Estimates of a run of chunks.
#[derive(Default)]
struct Window {
    places: Vec<Place>,
    estimates: Vec<[f32; BATCH]>,
    /// Scratch space: estimates and where they are.
    best: Vec<(f32, usize)>,
}

/// A batch of a chunk.
#[derive(Clone, Copy)]
struct Place {
    number: usize,
    batch: usize,
    /// Rows that live and have not been looked at, one bit each.
    left: u32,
}

impl Window {
    /// Estimates the next chunks of `numbers` and takes these off.
    fn fill(
        &mut self,
        scan: &mut Scan<'_>,
        probe: &Probe,
        slots: &[Slot],
        numbers: &mut Range<usize>,
    ) -> Result<(), IndexError> {
        self.places.clear();
        self.estimates.clear();
        while self.places.len() < WINDOW_BATCHES
            && let Some(number) = numbers.next()
        {
            let slot = &slots[number];
            let Some(codes) = slot.chunk().codes() else { continue };
            for batch in 0..slot.chunk().batches() {
                scan.pace.work(codes.signs(batch).len())?;
                let mut estimates = [0.0; BATCH];
                probe.estimate(codes, batch, &mut estimates);
                self.places.push(Place { number, batch, left: slot.live_batch(batch) });
                self.estimates.push(estimates);
            }
            scan.stats.estimated += slot.len() as u64;
        }
        Ok(())
    }

    /// Looks at the nearest by estimate, until `k` rows pass or it would be as well to look at all.
    fn look_at_best(&mut self, scan: &mut Scan<'_>, probe: &Probe, slots: &[Slot]) -> Result<(), IndexError> {
        let rows_max = self.places.len() * BATCH / 8;
        let mut count = BEST_MIN.max(scan.candidates.k().saturating_mul(2));
        scan.choose_order();
        while !scan.candidates.are_enough() && count.max(scan.rows_to_pass()) <= rows_max {
            self.choose_best(probe, count);
            for (estimate, at) in std::mem::take(&mut self.best) {
                let (Place { number, batch, left }, lane) = (&mut self.places[at / BATCH], at % BATCH);
                *left &= !(1 << lane);
                let chunk = slots[*number].chunk();
                let Some(codes) = chunk.codes() else { continue };
                let ceiling = |high| probe.ceiling(codes.factors(*batch), lane, estimate, high);
                scan.row(*number, chunk, *batch * BATCH + lane, &ceiling)?;
            }
            scan.candidates.tighten();
            let in_vain = scan.is_in_vain();
            scan.choose_order();
            if in_vain {
                break;
            }
            count *= 4;
        }
        Ok(())
    }

    /// Puts the `count` largest estimates, or all there are, into `best`, the largest first.
    fn choose_best(&mut self, probe: &Probe, count: usize) {
        let descending = |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0);
        self.best.clear();
        let mut floor = f32::MIN;
        for (i, (estimates, Place { left, .. })) in self.estimates.iter().zip(&self.places).enumerate() {
            let promising = probe.at_least(estimates, floor) & left;
            self.best.extend(ones(promising.into()).map(|lane| (estimates[lane], i * BATCH + lane)));
            if self.best.len() >= 2 * count {
                let (_, last, _) = self.best.select_nth_unstable_by(count - 1, descending);
                floor = floor.max(last.0);
                self.best.truncate(count);
            }
        }
        self.best.sort_unstable_by(descending);
        self.best.truncate(count);
    }

    /// Looks at all rows that may be near enough, in order.
    fn look_at_rest(&mut self, scan: &mut Scan<'_>, probe: &Probe, slots: &[Slot]) -> Result<(), IndexError> {
        let mut looked = 0;
        for (Place { number, batch, left }, estimates) in self.places.iter().zip(&self.estimates) {
            let chunk = slots[*number].chunk();
            let Some(codes) = chunk.codes() else { continue };
            let (factors, floor) = (codes.factors(*batch), probe.floor(scan.candidates.floor()));
            let within = probe.within(factors, estimates, floor) & left;
            for lane in ones(within.into()) {
                let ceiling = |high| probe.ceiling(factors, lane, estimates[lane], high);
                scan.row(*number, chunk, batch * BATCH + lane, &ceiling)?;
                looked += 1;
            }
            if looked >= ORDER_ROWS {
                scan.choose_order();
                looked = 0;
            }
        }
        Ok(())
    }
}
