//! Nanoseconds of each kernel on data in cache, by dimension and instruction set.
//!
//! Run with `cargo run --release -p shoal-index --example kernels`.

#![allow(clippy::unwrap_used, reason = "a measurement")]

use std::hint::black_box;
use std::time::Instant;

use rand::{Rng, SeedableRng, rngs::StdRng};
use shoal_index::kernels::{BATCH, Kernels, Lut};
use shoal_index::quantize;
use shoal_index::rotation::Rotation;

const DIMS: [u32; 5] = [128, 384, 768, 784, 1_536];

fn main() {
    let best = Kernels::best();
    print!("{:<28}", format!("best: {}", best.name()));
    DIMS.iter().for_each(|dim| print!("{dim:>10}"));
    println!();
    let data: Vec<Data> = DIMS.into_iter().map(Data::new).collect();
    line("rotate", &data, |d| {
        let mut out = vec![0.0; d.rotated.len()];
        Box::new(move || d.rotation.rotate(black_box(&d.vector), &mut out))
    });
    line("fill tables", &data, |d| {
        let mut lut = Lut::default();
        Box::new(move || lut.fill(black_box(&d.rotated)))
    });
    line("encode", &data, |d| {
        let mut bits = vec![0; d.rotated.len() / 64];
        Box::new(move || keep(quantize::encode(black_box(&d.rotated), &d.center, &mut bits)))
    });
    line("pack 32 rows", &data, |d| {
        let row = vec![7; d.rotated.len() / 64];
        let mut codes = d.codes.clone();
        Box::new(move || quantize::pack(&[black_box(&row[..]); BATCH], &mut codes))
    });
    for kernels in Kernels::all() {
        by_set(kernels, &data);
    }
}

fn by_set(kernels: Kernels, data: &[Data]) {
    let named = |name: &str| format!("{} {name}", kernels.name());
    line(&named("estimate32"), data, |d| {
        let mut out = [0.0; BATCH];
        let factors = [0x3c00; BATCH];
        Box::new(move || kernels.estimate32(black_box(&d.codes), &d.lut, &factors, &factors, 1.0, 2.0, &mut out))
    });
    line(&named("squared f32"), data, |d| {
        Box::new(move || keep(kernels.squared_euclidean(black_box(&d.rotated), [&d.center])))
    });
    line(&named("squared f16"), data, |d| {
        Box::new(move || keep(kernels.squared_euclidean_f16(black_box(&d.rotated), &d.half)))
    });
    line(&named("squared i8"), data, |d| {
        Box::new(move || keep(kernels.squared_euclidean_i8(black_box(&d.rotated), &d.bytes, 0.5)))
    });
    line(&named("squared i8 i8"), data, |d| {
        Box::new(move || keep(kernels.squared_euclidean_i8_i8(black_box(&d.bytes), &d.bytes)))
    });
    line(&named("dot i8 i8"), data, |d| Box::new(move || keep(kernels.dot_i8_i8(black_box(&d.bytes), &d.bytes))));
}

struct Data {
    rotation: Rotation,
    vector: Vec<f32>,
    rotated: Vec<f32>,
    center: Vec<f32>,
    half: Vec<u16>,
    bytes: Vec<i8>,
    codes: Vec<u8>,
    lut: Lut,
}

impl Data {
    fn new(dim: u32) -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let rotation = Rotation::new(dim, 2);
        let vector: Vec<f32> = (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect();
        let mut rotated = vec![0.0; rotation.padded_dim()];
        rotation.rotate(&vector, &mut rotated);
        let center: Vec<f32> = rotated.iter().map(|c| c * 0.5 + rng.random_range(-0.1..0.1)).collect();
        let (mut half, mut bytes) = (vec![0; rotated.len()], vec![0; rotated.len()]);
        quantize::narrow_f16(&rotated, &mut half);
        quantize::narrow_i8(&rotated, &mut bytes);
        let codes = (0..rotated.len() * 4).map(|_| rng.random()).collect();
        let mut lut = Lut::default();
        lut.fill(&rotated);
        Self { rotation, vector, rotated, center, half, bytes, codes, lut }
    }
}

/// Stops the compiler from seeing that nobody wants it.
fn keep<T>(value: T) {
    black_box(value);
}

/// The fastest of some runs of about a millisecond.
fn line<'a>(name: &str, data: &'a [Data], kernel: impl Fn(&'a Data) -> Box<dyn FnMut() + 'a>) {
    print!("{name:<28}");
    for data in data {
        let mut run = kernel(data);
        let calls = 5_000;
        let time = || {
            let started = Instant::now();
            (0..calls).for_each(|_| run());
            started.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
        };
        let fastest = std::iter::repeat_with(time).take(15).fold(f64::INFINITY, f64::min);
        print!("{fastest:>10.1}");
    }
    println!();
}
