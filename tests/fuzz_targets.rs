//! A short run of what `fuzz/` fuzzes, on random input from fixed seeds and on the committed corpus.

use std::path::PathBuf;

use cloud_relay::local::fuzzing::first_packet;
use cloud_relay::spool::storage;

#[path = "../src/spool/tests/model/mod.rs"]
#[expect(dead_code, reason = "the targets use its storage, not its faults")]
mod model;
#[path = "../fuzz/session/mod.rs"]
#[expect(
    clippy::indexing_slicing,
    reason = "a target that panics has found something"
)]
mod session;
#[path = "../fuzz/targets.rs"]
mod targets;

/// Inputs that each target gets: always the same.
const INPUTS: u64 = 300;

fn run(target: fn(&[u8]), mut input: impl FnMut(&mut fastrand::Rng) -> Vec<u8>) {
    for seed in 0..INPUTS {
        let mut rng = fastrand::Rng::with_seed(seed);
        target(&input(&mut rng));
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(directory).expect("the corpus is committed");
    let files = files.map(|file| file.expect("a listed file").path());
    let mut files: Vec<PathBuf> = files.collect();
    files.sort();
    let contents = files.iter().map(std::fs::read);
    contents
        .map(|content| content.expect("it can be read"))
        .collect()
}

/// An input of the corpus with a few bytes changed, or random bytes.
fn mutated(corpus: &[Vec<u8>], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut input = match rng.choice(corpus) {
        Some(input) if rng.u8(..4) > 0 => input.clone(),
        _ => {
            let len = rng.usize(..600);
            std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
        }
    };
    for _ in 0..rng.u8(..6) {
        let byte = rng.u8(..);
        if let Some(hit) = rng.choice(&mut input) {
            *hit = byte;
        }
    }
    input
}

#[test]
fn no_bytes_upset_the_record_decoder() {
    let corpus = corpus("record");
    assert!(!corpus.is_empty());
    for input in &corpus {
        targets::record(input);
    }
    run(targets::record, |rng| mutated(&corpus, rng));
}

#[test]
fn no_files_upset_recovery() {
    let corpus = corpus("recovery");
    assert!(!corpus.is_empty());
    for input in &corpus {
        targets::recovery(input);
    }
    run(targets::recovery, |rng| mutated(&corpus, rng));
}

#[test]
fn the_corpus_of_packets_is_of_sound_ones() {
    for input in corpus("packet") {
        let (version, mut rest) = input.split_first().expect("it says which version");
        while !rest.is_empty() {
            let found = first_packet(version % 2 == 1, rest).expect("a frame");
            let found = found.expect("a whole packet");
            assert!(found.is_sound, "{rest:x?}");
            rest = &rest[found.frame_bytes..];
        }
    }
}

#[test]
fn no_bytes_upset_the_packet_parser() {
    let corpus = corpus("packet");
    assert!(!corpus.is_empty());
    for input in &corpus {
        targets::packet(input);
    }
    run(targets::packet, |rng| mutated(&corpus, rng));
}

#[test]
fn no_script_upsets_the_sessions() {
    let corpus = corpus("session");
    assert!(!corpus.is_empty());
    for input in &corpus {
        session::session(input);
    }
    run(session::session, |rng| mutated(&corpus, rng));
}
