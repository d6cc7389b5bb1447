//! Which points a walk can come to: a check of what must hold of every segment, by the links of its file alone.

use super::frozen::Segment;

impl Segment {
    /// How many points a walk cannot come to that starts at one entry point or another: none, or the file is not as it
    /// was written.
    ///
    /// A diagnostic, for tests, benches and the doubtful: reads every link twice, some microseconds a point, and takes
    /// some 200 bytes a point meanwhile. Of a file that is not as it was written it reads them once for each entry that
    /// leads elsewhere, 512 times at most.
    #[must_use]
    pub fn unreachable(&self) -> u64 {
        let links = |offset, out: &mut Vec<u32>| out.extend(self.neighbours(offset));
        unreachable(self.len(), &self.entry_points(), links)
    }

    /// Where walks start, each once.
    fn entry_points(&self) -> Vec<u32> {
        let entries = self.entries();
        let tails = (0..).take(entries.len()).map(|number| entries.layout().tail(entries.block(number)));
        let mut points: Vec<u32> = tails.flat_map(|tail| tail.links).filter(|point| *point < self.len()).collect();
        points.sort_unstable();
        points.dedup();
        points
    }
}

/// How many of `len` points one entry or another does not lead to. `links` adds whom a point leads to.
fn unreachable(len: u32, entries: &[u32], links: impl Fn(u32, &mut Vec<u32>)) -> u64 {
    let Some(first) = entries.first() else { return u64::from(len) };
    let mut reached = reached(len, *first, &links);
    let mut back = vec![Vec::new(); len as usize];
    let mut out = Vec::new();
    for offset in 0..len {
        links(offset, &mut out);
        out.drain(..).for_each(|link| back[link as usize].push(offset));
    }
    // What leads to the first entry leads wherever that leads. In a sound file that is every other.
    let leads = self::reached(len, *first, |offset, out| out.extend(&back[offset as usize]));
    for stray in entries.iter().filter(|entry| !leads[**entry as usize]) {
        let other = self::reached(len, *stray, &links);
        reached.iter_mut().zip(other).for_each(|(reached, other)| *reached &= other);
    }
    reached.iter().map(|reached| u64::from(!reached)).sum()
}

/// For each point whether `start` leads to it.
fn reached(len: u32, start: u32, links: impl Fn(u32, &mut Vec<u32>)) -> Vec<bool> {
    let mut reached = vec![false; len as usize];
    let mut waiting = vec![start];
    while let Some(offset) = waiting.pop() {
        if !std::mem::replace(&mut reached[offset as usize], true) {
            links(offset, &mut waiting);
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn what_one_of_the_entries_does_not_lead_to_is_counted() {
        // 0 and 1 lead to each other, 2 to both, both to 3; 4 stands alone.
        let links: [&[u32]; 5] = [&[1, 3], &[0], &[0, 1], &[], &[]];
        for (entries, want) in [(&[][..], 5), (&[0], 2), (&[0, 1], 2), (&[2], 1), (&[0, 2], 2), (&[2, 4], 5)] {
            let count = unreachable(5, entries, |offset, out| out.extend(links[offset as usize]));
            assert_eq!(count, want, "entries {entries:?}");
        }
        assert_eq!(unreachable(0, &[], |_, _| {}), 0);
    }

    #[test]
    fn it_is_what_following_each_entry_counts() {
        let mut rng = StdRng::seed_from_u64(4);
        for _ in 0..300 {
            let len = rng.random_range(1..12);
            let mut some =
                |most| (0..rng.random_range(0..=most)).map(|_| rng.random_range(0..len)).collect::<Vec<u32>>();
            let links: Vec<Vec<u32>> = (0..len).map(|_| some(3)).collect();
            let entries = [some(4), vec![0]].concat();
            let follow = |offset: u32, out: &mut Vec<u32>| out.extend(&links[offset as usize]);
            let met: Vec<Vec<bool>> = entries.iter().map(|entry| reached(len, *entry, follow)).collect();
            let missed = (0..len as usize).filter(|at| met.iter().any(|met| !met[*at])).count() as u64;
            assert_eq!(unreachable(len, &entries, follow), missed, "{links:?} from {entries:?}");
        }
    }
}
