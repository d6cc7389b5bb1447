//! What the person at the terminal sees between the output of the tools.

use std::time::Duration;

/// Opens a step.
pub(crate) fn header(name: &str) {
    eprintln!("==> {name}");
}

/// One line inside a step.
pub(crate) fn note(text: &str) {
    eprintln!("    {text}");
}

/// Seconds with one digit, minutes above one.
pub(crate) fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

/// Name and time of every finished step, one per line.
pub(crate) fn table(rows: &[(&str, Duration)]) {
    eprintln!("==> passed");
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, time) in rows {
        eprintln!("    {name:width$}  {:>12}", elapsed(*time));
    }
}
