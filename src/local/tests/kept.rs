//! What waits for the journal, and what it brings back.

use tokio::time::Instant;

use super::super::journal::{Image, Recorder};
use super::wire::{
    DISCONNECT, DUP, RETAIN, puback, pubcomp, publish, publish_with, pubrec, pubrel, subscribe,
    unsuback, unsubscribe,
};
use super::*;

/// A bench whose broker has taken over this image, and whose disk is played by the test.
fn bench_with(image: Image) -> (Bench, Recorder) {
    let (bench, recorder) = (Bench::new(), Recorder::on(false));
    let now = Instant::now();
    bench.shared.broker().restore(image, recorder.clone(), now);
    (bench, recorder)
}

/// The disk has everything so far.
fn sync(recorder: &Recorder) {
    recorder.keep(recorder.next());
}

/// Publishes to `a` at `QoS` 2, and waits until `keeper` has it under identifier 1. Returns the publisher.
async fn deliver_at_qos_2(
    bench: &Bench,
    recorder: &Recorder,
    keeper: &mut TestClient,
) -> TestClient {
    let mut client = bench.client("c").await;
    client.send(&publish("a", "x", 2, 1)).await;
    client.expect_nothing().await;
    sync(recorder);
    keeper.expect(&publish("a", "x", 2, 1)).await;
    client
}

/// A restart from what the disk has.
fn restarted(bench: &Bench) -> (Bench, Recorder) {
    let mut image = Image::default();
    for change in bench.shared.broker().snapshot() {
        image.apply(change);
    }
    bench_with(image)
}

#[tokio::test(start_paused = true)]
async fn what_concerns_a_persistent_session_is_acknowledged_when_the_journal_has_it() {
    let (bench, recorder) = bench_with(Image::default());
    let mut keeper = bench.connect(Connect::persistent("s")).await;
    keeper.send(&subscribe(9, &[("a", 1), (ROUTED, 1)])).await;
    keeper.expect_nothing().await;
    sync(&recorder);
    keeper.expect(&[0x90, 4, 0, 9, 1, 1]).await;
    keeper.send(&DISCONNECT).await;
    keeper.ended().await.unwrap();

    let mut client = bench.client("c").await;
    client.send(&publish("nobody/wants", "x", 1, 1)).await;
    client.expect(&puback(1)).await;
    client.send(&publish("a", "x", 1, 2)).await;
    client.send(&publish("a", "x", 2, 3)).await;
    client.expect_nothing().await;
    sync(&recorder);
    client.expect(&puback(2)).await;
    client.expect(&pubrec(3)).await;
    client.send(&pubrel(3)).await;
    client.expect(&pubcomp(3)).await;

    client.send(&publish(ROUTED, "x", 1, 4)).await;
    client.expect_nothing().await;
    sync(&recorder);
    client.expect_nothing().await;
    bench.spool.set_safe(1);
    client.expect(&puback(4)).await;
}

#[tokio::test(start_paused = true)]
async fn no_pubrel_overtakes_one_that_waits() {
    let (bench, recorder) = bench_with(Image::default());
    let mut keeper = bench.connect(Connect::persistent("s")).await;
    keeper.send(&subscribe(9, &[("a", 2)])).await;
    sync(&recorder);
    keeper.expect_nothing().await;
    sync(&recorder);
    keeper.expect(&[0x90, 3, 0, 9, 2]).await;
    let _publisher = deliver_at_qos_2(&bench, &recorder, &mut keeper).await;
    // Its PUBREL waits for the journal; that of the other waits for nothing.
    keeper.send(&publish(ROUTED, "x", 1, 1)).await;
    keeper.send(&[pubrec(1), pubrec(77)].concat()).await;
    sync(&recorder);
    keeper.expect_nothing().await;
    bench.spool.set_safe(1);
    keeper.expect(&puback(1)).await;
    keeper.expect_nothing().await;
    sync(&recorder);
    keeper.expect(&pubrel(1)).await;
    keeper.expect(&pubrel(77)).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_the_spool_holds_up_nothing_that_waits_for_the_journal() {
    let (bench, recorder) = bench_with(Image::default());
    let mut keeper = bench.connect(Connect::persistent("s")).await;
    keeper.send(&publish(ROUTED, "x", 1, 1)).await;
    keeper.send(&subscribe(9, &[("a", 2)])).await;
    keeper.expect_nothing().await;
    sync(&recorder);
    keeper.expect(&[0x90, 3, 0, 9, 2]).await;
    let _publisher = deliver_at_qos_2(&bench, &recorder, &mut keeper).await;
    keeper.send(&pubrec(1)).await;
    keeper.expect_nothing().await;
    sync(&recorder);
    keeper.expect(&pubrel(1)).await;
    keeper.send(&unsubscribe(10, &["a"])).await;
    keeper.expect_nothing().await;
    sync(&recorder);
    keeper.expect(&unsuback(10)).await;
    keeper.expect_nothing().await;
    bench.spool.set_safe(1);
    keeper.expect(&puback(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_retained_message_is_acknowledged_when_the_journal_has_it() {
    let (bench, recorder) = bench_with(Image::default());
    let mut client = bench.client("c").await;
    for (payload, qos, id) in [("on", 1, 1), ("off", 2, 2), ("", 1, 3)] {
        let retain = publish_with(RETAIN, "a", payload, qos, id);
        client.send(&retain).await;
        client.expect_nothing().await;
        sync(&recorder);
        client
            .expect(&if qos == 1 { puback(id) } else { pubrec(id) })
            .await;
    }
    // Who clears what is cleared, but not yet on disk, waits for that as well.
    client.send(&publish_with(RETAIN, "a", "on", 1, 6)).await;
    client.send(&publish_with(RETAIN, "a", "", 1, 7)).await;
    let mut other = bench.client("d").await;
    other.send(&publish_with(RETAIN, "a", "", 1, 1)).await;
    other.expect_nothing().await;
    sync(&recorder);
    other.expect(&puback(1)).await;
    client.expect(&puback(6)).await;
    client.expect(&puback(7)).await;
    // What changes nothing waits for nothing, and neither does what nobody is promised.
    let qos_0 = publish_with(RETAIN, "b", "x", 0, 0);
    for packet in [qos_0, publish_with(RETAIN, "a", "", 1, 4)] {
        client.send(&packet).await;
    }
    client.expect(&puback(4)).await;
    // With a route it waits for both.
    client.send(&publish_with(RETAIN, ROUTED, "x", 1, 5)).await;
    bench.spool.set_safe(1);
    client.expect_nothing().await;
    sync(&recorder);
    client.expect(&puback(5)).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_disk_fails_nothing_waits_for_the_journal() {
    let (bench, recorder) = bench_with(Image::default());
    let mut keeper = bench.connect(Connect::persistent("s")).await;
    keeper.send(&subscribe(9, &[("a", 1)])).await;
    keeper.expect_nothing().await;
    recorder.fail();
    keeper.expect(&[0x90, 3, 0, 9, 1]).await;
    let mut client = bench.client("c").await;
    client.send(&publish("a", "y", 1, 2)).await;
    client.expect(&puback(2)).await;
    keeper.expect(&publish("a", "y", 1, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_qos_2_message_for_local_clients_is_taken_once_over_a_restart() {
    let (bench, recorder) = bench_with(Image::default());
    let mut keeper = bench.connect(Connect::persistent("s")).await;
    keeper.send(&subscribe(9, &[("a", 1), (ROUTED, 1)])).await;
    keeper.expect_nothing().await;
    sync(&recorder);
    keeper.receive().await;
    keeper.send(&DISCONNECT).await;
    keeper.ended().await.unwrap();
    let mut client = bench.connect(Connect::persistent("c")).await;
    for (topic, id) in [("a", 1), (ROUTED, 2)] {
        client.send(&publish(topic, "x", 2, id)).await;
    }
    client.expect_nothing().await;
    client.ended().await.unwrap();

    let (bench, recorder) = restarted(&bench);
    let mut client = bench.connect(Connect::persistent("c")).await;
    for (topic, id) in [("a", 1), (ROUTED, 2)] {
        client.send(&publish_with(DUP, topic, "x", 2, id)).await;
    }
    client.expect(&pubrec(1)).await;
    assert_eq!(
        bench.spool.stored().len(),
        1,
        "the spool may have lost it: it is taken again"
    );
    bench.spool.set_safe(1);
    sync(&recorder);
    client.expect(&pubrec(2)).await;
    client.send(&pubrel(1)).await;
    client.expect_nothing().await;
    sync(&recorder);
    client.expect(&pubcomp(1)).await;
    let mut keeper = bench.connect(Connect::persistent("s")).await;
    // Or a kill in that moment would have them come again as if for the first time.
    keeper.expect_nothing().await;
    sync(&recorder);
    for (topic, id) in [("a", 1), (ROUTED, 2), (ROUTED, 3)] {
        keeper.expect(&publish(topic, "x", 1, id)).await;
    }
    keeper.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn who_ends_a_kept_session_is_let_in_when_the_journal_has_its_end() {
    let (bench, recorder) = bench_with(Image::default());
    for version in 4..=5 {
        let client = bench.connect(Connect::persistent("c")).await;
        client.ended().await.unwrap();
        sync(&recorder);
        let mut client = bench.open();
        // Or a kill in that moment would bring back the old one, and with it identifiers of QoS 2 that are taken: another
        // message under one of them would be acknowledged and not taken.
        let connect = match version {
            4 => Connect::clean("c").bytes(),
            _ => wire5::connect("c", false, &[], None),
        };
        client.send(&connect).await;
        client.send(&wire::PINGREQ).await;
        client.expect_nothing().await;
        sync(&recorder);
        let answer = client.receive().await;
        assert_eq!((answer[0], answer[3]), (0x20, 0), "{version}");
        client.expect(&wire::PINGRESP).await;
        client.ended().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn pubrel_waits_for_the_journal_however_often_it_is_asked_for() {
    let (bench, recorder) = bench_with(Image::default());
    let mut keeper = bench.connect(Connect::persistent("s")).await;
    keeper.send(&subscribe(9, &[("a", 2)])).await;
    let mut client = bench.client("c").await;
    client.send(&publish("a", "x", 2, 1)).await;
    client.expect_nothing().await;
    sync(&recorder);
    keeper.receive().await;
    keeper.expect(&publish("a", "x", 2, 1)).await;
    for _ in 0..2 {
        keeper.send(&pubrec(1)).await;
        keeper.expect_nothing().await;
    }
    keeper.ended().await.unwrap();
    // Or a restart would send the message again, to a client that has released its identifier.
    let mut keeper = bench.connect(Connect::persistent("s")).await;
    keeper.expect_nothing().await;
    sync(&recorder);
    keeper.expect(&pubrel(1)).await;
}

#[tokio::test(start_paused = true)]
async fn pubcomp_waits_for_the_journal_however_often_it_is_asked_for() {
    let (bench, recorder) = bench_with(Image::default());
    let mut client = bench.connect(Connect::persistent("c")).await;
    client.send(&publish("a", "x", 2, 1)).await;
    client.expect_nothing().await;
    sync(&recorder);
    client.expect(&pubrec(1)).await;
    for _ in 0..2 {
        client.send(&pubrel(1)).await;
        client.expect_nothing().await;
    }
    client.ended().await.unwrap();
    // Or a restart would take the next message under this identifier for a repetition.
    let mut client = bench.connect(Connect::persistent("c")).await;
    client.send(&pubrel(1)).await;
    client.expect_nothing().await;
    sync(&recorder);
    client.expect(&pubcomp(1)).await;
}
