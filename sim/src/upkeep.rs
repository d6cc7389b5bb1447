//! What a node does unasked: heartbeats, members of the groups that it leads, comparing replicas. Mirrors `shoal_node`'s
//! `membership::heartbeats`, `members` and `compare`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_consensus::{GroupStatus, MemberChange, Role as Standing};
use shoal_model::{LogIndex, MembershipStep, NodeId, ShardId};
use shoal_node::simulation::{Compared, Digests, group_of, heir, next_step, odd_ones};

use crate::event::{Answer, Call, CallId, Failure, Outside, Own};
use crate::network::Endpoint;
use crate::node::{Node, Pending};
use crate::process::{Host, Waiting};
use crate::queue::{MS, Ns, SEC};

const HEARTBEAT_EVERY: Ns = 500 * MS;
/// How often groups are compared with the map.
const LOOK_EVERY: Ns = 250 * MS;
/// How often shards are compared.
const COMPARE_EVERY: Ns = 5 * SEC;
/// How long a replica may take to answer.
const ANSWER_WITHIN: Ns = 2 * SEC;

/// A comparison that waits for answers.
pub(crate) struct Comparing {
    waits_for: BTreeSet<NodeId>,
    full_replicas: usize,
    all: BTreeMap<NodeId, Digests>,
}

impl Node {
    /// Mirrors `membership::heartbeats` and `report`.
    pub(crate) fn heartbeat(&mut self, host: &mut Host, out: &mut Outside) {
        out.own(host.id(), HEARTBEAT_EVERY, Own::Heartbeat);
        let Some(node) = self.member else { return };
        let sleeps = |shard: &&ShardId| {
            host.core.as_ref().and_then(|core| core.status(group_of(**shard))).is_some_and(|status| status.sleeps)
        };
        out.tally.asleep += self.replicas.keys().chain(&self.witnesses).filter(sleeps).count() as u64;
        let settled = |status: &GroupStatus| status.role == Standing::Leader && status.members.leaving.is_empty();
        let voters = self.replicas.keys().filter_map(|shard| {
            let status = host.core.as_ref()?.status(group_of(*shard)).filter(settled)?;
            Some((*shard, status.members.voters.clone()))
        });
        let call = Call::Heartbeat { node, voters: voters.collect(), forwarded: false };
        let to = usize::try_from(out.now / SEC).unwrap_or(0) % out.shape.coordinators;
        out.call(host.me(), to, call);
    }

    /// Mirrors a turn of `members::follow`.
    pub(crate) fn follow_members(&mut self, host: &mut Host, out: &mut Outside) {
        out.own(host.id(), LOOK_EVERY, Own::Members);
        let map = self.map.clone();
        for shard in self.replicas.keys().copied().collect::<Vec<_>>() {
            let status = host.core.as_ref().and_then(|core| core.status(group_of(shard)));
            let Some(status) = status.filter(|status| status.role == Standing::Leader) else { continue };
            let Some(entry) = map.shards.get(&shard) else { continue };
            let reign = self.reigns.length(shard, status.term, Duration::from_nanos(out.now));
            match next_step(entry, &status, reign, &BTreeSet::new()) {
                Some(MembershipStep::AddLearner(id)) => {
                    host.change(group_of(shard), &[MemberChange::AddLearner(id)], Waiting::Change);
                }
                Some(MembershipStep::Exchange { promote, remove }) => {
                    let promote = promote.into_iter().map(MemberChange::Promote);
                    let changes: Vec<_> = promote.chain(remove.into_iter().map(MemberChange::Remove)).collect();
                    host.change(group_of(shard), &changes, Waiting::Change);
                }
                Some(MembershipStep::HandOver) => {
                    if let Some((heir, core)) = heir(entry, &status, &BTreeSet::new()).zip(host.core.as_mut()) {
                        // Whether it was taken shows in the status.
                        drop(core.transfer_leader(group_of(shard), heir));
                    }
                }
                None => {}
            }
        }
    }

    /// Mirrors a turn of `compare::compare_all`.
    pub(crate) fn compare_all(&mut self, host: &mut Host, out: &mut Outside) {
        out.own(host.id(), COMPARE_EVERY, Own::Compare);
        for shard in self.replicas.keys().copied().collect::<Vec<_>>() {
            let status = host.core.as_ref().and_then(|core| core.status(group_of(shard)));
            let others = self.peers_of(shard);
            let leads = status.is_some_and(|status| status.role == Standing::Leader);
            if !leads || others.is_empty() || self.comparing.contains_key(&shard) {
                continue;
            }
            let comparing = Comparing {
                waits_for: others.iter().copied().collect(),
                full_replicas: others.len() + 1,
                all: BTreeMap::new(),
            };
            self.comparing.insert(shard, comparing);
            for node in others {
                let to = self.process_of_node(node).unwrap_or(host.number);
                self.ask(to, Call::Digests { shard }, Pending::Digests { shard, node }, ANSWER_WITHIN, host, out);
            }
        }
    }

    pub(crate) fn give_digests(&mut self, to: (Endpoint, CallId), shard: ShardId, host: &Host, out: &mut Outside) {
        let answer = match self.replicas.get(&shard) {
            Some(replica) => Answer::Digests(replica.digests.iter().copied().collect()),
            None => Answer::Failed(Failure::NotReady),
        };
        out.answer(host.number, to, answer);
    }

    /// Mirrors `compare::compare`, from where the answers are there.
    pub(crate) fn digests_answered(
        &mut self,
        shard: ShardId,
        node: NodeId,
        answer: Answer,
        host: &mut Host,
        out: &mut Outside,
    ) {
        let Some(comparing) = self.comparing.get_mut(&shard) else { return };
        comparing.waits_for.remove(&node);
        if let Answer::Digests(digests) = answer {
            comparing.all.insert(node, digests);
        }
        if !comparing.waits_for.is_empty() {
            return;
        }
        let (Some(Comparing { full_replicas, mut all, .. }), Some(me)) = (self.comparing.remove(&shard), self.member)
        else {
            return;
        };
        let own: BTreeMap<LogIndex, u128> =
            self.replicas.get(&shard).map(|replica| replica.digests.iter().copied().collect()).unwrap_or_default();
        all.insert(me, own);
        let Compared { odd, .. } = odd_ones(me, full_replicas, &all);
        for odd in odd {
            let digest = (odd.index, odd.digest);
            if odd.node == me {
                self.take_rebuild(shard, digest, host, out);
            } else if let Some(to) = self.process_of_node(odd.node) {
                out.call(host.me(), to, Call::Rebuild { shard, index: odd.index, digest: odd.digest });
            }
        }
    }
}
