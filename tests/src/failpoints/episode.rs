//! One point, one kind: it fires, the cluster comes back by itself, and everything that was acknowledged is there.

use std::time::{Duration, Instant};

use shoal_model::failpoints::{FIRED, FIRES, Failpoint};

use super::course::{self, At, Course};
use super::drive::Drive;
use super::rig::Rig;

/// How long a point may take to be met. Builds have the lowest priority, and a busy machine lets them wait.
const FIRES_WITHIN: Duration = Duration::from_secs(120);
/// How long a cluster may take to be whole again.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// How long a panic may take to be heard of in its process.
const HEARD_WITHIN: Duration = Duration::from_millis(200);
/// Rows that must be acknowledged afterwards.
const ROWS_AFTER: u64 = 30;

/// What happens at the point, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A panic of the thread.
    Panic,
    /// An error.
    Error,
    /// A pause of the thread.
    Delay,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Panic, Self::Error, Self::Delay];

    fn actions(self) -> &'static str {
        match self {
            Self::Panic => "1*panic",
            Self::Error => "1*return",
            // About as long as followers wait before they call an election.
            Self::Delay => "1*sleep(1000)",
        }
    }
}

/// Runs an episode; tells which processes ended by it. Errors: what did not hold.
pub(crate) fn run_one(rig: &mut Rig, point: Failpoint, kind: Kind) -> Result<String, String> {
    let (course, at) = course::of(point);
    let (before, before_over) = (rig.told(FIRES, point), rig.told(FIRED, point));
    let wanted = format!("{}={}", point.name(), kind.actions());
    let mut drive = Drive::begin(rig, course, (at == At::Start).then(|| wanted.clone()))?;
    for role in Rig::roles(at) {
        rig.cluster.arm(role, &wanted).map_err(|problem| format!("{} is not armed: {problem}", role.name()))?;
    }
    rig.wait_for(FIRES_WITHIN, "it is not met", |rig| {
        if rig.told(FIRES, point) > before {
            return Ok(true);
        }
        drive.on(rig).map(|()| false)
    })?;
    // Until then the process neither goes on nor begins to end: a panic is told with all the functions it is in.
    rig.wait_for(FIRES_WITHIN, "it is not over", |rig| Ok(rig.told(FIRED, point) > before_over))?;
    drive.end(rig)?;
    for role in Rig::roles(at) {
        // One that is not there, or does not answer, is told by what follows.
        let _ = rig.cluster.arm(role, &format!("{}=off", point.name()));
    }
    if kind == Kind::Panic {
        // So that who heard of it has begun to end.
        let fired = Instant::now();
        rig.wait_for(FIRES_WITHIN, "time stands still", |_| Ok(fired.elapsed() > HEARD_WITHIN))?;
    }
    come_back(rig)?;
    let ended = rig.take_ended();
    // A node whose store is put back is refused, and ends until it is let go.
    if kind == Kind::Delay && course != Course::PutBack && !ended.is_empty() {
        return Err(format!("a pause ended processes: {ended:?}"));
    }
    let names: Vec<String> = ended.into_iter().map(crate::Role::name).collect();
    Ok(if names.is_empty() { String::new() } else { format!(", {} ended", names.join(", ")) })
}

/// Writes are taken, nothing is lost, and all replicas hold the same.
fn come_back(rig: &mut Rig) -> Result<(), String> {
    rig.write(ROWS_AFTER)?;
    let mut lacks = String::new();
    let whole = rig.wait_for(WHOLE_WITHIN, "the cluster is not whole", |rig| {
        let lack = rig.lacks()?;
        let is_whole = lack.is_none();
        lacks = lack.unwrap_or_default();
        Ok(is_whole)
    });
    whole.map_err(|problem| format!("{problem}: {lacks}"))?;
    rig.count()
}
