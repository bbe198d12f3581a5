#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rr::fuzz::index(bytes));
