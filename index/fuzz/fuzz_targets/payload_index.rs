//! Fuzzes the payload index; what must hold is said in `src/payload_index.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_index_fuzz::payload_index::run(data));
