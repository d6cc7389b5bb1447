//! What is to be said of the coordinators themselves: whether most of them have a vote, and what to do if not.

use shoal_proto::v1;
use shoal_proto::v1::{CoordinatorStanding, CoordinatorStatus};

/// Whether coordinators can agree on anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// Most of them have a vote and are in reach; so many more than are needed.
    Quorum(usize),
    /// Those that are out of reach may have the votes that are lacking.
    OutOfReach,
    /// Most have lost what they had, and with it their votes: no start of others brings those back.
    DataLost,
    /// None that is in reach has ever been a member.
    NotBegun,
}

/// How these stand together.
pub(crate) fn stand(coordinators: &[CoordinatorStatus]) -> Stand {
    let votes: Vec<&CoordinatorStatus> = coordinators.iter().filter(|c| c.reachable && !has_no_vote(c)).collect();
    let silent = coordinators.iter().filter(|coordinator| !coordinator.reachable).count();
    let needed = coordinators.len() / 2 + 1;
    if let Some(spare) = votes.len().checked_sub(needed) {
        return Stand::Quorum(spare);
    }
    let joins = coordinators.iter().any(|coordinator| coordinator.standing() == CoordinatorStanding::Joining);
    let has_begun = joins || votes.iter().any(|coordinator| coordinator.applied_index > 0);
    if !has_begun && silent < coordinators.len() {
        Stand::NotBegun
    } else if votes.len() + silent < needed {
        Stand::DataLost
    } else {
        Stand::OutOfReach
    }
}

/// Whether a coordinator says that it has no vote.
fn has_no_vote(coordinator: &CoordinatorStatus) -> bool {
    matches!(coordinator.standing(), CoordinatorStanding::Joining | CoordinatorStanding::Asking)
}

/// Those of some coordinators, with where they are to be started: `2 (http://b:7901) and 3 (http://c:7901)`.
fn named(coordinators: &[CoordinatorStatus], which: impl Fn(&CoordinatorStatus) -> bool) -> String {
    let those = coordinators.iter().filter(|coordinator| which(coordinator));
    let named: Vec<String> = those.map(|one| format!("{} ({})", one.id, one.address)).collect();
    named.join(" and ")
}

/// That nobody leads, if that is so (`stale`), and what to do.
pub(crate) fn no_leader(coordinators: &[CoordinatorStatus], stand: Stand, stale: bool) -> Option<v1::Warning> {
    let go_on = "changes of the cluster wait, searches and writes go on";
    let is_silent = |coordinator: &CoordinatorStatus| !coordinator.reachable;
    let silent = named(coordinators, is_silent);
    let (text, next_step) = match stand {
        _ if !stale => return None,
        Stand::Quorum(_) => (
            format!("no coordinator leads: {go_on}"),
            "wait some seconds, as they elect one; if it lasts, look at their logs".to_owned(),
        ),
        Stand::OutOfReach => (
            format!("no coordinator leads: {go_on}"),
            format!("start those that are out of reach on their data folders: {silent}; most must run"),
        ),
        Stand::DataLost => (
            format!(
                "no coordinator leads, and none can: the data of most of them is gone, of {}; {go_on}",
                named(coordinators, has_no_vote)
            ),
            "stop one of those, bring its data folder back as it was last, and start it on that: most must run with their \
             data, and then take the others in by themselves"
                .to_owned(),
        ),
        Stand::NotBegun if silent.is_empty() => (
            "no coordinator leads: the cluster begins, and they are about to agree on who does".to_owned(),
            "ask again in some seconds".to_owned(),
        ),
        Stand::NotBegun => (
            format!("no coordinator leads: the data folders of those in reach are empty, and they wait for {silent}"),
            format!(
                "start it, on its data folder if it had one: {silent}; the first start of a cluster needs all coordinators"
            ),
        ),
    };
    Some(v1::Warning { text, next_step })
}

/// Those that have no vote, and those that are out of reach, as far as [`no_leader`] does not tell of them.
pub(crate) fn members(coordinators: &[CoordinatorStatus], stand: Stand, stale: bool) -> Vec<v1::Warning> {
    if stale && matches!(stand, Stand::DataLost | Stand::NotBegun) {
        return Vec::new();
    }
    let without = coordinators.iter().filter(|coordinator| has_no_vote(coordinator));
    let silent = coordinators.iter().filter(|coordinator| !coordinator.reachable);
    without.map(|one| without_vote(one, stand)).chain(silent.map(|one| out_of_reach(one, stand))).collect()
}

/// A coordinator that runs and has no vote yet.
fn without_vote(coordinator: &CoordinatorStatus, stand: Stand) -> v1::Warning {
    let (id, waits_for) = (coordinator.id, &coordinator.waits_for);
    let reason = if waits_for.is_empty() { String::new() } else { format!(": it waits for {waits_for}") };
    let (fails, next_step) = match stand {
        Stand::Quorum(spare) => (
            format!("; {spare} of the others may fail before changes stop"),
            "wait: it joins by itself, in seconds, once most of those that have a vote run and see it",
        ),
        _ => (String::new(), "it joins by itself once most of those that have a vote run: start those first"),
    };
    v1::Warning { text: format!("coordinator {id} has no vote yet{reason}{fails}"), next_step: next_step.to_owned() }
}

fn out_of_reach(coordinator: &CoordinatorStatus, stand: Stand) -> v1::Warning {
    let consequence = match stand {
        Stand::Quorum(spare) => format!("{spare} more may fail before changes stop"),
        _ => "too few are left for changes".to_owned(),
    };
    let text = format!("coordinator {} is out of reach; {consequence}", coordinator.id);
    let next_step = format!("start it again on its data folder; it listened on {}", coordinator.address);
    v1::Warning { text, next_step }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Coordinators by how they stand: has a vote, founds, joins, asks, silent.
    fn coordinators(stand: &[&str]) -> Vec<CoordinatorStatus> {
        let standing = |how: &str| match how {
            "joins" => CoordinatorStanding::Joining,
            "asks" => CoordinatorStanding::Asking,
            "silent" => CoordinatorStanding::Unspecified,
            _ => CoordinatorStanding::Member,
        };
        let one = |(id, how): (u64, &&str)| CoordinatorStatus {
            id,
            address: format!("http://c{id}:7901"),
            reachable: *how != "silent",
            applied_index: if *how == "votes" { 9 } else { 0 },
            standing: standing(how).into(),
            waits_for: if *how == "joins" { "a map".to_owned() } else { String::new() },
            ..Default::default()
        };
        (1..).zip(stand).map(one).collect()
    }

    #[test]
    fn what_to_do_depends_on_who_has_its_data() {
        use Stand::{DataLost, NotBegun, OutOfReach, Quorum};
        for (how, want, text, next) in [
            (["votes", "votes", "votes"], Quorum(1), "no coordinator leads: changes", "as they elect one"),
            (["votes", "votes", "silent"], Quorum(0), "no coordinator leads: changes", "as they elect one"),
            (["votes", "silent", "silent"], OutOfReach, "changes", "2 (http://c2:7901) and 3 (http://c3:7901)"),
            (["votes", "joins", "silent"], OutOfReach, "changes", "out of reach on their data folders: 3 (http://c3"),
            (["silent", "silent", "silent"], OutOfReach, "changes", "1 (http://c1:7901) and 2"),
            (
                ["votes", "joins", "joins"],
                DataLost,
                "is gone, of 2 (http://c2:7901) and 3",
                "bring its data folder back",
            ),
            (["silent", "joins", "joins"], DataLost, "is gone, of 2", "bring its data folder back"),
            (["asks", "asks", "silent"], NotBegun, "they wait for 3 (http://c3:7901)", "start it"),
            (["asks", "asks", "asks"], NotBegun, "the cluster begins", "ask again"),
            (["founds", "asks", "asks"], NotBegun, "the cluster begins", "ask again"),
        ] {
            let all = coordinators(&how);
            assert_eq!(stand(&all), want, "{how:?}");
            let told = no_leader(&all, want, true).expect("nobody leads");
            assert!(told.text.contains(text) && told.next_step.contains(next), "{how:?}: {told:?}");
            assert_eq!(no_leader(&all, want, false), None, "{how:?}: somebody leads");
        }
    }

    #[test]
    fn each_that_is_lacking_is_told_once() {
        for (how, stale, want) in [
            (["votes", "votes", "votes"], false, &[][..]),
            (
                ["votes", "votes", "silent"],
                false,
                &["coordinator 3 is out of reach; 0 more may fail before changes stop"],
            ),
            (
                ["votes", "votes", "joins"],
                false,
                &["coordinator 3 has no vote yet: it waits for a map; 0 of the others may fail before changes stop"],
            ),
            (
                ["votes", "joins", "silent"],
                true,
                &[
                    "coordinator 2 has no vote yet: it waits for a map",
                    "coordinator 3 is out of reach; too few are left for changes",
                ],
            ),
            (["asks", "asks", "silent"], true, &[]),
            (["votes", "joins", "joins"], true, &[]),
        ] {
            let all = coordinators(&how);
            let told = members(&all, stand(&all), stale);
            assert_eq!(told.into_iter().map(|warning| warning.text).collect::<Vec<_>>(), want, "{how:?}");
        }
    }
}
