//! Damage to vectors: all that is small, and much that is not.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::of_vector;
use crate::kernels::Kernels;

/// Vectors as models give them, zeros, whole numbers, bytes: what has few different words is the hardest to tell apart.
fn rows(rng: &mut StdRng, bytes: usize) -> Vec<Vec<u8>> {
    let numbers = |number: &mut dyn FnMut() -> f32| (0..bytes / 4).flat_map(|_| number().to_le_bytes()).collect();
    vec![
        numbers(&mut || rng.random_range(-1.0..1.0)),
        numbers(&mut || 0.0),
        numbers(&mut || 1.0),
        (0..bytes).map(|at| u8::try_from(at % 3).expect("small")).collect(),
    ]
}

fn sum(row: &[u8]) -> u32 {
    of_vector(Kernels::best().row_sum(row), 1.0, 7)
}

#[test]
fn the_sum_is_that_of_stored_files() {
    assert_eq!(sum(&(0..250).collect::<Vec<u8>>()), 0xc8fe_e057, "as another program computes it");
}

#[test]
fn every_flipped_bit_and_every_changed_byte_is_told() {
    let mut rng = StdRng::seed_from_u64(53);
    for dim in [1, 3, 16, 24, 96, 100, 384] {
        for mut row in rows(&mut rng, dim * 4) {
            let want = sum(&row);
            for at in 0..row.len() {
                let whole = row[at];
                for change in 1..=255 {
                    row[at] = whole ^ change;
                    assert_ne!(sum(&row), want, "byte {at} of {dim} components, bits {change:#x}");
                }
                row[at] = whole;
            }
        }
    }
}

#[test]
fn any_two_flipped_bits_are_told() {
    let mut rng = StdRng::seed_from_u64(54);
    for mut row in rows(&mut rng, 24 * 4) {
        let want = sum(&row);
        let bits = row.len() * 8;
        for (first, second) in (0..bits).flat_map(|first| (0..first).map(move |second| (first, second))) {
            let flip = |row: &mut Vec<u8>| [first, second].into_iter().for_each(|bit| row[bit / 8] ^= 1 << (bit % 8));
            flip(&mut row);
            assert_ne!(sum(&row), want, "bits {first} and {second}");
            flip(&mut row);
        }
    }
}

#[test]
fn swapped_words_and_lines_are_told() {
    let mut rng = StdRng::seed_from_u64(55);
    let row: Vec<u8> = (0..1_536).map(|_| rng.random()).collect();
    for size in [4, 8, 16, 64, 512] {
        let places = row.len() / size;
        for (first, second) in (0..places).flat_map(|first| (0..first).map(move |second| (first, second))) {
            let mut swapped = row.clone();
            let (low, high) = swapped.split_at_mut(first * size);
            low[second * size..][..size].swap_with_slice(&mut high[..size]);
            assert_ne!(sum(&swapped), sum(&row), "{size} bytes at {first} and {second}");
        }
    }
}

#[test]
fn damage_of_many_bytes_is_told() {
    let mut rng = StdRng::seed_from_u64(56);
    for dim in [24, 100, 384] {
        for row in rows(&mut rng, dim * 4) {
            for round in 0..20_000 {
                let mut damaged = row.clone();
                let (start, end) = (rng.random_range(0..row.len()), rng.random_range(1..=row.len()));
                let range = start.min(end - 1)..end.max(start);
                match round % 5 {
                    0 => damaged[range].fill(0),
                    1 => damaged[range].fill(0xff),
                    2 => damaged[range].iter_mut().for_each(|byte| *byte = rng.random()),
                    3 => damaged[range].rotate_left(1),
                    _ => (0..rng.random_range(2..9)).for_each(|_| {
                        let bit = rng.random_range(0..row.len() * 8);
                        damaged[bit / 8] ^= 1 << (bit % 8);
                    }),
                }
                assert_eq!(sum(&damaged) == sum(&row), damaged == row, "{dim} components, round {round}");
            }
        }
    }
}

#[test]
fn place_and_scale_are_part_of_the_sum() {
    let row_sum = Kernels::best().row_sum(&[1; 96]);
    let want = of_vector(row_sum, 1.0, 7);
    for bit in 0..32 {
        assert_ne!(of_vector(row_sum, 1.0, 7 ^ 1 << bit), want, "offset, bit {bit}");
        assert_ne!(of_vector(row_sum, f32::from_bits(1.0_f32.to_bits() ^ 1 << bit), 7), want, "scale, bit {bit}");
    }
}
