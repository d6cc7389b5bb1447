//! Fuzzes packed payload; what must hold is said in `src/payload.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_index_fuzz::payload::run(data));
