//! Every instruction set of this machine against `f64`, integers and the scalar set.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Aim, BATCH, Each, Kernels, Lut, Wide, rounding_error};

/// Components that meet rounding, underflow, signed zeros and the largest magnitude that is let in.
fn component(rng: &mut StdRng, hostile: bool) -> f32 {
    if !hostile {
        return rng.random_range(-1.0..1.0);
    }
    match rng.random_range(0..9) {
        0 => 1e16,
        1 => -1e16,
        2 => -0.0,
        3 => f32::from_bits(rng.random_range(1..0x0080_0000)),
        4 => -f32::MIN_POSITIVE,
        5 => 1e-20,
        6 => 1.0 + f32::EPSILON,
        7 => 3e-23,
        _ => rng.random_range(-1e8..1e8),
    }
}

fn vector(rng: &mut StdRng, dim: usize, hostile: bool) -> Vec<f32> {
    (0..dim).map(|_| component(rng, hostile)).collect()
}

#[test]
fn every_set_stays_within_the_bound_of_f64() {
    let mut rng = StdRng::seed_from_u64(41);
    let lengths = (0..=130).chain([384, 768]);
    for (dim, hostile, offset) in lengths.flat_map(|dim| [(dim, false, 0), (dim, true, 1), (dim, true, 3)]) {
        // `offset` floats in front leave the vectors at odd addresses.
        let data = vector(&mut rng, offset + 5 * dim, hostile);
        let vector = |i: usize| &data[offset + i * dim..offset + (i + 1) * dim];
        let (query, rows) = (vector(0), [vector(1), vector(2), vector(3), vector(4)]);
        for kernels in Kernels::all() {
            let case = format!("{} dim {dim} hostile {hostile}", kernels.name());
            let (dots, distances) = (kernels.dot(query, rows), kernels.squared_euclidean(query, rows));
            for (i, row) in rows.into_iter().enumerate() {
                check(&case, query, row, dots[i], 0, |a, b| a * b);
                check(&case, query, row, distances[i], 2, |a, b| (a - b) * (a - b));
            }
            let [single] = kernels.dot(query, [rows[2]]);
            assert_eq!(single.to_bits(), dots[2].to_bits(), "{case}: one row as among four");
        }
    }
}

fn check(case: &str, query: &[f32], row: &[f32], got: f32, extra: usize, term: fn(f64, f64) -> f64) {
    let terms = || query.iter().zip(row).map(|(a, b)| term(f64::from(*a), f64::from(*b)));
    let (want, magnitude): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
    let bound = rounding_error(query.len(), extra);
    let error = (f64::from(got) - want).abs();
    let allowed = bound.relative * magnitude * 1.001 + bound.absolute;
    assert!(error <= allowed, "{case}, extra {extra}: {got} is {error} off {want}, allowed {allowed}");
}

#[test]
fn narrow_rows_are_compared_as_if_they_were_wide() {
    let mut rng = StdRng::seed_from_u64(42);
    for (dim, hostile) in (0..=272).step_by(16).chain([384, 784]).flat_map(|dim| [(dim, false), (dim, true)]) {
        let query = vector(&mut rng, dim, hostile);
        // Any finite f16: the exponent of all ones is for infinities.
        let halves: Vec<u16> =
            (0..dim).map(|_| rng.random::<u16>() & if rng.random() { 0xbfff } else { 0x83ff }).collect();
        let wide: Vec<f32> = halves.iter().map(|bits| half::f16::from_bits(*bits).to_f32()).collect();
        let bytes: Vec<i8> = (0..dim).map(|_| rng.random()).collect();
        let (plain, scale) = (bytes.iter().map(|b| f32::from(*b)).collect::<Vec<_>>(), 0.37_f32);
        let unsigned: Vec<u8> = (0..dim).map(|_| rng.random()).collect();
        let whole: Vec<f32> = unsigned.iter().map(|b| f32::from(*b)).collect();
        let scaled: Vec<f32> = plain.iter().map(|b| b * scale).collect();
        for kernels in Kernels::all() {
            let case = format!("{} dim {dim} hostile {hostile}", kernels.name());
            check(&case, &query, &wide, kernels.dot_f16(&query, &halves), 0, |a, b| a * b);
            let distance = kernels.squared_euclidean_f16(&query, &halves);
            check(&case, &query, &wide, distance, 2, |a, b| (a - b) * (a - b));
            check(&case, &query, &plain, kernels.dot_i8(&query, &bytes), 0, |a, b| a * b);
            check(&case, &query, &whole, kernels.dot_u8(&query, &unsigned), 0, |a, b| a * b);
            let distance = kernels.squared_euclidean_u8(&query, &unsigned);
            check(&case, &query, &whole, distance, 2, |a, b| (a - b) * (a - b));
            let distance = kernels.squared_euclidean_i8(&query, &bytes, scale);
            check(&case, &query, &scaled, distance, 2, |a, b| (a - b) * (a - b));
        }
    }
}

#[test]
fn every_f16_widens_as_it_should() {
    for bits in (0..=u16::MAX).filter(|bits| bits & 0x7c00 != 0x7c00) {
        let (want, mut query) = (half::f16::from_bits(bits).to_f32(), [0.0; 16]);
        assert_eq!(super::scalar::widen_f16(bits).to_bits(), want.to_bits(), "bits {bits:#x}");
        query[3] = 1.0;
        for kernels in Kernels::all() {
            assert_eq!(kernels.dot_f16(&query, &[bits; 16]), want, "{} bits {bits:#x}", kernels.name());
            let mut row = [0.0; 18];
            kernels.widen_row(&[bits; 32], &mut row);
            assert!(row.iter().all(|got| got.to_bits() == want.to_bits()), "{} bits {bits:#x}", kernels.name());
        }
    }
}

#[test]
fn rows_are_widened_as_far_as_they_are_wanted() {
    let row: Vec<u16> = (0..64).map(|i| half::f16::from_f32(i as f32).to_bits()).collect();
    for (kernels, len) in Kernels::all().into_iter().flat_map(|kernels| (0..=64).map(move |len| (kernels, len))) {
        let mut out = vec![-1.0; len];
        kernels.widen_row(&row[..len.next_multiple_of(16)], &mut out);
        assert!((0..).zip(&out).all(|(i, got)| *got == i as f32), "{} of {len}: {out:?}", kernels.name());
    }
}

#[test]
fn integers_are_exact() {
    let mut rng = StdRng::seed_from_u64(43);
    for dim in (0..=272).step_by(16).chain([384, 784, super::I8_DIMS_MAX]) {
        for hostile in [false, true] {
            let mut component = || if hostile { [-128, 127][rng.random_range(0..2)] } else { rng.random() };
            let (a, b): (Vec<i8>, Vec<i8>) = (0..dim).map(|_| (component(), component())).unzip();
            for (a, b) in
                [(&a, &b), (&a, &a), (&vec![-128; dim], &vec![127; dim]), (&vec![-128; dim], &vec![-128; dim])]
            {
                let sum =
                    |term: fn(i64, i64) -> i64| a.iter().zip(b).map(|(a, b)| term((*a).into(), (*b).into())).sum();
                let want: (i64, i64) = (sum(|a, b| a * b), sum(|a, b| (a - b) * (a - b)));
                for kernels in Kernels::all() {
                    let got = (kernels.dot_i8_i8(a, b).into(), kernels.squared_euclidean_i8_i8(a, b).into());
                    assert_eq!(got, want, "{} dim {dim} hostile {hostile}", kernels.name());
                }
            }
        }
    }
}

#[test]
fn products_of_nibbles_are_exact() {
    let mut rng = StdRng::seed_from_u64(47);
    for dim in [64, 128, 384, 832, 4_096] {
        for hostile in [false, true] {
            let codes: Vec<u8> = (0..dim / 2).map(|_| if hostile { 255 } else { rng.random() }).collect();
            let query: Vec<i8> = (0..dim).map(|_| if hostile { -128 } else { rng.random() }).collect();
            let code = |i: usize| codes[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
            let want: i64 = (0..dim).map(|i| i64::from(code(i)) * i64::from(query[i])).sum();
            for kernels in Kernels::all() {
                assert_eq!(i64::from(kernels.dot_u4_i8(&codes, &query)), want, "{} dim {dim}", kernels.name());
            }
        }
    }
}

/// Queries of every kind a rotation can give.
fn rotated_queries(rng: &mut StdRng, dim: usize) -> Vec<Vec<f32>> {
    let mut queries = vec![vec![0.0; dim], vec![-0.0; dim], vec![1.0; dim], vec![-6e17; dim], vec![1e-44; dim]];
    for hostile in [false, true] {
        queries.push(vector(rng, dim, hostile));
    }
    let mut single = vec![0.0; dim];
    single[dim / 3] = -1.0;
    queries.push(single);
    queries
}

#[test]
fn scans_are_the_same_bit_by_bit_and_near_the_truth() {
    let mut rng = StdRng::seed_from_u64(44);
    for dim in [64, 128, 192, 384, 832, 4_096, 4_160, 8_192, 20_480] {
        for query in rotated_queries(&mut rng, dim) {
            let rows: Vec<Vec<u64>> = (0..BATCH).map(|row| signs(&mut rng, row, &query)).collect();
            let mut codes = vec![0; dim * 4];
            crate::quantize::pack(&rows.iter().map(|row| &row[..]).collect::<Vec<_>>(), &mut codes);
            let scans: Vec<_> = Kernels::all().into_iter().map(|kernels| scan(kernels, &query, &codes)).collect();
            for (kernels, scan) in Kernels::all().iter().zip(&scans) {
                assert_eq!(scan, &scans[0], "{} dim {dim}", kernels.name());
            }
            let peak = query.chunks(4).map(|group| group.iter().map(|c| c.abs()).sum::<f32>()).fold(0.0, f32::max);
            for (row, sum) in rows.iter().zip(&scans[0][0]) {
                let sign = |i: usize| if row[i / 64] >> (i % 64) & 1 == 1 { 1.0 } else { -1.0 };
                let want: f64 = query.iter().enumerate().map(|(i, c)| sign(i) * f64::from(*c)).sum();
                // Each component is off by half of a 61st of the peak at most.
                let allowed = dim as f64 * f64::from(peak) / 120.0 + 1e-36;
                let error = (want - f64::from(f32::from_bits(*sum))).abs();
                assert!(error <= allowed, "dim {dim}: off by {error}, allowed {allowed}");
            }
        }
    }
}

/// Random signs; in two rows, those that give the largest and the smallest sum.
fn signs(rng: &mut StdRng, row: usize, query: &[f32]) -> Vec<u64> {
    let word = |rng: &mut StdRng, components: &[f32]| match row {
        5 => components.iter().rev().fold(0, |word, c| word << 1 | u64::from(*c >= 0.0)),
        22 => components.iter().rev().fold(0, |word, c| word << 1 | u64::from(*c < 0.0)),
        _ => rng.random(),
    };
    query.chunks(64).map(|components| word(rng, components)).collect()
}

/// Scanned values and estimates of one set, as bits.
fn scan(kernels: Kernels, query: &[f32], codes: &[u8]) -> [[u32; BATCH]; 3] {
    let mut lut = Lut::default();
    lut.fill_with(kernels, query);
    let (mut values, mut estimates, mut wide_estimates) = ([0.0; BATCH], [0.0; BATCH], [0.0; BATCH]);
    kernels.scan32(codes, &lut, &mut values);
    let add = std::array::from_fn(|i| half::f16::from_f32(1.0 + i as f32).to_bits());
    let rescale = std::array::from_fn(|i| half::f16::from_f32(-0.1 * i as f32).to_bits());
    kernels.estimate32(codes, &lut, &add, &rescale, 0.125, 3.0, &mut estimates);
    for i in 0..BATCH {
        let (add, rescale) = (half::f16::from_bits(add[i]).to_f32(), half::f16::from_bits(rescale[i]).to_f32());
        let want = (rescale * values[i] + add) * 0.125 + 3.0;
        assert_eq!(estimates[i].to_bits(), want.to_bits(), "{} row {i}", kernels.name());
    }
    let ramp = |slope: f32| std::array::from_fn(|i| slope * i as f32 - 3.0);
    let wide = Wide { add: ramp(1e-3), rescale: ramp(-0.1), error: [f32::NAN; BATCH] };
    let aim = Aim { base: -2.5, weight: 0.3 };
    kernels.estimate_wide32(codes, &lut, &wide, aim, &mut wide_estimates);
    for (i, estimate) in wide_estimates.iter().enumerate() {
        let want = wide.rescale[i] * values[i] + (wide.add[i] * aim.weight + aim.base);
        assert_eq!(estimate.to_bits(), want.to_bits(), "{} row {i}", kernels.name());
    }
    near(kernels, codes, &lut, &values);
    [values, estimates, wide_estimates].map(|values| values.map(f32::to_bits))
}

/// Checks estimates that have a base each, some of them infinite, and which are told to be near.
fn near(kernels: Kernels, codes: &[u8], lut: &Lut, values: &[f32; BATCH]) {
    let ramp = |slope: f32| std::array::from_fn(|i| slope * i as f32 - 3.0);
    let factors = Each { add: ramp(1e-3), rescale: ramp(-0.1) };
    let mut bases: [f32; BATCH] = ramp(0.3);
    (bases[7], bases[31]) = (f32::INFINITY, f32::MAX);
    let want: [f32; BATCH] = std::array::from_fn(|i| factors.rescale[i] * values[i] + (factors.add[i] + bases[i]));
    for bound in [want[4], want[9], 0.0, f32::MAX, f32::INFINITY] {
        let mut estimates = [0.0; BATCH];
        let near = kernels.near32(codes, lut, &factors, &bases, bound, &mut estimates);
        for (i, (estimate, want)) in estimates.iter().zip(&want).enumerate() {
            let case = format!("{} row {i}, bound {bound}", kernels.name());
            assert_eq!(estimate.to_bits(), want.to_bits(), "{case}");
            assert_eq!(near >> i & 1 == 1, *want < bound, "{case}");
        }
    }
}

#[test]
fn what_reaches_a_floor_is_told_of_any_values() {
    let mut rng = StdRng::seed_from_u64(46);
    let special = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MIN, f32::MAX, 1e-45, -1.0];
    let mut value = || if rng.random() { special[rng.random_range(0..10)] } else { rng.random_range(-2.0..2.0) };
    for round in 0..2_000 {
        let [values, errors]: [[f32; BATCH]; 2] = [(); 2].map(|()| std::array::from_fn(|_| value()));
        let (spread, floor) = (value(), value());
        let bits = |at_least: &dyn Fn(usize) -> bool| (0..BATCH).fold(0, |bits, i| bits | u32::from(at_least(i)) << i);
        let reaches = |value: f32| value.partial_cmp(&floor).is_none_or(std::cmp::Ordering::is_ge);
        let plain = bits(&|i| reaches(values[i]));
        let spread_out = bits(&|i| reaches(values[i] + errors[i] * spread));
        for kernels in Kernels::all() {
            let case = format!("{} round {round}", kernels.name());
            assert_eq!(kernels.at_least32(&values, floor), plain, "{case}");
            assert_eq!(kernels.within32(&values, &errors, spread, floor), spread_out, "{case}");
        }
    }
}

#[test]
fn signs_and_their_sums_are_the_same_bit_by_bit() {
    let mut rng = StdRng::seed_from_u64(45);
    for (dim, hostile) in [64, 128, 384, 832, 4_096].into_iter().flat_map(|dim| [(dim, false), (dim, true)]) {
        let (vector, center) = (vector(&mut rng, dim, hostile), vector(&mut rng, dim, hostile));
        for (vector, center) in [(&vector, &center), (&vector, &vector)] {
            let run = |kernels: Kernels| {
                let mut bits = vec![0; dim / 64];
                let moments = kernels.signs(vector, center, &mut bits);
                (bits, [moments.square, moments.magnitude, moments.center].map(f32::to_bits))
            };
            let want: Vec<bool> = vector.iter().zip(center).map(|(v, c)| !(v - c).is_sign_negative()).collect();
            for kernels in Kernels::all() {
                let (bits, sums) = run(kernels);
                assert_eq!(
                    (&bits, sums),
                    (&run(Kernels::best()).0, run(Kernels::best()).1),
                    "{} {dim}",
                    kernels.name()
                );
                let got: Vec<bool> = (0..dim).map(|i| bits[i / 64] >> (i % 64) & 1 == 1).collect();
                assert_eq!(got, want, "{} dim {dim} hostile {hostile}", kernels.name());
            }
        }
    }
}

#[test]
#[should_panic(expected = "one dimension")]
fn rows_of_another_dimension_are_a_bug() {
    let _ = Kernels::best().dot(&[1.0, 2.0], [&[1.0]]);
}

#[test]
#[should_panic(expected = "one dimension")]
fn codes_of_another_dimension_are_a_bug() {
    Kernels::best().scan32(&[0; 256], &Lut::default(), &mut [0.0; BATCH]);
}
