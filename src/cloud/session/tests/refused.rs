//! What becomes of messages that the cloud does not accept. The cloud answers as each test says; a session lives
//! through several connections.

use std::fs;
use std::path::PathBuf;

use bytes::{Buf, Bytes};
use tokio::io::duplex;
use tracing::Level;

use super::*;
use crate::clock::Timestamp;
use crate::cloud::pacing::Quota;
use crate::dead_letters::{Header, Letter, Reason, Shelf};
use crate::logging::capture::Captured;
use crate::routes::{Names, Rulebook};

const HOLD: Duration = Duration::from_mins(10);
const TOPIC: &str = "site/data";
const UNLIMITED: Quota = Quota {
    publishes_per_s: None,
    bytes_per_s: None,
};

/// What the cloud does with a PUBLISH.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    Accept,
    Refuse(u8),
    Close,
}
use Does::{Accept, Close, Refuse};

pub(super) struct Bed {
    pub(super) session: Session,
    pub(super) store: Store,
    directory: TempDir,
}

impl Bed {
    fn new(cloud_topic: &str) -> Self {
        Self::with(Routes::new("sensors", cloud_topic))
    }

    pub(super) fn with(routes: Routes) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&directory.path().join("spool"), Options::default()).unwrap();
        let source = Source {
            store: store.clone(),
            routes: Arc::new(routes),
            dead_letters: DeadLetters::new(directory.path().join("letters"), 1 << 30),
        };
        Bed {
            session: Session::new(source, UNLIMITED, HOLD, Aside::default()),
            store,
            directory,
        }
    }

    pub(super) fn append(&self, payload: &[u8]) -> Seq {
        self.store.append(&message(payload)).unwrap()
    }

    pub(super) fn append_to(&self, topic: &str, payload: &[u8]) -> Seq {
        let message = message(payload);
        self.store.append(&Message { topic, ..message }).unwrap()
    }

    /// One connection to a cloud that does with each payload what `does` says, and closes it after `time`. Returns
    /// what it accepted.
    pub(super) async fn connection(
        &mut self,
        version: MqttVersion,
        time: Duration,
        does: impl FnMut(&Bytes) -> Does,
    ) -> Vec<Bytes> {
        let (cloud, stream) = duplex(1024 * 1024);
        let connection = Connection {
            stream,
            version,
            terms: Terms::default(),
            received: BytesMut::new(),
            with_will: false,
        };
        let stop = CancellationToken::new();
        let cloud = serve(cloud, version, Instant::now() + time, does);
        let (ended, accepted) = tokio::join!(self.session.run(connection, &stop), cloud);
        assert!(matches!(ended, Ended::Lost { .. }), "{ended:?}");
        accepted
    }

    fn letters_path(&self) -> PathBuf {
        self.directory.path().join("letters")
    }

    pub(super) fn letters(&self) -> Vec<Header> {
        let reader = Shelf::new(&self.letters_path());
        let entries = reader.entries().unwrap();
        let opened = entries.iter().map(|entry| reader.read(entry).unwrap());
        opened.map(|opened| opened.unwrap().header).collect()
    }

    /// Delivered, dead-lettered, spooled.
    pub(super) fn ledger(&self) -> (u64, u64, u64) {
        let ledger = self.store.ledger();
        (ledger.delivered, ledger.dead_lettered, ledger.spooled)
    }
}

pub(super) fn message(payload: &[u8]) -> Message<'_> {
    Message {
        topic: "sensors",
        attributes: b"",
        payload,
        qos: 1,
        retain: false,
        received: Timestamp {
            unix_ms: 1_795_421_109_000,
            clock_set: true,
        },
    }
}

/// Answers publishes, each as `does` says, until `deadline`.
async fn serve(
    mut cloud: DuplexStream,
    version: MqttVersion,
    deadline: Instant,
    mut does: impl FnMut(&Bytes) -> Does,
) -> Vec<Bytes> {
    let mut accepted = Vec::new();
    let mut received = BytesMut::new();
    loop {
        while let Some(mut packet) = take_packet(&mut received) {
            if packet[0] == PINGREQ[0] {
                cloud.write_all(&PINGRESP).await.unwrap();
                continue;
            }
            let [id_high, id_low, payload] = parse(version, &mut packet);
            let what = does(&payload);
            match what {
                Close => return accepted,
                Accept => accepted.push(payload.clone()),
                Refuse(_) => {}
            }
            let puback = match what {
                Refuse(reason) => vec![0x40, 3, id_high[0], id_low[0], reason],
                _ => vec![0x40, 2, id_high[0], id_low[0]],
            };
            cloud.write_all(&puback).await.unwrap();
        }
        let read = cloud.read_buf(&mut received);
        match tokio::time::timeout_at(deadline, read).await {
            Ok(read) => assert!(read.unwrap() > 0, "the session is gone"),
            Err(_) => return accepted,
        }
    }
}

/// The next whole packet, if there is one.
pub(super) fn take_packet(received: &mut BytesMut) -> Option<Bytes> {
    let mut len = 0;
    for (index, byte) in received.iter().skip(1).take(4).enumerate() {
        len |= usize::from(byte & 127) << (7 * index);
        if byte & 128 == 0 {
            let whole = 2 + index + len;
            return (received.len() >= whole).then(|| received.split_to(whole).freeze());
        }
    }
    None
}

/// The two bytes of a PUBLISH's identifier, and its payload.
pub(super) fn parse(version: MqttVersion, packet: &mut Bytes) -> [Bytes; 3] {
    let length_bytes = packet.iter().skip(1).position(|byte| byte & 128 == 0);
    packet.advance(2 + length_bytes.unwrap());
    let topic_len = packet.get_u16();
    packet.advance(usize::from(topic_len));
    let id = [packet.split_to(1), packet.split_to(1)];
    if version == MqttVersion::V5 {
        let properties_len = packet.get_u8();
        packet.advance(properties_len.into());
    }
    let [high, low] = id;
    [high, low, packet.clone()]
}

const VERSIONS: [MqttVersion; 2] = [MqttVersion::V5, MqttVersion::V311];
const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(start_paused = true)]
async fn what_the_rules_forbid_is_not_sent_but_kept_with_the_reason_and_the_others_flow() {
    for version in VERSIONS {
        let mut bed = Bed::new(TOPIC);
        bed.append(b"one");
        bed.append(&vec![b'x'; 204_800]);
        bed.append(b"two");
        let accepted = bed.connection(version, MINUTE, |_| Accept).await;
        assert_eq!(accepted, ["one", "two"]);
        assert_eq!(bed.ledger(), (2, 1, 0));
        let letters = bed.letters();
        assert_eq!((letters.len(), letters[0].seq), (1, 2));
        assert_eq!(
            letters[0].reason,
            "payload of 204800 bytes: AWS IoT Core takes at most 131072"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_cloud_topic_with_too_many_slashes_is_never_tried() {
    for version in VERSIONS {
        let mut bed = Bed::new("0/1/2/3/4/5/6/7/8/9");
        bed.append(b"one");
        let accepted = bed.connection(version, MINUTE, |_| Accept).await;
        assert_eq!(accepted.len(), 0);
        assert_eq!(bed.ledger(), (0, 1, 0));
        assert!(bed.letters()[0].reason.contains("topic has 9 slashes"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_cloud_refuses_for_good_is_a_dead_letter_at_once() {
    for reason in [0x90, 0x99] {
        let mut bed = Bed::new(TOPIC);
        bed.append(b"bad");
        bed.append(b"good");
        let does = |payload: &Bytes| match payload.as_ref() {
            b"bad" => Refuse(reason),
            _ => Accept,
        };
        bed.connection(MqttVersion::V5, MINUTE, does).await;
        assert_eq!(bed.ledger(), (1, 1, 0));
        let letter = &bed.letters()[0];
        let said = format!("({reason:#x})");
        assert!(letter.reason.contains(&said), "{letter:?}");
        assert_eq!(
            (letter.why.as_str(), letter.cloud_topic.as_str()),
            ("refused", TOPIC)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_denied_message_is_held_for_its_time_and_is_a_dead_letter_then_if_others_are_accepted() {
    let mut bed = Bed::new(TOPIC);
    bed.append(b"bad");
    let store = bed.store.clone();
    let later = async {
        sleep(HOLD / 2).await;
        let before = store.ledger();
        store.append(&message(b"good")).unwrap();
        before
    };
    let does = |payload: &Bytes| match payload.as_ref() {
        b"bad" => Refuse(0x87),
        _ => Accept,
    };
    let connection = bed.connection(MqttVersion::V5, HOLD + 2 * MINUTE, does);
    let (before, accepted) = tokio::join!(later, connection);
    assert_eq!((before.spooled, before.dead_lettered), (1, 0));
    assert_eq!(accepted, ["good"]);
    assert_eq!(bed.ledger(), (1, 1, 0));
    let letter = &bed.letters()[0];
    assert_eq!(letter.why, "denied");
    assert!(
        letter.reason.contains("iot:Publish to \"site/data\""),
        "{letter:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn while_everything_is_refused_nothing_is_convicted_and_then_everything_arrives_once() {
    const COUNT: usize = 1_000;
    for reason in [0x87, 0x80, 0x97] {
        let (log, _guard) = Captured::start(Level::WARN);
        let mut bed = Bed::new(TOPIC);
        for number in 0..COUNT {
            bed.append(number.to_string().as_bytes());
        }
        let repaired = Instant::now() + 30 * HOLD;
        let does = move |_: &Bytes| {
            if Instant::now() < repaired {
                Refuse(reason)
            } else {
                Accept
            }
        };
        let accepted = bed.connection(MqttVersion::V5, 31 * HOLD, does).await;
        let mut numbers: Vec<usize> = (accepted.iter())
            .map(|payload| std::str::from_utf8(payload).unwrap().parse().unwrap())
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>(), "{reason:#x}");
        assert_eq!(bed.ledger(), (1_000, 0, 0));
        let text = log.text();
        let told = text.matches("the cloud denies everything").count();
        assert_eq!(told, usize::from(reason == 0x87), "{text}");
    }
}

fn routes(rules: &str) -> Routes {
    Routes::parse(rules, None, Names::default(), Rulebook::Aws).unwrap()
}

#[tokio::test(start_paused = true)]
async fn however_many_messages_of_one_topic_are_held_another_that_was_denied_is_tried_again() {
    let mut bed = Bed::with(routes("x => site/x, y => site/y"));
    for _ in 0..150 {
        bed.append_to("x", b"x");
    }
    for _ in 0..10 {
        bed.append_to("y", b"y");
    }
    let repaired = Instant::now() + MINUTE;
    let does = move |payload: &Bytes| match payload.as_ref() {
        b"y" if Instant::now() > repaired => Accept,
        _ => Refuse(0x87),
    };
    let accepted = bed.connection(MqttVersion::V5, 4 * MINUTE, does).await;
    assert_eq!(accepted, ["y"; 10]);
    assert_eq!(bed.ledger(), (10, 0, 150));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_messages_that_are_refused_without_a_reason_do_not_stop_the_others() {
    for rules in ["bad => site/bad, sensors => site/data", "# => site/data"] {
        let mut bed = Bed::with(routes(rules));
        for _ in 0..250 {
            bed.append_to("bad", b"bad");
        }
        for _ in 0..250 {
            bed.append(b"good");
        }
        let store = bed.store.clone();
        let later = async {
            sleep(HOLD / 2).await;
            let before = store.ledger();
            store.append(&message(b"good")).unwrap();
            before
        };
        let does = |payload: &Bytes| match payload.as_ref() {
            b"bad" => Refuse(0x80),
            _ => Accept,
        };
        let connection = bed.connection(MqttVersion::V5, HOLD + 5 * MINUTE, does);
        let (before, accepted) = tokio::join!(later, connection);
        assert_eq!(
            (before.delivered, before.dead_lettered, before.spooled),
            (250, 0, 250),
            "{rules}"
        );
        assert_eq!(accepted, ["good"; 251]);
        let (_, letters, _) = bed.ledger();
        assert!(letters >= 100, "{letters}");
        assert_eq!(bed.letters()[0].why, "refused");
    }
}

#[tokio::test(start_paused = true)]
async fn when_those_that_are_held_are_convicted_for_another_reason_the_others_have_their_turn() {
    let mut bed = Bed::new(TOPIC);
    for _ in 0..150 {
        bed.append(b"bad");
    }
    let start = Instant::now();
    let does = |_: &Bytes| Refuse(if start.elapsed() < MINUTE { 0x87 } else { 0x99 });
    bed.connection(MqttVersion::V5, 4 * MINUTE, does).await;
    assert_eq!(bed.ledger(), (0, 150, 0));
}

#[tokio::test(start_paused = true)]
async fn only_who_holds_a_connection_up_is_convicted_before_his_time() {
    const AHEAD_MAX: u64 = 1_000;
    let rules = "denied => site/denied, late => site/late, sensors => site/data";
    let mut bed = Bed::with(routes(rules));
    bed.session.ahead_of_held_max = AHEAD_MAX;
    let first = [
        bed.append_to("sensors", b"refused"),
        bed.append_to("denied", b"denied"),
    ];
    for _ in 0..AHEAD_MAX / 2 {
        bed.append(b"good");
    }
    let after = [
        bed.append_to("late", b"denied"),
        bed.append_to("sensors", b"refused"),
    ];
    bed.append_to("sensors", b"too fast");
    let store = bed.store.clone();
    let later = async {
        sleep(MINUTE).await;
        let before = store.ledger();
        for _ in 0..AHEAD_MAX / 2 + 10 {
            store.append(&message(b"good")).unwrap();
        }
        before
    };
    let mut too_fast = 0;
    let does = |payload: &Bytes| match payload.as_ref() {
        b"denied" => Refuse(0x87),
        b"refused" => Refuse(0x80),
        b"too fast" if too_fast < 3 => {
            too_fast += 1;
            Refuse(0x97)
        }
        _ => Accept,
    };
    let connection = bed.connection(MqttVersion::V5, 3 * MINUTE, does);
    let (before, accepted) = tokio::join!(later, connection);
    assert_eq!(before.dead_lettered, 0);
    assert_eq!(accepted.len() as u64, AHEAD_MAX + 11);
    let convicted: Vec<Seq> = bed.letters().iter().map(|letter| letter.seq).collect();
    assert_eq!(convicted, first, "and not {after:?}");
    assert_eq!(bed.ledger().2, 2);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_ends_connections_is_convicted_while_others_are_accepted() {
    for version in VERSIONS {
        let mut bed = Bed::new(TOPIC);
        for payload in ["one", "bad", "two", "three"] {
            bed.append(payload.as_bytes());
        }
        let mut accepted = Vec::new();
        for _ in 0..7 {
            let does = |payload: &Bytes| match payload.as_ref() {
                b"bad" => Close,
                _ => Accept,
            };
            accepted.extend(bed.connection(version, MINUTE, does).await);
        }
        assert_eq!(accepted, ["one", "two", "three"]);
        assert_eq!(bed.ledger(), (3, 1, 0));
        assert_eq!(bed.letters()[0].why, "ends-connections");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cloud_that_closes_on_every_message_convicts_none() {
    let mut bed = Bed::new(TOPIC);
    for payload in ["one", "two", "three"] {
        bed.append(payload.as_bytes());
    }
    for _ in 0..50 {
        bed.connection(MqttVersion::V311, MINUTE, |_| Close).await;
    }
    assert_eq!(bed.ledger(), (0, 0, 3));
    let time = 3 * MINUTE;
    let accepted = bed.connection(MqttVersion::V311, time, |_| Accept).await;
    assert_eq!((accepted.len(), bed.ledger()), (3, (3, 0, 0)));
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_between_letter_and_settlement_there_is_one_letter_counted_once() {
    let mut bed = Bed::new(TOPIC);
    let payload = vec![b'x'; 204_800];
    let seq = bed.append(&payload);
    let reason = Reason {
        why: "too-large",
        words: "before the crash".to_owned(),
    };
    let letter = Letter::new(seq, &message(&payload), TOPIC, reason, clock::now());
    DeadLetters::new(bed.letters_path(), 1 << 30)
        .put(&[letter])
        .unwrap();
    assert_eq!((bed.ledger(), bed.letters().len()), ((0, 0, 1), 1));
    bed.connection(MqttVersion::V5, MINUTE, |_| Accept).await;
    assert_eq!((bed.ledger(), bed.letters().len()), ((0, 1, 0), 1));
}

#[tokio::test(start_paused = true)]
async fn while_the_disk_refuses_dead_letters_others_flow_and_later_they_are_written() {
    let mut bed = Bed::new(TOPIC);
    fs::write(bed.letters_path(), b"in the way").unwrap();
    bed.append(&vec![b'x'; 204_800]);
    bed.append(b"good");
    let accepted = bed.connection(MqttVersion::V5, MINUTE, |_| Accept).await;
    assert_eq!(accepted, ["good"]);
    assert_eq!(bed.ledger(), (1, 0, 1));
    fs::remove_file(bed.letters_path()).unwrap();
    bed.connection(MqttVersion::V5, 3 * MINUTE, |_| Accept)
        .await;
    assert_eq!(bed.ledger(), (1, 1, 0));
    assert_eq!(bed.letters().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_poison_does_not_stop_the_others() {
    const COUNT: u64 = 1_500;
    let mut bed = Bed::new(TOPIC);
    for number in 0..COUNT {
        bed.append(format!("bad {number}").as_bytes());
        bed.append(format!("good {number}").as_bytes());
    }
    let does = |payload: &Bytes| {
        if payload.starts_with(b"bad") {
            Refuse(0x90)
        } else {
            Accept
        }
    };
    let accepted = bed.connection(MqttVersion::V5, MINUTE, does).await;
    assert_eq!(accepted.len() as u64, COUNT);
    assert_eq!(bed.ledger(), (COUNT, COUNT, 0));
    assert_eq!(bed.letters().len() as u64, COUNT);
}
