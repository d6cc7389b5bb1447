//! What becomes of the sums of 32 rows: the plan all instruction sets share.

use super::BATCH;

/// What turns 32 sums into 32 estimates, in `f16`: `base + scale * (add_j + rescale_j * sum_j)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Narrow<'a> {
    pub(super) add: &'a [u16; BATCH],
    pub(super) rescale: &'a [u16; BATCH],
    pub(super) scale: f32,
}

/// What turns 32 sums into 32 estimates, each with a base of its own: `base_j + add_j + rescale_j * sum_j`.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Each {
    pub(crate) add: [f32; BATCH],
    pub(crate) rescale: [f32; BATCH],
}

/// What turns 32 sums into 32 estimates of one product each, at full width, and says how far off these may be.
#[derive(Clone, Debug, PartialEq)]
#[repr(align(64))]
pub(crate) struct Wide {
    pub(crate) add: [f32; BATCH],
    pub(crate) rescale: [f32; BATCH],
    pub(crate) error: [f32; BATCH],
}

impl Wide {
    /// Of 32 rows that are not there yet.
    pub(crate) const NONE: Self = Self { add: [0.0; BATCH], rescale: [0.0; BATCH], error: [0.0; BATCH] };
}

/// What the query brings to them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Aim {
    pub(crate) base: f32,
    pub(crate) weight: f32,
}

/// The kernels over a set's `values`, the sums of rows 0 to 15 and 16 to 31, and its operations on lanes.
macro_rules! scans {
    ($($features:meta)?) => {
        $(#[$features])?
        pub(in crate::kernels) fn scan32(
            codes: &[u8],
            lut: &crate::kernels::Lut,
            out: &mut [f32; crate::kernels::BATCH],
        ) {
            for (out, sum) in out.as_chunks_mut().0.iter_mut().zip(values(codes, lut)) {
                store(out, sum);
            }
        }

        $(#[$features])?
        pub(in crate::kernels) fn estimate32(
            codes: &[u8],
            lut: &crate::kernels::Lut,
            factors: &crate::kernels::scans::Narrow<'_>,
            base: f32,
            out: &mut [f32; crate::kernels::BATCH],
        ) {
            let (scale, base) = (splat(factors.scale), splat(base));
            let (adds, rescales) = (factors.add.as_chunks().0, factors.rescale.as_chunks().0);
            for (i, (out, sum)) in out.as_chunks_mut().0.iter_mut().zip(values(codes, lut)).enumerate() {
                let inner = add(mul(load_f16(&rescales[i]), sum), load_f16(&adds[i]));
                store(out, add(mul(inner, scale), base));
            }
        }

        $(#[$features])?
        pub(in crate::kernels) fn estimate_wide32(
            codes: &[u8],
            lut: &crate::kernels::Lut,
            factors: &crate::kernels::scans::Wide,
            aim: crate::kernels::scans::Aim,
            out: &mut [f32; crate::kernels::BATCH],
        ) {
            let (base, weight) = (splat(aim.base), splat(aim.weight));
            let [adds, rescales] = [&factors.add, &factors.rescale].map(|f| f.as_chunks().0);
            for (i, (out, sum)) in out.as_chunks_mut().0.iter_mut().zip(values(codes, lut)).enumerate() {
                let fixed = add(mul(load(&adds[i]), weight), base);
                store(out, add(mul(load(&rescales[i]), sum), fixed));
            }
        }

        /// One bit an estimate: whether it is below `bound`.
        $(#[$features])?
        pub(in crate::kernels) fn near32(
            codes: &[u8],
            lut: &crate::kernels::Lut,
            factors: &crate::kernels::scans::Each,
            bases: &[f32; crate::kernels::BATCH],
            bound: f32,
            out: &mut [f32; crate::kernels::BATCH],
        ) -> u32 {
            let bound = splat(bound);
            let [adds, rescales, bases] = [&factors.add, &factors.rescale, bases].map(|f| f.as_chunks().0);
            let mut near = 0;
            for (i, (out, sum)) in out.as_chunks_mut().0.iter_mut().zip(values(codes, lut)).enumerate() {
                let estimate = add(mul(load(&rescales[i]), sum), add(load(&adds[i]), load(&bases[i])));
                store(out, estimate);
                near |= u32::from(below(estimate, bound)) << (16 * i);
            }
            near
        }

        /// One bit a value: whether it is not below `floor`.
        $(#[$features])?
        pub(in crate::kernels) fn at_least32(values: &[f32; crate::kernels::BATCH], floor: f32) -> u32 {
            let (halves, floor) = (values.as_chunks().0, splat(floor));
            let [low, high] = [&halves[0], &halves[1]].map(|half| !below(load(half), floor));
            u32::from(low) | u32::from(high) << 16
        }

        /// One bit a value: whether it is not below `floor` with `spread` times its error added.
        $(#[$features])?
        pub(in crate::kernels) fn within32(
            values: &[f32; crate::kernels::BATCH],
            errors: &[f32; crate::kernels::BATCH],
            spread: f32,
            floor: f32,
        ) -> u32 {
            let (values, errors) = (values.as_chunks().0, errors.as_chunks().0);
            let (spread, floor) = (splat(spread), splat(floor));
            let high_end = |i: usize| add(load(&values[i]), mul(load(&errors[i]), spread));
            let [low, high] = [0, 1].map(|i| !below(high_end(i), floor));
            u32::from(low) | u32::from(high) << 16
        }
    };
}
pub(super) use scans;
