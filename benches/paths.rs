//! Micro-benchmarks of what every message passes: packet, route, spool, window. In memory where that can be; the
//! spool's disk is the one of `CARGO_TARGET_TMPDIR`.
//!
//! ```text
//! cargo bench --bench paths -- [NAME]
//! ```

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use cloud_relay::clock::Timestamp;
use cloud_relay::cloud::window::{IN_FLIGHT_MAX, Window};
use cloud_relay::local::fuzzing::first_packet;
use cloud_relay::routes::{Names, Routes, Rulebook};
use cloud_relay::spool::ledger::Outcome;
use cloud_relay::spool::record::{self, Decoded};
use cloud_relay::spool::storage::Directory;
use cloud_relay::spool::{Message, Options, Progress, Read, Seq, Spool};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tokio::time::Instant;

const TOPIC: &str = "sensors/livingroom/temperature";
const PAYLOAD: [u8; 256] = [b'x'; 256];
/// Messages a round, where one alone would be too short or would need a sync.
const ROUND: u64 = 1_000;
/// Read at once, as the egress does.
const READ_MAX: usize = 100;
const READ_BYTES_MAX: usize = 64 * 1024;

fn message() -> Message<'static> {
    Message {
        topic: TOPIC,
        attributes: b"",
        payload: &PAYLOAD,
        qos: 1,
        retain: false,
        received: Timestamp {
            unix_ms: 1_700_000_000_000,
            clock_set: true,
        },
    }
}

/// A PUBLISH at `QoS` 1 with these properties, which are bytes in MQTT 5 and nothing in 3.1.1.
fn publish(properties: &[u8]) -> Vec<u8> {
    let remaining = 2 + TOPIC.len() + 2 + properties.len() + PAYLOAD.len();
    let (low, high) = (remaining % 128, remaining / 128);
    let byte = |number: usize| u8::try_from(number).expect("it is small");
    let mut packet = vec![0x32, byte(low) | 0x80, byte(high), 0, byte(TOPIC.len())];
    packet.extend(TOPIC.as_bytes());
    packet.extend([0, 7]);
    packet.extend(properties);
    packet.extend(PAYLOAD);
    packet
}

fn packets(criterion: &mut Criterion) {
    // content type "json" and the user property "site" = "7"
    let properties = b"\x11\x03\x00\x04json\x26\x00\x04site\x00\x017".as_slice();
    let packets = [
        ("packet/publish v4", false, publish(&[])),
        ("packet/publish v5, no properties", true, publish(&[0])),
        (
            "packet/publish v5, two properties",
            true,
            publish(properties),
        ),
    ];
    for (name, is_v5, packet) in packets {
        let found = first_packet(is_v5, &packet).expect("a frame");
        assert!(found.is_some_and(|found| found.is_sound), "{name}");
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| first_packet(is_v5, black_box(&packet)));
        });
    }
}

fn routes(criterion: &mut Criterion) {
    let names = Names {
        uuid: Some("0123456789abcdef"),
        service: None,
        app: None,
    };
    let parse = |rules: &str| Routes::parse(rules, None, names, Rulebook::Aws).expect("sound");
    let miss: Vec<String> = (0..20)
        .map(|n| format!("other/{n}/+/x => cloud/{n}"))
        .collect();
    let tables = [
        ("route/one topic", parse(&format!("{TOPIC} => cloud"))),
        (
            "route/wildcard and template",
            parse("sensors/# => dt/{uuid}/{topic}"),
        ),
        (
            "route/the last of 21",
            parse(&[&miss.join(","), ",sensors/# => cloud"].concat()),
        ),
    ];
    for (name, routes) in tables {
        assert!(routes.has_route(TOPIC), "{name}");
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| routes.target(black_box(TOPIC)).map(|target| target.len()));
        });
    }
}

fn records(criterion: &mut Criterion) {
    criterion.bench_function("record/encode", |bencher| {
        bencher.iter(|| record::encode(black_box(7), &message(), None));
    });
    let frame = record::encode(7, &message(), None).expect("it is small");
    criterion.bench_function("record/decode", |bencher| {
        bencher.iter(|| matches!(record::decode(black_box(&frame)), Decoded::Record { .. }));
    });
}

fn spool_in(directory: &Path, on_progress: impl Fn(Progress) + Send + Sync + 'static) -> Spool {
    let storage = Directory::open(directory).expect("a directory");
    let opened = Spool::open(Arc::new(storage), Options::default(), on_progress);
    opened.expect("a spool").0
}

fn append_round(spool: &Spool) -> Seq {
    let appended = (0..ROUND).map(|_| spool.append(&message()).expect("there is room"));
    appended.last().expect("a round has messages")
}

/// Reads all there is, from memory or from disk, and settles it.
fn drain(spool: &Spool) {
    loop {
        let deliveries = match spool.read(READ_MAX, READ_BYTES_MAX) {
            Read::Deliveries(deliveries) => deliveries,
            Read::OnDisk(ticket) => spool.read_disk(ticket).expect("the disk is sound"),
            Read::Empty => return,
        };
        let seqs: Vec<Seq> = deliveries.iter().map(|delivery| delivery.seq).collect();
        black_box(deliveries);
        spool.settle(&seqs, Outcome::Delivered);
    }
}

fn spools(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("spool");
    group.throughput(Throughput::Elements(ROUND));
    let parent = env!("CARGO_TARGET_TMPDIR");
    let directory = || tempfile::tempdir_in(parent).expect("a directory");
    let nobody = |_| {};

    let place = directory();
    let spool = spool_in(place.path(), nobody);
    // as while the cloud keeps up: what is settled soon is not written
    spool.set_linked(true);
    group.bench_function("append, read from memory, settle", |bencher| {
        bencher.iter(|| {
            append_round(&spool);
            drain(&spool);
        });
    });
    spool.close().expect("the disk is sound");

    let place = directory();
    let (sender, progress) = channel();
    let spool = spool_in(place.path(), move |progress| {
        // nobody listens any more at the end
        sender.send(progress.safe).ok();
    });
    group.bench_function("append, write, sync", |bencher| {
        bencher.iter(|| {
            let last = append_round(&spool);
            let safe = progress.iter().find(|safe| *safe > last);
            safe.expect("it is told");
            drain(&spool);
        });
    });
    spool.close().expect("the disk is sound");

    group.bench_function("read from disk, settle", |bencher| {
        let full = || {
            let place = directory();
            let spool = spool_in(place.path(), nobody);
            append_round(&spool);
            spool.close().expect("the disk is sound");
            // it holds the directory as long as it lives
            drop(spool);
            (spool_in(place.path(), nobody), place)
        };
        bencher.iter_batched(
            full,
            |(spool, place)| {
                drain(&spool);
                (spool, place)
            },
            BatchSize::PerIteration,
        );
    });
}

fn windows(criterion: &mut Criterion) {
    let now = Instant::now();
    let mut window = Window::new(IN_FLIGHT_MAX);
    criterion.bench_function("window/open and acknowledge 100", |bencher| {
        bencher.iter(|| {
            let opened: Vec<u16> = (0..100_u64).map(|seq| window.open(seq, 256, now)).collect();
            for packet_id in opened {
                black_box(window.acknowledge(packet_id, now));
            }
        });
    });
}

criterion_group!(paths, packets, routes, records, spools, windows);
criterion_main!(paths);
