//! Plain Rust, which compilers turn into whatever vectors the target has for certain.

use super::{
    LANES,
    hadamard::hadamard,
    lines::{Keys, LINE, lines, padded},
    queue::queue,
    rows::rows,
    scans::scans,
    signs::signs,
    sums::sums,
};

mod bytes;

use bytes::values;
pub(super) use bytes::{dot_i8_i8, dot_u4_i8, fill_lut, squared_euclidean_i8_i8};

type Lanes = [f32; LANES];

fn zero() -> Lanes {
    [0.0; LANES]
}

fn splat(value: f32) -> Lanes {
    [value; LANES]
}

#[inline(always)]
fn load(block: &[f32; LANES]) -> Lanes {
    *block
}

#[inline(always)]
fn load_f16(block: &[u16; LANES]) -> Lanes {
    block.map(widen_f16)
}

/// An `f16`, if finite. Its bits, moved to where an `f32` has them, lack the difference of the exponents' biases; a
/// product with a power of two adds it, to subnormal numbers too.
#[inline(always)]
pub(super) fn widen_f16(bits: u16) -> f32 {
    let bias = f32::from_bits((127 + 127 - 15) << 23);
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * bias;
    f32::from_bits(magnitude.to_bits() | u32::from(bits & 0x8000) << 16)
}

#[inline(always)]
fn load_i8(block: &[i8; LANES]) -> Lanes {
    block.map(f32::from)
}

#[inline(always)]
fn load_u8(block: &[u8; LANES]) -> Lanes {
    block.map(f32::from)
}

#[inline(always)]
fn store(block: &mut [f32; LANES], lanes: Lanes) {
    *block = lanes;
}

#[inline(always)]
fn add(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i] + b[i])
}

#[inline(always)]
fn sub(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i] - b[i])
}

#[inline(always)]
fn mul(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i] * b[i])
}

/// Two roundings: a fused one without hardware would be a call for each component.
#[inline(always)]
fn mul_add(a: Lanes, b: Lanes, sum: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i] * b[i] + sum[i])
}

#[inline(always)]
fn abs(a: Lanes) -> Lanes {
    a.map(f32::abs)
}

#[inline(always)]
fn max(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
}

#[inline(always)]
fn min(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
}

/// `value`, negated where `sign` is negative, be it a zero.
#[inline(always)]
fn with_sign_of(value: Lanes, sign: Lanes) -> Lanes {
    std::array::from_fn(|i| f32::from_bits(value[i].to_bits() ^ (sign[i].to_bits() & 0x8000_0000)))
}

/// One bit a lane: whether its sign bit is set.
#[inline(always)]
fn negative(a: Lanes) -> u16 {
    a.iter().enumerate().fold(0, |bits, (i, a)| bits | u16::from(a.is_sign_negative()) << i)
}

/// One bit a lane: whether `a < b`. What is not a number is not.
#[inline(always)]
fn below(a: Lanes, b: Lanes) -> u16 {
    (0..LANES).fold(0, |bits, i| bits | u16::from(a[i] < b[i]) << i)
}

#[inline(always)]
fn swap_1(a: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i ^ 1])
}

#[inline(always)]
fn swap_2(a: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i ^ 2])
}

/// The stages 1, 2, 4 and 8 of a Walsh-Hadamard transform.
#[inline(always)]
fn butterflies(a: Lanes) -> Lanes {
    [1, 2, 4, 8].into_iter().fold(a, |a, apart| {
        std::array::from_fn(|i| if i & apart == 0 { a[i] + a[i ^ apart] } else { a[i ^ apart] - a[i] })
    })
}

fn sum(lanes: Lanes) -> f32 {
    folded(lanes, |a, b| a + b)
}

fn largest(lanes: Lanes) -> f32 {
    folded(lanes, f32::max)
}

fn least(lanes: Lanes) -> f32 {
    folded(lanes, f32::min)
}

/// The upper half onto the lower, until one is left.
fn folded(mut lanes: Lanes, join: fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
    }
    lanes[0]
}

#[inline(always)]
fn load_line(line: &[u8; LINE]) -> [u8; LINE] {
    *line
}

/// The numbers of a line, or a part of it.
#[inline(always)]
fn numbers<const N: usize, T, const COUNT: usize>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> [T; COUNT] {
    let numbers = bytes.as_chunks::<N>().0;
    std::array::from_fn(|i| from(numbers[i]))
}

#[inline(always)]
fn load_tail(tail: &[u8]) -> [u8; LINE] {
    padded(tail)
}

#[inline(always)]
fn as_f32(line: [u8; LINE]) -> [Lanes; 1] {
    [numbers(&line, f32::from_le_bytes)]
}

#[inline(always)]
fn as_f16(line: [u8; LINE]) -> [Lanes; 2] {
    numbers::<32, _, 2>(&line, |half| numbers(&half, |bits| widen_f16(u16::from_le_bytes(bits))))
}

#[inline(always)]
fn as_u8(line: [u8; LINE]) -> [Lanes; 4] {
    numbers::<16, _, 4>(&line, |bytes| bytes.map(f32::from))
}

/// The lower half of a lane.
const LOW: u64 = u32::MAX as u64;

fn no_sums() -> [u64; LANES / 2] {
    [0; LANES / 2]
}

#[inline(always)]
fn add_line(sums: [u64; LANES / 2], line: [u8; LINE], keys: &Keys) -> [u64; LANES / 2] {
    let pairs: [u64; LANES / 2] = numbers(&line, u64::from_le_bytes);
    std::array::from_fn(|i| {
        let (pair, [low, high]) = (pairs[i], [keys.0[2 * i], keys.0[2 * i + 1]].map(u64::from));
        // Halves of 64-bit lanes, as compilers find the product of such in the instructions of all targets.
        let low = pair.wrapping_add(low) & LOW;
        let high = (pair >> 32).wrapping_add(high) & LOW;
        sums[i].wrapping_add(low * high)
    })
}

fn total(sums: [u64; LANES / 2]) -> u64 {
    sums.into_iter().fold(0, u64::wrapping_add)
}

lines!();
queue!();
rows!();
hadamard!();
signs!();
scans!();
sums!();
