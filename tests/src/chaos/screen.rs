//! What a run says while it goes: what happens, and how far it is.

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Between two changes of the line on a terminal.
const CHANGE_EVERY: Duration = Duration::from_millis(500);

/// Prints to standard output, and all but progress to a file.
#[derive(Debug)]
pub(crate) struct Screen {
    started: Instant,
    shown: Instant,
    is_terminal: bool,
    file: Option<File>,
}

impl Screen {
    /// Begins now; what is said is kept in `file` as well.
    #[must_use]
    pub(crate) fn new(file: Option<File>) -> Self {
        let now = Instant::now();
        Self { started: now, shown: now, is_terminal: std::io::stdout().is_terminal(), file }
    }

    /// Says what happened, with the time since the run began.
    pub(crate) fn say(&mut self, text: &str) {
        let line = format!("{:>8.2} s  {text}", self.started.elapsed().as_secs_f64());
        self.print(&line);
    }

    /// Says something without a time.
    pub(crate) fn print(&mut self, text: &str) {
        println!("{}{text}", if self.is_terminal { "\r\x1b[K" } else { "" });
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "{text}");
        }
    }

    /// Tells how far the run is, if it has not lately.
    pub(crate) fn progress(&mut self, text: impl FnOnce() -> String) {
        let every = if self.is_terminal { CHANGE_EVERY } else { LINE_EVERY };
        if self.shown.elapsed() < every {
            return;
        }
        self.shown = Instant::now();
        let line = format!("{:>8.2} s  {}", self.started.elapsed().as_secs_f64(), text());
        if self.is_terminal {
            print!("\r\x1b[K{line}");
            let _ = std::io::stdout().flush();
        } else {
            println!("{line}");
        }
    }
}
