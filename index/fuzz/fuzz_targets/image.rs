//! Fuzzes the loader of segment files; what must hold is said in `src/image.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_index_fuzz::image::run(data));
