//! Checksums against a plain reading of their definition, and against every damage that is small.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::super::{Kernels, rounding_error};
use super::*;

/// What the module's header says, word by word.
fn reference(row: &[u8]) -> u64 {
    let mut bytes = row.to_vec();
    bytes.resize(row.len().next_multiple_of(LINE), 0);
    let words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
    let keys = keys(bytes.len() / LINE).iter().flat_map(|keys| keys.0);
    let keyed: Vec<u64> = words.zip(keys).map(|(word, key)| word.wrapping_add(key).into()).collect();
    keyed.chunks(2).fold(0, |sum, pair| sum.wrapping_add(pair[0] * pair[1]))
}

fn random(rng: &mut StdRng, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|_| rng.random()).collect()
}

#[test]
fn every_set_gives_the_sum_that_files_have() {
    let row: Vec<u8> = (0..250).collect();
    assert_eq!(reference(&row), 0x869a_687c_77a0_710c, "as another program computes it");
    assert_eq!(keys(LINES_MAX)[LINES_MAX - 1].0[LANES - 1], 0x134d_f622, "the last key");
    let mut rng = StdRng::seed_from_u64(51);
    for length in (0..=330).chain([1_535, 1_536, 6_144, 6_150, ROW_BYTES_MAX - 1, ROW_BYTES_MAX]) {
        for start in 0..4 {
            let bytes = random(&mut rng, start + length);
            for (row, name) in
                [(&bytes[start..], "random"), (&vec![0; length][..], "zeros"), (&vec![255; length], "ones")]
            {
                let want = reference(row);
                for kernels in Kernels::all() {
                    assert_eq!(kernels.row_sum(row), want, "{} of {length} bytes from {start}, {name}", kernels.name());
                }
            }
        }
    }
}

/// A row of components, as it is written and as it is read.
fn row(rng: &mut StdRng, component: Component, dim: usize) -> (Vec<u8>, Vec<f32>) {
    let number = |rng: &mut StdRng| rng.random_range(-1e6_f32..1e6);
    match component {
        Component::F32 => {
            let wide: Vec<f32> = (0..dim).map(|_| number(rng)).collect();
            (wide.iter().flat_map(|c| c.to_le_bytes()).collect(), wide)
        }
        Component::F16 => {
            let half: Vec<half::f16> = (0..dim).map(|_| half::f16::from_f32(number(rng) / 1e4)).collect();
            (half.iter().flat_map(|c| c.to_le_bytes()).collect(), half.iter().map(|c| c.to_f32()).collect())
        }
        Component::U8 => {
            let bytes = random(rng, dim);
            (bytes.clone(), bytes.into_iter().map(f32::from).collect())
        }
    }
}

#[test]
fn distances_that_come_with_a_sum_are_as_near_the_truth_as_others() {
    let mut rng = StdRng::seed_from_u64(52);
    for component in [Component::F32, Component::F16, Component::U8] {
        for dim in (0..=200).chain([384, 784, 1_536]) {
            let query: Vec<f32> = (0..dim).map(|_| rng.random_range(-1e3..1e3)).collect();
            let (bytes, wide) = row(&mut rng, component, dim);
            // At an odd address.
            let bytes = [&[7], &bytes[..]].concat();
            let terms = |term: fn(f64, f64) -> f64| {
                let terms = query.iter().zip(&wide).map(move |(a, b)| term((*a).into(), (*b).into()));
                (terms.clone().sum::<f64>(), terms.map(f64::abs).sum::<f64>())
            };
            for kernels in Kernels::all() {
                let case = format!("{} {component:?} dim {dim}", kernels.name());
                let (row, aligned) = (&bytes[1..], Query::new(&query));
                let (dot, sum) = kernels.dot_and_sum(&aligned, row, component);
                let (squared, same) = kernels.squared_euclidean_and_sum(&aligned, row, component);
                assert_eq!([sum, same], [reference(row); 2], "{case}");
                for (got, extra, (want, magnitude)) in
                    [(dot, 0, terms(|a, b| a * b)), (squared, 2, terms(|a, b| (a - b) * (a - b)))]
                {
                    let bound = rounding_error(dim, extra);
                    let (error, allowed) = ((f64::from(got) - want).abs(), bound.relative * magnitude * 1.001);
                    assert!(error <= allowed, "{case}, extra {extra}: {got} is {error} off {want}, allowed {allowed}");
                }
            }
        }
    }
}

#[test]
fn hostile_numbers_harm_no_sum() {
    for kernels in Kernels::all() {
        for bits in [0x7f80_0000, 0x7fc0_0001, 0xff80_0000, 0x0000_0001, u32::MAX, 0x7f7f_ffff_u32] {
            let (row, query) = (bits.to_le_bytes().repeat(37), Query::new(&[1e30; 37]));
            assert_eq!(kernels.dot_and_sum(&query, &row, Component::F32).1, reference(&row), "{bits:#x}");
            let query = Query::new(&[-1e30; 74]);
            assert_eq!(kernels.dot_and_sum(&query, &row, Component::F16).1, reference(&row), "{bits:#x}");
        }
    }
}

#[test]
#[should_panic(expected = "a query of 4 blocks")]
fn rows_of_more_dimensions_are_a_bug() {
    let _ = Kernels::best().dot_and_sum(&Query::new(&[1.0; 24]), &[0; 260], Component::F32);
}

#[test]
#[should_panic(expected = "a query of 8 blocks")]
fn rows_of_fewer_dimensions_are_a_bug() {
    let _ = Kernels::best().dot_and_sum(&Query::new(&[1.0; 100]), &[0; 32], Component::U8);
}
