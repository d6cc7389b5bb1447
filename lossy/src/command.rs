//! Commands as text: one a line, words apart by spaces.

use std::str::{FromStr, SplitWhitespace};
use std::time::Duration;

use crate::{Fault, LossyError, Op, PowerLoss, Tear};

/// The commands, for a help text.
pub const COMMANDS: &str = "\
power-loss [seed S] [torn [page|sector]]   lose what was not synced, or of it what the seed decides
flip FILE OFFSET BIT                       flip a bit of the durable content, behind everyone's back
fail OP PATTERN ERRNO [after N] [times M]  let operations fail, all or M after the first N
slow OP MILLIS                             delay an operation; 0 ends it
full on|off                                refuse whatever makes a file longer
room BYTES|all                             tell that no more is free, and refuse nothing
clear                                      end faults, delays and fullness
stats                                      counts, what is unsynced, what the last power loss did
OP: read write fsync fsyncdir open create mkdir rename remove truncate
PATTERN: a path from the root, in which * stands for any characters";

/// What the disk can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// See [`crate::Controls::power_loss`].
    PowerLoss(PowerLoss),
    /// See [`crate::Controls::flip`].
    Flip {
        /// Path from the root.
        file: String,
        /// Byte in the file.
        offset: u64,
        /// Bit in the byte, 0 to 7.
        bit: u32,
    },
    /// See [`crate::Controls::fail`].
    Fail(Fault),
    /// See [`crate::Controls::slow`].
    Slow(Op, Duration),
    /// See [`crate::Controls::set_full`].
    Full(bool),
    /// See [`crate::Controls::set_room`].
    Room(Option<u64>),
    /// See [`crate::Controls::clear`].
    Clear,
    /// See [`crate::Controls::stats`].
    Stats,
}

impl FromStr for Command {
    type Err = LossyError;

    fn from_str(line: &str) -> Result<Self, LossyError> {
        let mut words = line.split_whitespace();
        let command = match word(&mut words)? {
            "power-loss" => Self::PowerLoss(power_loss(&mut words)?),
            "flip" => {
                Self::Flip { file: word(&mut words)?.to_owned(), offset: parse(&mut words)?, bit: parse(&mut words)? }
            }
            "fail" => Self::Fail(fault(&mut words)?),
            "slow" => Self::Slow(word(&mut words)?.parse()?, Duration::from_millis(parse(&mut words)?)),
            "full" => Self::Full(switch(word(&mut words)?)?),
            "room" => Self::Room(room(word(&mut words)?)?),
            "clear" => Self::Clear,
            "stats" => Self::Stats,
            other => return Err(LossyError::command(format!("no command {other:?}"))),
        };
        match words.next() {
            None => Ok(command),
            Some(word) => Err(LossyError::command(format!("{word:?} is too much"))),
        }
    }
}

fn power_loss(words: &mut SplitWhitespace<'_>) -> Result<PowerLoss, LossyError> {
    let (mut seed, mut tear) = (None, None);
    while let Some(word) = words.next() {
        match word {
            "seed" => seed = Some(parse(words)?),
            "torn" => tear = Some(Tear::Page),
            "page" if tear.is_some() => tear = Some(Tear::Page),
            "sector" if tear.is_some() => tear = Some(Tear::Sector),
            other => return Err(LossyError::command(format!("{other:?} is nothing a power loss knows"))),
        }
    }
    Ok(PowerLoss { seed: seed.unwrap_or_else(rand::random), tear })
}

fn fault(words: &mut SplitWhitespace<'_>) -> Result<Fault, LossyError> {
    let mut fault = Fault::new(word(words)?.parse()?, word(words)?, errno(word(words)?)?);
    while let Some(word) = words.next() {
        match word {
            "after" => fault.after = parse(words)?,
            "times" => fault.times = Some(parse(words)?),
            other => return Err(LossyError::command(format!("{other:?} is nothing a fault knows"))),
        }
    }
    Ok(fault)
}

/// The errors that disks give, by name; any other by number.
fn errno(text: &str) -> Result<i32, LossyError> {
    use rustix::io::Errno;
    let errno = match text {
        "EIO" => Errno::IO,
        "ENOSPC" => Errno::NOSPC,
        "EDQUOT" => Errno::DQUOT,
        "EROFS" => Errno::ROFS,
        "EACCES" => Errno::ACCESS,
        "EMFILE" => Errno::MFILE,
        _ => return number(text),
    };
    Ok(errno.raw_os_error())
}

fn switch(text: &str) -> Result<bool, LossyError> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(LossyError::command(format!("{other:?} is neither on nor off"))),
    }
}

fn room(text: &str) -> Result<Option<u64>, LossyError> {
    if text == "all" { Ok(None) } else { number(text).map(Some) }
}

fn word<'a>(words: &mut SplitWhitespace<'a>) -> Result<&'a str, LossyError> {
    words.next().ok_or_else(|| LossyError::command("a word is missing".to_owned()))
}

fn parse<T: FromStr>(words: &mut SplitWhitespace<'_>) -> Result<T, LossyError> {
    number(word(words)?)
}

fn number<T: FromStr>(text: &str) -> Result<T, LossyError> {
    text.parse().map_err(|_| LossyError::command(format!("{text:?} is not such a number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_understood() {
        let flip = |file: &str, offset, bit| Command::Flip { file: file.to_owned(), offset, bit };
        let fsync = Fault { after: 2, times: Some(1), ..Fault::new(Op::Fsync, "*.log", 5) };
        for (line, want) in [
            ("power-loss seed 7", Command::PowerLoss(PowerLoss { seed: 7, tear: None })),
            ("power-loss torn seed 7", Command::PowerLoss(PowerLoss::torn(7, Tear::Page))),
            ("power-loss seed 7 torn sector", Command::PowerLoss(PowerLoss::torn(7, Tear::Sector))),
            ("flip a/b 10 7", flip("a/b", 10, 7)),
            ("fail fsync *.log EIO after 2 times 1", Command::Fail(fsync)),
            ("fail write * 28", Command::Fail(Fault::new(Op::Write, "*", 28))),
            ("slow read 5", Command::Slow(Op::Read, Duration::from_millis(5))),
            ("full on", Command::Full(true)),
            ("room 7", Command::Room(Some(7))),
            ("room all", Command::Room(None)),
            (" clear ", Command::Clear),
            ("stats", Command::Stats),
        ] {
            assert_eq!(line.parse::<Command>().expect(line), want, "{line}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for line in
            ["", "x", "flip a", "flip a x 1", "full", "full maybe", "fail x * EIO", "stats now", "power-loss sector"]
        {
            assert!(line.parse::<Command>().is_err(), "{line}");
        }
    }
}
