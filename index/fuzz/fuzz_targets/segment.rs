//! Fuzzes the files of segments; what must hold is said in `src/segment.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_index_fuzz::segment::run(data));
