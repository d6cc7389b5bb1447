//! Serialised Roaring bitmaps, read where they lie.
//!
//! Offsets that share their upper 16 bits are one container, which holds their lower 16 in the form that is smallest.
//! Format: <https://github.com/RoaringBitmap/RoaringFormatSpec>.

use crate::packed::Reader;

/// Words of the 65,536 offsets that one container covers.
const CONTAINER_WORDS: usize = 1 << 10;

/// Largest container that is an array.
const ARRAY_MAX: usize = 4_096;

/// Sets one bit.
#[inline]
pub(super) fn add(bits: &mut [u64], offset: u64) -> Option<()> {
    let word = bits.get_mut(usize::try_from(offset / 64).ok()?)?;
    *word |= 1 << (offset % 64);
    Some(())
}

/// The lower 16 bits of some offsets that share the upper.
#[derive(Clone, Copy, Debug)]
pub(super) enum Container<'a> {
    /// Each of them.
    Array(&'a [[u8; 2]]),
    /// A bit for each.
    Bitmap(&'a [[u8; 8]]),
    /// The first of a run, and how many more follow it.
    Runs(&'a [[u8; 4]]),
}

fn low(bytes: [u8; 2]) -> u16 {
    u16::from_le_bytes(bytes)
}

/// First and last of a run; `None` if it ends beyond its container.
fn run([a, b, c, d]: [u8; 4]) -> Option<(u16, u16)> {
    let first = low([a, b]);
    Some((first, first.checked_add(low([c, d]))?))
}

impl Container<'_> {
    /// Sets the bits of its offsets, of which `key` is the upper half.
    pub(super) fn add_to(&self, bits: &mut [u64], key: u16) -> Option<()> {
        let start = usize::from(key) * CONTAINER_WORDS;
        let bits = bits.get_mut(start..)?;
        let bits = if bits.len() > CONTAINER_WORDS { &mut bits[..CONTAINER_WORDS] } else { bits };
        match self {
            Self::Array(lows) => lows.iter().try_for_each(|&bytes| add(bits, u64::from(low(bytes)))),
            Self::Bitmap(words) => {
                bits.iter_mut().zip(*words).for_each(|(word, &more)| *word |= u64::from_le_bytes(more));
                // What no point can have must not be set.
                words.get(bits.len()..)?.iter().all(|&more| more == [0; 8]).then_some(())
            }
            Self::Runs(runs) => runs.iter().try_for_each(|&bytes| {
                let (first, last) = run(bytes)?;
                add_run(bits, first, last)
            }),
        }
    }

    /// Calls `seen` with each lower half in turn, until it answers `None`.
    pub(super) fn for_each(&self, seen: &mut impl FnMut(u16) -> Option<()>) -> Option<()> {
        match self {
            Self::Array(lows) => lows.iter().try_for_each(|&bytes| seen(low(bytes))),
            Self::Bitmap(words) => (0_u16..).step_by(64).zip(*words).try_for_each(|(first, &word)| {
                let mut left = u64::from_le_bytes(word);
                while left != 0 {
                    #[allow(clippy::cast_possible_truncation, reason = "below 64")]
                    seen(first | left.trailing_zeros() as u16)?;
                    left &= left - 1;
                }
                Some(())
            }),
            Self::Runs(runs) => runs.iter().try_for_each(|&bytes| {
                let (first, last) = run(bytes)?;
                (first..=last).try_for_each(&mut *seen)
            }),
        }
    }
}

/// Sets the bits from `first` to `last`, both included, a word at a time.
fn add_run(bits: &mut [u64], first: u16, last: u16) -> Option<()> {
    let (from, to) = (usize::from(first / 64), usize::from(last / 64));
    let head = u64::MAX << (first % 64);
    let tail = u64::MAX >> (63 - last % 64);
    match bits.get_mut(from..=to)? {
        [] => {}
        [word] => *word |= head & tail,
        [begin, middle @ .., end] => {
            *begin |= head;
            middle.fill(u64::MAX);
            *end |= tail;
        }
    }
    Some(())
}

/// Calls `seen` with the upper 16 bits and the lower ones of each container of a serialised Roaring bitmap.
///
/// Containers ascend and so do runs, so that hostile bytes cannot make more work than a set of their size.
pub(super) fn for_each(bytes: &[u8], mut seen: impl FnMut(u16, Container<'_>) -> Option<()>) -> Option<()> {
    const COOKIE_PLAIN: u32 = 12_346;
    const COOKIE_RUNS: u32 = 12_347;
    const OFFSETS_FROM: usize = 4;
    let mut reader = Reader::new(bytes);
    let cookie = u32::from_le_bytes(*reader.take(4)?.first_chunk()?);
    let (containers, runs) = if cookie == COOKIE_PLAIN {
        (u32::from_le_bytes(*reader.take(4)?.first_chunk()?) as usize, &[][..])
    } else if cookie & 0xffff == COOKIE_RUNS {
        let containers = (cookie >> 16) as usize + 1;
        (containers, reader.take(containers.div_ceil(8))?)
    } else {
        return None;
    };
    let heads = reader.take(containers.checked_mul(4)?)?.as_chunks::<4>().0;
    if cookie == COOKIE_PLAIN || containers >= OFFSETS_FROM {
        reader.take(containers * 4)?;
    }
    let mut last_key = None;
    for (at, &[a, b, c, d]) in heads.iter().enumerate() {
        let key = low([a, b]);
        if last_key.replace(key).is_some_and(|last| last >= key) {
            return None;
        }
        let is_runs = runs.get(at / 8).is_some_and(|flags| flags >> (at % 8) & 1 == 1);
        seen(key, container(&mut reader, usize::from(low([c, d])) + 1, is_runs)?)?;
    }
    Some(())
}

fn container<'a>(reader: &mut Reader<'a>, count: usize, is_runs: bool) -> Option<Container<'a>> {
    Some(if is_runs {
        let count = low(*reader.take(2)?.first_chunk()?);
        let runs = reader.take(usize::from(count) * 4)?.as_chunks().0;
        let ends = runs.iter().map(|&bytes| run(bytes));
        let ascend = ends.clone().zip(ends.skip(1)).all(|(a, b)| a.zip(b).is_some_and(|(a, b)| a.1 < b.0));
        ascend.then_some(Container::Runs(runs))?
    } else if count <= ARRAY_MAX {
        Container::Array(reader.take(count * 2)?.as_chunks().0)
    } else {
        Container::Bitmap(reader.take(CONTAINER_WORDS * 8)?.as_chunks().0)
    })
}
