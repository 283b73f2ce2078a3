//! Statements of MQTT 5 that no other test happens to prove; `tests/conformance/` says which.

use super::wire::{
    DUP, RETAIN, puback, pubcomp, publish as publish4, pubrec, pubrel, subscribe as subscribe4,
};
use super::wire5::{
    because, connect, publish, publish_with, receive_maximum, session_expiry, subscription_id,
};
use super::*;

#[tokio::test(start_paused = true)]
async fn while_a_client_has_all_it_takes_everything_but_messages_goes_on() {
    let bench = Bench::new();
    let takes_one = connect("s", true, &receive_maximum(1), None);
    let mut subscriber = bench.connect5(&takes_one).await.0;
    subscriber.subscribe5(&[], "a", 2).await;
    let mut client = bench.client5("c").await;
    for id in 1..=2 {
        client.send(&publish((2, id), "a", &[], "x")).await;
        client.expect(&pubrec(id)).await;
    }
    subscriber.expect(&publish((2, 1), "a", &[], "x")).await;
    subscriber.ping().await;
    subscriber.subscribe5(&[], "b", 0).await;
    subscriber.send(&publish((1, 7), "c", &[], "x")).await;
    subscriber.expect(&because(0x40, 7, 0x10)).await;
    subscriber.send(&publish((2, 8), "c", &[], "x")).await;
    subscriber.expect(&because(0x50, 8, 0x10)).await;
    subscriber.send(&pubrel(8)).await;
    subscriber.expect(&pubcomp(8)).await;
    // A PUBREC brings its PUBREL, and no message before its PUBCOMP.
    subscriber.send(&pubrec(1)).await;
    subscriber.expect(&pubrel(1)).await;
    subscriber.expect_nothing().await;
    subscriber.send(&pubcomp(1)).await;
    subscriber.expect(&publish((2, 2), "a", &[], "x")).await;
}

#[tokio::test(start_paused = true)]
async fn copies_for_a_group_and_for_the_client_itself_carry_the_identifier_of_their_own() {
    let bench = Bench::new();
    let mut reader = bench.client5("r").await;
    let (one, two) = (subscription_id(1), subscription_id(2));
    reader.subscribe5(&one, "a", 0).await;
    reader.subscribe5(&two, "$share/g/a", 0).await;
    let mut client = bench.client5("c").await;
    client.send(&publish((0, 0), "a", &[], "x")).await;
    let mut copies = [reader.receive().await, reader.receive().await];
    copies.sort();
    let expected = [&one, &two].map(|id| publish((0, 0), "a", id, "x"));
    assert_eq!(copies, expected);
    reader.expect_nothing().await;
}

/// Two members of a group, both with a session that stays, the one whose turn it is first.
async fn group(bench: &Bench) -> [TestClient; 2] {
    let mut members = Vec::new();
    for id in ["one", "two"] {
        let keep = connect(id, false, &session_expiry(100), None);
        let mut member = bench.connect5(&keep).await.0;
        member.subscribe5(&[], "$share/g/a", 2).await;
        members.push(member);
    }
    members.try_into().map_err(drop).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_one_of_a_group_was_sent_is_finished_with_it_when_it_comes_back() {
    let bench = Bench::new();
    let [mut one, mut two] = group(&bench).await;
    let mut client = bench.client5("c").await;
    client.send(&publish((2, 1), "a", &[], "x")).await;
    client.expect(&pubrec(1)).await;
    one.expect(&publish((2, 1), "a", &[], "x")).await;
    one.ended().await.unwrap();
    two.expect_nothing().await;
    let keep = connect("one", false, &session_expiry(100), None);
    let mut one = bench.connect5(&keep).await.0;
    one.expect(&publish_with(DUP, (2, 1), "a", &[], "x")).await;
    one.send(&pubrec(1)).await;
    one.expect(&pubrel(1)).await;
    one.ended().await.unwrap();
    let mut one = bench.connect5(&keep).await.0;
    one.expect(&pubrel(1)).await;
    one.send(&pubcomp(1)).await;
    one.ping().await;
    two.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn what_one_of_a_group_was_sent_goes_to_no_other_when_it_refuses_or_its_session_ends() {
    let bench = Bench::new();
    let [mut one, mut two] = group(&bench).await;
    let mut client = bench.client5("c").await;
    for (qos, refusal) in [(1, 0x40), (2, 0x50)] {
        client.send(&publish((qos, 1), "a", &[], "first")).await;
        client.receive().await;
        let sent = one.receive().await;
        assert_eq!(sent[0], 0x30 | qos << 1);
        one.send(&because(refusal, qos.into(), 0x80)).await;
        two.expect_nothing().await;
        client.send(&publish((0, 0), "a", &[], "turn")).await;
        two.expect(&publish((0, 0), "a", &[], "turn")).await;
        client.send(&pubrel(1)).await;
        client.receive().await;
    }
    client.send(&publish((2, 3), "a", &[], "lost")).await;
    one.expect(&publish((2, 3), "a", &[], "lost")).await;
    one.ended().await.unwrap();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(51)).await;
        two.ping().await; // its keep alive is a minute
    }
    let keep = connect("one", false, &session_expiry(100), None);
    let (mut one, connack) = bench.connect5(&keep).await;
    assert_eq!(connack[2], 0);
    one.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn overlapping_subscriptions_deliver_once_at_the_highest_qos() {
    let bench = Bench::new();
    let mut five = bench.client5("five").await;
    let filters = [("a/b", 0), ("a/#", 2), ("+/b", 1)];
    five.send(&wire5::subscribe(1, &[], &filters)).await;
    five.expect(&wire5::suback(1, &[0, 2, 1])).await;
    let mut four = bench.client("four").await;
    four.send(&subscribe4(1, &filters)).await;
    four.expect(&[0x90, 5, 0, 1, 0, 2, 1]).await;
    let mut low = bench.client("low").await;
    let filters = [("a/b", 0), ("a/#", 1), ("+/b", 0)];
    low.send(&subscribe4(1, &filters)).await;
    low.expect(&[0x90, 5, 0, 1, 0, 1, 0]).await;
    let mut client = bench.client5("c").await;
    client
        .send(&publish_with(RETAIN, (2, 1), "a/b", &[], "x"))
        .await;
    client.expect(&pubrec(1)).await;
    five.expect(&publish((2, 1), "a/b", &[], "x")).await;
    four.expect(&publish4("a/b", "x", 2, 1)).await;
    low.expect(&publish4("a/b", "x", 1, 1)).await;
    client.send(&publish((1, 2), "a/b", &[], "x")).await;
    client.expect(&puback(2)).await;
    five.expect(&publish((1, 2), "a/b", &[], "x")).await;
    four.expect(&publish4("a/b", "x", 1, 2)).await;
    low.expect(&publish4("a/b", "x", 1, 2)).await;
    for mut subscriber in [five, four, low] {
        subscriber.expect_nothing().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_within_its_receive_maximum_is_told_the_true_reason_when_memory_is_short() {
    let bench = Bench::with(Limits {
        messages_bytes_max: 0,
        session_bytes_sure: 100,
        ..Limits::default()
    });
    let mut client = bench.client5("c").await;
    for id in 1..=2 {
        client.send(&publish((2, id), "a", &[], "x")).await;
        client.expect(&because(0x50, id, 0x10)).await;
    }
    client.send(&publish((2, 3), "a", &[], "x")).await;
    client.expect(&wire5::disconnected(0x97)).await;
    client.expect_closed().await;
}
