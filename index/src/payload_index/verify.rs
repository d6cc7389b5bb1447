//! Reading all of a payload index, to find what opening it does not.

use super::View;
use super::containers::add;
use super::dictionary::Dictionary;
use super::field::Field;
use super::matches::words;
use super::posting::Posting;

/// Whether all keys ascend, all postings hold as many points of the segment as they say, and buckets are the sum of
/// their entries. `None` if not.
pub(super) fn verify(view: &View<'_>) -> Option<()> {
    view.is_ordered().then_some(())?;
    (0..view.fields()).try_for_each(|at| verify_field(&view.field_at(at)?, view.points))
}

fn verify_field(field: &Field<'_>, points: u32) -> Option<()> {
    [field.present].iter().chain(&field.bools).try_for_each(|posting| verify_posting(posting, points))?;
    verify_dictionary(&field.texts, points)?;
    verify_dictionary(&field.numbers, points)?;
    verify_buckets(&field.numbers, points)
}

fn verify_dictionary(dictionary: &Dictionary<'_>, points: u32) -> Option<()> {
    let mut pairs = 0;
    for entry in 0..dictionary.len() {
        let posting = dictionary.entry(entry)?;
        verify_posting(&posting, points)?;
        pairs += u64::from(posting.count());
    }
    let counted = dictionary.count_span(&(0..dictionary.len()))?;
    (dictionary.is_ordered() && pairs == dictionary.totals.pairs && pairs == counted).then_some(())
}

fn verify_posting(posting: &Posting<'_>, points: u32) -> Option<()> {
    let (mut count, mut next) = (0, 0);
    posting.for_each(&mut |offset| {
        (count, next) = ((next..points).contains(&offset).then_some(count + 1)?, offset.saturating_add(1));
        Some(())
    })?;
    (count == posting.count()).then_some(())
}

fn verify_buckets(numbers: &Dictionary<'_>, points: u32) -> Option<()> {
    numbers.buckets().try_for_each(|bucket| {
        let (span, posting) = bucket?;
        verify_posting(&posting, points)?;
        let (mut from_bucket, mut from_entries) = (vec![0; words(points)], vec![0; words(points)]);
        posting.add_to(&mut from_bucket)?;
        numbers.for_each_in(&span, &mut |offset| add(&mut from_entries, offset.into()))?;
        (from_bucket == from_entries).then_some(())
    })
}
