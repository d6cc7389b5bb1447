//! Fuzzes the delta; what must hold is said in `src/delta.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_index_fuzz::delta::run(data));
