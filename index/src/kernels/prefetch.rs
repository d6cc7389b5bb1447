//! Asking memory for what will be read soon.

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Asks for every cache line of `bytes`. Changes nothing but when they arrive.
#[inline]
pub(super) fn prefetch(bytes: &[u8]) {
    let start = bytes.as_ptr();
    for at in (0..bytes.len()).step_by(LINE_BYTES) {
        touch(start.wrapping_add(at));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn touch(line: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch of any address is without effect on what a program can see; SSE is part of x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn touch(_line: *const u8) {}
