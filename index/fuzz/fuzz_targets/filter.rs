//! Fuzzes compiled filters; what must hold is said in `src/filter.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_index_fuzz::filter::run(data));
