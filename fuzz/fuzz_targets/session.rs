//! libFuzzer's entry to [`session::session`].
#![no_main]

#[path = "../session/mod.rs"]
mod session;

libfuzzer_sys::fuzz_target!(|input: &[u8]| session::session(input));
