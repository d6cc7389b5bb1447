//! Places at which a test makes a process panic, fail or wait.
//!
//! A place is [`met`](meet) wherever code does a step that a crash, a disk or a network may cut short; the catalogue names
//! them all. Without the feature `failpoints`, which nothing that ships turns on, meeting one is a constant `Ok` that the
//! compiler drops. With it, a test says what happens: by the variable `SHOAL_FAILPOINTS` before a process starts, or to the
//! metrics endpoint of one that runs. Both take `NAME=ACTIONS`, several joined by semicolons; actions are those of the crate
//! `fail`: `1*panic` once, `1*return` an error once, `1*sleep(100)` a pause of so many milliseconds once, `off`.

mod catalogue;

use std::io;

pub use catalogue::Failpoint;

/// Makes an enum of the names, and a list of all.
macro_rules! failpoints {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A place at which a test makes a process panic, fail or wait.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Failpoint {
            $($(#[$doc])* $name,)*
        }

        impl Failpoint {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in actions and messages.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}
use failpoints;

/// The error that a test has wanted at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failpoint {}", .0.name())]
pub struct Injected(pub Failpoint);

impl From<Injected> for io::Error {
    fn from(injected: Injected) -> Self {
        Self::other(injected)
    }
}

/// What begins the line on standard error that tells of a place where something happens. Its name follows.
pub const FIRES: &str = "failpoint fires: ";

/// What begins the line that tells that it has happened there: the pause is over, the panic was told and unwinds.
pub const FIRED: &str = "failpoint fired: ";

/// Meets a place: nothing happens.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn meet(_: Failpoint) -> Result<(), Injected> {
    Ok(())
}

#[cfg(feature = "failpoints")]
pub use armed::{arm, arm_from_environment, meet};

#[cfg(feature = "failpoints")]
mod armed {
    use std::collections::BTreeSet;
    use std::io::Write as _;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Mutex, PoisonError};

    use super::{FIRED, FIRES, Failpoint, Injected};

    /// Places that were given actions and not met since.
    static ARMED: Mutex<BTreeSet<Failpoint>> = Mutex::new(BTreeSet::new());

    /// Whether any place was given actions: simulations meet places millions of times, and arm none.
    static IN_USE: AtomicBool = AtomicBool::new(false);

    /// Meets a place: what a test has wanted happens. Blocks the thread if that is a pause.
    #[inline]
    pub fn meet(point: Failpoint) -> Result<(), Injected> {
        if IN_USE.load(Ordering::Acquire) { meet_in_use(point) } else { Ok(()) }
    }

    fn meet_in_use(point: Failpoint) -> Result<(), Injected> {
        let is_armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner).remove(&point);
        let _fires = is_armed.then(|| Fires::tell(point));
        fail::fail_point!(point.name(), |_| Err(Injected(point)));
        Ok(())
    }

    /// While something happens at a place.
    struct Fires(Failpoint);

    impl Fires {
        fn tell(point: Failpoint) -> Self {
            say(FIRES, point);
            Self(point)
        }
    }

    impl Drop for Fires {
        fn drop(&mut self) {
            say(FIRED, self.0);
        }
    }

    /// In one call, as other threads write there as well; a test that does not read it learns nothing.
    fn say(what: &str, point: Failpoint) {
        let _ = std::io::stderr().write_all(format!("{what}{}\n", point.name()).as_bytes());
    }

    /// Takes `NAME=ACTIONS` for one or several places. Errors: what is wrong with it, in words.
    pub fn arm(text: &str) -> Result<(), String> {
        for part in text.split(';').filter(|part| !part.trim().is_empty()) {
            let (name, actions) = part.trim().split_once('=').ok_or_else(|| format!("{part}: want NAME=ACTIONS"))?;
            let point = Failpoint::ALL.iter().copied().find(|point| point.name() == name);
            let point = point.ok_or_else(|| format!("{name} is not in the catalogue of failpoints"))?;
            let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
            fail::cfg(name, actions)?;
            IN_USE.store(true, Ordering::Release);
            if actions == "off" {
                armed.remove(&point)
            } else {
                armed.insert(point)
            };
        }
        Ok(())
    }

    /// Takes what the variable `SHOAL_FAILPOINTS` says, if it is set.
    pub fn arm_from_environment() -> Result<(), String> {
        std::env::var("SHOAL_FAILPOINTS").map_or(Ok(()), |text| arm(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_feature_nothing_happens() {
        if cfg!(not(feature = "failpoints")) {
            assert!(Failpoint::ALL.iter().all(|point| meet(*point).is_ok()));
        }
    }
}
