//! Numbers as keys: whole numbers and doubles in one order, which is that of their values.
//!
//! A key is the nearest double in a form that sorts by its bits, then how far the number lies from it. Doubles lie
//! on themselves; an `i64` lies at most 512 away. Rounding keeps order, so keys order as the numbers do, and numbers
//! that are equal by value have one key.

use shoal_model::{Range, Scalar};

/// Bits of a key.
const BITS: u32 = 64 + 16;

/// Key of a NaN, above all others: it is a number without bounds, and within none.
const NAN: u128 = (1 << BITS) - 1;

/// Key of a whole number.
pub(super) fn of_integer(number: i64) -> u128 {
    #[allow(clippy::cast_precision_loss, reason = "the rest is kept beside it")]
    let nearest = number as f64;
    #[allow(clippy::cast_possible_truncation, reason = "a double within 2^63 is within the range of i128")]
    let rest = i128::from(number) - nearest as i128;
    key(nearest, rest)
}

/// Key of a double.
pub(super) fn of_double(number: f64) -> u128 {
    if number.is_nan() { NAN } else { key(number, 0) }
}

/// Key of the number that equals `value`, if one can.
pub(super) fn of_scalar(value: &Scalar) -> Option<u128> {
    match value {
        Scalar::Integer(number) => Some(of_integer(*number)),
        Scalar::Double(number) if !number.is_nan() => Some(of_double(*number)),
        Scalar::Double(_) | Scalar::Bool(_) | Scalar::Text(_) => None,
    }
}

/// Keys of the numbers within bounds: from the first, up to but without the second. `None`: there are none.
pub(super) fn of_range(range: &Range) -> Option<(u128, u128)> {
    let bounds = [range.gt, range.gte, range.lt, range.lte];
    if bounds.iter().all(Option::is_none) {
        return Some((0, NAN + 1));
    }
    if bounds.iter().flatten().any(|bound| bound.is_nan()) {
        return None;
    }
    let least = [range.gt.map(|bound| of_double(bound) + 1), range.gte.map(of_double)];
    let end = [range.lt.map(of_double), range.lte.map(|bound| of_double(bound) + 1)];
    let least = least.into_iter().flatten().max().unwrap_or(0);
    let end = end.into_iter().flatten().min().unwrap_or(NAN);
    (least < end).then_some((least, end))
}

fn key(nearest: f64, rest: i128) -> u128 {
    const SIGN: u64 = 1 << 63;
    // Adding zero turns the negative zero into the other.
    let bits = (nearest + 0.0).to_bits();
    let sortable = if bits & SIGN == 0 { bits | SIGN } else { !bits };
    (u128::from(sortable) << 16) | (rest + (1 << 15)).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Number {
        Integer(i64),
        Double(f64),
    }

    impl Number {
        fn key(self) -> u128 {
            match self {
                Self::Integer(number) => of_integer(number),
                Self::Double(number) => of_double(number),
            }
        }

        fn within(self, range: &Range) -> bool {
            match self {
                Self::Integer(number) => range.contains_integer(number),
                Self::Double(number) => range.contains_double(number),
            }
        }
    }

    fn integer() -> impl Strategy<Value = i64> {
        let near = |power: u32, by: i64| (1_i64 << power).wrapping_add(by);
        prop_oneof![
            -3_i64..4,
            any::<i64>(),
            (50_u32..64, -3_i64..4).prop_map(move |(power, by)| near(power, by)),
            (50_u32..64, -3_i64..4).prop_map(move |(power, by)| near(power, by).wrapping_neg()),
        ]
    }

    fn double() -> impl Strategy<Value = f64> {
        let special = [0.0, -0.0, 0.5, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MIN_POSITIVE, f64::MAX];
        #[allow(clippy::cast_precision_loss, reason = "to meet whole numbers")]
        let whole = integer().prop_map(|number| number as f64);
        prop_oneof![prop::sample::select(special.to_vec()), any::<f64>(), whole]
    }

    fn number() -> impl Strategy<Value = Number> {
        prop_oneof![integer().prop_map(Number::Integer), double().prop_map(Number::Double)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn keys_lie_within_the_keys_of_a_range_as_numbers_lie_within_it(
            number in number(),
            bounds in prop::array::uniform4(prop::option::of(double())),
        ) {
            let [gt, gte, lt, lte] = bounds;
            let range = Range { gt, gte, lt, lte };
            let got = of_range(&range).is_some_and(|(least, end)| (least..end).contains(&number.key()));
            prop_assert_eq!(got, number.within(&range), "{:?} within {:?}", number, range);
        }

        #[test]
        fn keys_are_equal_as_numbers_are(number in number(), want in number()) {
            let scalar = match want {
                Number::Integer(want) => Scalar::Integer(want),
                Number::Double(want) => Scalar::Double(want),
            };
            let equal = match number {
                Number::Integer(number) => scalar.equals_integer(number),
                Number::Double(number) => scalar.equals_double(number),
            };
            prop_assert_eq!(of_scalar(&scalar) == Some(number.key()), equal, "{:?} and {:?}", number, want);
        }

        #[test]
        fn whole_numbers_keep_their_order(a in integer(), b in integer()) {
            prop_assert_eq!(of_integer(a).cmp(&of_integer(b)), a.cmp(&b));
        }
    }
}
