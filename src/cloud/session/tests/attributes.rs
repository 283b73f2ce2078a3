//! Messages that say more of themselves than their payload: how they go out, and when they are not sent any more.

use bytes::Bytes;

use super::bed::{Bed, Does};
use super::*;
use crate::attributes::Attribute;
use crate::spool::ledger::DropReason;

const TIME: Duration = Duration::from_mins(2);
const NOT_AUTHORIZED: u8 = 0x87;

fn bytes(attributes: &[Attribute<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for attribute in attributes {
        attribute.append_to(&mut bytes);
    }
    bytes
}

fn append(store: &Store, attributes: &[u8], payload: &[u8]) {
    let message = Message {
        attributes,
        received: clock::now(),
        ..message(payload)
    };
    store.append(&message).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_with_attributes_goes_alone_and_keeps_its_place_among_packs() {
    let rules = "sensors => site/data {pack:json}";
    for version in [MqttVersion::V5, MqttVersion::V311] {
        let mut bed = Bed::of_rules(rules);
        bed.append(b"1");
        bed.append(b"2");
        let attributes = bytes(&[Attribute::UserProperty("a", "b")]);
        append(&bed.store, &attributes, b"3");
        bed.append(b"4");
        let accepted = bed.connection(version, TIME, |_| Does::Accept).await;
        assert_eq!(accepted, ["[1,2]", "3", "[4]"]);
        assert_eq!(bed.ledger(), (4, 0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_expires_while_the_cloud_refuses_it_in_both_versions() {
    for version in [MqttVersion::V5, MqttVersion::V311] {
        let mut bed = Bed::with(Routes::new("sensors", "site/data"));
        append(&bed.store, &bytes(&[Attribute::ExpiryS(30)]), b"soon old");
        append(&bed.store, &bytes(&[Attribute::ExpiryS(3_600)]), b"lasting");
        let refuse = |payload: &Bytes| {
            let refused = &payload[..] == b"soon old";
            match version {
                _ if !refused => Does::Accept,
                MqttVersion::V5 => Does::Refuse(NOT_AUTHORIZED),
                MqttVersion::V311 => Does::Close,
            }
        };
        for _ in 0..3 {
            bed.connection(version, TIME, refuse).await;
            sleep(Duration::from_secs(15)).await;
        }
        let ledger = bed.store.ledger();
        assert_eq!(bed.ledger(), (1, 0, 0), "{version}");
        assert_eq!(ledger.dropped_for(DropReason::Expired), 1);
        assert_eq!(ledger.accepted(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn when_those_expire_that_wait_here_those_have_their_turn_that_were_left_in_the_spool() {
    let mut bed = Bed::with(Routes::new("sensors", "site/data"));
    for _ in 0..150 {
        append(&bed.store, &bytes(&[Attribute::ExpiryS(60)]), b"old");
    }
    let refuse = |_: &Bytes| Does::Refuse(NOT_AUTHORIZED);
    bed.connection(MqttVersion::V5, Duration::from_mins(5), refuse)
        .await;
    let ledger = bed.store.ledger();
    assert_eq!(ledger.dropped_for(DropReason::Expired), 150, "{ledger:?}");
}

/// The properties of the first PUBLISH of MQTT 5 to a topic of nine bytes that has fewer than 128 of them.
async fn first_properties(running: &mut Running) -> Vec<u8> {
    let head = running.read(2 + 2 + 9 + 2 + 1).await;
    let len = *head.last().unwrap();
    running.read(len.into()).await
}

#[tokio::test(start_paused = true)]
async fn the_cloud_is_told_the_time_that_is_left_when_the_message_goes() {
    let mut running = Running::start_with(MqttVersion::V5, Terms::default(), 0, 0);
    let kept = Attribute::UserProperty("a", "b");
    append(
        &running.store,
        &bytes(&[kept, Attribute::ExpiryS(60)]),
        b"x",
    );
    let sent = first_properties(&mut running).await;
    assert_eq!(sent, bytes(&[kept, Attribute::ExpiryS(60)]));
    running.read(1).await;

    let start = Instant::now();
    let mut id = 1;
    let again = loop {
        let refusal = [0x40, 3, 0, id, 0x80];
        running.send(&refusal).await;
        id += 1;
        let again = first_properties(&mut running).await;
        running.read(1).await;
        if start.elapsed() > Duration::from_secs(5) {
            break again;
        }
    };
    let waited_s = u32::try_from(start.elapsed().as_secs()).unwrap();
    let left = |seconds| bytes(&[kept, Attribute::ExpiryS(seconds)]);
    let possible = [left(60 - waited_s), left(60 - waited_s - 1)];
    assert!(possible.contains(&again), "{again:?} after {waited_s} s");
}

#[tokio::test(start_paused = true)]
async fn attributes_count_in_the_packet_that_the_cloud_takes_and_only_where_they_are_sent() {
    let attributes = bytes(&[Attribute::ContentType(&"x".repeat(100))]);
    let terms = Terms {
        packet_bytes_max: Some(100),
        ..Terms::default()
    };
    for (version, dead_lettered) in [(MqttVersion::V5, 1), (MqttVersion::V311, 0)] {
        let mut running = Running::start_with(version, terms, 0, 0);
        append(&running.store, &attributes, b"x");
        append(&running.store, b"", b"y");
        let (id, len) = match version {
            MqttVersion::V5 => (1, publish5_len(1)),
            MqttVersion::V311 => (2, 2 * publish_len(1)),
        };
        let sent = running.read(len).await;
        assert_eq!(sent.last(), Some(&b'y'));
        for id in 1..=id {
            running.send(&[0x40, 2, 0, id]).await;
        }
        while running.store.ledger().spooled > 0 {
            sleep(Duration::from_millis(10)).await;
        }
        let ledger = running.store.ledger();
        assert_eq!(ledger.dead_lettered, dead_lettered, "{version}");
        assert_eq!(ledger.delivered, 2 - dead_lettered, "{version}");
    }
}

#[tokio::test(start_paused = true)]
async fn attributes_count_against_the_quota_of_bytes() {
    const ROUND: usize = 9 + 60_000 + 5 + 1;
    let mut running = Running::start_with(MqttVersion::V5, Terms::default(), 0, 0);
    let attributes = bytes(&[
        Attribute::CorrelationData(&vec![0; 60_000]),
        Attribute::PayloadFormat(1),
    ]);
    let count = 524_288 / ROUND + 1;
    for _ in 0..count {
        append(&running.store, &attributes, b"x");
    }
    let packet = 1 + 3 + 2 + 9 + 2 + 3 + attributes.len() + 1;
    running.read((count - 1) * packet).await;
    let mut byte = [0];
    let more = running.cloud.read(&mut byte);
    let more = tokio::time::timeout(Duration::from_secs(5), more).await;
    assert!(
        more.is_err(),
        "the quota is used up until something is acknowledged"
    );
}
