//! Progress on stderr: a bar on a terminal, a line every few seconds elsewhere.

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is printed where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);

/// How far something has come.
pub(crate) struct Progress {
    what: Cow<'static, str>,
    unit: &'static str,
    total: Option<u64>,
    bar: Option<ProgressBar>,
    plain: Mutex<Plain>,
}

struct Plain {
    started: Instant,
    printed: Instant,
    skipped: u64,
}

impl Progress {
    /// Nothing done yet of `total` `unit`s, where known.
    pub(crate) fn new(what: impl Into<Cow<'static, str>>, unit: &'static str, total: Option<u64>) -> Self {
        let what = what.into();
        let bar = std::io::stderr().is_terminal().then(|| bar(&what, unit, total));
        let now = Instant::now();
        Self { what, unit, total, bar, plain: Mutex::new(Plain { started: now, printed: now, skipped: 0 }) }
    }

    /// This many were done before, and do not count for the rate.
    pub(crate) fn begin_at(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.reset_eta();
        }
        if let Ok(mut plain) = self.plain.lock() {
            plain.skipped = done;
        }
    }

    /// This many are done.
    pub(crate) fn set(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        let Ok(mut plain) = self.plain.lock() else { return };
        if plain.printed.elapsed() >= EVERY {
            plain.printed = Instant::now();
            let line = line(&self.what, self.unit, done, self.total, plain.skipped, plain.started.elapsed());
            say(&line);
        }
    }

    /// Prints a line without tearing the bar.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => say(text),
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Prints a line on stderr. A closed stderr is no reason to fail.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn bar(what: &str, unit: &'static str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => {
            let template = "{prefix} [{bar:30}] {human_pos} of {human_len} {msg}, {per_sec:.0}, {eta} left";
            (ProgressBar::new(total), template)
        }
        None => (ProgressBar::new_spinner(), "{prefix} {spinner} {human_pos} {msg}, {per_sec:.0}"),
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar.set_prefix(what.to_owned());
    bar.set_message(unit);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A line of progress, such as `import: 500 of 2,000 rows, 250 rows/s, 6 s left`.
fn line(what: &str, unit: &str, done: u64, total: Option<u64>, skipped: u64, elapsed: Duration) -> String {
    let rate = rate(done.saturating_sub(skipped), elapsed);
    let of = total.map(|total| format!(" of {}", grouped(total))).unwrap_or_default();
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    let left = match total {
        Some(total) if rate > 0.0 => format!(", {:.0} s left", total.saturating_sub(done) as f64 / rate),
        _ => String::new(),
    };
    format!("{what}: {}{of} {unit}, {} {unit}/s{left}", grouped(done), whole(rate))
}

/// How many a second.
#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
pub(crate) fn rate(done: u64, elapsed: Duration) -> f64 {
    done as f64 / elapsed.as_secs_f64().max(1e-3)
}

/// A number without its fraction, in groups of three digits.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are positive and small")]
pub(crate) fn whole(number: f64) -> String {
    grouped(number.round() as u64)
}

/// A number in groups of three digits: `63,666`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 hit`, `2 hits`.
pub(crate) fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", grouped(number as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        for (number, want) in [(0, "0 hits"), (1, "1 hit"), (2_000, "2,000 hits")] {
            assert_eq!(counted(number, "hit"), want);
        }
    }

    #[test]
    fn lines_tell_rate_and_time_left() {
        let two = Duration::from_secs(2);
        for (done, total, skipped, want) in [
            (500, Some(2_000), 0, "import: 500 of 2,000 rows, 250 rows/s, 6 s left"),
            (1_500, Some(2_000), 1_000, "import: 1,500 of 2,000 rows, 250 rows/s, 2 s left"),
            (1_234_567, None, 0, "import: 1,234,567 rows, 617,284 rows/s"),
            (0, Some(10), 0, "import: 0 of 10 rows, 0 rows/s"),
        ] {
            assert_eq!(line("import", "rows", done, total, skipped, two), want);
        }
    }
}
