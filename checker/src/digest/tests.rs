use super::*;

fn observations(list: &[(u64, u64, u64, u8)]) -> Vec<Observation> {
    let observation = |(shard, applied, replica, digest): &(u64, u64, u64, u8)| Observation {
        shard: ShardId(*shard),
        applied: LogIndex(*applied),
        replica: ReplicaId(*replica),
        digest: vec![*digest; 16],
    };
    list.iter().map(observation).collect()
}

#[test]
fn differences_name_the_minority() {
    for (name, list, want) in [
        ("nothing", &[][..], &[][..]),
        ("equal", &[(1, 5, 1, 7), (1, 5, 2, 7), (1, 5, 3, 7)], &[]),
        ("another position", &[(1, 5, 1, 7), (1, 6, 2, 8)], &[]),
        ("another shard", &[(1, 5, 1, 7), (2, 5, 2, 8)], &[]),
        (
            "one of three",
            &[(1, 5, 1, 7), (1, 5, 2, 8), (1, 5, 3, 7)],
            &["shard 1 at position 5: replicas 2 differ from 1, 3"],
        ),
        ("one of two", &[(1, 5, 1, 8), (1, 5, 2, 7)], &["shard 1 at position 5: no majority among replicas 1 | 2"]),
        (
            "all of three",
            &[(1, 5, 1, 8), (1, 5, 2, 7), (1, 5, 3, 9)],
            &["shard 1 at position 5: no majority among replicas 1 | 2 | 3"],
        ),
        (
            "one replica that says two things",
            &[(1, 5, 1, 8), (1, 5, 1, 7), (1, 5, 2, 8)],
            &["shard 1 at position 5: replicas 1 differ from 1, 2"],
        ),
        ("one that says the same twice", &[(1, 5, 1, 8), (1, 5, 1, 8)], &[]),
        (
            "at two positions",
            &[(2, 5, 1, 8), (2, 5, 2, 7), (1, 9, 1, 8), (1, 9, 2, 7)],
            &[
                "shard 1 at position 9: no majority among replicas 1 | 2",
                "shard 2 at position 5: no majority among replicas 1 | 2",
            ],
        ),
    ] {
        let report = check(&observations(list));
        assert_eq!(report.differences.iter().map(ToString::to_string).collect::<Vec<_>>(), want, "{name}");
        assert_eq!((report.is_pass(), report.observations), (want.is_empty(), list.len() as u64), "{name}");
    }
}
