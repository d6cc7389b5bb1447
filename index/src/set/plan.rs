//! Which parts to turn into which: a pure function of their sizes.
//!
//! A search pays for each segment nearly as much as for all points in one, so few large ones are wanted; a point pays
//! for each time it is built in anew. Segments are merged when [`MERGE_MIN`] are of one size, within a factor of
//! [`MERGE_SPREAD`]: of each size there are at most three then, and a point is built `log4(segment / delta)` times
//! beside its first, 4 times from 64 thousand to 16 million. Rewriting at a quarter of tombstones costs three points
//! built for each that died, and no walk more than a third of its hops.
//!
//! While nothing is written there is time to do better: two segments within a factor of [`QUIET_SPREAD`] are worth a merge
//! then, and an eighth of a full delta a segment, so that a set that was loaded comes to rest as one segment, or a few
//! whose sizes lie far apart. Writes that come in small lots with pauses build a point eight times for each eightfold
//! growth at most.
//!
//! Source: size-tiered compaction as in Bigtable, OSDI 2006, and Lucene's `TieredMergePolicy`, whose floor is ours too.

use super::part::{Part, PartId, PartKind};

/// Fewest segments worth a merge, unless they fill a segment.
const MERGE_MIN: usize = 4;

/// The largest segment of a merge has at most so many times the points of the smallest.
const MERGE_SPREAD: usize = 4;

/// Both, while nothing is written.
const QUIET_MIN: usize = 2;
const QUIET_SPREAD: usize = 8;

/// One in so many points of a full delta are worth a segment while nothing is written: fewer take a scan 30 µs.
const QUIET_DELTA_SHARE: usize = 8;

/// One in so many points is a tombstone before a segment is rewritten for them.
const DEAD_SHARE: usize = 4;

/// Sizes that the caller chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Points at which a delta is sealed. Segments of fewer count as being of this size.
    pub delta_points_max: usize,
    /// Memory at which a delta is sealed.
    pub delta_bytes_max: usize,
    /// Points that no merge exceeds.
    pub segment_points_max: usize,
}

/// What to make one segment of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Job {
    /// A sealed delta.
    Build {
        /// The delta.
        delta: PartId,
    },
    /// Several segments.
    Merge {
        /// The segments, the smallest first.
        segments: Vec<PartId>,
    },
    /// A segment with many tombstones, or without a living point.
    Rewrite {
        /// The segment.
        segment: PartId,
    },
    /// Parts of any kind, for a segment that was made elsewhere to take their place, or to be built anew of what lives in
    /// them. Never planned.
    Gather {
        /// Sealed deltas and segments.
        parts: Vec<PartId>,
    },
}

impl Job {
    /// The parts that it replaces.
    #[must_use]
    pub fn parts(&self) -> &[PartId] {
        match self {
            Self::Build { delta } => std::slice::from_ref(delta),
            Self::Merge { segments } => segments,
            Self::Rewrite { segment } => std::slice::from_ref(segment),
            Self::Gather { parts } => parts,
        }
    }
}

impl Policy {
    /// Whether a delta of so many points and bytes is to be sealed.
    #[must_use]
    pub fn is_full(&self, points: usize, bytes: usize) -> bool {
        points > 0 && (points >= self.delta_points_max || bytes >= self.delta_bytes_max)
    }

    /// Whether a delta of so many points and bytes is to be sealed while nothing is written.
    #[must_use]
    pub fn is_worth_a_segment(&self, points: usize, bytes: usize) -> bool {
        self.is_full(points.saturating_mul(QUIET_DELTA_SHARE), bytes.saturating_mul(QUIET_DELTA_SHARE))
    }
}

/// The next job on `parts`, those that are in no job yet, the oldest first.
///
/// Sealed deltas come first, as every search scans them; then segments that only need to be dropped.
#[must_use]
pub fn plan(parts: &[Part], policy: &Policy) -> Option<Job> {
    let of = |kind| parts.iter().filter(move |part| part.kind == kind);
    let segments: Vec<&Part> = of(PartKind::Segment).collect();
    let build = of(PartKind::Sealed).next().map(|part| Job::Build { delta: part.id });
    build
        .or_else(|| drop_dead(&segments))
        .or_else(|| merge(&segments, policy, MERGE_MIN, MERGE_SPREAD))
        .or_else(|| rewrite(&segments))
}

/// The next job on parts of a set that nobody writes to: what [`plan`] says, then larger segments than it asks for.
#[must_use]
pub fn plan_quiet(parts: &[Part], policy: &Policy) -> Option<Job> {
    let segments: Vec<&Part> = parts.iter().filter(|part| part.kind == PartKind::Segment).collect();
    plan(parts, policy).or_else(|| merge(&segments, policy, QUIET_MIN, QUIET_SPREAD))
}

fn drop_dead(segments: &[&Part]) -> Option<Job> {
    segments.iter().find(|part| part.live == 0).map(|part| Job::Rewrite { segment: part.id })
}

/// The smallest segments that are of one size within a factor of `spread`, as many as fit, if they are at least `min`.
fn merge(segments: &[&Part], policy: &Policy, min: usize, spread: usize) -> Option<Job> {
    let size = |part: &Part| part.live.max(policy.delta_points_max);
    let mut by_size = segments.to_vec();
    by_size.sort_by_key(|part| (part.live, part.id));
    let run = |start: usize| {
        let largest = size(by_size[start]).saturating_mul(spread);
        let end = by_size.partition_point(|part| size(part) <= largest);
        fitting(&by_size[start..end], policy.segment_points_max, min)
    };
    let found = (0..by_size.len()).find_map(run)?;
    Some(Job::Merge { segments: found.iter().map(|part| part.id).collect() })
}

/// The first of a run that make no segment larger than `points_max`, if they are worth a merge.
fn fitting<'a, 'p>(run: &'a [&'p Part], points_max: usize, min: usize) -> Option<&'a [&'p Part]> {
    if run.len() < min {
        return None;
    }
    let mut points = 0_usize;
    let fits = |part: &&&Part| {
        let with = points.saturating_add(part.live);
        (with <= points_max).then(|| points = with).is_some()
    };
    let taken = run.iter().take_while(fits).count();
    // What is more than half of the largest is merged no more, so that fewer are worth it once.
    let fills = taken >= 2 && points > points_max / 2;
    (taken >= min || fills).then(|| &run[..taken])
}

/// The segment with the largest share of tombstones, if that is large.
fn rewrite(segments: &[&Part]) -> Option<Job> {
    let dead = |part: &Part| part.points - part.live;
    let worn = segments.iter().filter(|part| dead(part) * DEAD_SHARE > part.points);
    // Shares compared without division: a/b against c/d.
    let by_share = |a: &&&Part, b: &&&Part| {
        (dead(a) as u128 * b.points as u128).cmp(&(dead(b) as u128 * a.points as u128)).then(b.id.cmp(&a.id))
    };
    worn.max_by(by_share).map(|part| Job::Rewrite { segment: part.id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    const POLICY: Policy = Policy { delta_points_max: 100, delta_bytes_max: 1 << 20, segment_points_max: 10_000 };

    fn segments(sizes: &[(usize, usize)]) -> Vec<Part> {
        let part = |(id, &(points, live))| Part { id: PartId(id), kind: PartKind::Segment, points, live, bytes: 0 };
        (0..).zip(sizes).map(part).collect()
    }

    fn whole(sizes: &[usize]) -> Vec<Part> {
        segments(&sizes.iter().map(|size| (*size, *size)).collect::<Vec<_>>())
    }

    fn sealed(id: u64, live: usize) -> Part {
        Part { id: PartId(id), kind: PartKind::Sealed, points: live, live, bytes: 0 }
    }

    fn merge_of(ids: &[u64]) -> Option<Job> {
        Some(Job::Merge { segments: ids.iter().copied().map(PartId).collect() })
    }

    fn rewrite_of(id: u64) -> Option<Job> {
        Some(Job::Rewrite { segment: PartId(id) })
    }

    #[test]
    fn the_next_job_follows_from_sizes() {
        let active = Part { kind: PartKind::Active, ..sealed(90, 100) };
        let build = |id| Some(Job::Build { delta: PartId(id) });
        for (name, parts, want) in [
            ("nothing", vec![], None),
            ("what grows is left alone", vec![active], None),
            ("the oldest sealed delta first", [whole(&[100; 4]), vec![sealed(7, 9), sealed(5, 9)]].concat(), build(7)),
            ("a dead sealed delta too", vec![sealed(7, 0)], build(7)),
            ("three of a size wait", whole(&[100; 3]), None),
            ("four of a size", whole(&[100; 4]), merge_of(&[0, 1, 2, 3])),
            ("all of a size", whole(&[100; 6]), merge_of(&[0, 1, 2, 3, 4, 5])),
            ("within a factor of four", whole(&[400, 200, 100, 300]), merge_of(&[2, 1, 3, 0])),
            ("beyond it", whole(&[401, 200, 100, 300]), None),
            ("the smallest that are of a size", whole(&[900, 100, 800, 700, 600]), merge_of(&[4, 3, 2, 0])),
            ("tiny ones are of one size", whole(&[1, 10, 100, 400]), merge_of(&[0, 1, 2, 3])),
            ("no larger than the largest", whole(&[2_600; 4]), merge_of(&[0, 1, 2])),
            ("two that fill a segment", whole(&[2_000, 4_000, 6_000, 7_000]), merge_of(&[0, 1])),
            ("none fits another", whole(&[6_000; 5]), None),
            ("full ones are left alone", whole(&[100, 10_000, 10_000, 10_000, 10_000]), None),
            ("a quarter of tombstones is borne", segments(&[(400, 300)]), None),
            ("more is not", segments(&[(400, 299)]), rewrite_of(0)),
            ("the worst first", segments(&[(400, 290), (40, 19), (400, 200)]), rewrite_of(1)),
            ("a merge drops them as well", segments(&[(400, 100); 4]), merge_of(&[0, 1, 2, 3])),
            ("living points count", segments(&[(9_000, 3_000); 4]), merge_of(&[0, 1, 2])),
            ("what only needs to be dropped", segments(&[(100, 100), (100, 0), (9, 9), (9, 9), (9, 9)]), rewrite_of(1)),
            ("empty ones as well", segments(&[(0, 0)]), rewrite_of(0)),
        ] {
            assert_eq!(plan(&parts, &POLICY), want, "{name}");
        }
    }

    #[test]
    fn a_quiet_set_is_merged_further() {
        for (name, parts, want) in [
            ("nothing", vec![], None),
            ("one", whole(&[100]), None),
            ("two of a size", whole(&[100, 700]), merge_of(&[0, 1])),
            ("beyond a factor of eight", whole(&[801, 100]), None),
            ("tiny ones are of one size", whole(&[1, 3, 900]), merge_of(&[0, 1])),
            ("the smallest first", whole(&[9_000, 5_000, 100, 200]), merge_of(&[2, 3])),
            ("no larger than the largest", whole(&[6_000, 6_000]), None),
            ("what is asked for anyway comes first", [whole(&[100; 2]), vec![sealed(7, 9)]].concat(), {
                Some(Job::Build { delta: PartId(7) })
            }),
        ] {
            assert_eq!(plan_quiet(&parts, &POLICY), want, "{name}");
        }
    }

    #[test]
    fn small_lots_with_pauses_build_points_a_bounded_number_of_times() {
        let policy = Policy { segment_points_max: 1_000_000, ..POLICY };
        let (mut parts, mut next, mut points, mut built, mut most) = (vec![], 0, 0, 0, 0);
        for _ in 0..4_000 {
            let size = policy.delta_points_max / QUIET_DELTA_SHARE;
            parts.push(Part { id: PartId(next), kind: PartKind::Segment, points: size, live: size, bytes: 0 });
            (next, points) = (next + 1, points + size);
            while let Some(job) = plan_quiet(&parts, &policy) {
                let (merged, rest): (Vec<Part>, _) = parts.into_iter().partition(|part| job.parts().contains(&part.id));
                let live = merged.iter().map(|part| part.live).sum();
                parts = rest;
                parts.push(Part { id: PartId(next), kind: PartKind::Segment, points: live, live, bytes: 0 });
                (next, built) = (next + 1, built + live);
            }
            most = most.max(parts.len());
        }
        assert_eq!(parts.iter().map(|part| part.live).sum::<usize>(), points);
        // 48,000 points are 480 full deltas: three times eightfold.
        assert!(most <= 4, "{most} segments at a time");
        assert!(built <= 8 * 4 * points, "{built} points built in again of {points}");
    }

    #[test]
    fn deltas_are_full_by_points_or_bytes() {
        for (points, bytes, want) in [(0, 2 << 20, false), (99, 0, false), (100, 0, true), (1, 1 << 20, true)] {
            assert_eq!(POLICY.is_full(points, bytes), want, "{points} points, {bytes} bytes");
        }
        for (points, bytes, want) in [(0, 2 << 20, false), (12, 0, false), (13, 0, true), (1, 1 << 17, true)] {
            assert_eq!(POLICY.is_worth_a_segment(points, bytes), want, "{points} points, {bytes} bytes, quiet");
        }
    }

    #[test]
    fn a_growing_set_keeps_few_segments_and_builds_points_few_times() {
        let mut rng = StdRng::seed_from_u64(3);
        let policy = Policy { segment_points_max: 40_000, ..POLICY };
        let (mut parts, mut next, mut points, mut built, mut most) = (vec![], 0, 0, 0, 0);
        for _ in 0..2_000 {
            let size = rng.random_range(60..=100);
            parts.push(Part { id: PartId(next), kind: PartKind::Segment, points: size, live: size, bytes: 0 });
            (next, points) = (next + 1, points + size);
            while let Some(job) = plan(&parts, &policy) {
                let (merged, rest): (Vec<Part>, _) = parts.into_iter().partition(|part| job.parts().contains(&part.id));
                let live = merged.iter().map(|part| part.live).sum();
                assert!(live <= policy.segment_points_max && merged.len() == job.parts().len());
                parts = rest;
                parts.push(Part { id: PartId(next), kind: PartKind::Segment, points: live, live, bytes: 0 });
                (next, built) = (next + 1, built + live);
            }
            most = most.max(parts.len());
        }
        assert_eq!(parts.iter().map(|part| part.live).sum::<usize>(), points);
        // 160,000 points: 4 segments at least, and three of each size below.
        assert!(most <= 20, "{most} segments at a time");
        assert!(built <= 6 * points, "{built} points built in again of {points}");
    }
}
