use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::rotation::Rotation;

fn gaussian(rng: &mut StdRng) -> f32 {
    (0..12).map(|_| rng.random_range(-0.5_f32..0.5)).sum()
}

fn squared(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

fn rotated(rotation: &Rotation, vector: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; rotation.padded_dim()];
    rotation.rotate(vector, &mut out);
    out
}

/// Whatever the dimension and the magnitude, 32 estimates must scatter around the truth as `error` says.
#[test]
fn estimates_are_unbiased_and_as_near_as_they_say() {
    let mut rng = StdRng::seed_from_u64(3);
    for (dim, scale) in [(3, 1.0), (100, 1.0), (384, 1e-5), (384, 1.0), (384, 1e15), (768, 30.0), (4_096, 1.0)] {
        let (mut bias, mut spread, mut count) = (0.0, 0.0, 0.0);
        for seed in 0..20 {
            let rotation = Rotation::new(dim, seed);
            let mut vector = |length: f32| (0..dim).map(|_| gaussian(&mut rng) * length * scale).collect::<Vec<f32>>();
            let (center, query) = (vector(1.0), vector(1.0));
            let rows: Vec<Vec<f32>> = (0..32).map(|_| vector(1.0)).collect();
            let [center_r, query_r] = [&center, &query].map(|v| rotated(&rotation, v));
            let mut bits = vec![vec![0; center_r.len() / 64]; 32];
            let factors: Vec<Factors> = rows
                .iter()
                .zip(&mut bits)
                .map(|(row, bits)| encode(&rotated(&rotation, row), &center_r, bits))
                .collect();
            let mut codes = vec![0; bits[0].len() * BLOCK_BYTES];
            pack(&bits.iter().map(|bits| &bits[..]).collect::<Vec<_>>(), &mut codes);
            let (mut add, mut rescale, mut out) = ([0; 32], [0; 32], [0.0; 32]);
            let block_scale = narrow_factors(&factors, &mut add, &mut rescale);
            let mut lut = Lut::default();
            lut.fill(&query_r);
            let base = squared(&query, &center);
            Kernels::best().estimate32(&codes, &lut, &add, &rescale, block_scale, base as f32, &mut out);
            for ((estimate, row), factors) in out.iter().zip(&rows).zip(&factors) {
                let error = f64::from(*estimate) - squared(&query, row);
                let deviations = error / (f64::from(factors.error) * base.sqrt());
                (bias, spread, count) = (bias + deviations, spread + deviations * deviations, count + 1.0);
            }
        }
        let (bias, spread) = (bias / count, (spread / count).sqrt());
        assert!(bias.abs() < 0.2, "dim {dim} scale {scale}: estimates are off by {bias} deviations on average");
        assert!(spread < 1.15, "dim {dim} scale {scale}: estimates scatter by {spread} deviations");
    }
}

#[test]
fn factors_of_hostile_vectors_are_finite() {
    let zero = vec![0.0; 4_096];
    let alike = |value: f32| vec![value; 4_096];
    let mut bits = vec![0; 64];
    assert_eq!(encode(&alike(3.0), &alike(3.0), &mut bits), Factors::default(), "no residual needs no correction");
    let values = [0.0, -0.0, 1e16, -1e16, 1e-45, -1e-30, 1e-20, 1.0, f32::MIN_POSITIVE];
    for (a, b) in values.iter().flat_map(|a| values.map(|b| (*a, b))) {
        for (vector, center) in [(alike(a), alike(b)), ([vec![a], zero[1..].to_vec()].concat(), alike(b))] {
            let factors = encode(&vector, &center, &mut bits);
            let all = [factors.add, factors.rescale, factors.error];
            assert!(all.iter().all(|f| f.is_finite()), "{a} from {b}: {factors:?}");
            let (mut add, mut rescale) = ([0; 32], [0; 32]);
            let scale = narrow_factors(&[factors], &mut add, &mut rescale);
            let wide = |bits: u16| f16::from_bits(bits).to_f32() * scale;
            for (narrow, full) in [(wide(add[0]), factors.add), (wide(rescale[0]), factors.rescale)] {
                let largest = factors.add.abs().max(factors.rescale.abs());
                let allowed = full.abs() / 2_000.0 + largest * f32::powi(2.0, -38) + 1e-40;
                assert!((narrow - full).abs() <= allowed, "{a} from {b}: {full} became {narrow}");
            }
        }
    }
}

#[test]
fn the_largest_factor_is_just_below_two_to_the_fifteenth() {
    for exponent in -100..100 {
        let largest = f32::powi(2.0, exponent) * 1.7;
        let factors = [Factors { add: -largest, rescale: largest / 9.0, error: 0.0 }];
        let (mut add, mut rescale) = ([0; 32], [0; 32]);
        narrow_factors(&factors, &mut add, &mut rescale);
        let add = f16::from_bits(add[0]).to_f32();
        assert!((-32_768.0..-16_384.0).contains(&add), "2^{exponent} * 1.7 is {add}");
    }
}

#[test]
fn packing_at_once_is_inserting_one_by_one() {
    let mut rng = StdRng::seed_from_u64(5);
    for count in [0, 1, 15, 16, 17, 31, 32] {
        let rows: Vec<Vec<u64>> = (0..count).map(|_| (0..3).map(|_| rng.random()).collect()).collect();
        let (mut packed, mut inserted) = (vec![0xaa; 768], vec![0; 768]);
        pack(&rows.iter().map(|row| &row[..]).collect::<Vec<_>>(), &mut packed);
        for (i, row) in rows.iter().enumerate() {
            insert(&mut inserted, i, &[u64::MAX; 3]);
            insert(&mut inserted, i, row);
        }
        assert!(packed == inserted, "{count} rows");
    }
}

#[test]
fn f16_rows_tell_what_they_lose() {
    let mut out = [0; 4];
    assert!(narrow_f16(&[1.0, -0.0, 65_504.0, f32::powi(2.0, -24)], &mut out));
    for lossy in [1.0 + f32::EPSILON, 1e5, 1e-9, f32::MIN_POSITIVE] {
        assert!(!narrow_f16(&[1.0, lossy, 0.0, 0.0], &mut out), "{lossy} does not fit");
    }
}

#[test]
fn i8_rows_are_within_half_a_step() {
    let mut rng = StdRng::seed_from_u64(6);
    for scale in [0.0, 1e-44, 1e-30, 1.0, 1e16] {
        let row: Vec<f32> = (0..100).map(|_| rng.random_range(-1.0..1.0) * scale).collect();
        let mut out = [0; 100];
        let step = narrow_i8(&row, &mut out);
        let far = row.iter().zip(out).find(|(c, n)| (**c - f32::from(*n) * step).abs() > 0.5001 * step);
        assert_eq!(far, None, "scale {scale}, step {step}");
    }
}
