//! libFuzzer's entry to [`targets::record`].
#![no_main]

use cloud_relay::spool::storage;

#[path = "../../src/spool/tests/model/mod.rs"]
#[expect(dead_code, reason = "the targets use its storage, not its faults")]
mod model;
#[path = "../targets.rs"]
#[expect(dead_code, reason = "each program has one of the targets")]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::record(input));
