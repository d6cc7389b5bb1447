//! Every instruction set of this machine against `f64`, within the bound that searches rely on.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Kernels, rounding_error};

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

#[test]
fn every_set_stays_within_the_bound_of_f64() {
    let mut rng = StdRng::seed_from_u64(41);
    let lengths = (0..=130).chain([384, 768]);
    for (dim, hostile, offset) in lengths.flat_map(|dim| [(dim, false, 0), (dim, true, 1), (dim, true, 3)]) {
        // `offset` floats in front leave the vectors at odd addresses.
        let data: Vec<f32> = (0..offset + 5 * dim).map(|_| component(&mut rng, hostile)).collect();
        let vector = |i: usize| &data[offset + i * dim..offset + (i + 1) * dim];
        let (query, rows) = (vector(0), [vector(1), vector(2), vector(3), vector(4)]);
        for kernels in Kernels::all() {
            let case = format!("{} dim {dim} hostile {hostile}", kernels.name());
            check(&case, query, rows, kernels.dot(query, rows), 0, |a, b| a * b);
            let distances = kernels.squared_euclidean(query, rows);
            check(&case, query, rows, distances, 2, |a, b| (a - b) * (a - b));
            let [single] = kernels.dot(query, [rows[2]]);
            assert_eq!(single.to_bits(), kernels.dot(query, rows)[2].to_bits(), "{case}: one row as among four");
        }
    }
}

fn check(case: &str, query: &[f32], rows: [&[f32]; 4], got: [f32; 4], extra: usize, term: fn(f64, f64) -> f64) {
    for (row, got) in rows.iter().zip(got) {
        let terms = || query.iter().zip(*row).map(|(a, b)| term(f64::from(*a), f64::from(*b)));
        let (want, magnitude): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
        let bound = rounding_error(query.len(), extra);
        let error = (f64::from(got) - want).abs();
        let allowed = bound.relative * magnitude * 1.001 + bound.absolute;
        assert!(error <= allowed, "{case}, extra {extra}: {got} is {error} off {want}, allowed {allowed}");
    }
}

#[test]
#[should_panic(expected = "one dimension")]
fn rows_of_another_dimension_are_a_bug() {
    let _ = Kernels::best().dot(&[1.0, 2.0], [&[1.0]]);
}
