#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qemu_tests::fuzz::run("layer", bytes));
