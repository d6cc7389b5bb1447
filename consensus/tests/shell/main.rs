//! The shell with real threads: election, proposals, reads, restarts, group commit, failing disks.

mod cluster;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cluster::{Disk, GROUP, Network, config, deadline, kill, leader, propose, spec, start};
use shoal_consensus::{Apply, Consensus, ConsensusError, MemberChange, Role};
use shoal_model::{Classify, ErrorKind, GroupId, ReplicaId};
use tokio::time::Instant;

const VOTERS: [u64; 3] = [1, 2, 3];

#[tokio::test(flavor = "multi_thread")]
async fn three_processes_survive_their_leader_and_their_own_restart() {
    let network = Arc::new(Network::default());
    let disks: Vec<Arc<Disk>> = VOTERS.iter().map(|_| Arc::default()).collect();
    let mut members = Vec::new();
    for (me, disk) in VOTERS.into_iter().zip(&disks) {
        members.push(Some(start(me, &VOTERS, disk, &network).await));
    }
    for number in 0..50 {
        propose(&members, number).await;
    }
    let first = leader(&members).await;
    let follower = members[(first + 1) % 3].as_ref().expect("it is up").handle.clone();
    let refused = follower.propose(GROUP, vec![1; 8].into(), deadline()).await.expect_err("it does not lead");
    assert_eq!(refused.kind(), ErrorKind::NotLeader, "only a leader takes proposals: {refused}");

    kill(VOTERS[first], members[first].take().expect("it is up"), &disks[first], &network).await;
    for number in 50..100 {
        propose(&members, number).await;
    }
    members[first] = Some(start(VOTERS[first], &VOTERS, &disks[first], &network).await);
    for member in members.iter().flatten() {
        let index = member.handle.read_index(GROUP, deadline()).await.expect("every member can be asked");
        let by = deadline();
        while member.handle.status(GROUP).expect("it is open").applied < index {
            assert!(Instant::now() < by, "a member catches up with {index}");
            tokio::task::yield_now().await;
        }
        let numbers = member.numbers.lock().expect("nobody panics").clone();
        assert!((0..100).all(|number| numbers.contains(&number)), "an acknowledged number is missing: {numbers:?}");
    }
    until_all_sleep(&members).await;
    change_hands(&members).await;
    for (i, member) in members.into_iter().enumerate() {
        kill(VOTERS[i], member.expect("it is up"), &disks[i], &network).await;
    }
}

/// Waits until nobody uses the group any more.
async fn until_all_sleep(members: &[Option<cluster::Member>]) {
    let by = deadline();
    let sleeps = |member: &cluster::Member| member.handle.status(GROUP).is_some_and(|status| status.sleeps);
    while !members.iter().flatten().all(sleeps) {
        assert!(Instant::now() < by, "an idle group falls asleep");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Transfers the lead and removes the old leader. On a busy machine the lead may move by itself in between.
async fn change_hands(members: &[Option<cluster::Member>]) {
    let leaving = leader(members).await;
    let removal = vec![MemberChange::Remove(ReplicaId(VOTERS[leaving]))];
    let by = deadline();
    while Instant::now() < by {
        let at = leader(members).await;
        let handle = &members[at].as_ref().expect("it leads").handle;
        let result = handle.change_membership(GROUP, removal.clone(), by).await;
        if at == leaving {
            assert!(result.is_err(), "a leader does not remove itself");
            let heir = ReplicaId(VOTERS[(at + 1) % 3]);
            match handle.transfer_leader(GROUP, heir, Instant::now() + Duration::from_secs(2)).await {
                Ok(()) => assert_ne!(handle.status(GROUP).expect("it is open").role, Role::Leader, "it handed over"),
                Err(error) => assert_ne!(error.kind(), ErrorKind::Internal, "a transfer may fail, but not so: {error}"),
            }
        } else if result.is_ok() {
            let status = handle.status(GROUP).expect("it is open");
            assert_eq!(status.members.voters.len(), 2, "two members are left");
            return;
        }
    }
    panic!("the old leader was not removed in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_groups_share_their_syncs() {
    const GROUPS: u64 = 1_000;
    let disk = Arc::new(Disk::default());
    let (handle, thread) =
        Consensus::<u64>::start(disk.clone(), Arc::new(Network::default()), config(1)).expect("it starts");
    let opened = (1..=GROUPS).map(|i| handle.open_group(spec(GroupId(i), 1, &[1])));
    let mut machines = tokio::task::JoinSet::new();
    for (group, work) in (1..=GROUPS).map(GroupId).zip(join_all(opened).await) {
        let (handle, mut work) = (handle.clone(), work.expect("it opens"));
        machines.spawn(async move {
            while let Some(apply) = work.recv().await {
                let Apply::Entry { index, reply, .. } = apply else { panic!("nothing to restore") };
                if let Some(reply) = reply {
                    reply.send(index.0).expect("the proposer waits");
                }
                handle.applied(group, index);
            }
        });
    }
    let before = disk.syncs.load(Ordering::SeqCst);
    let proposals = (1..=GROUPS).map(|i| handle.propose(GroupId(i), vec![7; 100].into(), deadline()));
    for answer in join_all(proposals).await {
        answer.expect("a group of one commits");
    }
    let syncs = disk.syncs.load(Ordering::SeqCst) - before;
    println!("{GROUPS} groups opened with {before} syncs and committed with {syncs}");
    assert!(before <= 100 && syncs <= 100, "{GROUPS} groups took {before} and {syncs} syncs");
    handle.close_group(GroupId(5), true).await.expect("it closes");
    assert_eq!(handle.status(GroupId(5)), None);
    handle.shut_down().await;
    thread.ended().await.expect("it ends well");
    while let Some(ended) = machines.join_next().await {
        ended.expect("the machines end with their mailboxes");
    }
}

/// Runs futures at once and collects what they return, in order.
async fn join_all<F: Future<Output: Send + 'static>>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let std::task::Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *output = Some(ready);
            }
        }
        if outputs.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_sync_ends_everything() {
    let disk = Arc::new(Disk::default());
    let member = start(1, &[1], &disk, &Arc::new(Network::default())).await;
    member.handle.propose(GROUP, vec![0; 8].into(), deadline()).await.expect("a group of one commits");
    disk.broken.store(1, Ordering::SeqCst);
    let refused = member.handle.propose(GROUP, vec![1; 8].into(), deadline()).await.expect_err("the disk is gone");
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "open calls are told: {refused}");
    let ended = member.thread.ended().await;
    assert!(matches!(ended, Err(ConsensusError::Store(_))), "the owner sees why: {ended:?}");
    let refused = member.handle.read_index(GROUP, deadline()).await.expect_err("nobody is there");
    assert!(matches!(refused, ConsensusError::Stopped), "later calls are told: {refused}");
}

#[tokio::test]
async fn calls_have_deadlines_and_limits() {
    let disk = Arc::new(Disk::default());
    // The other two voters never come.
    let member = start(1, &VOTERS, &disk, &Arc::new(Network::default())).await;
    let soon = || Instant::now() + Duration::from_millis(50);
    let late = member.handle.read_index(GROUP, soon()).await.expect_err("there is no leader");
    assert_eq!(late.kind(), ErrorKind::DeadlineExceeded);
    let refused = member.handle.propose(GROUP, vec![0; 8].into(), soon()).await.expect_err("there is no leader");
    assert!(matches!(refused, ConsensusError::NotLeader { leader: None, .. }), "{refused}");
    let unknown = member.handle.propose(GroupId(9), vec![0; 8].into(), soon()).await.expect_err("no such group");
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    let again = member.handle.open_group(spec(GROUP, 1, &VOTERS)).await.expect_err("it is open");
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    member.handle.shut_down().await;
    member.thread.ended().await.expect("it ends well");
}
