//! raft's log lines, as `tracing` events under the target `raft`. Its informational lines are many: they become debug.

use std::fmt::{self, Write as _};

use slog::{Drain, KV, Level, Logger, OwnedKVList, Record, Serializer};

struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), slog::Never> {
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", "{}", Line { record, values }),
            Level::Warning => tracing::warn!(target: "raft", "{}", Line { record, values }),
            Level::Info => tracing::debug!(target: "raft", "{}", Line { record, values }),
            Level::Debug | Level::Trace => tracing::trace!(target: "raft", "{}", Line { record, values }),
        }
        Ok(())
    }
}

/// A line that is only put together when somebody reads it.
struct Line<'a> {
    record: &'a Record<'a>,
    values: &'a OwnedKVList,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.record.msg())?;
        let mut pairs = Pairs(String::new());
        self.record.kv().serialize(self.record, &mut pairs).map_err(|_| fmt::Error)?;
        self.values.serialize(self.record, &mut pairs).map_err(|_| fmt::Error)?;
        f.write_str(&pairs.0)
    }
}

struct Pairs(String);

impl Serializer for Pairs {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}").map_err(|_| slog::Error::Other)
    }
}

/// A logger for raft, whose lines carry `group`.
pub(crate) fn logger(group: u64) -> Logger {
    Logger::root(ToTracing, slog::o!("group" => group))
}
